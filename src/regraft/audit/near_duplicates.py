"""The same picture twice: copies that were scaled, compressed, cropped, mirrored, brightened.

candidates     of every image the nearest by features and by perceptual hash, its mirror image included
evidence       four likenesses of each pair (pair_evidence.py)
calibration    where duplicates begin in these data (calibration.py)
clusters       from pairs to sets (clusters.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.audit.calibration import LEVEL, UNCALIBRATED, Calibration, calibrate, spelled, worth_aligning
from regraft.audit.clusters import clusters, numbered
from regraft.audit.neighbours import AT_ONCE, CHUNK, nearest, unit_rows
from regraft.audit.pair_evidence import Promising, pair_evidence
from regraft.audit.perceptual_hash import nearest_hashes, perceptual_hashes
from regraft.errors import DataError
from regraft.types import IssueColumn

NUM_BY_FEATURES = 4
NUM_BY_HASH = 2
NUM_SAMPLED = 300


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Views:
    """Views (`views.duplicate_views`) of some of the images, as the backbone and the pixel measures see them.

    Attributes:
        rows: int64 (V,), the image each view was made from.
        kinds: (V,) of what kind it is.
        features: float (V, D).
        thumbnails: uint8 (V, 32, 32), or None where the images have none.
    """

    rows: NDArray[np.int64]
    kinds: NDArray[np.str_]
    features: NDArray[Any]
    thumbnails: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NearDuplicates:
    """What was found.

    Attributes:
        pairs: int64 (P, 2), the smaller row first; those with different labels first, then the most alike.
        similarity: float64 (P,) in (0.5, 1]; 1 for identical files.
        conflicting: bool (P,), True where the two labels are known and differ.
        evidence: float32 (P, E), see `pair_evidence`.
        sets: int64 (N,), number of the image's set, -1 where it has none.
        column: per image.
        calibration: where duplicates begin, and why.
    """

    pairs: NDArray[np.int64]
    similarity: NDArray[np.float64]
    conflicting: NDArray[np.bool_]
    evidence: NDArray[np.float32]
    sets: NDArray[np.int64]
    column: IssueColumn
    calibration: Calibration


def sample_for_views(num_images: int, *, num: int = NUM_SAMPLED, seed: int = 0) -> NDArray[np.int64]:
    """int64, sorted: the rows whose views calibrate the search."""
    rows = np.random.default_rng(seed).permutation(num_images)[:num]
    return np.sort(rows).astype(np.int64)


def find_near_duplicates(
    features: NDArray[Any],
    thumbnails: NDArray[np.uint8] | None = None,
    *,
    content_ids: NDArray[np.integer] | None = None,
    labels: NDArray[np.integer] | None = None,
    views: Views | None = None,
    images: Sequence[str] | None = None,
    neighbours: NDArray[np.int64] | None = None,
    level: float = LEVEL,
    chunk: int = CHUNK,
) -> NearDuplicates:
    """Search all images against all.

    Args:
        features: float16 or float32 (N, D).
        thumbnails: uint8 (N, 32, 32) of `pixel_measures`, or None for features alone.
        content_ids: int (N,); identical files share a number. They are pairs without a search.
        labels: int (N,), -1 where unknown; for `conflicting`.
        views: to calibrate by. Without them a fixed threshold on the features is used, and said so.
        images: N names for the reasons; row numbers unless given.
        neighbours: int64 (N, k), what `nearest` gave for these features with k of 4 or more, to search once only; not
            used where files are identical.
        level: share of images that may be flagged wrongly (`calibrate`).
        chunk: rows of a block of the search.

    Raises:
        DataError: columns that do not fit together.
        UsageError: as `calibrate`.
    """
    num = len(features)
    _check(num, thumbnails=thumbnails, content_ids=content_ids, labels=labels, images=images)
    content = np.arange(num) if content_ids is None else np.unique(content_ids, return_inverse=True)[1]
    _, firsts = np.unique(content, return_index=True)
    kept = np.sort(firsts).astype(np.int64)  # one image of each content
    if views is None or (views.thumbnails is None):
        thumbnails = None
    few = features if len(kept) == num else features[kept]
    few = unit_rows(few) if few.size <= AT_ONCE else few
    pixels = None if thumbnails is None else thumbnails[kept]
    owners, others = _candidates(few, pixels, chunk, neighbours if len(kept) == num else None)
    low, high = np.minimum(owners, others), np.maximum(owners, others)
    codes, which = np.unique(low * max(len(kept), 1) + high, return_inverse=True)
    pairs = np.stack([codes // max(len(kept), 1), codes % max(len(kept), 1)], axis=1)
    positive = _of_views(features, thumbnails, views)

    def promising(cheap: NDArray[np.float32]) -> NDArray[np.bool_]:
        if views is None or positive is None:
            return np.ones(len(cheap), np.bool_)
        return worth_aligning(positive, views.kinds, cheap)

    evidence = _evidence(few, pixels, pairs, promising)
    calibration = UNCALIBRATED
    if views is not None and positive is not None and len(pairs):
        calibration = calibrate(positive, views.kinds, evidence[which], owners, level=level)
    similarity = calibration.similarity(evidence) if len(pairs) else np.empty(0)
    found = similarity > 0.5
    pairs, evidence, similarity = pairs[found], evidence[found], similarity[found]

    def agrees(a: int, b: int) -> bool:
        return bool(calibration.similarity(_evidence(few, pixels, np.array([[a, b]]), promising))[0] > 0.5)

    roots = np.arange(num)
    sets = clusters(len(kept), pairs, similarity, agrees)
    place = np.empty(num, np.int64)
    place[:] = np.searchsorted(kept, firsts[content])
    roots = np.where(sets[place] >= 0, num + sets[place], place)
    copies = np.flatnonzero(firsts[content] != np.arange(num))
    exact = np.stack([firsts[content[copies]], copies], axis=1).astype(np.int64)
    pairs = np.concatenate([kept[pairs], exact])
    similarity = np.concatenate([similarity, np.ones(len(exact))])
    evidence = np.concatenate([evidence, np.full((len(exact), evidence.shape[1]), np.inf, np.float32)])
    known = np.full(num, -1) if labels is None else np.asarray(labels)
    first, second = known[pairs[:, 0]], known[pairs[:, 1]]
    conflicting = (first != second) & (first >= 0) & (second >= 0)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -similarity, ~conflicting))
    pairs, similarity, evidence, conflicting = pairs[order], similarity[order], evidence[order], conflicting[order]
    return NearDuplicates(
        pairs=pairs,
        similarity=similarity,
        conflicting=conflicting,
        evidence=evidence,
        sets=numbered(roots),
        column=pair_column(num, pairs, similarity, conflicting, evidence, images),
        calibration=calibration,
    )


def _check(num: int, **columns: Any) -> None:
    lengths = {name: len(column) for name, column in columns.items() if column is not None and len(column) != num}
    if lengths:
        raise DataError(f"one row per image in every column: {num} rows of features, but {lengths}")


def _candidates(
    features: NDArray[Any], thumbnails: NDArray[np.uint8] | None, chunk: int, known: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (owner, other): of every image its nearest others, by features and by hash."""
    num = len(features)
    found = nearest(features, NUM_BY_FEATURES, chunk=chunk)[0] if known is None else known[:, :NUM_BY_FEATURES]
    others = [found]
    if thumbnails is not None and num:
        plain, mirrored = perceptual_hashes(thumbnails), perceptual_hashes(thumbnails, mirrored=True)
        others.append(nearest_hashes(plain, mirrored, NUM_BY_HASH))
    other = np.concatenate(others, axis=1)
    owner = np.broadcast_to(np.arange(num)[:, None], other.shape)
    real = other >= 0
    return owner[real].astype(np.int64), other[real].astype(np.int64)


