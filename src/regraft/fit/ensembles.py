"""Heads on re-sampled rows: under-sampling, over-sampling, and T balanced heads that become one.

    draw_rows        how often each problem takes each row, so that its classes have the sizes asked for
    HeadSolver       paths of heads under any weights of the rows, all problems as one batch
    average_heads    T linear softmax heads as one

The ensemble is EasyEnsemble's idea (Liu, Wu & Zhou 2009: T under-samples that together use all of the majority) with a
linear head in the place of AdaBoost, and balanced bagging (Breiman's bootstrap, class by class). Its members' mean
log-probability is, up to a constant per image, the logit of the mean of their weights: T heads are exactly one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.fit.backend import Backend
from regraft.fit.multinomial import make_batch, solve
from regraft.fit.nested import Heads

TOLERANCE = 1e-4
"""Of the mean loss. Solved to 1e-5, which takes twice as long, the held-out loss of 2,000 and of 6,000 images moved by
0.001 where a path is at its best; its standard error is ten times that."""
_MAX_ITERATIONS = 200

SMALLEST_SAMPLE = 5
"""Under-sampling goes down to the smallest class of at least so many images; smaller ones are repeated. Otherwise one
class of one image would throw away all but one image of every class."""


def target_sizes(counts: NDArray[np.float64], anchor: str, strength: float) -> NDArray[np.float64]:
    """How many rows each class should have: anchor^strength × own size^(1 - strength), (P, K) whole numbers.

    Args:
        counts: (P, K) rows at hand.
        anchor: `smallest` (under-sampling), `largest` (over-sampling), or `middle`, the geometric mean of the classes:
            the large ones are under-sampled and the small ones over-sampled.
        strength: 1 makes all classes alike, 0 leaves them as they are.
    """
    sizes = np.zeros(counts.shape)
    for problem, row in enumerate(counts):
        seen = row[row > 0]
        if anchor == "smallest":
            enough = seen[seen >= SMALLEST_SAMPLE]
            level = float(enough.min()) if len(enough) else float(seen.max())
        elif anchor == "largest":
            level = float(seen.max())
        else:
            level = float(np.exp(np.log(seen).mean()))
        wanted = level**strength * np.maximum(row, 1) ** (1 - strength)
        sizes[problem] = np.where(row > 0, np.maximum(1, np.round(wanted)), 0)
    return sizes


def draw_rows(
    labels: NDArray[np.int64],
    train: NDArray[np.bool_],
    sizes: NDArray[np.float64],
    *,
    replacement: bool,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """How often each problem takes each row: float32 (P, N), class k of problem p in all `sizes[p, k]` times.

    A class's rows form one random sequence and every problem takes from its beginning what it may, so that problems
    share most of their rows and are cheap to solve together; for each by itself the draw is as random as any.

    Args:
        labels: int64 (N,).
        train: bool (P, N), rows that a problem may take.
        sizes: (P, K); 0 where a class has no row to take.
        replacement: a bootstrap; otherwise shuffled rounds, every row once before any comes twice.
        rng: the source of chance.
    """
    taken = np.zeros(train.shape, np.float32)
    for k in range(sizes.shape[1]):
        rows = np.flatnonzero(labels == k)
        if not len(rows) or not sizes[:, k].any():
            continue
        may = train[:, rows]
        left = sizes[:, k].copy()
        while left.any():
            order = rng.integers(len(rows), size=len(rows)) if replacement else rng.permutation(len(rows))
            open_ = may[:, order]
            used = open_ & (np.cumsum(open_, axis=1) <= left[:, None])
            for problem in np.flatnonzero(used.any(axis=1)).tolist():
                np.add.at(taken[problem], rows[order[used[problem]]], 1)
            left -= used.sum(axis=1)
            left[~may.any(axis=1)] = 0
    return taken


class HeadSolver:
    """Solves a path of heads for all problems at once, under any weights of the rows.

    Args:
        backend: where the arrays live.
        inputs: float32 (M, r + 1), rotated features, the last column 1.
        variance: float64 (r,), of the inputs.
        labels: int64 (M,).
        num_classes: K.
        max_memory_gib: for the logits of problems that are solved together.
        tolerance: of each problem's mean loss.
    """

    def __init__(
        self,
        backend: Backend,
        inputs: NDArray[Any],
        variance: NDArray[np.float64],
        labels: NDArray[np.int64],
        num_classes: int,
        max_memory_gib: float = 1.0,
        tolerance: float = TOLERANCE,
    ) -> None:
        self._backend, self.inputs, self._variance = backend, inputs, variance
        self._labels, self._classes, self._memory = labels, num_classes, max_memory_gib
        self._tolerance = tolerance

    def path(self, row_weight: NDArray[np.floating], strengths: Sequence[float]) -> Iterator[NDArray[np.float32]]:
        """Heads, float32 (P, K, r + 1), strength by strength; whoever asks may stop asking.

        Args:
            row_weight: (P, M), not negative, 0 for rows that a problem does not take; each row's sum is set to 1.
            strengths: penalties, strongest first, beside the mean loss.
        """
        backend, count = self._backend, len(row_weight)
        used = np.flatnonzero((row_weight > 0).any(axis=0))
        rows, variance, back = self._reduced(used)
        inputs, labels = backend.put(rows), backend.put(self._labels[used])
        weight = row_weight[:, used].astype(np.float64)
        weight /= weight.sum(axis=1, keepdims=True)
        shares = np.stack([np.bincount(self._labels[used], row, self._classes) for row in weight])
        shared = weight.astype(np.float32)
        each_gib = 3 * self._classes * len(used) * 4 / 2**30
        step = int(np.clip(self._memory / 2 / each_gib, 1, count))
        work = tuple(backend.empty(step, self._classes, len(used)) for _ in range(3))
        heads = np.zeros((count, self._classes, rows.shape[1]), np.float32)
        heads[:, :, -1] = np.log(np.maximum(shares, 1e-12))
        before: list[Heads] = []
        for strength in strengths:
            start = heads
            if len(before) == 2:  # strengths are evenly spaced in the logarithm: straight on from the last two
                start = 2 * before[1] - before[0]
            heads = np.empty_like(start)
            for first in range(0, count, step):
                some = slice(first, min(first + step, count))
                size = some.stop - some.start
                batch = make_batch(
                    backend, inputs, labels, shared[some], shares[some] > 0, variance,
                    (work[0][:size], work[1][:size], work[2][:size]),
                )  # fmt: skip
                solved, _, _ = solve(
                    batch, backend.put(start[some]), strength, tolerance=self._tolerance,
                    max_iterations=_MAX_ITERATIONS, on_solved=lambda place, logits: None,
                )  # fmt: skip
                heads[some] = backend.get(solved)
            before = [*before, heads][-2:]
            yield heads if back is None else back(heads)

    def _reduced(
        self, used: NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[np.float64], Callable[[Heads], Heads] | None]:
        """The rows that are used, their variance, and the way back; few rows in the space that they span alone.

        A penalised head is a combination of its rows: 100 rows of 1,280 features are a problem of 100 columns.
        """
        if len(used) == len(self.inputs):
            return self.inputs, self._variance, None
        rows = np.ascontiguousarray(self.inputs[used])
        if 2 * len(used) > rows.shape[1]:
            return rows, self._variance, None
        inner = rows[:, :-1].astype(np.float64)
        values, left = np.linalg.eigh(inner @ inner.T)
        keep = values > max(1e-9 * float(values[-1]), 1e-12)
        root = np.sqrt(values[keep])
        basis = (inner.T @ (left[:, keep] / root)).astype(np.float32)
        small = np.concatenate([left[:, keep] * root, np.ones((len(used), 1))], axis=1).astype(np.float32)

        def back(heads: Heads) -> Heads:
            return np.concatenate([heads[:, :, :-1] @ basis.T, heads[:, :, -1:]], axis=2)

        return small, np.square(root) / len(used), back


def average_heads(members: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """One linear head whose softmax is the renormalised mean log-probability of the members' (any leading axes).

    log softmax(W_t x) is W_t x less a number that does not depend on the class; the mean over t of the members is
    (mean of W_t) x less such a number, and the softmax does not see it.
    """
    total: Heads = np.zeros_like(members[0])
    for member in members:
        total += member
    return total / np.float32(len(members))
