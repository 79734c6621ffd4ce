"""Many multinomial logistic regressions on one feature matrix at once.

Each problem b (a fold's training part, or all rows) minimises over its weights W

    sum_n s_bn CE(softmax(W x_n), y_n)  +  strength / 2 ||W||^2       (sum_n s_bn = 1; the intercept is not penalised)

by preconditioned nonlinear conjugate gradients (Polak-Ribiere+). Three things make it fast:

- The gradients of all problems are one matrix product, and so are the logits of all search directions. Logits are
  linear in the step, so the line search (Newton on the derivative of a convex function of one variable, each
  problem its own) touches only logits, and the loss itself is never needed.
- The preconditioner is the Hessian with the average curvature of the softmax, C = E[diag(p) - p p^T], in place of
  each row's own: the Hessian is then the Kronecker product of C and the covariance (Martens and Grosse 2015), which
  the eigenbases of both make diagonal. Boehning's bound (1992) is the case C = (I - 11^T/K) / 2. With it 120
  problems of 10,000 x 1280 x 10 needed 5 to 7 iterations each.
- A problem that is solved leaves the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.fit.backend import Backend

ABSENT = -60.0
"""Logit of a class that has no row in a problem's training part: its intercept would fall without end."""

_STALLED = 15  # iterations without progress: float32 has no more to give (near 1e-10 of the mean loss)
_MAX_KRONECKER_CLASSES = 256  # above, the eigenvectors of C cost more than they save: its diagonal is taken


@dataclass(slots=True, kw_only=True, eq=False)
class Batch:
    """Problems that are solved together, with the memory they are solved in.

    Attributes:
        backend: where the arrays live.
        inputs: (N, r + 1), features in their principal directions and a last column of ones.
        labels: int64 (N,).
        row_weight: float32 (B, N), each row sums to 1; 0 for held-out rows.
        present: float32 (B, K, 1), 1 where the class has a row with weight.
        variance: float32 (r + 1,), mean square of each column of `inputs`.
        logits, slope, residual: float32 work space for (B, K, N) each.
    """

    backend: Backend
    inputs: Any
    labels: Any
    row_weight: Any
    present: Any
    variance: Any
    logits: Any
    slope: Any
    residual: Any


def make_batch(
    backend: Backend,
    inputs: Any,
    labels: Any,
    row_weight: NDArray[np.float32],
    present: NDArray[np.bool_],
    variance: NDArray[np.float64],
    work: tuple[Any, Any, Any],
) -> Batch:
    """Put the problems' own arrays on the device; `inputs`, `labels` and `work` are there already."""
    logits, slope, residual = work
    return Batch(
        backend=backend, inputs=inputs, labels=labels, row_weight=backend.put(row_weight),
        present=backend.put(present[:, :, None].astype(np.float32)),
        variance=backend.put(np.append(variance, 1.0).astype(np.float32)),
        logits=logits, slope=slope, residual=residual,
    )  # fmt: skip


