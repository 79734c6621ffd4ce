"""How unusual a measured value is among the others of the data set, and a score from it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unusual(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """How far values (N,) lie above the median, in standard deviations as the upper half spreads.

    The spread is taken from the median to the upper quartile (0.674 standard deviations of a normal distribution),
    so that a skewed distribution is measured on the side that counts, and a quarter of outliers do not hide
    themselves. Zero where all values agree. Not finite values are left out and get 0.
    """
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    if known.sum() < 4:
        return np.zeros(len(values))
    middle, upper = np.quantile(values[known], [0.5, 0.75])
    spread = (upper - middle) / 0.6745
    if spread <= 1e-12 * max(abs(middle), 1e-300):
        return np.zeros(len(values))
    return np.where(known, (np.where(known, values, middle) - middle) / spread, 0.0)


def score_of(excess: NDArray[np.floating]) -> NDArray[np.float64]:
    """In [0, 1]: 1 where there is no excess, 0.5 at the limit (excess 1), halved again with every further one."""
    return np.asarray(0.5 ** np.clip(excess, 0.0, 60.0))
