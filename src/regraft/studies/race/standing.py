"""How the arms stand at n images: estimates with all doubt in them, and who is best with what probability.

The reference (the probe: exact, nearly free, measured on every occasion) anchors all. Another arm's value is the
reference's plus its difference to the reference on the occasions that both took: a control variate, so an arm that was
trained three times is compared on the images and subsets of these three times alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from regraft.studies.race.evidence import ArmKey, Evidence, Measurement
from regraft.studies.race.subsets import Plan
from regraft.studies.race.values import Difference, Floats, Resampled, images_variance, training_variance
from regraft.types import Interval

EXPONENT, EXPONENT_SD = 0.4, 0.2
"""Where n itself was not reached, the error is carried on as a pure power of the size: e(2m) = e(m) 2^-γ. Over the
published size curves of fine-tuning (TLLib, ResNet-50) γ is .24 on Pets, .4 on CUB and .54 on Aircraft."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standing:
    """The arms at n training images.

    Attributes:
        arms: those that were measured at all.
        draws: float64 (B, A): joint draws of their values.
        estimates: float64 (A,).
        p_best: float64 (A,): share of draws in which an arm is highest.
        differences: for each arm its difference to the reference at the largest size it was measured at; None for the
            reference.
        extrapolated: bool (A,): not measured at n itself.
        drift_variance: float64 (A,): the doubt that this adds.
        reference: number of the reference arm.
    """

    arms: tuple[ArmKey, ...]
    draws: Floats
    estimates: Floats
    p_best: Floats
    differences: tuple[Difference | None, ...]
    extrapolated: NDArray[np.bool_]
    drift_variance: Floats
    reference: int

    def interval(self, number: int, level: float = 0.8) -> Interval:
        """An arm's value at n."""
        return spread(float(self.estimates[number]), self.draws[:, number], level)

    def gain(self, number: int, over: int, level: float = 0.8) -> Interval:
        """By how much an arm is above another."""
        estimate = float(self.estimates[number] - self.estimates[over])
        return spread(estimate, self.draws[:, number] - self.draws[:, over], level, lowest=-1.0)


def spread(estimate: float, draws: Floats, level: float, *, lowest: float = 0.0) -> Interval:
    """The central `level` of draws, within [lowest, 1]."""
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(
        estimate=estimate, low=max(min(float(low), estimate), lowest), high=min(max(float(high), estimate), 1.0),
        level=level,
    )  # fmt: skip


def stand(
    plan: Plan, evidence: Evidence, arms: Sequence[ArmKey], reference: ArmKey, resampled: Resampled, *, seed: int = 0
) -> Standing:
    """Where the arms stand with the evidence so far.

    Args:
        plan: folds and sizes.
        evidence: measurements; the reference's at n at least.
        arms: that take part, dropped ones too.
        reference: the arm that anchors.
        resampled: of the images.
        seed: of the draws for training and drift.
    """
    known: list[ArmKey] = []
    draws: list[Floats] = []
    estimates: list[float] = []
    differences: list[Difference | None] = []
    extrapolated: list[bool] = []
    carried: list[float] = []
    for number, arm in enumerate(arms):
        values = curve_draws(plan, evidence, arm, reference, resampled, seed=seed)
        if not values:
            continue
        nearest = min(values)
        here, more = values[nearest].values, 0.0
        if nearest:
            rng = np.random.default_rng([seed, 7, number])
            before = values[nearest + 1].values if nearest + 1 in values else None
            here, more = carry_on(here, before, nearest, rng)
        known.append(arm)
        draws.append(here[1:])
        estimates.append(float(here[0]))
        gaps = None if arm == reference else measured_differences(plan, evidence, arm, reference, resampled)
        differences.append(None if gaps is None else gaps[nearest])
        extrapolated.append(nearest > 0)
        carried.append(more)
    together = np.stack(draws, axis=1)
    winners = np.bincount(np.argmax(together, axis=1), minlength=len(known))
    return Standing(
        arms=tuple(known), draws=together, estimates=np.array(estimates), p_best=winners / len(together),
        differences=tuple(differences), extrapolated=np.array(extrapolated), drift_variance=np.array(carried),
        reference=known.index(reference),
    )  # fmt: skip


