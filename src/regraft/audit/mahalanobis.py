"""Distances to class centres under one shrunk covariance, in two passes over the features, block by block.

Products are float32, from the middle of the centres, and sums over blocks float64: half the time, and distances agree
to five digits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROWS = 4096


def class_distances(
    features: NDArray[Any], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mahalanobis distances of every image to the nearest class centre, and to its own class's.

    The covariance is that within classes, of all classes together, shrunk by Ledoit & Wolf's (2004) formula. A centre
    is a class's mean; an image of a class of n counts in its own centre, so its distance to that is scaled by n / (n -
    1) as if it did not.

    Args:
        features: float16 or float32 (N, D).
        labels: int64 (N,), -1 where unknown (such images count in nothing, and get distances all the same).

    Returns:
        nearest, own: float64 (N,); own is NaN without a label. Where nothing is labelled, one centre serves all.
    """
    num, width = features.shape
    known = labels >= 0
    place = np.full(num, -1)
    if known.any():
        classes, place[known] = np.unique(labels[known], return_inverse=True)
    else:
        classes, place = np.zeros(1, np.int64), np.zeros(num, np.int64)
    counts = np.bincount(place[place >= 0], minlength=len(classes)).astype(np.float64)
    centres = np.zeros((len(classes), width))
    for first in range(0, num, _ROWS):
        rows = slice(first, first + _ROWS)
        is_own = (place[rows] == np.arange(len(classes))[:, None]).astype(np.float32)
        centres += is_own @ features[rows].astype(np.float32)
    centres /= np.maximum(counts, 1)[:, None]
    covariance = ledoit_wolf(features, place, centres)
    root = np.linalg.cholesky(covariance + 1e-9 * max(np.trace(covariance) / max(width, 1), 1e-12) * np.eye(width))
    inverse = np.linalg.inv(root).T  # x @ inverse has the identity as covariance
    middle = centres.mean(axis=0)
    white_centres = (centres - middle) @ inverse
    narrow = inverse.astype(np.float32)
    nearest, ours = np.empty(num), np.full(num, np.nan)
    lengths = (white_centres**2).sum(axis=1)
    for first in range(0, num, _ROWS):
        rows = slice(first, first + _ROWS)
        white = ((features[rows] - middle.astype(np.float32)) @ narrow).astype(np.float64)
        own = place[rows]
        square = np.maximum((white**2).sum(axis=1)[:, None] + lengths - 2 * white @ white_centres.T, 0.0)
        inside = np.flatnonzero(own >= 0)
        n = counts[own[inside]]
        square[inside, own[inside]] *= (n / np.maximum(n - 1, 1)) ** 2
        nearest[rows] = np.sqrt(square.min(axis=1))
        ours[first + inside] = np.sqrt(square[inside, own[inside]])
    ours[~known] = np.nan
    return nearest, ours


def ledoit_wolf(
    features: NDArray[Any], place: NDArray[np.integer], centres: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The covariance of rows around their centres, shrunk towards a multiple of the identity, float64 (D, D).

    (1 - a) S + a m I with m = trace(S) / D and a = min(1, b / d), where d = ||S - m I||² and b = (mean of ||x x^T||² -
    ||S||²) / n, the squared Frobenius norms (Ledoit & Wolf 2004, lemma 3.2 ff.; scikit-learn's `ledoit_wolf` with
    `assume_centered`).

    Args:
        features: float (N, D).
        place: int (N,), row of `centres`, or -1 for a row that does not count.
        centres: float64 (K, D).
    """
    width = features.shape[1]
    total, fourth, num = np.zeros((width, width)), 0.0, 0
    for first in range(0, len(features), _ROWS):
        rows = slice(first, first + _ROWS)
        own = place[rows]
        part = features[rows][own >= 0].astype(np.float32) - centres[own[own >= 0]].astype(np.float32)
        total += part.T @ part
        fourth += float((np.einsum("nd,nd->n", part, part).astype(np.float64) ** 2).sum())
        num += len(part)
    if num == 0:
        return np.eye(width)
    sample = total / num
    scale = float(np.trace(sample)) / width
    square = float((sample**2).sum())
    apart = square - width * scale**2
    noise = max(fourth / num - square, 0.0) / num
    shrink = 1.0 if apart <= 0 else min(1.0, noise / apart)
    sample *= 1 - shrink
    sample[np.diag_indices(width)] += shrink * scale
    return sample
