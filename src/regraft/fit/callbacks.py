"""What can be hung into the loop. The base does nothing, so that the loop never asks whether anyone listens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.files import write_text
from regraft.fit.history import History, Row

if TYPE_CHECKING:
    from regraft.fit.loop import Trainer


class Callback:
    """Hears of a fit; does nothing with it. `trainer.stop("why")` ends the fit after the present step.

    With several processes the callbacks of each are called.
    """

    def on_fit_start(self, trainer: Trainer) -> None:
        """Before the first step; after a resume `trainer.history` has the rows so far."""

    def on_epoch_start(self, trainer: Trainer, epoch: int) -> None:
        """Before an epoch, counted from 0; not again where a resume enters in its middle."""

    def on_step_end(self, trainer: Trainer, step: int, loss: float) -> None:
        """After optimiser step number `step`, counted from 1, with the mean loss of its images."""

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        """After an evaluation, when the checkpoints are written."""

    def on_checkpoint(self, trainer: Trainer, path: Path) -> None:
        """After a checkpoint was written (main process)."""

    def on_fit_end(self, trainer: Trainer, history: History) -> None:
        """After the last step; the best weights are in the model."""


class MetricsFile(Callback):
    """One JSON object a line, one line an evaluation: `metrics.jsonl`.

    After a resume the file is written anew from the checkpoint: rows of epochs that will be repeated go.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_start(self, trainer: Trainer) -> None:
        if trainer.processes.is_main:
            write_text(self.path, "".join(_line(row) for row in trainer.history.rows))

    def on_epoch_end(self, trainer: Trainer, row: Row) -> None:
        if trainer.processes.is_main:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(_line(row))


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
