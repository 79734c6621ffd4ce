"""The optimiser (timm's) and the learning rate over the steps of a run.

A schedule is a pure function of the step, so that a resume is exact, and it can be re-planned to another end (a time
limit, once the first steps have been timed) without a jump.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from regraft.errors import UsageError, nearest
from regraft.models.layer_decay import param_groups

Shape = Literal["cosine", "one_cycle", "staircase", "constant"]
"""Form of a schedule; see `Schedule`."""


def make_optimizer(
    model_or_groups: nn.Module | Iterable[dict[str, Any]],
    name: str = "adamw",
    *,
    lr: float,
    weight_decay: float = 0.0,
    layer_decay: float | None = None,
    no_decay: bool = True,
    **options: Any,
) -> Optimizer:
    """An optimiser of timm's by name, with a learning rate for each layer.

    Args:
        model_or_groups: a module, grouped by `regraft.models.layer_decay.param_groups`; or groups made before, whose
            own `lr` and `weight_decay` hold.
        name: timm's: adamw, sgd (Nesterov momentum 0.9), lamb, lion, … (`timm.optim.list_optimizers()`).
        lr: of the head.
        weight_decay: of matrices and kernels.
        layer_decay: a layer k before the head learns with lr·layer_decay^k; only with a module.
        no_decay: norms, biases and what the model names itself are not decayed; only with a module.
        options: of the optimiser, such as `betas`, `momentum`, `fused`.

    Raises:
        UsageError: an unknown name or option, a rate that is none, nothing trainable.
    """
    from timm.optim import create_optimizer_v2, list_optimizers

    if not (math.isfinite(lr) and lr > 0 and math.isfinite(weight_decay) and weight_decay >= 0):
        raise UsageError(f"lr is above 0 and weight_decay at least 0: {lr=}, {weight_decay=}")
    known = list_optimizers()
    if name.lower() not in known:
        raise UsageError(
            f"optimiser {name!r} is not one of timm's{nearest(name, known)}; all: timm.optim.list_optimizers()"
        )
    if isinstance(model_or_groups, nn.Module):
        groups = param_groups(
            model_or_groups, lr=lr, layer_decay=layer_decay, weight_decay=weight_decay, no_decay=no_decay
        )
    else:
        groups = list(model_or_groups)
        if layer_decay is not None:
            raise UsageError("layer_decay groups a module's layers; these are groups already: pass the module")
    try:
        optimizer: Optimizer = create_optimizer_v2(groups, opt=name, lr=lr, weight_decay=weight_decay, **options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"optimiser {name!r} does not take {options or 'these values'}: {error}") from error
    return optimizer


class Schedule:
    """Multiplier of every group's learning rate, as a pure function of the step.

        cosine      linear warm-up, then half a cosine to `final`
        one_cycle   half a cosine up from 1/div, half a cosine down to 1/div_final: fastai's (Smith 2018)
        staircase   linear warm-up, then ÷10 at each milestone: BiT's (Kolesnikov et al. 2020)
        constant    linear warm-up, then 1

    Args:
        shape: one of these.
        total_steps: optimiser steps of the run, >= 1.
        warmup_steps: W steps in which the multiplier rises from 1/(W + 1) to 1 (one_cycle has its own rise).
        final: of cosine: the multiplier at the end.
        pct_start: of one_cycle: share of the steps that rise; fastai's `fine_tune` takes 0.3.
        div: of one_cycle: it starts at 1/div; `fine_tune` takes 5.
        div_final: of one_cycle: it ends at 1/div_final; fastai's 1e5.
        milestones: of staircase: shares of the run at which it is divided by 10.

    Raises:
        UsageError: values that make no schedule, all in one message.
    """

    def __init__(
        self,
        shape: Shape,
        total_steps: int,
        *,
        warmup_steps: int = 0,
        final: float = 0.0,
        pct_start: float = 0.3,
        div: float = 5.0,
        div_final: float = 1e5,
        milestones: tuple[float, ...] = (0.3, 0.6, 0.9),
    ) -> None:
        wrong = []
        if shape not in get_args(Shape):
            wrong.append(f"a schedule is one of {', '.join(get_args(Shape))}, not {shape!r}")
        if total_steps < 1 or not 0 <= warmup_steps <= total_steps:
            wrong.append(f"0 <= warmup_steps <= total_steps, and a step at least: {warmup_steps=}, {total_steps=}")
        if not 0.0 <= final <= 1.0:
            wrong.append(f"final is in [0, 1]: {final=}")
        if not 0.0 < pct_start < 1.0 or div < 1.0 or div_final < 1.0:
            wrong.append(f"pct_start is in (0, 1), div and div_final at least 1: {pct_start=}, {div=}, {div_final=}")
        if list(milestones) != sorted(milestones) or any(not 0 < m <= 1 for m in milestones):
            wrong.append(f"milestones are shares of the run in rising order: {milestones=}")
        if wrong:
            raise UsageError("; ".join(wrong))
        self.shape, self.final, self.milestones = str(shape), final, list(milestones)
        self.warmup_steps, self.warmup = warmup_steps, warmup_steps / total_steps
        self.pct_start, self.div, self.div_final = pct_start, div, div_final
        self.knots: list[list[float]] = [[0, 0.0], [total_steps, 1.0]]
        """(step, share of the run that is done there), rising; linear between: what re-planning bends."""

    @property
    def total_steps(self) -> int:
        """The step at which it ends, as planned now."""
        return int(self.knots[-1][0])

    def __call__(self, step: int) -> float:
        """The multiplier for optimiser step number `step`, from 0; after the end it stays."""
        done = self.progress(step)
        if self.shape != "one_cycle" and done < self.warmup:
            return (self.warmup_steps * done / self.warmup + 1) / (self.warmup_steps + 1)
        return _SHAPES[self.shape](self, done)

    def progress(self, step: int) -> float:
        """Share of the run that is done before this step, in [0, 1]."""
        for (left, low), (right, high) in itertools.pairwise(self.knots):
            if step < right:
                return low + (high - low) * (step - left) / (right - left)
        return 1.0

    def replan(self, total_steps: int, *, at_step: int) -> None:
        """From a step on, run through what is left of the shape in another number of steps.

        The value at `at_step` stays, steps before it keep theirs, and the shape ends at `total_steps`; a warm-up that
        is not over is stretched too.

        Raises:
            UsageError: it would end in the past.
        """
        if not 0 <= at_step < total_steps:
            raise UsageError(f"a schedule is re-planned to end after this step: {at_step=}, {total_steps=}")
        done = self.progress(at_step)
        past = [knot for knot in self.knots if knot[0] < at_step]
        self.knots = [*past, [at_step, done], [total_steps, 1.0]]

    def attach(self, optimizer: Optimizer) -> LambdaLR:
        """A scheduler of torch's, to be stepped after each optimiser step.

        This object is a part of it: its state_dict holds the re-planned end, and loading it restores both exactly.
        Do not let Accelerate `prepare` it, which would step it once per process.
        """
        return LambdaLR(optimizer, self)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and lists; JSON can hold them."""
        return copy.deepcopy(self.__dict__)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the schedule that `state_dict` described."""
        self.__dict__.update(copy.deepcopy(state))


def _cosine(plan: Schedule, done: float) -> float:
    left = (1.0 - done) / (1.0 - plan.warmup) if plan.warmup < 1 else 0.0
    return plan.final + (1.0 - plan.final) * 0.5 * (1.0 - math.cos(math.pi * left))


def _one_cycle(plan: Schedule, done: float) -> float:
    if done < plan.pct_start:
        return _half_cosine(1.0 / plan.div, 1.0, done / plan.pct_start)
    return _half_cosine(1.0, 1.0 / plan.div_final, (done - plan.pct_start) / (1.0 - plan.pct_start))


def _half_cosine(start: float, end: float, share: float) -> float:
    return start + (end - start) * 0.5 * (1.0 - math.cos(math.pi * share))


def _staircase(plan: Schedule, done: float) -> float:
    return float(0.1 ** sum(done >= milestone for milestone in plan.milestones))


def _constant(plan: Schedule, done: float) -> float:
    return 1.0


_SHAPES: dict[str, Callable[[Schedule, float], float]] = {
    "cosine": _cosine, "one_cycle": _one_cycle, "staircase": _staircase, "constant": _constant,
}  # fmt: skip
