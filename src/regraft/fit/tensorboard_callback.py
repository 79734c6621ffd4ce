"""The curves of a fit in TensorBoard, while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.fit.callbacks import Callback
from regraft.fit.history import History, Row
from regraft.fit.model_graph import graph_nodes
from regraft.tracking.base import Tracker, Trackers
from regraft.tracking.results import numbers
from regraft.tracking.tensorboard import event_files, open_tensorboard, steps_of

if TYPE_CHECKING:
    from regraft.fit.loop import Trainer

POINTS_PER_EPOCH = 50
"""Steps of an epoch whose loss and learning rate are written: 50 µs each, far below 1 % of a training step."""


class TensorBoardCallback(Callback):
    """Writes `train/step_loss` and `lr` every few steps, and each evaluation's numbers by the names of `metrics.jsonl`.

    A resume appends: what was written after its checkpoint is purged, and an evaluation that was kept in the checkpoint
    but not written before the kill is written now. The main process writes alone. A disk that fails is said once; the
    fit goes on.

    Args:
        folder: for event files.
        settings: setting to (value, why it has it), or None.
        also: further trackers that hear the same, such as a service's; left open.
        warn: told what fails; by default the trainer's listener.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, tuple[Any, str]] | None = None,
        *,
        also: tuple[Tracker, ...] = (),
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.folder, self.settings, self.also, self.warn = folder, settings, also, warn
        self._files: Tracker = Tracker()
        self._tracker: Tracker = Tracker()
        self._every = 1

    def on_fit_start(self, trainer: Trainer) -> None:
        if not trainer.processes.is_main:
            return
        warn = self.warn if self.warn is not None else trainer.listener.say
        step = trainer.position.step
        goes_on = any(event_files(self.folder))
        purge_step = (step + 1 if step else 0) if goes_on else None
        also = Trackers(self.also, warn)
        self._files = open_tensorboard(self.folder, warn, purge_step=purge_step)
        self._tracker = Trackers([self._files, also], warn)
        steps = (
            10 * POINTS_PER_EPOCH if trainer.num_batches is None else trainer.num_batches // trainer.grad_accum_steps
        )
        self._every = max(1, steps // POINTS_PER_EPOCH)
        if self.settings:
            (also if step else self._tracker).log_settings(self.settings)
        if not goes_on and (nodes := graph_nodes(trainer.model)):
            self._files.log_graph(nodes)
        if goes_on:
            also.rewind(step)
        written = steps_of(self.folder, "train/loss") if step else set()
        for row in trainer.history.rows:
            _log(also, row)  # which leave out what they had before
            if row["step"] not in written:
                _log(self._files, row)

    def on_step_end(self, trainer: Trainer, step: int, loss: float) -> None:
        if step % self._every == 0:
            lr = max(float(group["lr"]) for group in trainer.optimizer.param_groups)
            self._tracker.log_metrics({"train/step_loss": loss, "lr": lr}, step)

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        _log(self._tracker, row)

    def on_fit_end(self, trainer: Trainer, history: History) -> None:
        self._files.close()
        self._files = self._tracker = Tracker()


def _log(tracker: Tracker, row: Row) -> None:
    tracker.log_metrics(numbers(row, leave_out=("step", "lr", "seconds")), int(row["step"]))
