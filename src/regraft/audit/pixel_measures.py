"""What is measured in the pixels of one image: a record of fixed size, made once and kept by content hash.

thumbnail          32 x 32 grey, for the perceptual hash and the comparison of pairs
dark … borders     for the odd images
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from regraft.audit.perceptual_hash import SIDE, thumbnail
from regraft.errors import ImageError

VERSION = 1
"""Counts up when a measure changes, so that records that were kept are made again."""

WORKING_SIDE = 256
"""Longer side, in pixels, at which is measured: about what a backbone sees. Decode with
`min_size=(WORKING_SIDE, WORKING_SIDE)`; larger images are averaged down to it, smaller ones stay."""

RECORD = np.dtype(
    [
        ("valid", np.bool_),
        ("thumbnail", np.uint8, (SIDE, SIDE)),
        ("light", np.float32),
        ("contrast", np.float32),
        ("one_colour", np.float32),
        ("sharpness", np.float32),
        ("colour", np.float32),
        ("borders", np.float32, (4,)),
    ]
)
"""One image.

    valid        False where it could not be read: nothing else is set
    thumbnail    uint8 (32, 32)
    light        99th percentile of the grey levels, 0 to 255: what the brightest parts reach
    contrast     standard deviation of the grey levels
    one_colour   share of pixels within 4 grey levels of the commonest one, 0 to 1
    sharpness    standard deviation of the Laplacian divided by the contrast: photographs 0.4 to 0.7, after a Gaussian
                 blur of 1 pixel 0.1, of 2 pixels 0.05
    colour       99th percentile of (largest - smallest channel), 0 to 255: JPEG noise on grey stays under 10
    borders      bars of one colour at the top, bottom, left, right, as a share of the height or width
"""

Load = Callable[[int], NDArray[np.uint8] | None]
"""The decoded image number i, uint8 (H, W, 3), upright RGB, or None where it cannot be used."""

_ROUNDING = 20 / 12
"""What rounding to whole grey levels adds to the variance of the Laplacian: weights 1, 1, 1, 1, -4 of 1/12 each."""
_FLAT = 2.5
"""Largest standard deviation, in grey levels, of a line of pixels that counts as one colour."""
_EDGE = 0.6
"""A bar ends in a straight edge: this share of the line behind it differs from the bar. A subject on a white
background touches its box at a few points only."""


def measure_pixels(
    numbers: Sequence[int] | NDArray[np.integer],
    load: Load,
    *,
    num_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[Any]:
    """The records of many images, in one pass, on threads that decode and measure.

    Args:
        numbers: passed to `load`.
        load: called on several threads at once; may raise ImageError or OSError for an unreadable file.
        num_threads: as many as there are cores unless said.
        progress: called with (images done, images to do).

    Returns:
        RECORD (n,), in the order of `numbers`.
    """
    records = np.zeros(len(numbers), RECORD)
    lock, done = threading.Lock(), 0

    def work(place: int) -> None:
        nonlocal done
        try:
            image = load(int(numbers[place]))
        except (ImageError, OSError):
            image = None
        if image is not None:
            records[place] = pixel_measures(image)
        if progress is not None:
            with lock:
                done += 1
                progress(done, len(numbers))

    with ThreadPoolExecutor(num_threads or os.cpu_count() or 1) as pool:
        for _ in pool.map(work, range(len(numbers))):
            pass
    return records


def pixel_measures(image: NDArray[np.uint8]) -> NDArray[Any]:
    """The record of one image, RECORD of shape ().

    Args:
        image: uint8 (H, W, 3), RGB.
    """
    scale = WORKING_SIDE / max(image.shape[:2])
    if scale < 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    histogram = np.bincount(grey.ravel(), minlength=256)
    record = np.zeros((), RECORD)
    record["valid"] = True
    record["thumbnail"] = thumbnail(image)
    record["light"] = np.searchsorted(np.cumsum(histogram), 0.99 * grey.size)
    contrast = float(grey.std())
    record["contrast"] = contrast
    commonest = int(histogram.argmax())
    record["one_colour"] = histogram[max(0, commonest - 4) : commonest + 5].sum() / grey.size
    detail = float(cv2.Laplacian(grey, cv2.CV_32F).var()) - _ROUNDING
    record["sharpness"] = max(detail, 1e-3) ** 0.5 / contrast if contrast > 0 else 0.0
    chroma = image.max(axis=2) - image.min(axis=2)
    record["colour"] = np.searchsorted(np.cumsum(np.bincount(chroma.ravel(), minlength=256)), 0.99 * chroma.size)
    turned = (grey, grey[::-1], grey.T, grey.T[::-1])
    record["borders"] = [_bar(lines) for lines in turned]
    return record


def _bar(grey: NDArray[np.uint8]) -> float:
    """Share of the lines, from the first on, that are one colour and end in a straight edge; 0 where there is none."""
    lines = grey.astype(np.float32)
    flat = (lines.std(axis=1) <= _FLAT) & (np.abs(lines.mean(axis=1) - lines[0].mean()) <= _FLAT)
    length = len(flat) if flat.all() else int(np.argmin(flat))
    if length in (0, len(flat)):
        return 0.0
    behind = lines[min(length + 1, len(lines) - 1)]  # the first line may be half bar, from scaling
    differs = np.abs(behind - lines[:length].mean()) > 4 * _FLAT
    return length / len(flat) if differs.mean() >= _EDGE else 0.0
