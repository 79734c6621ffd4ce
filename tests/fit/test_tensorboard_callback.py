from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_fit import EPOCHS, STEPS_PER_EPOCH, small_trainer, train_loader, val_loader
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator, ScalarEvent

from regraft.fit import tensorboard_callback
from regraft.fit.callbacks import Callback
from regraft.fit.loop import Trainer
from regraft.fit.tensorboard_callback import TensorBoardCallback
from regraft.tracking.base import Tracker
from regraft.tracking.tensorboard import event_files

SETTINGS = {"lr": (3e-3, "asked for")}


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / "tb"), size_guidance={"scalars": 0})
    found.Reload()
    return found


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    scalars: list[ScalarEvent] = events(folder).Scalars(name)
    return [(event.step, event.value) for event in scalars]


def fit(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    trainer = small_trainer(
        folder, TensorBoardCallback(folder / "tb", SETTINGS), *callbacks, checkpoint_every_seconds=0, **options
    )
    trainer.fit(train_loader(), val_loader(), EPOCHS, resume=True)
    return trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    fit(folder)
    return folder


def test_a_fit_is_written_by_the_names_of_its_rows(tmp_path: Path) -> None:
    trainer = fit(tmp_path)
    names = {"train/loss", "val/loss", "val/accuracy", "val/balanced_accuracy", "val/macro_f1", "epoch",
             "images_per_second", "train/step_loss", "lr"}  # fmt: skip
    assert set(events(tmp_path).Tags()["scalars"]) == names
    assert "settings" in events(tmp_path).Tags()["tensors"]
    for name in ("train/loss", "val/macro_f1"):
        expected = [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in trainer.history.rows]
        assert curve(tmp_path, name) == expected
    assert [step for step, _ in curve(tmp_path, "lr")] == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))
    assert curve(tmp_path, "lr")[0][1] == pytest.approx(3e-3)
    assert len(list(event_files(tmp_path / "tb"))) == 1


class Killed(Exception):
    pass


class KillAt(Callback):
    """Ends the fit as a kill would, at the n-th event of a kind."""

    def __init__(self, event: str, number: int) -> None:
        counts = itertools.count(1)

        def heard(*_: Any) -> None:
            if next(counts) == number:
                raise Killed

        setattr(self, event, heard)


@pytest.mark.parametrize(
    ("event", "number"),
    [("on_step_end", 2), ("on_step_end", 9), ("on_checkpoint", 3), ("on_checkpoint", 7), ("on_epoch_end", 1)],
)
def test_a_killed_and_resumed_fit_has_the_curves_of_a_whole_one(
    whole: Path, tmp_path: Path, event: str, number: int
) -> None:
    with pytest.raises(Killed):
        fit(tmp_path, KillAt(event, number))
    fit(tmp_path)
    assert len(list(event_files(tmp_path / "tb"))) == 2
    for name in ("train/step_loss", "lr", "train/loss", "val/loss", "val/macro_f1", "epoch"):
        assert curve(tmp_path, name) == curve(whole, name)
    assert len(events(tmp_path).Tensors("settings")) == 1


def test_an_evaluation_that_was_kept_but_not_written_is_written_on_the_way_back(whole: Path, tmp_path: Path) -> None:
    class First(KillAt):
        """Heard before the files are written."""

    trainer = small_trainer(
        tmp_path, First("on_epoch_end", 2), TensorBoardCallback(tmp_path / "tb", SETTINGS), checkpoint_every_seconds=0
    )
    with pytest.raises(Killed):
        trainer.fit(train_loader(), val_loader(), EPOCHS)
    assert len(curve(tmp_path, "val/loss")) == 1
    fit(tmp_path)
    assert curve(tmp_path, "val/loss") == curve(whole, "val/loss")


def test_only_every_nth_step_of_a_long_epoch_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard_callback, "POINTS_PER_EPOCH", 2)
    fit(tmp_path)
    assert [step for step, _ in curve(tmp_path, "lr")] == list(range(3, EPOCHS * STEPS_PER_EPOCH + 1, 3))


def test_a_folder_that_cannot_be_written_costs_a_sentence_and_no_fit(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said: list[str] = []
    callback = TensorBoardCallback(tmp_path / "file" / "tb", warn=said.append)
    trainer = small_trainer(None, callback)
    trainer.fit(train_loader(), val_loader(), 2)
    assert len(trainer.history.rows) == 2
    assert len(said) == 1


def test_files_that_vanish_in_the_middle_cost_a_sentence_and_no_fit(tmp_path: Path) -> None:
    class Vanish(Callback):
        def on_step_end(self, trainer: Trainer, step: int, loss: float) -> None:
            if step == 3:
                shutil.rmtree(tmp_path / "tb")

    said: list[str] = []
    trainer = small_trainer(None, Vanish(), TensorBoardCallback(tmp_path / "tb", warn=said.append))
    trainer.fit(train_loader(), val_loader(), 2)
    assert len(trainer.history.rows) == 2
    assert len(said) == 1
    assert "TensorBoard failed" in said[0]


def test_further_trackers_hear_the_same(tmp_path: Path) -> None:
    class Ear(Tracker):
        def __init__(self) -> None:
            self.steps: list[int] = []

        def log_metrics(self, metrics: Any, step: int) -> None:
            self.steps += [step] * ("val/loss" in metrics)

    ear = Ear()
    small_trainer(None, TensorBoardCallback(tmp_path / "tb", also=(ear,))).fit(train_loader(), val_loader(), 2)
    assert ear.steps == [6, 12]


def test_other_processes_than_the_main_one_write_nothing(tmp_path: Path) -> None:
    trainer = small_trainer(None, TensorBoardCallback(tmp_path / "tb", SETTINGS))
    trainer.processes.rank = 1
    assert not trainer.processes.is_main
    callback = trainer.callbacks[0]
    callback.on_fit_start(trainer)
    callback.on_step_end(trainer, 1, 0.5)
    callback.on_epoch_end(trainer, {"step": 1, "val/loss": 0.5})
    callback.on_fit_end(trainer, trainer.history)
    assert not (tmp_path / "tb").exists()
