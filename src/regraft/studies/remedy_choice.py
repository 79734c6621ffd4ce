"""Which remedy: paired differences by groups, the simplest that none beats beyond noise, and what choosing flatters.

All remedies are resampled alike, in whole groups; the images of a group, and an image's repeats, are drawn together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.groups import Groups
from regraft.evaluate.intervals import affordable_resamples
from regraft.evaluate.resampled import difference_interval
from regraft.fit.selection import Metric
from regraft.types import Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choice:
    """What to take.

    Attributes:
        values: float64 (M,), the metric of each remedy.
        best: the number of the best.
        pick: the first that no other beats beyond noise.
        to_first: value minus the first remedy's, with interval; one per remedy.
        to_best: value minus the best's, with interval.
        reach: float64 (M, M), by how much remedy j may exceed remedy i by chance.
        optimism: by how much the pick looks too good for having been chosen on the same images.
    """

    values: Floats
    best: int
    pick: int
    to_first: tuple[Interval, ...]
    to_best: tuple[Interval, ...]
    reach: Floats
    optimism: float


class Tally:
    """Right answers and all answers of each remedy, by group: what any weighting of the groups needs.

    Args:
        predictions: int64 (R, N) for each remedy, out of fold.
        labels: int64 (N,).
        num_classes: K.
        group_ids: int64 (N,).
    """

    def __init__(
        self,
        predictions: Sequence[NDArray[np.int64]],
        labels: NDArray[np.int64],
        num_classes: int,
        group_ids: NDArray[np.int64],
    ) -> None:
        from scipy.sparse import coo_array

        self.groups = Groups.of(group_ids, len(labels))
        repeats = len(predictions[0])
        index, tiled = np.tile(self.groups.index, repeats), np.tile(labels, repeats)

        def by_group(rows: NDArray[np.bool_] | slice, classes: NDArray[np.int64]) -> coo_array:
            where = (index[rows], classes[rows])
            return coo_array((np.ones(len(where[0])), where), shape=(self.groups.number, num_classes)).tocsr()

        self._support = by_group(slice(None), tiled)
        self._hits = [by_group(row.ravel() == tiled, tiled) for row in predictions]
        self._answers = [by_group(slice(None), row.ravel()) for row in predictions]

    def values(self, metric: Metric, counts: Floats) -> Floats:
        """(B, M): the metric of each remedy under B weightings (B, G) of the groups; NaN where nothing is left."""
        support = np.asarray(counts @ self._support)
        seen = support > 0
        number = seen.sum(axis=1)
        found = np.empty((len(counts), len(self._hits)))
        with np.errstate(divide="ignore", invalid="ignore"):
            for place, (hits, answers) in enumerate(zip(self._hits, self._answers, strict=True)):
                right = np.asarray(counts @ hits)
                if metric == "accuracy":
                    found[:, place] = right.sum(axis=1) / support.sum(axis=1)
                elif metric == "balanced_accuracy":
                    found[:, place] = np.where(seen, right / support, 0).sum(axis=1) / number
                else:
                    size = support + np.asarray(counts @ answers)
                    found[:, place] = np.where(seen, 2 * right / size, 0).sum(axis=1) / number
        return found

    def recalls(self, place: int) -> Floats:
        """(K,): share of each class's images that a remedy gets right; NaN for a class without images."""
        ones = np.ones((1, self.groups.number))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((ones @ self._hits[place])[0] / (ones @ self._support)[0])


def unbeaten(values: Floats, reach: Floats) -> NDArray[np.bool_]:
    """bool (M,): remedies that no other exceeds by more than its reach (M, M); the largest is always among them."""
    return np.asarray((values[None] - values[:, None] <= np.maximum(reach, 0) + 1e-12).all(axis=1))


def simplest(values: Floats, reach: Floats) -> int:
    """The first that is unbeaten."""
    return int(np.argmax(unbeaten(values, reach)))


def choose_remedy(
    tally: Tally, metric: Metric, *, num_resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Choice:
    """Compare remedies that stand in the order of simplicity.

    The pick is the first that no other beats beyond noise. As the best-looking of many beats whatever it is compared
    with, a remedy counts as beaten only where the largest of all studentised differences to it exceeds the upper
    (1 + level) / 2 quantile of what resampling makes of such a largest (Romano & Wolf 2005). The pick's optimism is
    found as in `evaluate.intervals.selection_bootstrap` (Tsamardinos et al. 2018): the rule chooses again in each
    resample, and its choice is scored on the groups left out of it.

    Args:
        tally: the remedies' answers.
        metric: what is compared.
        num_resamples: fewer are drawn for many images.
        level: of the intervals.
        seed: same seed, same choice.
    """
    groups = tally.groups
    point = tally.values(metric, np.ones((1, groups.number)))[0]
    number = affordable_resamples(groups.number * max(1, len(point) // 4), num_resamples)
    counts = np.stack(list(groups.resample(number, seed)))
    in_bag, out_of_bag = tally.values(metric, counts), tally.values(metric, (counts == 0).astype(np.float64))
    best = int(np.argmax(point))

    def difference(i: int, j: int) -> Interval:
        if i == j:
            return Interval(estimate=0.0, low=0.0, high=0.0, level=level)
        return difference_interval(float(point[i] - point[j]), in_bag[:, i] - in_bag[:, j], groups.number, level)

    to_best = tuple(difference(i, best) for i in range(len(point)))
    reach = np.stack([_reach(in_bag, point, i, level) for i in range(len(point))])
    pick = simplest(point, reach)
    chosen = np.array([simplest(row, reach) for row in in_bag])
    lost = out_of_bag[:, pick] - out_of_bag[np.arange(number), chosen]
    lost = lost[np.isfinite(lost)]
    return Choice(
        values=point, best=best, pick=pick,
        to_first=tuple(difference(i, 0) for i in range(len(point))),
        to_best=to_best, reach=reach, optimism=max(0.0, float(lost.mean())) if len(lost) else 0.0,
    )  # fmt: skip


def _reach(draws: Floats, point: Floats, i: int, level: float) -> Floats:
    """(M,): by how much each other remedy may exceed remedy i by chance, all of them looked at."""
    others = draws - draws[:, [i]]
    error = others.std(axis=0)
    moving = error > 1e-12
    if not moving.any():
        return np.zeros(len(point))
    largest = ((others - (point - point[i]))[:, moving] / error[moving]).max(axis=1)
    return np.asarray(np.quantile(largest, (1 + level) / 2) * error)
