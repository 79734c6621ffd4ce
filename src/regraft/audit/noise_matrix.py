"""How many labels are wrong, and which class is given for which: estimates with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.audit.noise_model import NoiseModel, fit_noise_model
from regraft.types import Interval

Floats = NDArray[np.float64]

FIT_ROWS = 20_000
"""Rows that the noise model is fitted on; of more, whole groups are drawn. The error is then under half a point."""
RESAMPLED_ROWS = 2_000
NUM_RESAMPLES = 40


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NoiseEstimate:
    """How labels go wrong, as far as the judges can tell.

    Attributes:
        num_wrong: expected number of wrong labels, in images.
        per_class: (K,) expected number of wrong labels among the images of each given class.
        matrix: float64 (K, K), P(given = j | right = k); rows sum to 1.
        low: float64 (K, K), lower ends of the matrix's intervals.
        high: float64 (K, K), upper ends.
        level: coverage that is aimed at.
    """

    num_wrong: Interval
    per_class: tuple[Interval, ...]
    matrix: Floats
    low: Floats
    high: Floats
    level: float = 0.95


def fit_on_part(
    judges: Sequence[NDArray[Any]], labels: NDArray[np.int64], *, groups: NDArray[np.int64], seed: int
) -> NoiseModel:
    """The noise model of all images, or of whole groups that make up some 20,000 of them."""
    rows = _draw_groups(groups, FIT_ROWS, np.random.default_rng(seed))
    return fit_noise_model([judge[rows] for judge in judges], labels[rows])


def estimate_noise(
    model: NoiseModel,
    posterior: NDArray[np.float32],
    judges: Sequence[NDArray[Any]],
    labels: NDArray[np.int64],
    *,
    groups: NDArray[np.int64],
    seed: int = 0,
    level: float = 0.95,
) -> NoiseEstimate:
    """Intervals around what a noise model says.

    Two sources of error are added: drawing other groups (bootstrap of whole groups, of 2,000 rows and scaled, with the
    model refitted on each), and believing other judges (the jackknife over the judges). A judge that
    knows next to nothing widens the second. Neither knows of a mistake that all judges share: images that all of them
    hold for another class count as wrong labels.

    Args:
        model: fitted on these images, or on a part of them.
        posterior: float32 (N, K), what it says of them.
        judges: M arrays, float (N, K), held-out log-scores.
        labels: int64 (N,), 0..K-1.
        groups: int64 (N,); images of a group are drawn together.
        seed: of the draws.
        level: coverage that is aimed at.
    """
    num, num_classes = posterior.shape
    wrong = 1 - posterior[np.arange(num), labels].astype(np.float64)
    sizes = np.bincount(labels, minlength=num_classes)
    rates = np.bincount(labels, wrong, num_classes) / np.maximum(sizes, 1)
    rng = np.random.default_rng(seed)
    draws = [_refitted(model, judges, labels, groups, rng) for _ in range(NUM_RESAMPLES)]
    shrunk = np.mean([drawn.num_rows for drawn in draws]) / num
    spread = [_variance([draw[i] for draw in map(_parts, draws)]) * shrunk for i in range(3)]
    if len(judges) > 1:
        rows = _draw_groups(groups, RESAMPLED_ROWS, rng)
        without = [
            _parts(_Draw.of(fit_noise_model([judge[rows] for judge in kept], labels[rows]), len(rows)))
            for kept in ([judge for j, judge in enumerate(judges) if j != left] for left in range(len(judges)))
        ]
        spread = [v + (len(judges) - 1) * _variance([w[i] for w in without]) for i, v in enumerate(spread)]
    low, high = _logit_interval(model.transition, spread[2], level)
    total = _counted(float(wrong.mean()), float(spread[0]), num, level)
    each = [_counted(float(r), float(v), int(n), level) for r, v, n in zip(rates, spread[1], sizes, strict=True)]
    return NoiseEstimate(
        num_wrong=total, per_class=tuple(each), matrix=model.transition, low=low, high=high, level=level
    )


@dataclass(frozen=True, slots=True)
class _Draw:
    """What one refit says: the overall rate, the rate in each given class (K,), the matrix (K, K)."""

    rate: float
    rates: Floats
    matrix: Floats
    num_rows: int

    @classmethod
    def of(cls, model: NoiseModel, num_rows: int) -> _Draw:
        given = model.counts.sum(axis=0)
        rates = np.where(given > 0, 1 - np.diag(model.counts) / np.maximum(given, 1e-12), np.nan)
        return cls(model.noise_rate, rates, model.transition, num_rows)


def _parts(draw: _Draw) -> tuple[Floats, Floats, Floats]:
    return np.asarray(draw.rate), draw.rates, draw.matrix


def _variance(values: list[Floats]) -> Floats:
    """Over draws, leaving out those in which a class did not occur; 0 where it occurred in one at most."""
    stacked = np.stack(values)
    known = ~np.isnan(stacked)
    count = known.sum(axis=0)
    mean = np.where(known, stacked, 0).sum(axis=0) / np.maximum(count, 1)
    squares = np.where(known, np.square(stacked - mean), 0).sum(axis=0)
    return np.asarray(squares / np.maximum(count, 1), np.float64)


def _refitted(
    model: NoiseModel,
    judges: Sequence[NDArray[Any]],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    rng: np.random.Generator,
) -> _Draw:
    """The model on groups drawn with replacement, some 2,000 rows at most (Bickel, Götze & van Zwet 1997)."""
    part = _draw_groups(groups, RESAMPLED_ROWS, rng)
    _, index = np.unique(groups[part], return_inverse=True)
    number = int(index.max()) + 1
    drawn = np.bincount(rng.integers(number, size=number), minlength=number).astype(np.float64)[index]
    rows, weight = part[drawn > 0], drawn[drawn > 0]
    fitted = fit_noise_model(
        [judge[rows] for judge in judges], labels[rows], row_weight=weight, start=model, iterations=10
    )
    return _Draw.of(fitted, len(part))


def _draw_groups(groups: NDArray[np.int64], most_rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """int64, sorted: the rows of random whole groups, about `most_rows`; all rows where there are no more."""
    if len(groups) <= most_rows:
        return np.arange(len(groups))
    _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = rng.permutation(len(sizes))
    last = int(np.searchsorted(np.cumsum(sizes[order]), most_rows)) + 1
    taken = np.zeros(len(sizes), np.bool_)
    taken[order[:last]] = True
    return np.flatnonzero(taken[index])


def _logit_interval(share: Floats, variance: Floats, level: float) -> tuple[Floats, Floats]:
    """Normal on the logit scale (delta method): inside (0, 1), and wide above where the share is small."""
    inside = np.clip(share, 1e-6, 1 - 1e-6)
    half = NormalDist().inv_cdf(0.5 + level / 2) * np.sqrt(variance) / (inside * (1 - inside))
    middle = np.log(inside / (1 - inside))
    low, high = (1 / (1 + np.exp(-np.clip(end, -50, 50))) for end in (middle - half, middle + half))
    return np.minimum(low, share), np.maximum(high, share)


def _counted(rate: float, variance: float, num: int, level: float) -> Interval:
    low, high = _logit_interval(np.asarray(rate), np.asarray(variance), level)
    return Interval(estimate=rate * num, low=float(low) * num, high=float(high) * num, level=level)
