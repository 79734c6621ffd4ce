"""Made-up classes with planted label errors, and an honest head for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Sample:
    features: np.ndarray
    right: np.ndarray
    given: np.ndarray
    folds: np.ndarray
    pred_probs: np.ndarray
    groups: np.ndarray

    @property
    def wrong(self) -> np.ndarray:
        return self.given != self.right


def held_out_probs(features, given, folds, num_classes, sharpness=1.0):
    """Softmax of the distances to the class means of the other folds, (R, N, K)."""
    found = []
    for repeat in np.atleast_2d(folds):
        logits = np.zeros((len(given), num_classes))
        for fold in np.unique(repeat):
            out = repeat == fold
            for k in range(num_classes):
                rows = ~out & (given == k)
                centre = features[rows].mean(axis=0) if rows.any() else np.full(features.shape[1], 1e3)
                logits[out, k] = -sharpness * np.square(features[out] - centre).sum(axis=1)
        logits -= logits.max(axis=1, keepdims=True)
        found.append(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))
    return np.stack(found)


def sample(sizes=(120, 120, 120), rate=0.1, seed=0, distance=3.0, copies=1, num_repeats=2):
    """Blobs in 6 dimensions; `rate` of each class's labels are moved on by one class; images in groups of `copies`."""
    rng = np.random.default_rng(seed)
    num_classes = len(sizes)
    right = np.repeat(np.arange(num_classes), sizes)
    centres = np.eye(max(num_classes, 6))[:num_classes, :6] * distance
    features = (centres[right] + rng.standard_normal((len(right), 6)) * 0.7).astype(np.float32)
    given = right.copy()
    for k in range(num_classes):
        rows = np.flatnonzero(right == k)
        given[rng.permutation(rows)[: round(rate * len(rows))]] = (k + 1) % num_classes
    groups = np.repeat(np.arange(len(right)), copies)
    right, given, features = right[groups], given[groups], features[groups]
    features = features + rng.standard_normal(features.shape).astype(np.float32) * 0.01 * (copies > 1)
    folds = np.stack([rng.integers(0, 4, groups.max() + 1)[groups] for _ in range(num_repeats)])
    probs = held_out_probs(features, given, folds, num_classes)
    return Sample(features, right, given, folds, probs, groups)
