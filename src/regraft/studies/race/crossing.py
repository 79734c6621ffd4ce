"""The crossing size n*: from how many training images on one arm is above another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regraft.studies.race.curves import Curve
from regraft.studies.race.values import Floats
from regraft.types import JSON

SURE = 0.8
"""How probable it must be that the cheap arm leads at one end and the costly one at the other. Two curves that run
side by side cross in many draws; they are not to be given a crossing."""

LEVEL = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """Where the costly arm overtakes the cheap one, or why that is not known.

    Attributes:
        median: training images; None where it is not known.
        low: lower end of the 80 % interval; None with the median. It is not below n/4, the smallest size measured.
        high: upper end; None where it lies beyond 4n, or is not known.
        leads_small: probability that the costly arm leads at n/4 already.
        leads_large: probability that it leads at 4n.
        reason: in words.
    """

    median: float | None
    low: float | None
    high: float | None
    leads_small: float
    leads_large: float
    reason: str

    @property
    def known(self) -> bool:
        return self.median is not None

    def as_dict(self) -> JSON | None:
        """`{"median", "low", "high"}`, or None where it is not known."""
        if self.median is None:
            return None
        return {"median": round(self.median), "low": None if self.low is None else round(self.low),
                "high": None if self.high is None else round(self.high)}  # fmt: skip


def find_crossing(cheap: Curve | None, costly: Curve | None) -> Crossing:
    """The crossing of two curves that were fitted to paired draws.

    In each draw it is the smallest size from which on the costly arm stays above up to 4n; beyond 4n where it is not
    above there. It is given only where it is probable (0.8) that the cheap arm leads at n/4 and the costly one at 4n,
    and only from well-behaved curves.

    Args:
        cheap, costly: of the same race; None where too few sizes were measured.
    """
    if cheap is None or costly is None:
        return _unknown("not known, for too few sizes were measured", 0.5, 0.5)
    grid, last = cheap.grid, cheap.last
    smallest = int(np.argmin(np.abs(grid - max(cheap.sizes[0], costly.sizes[0]))))
    above = (costly.draws - cheap.draws)[:, smallest:]
    sizes = grid[smallest:]
    small, large = float((above[:, 0] > 0).mean()), float((above[:, -1] > 0).mean())
    end = f"{4 * last:,}"
    if not (cheap.well_behaved and costly.well_behaved):
        return _unknown("not known, for a curve does not rise with more images", small, large)
    if small >= SURE and large >= SURE:
        return _unknown(f"it leads from {sizes[0]:,.0f} images on, the fewest measured", small, large)
    if 1 - small >= SURE and 1 - large >= SURE:
        return _unknown(f"nowhere up to {end} images", small, large)
    if 1 - small < SURE or large < SURE:
        return _unknown(f"not known, beyond {end} images or nowhere", small, large)
    at = np.array([_from_on(row, sizes) for row in above])
    low, median, high = np.quantile(at, [0.5 - LEVEL / 2, 0.5, 0.5 + LEVEL / 2], method="inverted_cdf")
    if not np.isfinite(median):
        return _unknown(f"not known, beyond {end} images or nowhere", small, large)
    if not np.isfinite(high) and low <= sizes[0] * 1.001:
        return _unknown(f"not known, anywhere from {sizes[0]:,.0f} images to beyond {end}", small, large)
    top = float(high) if np.isfinite(high) else None
    until = f"{high:,.0f}" if top is not None else f"beyond {end}"
    return Crossing(
        median=float(median), low=float(low), high=top, leads_small=small, leads_large=large,
        reason=f"at about {median:,.0f} images (80 %: {low:,.0f} to {until})",
    )  # fmt: skip


def _from_on(above: Floats, sizes: Floats) -> float:
    """Where the last stretch above 0 begins, between two sizes by their differences; inf where the end is below."""
    if above[-1] <= 0:
        return float("inf")
    below = np.flatnonzero(above <= 0)
    if not len(below):
        return float(sizes[0])
    i = int(below[-1])
    share = -above[i] / (above[i + 1] - above[i])
    return float(sizes[i] * (sizes[i + 1] / sizes[i]) ** share)


def _unknown(reason: str, small: float, large: float) -> Crossing:
    return Crossing(median=None, low=None, high=None, leads_small=small, leads_large=large, reason=reason)