def _evidence(
    features: NDArray[Any],
    thumbnails: NDArray[np.uint8] | None,
    pairs: NDArray[np.int64],
    promising: Promising,
    step: int = 8192,
) -> NDArray[np.float32]:
    """Evidence of pairs, gathered in steps: (P, D) features of all pairs at once would be larger than the data."""
    parts = [np.empty((0, 1 if thumbnails is None else 4), np.float32)]
    for start in range(0, len(pairs), step):
        a, b = pairs[start : start + step].T
        if thumbnails is None:
            parts.append(pair_evidence(features[a], features[b]))
        else:
            parts.append(pair_evidence(features[a], features[b], thumbnails[a], thumbnails[b], promising=promising))
    return np.concatenate(parts)


def _of_views(
    features: NDArray[Any], thumbnails: NDArray[np.uint8] | None, views: Views | None
) -> NDArray[np.float32] | None:
    """Evidence of each view and the image it was made from."""
    if views is None:
        return None
    if thumbnails is None or views.thumbnails is None:
        return pair_evidence(views.features, features[views.rows])
    return pair_evidence(views.features, features[views.rows], views.thumbnails, thumbnails[views.rows])


def pair_column(
    num: int,
    pairs: NDArray[np.int64],
    similarity: NDArray[np.float64],
    conflicting: NDArray[np.bool_],
    evidence: NDArray[np.float32],
    images: Sequence[str] | None,
) -> IssueColumn:
    """Per image the pair that matters most: one with another label before one with the same.

    Args:
        num: N.
        pairs: int64 (P, 2), sorted as in `NearDuplicates`.
        similarity: (P,).
        conflicting: (P,).
        evidence: (P, E).
        images: N names for the reasons.
    """
    score = np.ones(num)
    np.minimum.at(score, pairs.ravel(), np.repeat(1 - similarity, 2))
    reasons = [""] * num
    for (a, b), conflict, seen in zip(pairs.tolist(), conflicting.tolist(), evidence, strict=True):
        for image, other in ((a, b), (b, a)):
            if reasons[image]:
                continue
            name = f"image {other}" if images is None else repr(str(images[other]))
            exact = not np.isfinite(seen[0])
            words = f"identical to {name}" if exact else f"nearly the same as {name} ({spelled(seen)})"
            reasons[image] = words + (", under another label" if conflict else "")
    return IssueColumn(is_issue=np.array([bool(r) for r in reasons], np.bool_), score=score, reasons=reasons)
