"""From pairs to sets of near-duplicates, without chains: what A shares with B, and B with C, A and C may not share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Agrees = Callable[[int, int], bool]


def clusters(num: int, pairs: NDArray[np.int64], strength: NDArray[np.floating], agrees: Agrees) -> NDArray[np.int64]:
    """Join the strongest pairs first; two sets are joined only where their representatives are alike as well.

    Union-find over all pairs (single linkage) makes one set of a film's frames, or of a thousand drawings of one
    series that each resemble the next. Here every set has a representative, the first image of its larger part, and
    a pair joins two sets only where the two representatives are near-duplicates of each other too (the leader
    algorithm; Hartigan 1975). Pairs that did not join remain pairs.

    Args:
        num: N images.
        pairs: int64 (P, 2).
        strength: (P,), how sure each pair is.
        agrees: whether two images are near-duplicates; asked about representatives that are no pair themselves.

    Returns:
        int64 (N,): sets numbered from 0 in the order of their first image, -1 for an image alone.
    """
    parent = np.arange(num)
    size = np.ones(num, np.int64)
    known = {(int(a), int(b)) for a, b in pairs.reshape(-1, 2)}
    known |= {(b, a) for a, b in known}

    def root(image: int) -> int:
        while parent[image] != image:
            parent[image] = parent[parent[image]]
            image = int(parent[image])
        return image

    asked: dict[tuple[int, int], bool] = {}
    pairs = pairs.reshape(-1, 2)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -np.asarray(strength)))
    for a, b in pairs[order].tolist():
        first, second = root(a), root(b)
        if first == second:
            continue
        if (first, second) not in known:
            key = (min(first, second), max(first, second))
            if key not in asked:
                asked[key] = agrees(*key)
            if not asked[key]:
                continue
        if (size[first], -first) < (size[second], -second):
            first, second = second, first
        parent[second] = first  # a root is its set's representative
        size[first] += size[second]
    roots = np.array([root(image) for image in range(num)], np.int64)
    return numbered(roots)


def numbered(roots: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 (N,): groups of two or more, numbered from 0 in the order of their first row; -1 for a row alone."""
    _, first, place, counts = np.unique(roots, return_index=True, return_inverse=True, return_counts=True)
    several = np.flatnonzero(counts > 1)
    numbers = np.full(len(counts), -1, np.int64)
    numbers[several[np.argsort(first[several])]] = np.arange(len(several))
    return numbers[place] if len(roots) else np.empty(0, np.int64)
