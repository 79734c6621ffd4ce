"""Real images for the demo: the handwritten digits that scikit-learn brings, as PNG files in class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_digits(folder: Path) -> Path:
    """Write the 1,797 digits (8 x 8 pixels, Alpaydin & Kaynak 1998) as `folder/<digit>/<number>.png`.

    Files that are there already stay as they are.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04d}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.rint(pixels * (255 / 16)).astype(np.uint8)).save(path)
    return folder
