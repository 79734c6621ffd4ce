"""The learning-rate range test (Smith 2017): a short run with a rising rate, after which nothing has changed."""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from regraft.errors import DataError, UsageError

Batch = TypeVar("Batch")

SMOOTHING = 0.9
"""Weight of the past in the smoothed loss, with bias correction; 0.98 (fastai's) lags by 50 of 100 steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRates:
    """What a range test found.

    Attributes:
        lrs: the rates that were tried, rising; of the group with the largest rate (the head).
        losses: the loss of each step, before its update.
        smoothed: their running mean.
        valley: proposed: in the middle of the longest descent of the smoothed loss, or None where it never falls.
        steepest: where the smoothed loss falls fastest, for comparison, or None.
        reason: in words, why it ended and what is proposed.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    valley: float | None
    steepest: float | None
    reason: str

    def svg(self) -> str:
        """The curve as inline SVG with the classes of the report's charts."""
        return _drawn(self)


def find_lr(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Iterable[Batch],
    compute_loss: Callable[[nn.Module, Batch], Tensor],
    *,
    low: float = 1e-6,
    high: float = 1.0,
    num_steps: int = 100,
    stop_factor: float = 4.0,
    also: Sequence[nn.Module] = (),
) -> LearningRates:
    """Train for a few steps with a rate that rises exponentially from `low` to `high`, then put everything back.

    The proposal is the *valley*, the middle (on the logarithmic scale) of the longest descent, not the steepest
    point: that is a single difference of noisy losses and jumps from run to run, and it often lies at the very
    beginning of the descent or on its last step before divergence.

    Model, optimiser, `also` and the random generators of Python, NumPy and torch (every CUDA device) are exactly as
    before when this returns or raises: parameters, gradients, buffers, train or eval mode, optimiser state, rates.
    Plain attributes that a module changes itself are not seen. `batches` is read from the front, and again from its
    beginning where it ends too early.

    Args:
        model: is trained in train mode.
        optimizer: over its parameters. Groups keep the ratios of their rates (layer decay).
        batches: what `compute_loss` takes; an iterable that can be iterated again, or one that is long enough.
        compute_loss: `(model, batch)` to a scalar loss.
        low: first rate of the group with the largest rate.
        high: last one.
        num_steps: at most so many steps.
        stop_factor: ends when the smoothed loss is this many times the best so far (4 is fastai's).
        also: further modules with a state, such as an ELR loss.

    Raises:
        UsageError: rates or steps that make no test.
        DataError: no batch, or fewer than three finite losses.
    """
    if not (0 < low < high < math.inf) or num_steps < 5 or stop_factor <= 1:
        raise UsageError(
            f"a range test goes up, 0 < low < high, in 5 steps or more, to a stop_factor above 1: "
            f"{low=}, {high=}, {num_steps=}, {stop_factor=}"
        )
    largest = max(float(group["lr"]) for group in optimizer.param_groups)
    shares = [float(group["lr"]) / largest if largest > 0 else 1.0 for group in optimizer.param_groups]
    lrs: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    ended = f"all {num_steps} steps were run"
    mean = 0.0
    with _restored([model, *also], optimizer):
        model.train()
        for step, batch in enumerate(_repeated(batches, num_steps)):
            lr = low * (high / low) ** (step / (num_steps - 1))
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                group["lr"] = lr * share
            optimizer.zero_grad()
            loss = compute_loss(model, batch)
            value = float(loss.detach())
            if not math.isfinite(value):
                ended = f"the loss became {value} at a rate of {lr:.1e}"
                break
            mean = SMOOTHING * mean + (1 - SMOOTHING) * value
            lrs.append(lr)
            losses.append(value)
            smoothed.append(mean / (1 - SMOOTHING ** (step + 1)))
            best = min(smoothed)
            if step >= 5 and smoothed[-1] > best + (stop_factor - 1) * abs(best):
                ended = f"the loss rose to {smoothed[-1] / best:.1f} times its best at a rate of {lr:.1e}"
                break
            torch.autograd.backward(loss)
            optimizer.step()
    if len(lrs) < 3:
        raise DataError(
            f"a range test needs three finite losses, there are {len(lrs)} ({ended}); check the data, or lower {low=}"
        )
    valley, steepest = suggest(lrs, smoothed)
    found = (
        f"proposed {valley:.1e}, the middle of the longest descent (steepest at {steepest:.1e})"
        if valley is not None
        else "nothing is proposed: the loss never falls for long; more steps, or a lower `low`"
    )
    return LearningRates(
        lrs=tuple(lrs), losses=tuple(losses), smoothed=tuple(smoothed), valley=valley, steepest=steepest,
        reason=f"{ended}; {found}",
    )  # fmt: skip


def suggest(lrs: Sequence[float], smoothed: Sequence[float]) -> tuple[float | None, float | None]:
    """The valley and the steepest point of a curve.

    The valley is fastai's default (after ESRI's `arcgis.learn`): the longest falling subsequence of the losses, of
    which the middle is taken; single rises inside do not end it.

    Args:
        lrs: rising.
        smoothed: a loss for each.

    Returns:
        both None where no falling subsequence has a quarter of the points, at least 3.
    """
    num = len(smoothed)
    length, before = [1] * num, [-1] * num
    for i in range(num):
        for j in range(i):
            if smoothed[i] < smoothed[j] and length[j] + 1 >= length[i]:  # the latest, so that a plateau is left out
                length[i], before[i] = length[j] + 1, j
    last = max(range(num), key=length.__getitem__)
    if length[last] < max(3, num / 4):
        return None, None
    first = last
    while before[first] >= 0:
        first = before[first]
    middle = math.sqrt(lrs[first] * lrs[last])
    slopes = np.gradient(np.asarray(smoothed, np.float64), np.log(np.asarray(lrs, np.float64)))
    return middle, float(lrs[int(np.argmin(slopes))])


