"""Each strategy trains what it should, from where it should; killed at any moment, the same numbers come out."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from drawn import encode, photo
from regraft.errors import UsageError
from regraft.fit.fine_tune import activation_bytes, fine_tune
from regraft.fit.inputs import Images
from regraft.fit.strategies import Facts, settings_for
from regraft.images import Transform
from regraft.models.freezing import is_norm
from regraft.progress import Listener

torch.set_num_threads(1)

SIZE, NUM_CLASSES = 32, 3
TRANSFORM = Transform(size=SIZE, policy="squash")
FILES = [encode(photo(seed, size=(36, 36), kind=seed % NUM_CLASSES)) for seed in range(36)]
LABELS = np.arange(36) % NUM_CLASSES
TRAIN = Images(read=lambda item: FILES[item], labels=LABELS[:24])
VAL = Images(read=lambda item: FILES[24 + item], labels=LABELS[24:])


class Net(nn.Module):
    """Three stages with batch norms, 12 features."""

    num_features = 12

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU())

    def forward(self, x):
        return self.last(self.middle(self.stem(x))).mean((2, 3))


def head():
    rng = np.random.default_rng(1)
    return rng.normal(size=(NUM_CLASSES, 12)).astype(np.float32) * 0.1, np.zeros(NUM_CLASSES, np.float32)


def recipe(strategy: str, *, has_validation: bool = True, **asked):
    kept = activation_bytes(Net().eval(), SIZE) if strategy == "light" else None
    facts = Facts(
        num_images=24, num_classes=NUM_CLASSES, image_size=SIZE, device="cpu", activation_bytes=kept,
        has_validation=has_validation,
    )  # fmt: skip
    return settings_for(strategy, facts, {"epochs": 2, "batch_size": 6, **asked})


def tune(strategy: str, net: nn.Module | None = None, val: Images | None = VAL, **options):
    asked = {name: options.pop(name) for name in list(options) if name in recipe("full")}
    solved = head() if strategy in ("light", "lp_ft") else None
    return fine_tune(
        net or Net(), recipe(strategy, has_validation=val is not None, **asked), TRAIN, val, num_classes=NUM_CLASSES,
        transform=TRANSFORM, head=solved, metric="accuracy", **options,
    )  # fmt: skip


def changed(before: dict, after: nn.Module) -> set[str]:
    return {name for name, p in after.named_parameters() if not torch.equal(before[name], p)}


@pytest.mark.parametrize(("strategy", "views"), [("light", 2), ("light", 0), ("lp_ft", 0), ("full", 0), ("scratch", 0)])
def test_a_strategy_changes_what_it_says_and_nothing_else(strategy, views):
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    tuned = tune(strategy, net, cached_views=views, averaging=False)
    trained = changed(before, net)
    front = {n for n in before if n.startswith(("stem", "middle")) and not n.endswith("num_batches_tracked")}
    norms = {f"{n}.{p}" for n, m in net.named_modules() if is_norm(m) for p in ("weight", "bias")}
    learnable = {name for name, _ in net.named_parameters()}
    if strategy == "light" and views:
        assert trained == learnable - front
    elif strategy == "light":
        assert trained == {n for n in learnable if n not in front or n in norms or n.endswith("bias")}
    else:
        assert trained == learnable
    moved = {n for n, value in net.state_dict().items() if "running" in n and not torch.equal(before[n], value)}
    assert bool(moved) == (strategy in ("full", "scratch"))
    assert len(tuned.history.rows) == 2
    assert tuned.val_logits.shape == (12, NUM_CLASSES)
    assert not any(p.requires_grad for p in tuned.classifier.parameters())
    assert not tuned.classifier.training


def test_lp_ft_begins_with_the_solved_head():
    tuned = tune("lp_ft", lr=1e-9, epochs=1, averaging=False)
    np.testing.assert_allclose(tuned.classifier.head.weight.detach().numpy(), head()[0], atol=1e-6)
    with pytest.raises(UsageError, match="lp_ft begins with a solved head"):
        fine_tune(Net(), recipe("lp_ft"), TRAIN, VAL, num_classes=NUM_CLASSES, transform=TRANSFORM)
    with pytest.raises(UsageError, match="full begins with a new head"):
        fine_tune(Net(), recipe("full"), TRAIN, VAL, num_classes=NUM_CLASSES, transform=TRANSFORM, head=head())


def test_kept_activations_give_what_the_whole_backbone_gives(tmp_path):
    """Without augmentation, a frozen prefix that is run once changes nothing but float16's last digits."""
    options = {"augment": "none", "averaging": False, "lr": 1e-3}
    kept = tune("light", cached_views=1, checkpoint_dir=tmp_path / "a", **options)
    live = tune("light", cached_views=0, norm_statistics="frozen", **options)
    first = kept.history.rows[0]["train/loss"], live.history.rows[0]["train/loss"]
    assert first[0] == pytest.approx(first[1], abs=0.02)  # live also trains the biases of the prefix
    assert not list((tmp_path / "a").glob("activations*"))


