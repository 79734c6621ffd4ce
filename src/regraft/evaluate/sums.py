"""Everything the measures need, as a few weighted sums over the rows.

    Rows   labels and probabilities, checked and digested
    Sums   about 3K + 16 sums; every measure is a function of them

So a bootstrap repeats only the sums: 1,000 resamples of 10,000 rows are 1,000 short passes over integers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regraft.errors import DataError

NAMES = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "ece")
"""The five measures of the whole, in the order of `result.json`."""

NUM_BINS = 15
SMALLEST = float(np.finfo(np.float64).eps)
"""Probabilities are clipped here before the logarithm, as in scikit-learn: one row costs at most 36.04 nats."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """What the measures need to know about each row; the probabilities can go.

    Attributes:
        labels, predicted: int64 (n,).
        correct: bool (n,).
        confidence: float64 (n,), probability of the predicted label.
        bins: int64 (n,), number of the confidence bin.
        losses: float64 (n,), nats.
        num_classes: K.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    correct: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    bins: NDArray[np.int64]
    losses: NDArray[np.float64]
    num_classes: int

    @classmethod
    def of(cls, labels: ArrayLike, pred_probs: ArrayLike, predicted: ArrayLike | None = None) -> Rows:
        """Check and digest labels (n,) and probabilities (n, K).

        Args:
            labels: 0..K-1.
            pred_probs: rows sum to 1.
            predicted: 0..K-1; the most probable class unless said.

        Raises:
            DataError: nothing to measure, lengths that differ, labels out of range, probabilities that are none.
        """
        y = np.asarray(labels)
        probs = np.asarray(pred_probs, np.float64)
        if probs.ndim != 2 or y.shape != probs.shape[:1]:
            raise DataError(f"labels (n,) and pred_probs (n, K) go together: got {y.shape} and {probs.shape}")
        n, num_classes = probs.shape
        if n == 0:
            raise DataError("nothing can be measured without a labelled image; give at least one")
        answer = probs.argmax(axis=1) if predicted is None else np.asarray(predicted)
        if answer.shape != y.shape:
            raise DataError(f"one predicted label per row: got {answer.shape} for {n} rows")
        for name, values in (("labels", y), ("predicted labels", answer)):
            if values.dtype.kind not in "iu" or values.min() < 0 or values.max() >= num_classes:
                raise DataError(f"{name} are whole numbers in 0..{num_classes - 1}: leave unlabelled images (-1) out")
        if not (probs.min() >= -1e-9 and np.abs(probs.sum(axis=1) - 1).max() < 1e-3):  # NaN fails the comparison too
            raise DataError("pred_probs are not probabilities (rows must be finite, >= 0 and sum to 1); apply softmax")
        rows = np.arange(n)
        confidence = probs[rows, answer]
        # a hair below the edge: 0.6 * 15 is 9.000000000000002 in binary, and (0.533, 0.6] is Guo's bin
        bins = np.clip(np.ceil(confidence * NUM_BINS - 1e-9) - 1, 0, NUM_BINS - 1)
        return cls(
            labels=y.astype(np.int64),
            predicted=answer.astype(np.int64),
            correct=y == answer,
            confidence=confidence,
            bins=bins.astype(np.int64),
            losses=-np.log(np.clip(probs[rows, y], SMALLEST, 1.0)),
            num_classes=num_classes,
        )

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sums:
    """Weighted sums over rows, for one weighting or for R of them (a leading axis).

    Attributes:
        hits, support, answers: float64 (..., K): weight of right answers, labels and predictions of each class.
        gaps: float64 (..., 15): sum of (right − confidence) in each bin of confidence.
        loss: float64 (...): sum of log losses.
    """

    hits: NDArray[np.float64]
    support: NDArray[np.float64]
    answers: NDArray[np.float64]
    gaps: NDArray[np.float64]
    loss: NDArray[np.float64]

    @classmethod
    def over(cls, rows: Rows, weights: NDArray[np.float64]) -> Sums:
        """Sums under one weighting, float64 (n,)."""
        k, right = rows.num_classes, weights * rows.correct

        def total(codes: NDArray[np.int64], values: NDArray[np.float64], length: int) -> NDArray[np.float64]:
            return np.asarray(np.bincount(codes, values, length), np.float64)

        return cls(
            hits=total(rows.labels, right, k),
            support=total(rows.labels, weights, k),
            answers=total(rows.predicted, weights, k),
            gaps=total(rows.bins, right - weights * rows.confidence, NUM_BINS),
            loss=np.asarray(weights @ rows.losses),
        )

    @classmethod
    def stack(cls, sums: list[Sums]) -> Sums:
        """R weightings as one, with a leading axis."""
        return cls(
            hits=np.stack([s.hits for s in sums]),
            support=np.stack([s.support for s in sums]),
            answers=np.stack([s.answers for s in sums]),
            gaps=np.stack([s.gaps for s in sums]),
            loss=np.stack([s.loss for s in sums]),
        )

    def overall(self) -> dict[str, NDArray[np.float64]]:
        """The five measures, (...) each; NaN where the weights are all zero."""
        total = self.support.sum(axis=-1)
        with np.errstate(divide="ignore", invalid="ignore"):
            recall = np.where(self.support > 0, self.hits / self.support, 0.0)
            size = self.support + self.answers
            f1 = np.where(size > 0, 2 * self.hits / size, 0.0)
            return {
                "accuracy": self.hits.sum(axis=-1) / total,
                "balanced_accuracy": recall.sum(axis=-1) / (self.support > 0).sum(axis=-1),
                "macro_f1": f1.sum(axis=-1) / (size > 0).sum(axis=-1),
                "log_loss": self.loss / total,
                "ece": np.abs(self.gaps).sum(axis=-1) / total,
            }

    def per_class(self) -> dict[str, NDArray[np.float64]]:
        """Precision, recall and F1, (..., K) each; NaN where undefined."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                "precision": self.hits / self.answers,
                "recall": self.hits / self.support,
                "f1": 2 * self.hits / (self.support + self.answers),
            }
