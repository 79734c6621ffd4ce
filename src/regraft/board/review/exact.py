"""The exact interval of a proportion (Clopper & Pearson 1934), without SciPy: a board starts without it.

Wilson's covers 95 % on the average over proportions, and less where few are asked of something rare: of 4 controls with
3 % wrong among all, one in nine draws holds a wrong one, and then Wilson's lower limit is 4.6 %.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import lgamma

import numpy as np
from numpy.typing import NDArray

_STEPS = 60
"""Halvings of the interval [0, 1]: more than a double holds."""


@lru_cache(maxsize=256)
def exact(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Limits of a proportion that cover it at least as often as `level` says; (0, 1) of nothing.

    Args:
        count: how many of them.
        total: of how many.
        level: coverage.
    """
    if total <= 0:
        return 0.0, 1.0
    tail = (1 - level) / 2
    upper, lower = np.arange(count, total + 1), np.arange(count + 1)
    low = 0.0 if count == 0 else _solved(lambda share: _mass(upper, total, share) < tail)
    high = 1.0 if count == total else _solved(lambda share: _mass(lower, total, share) > tail)
    return low, high


def _solved(below: Callable[[float], bool]) -> float:
    """Where a condition that holds for small proportions ends to hold."""
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2


def _mass(counts: NDArray[np.int64], total: int, share: float) -> float:
    """Probability that a binomial variable takes one of some counts."""
    logs = _log_choices(total)[counts] + counts * np.log(share) + (total - counts) * np.log1p(-share)
    return float(np.exp(logs).sum())


@lru_cache(maxsize=16)
def _log_choices(total: int) -> NDArray[np.float64]:
    whole = lgamma(total + 1)
    return np.array([whole - lgamma(count + 1) - lgamma(total - count + 1) for count in range(total + 1)])
