"""The loop against the one that everybody writes by hand, and against everything that goes wrong."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss
from small_fit import (
    EPOCHS,
    NUM_IMAGES,
    STEPS_PER_EPOCH,
    images,
    numbers,
    small_model,
    small_trainer,
    train_loader,
    val_loader,
    weights,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import regraft
from regraft.errors import TrainingError, UsageError
from regraft.fit import plan
from regraft.fit.batches import Batches
from regraft.fit.callbacks import Callback
from regraft.fit.checkpoints import read_checkpoint
from regraft.fit.loop import Trainer
from regraft.fit.losses import CrossEntropy
from regraft.fit.plan import Plan
from regraft.models.freezing import freeze
from regraft.progress import Listener


class Said(Listener):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.stages: list[str] = []
        self.last_progress = (0, 0)

    def say(self, text: str) -> None:
        self.lines.append(text)

    def stage_began(self, name: str) -> None:
        self.stages.append(name)

    def progress(self, done: int, total: int) -> None:
        self.last_progress = (done, total)


def plain_trainer(model: nn.Module, **options: Any) -> Trainer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Trainer(model, nn.CrossEntropyLoss(), optimizer, **{"device": "cpu"} | options)


def in_order(batch_size: int = 8, num: int = NUM_IMAGES) -> DataLoader:
    return DataLoader(images(num), batch_size=batch_size)


# ── what it computes ──────────────────────────────────────────────────────────────────────────────────────────────────


def by_hand(model: nn.Module, *, batch_size: int = 8, clip: float | None = None) -> nn.Module:
    """Two epochs as anyone would write them; lr 0.1, 0.09, …."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()
    step = 0
    for _ in range(2):
        for pixels, labels in in_order(batch_size):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (1 - step / 10)
            nn.functional.cross_entropy(model(pixels), labels).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    return model


def distance(a: nn.Module, b: nn.Module) -> float:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return max(float((x.float() - y.float()).abs().max()) for x, y in pairs)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_it_is_the_loop_everybody_writes(clip: float | None) -> None:
    expected = by_hand(small_model(dropout=0.0), clip=clip)
    model = small_model(dropout=0.0)
    plain_trainer(model, schedule=lambda s: 1 - s / 10, clip_grad=clip, channels_last=False).fit(in_order(), None, 2)
    assert distance(model, expected) == 0.0


def test_accumulated_batches_are_one_large_batch_also_an_uneven_last_one() -> None:
    expected = by_hand(small_model(norm=False, dropout=0.0), batch_size=16)
    model = small_model(norm=False, dropout=0.0)
    history = plain_trainer(model, schedule=lambda s: 1 - s / 10, grad_accum_steps=2).fit(in_order(8), None, 2)
    assert distance(model, expected) < 1e-6
    assert history.rows[-1]["step"] == 6


