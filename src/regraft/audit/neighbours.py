"""Exact nearest neighbours by cosine, block by block: every image asks, the own group is left out.

The similarity matrix is symmetric, so each pair of blocks is multiplied once and read in both directions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError, UsageError

CHUNK = 2048
"""Rows of a block: two blocks of 2,048 x 1,280 float32 are 21 MB, their similarities 17 MB (and once more while they
are read in the other direction). Larger blocks are no faster: 4,096 took half as long again."""
AT_ONCE = 1 << 26
"""Elements that are brought to float32 once, 256 MB, not block by block: of 10,000 x 1,280 it saved a third."""
_CROWDED = 4
"""Candidates per kept neighbour above which a block is thinned before anything is sorted."""
_FEW = 24
"""Neighbours up to which taking the largest again and again is faster than a partition: 4 of 2,048 in a tenth."""


def nearest(
    features: NDArray[Any],
    k: int,
    *,
    group_ids: NDArray[np.integer] | None = None,
    centre: bool = False,
    chunk: int = CHUNK,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k nearest other images of every image, by cosine similarity, most similar first.

    Memory beside `features` and the result does not grow with N: under 0.5 GB at the default `chunk` and D = 1,280,
    so 100,000 x 1,280 float16 (256 MB) is searched where (N, N) would take 40 GB.

    Args:
        features: float16 or float32 (N, D), finite. A row of zeros is similar to nothing (0).
        k: at least 1.
        group_ids: int (N,); images that share a number (duplicates, the same patient) are never each other's
            neighbours. None: every image is its own group.
        centre: compare directions from the mean image instead of from the origin. Features behind a ReLU all point
            the same way; from their mean, neighbours vote better (Wang et al. 2019), while a threshold for "the same
            picture" is easier to say without.
        chunk: rows of a block.

    Returns:
        indices, int64 (N, k), and similarity, float32 (N, k) in [-1, 1]. Where an image has fewer than k images in
        other groups, the rest is index -1 with similarity -1.

    Raises:
        UsageError: `k` or `chunk` is under 1.
        DataError: the columns differ in length.
    """
    if k < 1 or chunk < 1:
        raise UsageError(f"neighbours and block size are at least 1: {k=}, {chunk=}")
    num = len(features)
    if group_ids is not None and len(group_ids) != num:
        raise DataError(f"one group id per image: got {len(group_ids)} for {num} images")
    origin = np.asarray(np.mean(features, axis=0, dtype=np.float64), np.float32) if centre and num else None
    indices = np.full((num, k), -1, np.int64)
    similarity = np.full((num, k), -np.inf, np.float32)
    whole = _directions(features, origin) if features.size <= AT_ONCE else None
    for first in range(0, num, chunk):
        rows = slice(first, min(first + chunk, num))
        asking = _directions(features[rows], origin) if whole is None else whole[rows]
        for second in range(first, num, chunk):
            cols = slice(second, min(second + chunk, num))
            if second == first:
                answering = asking
            else:
                answering = _directions(features[cols], origin) if whole is None else whole[cols]
            similar = asking @ answering.T
            if group_ids is not None:
                similar[group_ids[rows][:, None] == group_ids[cols][None, :]] = -np.inf
            if second == first:
                np.fill_diagonal(similar, -np.inf)
            _keep_best(indices[rows], similarity[rows], similar, second)
            if second != first:  # every image meets the blocks in ascending order: of equals, the first stays
                _keep_best(indices[cols], similarity[cols], np.ascontiguousarray(similar.T), first)
    similarity[indices < 0] = -1.0
    return indices, np.clip(similarity, -1.0, 1.0, out=similarity)


def unit_rows(features: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of length 1, float32 (N, D); rows of zeros stay zero."""
    values = np.asarray(features, np.float32)
    length = np.sqrt(np.einsum("nd,nd->n", values, values, dtype=np.float64))
    return np.asarray(values / np.maximum(length, 1e-12)[:, None].astype(np.float32), np.float32)


def _directions(features: NDArray[Any], origin: NDArray[np.float32] | None) -> NDArray[np.float32]:
    return unit_rows(features if origin is None else np.asarray(features, np.float32) - origin)


def _keep_best(
    indices: NDArray[np.int64], similarity: NDArray[np.float32], similar: NDArray[np.float32], offset: int
) -> None:
    """Merge a block of similarities (R, C), its columns numbered from `offset`, into the best so far (R, k), in place.

    Only what beats an image's k-th best is looked at: soon next to nothing, so that reading a block costs a tenth of
    multiplying it.
    """
    num_rows, k = indices.shape
    above = similar > similarity[:, -1:]
    if np.count_nonzero(above) <= _CROWDED * k * num_rows:
        rows, cols = np.nonzero(above)
    else:
        rows, cols = _largest(similar, k)
        better = similar[rows, cols] > similarity[rows, -1]
        rows, cols = rows[better], cols[better]
    if not len(rows):
        return
    changed, place = np.unique(rows, return_inverse=True)
    owner = np.concatenate([np.repeat(np.arange(len(changed)), k), place])
    values = np.concatenate([similarity[changed].ravel(), similar[rows, cols]])
    names = np.concatenate([indices[changed].ravel(), cols + offset])
    order = np.lexsort((names, -values, owner))
    begins = np.searchsorted(owner[order], np.arange(len(changed)))
    best = order[begins[:, None] + np.arange(k)]
    indices[changed], similarity[changed] = names[best], values[best]


def _largest(values: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places (rows, columns) of the k largest of every row (R, C), C > k."""
    rows = np.arange(len(values))
    if k > _FEW:
        return np.repeat(rows, k), np.argpartition(values, -k, axis=1)[:, -k:].ravel()
    left = values.copy()
    cols = np.empty((len(values), k), np.int64)
    taken = np.empty((len(values), k), np.bool_)
    for rank in range(k):
        cols[:, rank] = left.argmax(axis=1)
        taken[:, rank] = left[rows, cols[:, rank]] > -np.inf  # a row without any left repeats itself
        left[rows, cols[:, rank]] = -np.inf
    return np.repeat(rows, k)[taken.ravel()], cols[taken]
