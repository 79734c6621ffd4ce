from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_fit import weights
from torch import nn

from conftest import fake_backbone
from regraft.errors import DataError, UsageError
from regraft.fit.inputs import Images
from regraft.fit.lr_finder import LearningRates
from regraft.fit.lr_search import paired, search_lr
from regraft.fit.recipes import Recipe
from regraft.fit.strategies import Facts, settings_for
from regraft.progress import Listener

NUM_IMAGES, NUM_CLASSES = 40, 2
LABELS = np.arange(NUM_IMAGES) % NUM_CLASSES


def _png(item: int) -> bytes:
    """Noise, light where the class is 1."""
    rng = np.random.default_rng(item)
    pixels = rng.integers(0, 120, (32, 32, 3)) + 100 * (item % NUM_CLASSES)
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


FILES = [_png(item) for item in range(NUM_IMAGES)]


class Counted(Listener):
    def __init__(self) -> None:
        self.done: list[int] = []
        self.said: list[str] = []

    def progress(self, done: int, total: int) -> None:
        self.done.append(done)

    def say(self, text: str) -> None:
        self.said.append(text)


def recipe_for(strategy: str, **asked: Any) -> Recipe:
    facts = Facts(num_images=NUM_IMAGES, num_classes=NUM_CLASSES, image_size=32, device="cpu")
    return settings_for(strategy, facts, {"batch_size": 8, "augment": "none"} | asked)


def search(backbone: nn.Module, recipe: Recipe, *, read: Any = FILES.__getitem__, **options: Any) -> LearningRates:
    strategy = recipe["strategy"].value
    if strategy in ("light", "lp_ft"):
        options.setdefault("head", (np.zeros((NUM_CLASSES, 16), np.float32), np.zeros(NUM_CLASSES, np.float32)))
    return search_lr(
        backbone, recipe, Images(read=read, labels=LABELS), num_classes=NUM_CLASSES,
        transform=fake_backbone().transform, **{"num_steps": 30, "device": "cpu"} | options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("strategy", "asked"),
    [
        ("lp_ft", {}),
        ("full", {"norm_statistics": "batch", "mixup_alpha": 0.2, "loss": "cross_entropy"}),
        ("full", {"loss": "elr"}),
        ("scratch", {"optimizer": "sgd", "augment": "medium", "sampling": "progressive"}),
    ],
)
def test_every_bit_of_the_backbone_is_put_back(strategy: str, asked: dict[str, Any]) -> None:
    backbone = fake_backbone().build()
    before = weights(backbone)
    found = search(backbone, recipe_for(strategy, **asked))
    assert weights(backbone) == before
    assert not backbone.training
    assert not any(p.requires_grad or p.grad is not None for p in backbone.parameters())
    assert len(found.lrs) >= 3


def test_the_loss_falls_and_a_rate_is_proposed_between_the_ends() -> None:
    found = search(fake_backbone().build(), recipe_for("full", label_smoothing=0.0), num_steps=60)
    assert min(found.smoothed) < 0.8 * found.smoothed[0]
    assert found.valley is not None
    assert 1e-6 < found.valley < 1.0
    assert (found.lrs[0], found.lrs[1] / found.lrs[0]) == (1e-6, pytest.approx(1e6 ** (1 / 59)))


def test_the_same_seed_gives_the_same_curve_and_it_is_the_first_loss_of_the_solved_head() -> None:
    first, again = (search(fake_backbone().build(), recipe_for("lp_ft"), num_steps=12) for _ in range(2))
    assert first.losses == again.losses
    assert first.losses[0] == pytest.approx(np.log(2))  # a head of zeros says one half to each
    other = search(fake_backbone().build(), recipe_for("lp_ft"), num_steps=12, seed=1)
    assert first.losses != other.losses


def curve(*, fall: float, noise: float, num: int = 60) -> tuple[LearningRates, list[float]]:
    """As from a range test: flat, falling between 1e-4 and 1e-2, rising."""
    rng = np.random.default_rng(0)
    lrs = np.logspace(-6, 0, num)
    effect = -fall * np.clip(np.log10(lrs / 1e-4) / 2, 0, 1) + 20 * fall * np.clip(np.log10(lrs / 1e-2), 0, None)
    before = rng.normal(1.0, 0.4, num).tolist()
    losses = effect + noise * rng.normal(size=num) + before[0]
    smoothed, mean = [], 0.0
    for step, loss in enumerate(losses.tolist()):
        mean = 0.9 * mean + 0.1 * loss
        smoothed.append(mean / (1 - 0.9 ** (step + 1)))
    found = LearningRates(
        lrs=tuple(lrs.tolist()), losses=tuple(losses.tolist()), smoothed=tuple(smoothed), valley=0.5, steepest=0.5,
        reason="all 60 steps were run; proposed something else",
    )  # fmt: skip
    return found, before


def test_the_proposal_lies_within_the_descent_however_batches_differ() -> None:
    found = paired(*curve(fall=0.05, noise=0.001))
    assert found.valley is not None
    assert 1e-4 < found.valley < 1e-2
    assert found.steepest is not None
    assert 1e-4 < found.steepest < 2e-2
    assert found.reason.startswith("all 60 steps were run; proposed ")
    assert "something else" not in found.reason
    assert found.losses[0] == pytest.approx(np.mean(curve(fall=0.05, noise=0.001)[1]), abs=0.01)


def test_a_fall_within_chance_proposes_nothing() -> None:
    found = paired(*curve(fall=0.0, noise=0.1))
    assert found.valley is None
    assert found.steepest is None
    assert "by more than chance" in found.reason


def test_at_a_rate_of_nothing_the_losses_are_those_of_the_unchanged_weights() -> None:
    found = search(fake_backbone().build(), recipe_for("full"), num_steps=10, low=1e-12, high=1e-11)
    assert np.ptp(found.losses) < 1e-5  # batches differ by far more


def test_layer_decay_and_clipping_are_those_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    clipped: list[float] = []
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, most: clipped.append(most))
    found = search(fake_backbone().build(), recipe_for("lp_ft", clip_grad=0.5), num_steps=10)
    assert clipped == [0.5] * len(found.lrs)
    clipped.clear()
    search(fake_backbone().build(), recipe_for("lp_ft", clip_grad=0.0), num_steps=10)
    assert clipped == []


def test_more_steps_than_an_epoch_has_go_on_with_the_next_and_all_are_told() -> None:
    heard = Counted()
    search(fake_backbone().build(), recipe_for("lp_ft"), num_steps=12, high=1e-3, listener=heard)
    assert heard.done == list(range(12))  # an epoch has five


def test_an_image_that_cannot_be_read_is_left_out_and_said() -> None:
    def read(item: int) -> bytes:
        if item == 3:
            raise FileNotFoundError("gone")
        return FILES[item]

    heard = Counted()
    search(fake_backbone().build(), recipe_for("lp_ft"), read=read, listener=heard)
    assert [line for line in heard.said if "left out" in line] == ["an image could not be read and is left out: gone"]


def test_what_makes_no_test_is_refused_and_still_puts_all_back() -> None:
    backbone = fake_backbone().build()
    before = weights(backbone)
    with pytest.raises(UsageError, match="goes up"):
        search(backbone, recipe_for("lp_ft"), low=1.0, high=0.1)
    with pytest.raises(UsageError, match="begins with a new head"):
        search(backbone, recipe_for("full"), head=(np.zeros((2, 16), np.float32), np.zeros(2, np.float32)))
    with pytest.raises(DataError):
        search(backbone, recipe_for("lp_ft"), read=lambda item: b"no image")
    assert weights(backbone) == before
