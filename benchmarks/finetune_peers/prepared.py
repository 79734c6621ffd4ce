"""The images that all tools get, as files: train/ and valid/ of class folders."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from images import FASHION_CLASSES, fashion_arrays, write_clipart
from PIL import Image

PREPARED = ("fashion-mnist", "openclipart")
LONGEST = 256
"""Drawings are shrunk to it once: decoding 1,500 pixels in every epoch would measure libpng."""


def clipart_pool(folder: Path) -> Path:
    """openclipart as `regraft scan` keeps it, laid over white (the peers would see what is behind transparency).

    Drawings that become the same pixels are kept once, and not at all where their classes differ.
    """
    if folder.exists():
        return folder
    import regraft as rg

    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    with tempfile.TemporaryDirectory() as temporary:
        manifest = rg.read(write_clipart(Path(temporary) / "clipart"), cache_dir=Path(temporary) / "cache").manifest
        kept: dict[bytes, tuple[int, Path]] = {}
        for i in range(len(manifest)):
            with Image.open(manifest.path(i)) as image:
                small = _flat(image.convert("RGBA"))
            label = int(manifest.labels[i])
            path = part / manifest.class_names[label] / f"{i:05d}.png"
            content = hashlib.sha256(f"{small.size}".encode() + small.tobytes()).digest()
            first, at = kept.setdefault(content, (label, path))
            if at == path:
                path.parent.mkdir(parents=True, exist_ok=True)
                small.save(path)
            elif first != label:
                at.unlink(missing_ok=True)
    part.rename(folder)
    return folder


def _flat(drawing: Image.Image) -> Image.Image:
    flat = Image.new("RGBA", drawing.size, "white")
    flat.alpha_composite(drawing)
    small = flat.convert("RGB")
    small.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    return small


def write_cell(folder: Path, name: str, pool: Path | None, *, num_train: int, num_test: int, seed: int) -> Path:
    """Training and test images of one seed; a test image is never a training image."""
    if folder.exists():
        return folder
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    rng = np.random.default_rng(seed)
    if name == "fashion-mnist":
        for into, source, count in (("train", "train", num_train), ("valid", "test", num_test)):
            pixels, labels = fashion_arrays(source)
            for i in rng.permutation(len(pixels))[:count].tolist():
                path = part / into / FASHION_CLASSES[labels[i]] / f"{i:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels[i]).save(path)
    else:
        from sklearn.model_selection import train_test_split

        assert pool is not None
        paths = sorted(pool.glob("*/*.png"))
        labels = [path.parent.name for path in paths]
        train, rest = train_test_split(paths, train_size=num_train, stratify=labels, random_state=seed)
        if num_test < len(rest):
            rest, _ = train_test_split(
                rest, train_size=num_test, stratify=[path.parent.name for path in rest], random_state=seed
            )
        _copy(train, part / "train")
        _copy(rest, part / "valid")
    part.rename(folder)
    return folder


def _copy(paths: Iterable[Path], folder: Path) -> None:
    for path in paths:
        into = folder / path.parent.name
        into.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, into / path.name)
