"""How labels go wrong: right classes seen through the judges, given labels through a noise matrix.

    P(given = j | image) = sum over k of softmax(sum over judges m of w_m s_m)_k × T[k, j]

s_m are the held-out log-scores of judge m (the head, a second backbone's head, ridge, the neighbours), w_m its weight
and T[k, j] the probability that an image of class k is labelled j. Weights and T are fitted together to the given
labels by expectation-maximisation: the mixture of annotators of Dawid & Skene (1979) behind a logarithmic opinion pool
of the judges (Hinton 2002), which is the noise layer of Sukhbaatar et al. (2015) solved on held-out scores. What a
calibrated head lacks is the possibility that the label, not the head, is wrong: without it, noise only makes the head
less certain, and the number of wrong labels cannot be told from the number of hard images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ITERATIONS = 40
TOLERANCE = 1e-5
"""Gain of the mean log-likelihood in a step at which it stops: a hundredth of its standard error at 100,000 images."""
_WEIGHT_SD = 3.0
_BLOCK_ELEMENTS = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NoiseModel:
    """Fitted weights of the judges and noise.

    Attributes:
        weights: float64 (M,), not negative, of the judges' scores divided by `scales`.
        scales: float64 (M,), the judges' spread.
        transition: float64 (K, K), T[k, j] = P(given = j | right = k); rows sum to 1.
        counts: float64 (K, K), expected number of images of right class k and given class j.
        iterations: of expectation-maximisation.
    """

    weights: Floats
    scales: Floats
    transition: Floats
    counts: Floats
    iterations: int

    @property
    def noise_rate(self) -> float:
        """Expected share of wrong labels."""
        return float(1 - np.trace(self.counts) / self.counts.sum())

    def posterior(self, judges: Sequence[NDArray[Any]], labels: NDArray[np.int64]) -> NDArray[np.float32]:
        """P(right class | image, given label), float32 (N, K), of images with the judges' scores, each (N, K)."""
        num, num_classes = judges[0].shape
        found = np.empty((num, num_classes), np.float32)
        step = max(1, _BLOCK_ELEMENTS // (num_classes * len(judges)))
        for first in range(0, num, step):
            rows = slice(first, first + step)
            scores = np.stack([_centred(judge[rows]) for judge in judges]) / self.scales[:, None, None]
            joint = _softmax(np.tensordot(self.weights, scores, 1)) * self.transition[:, labels[rows]].T
            found[rows] = joint / joint.sum(axis=1, keepdims=True)
        return found


def fit_noise_model(
    judges: Sequence[NDArray[Any]],
    labels: NDArray[np.int64],
    *,
    row_weight: Floats | None = None,
    start: NoiseModel | None = None,
    iterations: int = ITERATIONS,
) -> NoiseModel:
    """Fit by expectation-maximisation.

    T leans on symmetric noise of the overall rate with the weight of K images a class, so that a class with few images
    borrows from all; weights lean on 0 with a standard deviation of 3.

    Args:
        judges: M arrays, float (N, K): held-out log-scores, up to a constant per image and a factor per judge. Scores
            of a judge that was fitted on the image itself hide its error.
        labels: int64 (N,), 0..K-1.
        row_weight: float64 (N,), how often each image counts; 1 unless said.
        start: where to begin, such as the model of all images for a resample of them.
        iterations: at most.
    """
    num, num_classes = judges[0].shape
    scores = np.stack([_centred(judge) for judge in judges])
    if start is not None:
        scales = start.scales
    else:
        spread = np.sqrt(np.square(scores).mean(axis=(1, 2), dtype=np.float64))
        scales = np.where(spread > 0, spread, 1.0)
    scores /= scales[:, None, None].astype(np.float32)
    each = np.ones(num) if row_weight is None else np.asarray(row_weight, np.float64)
    total = float(each.sum())
    if start is not None:
        weights, transition = start.weights, start.transition
    else:
        weights, transition = np.full(len(scores), 1 / len(scores)), _symmetric(0.1, num_classes)

    last, done = -np.inf, 0
    counts = np.zeros((num_classes, num_classes))
    for done in range(1, iterations + 1):
        pooled = _softmax(np.tensordot(weights, scores, 1))
        joint = pooled * transition[:, labels].T
        likelihood = joint.sum(axis=1)
        posterior = joint / likelihood[:, None]
        loss = float(each @ np.log(likelihood)) / total
        counts = _sums_by_label(posterior * each[:, None], labels, num_classes)
        rate = float(np.clip(1 - np.trace(counts) / total, 1e-3, 0.9))
        leaning = num_classes * _symmetric(rate, num_classes)
        transition = (counts + leaning) / (counts.sum(axis=1, keepdims=True) + num_classes)
        weights = _newton_step(weights, scores, pooled, posterior, each)
        if loss - last < TOLERANCE and done > 5:
            break
        last = loss
    return NoiseModel(weights=weights, scales=scales, transition=transition, counts=counts, iterations=done)


def _newton_step(
    weights: Floats, scores: NDArray[np.float32], pooled: Floats, posterior: Floats, each: Floats
) -> Floats:
    """One step towards the pool that is most likely under the posterior; a step of 1 at most, never below 0."""
    num_judges = len(scores)
    flat = scores.reshape(num_judges, -1)
    gradient = flat @ ((posterior - pooled) * each[:, None]).ravel()
    expected = np.einsum("mnk,nk->mn", scores, pooled)
    weighted = flat * (pooled * each[:, None]).ravel()
    curvature = weighted @ flat.T - (expected * each) @ expected.T
    penalty = 1 / _WEIGHT_SD**2
    step = np.linalg.solve(curvature + penalty * np.eye(num_judges), gradient - penalty * weights)
    return np.asarray(np.maximum(weights + np.clip(step, -1, 1), 0.0), np.float64)


def _sums_by_label(values: Floats, labels: NDArray[np.int64], num_classes: int) -> Floats:
    """(K, K): for each given class j the sum over its rows of `values` (N, K), as column j."""
    return np.stack([np.bincount(labels, column, num_classes) for column in values.T])


def _symmetric(rate: float, num_classes: int) -> Floats:
    off = rate / max(num_classes - 1, 1)
    return np.full((num_classes, num_classes), off) + (1 - rate - off) * np.eye(num_classes)


def _centred(scores: NDArray[Any]) -> NDArray[np.float32]:
    values = np.asarray(scores, np.float32)
    return np.asarray(values - values.mean(axis=1, keepdims=True), np.float32)


def _softmax(logits: NDArray[Any]) -> NDArray[Any]:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
