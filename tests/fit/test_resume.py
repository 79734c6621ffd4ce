"""Killed and resumed, a fit gives the numbers of one that was never interrupted, to the last bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small_fit import (
    BATCH_SIZE,
    EPOCHS,
    NUM_CLASSES,
    NUM_IMAGES,
    STEPS_PER_EPOCH,
    Augmented,
    images,
    numbers,
    small_model,
    small_trainer,
    train_in_a_process,
    train_loader,
    val_loader,
    weights,
)
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler

from regraft.errors import CheckpointError, UsageError
from regraft.fit.callbacks import Callback
from regraft.fit.checkpoints import read_checkpoint
from regraft.fit.loop import Trainer
from regraft.fit.sampling import EpochBatches


class CrashError(Exception):
    pass


class Crash(Callback):
    """Ends the fit as a power cut would, after a step (and after its checkpoint, where `late`)."""

    def __init__(self, step: int, *, at: str = "on_checkpoint") -> None:
        self.step = step
        setattr(self, at, self._check)

    def _check(self, trainer: Trainer, *_: object) -> None:
        if trainer.position.step == self.step:
            raise CrashError


class Stream(IterableDataset):
    """An order of its own, from random numbers that are drawn as it goes."""

    def __iter__(self):
        items = Augmented(images())
        while True:
            yield items[int(torch.randint(len(items), ()))]
            if random.random() < 1 / 40:
                return


class Plain(Dataset):
    """No DataLoader at all: batches with a length."""

    def __len__(self) -> int:
        return STEPS_PER_EPOCH

    def __getitem__(self, number: int):
        if number >= STEPS_PER_EPOCH:
            raise IndexError
        items = Augmented(images())
        values = [items[i] for i in np.random.permutation(NUM_IMAGES)[:BATCH_SIZE]]  # noqa: NPY002
        return torch.utils.data.default_collate(values)


def epoch_batches() -> DataLoader:
    labels = (np.arange(NUM_IMAGES) % NUM_CLASSES).astype(np.int64)
    sampler = EpochBatches(labels, batch_size=BATCH_SIZE, sampling="progressive", num_epochs=EPOCHS)
    return DataLoader(Augmented(images()), batch_sampler=sampler)


LOADERS = {
    "shuffled": train_loader,
    "own generator": lambda: train_loader(generator=torch.Generator().manual_seed(5)),
    "weighted": lambda: train_loader(sampler=WeightedRandomSampler(torch.ones(NUM_IMAGES), NUM_IMAGES), shuffle=False),
    "EpochBatches": epoch_batches,
    "stream": lambda: DataLoader(Stream(), batch_size=BATCH_SIZE),
    "no DataLoader": Plain,
    "workers": lambda: train_loader(num_workers=2),
    "persistent workers": lambda: train_loader(num_workers=2, persistent_workers=True, prefetch_factor=3),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_resume_within_an_epoch_changes_no_bit(kind: str, tmp_path: Path) -> None:
    whole = small_trainer(None)
    expected = whole.fit(LOADERS[kind](), val_loader(), EPOCHS)
    with pytest.raises(CrashError):
        small_trainer(tmp_path, Crash(9), checkpoint_every_seconds=0).fit(LOADERS[kind](), val_loader(), EPOCHS)
    torch.manual_seed(12345)  # another process
    random.seed(6)
    again = small_trainer(tmp_path, checkpoint_every_seconds=0)
    found = again.fit(LOADERS[kind](), val_loader(), EPOCHS, resume=True)
    assert numbers(found.rows) == numbers(expected.rows)
    assert weights(again.model) == weights(whole.model)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == found.rows


@pytest.mark.parametrize(
    "step", [1, STEPS_PER_EPOCH - 1, STEPS_PER_EPOCH, STEPS_PER_EPOCH + 1, EPOCHS * STEPS_PER_EPOCH]
)
@pytest.mark.parametrize("at", ["on_step_end", "on_checkpoint", "on_epoch_end"])
def test_a_resume_from_any_place(step: int, at: str, tmp_path: Path) -> None:
    whole = small_trainer(None, ema_decay=0.9, grad_accum_steps=1)
    expected = whole.fit(train_loader(), val_loader(), EPOCHS)
    options = {"ema_decay": 0.9, "checkpoint_every_seconds": 0}
    try:
        small_trainer(tmp_path, Crash(step, at=at), **options).fit(train_loader(), val_loader(), EPOCHS)
    except CrashError:
        again = small_trainer(tmp_path, **options)
        found = again.fit(train_loader(), val_loader(), EPOCHS, resume=True)
        assert numbers(found.rows) == numbers(expected.rows)
        assert weights(again.model) == weights(whole.model)
    else:
        assert at == "on_epoch_end"  # which comes only at the end of one


def test_early_stopping_counts_on_after_a_resume(tmp_path: Path) -> None:
    def worse(model: torch.nn.Module) -> dict[str, float]:
        return {"val/macro_f1": 0.5}

    with pytest.raises(CrashError):
        small_trainer(tmp_path, Crash(2 * STEPS_PER_EPOCH), patience=2).fit(train_loader(), worse, 9)
    history = small_trainer(tmp_path, patience=2).fit(train_loader(), worse, 9, resume=True)
    assert [row["epoch"] for row in history.rows] == [1, 2, 3]
    assert history.best == history.rows[0]
    assert "not improved for 2" in history.stopped
    finished = small_trainer(tmp_path, patience=2).fit(train_loader(), worse, 9, resume=True)
    assert finished.rows == history.rows


def test_a_finished_fit_can_be_resumed_for_more_epochs(tmp_path: Path) -> None:
    small_trainer(tmp_path).fit(train_loader(), val_loader(), 1)
    more = small_trainer(tmp_path).fit(train_loader(), val_loader(), 3, resume=True)
    assert [row["epoch"] for row in more.rows] == [1, 2, 3]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    small_trainer(tmp_path).fit(train_loader(), val_loader(), 1)
    with pytest.raises(UsageError, match="never overwritten unasked"):
        small_trainer(tmp_path).fit(train_loader(), val_loader(), 1)
    with pytest.raises(CheckpointError, match="had 6 batches, these have 11"):
        small_trainer(tmp_path).fit(train_loader(batch_size=4), val_loader(), 2, resume=True)
    with pytest.raises(CheckpointError, match="belongs to one model"):
        small_trainer(tmp_path, model=small_model(norm=False)).fit(train_loader(), val_loader(), 2, resume=True)
    with pytest.raises(CheckpointError, match="ema_decay"):
        small_trainer(tmp_path, ema_decay=0.9).fit(train_loader(), val_loader(), 2, resume=True)


def test_best_weights_that_could_not_be_written_are_not_claimed_after_a_resume(tmp_path: Path) -> None:
    small_trainer(tmp_path).fit(train_loader(), val_loader(), 2)
    (tmp_path / "best.safetensors").unlink()
    history = small_trainer(tmp_path).fit(train_loader(), val_loader(), 3, resume=True)
    assert history.best is history.rows[2]


# ── kill -9 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_twenty_kills_at_random_moments_change_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    forks = multiprocessing.get_context("forkserver")  # imports torch once, not once for each life
    forks.set_forkserver_preload(["torch._dynamo", "small_fit"])
    epochs = 12

    def start(folder: Path) -> multiprocessing.process.BaseProcess:
        folder.mkdir(exist_ok=True)
        hears, tells = forks.Pipe(duplex=False)
        process = forks.Process(target=train_in_a_process, args=(folder, epochs, tells))
        process.start()
        tells.close()
        assert hears.recv() == "began"
        return process

    start(tmp_path / "warm").join()
    whole, began = start(tmp_path / "whole"), time.monotonic()
    whole.join()
    seconds = time.monotonic() - began
    assert whole.exitcode == 0
    expected = json.loads((tmp_path / "whole" / "result.json").read_text())

    moments, kills, runs = random.Random(20), 0, 0
    places = set()
    while kills < 20:
        folder, runs = tmp_path / f"killed{runs}", runs + 1
        while not (folder / "result.json").exists():
            life = start(folder)
            life.join(moments.uniform(0.0, 0.2) * seconds if kills < 20 else None)
            if life.is_alive():
                os.kill(life.pid, signal.SIGKILL)
                life.join()
                kills += 1
                if (folder / "last.safetensors").exists():
                    places.add(read_checkpoint(folder / "last.safetensors")["position"]["step"])
            else:
                assert life.exitcode == 0
        assert json.loads((folder / "result.json").read_text()) == expected
    assert len(places) >= 5, f"the kills hit too few places to test anything: {sorted(places)}"