def solve(
    batch: Batch,
    start: Any,
    strength: float,
    *,
    tolerance: float,
    max_iterations: int,
    on_solved: Callable[[int, Any], None],
) -> tuple[Any, NDArray[np.int64], NDArray[np.bool_]]:
    """Solve every problem of a batch at one strength.

    Args:
        batch: the problems.
        start: (B, K, r + 1), where to begin.
        strength: of the penalty, on the scale of a mean loss.
        tolerance: a problem is solved when the decrease of its mean loss that a Newton step of the
            preconditioner promises is at most this.
        max_iterations: a problem that takes more is left where it is.
        on_solved: called once a problem with its number and its logits (K, N), a view that is valid during the call.

    Returns:
        Weights (B, K, r + 1), iterations (B,) and whether the tolerance was reached (B,).
    """
    xp, get = batch.backend.xp, batch.backend.get
    count = len(start)
    solution = start * batch.present
    iterations, converged = np.zeros(count, np.int64), np.zeros(count, bool)
    smallest, smallest_at = np.full(count, np.inf), np.zeros(count, np.int64)
    active = np.arange(count)
    weights, present, row_weight = solution, batch.present, batch.row_weight
    penalty = batch.variance * 0 + strength
    penalty[-1] = 0

    logits = batch.logits[:count]
    _product(xp, weights, batch.inputs.T, logits)
    if float(present.min()) == 0:
        logits += (1 - present) * ABSENT
    _, _, curvature = _search(batch, logits, None, row_weight, np.zeros(count), want_curvature=True)
    precondition = _preconditioner(batch, curvature, penalty)
    direction: Any = None
    gradient_before: Any = None
    scaled_before: Any = None

    for iteration in range(max_iterations + 1):
        gradient = _product(xp, batch.residual[: len(active)], batch.inputs, None)
        gradient = (gradient + penalty * weights) * present
        scaled = _apply(xp, precondition, gradient) * present
        promise = get((gradient * scaled).sum((1, 2))).astype(np.float64) / 2
        done = promise <= tolerance
        converged[active[done]] = True
        better = promise < smallest[active]
        smallest[active[better]], smallest_at[active[better]] = promise[better], iteration
        done |= iteration - smallest_at[active] >= _STALLED
        if iteration == max_iterations:
            done[:] = True
        if done.any():
            for place in np.flatnonzero(done).tolist():
                solution[int(active[place])] = weights[place]
                on_solved(int(active[place]), logits[place])
            keep = np.flatnonzero(~done)
            if not len(keep):
                break
            for place, source in enumerate(keep.tolist()):  # ascending, so nothing is overwritten before it has moved
                if place != source:
                    logits[place] = logits[source]
            active, logits = active[keep], logits[: len(keep)]
            pick = batch.backend.put(keep)
            weights, present, row_weight = weights[pick], present[pick], row_weight[pick]
            gradient, scaled = gradient[pick], scaled[pick]
            rotation, inverse = precondition
            precondition = (None if rotation is None else rotation[pick], inverse[pick])
            if direction is not None:
                direction = direction[pick]
                gradient_before, scaled_before = gradient_before[pick], scaled_before[pick]
        iterations[active] += 1

        if direction is None:
            direction = -scaled
        else:
            beta = (scaled * (gradient - gradient_before)).sum((1, 2)) / (scaled_before * gradient_before).sum((1, 2))
            direction = direction * (beta * (beta > 0))[:, None, None] - scaled
            uphill = (direction * gradient).sum((1, 2)) >= 0
            direction = xp.where(uphill[:, None, None], -scaled, direction)
        gradient_before, scaled_before = gradient, scaled

        slope = _product(xp, direction, batch.inputs.T, batch.slope[: len(active)])
        pull = get((weights * direction * penalty).sum((1, 2))).astype(np.float64)
        stiffness = get((direction * direction * penalty).sum((1, 2))).astype(np.float64)
        step = _line_search(batch, logits, slope, row_weight, pull, stiffness)
        step_on_device = batch.backend.put(step.astype(np.float32))[:, None, None]
        weights = weights + step_on_device * direction
        slope *= step_on_device
        logits += slope
    return solution, iterations, converged


def _product(xp: Any, left: Any, right: Any, out: Any) -> Any:
    """(B, K, I) times (I, J) as one matrix product."""
    count, classes, inner = left.shape
    flat = left.reshape(count * classes, inner)
    if out is None:
        return xp.matmul(flat, right).reshape(count, classes, right.shape[1])
    xp.matmul(flat, right, out=out.reshape(count * classes, right.shape[1]))
    return out


def _line_search(
    batch: Batch,
    logits: Any,
    slope: Any,
    row_weight: Any,
    pull: NDArray[np.float64],
    stiffness: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The steps that bring each problem's derivative along its direction to a tenth; leaves residuals there."""
    low, high = np.zeros(len(pull)), np.full(len(pull), np.inf)
    first, second, _ = _search(batch, logits, slope, row_weight, low)
    at_zero = first + pull
    uphill = at_zero >= 0  # rounding, at the end of float32: stay
    step = np.where(uphill, 0, _divide(-at_zero, second + stiffness))
    for trial in range(12):
        first, second, _ = _search(batch, logits, slope, row_weight, step)
        first += pull + step * stiffness
        if trial == 11 or np.all((np.abs(first) <= 0.1 * np.abs(at_zero)) | uphill):
            break  # the residuals are those of this step
        low, high = np.where(first < 0, step, low), np.where(first > 0, step, high)
        newton = step - _divide(first, second + stiffness)
        middle = np.where(np.isinf(high), 2 * step, (low + np.minimum(high, 1e30)) / 2)
        step = np.where(uphill, 0, np.where((newton > low) & (newton < np.minimum(high, 4 * step)), newton, middle))
    return step


def _divide(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 1e-300))


