"""What the labels of the most similar images say of an image: judges that no fit stands behind."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST, FEWEST = 20, 5


def num_voters(labels: NDArray[np.int64]) -> int:
    """How many neighbours to ask: 20, but at most half a typical class, as the rest must come from other classes."""
    counts = np.bincount(labels)
    typical = float(np.median(counts[counts > 0])) if len(labels) else 0.0
    return int(np.clip(typical / 2, FEWEST, MOST))


def neighbour_votes(
    indices: NDArray[np.int64], similarity: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int
) -> NDArray[np.float32]:
    """Class probabilities by the neighbours' given labels, each vote weighing as much as it is similar.

    One vote more goes to the classes by their frequency, so that no class has probability 0 and an image without
    neighbours gets the frequencies.

    Args:
        indices: int64 (N, k), from `neighbours.nearest`, which leaves the image itself and its group out; -1 is nobody.
        similarity: float32 (N, k); those below 0 do not vote.
        labels: int64 (N,), 0..K-1.
        num_classes: K.

    Returns:
        float32 (N, K), rows sum to 1.
    """
    num, k = indices.shape
    frequency = (np.bincount(labels, minlength=num_classes) + 1) / (num + num_classes)
    votes = np.repeat(frequency[None].astype(np.float32), num, axis=0)
    rows = np.arange(num)
    for rank in range(k):  # a column at a time: within one, no image votes twice for the same row
        named = indices[:, rank]
        votes[rows, labels[np.maximum(named, 0)]] += np.where(named >= 0, np.maximum(similarity[:, rank], 0), 0)
    return np.asarray(votes / votes.sum(axis=1, keepdims=True), np.float32)
