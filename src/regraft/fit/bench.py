"""What all remedies work on: features in their basis, nested folds, the solver, and paths that are solved once.

Bench    one data set laid out for remedies
Path     heads over the penalties under one weighting of the rows, with what they lose on rows they have not seen
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.fit.backend import choose_backend
from regraft.fit.checks import check_rows
from regraft.fit.ensembles import TOLERANCE, HeadSolver, average_heads, draw_rows, target_sizes
from regraft.fit.nested import Heads, Nested
from regraft.fit.selection import Metric, choose_strength, dense_groups
from regraft.fit.spectrum import decompose

STRENGTHS = tuple(float(value) for value in np.geomspace(1e-1, 1e-5, 9))
"""Penalties, as shares of the largest variance; a path ends one step after every fold's loss has begun to rise."""

EXACT_BELOW = 1000
"""Fewer images are solved ten times closer: it costs nothing, and few images are easily told apart."""

NUM_MEMBERS = 10
"""Heads of an ensemble."""


class Path:
    """Heads over the penalties. Which penalty a fold gets is blind to the labels of that fold.

    Attributes:
        heads: L times (P, K, r + 1), strongest penalty first.
        strengths: the L penalties.
    """

    def __init__(self, bench: Bench, exponent: float, found: Iterator[Heads], strengths: Sequence[float]) -> None:
        """Ask for heads until the loss rises.

        Args:
            bench: whose rows.
            exponent: rows of a class of n images weigh n^-exponent in the loss that the penalty is chosen by.
            found: heads by falling strength.
            strengths: the strengths.
        """
        self._bench, self.heads = bench, list[Heads]()
        self._outer: list[NDArray[np.float32]] = []
        self._inner: list[NDArray[np.float32]] = []
        counts = bench.nested.counts[-1]
        self._weight = np.maximum(counts, 1)[bench.nested.labels] ** -exponent
        lowest = np.full(bench.nested.folds.shape[0] * (bench.nested.num_folds + 1), np.inf)
        for heads in found:
            self.heads.append(heads)
            self._outer.append(self._losses(bench.nested.outer(heads, bench.inputs)))
            self._inner.append(self._inner_losses(heads))
            means = np.concatenate([(self._outer[-1] @ self._weight).ravel(), (self._inner[-1] @ self._weight).ravel()])
            if (means > lowest).all():  # of every fold, so that where it ends does not tell a fold of its own labels
                break
            lowest = np.minimum(lowest, means)
        self.strengths: tuple[float, ...] = tuple(strengths[: len(self.heads)])
        self._chosen: dict[tuple[int, int], int] = {}

    def choose(self, repeat: int, fold: int) -> int:
        """The penalty for a fold, by the other folds alone: the strongest within a standard error of the best."""
        if (repeat, fold) not in self._chosen:
            rows = np.flatnonzero(self._bench.nested.folds[repeat] != fold)
            losses = np.stack([loss[repeat, fold, rows] for loss in self._inner])
            groups = None if self._bench.groups is None else self._bench.groups[rows]
            self._chosen[repeat, fold], _ = choose_strength(losses, np.ones(len(rows)), self._weight[rows], groups)
        return self._chosen[repeat, fold]

    def choose_all(self) -> int:
        """The penalty for the head on all rows."""
        repeats = self._bench.nested.num_repeats
        losses = np.stack([loss.ravel() for loss in self._outer])
        weight = np.tile(self._weight, repeats)
        return choose_strength(losses, np.ones(len(weight)), weight, self._bench.tiled_groups)[0]

    def range(self) -> tuple[int, int]:
        """The strongest and the weakest penalty that any fold chooses."""
        nested = self._bench.nested
        chosen = [self.choose(r, f) for r in range(nested.num_repeats) for f in range(nested.num_folds)]
        return min(chosen), max(chosen)

    def _inner_losses(self, heads: Heads) -> NDArray[np.float32]:
        nested = self._bench.nested
        found = np.zeros((nested.num_repeats, nested.num_folds, len(nested.labels)), np.float32)
        for r in range(nested.num_repeats):
            for f in range(nested.num_folds):
                rows = np.flatnonzero(nested.folds[r] != f)
                logits = nested.inner(heads, self._bench.inputs, r, f)
                found[r, f, rows] = _log_loss(logits, nested.labels[rows])
        return found

    def _losses(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([_log_loss(one, self._bench.nested.labels) for one in logits])


class Bench:
    """One data set, laid out for remedies.

    Attributes:
        nested: the problems.
        inputs: float32 (M, r + 1), the images' features in the basis of their spectrum, then those of views.
        variance: float64 (r,).
        metric: what settings are chosen for.
        groups: int64 (N,) or None where every image is its own.
        tiled_groups: int64 (R N,), the groups as often as every image is held out; None where nothing belongs together.
        seed: of the re-sampling.
    """

    def __init__(
        self,
        features: NDArray[Any],
        labels: NDArray[np.int64],
        *,
        num_classes: int,
        folds: NDArray[np.integer],
        group_ids: NDArray[np.int64] | None = None,
        views: tuple[NDArray[Any], NDArray[np.int64]] | None = None,
        metric: Metric = "macro_f1",
        device: str = "auto",
        seed: int = 0,
    ) -> None:
        """Lay out.

        Args:
            features: float (N, D).
            labels: int64 (N,), 0..K-1.
            num_classes: K.
            folds: int (R, N) or (N,), at least three folds; a group lies within one.
            group_ids: int64 (N,).
            views: features (V, D) of augmented views, and for each the row of the image it shows.
            metric: what settings are chosen for.
            device: as in `fit_linear_probe`.
            seed: of the re-sampling.

        Raises:
            UsageError: arguments that do not fit together.
            DataError: fewer than two classes, features that are not finite.
        """
        labels = np.asarray(labels, np.int64)
        self.groups = dense_groups(group_ids)
        check_rows(features, labels, num_classes, self.groups, None)
        self.nested = Nested(labels, num_classes, folds, None if views is None else views[1], self.groups)
        self._spectrum = decompose(features)
        self.inputs, self.variance = self._spectrum.rotated, self._spectrum.variance
        if views is not None:
            seen = (np.asarray(views[0], np.float32) - self._spectrum.mean) / self._spectrum.scale
            further = np.concatenate([seen @ self._spectrum.basis, np.ones((len(seen), 1))], axis=1)
            self.inputs = np.concatenate([self.inputs, further.astype(np.float32)])
        self.metric: Metric = metric
        self.seed = seed
        own = np.arange(len(labels)) if self.groups is None else self.groups
        repeats = self.nested.num_repeats
        self.tiled_groups = self.groups if repeats == 1 else np.tile(own, repeats)
        backend = choose_backend(device)
        self.device = backend.reason
        self._solver = HeadSolver(
            backend, self.inputs, self.variance, labels[self.nested.origin], num_classes,
            tolerance=TOLERANCE if len(labels) >= EXACT_BELOW else TOLERANCE / 10,
        )  # fmt: skip
        self._paths: dict[tuple[Any, ...], Path] = {}

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.nested.labels)

    def plain(self) -> Path:
        """Every image weighs alike."""

        def solve() -> Path:
            strengths = self._strengths(STRENGTHS)
            return Path(self, 0.0, self._solver.path(self._images(), strengths), strengths)

        return self._once(("plain",), solve)

    def weighted(self, exponent: float, *, with_views: bool = False) -> Path:
        """Images of a class of n weigh n^-exponent; views share the weight of the image they show."""

        def solve() -> Path:
            nested = self.nested
            train = nested.train.astype(np.float64) if with_views else self._images()
            of_row = np.maximum(nested.counts, 1)[:, nested.labels[nested.origin]] ** -exponent
            shared = np.bincount(nested.origin)[nested.origin] if with_views else np.ones(len(nested.origin))
            strengths = self._strengths(STRENGTHS)
            return Path(self, exponent, self._solver.path(train * of_row / shared, strengths), strengths)

        return self._once(("weighted", exponent, with_views), solve)

    def resampled(self, anchor: str, strength: float, *, members: int = 1, replacement: bool = False) -> Path:
        """Re-sampled towards classes of one size (`ensembles.target_sizes`); several members become their mean.

        Which penalties an ensemble tries follows from what a single such head chose in all folds, to save nine tenths
        of the time; its choice among them is blind to the fold like any other.
        """

        def solve() -> Path:
            nested = self.nested
            strengths = self._strengths(STRENGTHS)
            if members > 1:  # what one such head wanted, in any fold; a mean of several can do with a weaker one
                one = self.resampled(anchor, strength)
                first, last = one.range()
                strengths = one.strengths[first : last + 2]
            sizes = target_sizes(nested.counts, anchor, strength)
            rng = np.random.default_rng([self.seed, members])
            further = np.zeros((nested.num_problems, len(nested.origin) - self.num_images), np.float32)
            paths = []
            for _ in range(members):
                drawn = draw_rows(
                    nested.labels, nested.train[:, : self.num_images], sizes, replacement=replacement, rng=rng
                )
                paths.append(self._solver.path(np.concatenate([drawn, further], axis=1), strengths))
            means = (average_heads(heads) for heads in zip(*paths, strict=True))
            return Path(self, strength, means, strengths)

        return self._once(("resampled", anchor, strength, members, replacement), solve)

    def to_raw(self, head: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A head (K, r + 1) as weight (K, D) and bias (K,) for raw features."""
        weight, bias = self._spectrum.to_raw(head)
        return weight.astype(np.float32), bias.astype(np.float32)

    def _images(self) -> NDArray[np.float64]:
        train = self.nested.train.astype(np.float64)
        train[:, self.num_images :] = 0
        return train

    def _strengths(self, shares: Sequence[float]) -> tuple[float, ...]:
        top = float(self.variance[0]) if len(self.variance) else 1.0
        return tuple(top * share for share in shares)

    def _once(self, key: tuple[Any, ...], solve: Callable[[], Path]) -> Path:
        if key not in self._paths:
            self._paths[key] = solve()
        return self._paths[key]


def _log_loss(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    top = logits.max(axis=1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return np.asarray(total - logits[np.arange(len(labels)), labels], np.float32)
