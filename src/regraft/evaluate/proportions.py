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


def mean_size(
    shares: NDArray[np.float64],
    sizes: NDArray[np.float64],
    correlation: NDArray[np.float64],
    slopes: NDArray[np.float64],
    mean: float,
) -> float:
    """Effective size of the mean of K functions of proportions, for `wilson`: mean (1 - mean) / its variance.

    A class whose few images are all right shows no variance of its own, so each proportion is first drawn towards
    the pooled one as if two rows of that had been added (Agresti & Coull 1998 add four of 1/2).

    Args:
        shares, sizes: (K,) the proportions and their effective sizes.
        correlation: (K, K) of the estimates.
        slopes: (K,) derivative of each function at its proportion; 1 for a plain mean.
        mean: of the functions' values.
    """
    sizes = np.maximum(sizes, 1.0)  # a class seen in one group only is one observation, not the end of all knowledge
    pooled = float((shares * sizes).sum() / sizes.sum())
    drawn = (shares * sizes + 2 * pooled) / (sizes + 2)
    errors = slopes * np.sqrt(drawn * (1 - drawn) / sizes)
    variance = max(0.0, float(errors @ correlation @ errors)) / len(shares) ** 2
    spread = mean * (1 - mean)
    if variance > 0 and spread > 0:
        return spread / variance
    return float(len(shares) ** 2 / (1 / sizes).sum())  # everything right, or everything wrong


def normal_quantile(level: float) -> float:
    """Half-width of the central `level` of a standard normal: 1.96 at 0.95."""
    return NormalDist().inv_cdf(0.5 + level / 2)


def student_quantile(level: float, degrees: int) -> float:
    """The same of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + level / 2))
