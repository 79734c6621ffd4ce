"""Learning curves: how an arm's error falls with the number of training images, and what that says of 2n and 4n.

Three forms, fitted with weights from the measured variances, in every draw (Hoiem et al. 2021; Viering & Loog 2021):

    power       e(m) = α + η m^-γ     γ from 0.05 to 1.5, drawn from what the errors and a wide prior around 1/2 leave
    fixed       e(m) = α + η m^-1/2
    logit-log   logit e(m) = a + b log m

with α, η ≥ 0 and b ≤ 0. With three sizes none can be told from another, so a draw takes one of them by how well it fits
and the interval holds all three. Still all may err in the same way: the step beyond n has a doubt of `FORM_FLOOR` for
each doubling at least.

That errors fall is tested first: 14-15 % of published curves are ill-behaved. Where they do not fall, nothing is
extrapolated but the last level, with twice the floor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.studies.race.standing import spread
from regraft.studies.race.values import Difference, Floats
from regraft.types import Interval

FORM_FLOOR = 0.0125
"""Standard deviation for each doubling beyond the largest size: ensembles of these forms erred by 1.0 point on average
(normal: 0.8 sd), 2.2 at worst, one doubling ahead over the published tables of a transfer-learning library."""

EXPONENTS = np.linspace(0.05, 1.5, 30)
EXPONENT_SD = 0.35

FORMS = ("power", "fixed", "logit-log")
LEAST_WEIGHT = 0.1
"""Of a form in the ensemble, however badly it fits: it may be right outside of what was measured."""

RISES = 0.95
"""An error that rises between two sizes with this probability makes a curve ill-behaved."""

GRID = 49
"""Sizes from n/4 to 4n, at equal steps of the logarithm."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """An arm's learning curve.

    Attributes:
        sizes: int64 (S,), training images, rising.
        values: S measured values with their interval (level 0.8).
        grid: float64 (GRID,), training images, from n/4 to 4n.
        line: float64 (GRID,), the ensemble's value.
        draws: float64 (B, GRID), values with all doubt, the form floor included beyond n.
        well_behaved: errors do not rise.
        weights: form to its weight in the ensemble.
        last: n, the largest size that the race has.
    """

    sizes: NDArray[np.int64]
    values: tuple[Interval, ...]
    grid: Floats
    line: Floats
    draws: Floats
    well_behaved: bool
    weights: dict[str, float]
    last: int

    def at(self, size: float, level: float = 0.8) -> Interval:
        """The value at a number of training images within the grid, with interval."""
        where = int(np.argmin(np.abs(np.log(self.grid) - np.log(size))))
        return spread(float(self.line[where]), self.draws[:, where], level)


def size_grid(last: int) -> Floats:
    """From n/4 to 4n."""
    return np.asarray(last * 2.0 ** np.linspace(-2, 2, GRID))


def fit_curve(found: Mapping[int, Difference], sizes: Mapping[int, int], *, last: int, seed: int = 0) -> Curve | None:
    """A curve through an arm's values.

    Args:
        found: halvings to values (1 + B,), as `standing.curve_draws` gives them.
        sizes: halvings to training images.
        last: n, the largest size of the race, measured or not.
        seed: of the choice of forms and of the floor. Arms must have different ones: their forms err independently.

    Returns:
        None where fewer than two sizes were measured.
    """
    order = sorted(found, key=lambda h: sizes[h])
    if len(order) < 2:
        return None
    x = np.array([sizes[h] for h in order], np.float64)
    errors = 1 - np.stack([found[h].values for h in order], axis=1)
    variances = np.maximum(errors[1:].var(axis=0), 1e-8)
    rng = np.random.default_rng([seed, 11])
    grid = size_grid(last)
    behaved = falls(errors[1:])
    chance = rng.random((2, len(errors)))
    each, misfit = fit_forms(x, errors, variances, grid, chance[0])
    weights = ensemble_weights(misfit[:, 0])
    # the line is the ensemble's mean; a draw follows one form
    which = np.searchsorted(np.cumsum(weights), chance[1, 1:] * weights.sum(), side="right").clip(0, 2)
    draws = each[which, np.arange(1, len(errors))]
    line = np.tensordot(weights, each[:, 0], axes=1)
    floor = FORM_FLOOR * (1.0 if behaved and len(x) > 2 else 2.0) * np.log2(np.maximum(grid / x[-1], 1.0))
    # the step from the last size on has this doubt at least; the doubt about images, which all sizes share, is no part
    step = draws - draws[:, [int(np.argmin(np.abs(np.log(grid / x[-1]))))]]
    missing = np.sqrt(np.maximum(floor**2 - step.var(axis=0), 0.0))
    draws = draws - missing * rng.standard_normal((len(draws), 1))
    return Curve(
        sizes=x.astype(np.int64),
        values=tuple(spread(float(1 - errors[0, i]), 1 - errors[1:, i], 0.8) for i in range(len(x))),
        grid=grid, line=np.clip(1 - line, 0, 1), draws=np.clip(1 - draws, 0, 1), well_behaved=behaved,
        weights=dict(zip(FORMS, weights.tolist(), strict=True)), last=last,
    )  # fmt: skip


def falls(errors: Floats) -> bool:
    """Whether errors (B, S), by rising size, fall or at least do not rise clearly from any size to the next."""
    rises = (errors[:, 1:] > errors[:, :-1]).mean(axis=0)
    return bool((rises < RISES).all())


def ensemble_weights(misfit: Floats) -> Floats:
    """(3,): forms by their likelihood, none below LEAST_WEIGHT."""
    weights = np.exp(-0.5 * (misfit - misfit.min()))
    weights /= weights.sum()
    weights = np.maximum(weights, LEAST_WEIGHT)
    return np.asarray(weights / weights.sum())


def fit_forms(sizes: Floats, errors: Floats, variances: Floats, grid: Floats, chance: Floats) -> tuple[Floats, Floats]:
    """The three forms through R sets of errors at once, in closed form.

    Args:
        sizes: (S,) training images.
        errors: (R, S).
        variances: (S,) of the errors; their inverses are the weights.
        grid: (G,) where the curves are wanted.
        chance: (R,) in [0, 1): which exponent a set takes; the first takes the mean over exponents.

    Returns:
        (3, R, G) errors on the grid and (3, R) weighted sums of squared residuals.
    """
    scale = sizes[-1]
    weights = 1 / variances
    fits, misfits = zip(*(_offset(sizes, errors, weights, grid, scale, g) for g in EXPONENTS), strict=True)
    stacked, misfit = np.stack(fits), np.stack(misfits)
    score = -0.5 * (misfit + ((EXPONENTS - 0.5) / EXPONENT_SD)[:, None] ** 2)
    share = np.exp(score - score.max(axis=0))
    share /= share.sum(axis=0)
    taken = (np.cumsum(share, axis=0) < chance).sum(axis=0).clip(0, len(EXPONENTS) - 1)
    power = stacked[taken, np.arange(len(errors))]
    power[0] = np.tensordot(share[:, 0], stacked[:, 0], axes=1)
    power_misfit = (share * misfit).sum(axis=0)
    fixed, fixed_misfit = _offset(sizes, errors, weights, grid, scale, 0.5)
    logit, logit_misfit = _logit(sizes, errors, weights, grid, scale)
    return np.stack([power, fixed, logit]), np.stack([power_misfit, fixed_misfit, logit_misfit])


def _offset(
    sizes: Floats, errors: Floats, weights: Floats, grid: Floats, scale: float, exponent: float
) -> tuple[Floats, Floats]:
    """α + η m^-γ at one γ, by weighted least squares with α, η ≥ 0."""
    x, out = (sizes / scale) ** -exponent, (grid / scale) ** -exponent
    total, sx, sxx = weights.sum(), weights @ x, weights @ x**2
    se, sxe = errors @ weights, errors @ (weights * x)
    below = total * sxx - sx * sx
    eta = (total * sxe - sx * se) / below
    alpha = (se - eta * sx) / total
    flat, steep = eta < 0, alpha < 0
    eta = np.where(steep, np.maximum(sxe / sxx, 0), np.where(flat, 0, eta))
    alpha = np.where(steep, 0, np.where(flat, se / total, alpha))
    residual = errors - alpha[:, None] - eta[:, None] * x
    return alpha[:, None] + eta[:, None] * out, residual**2 @ weights


def _logit(sizes: Floats, errors: Floats, weights: Floats, grid: Floats, scale: float) -> tuple[Floats, Floats]:
    """A line through the logits over log m, falling or flat; weights by the delta method."""
    e = np.clip(errors, 2e-3, 1 - 2e-3)
    y = np.log(e / (1 - e))
    w = weights * (e * (1 - e)) ** 2
    x, out = np.log(sizes / scale), np.log(grid / scale)
    total = w.sum(axis=1)
    mx, my = (w @ x) / total, (w * y).sum(axis=1) / total
    slope = (w * (x - mx[:, None]) * (y - my[:, None])).sum(axis=1) / (w * (x - mx[:, None]) ** 2).sum(axis=1)
    slope = np.minimum(slope, 0)

    def curve(at: Floats) -> Floats:
        return np.asarray(1 / (1 + np.exp(-(my[:, None] + slope[:, None] * (at - mx[:, None])))))

    return curve(out), (errors - curve(x)) ** 2 @ weights
