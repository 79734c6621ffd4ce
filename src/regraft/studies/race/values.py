"""What measurements are worth: a metric over the images, and how it would vary with other images and other trainings.

Two sources of doubt, kept apart because different things shrink them:

    images      whole groups are resampled, all arms alike (Efron 1979), so that differences between arms are paired
    trainings   another subset, another seed: the spread between trainings that the images do not explain
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.groups import Groups
from regraft.evaluate.sums import NUM_BINS, Sums
from regraft.studies.decide import Metric
from regraft.studies.race.evidence import Measurement

Floats = NDArray[np.float64]

NUM_DRAWS = 400
"""The 80 % interval's ends are then known to a twentieth of its width; more rows or classes get half of it."""

TRAINING_SD = 0.01
"""What the spread between trainings is taken to be before it is known, with the weight of two trainings: fine-tuning
small data twice gives results about a point apart."""

PRIOR_TRAININGS = 2.0


class Resampled:
    """Measures under resamples of the images, the same for every arm.

    Args:
        labels: int64 (N,), 0..K-1.
        group_ids: int64 (N,).
        num_classes: K.
        metric: accuracy, balanced_accuracy or macro_f1.
        num_draws: resamples; halved above 20,000 images or 100 classes.
        seed: of the resamples.
    """

    def __init__(
        self, labels: NDArray[np.int64], group_ids: NDArray[np.int64], num_classes: int, metric: Metric, *,
        num_draws: int = NUM_DRAWS, seed: int = 0,
    ) -> None:  # fmt: skip
        groups = Groups.of(group_ids, len(labels))
        num_draws = num_draws // 2 if len(labels) > 20_000 or num_classes > 100 else num_draws
        counts = np.stack(list(groups.resample(num_draws, seed))).astype(np.float32)
        everyone = np.ones((1, len(labels)), np.float32)
        self.weights = np.concatenate([everyone, counts[:, groups.index]])
        self.labels, self.num_classes, self.metric, self.num_draws = labels, num_classes, metric, num_draws
        self.index = groups.index
        self._sums: dict[int, tuple[Measurement, Sums]] = {}  # holds the measurement, so that its id stays its own
        self._metrics: dict[tuple[int, ...], Floats] = {}

    def sums(self, measurement: Measurement) -> Sums:
        """Of one measurement: (1 + B, K) each, the first without resampling."""
        known = self._sums.get(id(measurement))
        if known is None or known[0] is not measurement:
            weights = self.weights[:, measurement.rows]
            labels = self.labels[measurement.rows]
            predicted = measurement.predicted.astype(np.int64)
            nothing = np.zeros(len(weights))
            found = Sums(
                hits=self._by_class(weights * (labels == predicted).astype(np.float32), labels),
                support=self._by_class(weights, labels),
                answers=self._by_class(weights, predicted),
                gaps=np.zeros((len(weights), NUM_BINS)),
                loss=nothing,
            )
            known = self._sums[id(measurement)] = (measurement, found)
        return known[1]

    def value(self, measurements: Sequence[Measurement]) -> Floats:
        """(1 + B,): the metric, over the images of each assignment of folds at once, averaged over assignments.

        The first is without resampling, the rest are moved so that their mean is the first: a resample of few images
        has too low a macro-F1, by as much as these images have below all that there are.
        """
        by_repeat: dict[int, list[Measurement]] = {}
        for measurement in measurements:
            by_repeat.setdefault(measurement.cell.repeat, []).append(measurement)
        parts = [self._metric(found) for found in by_repeat.values()]
        sizes = [sum(len(m.rows) for m in found) for found in by_repeat.values()]
        return centred(np.average(parts, axis=0, weights=sizes))

    def each(self, measurements: Sequence[Measurement]) -> Floats:
        """(k, 1 + B): the metric of each measurement alone, not centred."""
        return np.stack([self._metric([m]) for m in measurements])

    def per_class(self, measurements: Sequence[Measurement]) -> Floats:
        """(1 + B, K): F1 (or for accuracies recall) of each class over all measurements, NaN where undefined."""
        name = "f1" if self.metric == "macro_f1" else "recall"
        return self._added([self.sums(m) for m in measurements]).per_class()[name]

    def num_groups(self, measurements: Sequence[Measurement]) -> int:
        """Groups that were judged."""
        return len(np.unique(self.index[np.concatenate([m.rows for m in measurements])]))

    def _metric(self, measurements: Sequence[Measurement]) -> Floats:
        """(1 + B,), over all images of these at once; as `evaluate.sums.Sums.overall`, one measure instead of five."""
        key = tuple(id(m) for m in measurements)
        if key not in self._metrics:
            found = self._added([self.sums(m) for m in measurements])
            with np.errstate(divide="ignore", invalid="ignore"):
                if self.metric == "accuracy":
                    values = found.hits.sum(axis=1) / found.support.sum(axis=1)
                else:
                    sizes = found.support
                    if self.metric == "macro_f1":
                        sizes = (found.support + found.answers) / 2
                    values = np.where(sizes > 0, found.hits / sizes, 0).sum(axis=1) / (sizes > 0).sum(axis=1)
            # a resample may hold none of these images
            self._metrics[key] = np.where(np.isfinite(values), values, values[0])
        return self._metrics[key]

    def _added(self, sums: list[Sums]) -> Sums:
        if len(sums) == 1:
            return sums[0]
        return Sums(
            hits=np.sum([s.hits for s in sums], axis=0), support=np.sum([s.support for s in sums], axis=0),
            answers=np.sum([s.answers for s in sums], axis=0), gaps=sums[0].gaps, loss=sums[0].loss,
        )  # fmt: skip

    def _by_class(self, weights: NDArray[np.float32], codes: NDArray[np.int64]) -> Floats:
        found = np.zeros((len(weights), self.num_classes))
        if codes.size:
            order = np.argsort(codes, kind="stable")
            present, starts = np.unique(codes[order], return_index=True)
            found[:, present] = np.add.reduceat(weights[:, order], starts, axis=1)
        return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Difference:
    """By how much one arm is above another at one size, on the occasions that both took.

    Attributes:
        values: float64 (1 + B,), the first without resampling.
        images_variance: what other images would change, squared.
        training_variance: what one other training would change, squared.
        num_trainings: k; the mean over them moves by training_variance / k.
    """

    values: Floats
    images_variance: float
    training_variance: float
    num_trainings: int

    @property
    def variance(self) -> float:
        """Of the mean: both sources together."""
        return self.images_variance + self.training_variance / self.num_trainings


