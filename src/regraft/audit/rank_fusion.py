"""One order from several signals that share no scale: ranks within the given class, and a budget per class.

Within a class the ranks are averaged: that says which of its images comes first. How urgent the j-th image of a class
is beside those of other classes, is how urgent the signals that can be compared across classes hold the class's j-th
worst, on average. So a class whose labels look right is not searched for the sake of evenness, and a rare class is
neither flooded by suspects nor drowned by those of large classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def fuse_by_class(
    signals: Sequence[NDArray[np.floating]],
    labels: NDArray[np.int64],
    *,
    comparable: Sequence[NDArray[np.floating]],
) -> Floats:
    """Fuse signals into one order.

    Args:
        signals: float (N,) each, higher means that the label is more likely right; NaN where a signal says nothing of
            an image, which then counts by the others. Only their order within a class matters.
        labels: int64 (N,), the given classes.
        comparable: float (N,) each, finite: those of the signals that also mean the same in every class.

    Returns:
        float64 (N,) in (0, 1): the smallest is the most suspect. Of equals, the first comes first.
    """
    num = len(labels)
    curves = [ranks(np.asarray(signal, np.float64)) for signal in comparable]
    fused = np.empty(num)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        within = np.stack([ranks(np.asarray(signal, np.float64)[rows]) for signal in signals])
        order = np.argsort(_mean_of_known(within), kind="stable")
        fused[rows[order]] = np.mean([np.sort(curve[rows]) for curve in curves], axis=0)
    return fused


def ranks(values: Floats) -> Floats:
    """Average ranks scaled to (0, 1), float64 (n,); NaN stays NaN and is not counted."""
    known = ~np.isnan(values)
    _, place, counts = np.unique(values[known], return_inverse=True, return_counts=True)
    found = np.full(len(values), np.nan)
    found[known] = (np.cumsum(counts) - counts / 2)[place] / max(int(known.sum()), 1)
    return found


def _mean_of_known(within: Floats) -> Floats:
    known = ~np.isnan(within)
    total = np.where(known, within, 0.0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), 0.5)
