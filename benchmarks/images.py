"""Real images for the benchmarks, written as files. Imported by the scripts beside it."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FASHION = Path("/usr/share/datasets/fashion-mnist")  # Debian: dataset-fashion-mnist
OPENCLIPART = Path("/usr/share/openclipart/png")  # Debian: openclipart-png
FASHION_CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot"]
CLIPART_CLASSES = (
    "animals", "computer", "food", "geography", "office", "people", "recreation", "shapes", "signs_and_symbols",
    "special", "tools", "transportation",
)  # fmt: skip


def fashion_arrays(split: str = "train") -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels uint8 (N, 28, 28) and labels uint8 (N,) of Fashion-MNIST (Xiao, Rasul & Vollgraf 2017)."""
    stem = "train" if split == "train" else "t10k"
    pixels = gzip.decompress((FASHION / f"{stem}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((FASHION / f"{stem}-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8, offset=8)


def write_fashion(folder: Path, num_images: int, *, seed: int = 0) -> Path:
    """A random part of Fashion-MNIST's training images as PNG files in class folders."""
    pixels, labels = fashion_arrays()
    for i in np.random.default_rng(seed).permutation(len(pixels))[:num_images].tolist():
        path = folder / FASHION_CLASSES[labels[i]] / f"{i:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[i]).save(path)
    return folder


def write_clipart(folder: Path) -> Path:
    """Twelve subjects of openclipart as they are: imbalanced, messy, broken links included."""
    for name in CLIPART_CLASSES:
        shutil.copytree(OPENCLIPART / name, folder / name, symlinks=True, dirs_exist_ok=True)
    return folder


def write_photographs(folder: Path, num_images: int, *, size: tuple[int, int] = (500, 375), seed: int = 0) -> Path:
    """JPEG files of `size` (width, height): crops of scikit-learn's two sample photographs, in two class folders."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    rng = np.random.default_rng(seed)
    aspect = size[1] / size[0]
    for i in range(num_images):
        photograph = photographs[i % 2]
        width = int(min(photograph.width, photograph.height / aspect) * rng.uniform(0.55, 1.0))
        height = int(width * aspect)
        left = int(rng.integers(0, photograph.width - width + 1))
        top = int(rng.integers(0, photograph.height - height + 1))
        crop = photograph.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BICUBIC)
        path = folder / ("china", "flower")[i % 2] / f"{i:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        crop.save(path, quality=90)
    return folder