def _search(
    batch: Batch,
    logits: Any,
    slope: Any,
    row_weight: Any,
    step: NDArray[np.float64],
    *,
    want_curvature: bool = False,
) -> tuple[NDArray[np.float64], NDArray[np.float64], Any]:
    """First and second derivative of each problem's loss along `slope` at `step`; writes the residuals there.

    Works on slices that fit in the cache: over the whole (B, K, N) each of some twenty passes would go to memory.
    """
    backend, xp = batch.backend, batch.backend.xp
    count, classes, num = logits.shape
    first, second = np.zeros(count), np.zeros(count)
    many = backend.device is not None
    curvature = np.zeros((count, classes, classes)) if classes <= _MAX_KRONECKER_CLASSES else np.zeros((count, classes))
    together = count if many else max(1, backend.block // (classes * num))  # small problems share a slice
    length = max(1, min(num, backend.block // (classes * together)))
    for problem in [slice(b, min(b + together, count)) for b in range(0, count, together)]:
        size = backend.put(step[problem].astype(np.float32))[:, None, None]
        for begin in range(0, num, length):
            rows = slice(begin, min(begin + length, num))
            labels = batch.labels[rows]
            place = xp.arange(labels.shape[0]) if not many else xp.arange(labels.shape[0], device=labels.device)
            weight = row_weight[problem, rows]
            probs = batch.residual[:count][problem, :, rows]
            if slope is None:
                probs[:] = logits[problem, :, rows]
            else:
                direction = slope[problem, :, rows]
                xp.multiply(direction, size, out=probs)
                probs += logits[problem, :, rows]
            probs -= xp.amax(probs, axis=1, keepdims=True)
            xp.exp(probs, out=probs)
            probs /= probs.sum(1)[:, None, :]
            if slope is not None:
                expected = (probs * direction).sum(1)
                gain = (expected - direction[:, labels, place]) * weight
                spread = direction - expected[:, None, :]
                spread *= spread
                spread *= probs
                first[problem] += backend.get(gain.sum(1, dtype=xp.float64))
                second[problem] += backend.get((spread.sum(1) * weight).sum(1, dtype=xp.float64))
            if want_curvature:
                weighted = probs * weight[:, None, :]
                mean = backend.get(weighted.sum(2, dtype=xp.float64))
                if curvature.ndim == 3:
                    curvature[problem] -= backend.get(xp.matmul(weighted, probs.swapaxes(1, 2)))
                    curvature[problem, np.arange(classes), np.arange(classes)] += mean
                else:
                    curvature[problem] += mean - backend.get((weighted * probs).sum(2, dtype=xp.float64))
            probs *= weight[:, None, :]
            probs[:, labels, place] -= weight
    return first, second, curvature


def _preconditioner(batch: Batch, curvature: NDArray[np.float64], penalty: Any) -> tuple[Any, Any]:
    """Eigenvectors of each problem's C, or None where only the diagonal is used, and the inverse eigenvalues."""
    put = batch.backend.put
    if curvature.ndim == 3:
        values, vectors = np.linalg.eigh(curvature)
        rotation = put(vectors.astype(np.float32))
    else:
        values, rotation = curvature, None
    # along (1, …, 1) the gradient vanishes: any positive value does
    values = np.maximum(values, 1e-6 * values.max(axis=1, keepdims=True) + 1e-12)
    return rotation, 1 / (put(values.astype(np.float32))[:, :, None] * batch.variance + penalty)


def _apply(xp: Any, precondition: tuple[Any, Any], gradient: Any) -> Any:
    rotation, inverse = precondition
    if rotation is None:
        return gradient * inverse
    return xp.matmul(rotation, inverse * xp.matmul(rotation.swapaxes(1, 2), gradient))
