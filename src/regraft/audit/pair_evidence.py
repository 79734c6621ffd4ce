"""How alike two images are, measured four ways: by features, by hash, and pixel by pixel before and after alignment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.audit.neighbours import unit_rows
from regraft.audit.perceptual_hash import hash_distance, perceptual_hashes

COLUMNS = ("cosine", "hash", "pixels", "aligned")
"""Of the evidence; without thumbnails the first alone. Larger is more alike, so that no weight may be negative."""

_PAIRS = 512
_ALIGNED = 256
"""Pairs that are aligned at a time: 1.3 MB of slopes, which stay in the cache."""
_WORTH = 0.5
"""r² at half the resolution from which a pair is looked at in full."""
_STEPS = 2
_FARTHEST = 2.0
"""Pixels of 16 that a motion may reach."""
_MOTION_PENALTY = 1e-3
"""Of the variance, for a motion of one pixel: keeps the least squares from stretching one picture into another."""


Promising = Callable[[NDArray[np.float32]], NDArray[np.bool_]]
"""Evidence (P, 3), all but the alignment, to bool (P,): whether a pair is worth aligning."""


def pair_evidence(
    features_a: NDArray[Any],
    features_b: NDArray[Any],
    thumbnails_a: NDArray[np.uint8] | None = None,
    thumbnails_b: NDArray[np.uint8] | None = None,
    *,
    promising: Promising | None = None,
) -> NDArray[np.float32]:
    """What speaks for each pair being one picture.

    - cosine: -log10(1.001 - cosine) of the features
    - hash: -distance / 63 of the perceptual hashes, the mirrored one tried as well
    - pixels: -log10(1.001 - r²) of 16 x 16 grey thumbnails, which brightness and contrast do not change; mirrored too
    - aligned: the same after the small shift and zoom that fit best (Lucas & Kanade 1981: a linear least squares at
      16 x 16, and once more at 32 x 32): what a crop takes away from `pixels`

    Args:
        features_a, features_b: float (P, D), row by row the two images of a pair.
        thumbnails_a, thumbnails_b: uint8 (P, 32, 32), or None.
        promising: where it says no, a pair is not aligned, and `aligned` is `pixels`: a lower bound. Aligning is nine
            tenths of the work.

    Returns:
        float32 (P, 4), or (P, 1) without thumbnails.
    """
    num = len(features_a)
    evidence = np.zeros((num, 1 if thumbnails_a is None else len(COLUMNS)), np.float32)
    for first in range(0, num, _PAIRS):
        rows = slice(first, first + _PAIRS)
        cosine = np.einsum("pd,pd->p", unit_rows(features_a[rows]), unit_rows(features_b[rows]))
        evidence[rows, 0] = _nines(cosine)
        if thumbnails_a is not None and thumbnails_b is not None:
            a, b = thumbnails_a[rows], thumbnails_b[rows]
            own = perceptual_hashes(a)
            plain = hash_distance(own, perceptual_hashes(b))
            mirrored = hash_distance(own, perceptual_hashes(b, mirrored=True))
            part = evidence[rows]
            part[:, 1] = -np.minimum(plain, mirrored) / 63
            pixels = _likeness(a, b)
            part[:, 2] = part[:, 3] = _nines(pixels)
            chosen = np.arange(len(a)) if promising is None else np.flatnonzero(promising(part[:, :3]))
            for start in range(0, len(chosen), _ALIGNED):
                few = chosen[start : start + _ALIGNED]
                aligned = _aligned_likeness(a[few].astype(np.float32), b[few].astype(np.float32))
                part[few, 3] = _nines(np.maximum(aligned, pixels[few]))
    return evidence


def _nines(likeness: NDArray[Any]) -> NDArray[Any]:
    """0 at 0, 1 at 0.901, 2 at 0.991, 3 at 1."""
    return np.asarray(-np.log10(1.001 - np.clip(likeness, -1.0, 1.0)))


def _likeness(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
    """r² (P,) of thumbnails (P, 32, 32) at 16 x 16, mirrored or not; 0 where they are opposites, or of one colour."""
    one, other = _halved(a.astype(np.float32)), _halved(b.astype(np.float32))
    straight = np.einsum("pi,pi->p", _unit(one), _unit(other))
    turned = np.einsum("pi,pi->p", _unit(one), _unit(other[:, :, ::-1]))
    return np.asarray(np.clip(np.maximum(straight, turned), 0.0, 1.0), np.float64) ** 2


def _unit(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pictures (P, S, S) as rows of mean 0 and length 1; zeros where they are one colour."""
    rows = pictures.reshape(len(pictures), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.sqrt(np.einsum("pi,pi->p", rows, rows))
    flat = np.square(length) < pictures.shape[1]
    return np.asarray(rows * np.where(flat, 0.0, 1 / np.maximum(length, 1e-6))[:, None], np.float32)


def _aligned_likeness(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """r² (P,) of thumbnails (P, 32, 32) after the best small shift and zoom, mirrored or not."""
    small_a, small_b = _halved(a), _halved(b)
    straight, turned = _match(small_a, small_b), _match(small_a, small_b[:, :, ::-1])
    mirrored = turned.aligned > straight.aligned
    aligned = np.maximum(straight.aligned, turned.aligned)
    worth = np.flatnonzero(aligned > _WORTH)
    if len(worth):
        motion = np.where(mirrored[:, None], turned.motion, straight.motion)[worth]
        upright = np.where(mirrored[worth, None, None], b[worth, :, ::-1], b[worth])
        motion *= 2  # in pixels of twice the resolution
        for _ in range(_STEPS):
            again = _match(a[worth], _moved(upright, motion))
            motion += again.motion
            aligned[worth] = np.maximum(aligned[worth], again.aligned)
    return aligned


def _halved(thumbnails: NDArray[np.float32]) -> NDArray[np.float32]:
    rows = thumbnails[:, ::2] + thumbnails[:, 1::2]
    return np.asarray((rows[:, :, ::2] + rows[:, :, 1::2]) / 4, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class _Match:
    """aligned: float64 (P,), r². motion: (P, 4), in pixels: shift along height and width, and how far the zoom
    moves the rim along each."""

    aligned: NDArray[np.float64]
    motion: NDArray[np.float32]


def _match(a: NDArray[np.float32], b: NDArray[np.float32]) -> _Match:
    """One step of Lucas & Kanade: regress a on b, its slopes and its slopes times the place, all (P, S, S)."""
    num, side = len(a), a.shape[1]
    place = ((np.arange(side) - (side - 1) / 2) / ((side - 1) / 2)).astype(np.float32)
    columns = np.zeros((num, 5, side, side), np.float32)
    columns[:, 0] = b
    columns[:, 1, 1:-1] = (b[:, 2:] - b[:, :-2]) / 2  # the rim has no slope
    columns[:, 2, :, 1:-1] = (b[:, :, 2:] - b[:, :, :-2]) / 2
    columns[:, 3] = columns[:, 1] * place[:, None]
    columns[:, 4] = columns[:, 2] * place
    x, y = columns.reshape(num, 5, -1), a.reshape(num, -1, 1)
    x -= x.mean(axis=2, keepdims=True)
    y = y - y.mean(axis=1, keepdims=True)
    gram = (x @ x.transpose(0, 2, 1)).astype(np.float64)
    cross = (x @ y)[:, :, 0].astype(np.float64)
    spread = np.einsum("pi,pi->p", y[:, :, 0], y[:, :, 0]).astype(np.float64)
    flat = (spread < side) | (gram[:, 0, 0] < side)  # one colour: no likeness can be seen
    safe, own = np.where(flat, 1.0, spread), np.where(flat, 1.0, gram[:, 0, 0])
    plain = np.where(flat, 0.0, np.maximum(cross[:, 0], 0.0) ** 2 / (safe * own))
    for k in range(5):
        gram[:, k, k] += 1e-3 + (_MOTION_PENALTY * safe if k else 0.0)
    weight = np.linalg.solve(gram, cross[:, :, None])[:, :, 0]
    explained = np.einsum("pk,pk->p", weight, cross) / safe  # of a ridge: fit and penalty together
    usable = ~flat & (weight[:, 0] > 0)
    aligned = np.where(usable, np.clip(np.maximum(explained, plain), 0.0, 1.0), 0.0)
    motion = np.where(usable[:, None], weight[:, 1:] / np.where(usable, weight[:, 0], 1.0)[:, None], 0.0)
    return _Match(aligned, np.clip(motion, -_FARTHEST, _FARTHEST).astype(np.float32))


def _moved(pictures: NDArray[np.float32], motion: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pictures (P, S, S) sampled where the motion (P, 4) says, bilinearly; height and width one after the other."""
    side = pictures.shape[1]
    place = np.arange(side, dtype=np.float32)
    rim = (place - (side - 1) / 2) / ((side - 1) / 2)
    for axis in (1, 2):
        at = place + motion[:, axis - 1, None] + motion[:, axis + 1, None] * rim
        at = np.clip(at, 0, side - 1.001)
        low = at.astype(np.int64)
        share = (at - low).astype(np.float32)
        index, share = (low[:, :, None], share[:, :, None]) if axis == 1 else (low[:, None], share[:, None])
        before, after = (np.take_along_axis(pictures, index + k, axis=axis) for k in (0, 1))
        pictures = before + share * (after - before)
    return pictures
