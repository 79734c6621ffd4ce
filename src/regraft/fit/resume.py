"""All that a fit stands on, as one nested dict, and back: what a resume needs to give the same numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from regraft.errors import CheckpointError
from regraft.fit.batches import Batch, entropy
from regraft.fit.checkpoints import LAST, load_model, load_optimizer, random_state, read_checkpoint, set_random_state
from regraft.fit.history import History, Row
from regraft.fit.kept import Kept
from regraft.fit.plan import Plan

if TYPE_CHECKING:
    from regraft.fit.loop import Trainer


@dataclass
class Position:
    """Where a fit stands.

    Attributes:
        step: optimiser steps done.
        epoch: epochs done.
        batch: batches done in the present epoch.
        loss_sum, images, train_seconds: of the present epoch.
        seconds: of the whole fit.
        best: the best value of the metric.
        best_row: the number of its row.
        stale: evaluations since then.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    images: int = 0
    train_seconds: float = 0.0
    seconds: float = 0.0
    best: float | None = None
    best_row: int | None = None
    stale: int = 0

    def stepped(self, group: Sequence[Batch], loss: float, seconds: float) -> None:
        """An optimiser step over these batches is done."""
        images = sum(len(batch) for batch in group if not batch.is_copy)
        self.step, self.batch, self.images = self.step + 1, self.batch + len(group), self.images + images
        self.loss_sum += loss * images if math.isfinite(loss) else 0.0
        self.train_seconds += seconds

    def is_unevaluated(self, rows: Sequence[Row]) -> bool:
        """Whether steps were done that no row tells of (a signal in the evaluation, then a resume)."""
        return self.batch > 0 and (not rows or rows[-1]["step"] != self.step)

    def next_epoch(self) -> None:
        """An epoch is done and evaluated."""
        self.epoch, self.batch, self.loss_sum, self.images, self.train_seconds = self.epoch + 1, 0, 0.0, 0, 0.0


def state_of(trainer: Trainer) -> dict[str, Any]:
    """Everything; called in every process, for each has random numbers of its own."""
    loss, step = trainer.loss, trainer.step
    return {
        "position": asdict(trainer.position),
        "plan": asdict(trainer.plan),
        "rows": trainer.history.rows,
        "num_batches": trainer.num_batches,
        "most_steps": trainer.most_steps,
        "num_parts": step.num_parts,
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "ema": None if trainer.ema is None else trainer.ema.module.state_dict(),
        "scaler": step.scaler.state_dict(),
        "loss": loss.state_dict() if hasattr(loss, "state_dict") else None,
        "random": trainer.processes.gather(random_state()),
    }


def resumed(trainer: Trainer, kept: Kept) -> list[dict[str, Any]]:
    """Put a trainer where its last checkpoint was written.

    Returns:
        the random numbers of each process, for `set_epoch_random_state`.

    Raises:
        CheckpointError: it is of another model, optimiser or data set.
    """
    assert kept.folder is not None
    state = read_checkpoint(kept.folder / LAST)
    if state["num_batches"] != trainer.num_batches:
        raise CheckpointError(
            f"a resume needs the data and batch size of the run: its epochs had {state['num_batches']} batches, "
            f"these have {trainer.num_batches}"
        )
    if (state["ema"] is None) != (trainer.ema is None):
        raise CheckpointError("a resume needs the run's options: ema_decay was given in one of them only")
    load_model(trainer.model, state["model"])
    load_optimizer(trainer.optimizer, state["optimizer"])
    if trainer.ema is not None:
        load_model(trainer.ema.module, state["ema"], what="ema")
    trainer.step.scaler.load_state_dict(state["scaler"])
    if isinstance(trainer.loss, nn.Module):
        load_model(trainer.loss, state["loss"], what="loss")
    elif state["loss"] is not None:
        trainer.loss.load_state_dict(state["loss"])  # type: ignore[attr-defined]
    trainer.position = Position(**state["position"])
    if (state["plan"]["length"], state["most_steps"]) == (trainer.plan.length, trainer.most_steps):
        trainer.plan = Plan(
            **state["plan"]
        )  # else: other epochs or max_steps are wanted, and the schedule is for those
    trainer.history = History(rows=state["rows"])
    trainer.step.num_parts = state["num_parts"]
    _trust_best_file(trainer, kept.best_value())
    trainer.listener.say(f"resumed after step {trainer.position.step:,} ({trainer.position.epoch} epochs done)")
    states: list[dict[str, Any]] = state["random"]
    return states


def _trust_best_file(trainer: Trainer, value: float | None) -> None:
    """Where writing the best weights failed, their file (of this value) holds older ones, or there is none."""
    at = trainer.position
    if at.best is not None and (value is None or trainer.is_better(at.best, value)):
        rows = [n for n, row in enumerate(trainer.history.rows) if value is not None and row[trainer.metric] == value]
        at.best, at.best_row = value, rows[0] if rows else None


def set_epoch_random_state(trainer: Trainer, states: list[dict[str, Any]] | None) -> None:
    """An epoch has random numbers of its own; within it, after a resume, they go on where they were.

    Args:
        trainer: at the beginning of an epoch, or within it.
        states: of each process, from the checkpoint, or None.
    """
    at, processes = trainer.position, trainer.processes
    if states is not None and at.batch and len(states) == processes.world:
        set_random_state(states[processes.rank])
        return
    seed = entropy(trainer.seed, at.epoch, processes.rank, at.batch)
    random.seed(seed)
    np.random.seed(seed & (2**32 - 1))  # noqa: NPY002 mixup and old datasets draw from it
    torch.manual_seed(seed)