def test_without_validation_images_the_last_epoch_is_kept_and_others_are_predicted():
    tuned = tune("full", val=None, test=VAL)
    assert tuned.val_logits is None
    assert "val/accuracy" not in tuned.history.rows[0]
    net = tuned.classifier
    from regraft.augmentation.mixing import to_input
    from regraft.images import preprocess

    pixels = torch.from_numpy(np.stack([preprocess(FILES[24 + i], TRANSFORM) for i in range(12)]))
    with torch.no_grad():
        np.testing.assert_allclose(net(to_input(pixels, TRANSFORM)).numpy(), tuned.test_logits, atol=1e-4)


@pytest.mark.parametrize(
    "asked",
    [
        {"mixup_alpha": 0.4, "cutmix_alpha": 1.0}, {"loss": "elr"}, {"loss": "ldam"}, {"loss": "focal"},
        {"sampling": "progressive"}, {"model_ema": 0.9}, {"grad_accum_steps": 2}, {"optimizer": "sgd", "lr": 0.01},
        {"schedule": "one_cycle"}, {"augment": "medium", "flip": True}, {"label_smoothing": 0.1},
    ],
    ids=lambda asked: "+".join(asked),
)  # fmt: skip
def test_every_option_trains(asked):
    rows = tune("full", epochs=1, **asked).history.rows
    assert len(rows) == 1
    assert np.isfinite(rows[0]["train/loss"])


def test_what_does_not_go_together_is_said():
    weighted = dataclasses.replace(TRAIN, sample_weight=np.ones(24))
    with pytest.raises(UsageError, match="images of equal weight"):
        fine_tune(Net(), recipe("full", mixup_alpha=0.2), weighted, VAL, num_classes=NUM_CLASSES, transform=TRANSFORM)
    with pytest.raises(UsageError, match="do not go with loss elr"):
        tune("full", mixup_alpha=0.2, loss="elr")
    with pytest.raises(UsageError, match="residual blocks"):
        tune("full", drop_path=0.1)


def test_images_of_weight_zero_and_unreadable_ones_are_not_learnt_from():
    said = []

    class Listening(Listener):
        def say(self, text: str) -> None:
            said.append(text)

    read = []

    def file(item: int) -> bytes:
        read.append(item)
        if item == 3:
            raise OSError("gone")
        return FILES[item]

    weight = np.ones(24)
    weight[5] = 0.0
    train = Images(read=file, labels=LABELS[:24], sample_weight=weight)
    tuned = fine_tune(
        Net(), recipe("full"), train, VAL, num_classes=NUM_CLASSES, transform=TRANSFORM, metric="accuracy",
        listener=Listening(),
    )  # fmt: skip
    assert 5 not in read
    assert [text for text in said if "left out" in text] == ["a training image could not be read and is left out: gone"]
    assert np.isfinite(tuned.history.rows[-1]["train/loss"])


KILLER = """
import json, os, random, signal, sys, time
sys.path[:0] = json.loads(sys.argv[1])
from pathlib import Path
import torch
import test_fine_tune as t
from regraft.models.backbones import hash_state

out, strategy, asked = Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])

def run(folder, resume):
    torch.set_num_threads(1)
    tuned = t.tune(strategy, checkpoint_dir=folder, resume=resume, epochs=3, **asked)
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in tuned.history.rows]
    (out / (folder.name + ".json")).write_text(json.dumps([rows, hash_state(tuned.classifier), tuned.weights]))

def child(folder, wait):
    pid = os.fork()
    if not pid:
        run(folder, True)
        os._exit(0)
    if wait is not None:
        time.sleep(wait)
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]

began = time.monotonic()
assert child(out / "whole", None) == 0
took = time.monotonic() - began
rng = random.Random(11)
for _ in range(5):
    child(out / "killed", rng.uniform(0.1, 0.7) * took)
for _ in range(2):  # the second finds it finished, as after a kill behind the training
    assert child(out / "killed", None) == 0
"""


@pytest.mark.parametrize(
    ("strategy", "asked"),
    [("lp_ft", {"mixup_alpha": 0.3}), ("light", {"cached_views": 2}), ("full", {"model_ema": 0.9})],
)
def test_killed_and_resumed_it_gives_the_same_numbers(strategy, asked, tmp_path):
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", KILLER, json.dumps(paths), tmp_path, strategy, json.dumps(asked)],
        capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    whole, killed = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "killed"))
    assert killed == whole
