"""A threshold for each class: shifts of the logits that make the metric itself large on held-out rows.

argmax p_k / t_k is argmax of logit_k - log t_k, so thresholds are a change of the head's bias. They are found by
coordinate ascent over a grid of shifts; the metric is piecewise constant, and the grid is what keeps few rows from
asking for odd values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from regraft.fit.selection import Metric

SHIFTS = np.linspace(-2.0, 6.0, 33)
"""Nats that a class's logit may gain: steps of 1/4, and room for classes a few hundred times rarer than others."""
ROUNDS = 3
MAX_CLASSES = 100
"""Above, a round over the classes costs more than all other remedies together."""


def fit_thresholds(
    logits: NDArray[np.floating], labels: NDArray[np.int64], num_classes: int, metric: Metric
) -> NDArray[np.float64]:
    """Shifts (K,) to add to the logits, centred.

    Args:
        logits: (n, K), held out.
        labels: int64 (n,).
        num_classes: K.
        metric: what is to be large.

    Returns:
        float64 (K,); zeros where no shift gains anything.
    """
    shift = np.zeros(num_classes)
    scores = np.asarray(logits, np.float64).copy()
    support = np.bincount(labels, minlength=num_classes).astype(np.float64)
    best = float(_metric(_sums(scores.argmax(axis=1), labels, num_classes), support, metric)[0])
    rare_first = np.argsort(support, kind="stable")
    for _ in range(ROUNDS):
        gained = False
        for k in rare_first[support[rare_first] > 0].tolist():
            own = scores[:, k].copy()
            scores[:, k] = -np.inf
            other = scores.argmax(axis=1)
            margin = scores[np.arange(len(labels)), other] - own  # k is the answer from this shift on
            moves = SHIFTS - shift[k]
            values = _metric(_over_shifts(margin, moves, other, labels, k, num_classes), support, metric)
            place = int(np.lexsort((np.abs(SHIFTS), -np.round(values, 12)))[0])
            if values[place] > best + 1e-9:
                best, gained = float(values[place]), True
                own, shift[k] = own + moves[place], SHIFTS[place]
            scores[:, k] = own
        if not gained:
            break
    return np.asarray(shift - shift.mean())


_Sums = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Right answers (..., K) and all answers (..., K) of each class."""


def _sums(predicted: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int) -> _Sums:
    hits = np.bincount(labels[predicted == labels], minlength=num_classes)
    return hits[None].astype(np.float64), np.bincount(predicted, minlength=num_classes)[None].astype(np.float64)


def _over_shifts(
    margin: NDArray[np.float64], moves: NDArray[np.float64], other: NDArray[np.int64], labels: NDArray[np.int64],
    k: int, num_classes: int,
) -> _Sums:  # fmt: skip
    """The sums under each shift of class k: rows whose margin is below it are answered k, others as before."""
    place = np.searchsorted(moves, margin, side="right")  # the first shift that is above the margin
    size = len(moves) + 1
    left = np.bincount(place * num_classes + other, minlength=size * num_classes).reshape(size, num_classes)
    right = other == labels
    left_right = np.bincount((place * num_classes + other)[right], minlength=size * num_classes)
    moved = np.cumsum(left, axis=0)[:-1].astype(np.float64)
    moved_right = np.cumsum(left_right.reshape(size, num_classes), axis=0)[:-1].astype(np.float64)
    answers = left.sum(axis=0) - moved
    hits = left_right.reshape(size, num_classes).sum(axis=0) - moved_right
    answers[:, k] = moved.sum(axis=1)
    hits[:, k] = np.cumsum(np.bincount(place[labels == k], minlength=size))[:-1]
    return hits, answers


def _metric(sums: _Sums, support: NDArray[np.float64], metric: Metric) -> NDArray[np.float64]:
    hits, answers = sums
    seen = support > 0
    if metric == "accuracy":
        return np.asarray(hits.sum(axis=1) / support.sum())
    if metric == "balanced_accuracy":
        return np.asarray((hits[:, seen] / support[seen]).mean(axis=1))
    return np.asarray((2 * hits[:, seen] / (support[seen] + answers[:, seen])).mean(axis=1))
