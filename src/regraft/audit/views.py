"""What people do to a copy of a picture: views that a duplicate search must find, to calibrate it by."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

KINDS = ("re-encoded", "resized", "cropped", "mirrored", "brightened")


def duplicate_views(image: NDArray[np.uint8], *, seed: int) -> dict[str, NDArray[np.uint8]]:
    """One view of each kind, its strength drawn by seed.

    - re-encoded: JPEG of quality 30 to 90
    - resized: to 40-90 % of its sides (at least 16 pixels), by area
    - cropped: 5 % of each side cut away, divided at random between the two ends
    - mirrored: left and right exchanged
    - brightened: times 1.1 to 1.4, or divided by it

    Args:
        image: uint8 (H, W, 3), RGB.
        seed: same seed, same views.

    Returns:
        kind to uint8 (h, w, 3).
    """
    rng = np.random.default_rng(seed)
    height, width = image.shape[:2]
    quality = int(rng.integers(30, 91))
    _, coded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
    scale = rng.uniform(0.4, 0.9)
    small = (max(min(16, width), round(scale * width)), max(min(16, height), round(scale * height)))
    cut_h, cut_w = round(0.05 * height), round(0.05 * width)
    top, left = int(rng.integers(0, cut_h + 1)), int(rng.integers(0, cut_w + 1))
    gain = float(rng.uniform(1.1, 1.4)) ** (1 if rng.random() < 0.5 else -1)
    return {
        "re-encoded": np.ascontiguousarray(np.asarray(decoded, np.uint8)[..., ::-1]),
        "resized": np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), np.uint8),
        "cropped": np.ascontiguousarray(image[top : top + height - cut_h, left : left + width - cut_w]),
        "mirrored": np.ascontiguousarray(image[:, ::-1]),
        "brightened": np.clip(np.rint(image * gain), 0, 255).astype(np.uint8),
    }
