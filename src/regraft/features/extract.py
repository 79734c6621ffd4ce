"""Images to features: decode and forward on the same threads, write shards as they fill.

Decoding and the backbone compete for the same cores, so there is nothing to overlap by queues: each thread decodes
a chunk and runs it on a session of its own, and all cores stay busy (300 to 338 images/s where worker processes
reached 179). On a GPU the same threads keep it fed.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from regraft.errors import ImageError
from regraft.features.cache import FeatureCache
from regraft.features.engines import Choice, Engine, open_engine
from regraft.images import Transform, preprocess
from regraft.models.backbones import Backbone
from regraft.types import JSON, Features, Manifest

SHARD_IMAGES = 4096
SHARD_SECONDS = 10.0
"""A shard is written when it is this full or this old: what a kill -9 can lose."""

Progress = Callable[[int, int], None]


def about(backbone: Backbone, transform: Transform, precision: str) -> JSON:
    """What makes features what they are; its hash is the fingerprint."""
    return {
        "backbone": backbone.name,
        "weights": backbone.weights_hash,
        "transform": transform.as_dict(),
        "precision": precision,
    }


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
        progress: called with (images done, images to do) as chunks are finished; the images to do are those that
            were not in the cache.

    Returns:
        Features with values float16 (N, D). A file that changed or vanished since the scan is in `failed`.
    """
    began = time.perf_counter()
    cache = FeatureCache(cache_dir, about(backbone, transform, choice.precision), num_features=backbone.num_features)
    values = np.zeros((len(manifest), backbone.num_features), np.float16)
    missing = np.flatnonzero(~cache.read(manifest.hashes, values))
    _, first = np.unique(manifest.hashes[missing], axis=0, return_index=True)
    rows = missing[np.sort(first)]  # an image that occurs twice is run once
    failed = np.empty(0, np.int64)
    if len(rows):
        engine = open_engine(
            dataclasses.replace(backbone, transform=transform), choice=choice, size=transform.size, cache_dir=cache_dir
        )
        failed = _run(manifest, rows, engine, transform, cache, values, progress)
        if len(rows) < len(missing):
            found = cache.read(
                manifest.hashes[missing], copies := np.zeros((len(missing), values.shape[1]), np.float16)
            )
            values[missing[found]] = copies[found]
            failed = missing[~found]
    return Features(
        values=values,
        fingerprint=cache.fingerprint,
        num_forwarded=len(rows) - len(failed),
        seconds=time.perf_counter() - began,
        failed=failed,
    )


def _run(
    manifest: Manifest,
    rows: NDArray[np.int64],
    engine: Engine,
    transform: Transform,
    cache: FeatureCache,
    values: NDArray[np.float16],
    progress: Progress | None,
) -> NDArray[np.int64]:
    """Forward `rows` of the manifest into `values`; returns the rows whose file could not be used."""
    chunks = [rows[start : start + engine.chunk] for start in range(0, len(rows), engine.chunk)]
    turn = itertools.count()  # next() on it is atomic
    lock = threading.Lock()
    stop = threading.Event()
    waiting: list[NDArray[np.int64]] = []
    failed: list[int] = []
    done = 0
    last_write = time.monotonic()

    def take_shard(final: bool) -> NDArray[np.int64] | None:
        """Under the lock: the rows of a shard that is due, or None."""
        nonlocal last_write
        count = sum(map(len, waiting))
        due = count >= SHARD_IMAGES or (count and time.monotonic() - last_write > SHARD_SECONDS)
        if not (due or (final and count)):
            return None
        shard = np.concatenate(waiting)
        waiting.clear()
        last_write = time.monotonic()
        return shard

    def work() -> None:
        nonlocal done
        forward = engine.session()
        batch = np.zeros((engine.chunk, transform.size, transform.size, 3), np.uint8)
        while not stop.is_set() and (number := next(turn)) < len(chunks):
            chunk = chunks[number]
            good = _load_chunk(manifest, chunk, transform, batch)
            if len(good):
                values[good] = forward(batch)[: len(good)]
            with lock:
                waiting.append(good)
                failed.extend(sorted(set(chunk.tolist()) - set(good.tolist())))
                done += len(chunk)
                if progress is not None:
                    progress(done, len(rows))
                shard = take_shard(final=False)
            if shard is not None:
                cache.write(manifest.hashes[shard], values[shard])

    with ThreadPoolExecutor(engine.num_threads, thread_name_prefix="extract") as pool:
        futures = [pool.submit(work) for _ in range(min(engine.num_threads, len(chunks)))]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # also on Ctrl-C: the threads end after their chunk, and what is done is kept
            stop.set()
            wait(futures)
            shard = take_shard(final=True)
            if shard is not None:
                cache.write(manifest.hashes[shard], values[shard])
        for future in futures:
            future.result()
    return np.array(sorted(failed), np.int64)


def _load_chunk(
    manifest: Manifest, chunk: NDArray[np.int64], transform: Transform, batch: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Decode a chunk into the front of `batch`; returns the rows that could be used, in the batch's order."""
    good: list[int] = []
    for row in chunk.tolist():
        try:
            data = manifest.path(row).read_bytes()
            if blake3(data).digest() != manifest.hashes[row].tobytes():
                continue  # changed since the scan: its features would be filed under the wrong hash
            batch[len(good)] = preprocess(data, transform)
        except (OSError, ImageError):
            continue
        good.append(row)
    return np.array(good, np.int64)