def test_measures_are_those_of_scikit_learn() -> None:
    model = small_model()
    found = plain_trainer(model).evaluate(val_loader())
    pixels, labels = images(20, seed=9).tensors
    with torch.no_grad():
        probs = model.eval()(pixels).softmax(1).double().numpy()
    predicted = probs.argmax(1)
    assert found["val/accuracy"] == pytest.approx((predicted == labels.numpy()).mean())
    assert found["val/macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))
    assert found["val/balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert found["val/loss"] == pytest.approx(log_loss(labels, probs / probs.sum(1, keepdims=True)), rel=1e-5)


def test_the_average_is_evaluated_kept_and_left_in_the_model(tmp_path: Path) -> None:
    from timm.utils.model_ema import ModelEmaV3

    class Shadow(Callback):
        def on_fit_start(self, trainer: Trainer) -> None:
            self.ema = ModelEmaV3(trainer.model, decay=0.9, use_warmup=True)

        def on_step_end(self, trainer: Trainer, step: int, loss: float) -> None:
            self.ema.update(trainer.model, step=step)

    shadow, model = Shadow(), small_model()
    plain_trainer(model, ema_decay=0.9, callbacks=[shadow], checkpoint_dir=tmp_path).fit(in_order(), None, 2)
    assert distance(model, shadow.ema.module) == 0.0
    assert distance(model, by_hand(small_model())) > 1e-3


def test_the_best_weights_are_restored() -> None:
    kept: list[bytes] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        kept.append(weights(model))
        return {"val/cost": [3.0, 1.0, 2.0][len(kept) - 1]}

    model = small_model()
    history = plain_trainer(model, metric="val/cost", mode="min").fit(in_order(), evaluate, 3)
    assert weights(model) == kept[1]
    assert history.best is history.rows[1]
    model = small_model()
    kept.clear()
    plain_trainer(model, metric="val/cost", mode="min", restore_best=False).fit(in_order(), evaluate, 3)
    assert weights(model) == kept[2]


def test_frozen_norm_layers_stay_as_they_are() -> None:
    model = small_model()
    freeze(model, until="1")
    before = {name: t.clone() for name, t in model.state_dict().items()}
    plain_trainer(model).fit(in_order(), val_loader(), 2)
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"5.weight", "5.bias"}


def test_batches_of_many_forms_and_losses_that_want_more() -> None:
    pixels, labels = images().tensors
    weight, number = torch.rand(NUM_IMAGES) + 0.5, torch.arange(NUM_IMAGES)
    ours = CrossEntropy(np.array([15, 15, 14]), class_weight=[1.0, 2.0, 3.0])

    def fitted(loader: Any, loss: Any, **options: Any) -> nn.Module:
        model = small_model(norm=False, dropout=0.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        Trainer(model, loss, optimizer, device="cpu", **options).fit(loader, None, 1)
        return model

    tuples = DataLoader(TensorDataset(pixels, labels, number, weight), batch_size=16)
    dicts = [
        {"image": pixels[a : a + 16], "label": labels[a : a + 16], "sample_weight": weight[a : a + 16]}
        for a in range(0, NUM_IMAGES, 16)
    ]
    expected = fitted(tuples, ours)
    assert distance(fitted(dicts, ours), expected) == 0.0
    # The weighted mean of a batch does not depend on the pieces it is computed in.
    pieces = DataLoader(TensorDataset(pixels, labels, weight), batch_size=8)
    assert distance(fitted(pieces, ours, grad_accum_steps=2), expected) < 1e-6
    assert distance(fitted(pieces, ours), expected) > 1e-4
    with pytest.raises(UsageError, match="no parameter sample_weight"):
        fitted(tuples, nn.CrossEntropyLoss())
    with pytest.raises(UsageError, match="a batch is"):
        fitted([pixels], ours)


def test_bf16_trains_on_a_cpu() -> None:
    model = small_model()
    history = plain_trainer(model, precision="bf16").fit(in_order(), val_loader(), 2)
    assert next(model.parameters()).dtype == torch.float32
    assert history.rows[-1]["train/loss"] < history.rows[0]["train/loss"]
    assert distance(model, by_hand(small_model())) > 0.0


# ── order ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def items(batches: Batches, epoch: int, start: int = 0) -> list[list[int]]:
    return [batch.targets.tolist() for batch in batches.epoch(epoch, start)]


def numbered(num: int = 23, **options: Any) -> DataLoader:
    return DataLoader(
        TensorDataset(torch.arange(num), torch.arange(num)), **{"batch_size": 4, "shuffle": True} | options
    )


def test_an_epoch_can_be_entered_anywhere_in_any_order() -> None:
    batches = Batches(numbered(), seed=3)
    epochs = [items(batches, epoch) for epoch in range(3)]
    assert sorted(itertools.chain(*epochs[0])) == list(range(23))
    assert epochs[0] != epochs[1]
    torch.manual_seed(99)
    assert items(Batches(numbered(), seed=3), 2, 4) == epochs[2][4:]
    assert items(batches, 1) == epochs[1]
    assert items(Batches(numbered(), seed=4), 1) != epochs[1]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("iterated", [False, True])
def test_processes_share_each_batch(world: int, iterated: bool) -> None:
    loader: Any = list(numbered(shuffle=False)) if iterated else numbered()
    alone = items(Batches(loader, seed=3), 1)
    for training in (True, False):
        shares = [items(Batches(loader, seed=3, rank=rank, world=world, training=training), 1) for rank in range(world)]
        if training:
            assert len({len(share) for share in shares}) == 1
            together = [set().union(*parts) for parts in zip(*shares, strict=True)]
            assert together == [set(batch) for batch in alone]
        else:
            assert sorted(itertools.chain(*itertools.chain(*shares))) == list(range(23))


def test_a_batch_is_loaded_under_the_same_random_numbers_in_any_worker() -> None:
    def pixels(workers: int, start: int = 0) -> list[torch.Tensor]:
        return [batch.inputs for batch in Batches(train_loader(num_workers=workers), seed=0).epoch(1, start)]

    alone, torn = pixels(0), pixels(2, start=2)
    assert all(map(torch.equal, alone[2:], torn))
    state = torch.get_rng_state()
    pixels(0)
    assert torch.equal(torch.get_rng_state(), state)  # dropout's random numbers are not touched


# ── ends ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Rates(Callback):
    def __init__(self) -> None:
        self.lrs: list[float] = []

    def on_step_end(self, trainer: Trainer, step: int, loss: float) -> None:
        self.lrs.append(trainer.optimizer.param_groups[0]["lr"])


def test_max_steps_squeezes_the_schedule() -> None:
    rates = Rates()
    history = plain_trainer(small_model(), schedule=lambda s: 1 - s / 12, max_steps=4, callbacks=[rates]).fit(
        in_order(), val_loader(), 2
    )
    assert rates.lrs == pytest.approx([0.1 * f for f in (1, 9 / 12, 6 / 12, 3 / 12)])
    assert [row["epoch"] for row in history.rows] == [pytest.approx(4 / 6)]
    assert history.stopped == "4 steps are done"


def test_a_bent_plan_goes_on_where_it_is_and_ends_at_the_end() -> None:
    bent = Plan(length=100, total=100)
    assert [bent.place(step) for step in (0, 10, 99)] == [0, 10, 99]
    bent.end_at(40, step=10)
    places = [bent.place(step) for step in range(10, 40)]
    assert places[0] == 10
    assert places == sorted(places)
    assert places[-1] >= 96
    bent.end_at(60, step=30)
    assert bent.place(30) == places[20]
    assert bent.place(59) >= 98


class Clock:
    """Time passes only in steps and evaluations."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(plan, "clock", lambda: self.now)


class Slow(nn.Module):
    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.inner, self.clock, self.seconds = small_model(), clock, seconds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.clock.now += self.seconds if self.training else 0.0
        return self.inner(x)


@pytest.mark.parametrize(("limit", "evaluation"), [(20.0, 0.0), (20.0, 1.5), (31.0, 4.0), (100.5, 0.7)])
def test_a_time_limit_is_kept_and_the_schedule_ends_there(
    limit: float, evaluation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, rates = Clock(monkeypatch), Rates()

    def evaluate(model: nn.Module) -> dict[str, float]:
        clock.now += evaluation
        return {"val/macro_f1": clock.now}

    trainer = plain_trainer(
        Slow(clock, 0.25), schedule=lambda s: 1 - s / 600, time_limit_seconds=limit, callbacks=[rates]
    )
    history = trainer.fit(in_order(), evaluate, 100)
    assert clock.now <= limit
    assert clock.now >= limit - 2 * (0.25 + evaluation)
    assert "time limit" in history.stopped
    assert rates.lrs == sorted(rates.lrs, reverse=True)
    assert rates.lrs[-1] < 0.008  # of 0.1: the schedule's end was reached
    assert history.rows[-1]["step"] == len(rates.lrs)


def test_a_generous_time_limit_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, rates = Clock(monkeypatch), Rates()
    trainer = plain_trainer(Slow(clock, 0.25), schedule=lambda s: 1 - s / 12, time_limit_seconds=60, callbacks=[rates])
    history = trainer.fit(in_order(), val_loader(), 2)
    assert rates.lrs == pytest.approx([0.1 * (1 - s / 12) for s in range(12)])
    assert history.stopped == "2 epochs are done"


def test_callbacks_hear_everything_in_order_and_can_stop(tmp_path: Path) -> None:
    heard: list[str] = []

    class Ear(Callback):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("on_"):
                return lambda trainer, *args: heard.append(name)
            return super().__getattribute__(name)

    class Enough(Callback):
        def on_step_end(self, trainer: Trainer, step: int, loss: float) -> None:
            if step == 8:
                trainer.stop("enough")

    said = Said()
    trainer = plain_trainer(small_model(), callbacks=[Ear(), Enough()], checkpoint_dir=tmp_path, listener=said)
    history = trainer.fit(in_order(), val_loader(), 5)
    epoch = ["on_epoch_start", *["on_step_end"] * 6, "on_checkpoint", "on_checkpoint", "on_epoch_end"]
    assert heard[: 1 + len(epoch)] == ["on_fit_start", *epoch]
    assert heard[1 + len(epoch) : 4 + len(epoch)] == ["on_epoch_start", "on_step_end", "on_step_end"]
    assert heard[-2:] == ["on_epoch_end", "on_fit_end"]
    assert history.stopped == "enough"
    assert said.stages == ["epoch 1/5", "epoch 2/5"]
    assert said.last_progress == (2, 6)
    assert any(line.startswith("precision: fp32: ") for line in said.lines)


# ── faults ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Poison(nn.Module):
    """Infinite outputs for chosen calls in training."""

    def __init__(self, calls: range | list[int]) -> None:
        super().__init__()
        self.inner, self.calls, self.count = small_model(dropout=0.0), calls, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.count += 1
            if self.count in self.calls:
                x = x * float("inf")
        return self.inner(x)


def test_a_few_infinite_steps_are_skipped_and_forgotten() -> None:
    model = Poison([3, 4, 9])
    history = plain_trainer(model).fit(in_order(), val_loader(), 2)
    assert all(t.isfinite().all() for t in model.state_dict().values())  # batch norm's statistics, too
    assert history.rows[-1]["val/accuracy"] > 0.5
    assert history.rows[-1]["train/loss"] is not None


def test_an_infinite_loss_that_stays_ends_the_fit_with_the_last_good_weights(tmp_path: Path) -> None:
    model = Poison(range(8, 100))
    trainer = plain_trainer(model, checkpoint_dir=tmp_path)
    with pytest.raises(TrainingError, match=r"it was nan for 5 steps in a row, up to step 12, with lr 0\.1"):
        trainer.fit(in_order(), val_loader(), 5)
    good = read_checkpoint(tmp_path / "last.safetensors")
    assert good["position"]["step"] == 6
    assert all(torch.equal(t, good["model"][name]) for name, t in model.state_dict().items())


class Hungry(nn.Module):
    """Holds at most `most` images at a time in training."""

    def __init__(self, most: int, error: type[Exception] = RuntimeError) -> None:
        super().__init__()
        self.inner, self.most, self.error = small_model(norm=False, dropout=0.0), most, error
        self.sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes.")
        if self.training:
            self.sizes.append(len(x))
        return self.inner(x)


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
def test_batches_too_large_for_memory_are_computed_in_parts(error: type[Exception]) -> None:
    expected = by_hand(small_model(norm=False, dropout=0.0))
    model, said = Hungry(3, error), Said()
    plain_trainer(model, schedule=lambda s: 1 - s / 10, listener=said).fit(in_order(), None, 2)
    assert distance(model.inner, expected) < 1e-6
    assert model.sizes == 2 * (5 * [2, 2, 2, 2] + [1, 1, 1, 1])
    told = [line for line in said.lines if "out of memory" in line]
    assert [line[:75] for line in told] == [
        "out of memory: batches of 8 are now computed in 2 parts of 4 images, with t",
        "out of memory: batches of 8 are now computed in 4 parts of 2 images, with t",
    ]


def test_one_image_that_does_not_fit_and_other_errors_are_not_retried() -> None:
    with pytest.raises(TrainingError, match="one image must fit in memory"), pytest.warns(RuntimeWarning):
        plain_trainer(Hungry(0)).fit(in_order(), None, 1)

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p = nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        plain_trainer(Broken()).fit(in_order(), None, 1)


class Press(Callback):
    """Ctrl-C in the middle of a step's bookkeeping."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def on_step_end(self, trainer: Trainer, step: int, loss: float) -> None:
        if step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("step", [3, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 2])
def test_ctrl_c_leaves_checkpoints_to_go_on_from(step: int, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    whole = small_trainer(None)
    expected = whole.fit(train_loader(), val_loader(), EPOCHS)
    with pytest.raises(KeyboardInterrupt):
        small_trainer(tmp_path, Press(step, signal.SIGINT)).fit(train_loader(), val_loader(), EPOCHS)
    assert signal.getsignal(signal.SIGINT) is before
    assert read_checkpoint(tmp_path / "last.safetensors")["position"]["step"] == step
    small_model().load_state_dict(read_checkpoint(tmp_path / "best.safetensors")["model"])
    again = small_trainer(tmp_path)
    assert numbers(again.fit(train_loader(), val_loader(), EPOCHS, resume=True).rows) == numbers(expected.rows)
    assert weights(again.model) == weights(whole.model)


def test_ctrl_c_within_the_evaluation_of_a_loader(tmp_path: Path) -> None:
    class Pressed(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            if index == 10:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__getitem__(index)

    pressed = DataLoader(Pressed(*images(20, seed=9).tensors), batch_size=7)
    with pytest.raises(KeyboardInterrupt):
        small_trainer(tmp_path, max_steps=6).fit(train_loader(), pressed, EPOCHS)
    history = small_trainer(tmp_path, max_steps=6).fit(train_loader(), val_loader(), EPOCHS, resume=True)
    assert [(row["step"], row["epoch"]) for row in history.rows] == [(6, 1)]


def test_sigterm_ends_as_cleanly_with_its_own_exit_code(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        small_trainer(tmp_path, Press(4, signal.SIGTERM)).fit(train_loader(), val_loader(), EPOCHS)
    assert ended.value.code == 143
    assert read_checkpoint(tmp_path / "last.safetensors")["position"]["step"] == 4


def test_options_that_cannot_be_are_refused() -> None:
    for options, words in (
        ({"precision": "fp8"}, "a precision is one of auto, fp32, bf16, fp16"),
        ({"grad_accum_steps": 0}, "grad_accum_steps is at least 1"),
        ({"mode": "most"}, "mode is max or min"),
    ):
        with pytest.raises(UsageError, match=words):
            plain_trainer(small_model(), **options)
    with pytest.raises(UsageError, match=r"'val/f1' is not measured \(did you mean 'val/macro_f1'"):
        plain_trainer(small_model(), metric="val/f1").fit(in_order(), val_loader(), 1)
    with pytest.raises(UsageError, match="epochs is at least 1"):
        plain_trainer(small_model()).fit(in_order(), val_loader(), 0)


def test_the_package_offers_it_without_importing_torch() -> None:
    assert regraft.Trainer is Trainer
    code = "import sys, regraft, regraft.fit; assert 'torch' not in sys.modules; assert 'Trainer' in dir(regraft)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
