"""Which strength and which prior adjustment: rules on out-of-fold losses and predictions that can be replayed.

Everything takes `counts` (N,), how often each row is in the sample: ones for the data themselves, bootstrap counts
where the evaluation asks what the same rule would have chosen on other data (Tsamardinos et al. 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from regraft.errors import UsageError, nearest

Metric = Literal["accuracy", "balanced_accuracy", "macro_f1"]
Floats = NDArray[np.float64]


def check_metric(metric: str) -> None:
    """Raise UsageError where the metric is not one of ours."""
    if metric not in get_args(Metric):
        raise UsageError(
            f"the metric must be one of {', '.join(get_args(Metric))}: {metric=}{nearest(metric, get_args(Metric))}"
        )


def choose_strength(
    losses: NDArray[np.float32], counts: Floats, row_weight: Floats | None, groups: NDArray[np.int64] | None
) -> tuple[int, int]:
    """The strongest penalty whose mean loss is within one standard error of the smallest.

    The standard error is that of the paired difference to the best strength, by groups.

    Args:
        losses: (L, N), a row per strength, strongest first.
        counts: (N,), how often each row is in the sample.
        row_weight: (N,) or None.
        groups: int64 (N,), numbered from 0 without gaps, or None where every row is its own group.

    Returns:
        The chosen and the best, as indices.
    """
    weight = counts if row_weight is None else counts * row_weight
    total = float(weight.sum())
    means = losses @ (weight / total).astype(np.float32)
    best = int(np.argmin(means))
    chosen = best
    for index in range(best - 1, -1, -1):
        difference = losses[index] - losses[best]
        mean = float(difference @ weight) / total
        if mean > standard_error((difference - mean) / total, counts, row_weight, groups):
            break
        chosen = index
    return chosen, best


def choose_tau(
    predictions: NDArray[np.integer],
    labels: NDArray[np.int64],
    num_classes: int,
    metric: Metric,
    counts: Floats,
    row_weight: Floats | None,
    groups: NDArray[np.int64] | None,
) -> tuple[int, int]:
    """The smallest prior adjustment whose metric is within one standard error of the largest.

    Args:
        predictions: (T, N), a row per adjustment, smallest first.
        labels: int64 (N,).
        num_classes: K.
        metric: what is to be large.
        counts: (N,), how often each row is in the sample.
        row_weight: (N,) or None.
        groups: as in `choose_strength`.

    Returns:
        The chosen and the best, as indices.
    """
    weight = counts if row_weight is None else counts * row_weight
    scored = [_score(metric, labels, row, weight, num_classes) for row in predictions]
    best = int(np.argmax([score for score, _, _ in scored]))
    for index in range(best):
        short = scored[best][0] - scored[index][0]
        influence = _influence(labels, predictions[best], scored[best]) - _influence(
            labels, predictions[index], scored[index]
        )
        if short <= standard_error(influence, counts, row_weight, groups):
            return index, best
    return best, best


def score(
    metric: Metric, labels: NDArray[np.int64], predicted: NDArray[np.integer], weight: Floats, num_classes: int
) -> float:
    """Weighted accuracy, balanced accuracy or macro-F1; classes without weight are left out of the means."""
    return _score(metric, labels, predicted, weight, num_classes)[0]


def standard_error(
    influence: NDArray[np.floating], counts: Floats, row_weight: Floats | None, groups: NDArray[np.int64] | None
) -> float:
    """Standard error of a statistic from its influence function, rows of a group counted as one observation.

    Args:
        influence: (N,), what a unit of weight on each row adds to the statistic.
        counts: (N,), how often each row is in the sample; a group that was drawn twice is two observations.
        row_weight: (N,) or None.
        groups: int64 (N,) without gaps, or None.
    """
    part = influence if row_weight is None else influence * row_weight
    if groups is None:
        return float(np.sqrt((part * part) @ counts))
    each, drawn = np.bincount(groups, part), np.bincount(groups, part * counts)
    return float(np.sqrt(max(float(each @ drawn), 0.0)))


_Scored = tuple[float, Floats, Floats]


def _score(
    metric: Metric, labels: NDArray[np.int64], predicted: NDArray[np.integer], weight: Floats, num_classes: int
) -> _Scored:
    """The score, and its influence per row as `hit[y] * (y == p) + miss[y] + miss[p]`-style coefficients.

    The influence of row i is `gain[y_i] * (p_i == y_i) - cost[y_i] - cost[K + p_i]`.
    """
    right = np.bincount(labels, weight * (predicted == labels), num_classes)
    support = np.bincount(labels, weight, num_classes)
    seen = support > 0
    zero = np.zeros(num_classes)
    if metric == "accuracy":
        total = float(support.sum())
        value = float(right.sum()) / total
        return value, np.full(num_classes, 1 / total), np.concatenate([zero + value / total, zero])
    share = 1 / max(int(seen.sum()), 1)
    if metric == "balanced_accuracy":
        size = np.where(seen, support, 1)
        recall = right / size
        gain = np.where(seen, share / size, 0)
        return share * float(recall[seen].sum()), gain, np.concatenate([gain * recall, zero])
    size = np.where(seen, support + np.bincount(predicted, weight, num_classes), 1)
    f1 = 2 * right / size
    gain = np.where(seen, 2 * share / size, 0)
    cost = gain * f1 / 2
    return share * float(f1[seen].sum()), gain, np.concatenate([cost, cost])


def _influence(labels: NDArray[np.int64], predicted: NDArray[np.integer], scored: _Scored) -> Floats:
    _, gain, cost = scored
    num_classes = len(gain)
    return np.asarray(gain[labels] * (predicted == labels) - cost[labels] - cost[num_classes:][predicted])


def dense_groups(group_ids: Sequence[int] | NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    """Group numbers without gaps, or None where every row is its own group."""
    if group_ids is None:
        return None
    names, dense = np.unique(np.asarray(group_ids), return_inverse=True)
    return None if len(names) == len(dense) else dense.astype(np.int64)
