"""Which candidates are tied with the best, which one to take, and what measuring gained.

All candidates are resampled alike, in whole groups (the bootstrap of `evaluate.intervals.paired_difference`), so a
difference is judged on the same images. The value of a candidate is that of the solved head where it was solved.
Off the shortlist it is by how much its ridge falls short of the leading ridge, counted from that leader's solved
head: both sides of every comparison have the same kind of head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.groups import Groups
from regraft.evaluate.intervals import affordable_resamples
from regraft.evaluate.resampled import difference_interval
from regraft.types import Interval

Metric = Literal["accuracy", "balanced_accuracy", "macro_f1"]
Prefer = Literal["cheapest", "best"]
Floats = NDArray[np.float64]

TOLERANCE = 0.01
"""With few images nearly all are tied, and the cheapest of them can be far worse: on 200 images of Fashion-MNIST it
lost 3.1 points among 24 candidates, as much as the fixed list, where the best by estimate lost 1.2."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """A candidate as the decision sees it.

    Attributes:
        ridge: int64 (n,), held-out predictions of the ridge.
        probe: int64 (n,), out-of-fold predictions of the solved head; None off the shortlist.
        images_per_second: its cost.
        static_score: its place in the fixed order, higher is better; None where it has none.
    """

    ridge: NDArray[np.int64]
    probe: NDArray[np.int64] | None
    images_per_second: float
    static_score: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decision:
    """What to take.

    Attributes:
        order: candidate numbers, best first.
        best: the number of the best.
        differences: value minus the best's, with interval; one per candidate.
        tied: bool (M,), the interval of the difference includes 0.
        pick: the number of the one to take.
        static_pick: what the fixed order would have taken, or None.
        gain: value of the pick minus that of the static pick, with interval; None without one.
        optimism: by how much the pick looks too good for having been chosen on the same images.
    """

    order: NDArray[np.int64]
    best: int
    differences: tuple[Interval, ...]
    tied: NDArray[np.bool_]
    pick: int
    static_pick: int | None
    gain: Interval | None
    optimism: float


def decide(
    entries: Sequence[Entry],
    labels: NDArray[np.int64],
    *,
    num_classes: int,
    group_ids: NDArray[np.int64],
    metric: Metric = "accuracy",
    prefer: Prefer = "cheapest",
    tolerance: float = TOLERANCE,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Decision:
    """Order, ties, pick, gain and optimism.

    The pick is the cheapest (most images a second) among those tied with the best that fall short of it by no more
    than the tolerance, or the best itself. Its optimism is that of `evaluate.intervals.selection_bootstrap`: the whole
    choice, ties and cost included, is made again in each resample and scored on the images left out of it.

    Args:
        entries: M candidates; those that lead by ridge must be among those with a solved head.
        labels: int64 (n,), 0..K-1.
        num_classes: K.
        group_ids: int64 (n,); rows of one group are drawn together.
        metric: what is compared.
        prefer: `cheapest` or `best`.
        tolerance: how much of the metric may be given up for speed, by the estimates.
        num_resamples: fewer are drawn for many rows and candidates.
        level: of the intervals.
        seed: same seed, same decision.
    """
    groups = Groups.of(group_ids, len(labels))
    number = affordable_resamples(len(labels) * max(1, len(entries) // 4), num_resamples)
    counts = np.stack(list(groups.resample(number, seed)))
    solved = [i for i, entry in enumerate(entries) if entry.probe is not None]

    def values(weights: NDArray[np.floating]) -> Floats:
        """(R, M) under R weightings (R, n)."""
        ridge = np.stack([measure(metric, labels, e.ridge, weights, num_classes) for e in entries], axis=1)
        if not solved:
            return ridge
        found = ridge.copy()
        for i in solved:
            probe = entries[i].probe
            assert probe is not None
            found[:, i] = measure(metric, labels, probe, weights, num_classes)
        rest = [i for i in range(len(entries)) if i not in solved]
        found[:, rest] += (found[:, leader] - ridge[:, leader])[:, None]
        return found

    ones = np.ones((1, len(labels)))
    first = np.array([measure(metric, labels, e.ridge, ones, num_classes)[0] for e in entries])
    leader = max(solved or range(len(entries)), key=lambda i: (first[i], -i))
    point = values(ones)[0]
    best = int(np.argmax(point))

    in_bag, out_of_bag = np.empty((number, len(entries))), np.empty((number, len(entries)))
    step = max(1, (1 << 24) // len(labels))
    for start in range(0, number, step):
        weights = counts[start : start + step][:, groups.index]
        in_bag[start : start + step] = values(weights)
        out_of_bag[start : start + step] = values((weights == 0).astype(np.float64))

    def difference(i: int, j: int) -> Interval:
        if i == j:
            return Interval(estimate=0.0, low=0.0, high=0.0, level=level)
        return difference_interval(float(point[i] - point[j]), in_bag[:, i] - in_bag[:, j], groups.number, level)

    differences = tuple(difference(i, best) for i in range(len(entries)))
    slack = np.array([interval.high - interval.estimate for interval in differences])
    rates = np.array([entry.images_per_second for entry in entries])

    def picked(found: Floats) -> int:
        if prefer == "best":
            return int(np.argmax(found))
        short = found.max() - found
        near = (short <= np.minimum(slack, tolerance) + 1e-12) | (short <= 0)
        return int(max(np.flatnonzero(near), key=lambda i: (rates[i], found[i])))

    pick = picked(point)
    chosen = np.array([picked(row) for row in in_bag])
    lost = out_of_bag[:, pick] - out_of_bag[np.arange(number), chosen]
    static = [i for i, entry in enumerate(entries) if entry.static_score is not None]
    static_pick = max(static, key=lambda i: (entries[i].static_score, -i)) if static else None
    return Decision(
        order=np.lexsort((-rates, -np.round(point, 12))),
        best=best,
        differences=differences,
        tied=np.array([interval.high >= 0 for interval in differences]),
        pick=pick,
        static_pick=static_pick,
        gain=None if static_pick is None else difference(pick, static_pick),
        optimism=float(np.nanmean(lost)) if np.isfinite(lost).any() else 0.0,
    )


def measure(
    metric: Metric,
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    weights: NDArray[np.floating],
    num_classes: int,
) -> Floats:
    """(R,) values of the metric under R weightings (R, n); NaN where the weights are all zero.

    Classes without weight are left out of the means, as in `evaluate.metrics`.
    """
    correct = (labels == predicted).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        if metric == "accuracy":
            return np.asarray(weights @ correct / weights.sum(axis=1))
        found = np.empty(len(weights))
        for i, row in enumerate(weights):
            hits = np.bincount(labels, row * correct, num_classes)
            size: Floats = np.bincount(labels, row, num_classes).astype(np.float64)
            if metric == "macro_f1":
                size = (size + np.bincount(predicted, row, num_classes)) / 2
            found[i] = np.where(size > 0, hits / size, 0).sum() / (size > 0).sum()
        return found
