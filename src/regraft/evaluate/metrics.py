"""The measures of a classifier, from labels and class probabilities.

    evaluate_predictions   accuracy, balanced accuracy, macro-F1, log loss, ECE, per class, confusion matrix
    baseline               the same for always answering the most frequent class
    reliability_bins       confidence against accuracy, for the reliability curve

Predictions must be out of sample: on rows a model was fitted on, every number flatters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regraft.errors import DataError
from regraft.evaluate.proportions import wilson
from regraft.evaluate.sums import NAMES, NUM_BINS, Rows, Sums
from regraft.types import Interval


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Metrics:
    """The measures of one set of predictions.

    Attributes:
        accuracy: share of right answers.
        balanced_accuracy: mean recall over the classes that occur in the labels.
        macro_f1: mean F1 over the classes that occur in the labels or in the predictions.
        log_loss: mean negative log-probability of the label, in nats.
        ece: expected calibration error, 15 equal-width bins of confidence (Guo et al. 2017).
        per_class: "precision", "recall", "f1" (float64 (K,)) and "support" (int64 (K,), rows with that label).
            What is undefined (recall of a class without rows, precision of one never predicted) is 0.
        confusion: int64 (K, K), rows are labels, columns are predictions. Counts rows, whatever their weight.
    """

    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    log_loss: float
    ece: float
    per_class: dict[str, NDArray[np.float64] | NDArray[np.int64]]
    confusion: NDArray[np.int64]

    def as_dict(self) -> dict[str, float]:
        """The five measures of the whole by name."""
        return {name: float(getattr(self, name)) for name in NAMES}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """One bin of the reliability curve.

    Attributes:
        low, high: the bin holds confidences in (low, high].
        count: rows in it.
        confidence: their mean confidence.
        accuracy: their share of right answers, with Wilson's interval.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: Interval


def evaluate_predictions(
    labels: ArrayLike,
    pred_probs: ArrayLike,
    *,
    predicted: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> Metrics:
    """Measure predictions that were made out of sample.

    The numbers are scikit-learn's: `accuracy_score`, `balanced_accuracy_score`, `f1_score(average="macro",
    zero_division=0)`, `log_loss(labels=range(K))`, with `sample_weight` where weights are given.

    Args:
        labels: int (n,), 0..K-1.
        pred_probs: float (n, K), rows sum to 1, from a model that has not seen these rows.
        predicted: int (n,), where the answer is not the most probable class; the confidence is then the
            probability of that answer.
        weights: float (n,), >= 0; 1 unless said.

    Raises:
        DataError: as `Rows.of`, or weights that are negative or all zero.
    """
    rows = Rows.of(labels, pred_probs, predicted)
    w = np.ones(len(rows)) if weights is None else np.asarray(weights, np.float64)
    if w.shape != (len(rows),) or not (np.isfinite(w).all() and w.min() >= 0 and w.sum() > 0):
        raise DataError(f"weights are finite, >= 0 and not all zero, one a row: got {w.shape} for {len(rows)} rows")
    sums, k = Sums.over(rows, w), rows.num_classes
    confusion = np.bincount(rows.labels.astype(np.int64) * k + rows.predicted, minlength=k * k).reshape(k, k)
    per_class: dict[str, NDArray[np.float64] | NDArray[np.int64]] = {
        name: np.nan_to_num(values, nan=0.0) for name, values in sums.per_class().items()
    }
    per_class["support"] = confusion.sum(axis=1).astype(np.int64)
    overall = {name: float(value) for name, value in sums.overall().items()}
    return Metrics(**overall, per_class=per_class, confusion=confusion.astype(np.int64))


def baseline(labels: ArrayLike, development_labels: ArrayLike, *, num_classes: int | None = None) -> Metrics:
    """What knowing only the class counts would reach: always the most frequent development class (the lower number
    in a tie), with the development shares of the classes as probabilities.

    Args:
        labels: int (n,), the rows that are measured on.
        development_labels: int (m,), the rows that could be learnt from.
        num_classes: K; the largest label + 1 unless said.

    Raises:
        DataError: no rows, or labels out of range.
    """
    y, seen = np.asarray(labels), np.asarray(development_labels)
    if not len(seen):
        raise DataError("the baseline needs at least one development label")
    k = num_classes or int(max(y.max(initial=0), seen.max(initial=0))) + 1
    if seen.min() < 0 or seen.max() >= k:
        raise DataError(f"development labels are whole numbers in 0..{k - 1}: leave unlabelled images (-1) out")
    counts = np.bincount(seen, minlength=k)
    return evaluate_predictions(y, np.broadcast_to(counts / counts.sum(), (len(y), k)))


def reliability_bins(
    labels: ArrayLike, pred_probs: ArrayLike, *, predicted: ArrayLike | None = None, level: float = 0.95
) -> tuple[ReliabilityBin, ...]:
    """The bins of the reliability curve that hold any row, by rising confidence; the ECE's own bins.

    Raises:
        DataError: as `Rows.of`.
    """
    rows = Rows.of(labels, pred_probs, predicted)
    found = []
    for number in range(NUM_BINS):
        inside = rows.bins == number
        count = int(inside.sum())
        if count:
            accuracy = float(rows.correct[inside].mean())
            low, high = wilson(accuracy, count, level)
            found.append(
                ReliabilityBin(
                    low=number / NUM_BINS,
                    high=(number + 1) / NUM_BINS,
                    count=count,
                    confidence=float(rows.confidence[inside].mean()),
                    accuracy=Interval(estimate=accuracy, low=low, high=high, level=level),
                )
            )
    return tuple(found)
