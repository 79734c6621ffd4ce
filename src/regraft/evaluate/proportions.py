"""Intervals of proportions, and of means of proportions, that stay honest with three images a class.

A percentile bootstrap calls 3 right answers out of 3 "1.000 (1.000-1.000)". Wilson's interval says (0.44-1.00).
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


def wilson(share: float, total: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (1927) of a proportion: stays in [0, 1] and is honest at 0 and 1.

    Args:
        share: observed proportion.
        total: observations behind it; need not be whole (an effective size). 0 gives (0, 1).
        level: coverage that is aimed at.
    """
    if total <= 0:
        return 0.0, 1.0
    z2 = NormalDist().inv_cdf(0.5 + level / 2) ** 2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = sqrt(z2 * (share * (1 - share) / total + z2 / (4 * total * total))) / (1 + z2 / total)
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def effective_size(
    share: float, variance: float, *, num_rows: int, kish: float, num_groups: int, level: float
) -> float:
    """How many independent rows would know as much about a proportion as these grouped ones do.

    The design effect (Kish 1965) from the bootstrap's variance, kept between rows that say nothing new within their
    group (`kish`) and rows that are all independent; fewer degrees of freedom shrink it further (Korn & Graubard
    1998). Without groups it is `num_rows`, and the bootstrap plays no part.

    Args:
        share: observed proportion.
        variance: of the proportion over the resamples.
        num_rows: rows in the denominator.
        kish: (sum of group sizes)^2 / sum of squared group sizes, over those rows.
        num_groups: groups that hold any of those rows.
        level: coverage that is aimed at.
    """
    if num_rows == num_groups:
        return float(num_rows)
    if num_groups < 2:
        return 0.0
    spread = share * (1 - share)
    size = min(max(spread / variance, kish), num_rows) if spread > 0 and variance > 0 else kish
    return size * (normal_quantile(level) / student_quantile(level, num_groups - 1)) ** 2


def mean_of_proportions(
    shares: NDArray[np.float64],
    lows: NDArray[np.float64],
    highs: NDArray[np.float64],
    correlation: NDArray[np.float64],
) -> tuple[float, float]:
    """Interval of the mean of K estimates from their own intervals: MOVER (Zou & Donner 2008).

    Args:
        shares, lows, highs: (K,).
        correlation: (K, K) of the estimates.
    """
    below, above = shares - lows, highs - shares
    k, mean = len(shares), float(shares.mean())
    return (
        mean - sqrt(max(0.0, float(below @ correlation @ below))) / k,
        mean + sqrt(max(0.0, float(above @ correlation @ above))) / k,
    )


def normal_quantile(level: float) -> float:
    """Half-width of the central `level` of a standard normal: 1.96 at 0.95."""
    return NormalDist().inv_cdf(0.5 + level / 2)


def student_quantile(level: float, degrees: int) -> float:
    """The same of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + level / 2))
