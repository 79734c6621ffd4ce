"""Images to features: what is cached is read, the rest is forwarded and written in shards as they fill."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from regraft.errors import BackboneError, ImageError
from regraft.features.cache import FeatureCache
from regraft.features.engines import Choice, Engine, open_engine
from regraft.features.forward import forward_images
from regraft.images import Transform, preprocess
from regraft.models.backbones import Backbone
from regraft.types import JSON, Features, Manifest

SHARD_IMAGES = 4096
SHARD_SECONDS = 10.0
"""A shard is written when it is this full or this old; it is what a kill -9 can lose."""

LARGEST = float(np.finfo(np.float16).max)

Progress = Callable[[int, int], None]


def about(backbone: Backbone, transform: Transform, precision: str) -> JSON:
    """What makes features what they are; its hash is the fingerprint."""
    told: JSON = {
        "backbone": backbone.name,
        "weights": backbone.weights_hash,
        "transform": transform.as_dict(),
        "precision": precision,
    }
    if backbone.features_from is not None:
        told["features_from"] = backbone.features_from
    return told


def extract(
    manifest: Manifest,
    backbone: Backbone,
    *,
    transform: Transform,
    choice: Choice,
    cache_dir: Path,
    progress: Progress | None = None,
) -> Features:
    """The features of every image of a manifest, from the cache where they are known.

    Args:
        manifest: the images; N rows.
        backbone: what to run.
        transform: the way from image to input.
        choice: engine and precision, from `engines.choose`.
        cache_dir: where features are kept.
        progress: called with (images done, images to do); the images to do are those that were not in the cache.

    Returns:
        Features with values float16 (N, D). Rows whose file changed or vanished since the scan are in `failed`.
    """
    began = time.perf_counter()
    cache = FeatureCache(cache_dir, about(backbone, transform, choice.precision), num_features=backbone.num_features)
    values = np.zeros((len(manifest), backbone.num_features), np.float16)
    missing = np.flatnonzero(~cache.read(manifest.hashes, values))
    _, first, copy_of = np.unique(manifest.hashes[missing], axis=0, return_index=True, return_inverse=True)
    failed = np.empty(0, np.int64)
    if len(missing):
        engine = open_engine(backbone.at(transform), choice=choice, size=transform.size, cache_dir=cache_dir)
        rows = missing[first]  # an image that occurs twice is run once
        if progress is not None:
            progress(0, len(rows))
        failed = _forward_rows(manifest, rows, engine, transform, cache, values, progress)
        values[missing] = values[rows[copy_of.ravel()]]
        failed = missing[np.isin(rows[copy_of.ravel()], failed)]
    return Features(
        values=values,
        fingerprint=cache.fingerprint,
        num_forwarded=len(first) - len(np.unique(manifest.hashes[failed], axis=0)),
        seconds=time.perf_counter() - began,
        failed=failed,
    )


def _forward_rows(
    manifest: Manifest,
    rows: NDArray[np.int64],
    engine: Engine,
    transform: Transform,
    cache: FeatureCache,
    values: NDArray[np.float16],
    progress: Progress | None,
) -> NDArray[np.int64]:
    """Forward `rows` of the manifest into `values`; returns the rows whose file could not be used."""
    lock = threading.Lock()
    waiting: list[NDArray[np.int64]] = []
    failed: list[int] = []
    done, last_write = 0, time.monotonic()

    def load(row: int) -> NDArray[np.uint8] | None:
        try:
            data = manifest.path(row).read_bytes()
            if blake3(data).digest() != manifest.hashes[row].tobytes():
                return None  # changed since the scan: its features would be filed under the wrong hash
            return preprocess(data, transform)
        except (OSError, ImageError):
            return None

    def write_shard() -> None:
        shard = np.concatenate(waiting)
        waiting.clear()
        cache.write(manifest.hashes[shard], values[shard])

    def on_chunk(asked: NDArray[np.int64], good: NDArray[np.int64], features: NDArray[np.float32]) -> None:
        nonlocal done, last_write
        with lock:
            if len(good):
                if not np.abs(features).max() <= LARGEST:
                    row = int(good[np.argmax(~(np.abs(features).max(axis=1) <= LARGEST))])
                    raise BackboneError(
                        f"features must be finite and below {LARGEST:,.0f} to be kept as float16: those of image "
                        f"{manifest.names[row]!r} are not; try --precision fp32, or another backbone"
                    )
                values[good] = features
                waiting.append(good)
            failed.extend(set(asked.tolist()) - set(good.tolist()))
            done += len(asked)
            if progress is not None:
                progress(done, len(rows))
            # Writing under the lock makes the other threads wait some 20 ms every 10 s, and keeps this simple.
            if waiting and (
                len(waiting) * engine.chunk >= SHARD_IMAGES or time.monotonic() - last_write > SHARD_SECONDS
            ):
                write_shard()
                last_write = time.monotonic()

    try:
        forward_images(rows, load, engine=engine, size=transform.size, on_chunk=on_chunk)
    finally:  # also after Ctrl-C or an error: what was computed is kept
        if waiting:
            write_shard()
    return np.array(sorted(failed), np.int64)