def centred(values: Floats) -> Floats:
    """(1 + B,): draws moved so that their mean is the value without resampling."""
    moved = values.copy()
    moved[1:] += values[0] - values[1:].mean()
    return moved


def training_variance(
    per_cell: Sequence[Floats], sizes: Sequence[float], at: float, *, same_images: bool = False
) -> float:
    """Variance between trainings on `at` images that the images judged do not explain, drawn towards TRAINING_SD².

    What is seen at all sizes counts, carried to this one as 1 / m: so falls the variance of what is learnt from a
    random subset of m images (over 40 times the images the spread between seeds fell from 3.9 points to 0.7,
    `benchmarks/quadrant.py`).

    Args:
        per_cell: for each size (k, 1 + B), each training's value (or difference), the first without resampling.
        sizes: training images of each.
        at: the size that is asked about.
        same_images: all trainings were judged on the same images, which then explain none of the spread.
    """
    degrees, excess = 0, 0.0
    for values, size in zip(per_cell, sizes, strict=True):
        if len(values) > 1:
            degrees += len(values) - 1
            explained = 0.0 if same_images else float(values[:, 1:].var(axis=1).mean())
            excess += (len(values) - 1) * (float(values[:, 0].var(ddof=1)) - explained) * size / at
    return (PRIOR_TRAININGS * TRAINING_SD**2 + max(excess, 0.0)) / (PRIOR_TRAININGS + degrees)


def images_variance(values: Floats, num_groups: int) -> float:
    """Variance over resamples (1 + B,), widened for few groups; never less than one unseen image would make.

    The last is Laplace's: of G groups without a difference, the next differs with probability 1 / (G + 2).
    """
    few = num_groups / max(num_groups - 1, 1)
    return max(few * float(values[1:].var()), (1 / (num_groups + 2)) ** 2)