def carry_on(values: Floats, before: Floats | None, doublings: int, rng: np.random.Generator) -> tuple[Floats, float]:
    """Values (1 + B,) at a size carried on to so many times its double, and the variance that this adds.

    Args:
        values: at the largest size that was measured.
        before: at half of it, paired by draw; None where it was not measured.
        doublings: how far.
        rng: of the exponent.
    """
    errors = np.clip(1 - values, 1e-4, 1)
    exponents = np.full(len(errors), EXPONENT)
    spread_left = EXPONENT_SD
    if before is not None:
        seen = np.log2(np.clip(1 - before, 1e-4, 1) / errors)
        doubt = max(float(seen[1:].var()), 1e-6)
        trust = EXPONENT_SD**2 / (EXPONENT_SD**2 + doubt)
        exponents = EXPONENT + trust * (seen - EXPONENT)
        spread_left = EXPONENT_SD * float(np.sqrt(1 - trust))
    exponents[1:] += spread_left * rng.standard_normal(len(errors) - 1)
    exponents = np.clip(exponents, 0.0, 1.5)
    moved = 1 - errors * 2.0 ** (-exponents * doublings)
    return moved, max(float(moved[1:].var() - values[1:].var()), 0.0)


def measured_differences(
    plan: Plan, evidence: Evidence, arm: ArmKey, reference: ArmKey, resampled: Resampled
) -> Mapping[int, Difference]:
    """Halvings to the difference between an arm and the reference, at the sizes where both were measured."""
    pairs: dict[int, tuple[list[Measurement], list[Measurement]]] = {}
    for halvings in plan.halvings:
        ours = evidence.of(arm, halvings)
        theirs = [evidence.get(reference, m.cell) for m in ours]
        both = [(a, b) for a, b in zip(ours, theirs, strict=True) if b is not None]
        if both:
            pairs[halvings] = [a for a, _ in both], [b for _, b in both]
    per_cell = [resampled.each(a) - resampled.each(b) for a, b in pairs.values()]
    sizes = [plan.size_of(halvings) for halvings in pairs]
    found = {}
    for halvings, (a, b) in pairs.items():
        values = resampled.value(a) - resampled.value(b)
        found[halvings] = Difference(
            values=values, images_variance=images_variance(values, resampled.num_groups(a)),
            training_variance=training_variance(per_cell, sizes, plan.size_of(halvings)), num_trainings=len(a),
        )  # fmt: skip
    return found


def curve_draws(
    plan: Plan, evidence: Evidence, arm: ArmKey, reference: ArmKey, resampled: Resampled, *, seed: int = 0
) -> Mapping[int, Difference]:
    """Halvings to an arm's own value with draws that hold all doubt, paired with every other arm's by the images."""
    rng = np.random.default_rng([seed, 3])
    base: dict[int, Difference] = {}
    sets = {h: found for h in plan.halvings if (found := evidence.of(reference, h))}
    per_cell = [resampled.each(found) for found in sets.values()]
    sizes = [plan.size_of(halvings) for halvings in sets]
    for halvings, found in sets.items():
        values = resampled.value(found)
        training = training_variance(per_cell, sizes, plan.size_of(halvings))
        raw = Difference(
            values=values, images_variance=images_variance(values, resampled.num_groups(found)),
            training_variance=training, num_trainings=len(found),
        )  # fmt: skip
        base[halvings] = Difference(
            values=noisy(raw, rng), images_variance=raw.images_variance, training_variance=training,
            num_trainings=len(found),
        )  # fmt: skip
    if arm == reference:
        return base
    rng = np.random.default_rng([seed, 5, crc32(str(arm).encode("utf-8", "surrogateescape"))])
    result = {}
    for halvings, difference in measured_differences(plan, evidence, arm, reference, resampled).items():
        if halvings not in base:
            continue
        values = base[halvings].values + noisy(difference, rng)
        result[halvings] = Difference(
            values=values, images_variance=difference.images_variance,
            training_variance=difference.training_variance, num_trainings=difference.num_trainings,
        )  # fmt: skip
    return result


def noisy(difference: Difference, rng: np.random.Generator) -> Floats:
    """(1 + B,): draws over images, with the doubt that is owed to trainings and to few images added."""
    own = float(difference.values[1:].var())
    more = max(difference.images_variance - own, 0.0) + difference.training_variance / difference.num_trainings
    values = difference.values.copy()
    values[1:] += np.sqrt(more) * rng.standard_normal(len(values) - 1)
    return values
