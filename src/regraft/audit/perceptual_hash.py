"""A 32 x 32 grey picture of every image, and its perceptual hash: what survives scaling, compression and brightness."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 32
"""Side of the thumbnail that is hashed (pHash; Zauner 2010)."""
LOW = 8
"""Frequencies that are kept in each direction."""
NUM_BITS = LOW * LOW - 1
"""The mean grey level is left out."""
_CHUNK = 8192
_BLOCK_ELEMENTS = 1 << 21


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The whole image squashed to grey, uint8 (32, 32).

    Args:
        image: uint8 (H, W, 3), RGB; averaged down, or interpolated up where a side is shorter than 32.
    """
    height, width = image.shape[:2]
    # one side at a time: OpenCV's area averaging falls back to nearest pixels where one side grows
    for size in ((min(width, SIDE), min(height, SIDE)), (SIDE, SIDE)):
        if image.shape[1::-1] != size:
            shrinks = image.shape[0] >= size[1] and image.shape[1] >= size[0]
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def perceptual_hashes(thumbnails: NDArray[np.uint8], *, mirrored: bool = False) -> NDArray[np.uint64]:
    """63-bit hashes: which of the low frequencies of the cosine transform lie above their median.

    Args:
        thumbnails: uint8 (N, 32, 32).
        mirrored: hash the pictures as a mirror shows them, left and right exchanged.

    Returns:
        uint64 (N,). Images that are one colour have no frequencies: their hash is 0.
    """
    hashes = np.zeros(len(thumbnails), np.uint64)
    weights = np.uint64(1) << np.arange(NUM_BITS, dtype=np.uint64)
    for first in range(0, len(thumbnails), _CHUNK):
        part = thumbnails[first : first + _CHUNK, :, ::-1] if mirrored else thumbnails[first : first + _CHUNK]
        low = (_COSINES @ part.astype(np.float32) @ _COSINES.T).reshape(len(part), -1)[:, 1:]
        low[np.abs(low) < 1e-3] = 0.0  # rounding is no frequency
        bits = low > np.median(low, axis=1, keepdims=True)
        hashes[first : first + _CHUNK] = (bits * weights).sum(axis=1, dtype=np.uint64)
    return hashes


def hash_distance(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Number of bits, 0 to 63, in which hashes differ, element by element."""
    return np.asarray(np.bitwise_count(a ^ b), np.int64)


def nearest_hashes(plain: NDArray[np.uint64], mirrored: NDArray[np.uint64], k: int) -> NDArray[np.int64]:
    """The k other images whose hash, or whose mirror image's hash, differs least from an image's own.

    A distance is a product of signs: two multiplications of (n, 63) by (63, N) are faster than N² exclusive ors. Blocks
    hold some 2 million distances, whatever N.

    Args:
        plain: uint64 (N,).
        mirrored: uint64 (N,), of the same images.
        k: at least 1.

    Returns:
        int64 (N, k), the nearest first, of equals the one with the smaller number; -1 where there are fewer others.
    """
    num = len(plain)
    signs, turned = hash_signs(plain), hash_signs(mirrored)
    found = np.full((num, k), -1, np.int64)
    step = max(1, _BLOCK_ELEMENTS // max(num, 1))
    for first in range(0, num, step):
        asking = signs[first : first + step]
        alike = np.maximum(asking @ signs.T, asking @ turned.T)
        rows = np.arange(len(asking))
        alike[rows, first + rows] = -np.inf
        for rank in range(min(k, num - 1)):
            best = alike.argmax(axis=1)
            found[first : first + step, rank] = best
            alike[rows, best] = -np.inf
    return found


def hash_signs(hashes: NDArray[np.uint64]) -> NDArray[np.float32]:
    """float32 (N, 63) of -1 and 1; the product of two rows is 63 - 2 * distance."""
    bits = (hashes[:, None] >> np.arange(NUM_BITS, dtype=np.uint64)) & np.uint64(1)
    return np.asarray(bits.astype(np.float32) * 2 - 1, np.float32)


def _cosine_rows() -> NDArray[np.float32]:
    """The first rows of the orthonormal cosine transform (DCT-II), float32 (8, 32)."""
    place = (2 * np.arange(SIDE) + 1) * np.pi / (2 * SIDE)
    rows = np.cos(np.arange(LOW)[:, None] * place) * np.sqrt(2 / SIDE)
    rows[0] /= np.sqrt(2)
    return np.asarray(rows, np.float32)


_COSINES = _cosine_rows()
