"""The two ends of the scale of similarity: crops of photographs, and pixel noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from regraft.images import Transform, resize

Pixels = NDArray[np.uint8]
NUM_REFERENCES = 64


def photographs(
    transform: Transform, *, seed: int = 0, number: int = NUM_REFERENCES
) -> tuple[Pixels, NDArray[np.int64]]:
    """Crops of scikit-learn's two sample photographs, uint8 (n, size, size, 3), and of which half they are, 0..3."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    images = load_sample_images().images
    crops, labels = [], []
    for i in range(number):
        image = images[i % 2]
        height, width = image.shape[:2]
        side = int(rng.integers(height // 2, height + 1))
        half = (i // 2) % 2
        room = max(width // 2 - side // 2, 1)
        left = min(half * (width // 2) + int(rng.integers(-side // 4, room)), width - side)
        top = int(rng.integers(0, height - side + 1))
        cut = image[top : top + side, max(left, 0) : max(left, 0) + side]
        crops.append(resize(np.ascontiguousarray(cut), transform))
        labels.append(2 * (i % 2) + half)
    return np.stack(crops), np.array(labels, np.int64)


def noise(transform: Transform, *, seed: int = 0, number: int = NUM_REFERENCES) -> tuple[Pixels, NDArray[np.int64]]:
    """Uniform pixel noise of the same shape, labelled 0..3 at random."""
    rng = np.random.default_rng(seed)
    size = transform.size
    return rng.integers(0, 256, (number, size, size, 3), np.uint8), rng.integers(0, 4, number)
