"""Nested cross-validation with few solutions: a head without any two folds serves as an inner head of both.

To judge a fold by a head whose settings were chosen without it, every choice needs heads that saw neither that fold nor
the inner one. With F folds these are F (F - 1) / 2 pairs, not F (F - 1): with 5 folds 16 problems a repeat answer
everything (10 pairs, 5 folds, and all rows once).
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import UsageError
from regraft.fit.checks import check_folds

Heads = NDArray[np.float32]
"""(P, K, r + 1): a linear head for each problem, in the basis of the spectrum; the last column is the intercept."""


class Nested:
    """Which rows train which problem, and what heads say of the rows that they have not seen.

    Attributes:
        labels: int64 (N,).
        folds: int64 (R, N), 0..F-1.
        num_folds: F.
        num_classes: K.
        origin: int64 (M,), for each row of `train` the image it shows: 0..N-1, and then the further views.
        train: bool (P, M), the training part of each problem; the last problem has all rows.
        counts: float64 (P, K), images (not views) of each class in the training parts.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        num_classes: int,
        folds: NDArray[np.integer],
        origin: NDArray[np.int64] | None = None,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        """Lay out the problems.

        Raises:
            UsageError: fewer than three folds (a choice inside needs two others), or folds that part a group.
        """
        folds = np.atleast_2d(np.asarray(folds)).astype(np.int64)
        check_folds(folds, groups, None, len(labels))
        self.labels, self.folds, self.num_classes = labels, folds, num_classes
        self.num_folds = int(folds.max()) + 1
        if self.num_folds < 3:
            raise UsageError(f"a choice inside a fold needs two others: num_folds={self.num_folds}; use at least three")
        extra = np.empty(0, np.int64) if origin is None else np.asarray(origin, np.int64)
        self.origin = np.concatenate([np.arange(len(labels)), extra])
        self._place: dict[tuple[int, ...], int] = {}
        held: list[NDArray[np.bool_]] = []
        for r, row in enumerate(folds):
            for size in (1, 2):
                for out in combinations(range(self.num_folds), size):
                    self._place[r, *out] = len(held)
                    held.append(np.isin(row, out))
        held.append(np.zeros(len(labels), bool))
        out_of = ~np.stack(held)
        self.train = out_of[:, self.origin]
        self.counts = np.stack([np.bincount(labels[rows], minlength=num_classes) for rows in out_of]).astype(np.float64)

    @property
    def num_problems(self) -> int:
        """P."""
        return len(self.train)

    @property
    def num_repeats(self) -> int:
        """R."""
        return len(self.folds)

    def without(self, repeat: int, *folds: int) -> int:
        """Number of the problem that has not seen one or two folds."""
        return self._place[repeat, *sorted(folds)]

    def outer(self, heads: Heads, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """float32 (R, N, K): logits of each row by the head that did not see its fold.

        Args:
            heads: one per problem.
            inputs: (M, r + 1); the first N rows are asked about.
        """
        found = np.empty((self.num_repeats, len(self.labels), self.num_classes), np.float32)
        for r, row in enumerate(self.folds):
            for f in range(self.num_folds):
                asked = np.flatnonzero(row == f)
                found[r, asked] = self._logits(self.without(r, f), heads, inputs, asked)
        return found

    def inner(self, heads: Heads, inputs: NDArray[Any], repeat: int, fold: int) -> NDArray[np.float32]:
        """float32 (n, K): logits of the rows outside a fold, by heads that saw neither that fold nor the row's own."""
        row = self.folds[repeat]
        found = np.empty((len(self.labels), self.num_classes), np.float32)
        for other in range(self.num_folds):
            if other != fold:
                asked = np.flatnonzero(row == other)
                found[asked] = self._logits(self.without(repeat, fold, other), heads, inputs, asked)
        return np.asarray(found[row != fold])

    def _logits(self, problem: int, heads: Heads, inputs: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """A class that the training part lacks gets the share of half an image: a finite loss, and never the answer."""
        logits = np.asarray(inputs[rows] @ heads[problem].T, np.float32)
        counts = self.counts[problem]
        absent = counts == 0
        if absent.any():
            logits[:, absent] = -np.inf
            top = logits.max(axis=1, keepdims=True)
            total = top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
            logits[:, absent] = total + np.float32(np.log(0.5 / (counts.sum() + 0.5)))
        return logits


def log_prior(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """(…, K): log class frequencies, centred; a class without images counts as half of one."""
    shares = np.maximum(counts, 0.5)
    logs = np.log(shares / shares.sum(axis=-1, keepdims=True))
    return np.asarray(logs - logs.mean(axis=-1, keepdims=True))
