"""The training loop: any module, any loader, killed and resumed to the same numbers.

    trainer = Trainer(model, loss, optimizer, schedule, checkpoint_dir="checkpoints", ema_decay=0.999)
    history = trainer.fit(train_loader, val_loader, epochs=10, resume=True)

`Trainer.fit` and `Trainer._epoch` are the loop that every PyTorch user has written. What is around it: `step.py` (one
step: precision, accumulation, memory), `batches.py` (order and resume), `plan.py` (schedule and time limit),
`checkpoints.py`, `validation.py`, `processes.py` (several processes), `faults.py`.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from regraft.errors import UsageError, nearest
from regraft.fit import plan
from regraft.fit.agreement import Agreement
from regraft.fit.batches import Batches, length_of
from regraft.fit.callbacks import Callback
from regraft.fit.checkpoints import LAST, load_model
from regraft.fit.faults import BrokenOffError, Interruption, NonFinite
from regraft.fit.history import History, Row
from regraft.fit.kept import Kept, are_finite, moving_average
from regraft.fit.plan import Pace, Plan
from regraft.fit.processes import Processes
from regraft.fit.resume import Position, resumed, set_epoch_random_state, state_of
from regraft.fit.step import OnBatch, Precision, Step, choose_precision
from regraft.fit.validation import evaluate_batches
from regraft.memory import keep_freed_memory
from regraft.progress import Listener

Evaluate = Callable[[nn.Module], dict[str, float]]


class Trainer:
    """Trains a model.

    Args:
        model: any module; moved to the device and trained in place. Frozen norm layers (`regraft.models.freezing`)
            stay in eval mode.
        loss: `loss(outputs, targets)`, a mean over the images; `sample_weight` and `indices`, where the loader gives
            them, are passed by name if it has such parameters. A `state_dict` is kept, `set_epoch(epoch)` is called.
        optimizer: over the model's parameters.
        schedule: the factor of the learning rates at each optimiser step, counted from 0, over all epochs.
        callbacks: heard in order.
        precision: auto is bf16 on a GPU that has it, else fp16, and fp32 on a CPU.
        grad_accum_steps: batches for each optimiser step.
        clip_grad: largest norm of the gradient.
        ema_decay: keep a moving average of the weights (timm's ModelEmaV3 with its warm-up); it is what is evaluated,
            kept as best, and in the model after the fit.
        channels_last: memory layout of images (N, C, H, W) and kernels; faster on CPUs and GPUs.
        compile: torch.compile.
        device: auto, cpu, cuda, …
        seed: of the order of the images, their augmentation, dropout, mixup.
        checkpoint_dir: for `last.safetensors` and `best.safetensors`; None keeps none.
        checkpoint_every_seconds: between checkpoints within an epoch; one more is written after each evaluation.
        metric: what decides the best epoch, a name that the evaluation gives.
        mode: max where more is better, min where less is.
        patience: evaluations without improvement after which the fit stops.
        restore_best: end with the best weights in the model, not the last.
        max_steps: optimiser steps after which the fit stops; the schedule is squeezed to end there.
        time_limit_seconds: the same for time, that of resumed fits together, evaluations included.
        on_batch: `(inputs, targets) -> (inputs, targets)` on the device before each training batch: mixup.
        listener: hears of epochs, progress, and of what is worth saying.

    Attributes:
        history: rows so far.
        position: step, epoch, ….
        step: what one step needs (`step.py`).
        processes: rank, world and device.
        precision: what auto became.

    Raises:
        UsageError: options that contradict each other.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Tensor],
        optimizer: Optimizer,
        schedule: Callable[[int], float] | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        precision: Precision = "auto",
        grad_accum_steps: int = 1,
        clip_grad: float | None = None,
        ema_decay: float | None = None,
        channels_last: bool = True,
        compile: bool = False,
        device: str = "auto",
        seed: int = 0,
        checkpoint_dir: Path | str | None = None,
        checkpoint_every_seconds: float = 300.0,
        metric: str = "val/macro_f1",
        mode: Literal["max", "min"] = "max",
        patience: int | None = None,
        restore_best: bool = True,
        max_steps: int | None = None,
        time_limit_seconds: float | None = None,
        on_batch: OnBatch | None = None,
        listener: Listener | None = None,
    ) -> None:
        counts = {"grad_accum_steps": grad_accum_steps, "max_steps": max_steps, "patience": patience}
        for name, count in counts.items():
            if count is not None and count < 1:
                raise UsageError(f"{name} is at least 1: {count} is not")
        if mode not in ("max", "min"):
            raise UsageError(f"mode is max or min: {mode!r} is not")
        self.processes = Processes(device)
        self._sharing: dict[str, Any] = {"seed": seed, "rank": self.processes.rank, "world": self.processes.world}
        if self.processes.device.type == "cpu":
            keep_freed_memory()
        self.precision, self.precision_reason = choose_precision(precision, self.processes.device)
        self.model, self.loss, self.optimizer, self.schedule = model, loss, optimizer, schedule
        self.callbacks, self.grad_accum_steps, self.seed = list(callbacks), grad_accum_steps, seed
        self.checkpoint_dir = None if checkpoint_dir is None else Path(checkpoint_dir)
        self.checkpoint_every_seconds = checkpoint_every_seconds
        self.metric, self.mode, self.patience, self.restore_best = metric, mode, patience, restore_best
        self.max_steps, self.time_limit_seconds = max_steps, time_limit_seconds
        self._listener = listener
        self.listener = listener if listener is not None and self.processes.is_main else Listener()
        model.to(self.processes.device)
        channels_last = channels_last and all(p.ndim != 5 for p in model.parameters())
        if channels_last:
            model.to(memory_format=torch.channels_last)
        if isinstance(loss, nn.Module):
            loss.to(self.processes.device)
        self.ema = moving_average(model, ema_decay)
        self.history, self.position, self.plan = History(), Position(), Plan()
        self._random_states: list[dict[str, Any]] | None = None
        self._agreed = Agreement(self.processes, Interruption(), Pace(None), checkpoint_every_seconds)
        wrapped = self.processes.wrap(model)
        self.step = Step(
            torch.compile(wrapped) if compile else wrapped,  # type: ignore[arg-type]
            loss, optimizer, processes=self.processes, precision=self.precision, clip_grad=clip_grad,
            channels_last=channels_last, on_batch=on_batch, warn=self._warn,
        )  # fmt: skip

    def fit(
        self, train_loader: Iterable[Any], evaluate: Iterable[Any] | Evaluate | None, epochs: int, *,
        resume: bool = False,
    ) -> History:  # fmt: skip
        """Train, evaluate after each epoch, and end with the best weights.

        Args:
            train_loader: batches `(inputs, targets)`, `(inputs, targets, indices and/or weights)`, or dicts. With
                several processes, its batches are divided among them.
            evaluate: a loader of `(inputs, labels)`, or a function from the model (in eval mode) to named measures
                (called in the main process), or None.
            epochs: how many at most.
            resume: go on from `checkpoint_dir/last.safetensors` if there is one. All else must be as it was: model,
                loss, optimiser, schedule, data, options. The remaining epochs then give the numbers of a fit that was
                never interrupted; on a CPU in fp32 to the last bit.

        Returns:
            the history.

        Raises:
            UsageError: no such metric; checkpoints are there and `resume` is not set.
            CheckpointError: the checkpoint cannot be read or does not fit.
            TrainingError: the loss stays infinite or NaN, or memory is too small for one image.
            KeyboardInterrupt: Ctrl-C, after the present step was finished and written to `last`.
        """
        if epochs < 1:
            raise UsageError(f"epochs is at least 1: {epochs} is not")
        with Interruption() as interruption:
            self._begin(train_loader, evaluate, epochs, resume=resume, interruption=interruption)
            self._call("on_fit_start")
            while not (why := self._end(epochs)) or self.position.is_unevaluated(self.history.rows):
                try:
                    finished = self._epoch(epochs)
                    measures = self._evaluate(evaluate)
                except BrokenOffError:
                    self._interrupted()
                self._finish_epoch(measures, finished=finished, epochs=epochs)
                self._interrupted()
        self._finish(why)
        self._call("on_fit_end", self.history)
        return self.history

    def _epoch(self, epochs: int) -> bool:
        """Train on what is left of an epoch; True where its end was reached."""
        at = self.position
        if not at.batch:
            self._call("on_epoch_start", at.epoch)
        if hasattr(self.loss, "set_epoch"):
            self.loss.set_epoch(at.epoch)
        self.model.train()
        name, began = f"epoch {at.epoch + 1}/{epochs}", plan.clock()
        self.listener.stage_began(name)
        try:
            states, self._random_states = self._random_states, None
            batches = self._batches.epoch(at.epoch, at.batch, lambda: set_epoch_random_state(self, states))
            while group := list(itertools.islice(batches, self.grad_accum_steps)):
                if self._end(epochs):
                    return False
                self._set_lr()
                loss = self._agreed.mean(self.step.backward(group))
                taken = self.step.optimise(loss)
                if taken and self.ema is not None:
                    self.ema.update(self.model, step=at.step + 1)
                self._non_finite.saw(loss, taken=taken, step=at.step + 1, lr=self._lr())
                seconds = plan.clock() - began
                at.stepped(group, loss, seconds)
                self._pace.stepped(seconds)
                images = at.images * self.processes.world
                self.listener.stepped(at.step, self.plan.total, loss, images / max(at.train_seconds, 1e-9))
                self._call("on_step_end", at.step, loss)
                self._after_step()
                began = plan.clock()
            return True
        finally:
            self.listener.stage_ended(name, at.train_seconds)

    def _set_lr(self) -> None:
        if self.schedule is not None:
            factor = self.schedule(self.plan.place(self.position.step))
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    def _lr(self) -> float:
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def _after_step(self) -> None:
        at = self.position
        if self._steps_per_epoch:
            self.listener.progress(-(-at.batch // self.grad_accum_steps), self._steps_per_epoch)
        if self._pace.is_time_to_plan():
            fits = at.step + self._pace.affordable(self._steps_per_epoch)
            total = min(n for n in (fits, self.most_steps) if n is not None)
            self.plan.end_at(self.processes.from_main(total), step=at.step)
        self._interrupted()
        if self._agreed.save:
            self._save_last()

    def _end(self, epochs: int) -> str:
        """Why the fit is over, or an empty string."""
        at = self.position
        if at.epoch >= epochs:
            return f"{epochs} epochs are done"
        if self.max_steps is not None and at.step >= self.max_steps:
            return f"{self.max_steps:,} steps are done"
        if self.patience is not None and at.stale >= self.patience:
            return f"{self.metric} has not improved for {at.stale} evaluations"
        if at.step and self._agreed.late:
            return f"the time limit of {self.time_limit_seconds:,} s is reached"
        return self._agreed.stop

    def stop(self, reason: str) -> None:
        """End the fit after the present step (with several processes, the next) and an evaluation; for callbacks."""
        self._agreed.wish_to_stop(reason)

    @property
    def evaluated_model(self) -> nn.Module:
        """The model whose weights are evaluated and kept: the moving average, where there is one."""
        return self.model if self.ema is None else self.ema.module

    def _evaluate(self, evaluate: Iterable[Any] | Evaluate | None) -> dict[str, float]:
        self._began_evaluation = plan.clock()
        if evaluate is None:
            return {}
        if not callable(evaluate):
            measures = self.evaluate(evaluate)
        else:
            self.evaluated_model.eval()
            measures = evaluate(self.evaluated_model) if self.processes.is_main else {}
            measures = {name: float(value) for name, value in self.processes.from_main(measures).items()}
        if self.metric not in measures:
            near = nearest(self.metric, measures)
            raise UsageError(f"metric {self.metric!r} is not measured{near}: {list(measures)}")
        return measures

    def evaluate(self, loader: Iterable[Any]) -> dict[str, float]:
        """`val/loss`, `val/accuracy`, `val/balanced_accuracy`, `val/macro_f1` of the model (or of its average)."""
        self.evaluated_model.eval()
        return evaluate_batches(
            self.evaluated_model, Batches(loader, training=False, **self._sharing), to_device=self.step.to_device,
            autocast=self.step.autocast, processes=self.processes, between=self._break_off,
        )  # fmt: skip

    def _finish_epoch(self, measures: dict[str, float], *, finished: bool, epochs: int) -> None:
        """The row, the best weights, the checkpoint."""
        at = self.position
        loss_sum, images = self.processes.sum([at.loss_sum, at.images])
        part = at.batch / self.num_batches if self.num_batches else 0.0
        row: Row = {
            "step": at.step,
            "epoch": at.epoch + 1 if finished else at.epoch + part,
            "train/loss": loss_sum / max(images, 1),
            **measures,
            "lr": self._lr(),
            "images_per_second": images / max(at.train_seconds, 1e-9),
            "seconds": self._pace.elapsed(),
        }
        self.history.rows.append(row := {k: value if math.isfinite(value) else None for k, value in row.items()})
        if finished:
            at.next_epoch()
        value = row.get(self.metric)
        if value is not None and self.is_better(value, at.best):
            at.best, at.best_row, at.stale = value, len(self.history.rows) - 1, 0
            if self.processes.is_main:
                self._kept.keep_best(self.evaluated_model, metric=self.metric, value=value)
        elif measures:
            at.stale += 1
        if self._save_last():
            self._kept.keep_good(self.model)
        self._pace.evaluated(plan.clock() - self._began_evaluation)
        self.listener.epoch(row, epochs, metric=self.metric, is_best=at.best_row == len(self.history.rows) - 1)
        self._call("on_epoch_end", row)
        self._agreed.mean()

    def is_better(self, value: float, than: float | None) -> bool:
        return than is None or (value > than if self.mode == "max" else value < than)

    def _begin(
        self, train_loader: Iterable[Any], evaluate: Any, epochs: int, *, resume: bool, interruption: Interruption
    ) -> None:
        self._batches = Batches(train_loader, **self._sharing)
        self.num_batches = length_of(self._batches)
        self._steps_per_epoch = None if self.num_batches is None else -(-self.num_batches // self.grad_accum_steps)
        length = None if self._steps_per_epoch is None else epochs * self._steps_per_epoch
        self.most_steps = min((n for n in (length, self.max_steps) if n is not None), default=None)
        self.history, self.position, self.plan = History(), Position(), Plan(length=length, total=self.most_steps)
        self._kept = Kept(self.checkpoint_dir, warn=self._warn, written=lambda path: self._call("on_checkpoint", path))
        self._non_finite = NonFinite(self.model, self._kept)
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self._random_states = resumed(self, self._kept) if self._may_resume(resume) else None
        # Before there was an evaluation: a forward pass is a third of a step.
        num_evaluated = length_of(evaluate) or (self._steps_per_epoch or 0) / 4 if evaluate is not None else 0
        before = self.position.seconds
        self._pace = Pace(self.time_limit_seconds, seconds_before=before, evaluation_steps=num_evaluated / 3)
        self._agreed = Agreement(self.processes, interruption, self._pace, self.checkpoint_every_seconds)
        self._kept.keep_good(self.model)
        self.listener.say(f"precision: {self.precision}: {self.precision_reason}; device: {self.processes.device}")

    def _may_resume(self, resume: bool) -> bool:
        folder = self.checkpoint_dir
        there = folder is not None and (folder / LAST).exists()
        if there and not resume:
            raise UsageError(f"checkpoints are never overwritten unasked: {folder} has them; resume, or choose another")
        return there

    def _save_last(self) -> bool:
        """Write the weights if they are sound; False where they are not."""
        self.position.seconds = self._agreed.saved_at = self._pace.elapsed()
        if self._non_finite.in_a_row or not are_finite(p for p in self.model.parameters() if p.requires_grad):
            return False
        if self.checkpoint_dir is not None:
            state = state_of(self)
            if self.processes.is_main:
                self._kept.write(LAST, state)
        return True

    def _interrupted(self) -> None:
        """After Ctrl-C or SIGTERM, here or in another process: leave usable checkpoints, and go."""
        if not self._agreed.heard_signal():
            return
        self._save_last()
        if self.checkpoint_dir is not None and not self._kept.has_best() and self.processes.is_main:
            self._kept.keep_best(self.evaluated_model, metric=self.metric, value=None)
        raise self._agreed.interruption.end()

    def _break_off(self) -> None:
        """Between validation batches: alone, a signal need not wait for the rest of them."""
        if self.processes.world == 1 and self._agreed.heard_signal():
            raise BrokenOffError

    def _finish(self, why: str) -> None:
        self.history.stopped = why
        if self.position.best_row is not None:
            self.history.best = self.history.rows[self.position.best_row]
        weights = self._kept.best() if self.history.best is not None and self.restore_best else None
        if weights is not None:
            load_model(self.model, weights, what="best")
        elif self.ema is not None:
            load_model(self.model, self.ema.module.state_dict())
        self.model.eval()
        self.listener.say(f"training ended: {why}")

    def _call(self, event: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *args)

    def _warn(self, text: str) -> None:
        """To the listener; where nobody listens, as Python warns."""
        if self._listener is not None:
            self.listener.say(text)
        else:
            warnings.warn(text, RuntimeWarning, stacklevel=2)
