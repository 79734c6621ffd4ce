"""Which class's next 50 images would help most, from a learning curve of each class.

The error of class k (1 − F1, or 1 − recall) is taken to fall as α_k + b_k m^-1/2 in the images m of that class; the
slopes are drawn towards their mean by as much as their doubt calls for (DerSimonian & Laird 1986), since three sizes of
a rare class say little by themselves. With 50 images more, the metric gains b_k (m^-1/2 − (m + 50)^-1/2) / K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.studies.race.evidence import ArmKey, Evidence
from regraft.studies.race.subsets import Plan
from regraft.studies.race.values import Floats, Resampled
from regraft.types import JSON, Interval

MORE_IMAGES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassGain:
    """What more images of one class would give.

    Attributes:
        class_name: which.
        num_images: development images of it.
        value: its F1 (or recall) with the largest subset; NaN where it was never judged.
        gain: of the metric over all classes, with its 80 % interval.
    """

    class_name: str
    num_images: int
    value: float
    gain: Interval

    def as_dict(self) -> JSON:
        """A JSON object."""
        return {
            "class": self.class_name, "num_images": self.num_images,
            "value": None if np.isnan(self.value) else round(self.value, 4), "gain": self.gain.as_dict(),
        }  # fmt: skip


def next_images(
    plan: Plan, evidence: Evidence, arm: ArmKey, resampled: Resampled, class_names: Sequence[str]
) -> list[ClassGain]:
    """Classes by what their next 50 images would give, most first; empty where one size alone was measured."""
    sizes, errors = [], []
    for halvings in plan.halvings:
        found = evidence.of(arm, halvings)
        if found:
            train = np.zeros(plan.num_classes)
            for measurement in found:
                rows, _ = plan.rows(measurement.cell)
                train += np.bincount(plan.labels[rows], minlength=plan.num_classes)
            sizes.append(train / len(found))
            errors.append(1 - resampled.per_class(found))
    if len(sizes) < 2:
        return []
    m = np.stack(sizes)  # (S, K)
    e = np.stack(errors)  # (S, 1 + B, K)
    slopes, variances = _slopes(m, e)
    known = np.isfinite(slopes) & np.isfinite(variances) & (m[-1] > 0)
    if not known.any():
        return []
    drawn, doubt = _drawn_together(slopes, variances, known)
    counts = np.bincount(plan.labels, minlength=plan.num_classes)
    step = np.maximum(counts, 1.0) ** -0.5 - (np.maximum(counts, 1.0) + MORE_IMAGES) ** -0.5
    share = step / int((counts > 0).sum())
    rng = np.random.default_rng([plan.seed, 17])
    draws = np.maximum(drawn + np.sqrt(doubt) * rng.standard_normal((resampled.num_draws, len(drawn))), 0) * share
    low, high = np.quantile(draws, [0.1, 0.9], axis=0)
    gains = np.maximum(drawn, 0) * share
    found_gains = [
        ClassGain(
            class_name=class_names[k], num_images=int(counts[k]), value=float(1 - e[-1, 0, k]),
            gain=Interval(estimate=float(gains[k]), low=float(min(low[k], gains[k])),
                          high=float(max(high[k], gains[k])), level=0.8),
        )
        for k in np.flatnonzero(counts > 0).tolist()
    ]  # fmt: skip
    return sorted(found_gains, key=lambda one: (-one.gain.estimate, one.class_name))


def _slopes(m: Floats, e: Floats) -> tuple[Floats, Floats]:
    """(K,) slopes over m^-1/2 and their variances, by least squares over sizes (all sizes of a class weigh alike)."""
    x = np.maximum(m, 0.5) ** -0.5
    x = x - x.mean(axis=0)
    spread = (x**2).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(spread > 1e-6, np.einsum("sk,sbk->bk", x, e) / spread, np.nan)
    usable = np.isfinite(each[1:])
    enough = usable.sum(axis=0) >= 20
    mean = np.where(usable, each[1:], 0).sum(axis=0) / np.maximum(usable.sum(axis=0), 1)
    variance = np.where(usable, (each[1:] - mean) ** 2, 0).sum(axis=0) / np.maximum(usable.sum(axis=0), 1)
    return each[0], np.where(enough, np.maximum(variance, 1e-6), np.nan)


def _drawn_together(slopes: Floats, variances: Floats, known: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Slopes drawn towards their mean, and what doubt is left; a class without a slope gets the mean's."""
    b, v = slopes[known], variances[known]
    w = 1 / v
    mean = float((w * b).sum() / w.sum())
    q, c = float((w * (b - mean) ** 2).sum()), float(w.sum() - (w**2).sum() / w.sum())
    between = max(0.0, (q - (len(b) - 1)) / c) if c > 0 else 0.0
    mean = float((b / (v + between)).sum() / (1 / (v + between)).sum())
    of_mean = float(1 / (1 / (v + between)).sum())
    drawn, doubt = np.full(len(slopes), mean), np.full(len(slopes), between + of_mean)
    trust = between / (between + v)
    drawn[known] = mean + trust * (b - mean)
    doubt[known] = trust * v + (1 - trust) ** 2 * of_mean
    return drawn, doubt
