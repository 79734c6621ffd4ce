"""Features of augmented views, extracted once and cached like those of the images themselves.

View number v of an image is a function of its bytes, the augmentation and v alone, so that a renamed file, another
order or a resumed run finds what is there. Each number has a cache of its own.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from regraft.augmentation import Augmentation, train_view
from regraft.errors import ImageError
from regraft.features.cache import FeatureCache
from regraft.features.engines import Choice, Engine, open_engine
from regraft.features.extract import LARGEST, SHARD_IMAGES, SHARD_SECONDS, about
from regraft.features.forward import forward_images
from regraft.images import Transform
from regraft.models.backbones import Backbone
from regraft.types import Manifest


def extract_views(
    manifest: Manifest,
    num_views: NDArray[np.int64],
    backbone: Backbone,
    *,
    transform: Transform,
    augmentation: Augmentation,
    choice: Choice,
    cache_dir: Path,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """Features of so many augmented views of each image.

    Args:
        manifest: N images.
        num_views: int64 (N,), 0 for images that get none.
        backbone: what to run.
        transform: as for the images' own features.
        augmentation: what is drawn.
        choice: engine and precision, as for the images' own features.
        cache_dir: where features are kept.
        progress: called with (views done, views to do); those that were cached are not counted.

    Returns:
        float16 (V, D) and, for each, the row of the manifest, int64 (V,). Views of files that changed or vanished since
        the scan, or whose features are not finite, are missing.
    """
    rounds = [np.flatnonzero(num_views > v) for v in range(int(num_views.max(initial=0)))]
    told = about(backbone, transform, choice.precision) | {"augmentation": dataclasses.asdict(augmentation)}
    caches = [
        FeatureCache(cache_dir, told | {"view": v}, num_features=backbone.num_features) for v in range(len(rounds))
    ]
    values = [np.zeros((len(rows), backbone.num_features), np.float16) for rows in rounds]
    missing = [
        np.flatnonzero(~cache.read(manifest.hashes[rows], out))
        for cache, rows, out in zip(caches, rounds, values, strict=True)
    ]
    total = sum(len(places) for places in missing)
    good = [np.ones(len(rows), bool) for rows in rounds]
    if total:
        engine = open_engine(backbone.at(transform), choice=choice, size=transform.size, cache_dir=cache_dir)
        done = 0
        for v, places in enumerate(missing):
            if len(places):
                before = done

                def tell(so_far: int, before: int = before) -> None:
                    if progress is not None:
                        progress(before + so_far, total)

                good[v][places] = _forward(
                    manifest, rounds[v], places, v, engine, transform, augmentation, caches[v], values[v], tell
                )
                done += len(places)
    kept = [np.flatnonzero(ok) for ok in good]
    rows = [one[ok] for one, ok in zip(rounds, kept, strict=True)]
    empty = np.empty((0, backbone.num_features), np.float16)
    return (
        np.concatenate([one[ok] for one, ok in zip(values, kept, strict=True)] or [empty]),
        np.concatenate(rows or [np.empty(0, np.int64)]).astype(np.int64),
    )


def _forward(
    manifest: Manifest, rows: NDArray[np.int64], places: NDArray[np.int64], view: int, engine: Engine,
    transform: Transform, augmentation: Augmentation, cache: FeatureCache, values: NDArray[np.float16],
    tell: Callable[[int], None],
) -> NDArray[np.bool_]:  # fmt: skip
    """Forward the views at `places` of `rows` into `values`; returns which could be used, bool (len(places),)."""
    lock, waiting, usable = threading.Lock(), list[NDArray[np.int64]](), np.zeros(len(rows), bool)
    done, last_write = 0, time.monotonic()

    def load(place: int) -> NDArray[np.uint8] | None:
        row = int(rows[place])
        key = manifest.hashes[row]
        try:
            data = manifest.path(row).read_bytes()
            if blake3(data).digest() != key.tobytes():
                return None
            index = int.from_bytes(key[:6].tobytes(), "little")
            return train_view(data, transform, augmentation, epoch=view, index=index)
        except (OSError, ImageError):
            return None

    def write_shard() -> None:
        shard = np.concatenate(waiting)
        waiting.clear()
        cache.write(manifest.hashes[rows[shard]], values[shard])

    def on_chunk(asked: NDArray[np.int64], good: NDArray[np.int64], features: NDArray[np.float32]) -> None:
        nonlocal done, last_write
        with lock:
            if len(good):
                fine = np.abs(features).max(axis=1) <= LARGEST  # NaN is not
                good, features = good[fine], features[fine]
                values[good] = features
                usable[good] = True
                waiting.append(good)
            done += len(asked)
            tell(done)
            if waiting and (
                len(waiting) * engine.chunk >= SHARD_IMAGES or time.monotonic() - last_write > SHARD_SECONDS
            ):
                write_shard()
                last_write = time.monotonic()

    try:
        forward_images(places, load, engine=engine, size=transform.size, on_chunk=on_chunk)
    finally:  # also after Ctrl-C: what was computed is kept
        if waiting:
            write_shard()
    return usable[places]