def _repeated(batches: Iterable[Batch], num: int) -> Iterator[Batch]:
    given = 0
    while given < num:
        before = given
        for batch in itertools.islice(batches, num - given):
            given += 1
            yield batch
        if given == before:
            if not given:
                raise DataError("a range test needs a batch, there is none")
            return  # an iterator that cannot be read twice: what there was must do


@contextmanager
def _restored(modules: Sequence[nn.Module], optimizer: Optimizer) -> Iterator[None]:
    """Put modules, optimiser and random generators back, bit for bit, into the very same tensors."""
    tensors: list[tuple[dict[str, Any], str, Tensor | None, Tensor | None, Tensor | None]] = []
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for part, _ in modes:
        kinds: tuple[dict[str, Any], dict[str, Any]] = (part._parameters, part._buffers)
        for kind in kinds:
            for name, tensor in kind.items():
                kept = None if tensor is None else tensor.detach().clone()
                grad = None if tensor is None or tensor.grad is None else tensor.grad.detach().clone()
                tensors.append((kind, name, tensor, kept, grad))
    state = {p: copy.deepcopy(values) for p, values in optimizer.state.items()}
    groups = [{k: copy.deepcopy(v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    python, numpy_state, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        with torch.no_grad():
            for kind, name, tensor, kept, grad in tensors:
                kind[name] = tensor
                if tensor is not None and kept is not None:
                    tensor.copy_(kept)
                    tensor.grad = grad
        for part, mode in modes:
            part.training = mode
        optimizer.state.clear()
        optimizer.state.update(state)
        for group, values in zip(optimizer.param_groups, groups, strict=True):
            params = group["params"]
            group.clear()
            group.update({"params": params, **values})
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


def _drawn(found: LearningRates, *, name: str = "lr-finder") -> str:
    """Colours are the report's classes; the attributes serve where there is no style sheet."""
    left, right, top, bottom = 46.0, 428.0, 32.0, 200.0
    logs = [math.log10(lr) for lr in found.lrs]
    low, high = min(found.smoothed), max(found.smoothed)
    high = min(high, low + 3 * (found.smoothed[0] - low)) if found.smoothed[0] > low else high  # the blow-up is cut off
    span = (high - low) or 1.0

    def x(log: float) -> float:
        return round(left + (right - left) * (log - logs[0]) / (logs[-1] - logs[0]), 2)

    def y(loss: float) -> float:
        return round(bottom - (bottom - top) * min(max((loss - low + 0.05 * span) / (1.1 * span), 0.0), 1.0), 2)

    superscript = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    body = []
    for part in range(5):
        loss = low + span * part / 4
        body.append(f'<line class="grid" stroke="#ccc" x1="{left}" x2="{right}" y1="{y(loss)}" y2="{y(loss)}"/>')
        body.append(f'<text class="tick" x="{left - 6}" y="{y(loss)}" dy="0.34em" text-anchor="end">{loss:.3g}</text>')
    for power in range(math.ceil(logs[0] - 1e-9), math.floor(logs[-1] + 1e-9) + 1):
        text = f"10{str(power).translate(superscript)}"
        body.append(f'<text class="tick" x="{x(power)}" y="{bottom + 17}" text-anchor="middle">{text}</text>')
    body.append(f'<text class="axis-name" x="{left + 4}" y="22">loss (smoothed; dots: each step)</text>')
    body.append(
        f'<text class="axis-name" x="{(left + right) / 2}" y="{bottom + 37}" text-anchor="middle">learning rate</text>'
    )
    body += [
        f'<circle class="faint" cx="{x(log)}" cy="{y(loss)}" r="1.2" fill="#999"/>'
        for log, loss in zip(logs, found.losses, strict=True)
    ]
    way = " ".join(f"{x(log)},{y(loss)}" for log, loss in zip(logs, found.smoothed, strict=True))
    body.append(f'<polyline class="curve" fill="none" stroke="currentColor" stroke-width="2" points="{way}"/>')
    if found.valley is not None:
        at = x(math.log10(found.valley))
        side, shift = ("end", -6) if at > (left + right) / 2 else ("start", 6)
        body.append(
            f'<line class="chosen" stroke="currentColor" stroke-dasharray="2 3" x1="{at}" x2="{at}" y1="{top}" '
            f'y2="{bottom}"/><text class="chosen-name" x="{at + shift}" y="{top + 12}" text-anchor="{side}">'
            f"{found.valley:.1e}</text>"
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" role="img" viewBox="0 0 440 {bottom + 46:g}" '
        f'font-size="13" aria-labelledby="{name}-title {name}-desc"><title id="{name}-title">Loss by learning rate'
        f'</title><desc id="{name}-desc">{escape(found.reason)}</desc>{"".join(body)}</svg>'
    )
