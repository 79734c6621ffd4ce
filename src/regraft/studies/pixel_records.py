"""Pixel measures and duplicates' views of the images, made once and kept by content hash beside the features.

A record is put into the feature cache as it is, its bytes read as float16: the shards then are verified, pruned and
shared like all others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from regraft.audit.near_duplicates import NUM_SAMPLED, Views
from regraft.audit.pixel_measures import RECORD, VERSION, WORKING_SIDE, measure_pixels, pixel_measures
from regraft.audit.views import KINDS, duplicate_views
from regraft.errors import ImageError
from regraft.features.cache import FeatureCache
from regraft.features.engines import Choice, open_engine
from regraft.features.extract import LARGEST, about
from regraft.features.forward import forward_images
from regraft.images import decode, decoder_fingerprint, resize
from regraft.models.backbones import Backbone
from regraft.types import JSON, Manifest

FEWEST = 10
"""Images that a calibration by their views needs."""
_WIDTH = -(-RECORD.itemsize // 2)
_PART = 2048
"""Images after which records are written: what an interrupt can lose, some 2 s of work."""

Progress = Callable[[int, int], None]


def pixel_records(manifest: Manifest, *, cache_dir: Path, progress: Progress | None = None) -> NDArray[Any]:
    """RECORD (N,) of every image, from the cache where it is known; `valid` is False where a file changed or vanished.

    Args:
        manifest: N images.
        cache_dir: where they are kept.
        progress: called with (images done, images to do), of those that were not in the cache.
    """
    cache = _cache(cache_dir, {})
    packed = np.zeros((len(manifest), _WIDTH), np.float16)
    missing = np.flatnonzero(~cache.read(manifest.hashes, packed))
    for first in range(0, len(missing), _PART):
        rows = missing[first : first + _PART]

        def tell(done: int, _: int, before: int = first) -> None:
            if progress is not None:
                progress(before + done, len(missing))

        fresh = measure_pixels(rows, lambda row: _pixels(manifest, row), progress=tell)
        packed[rows] = _packed(fresh)
        good = fresh["valid"]
        cache.write(manifest.hashes[rows[good]], packed[rows[good]])
    return _unpacked(packed)


def sampled_for_views(manifest: Manifest, *, num: int = NUM_SAMPLED) -> NDArray[np.int64]:
    """int64, sorted: the rows with the smallest content hashes. A random choice, which another name never changes and
    another image hardly, so that views are made once."""
    words = np.ascontiguousarray(manifest.hashes[:, :8]).view(">u8").ravel()
    return np.sort(np.argsort(words, kind="stable")[:num]).astype(np.int64)


def views_of_duplicates(
    manifest: Manifest, backbone: Backbone, *, choice: Choice, cache_dir: Path, progress: Progress | None = None
) -> Views | None:
    """Views of 300 of the images, as this backbone and the pixel measures see them; None for fewer than ten images.

    What is drawn for a view depends on the image's bytes alone.

    Args:
        manifest: N images.
        backbone: with the transform of the images' own features.
        choice: engine and precision, as for these.
        cache_dir: where they are kept.
        progress: called with (images done, images to do).
    """
    rows = sampled_for_views(manifest)
    if len(rows) < FEWEST:
        return None
    transform = backbone.transform
    keys = manifest.hashes[rows]
    values = np.zeros((len(KINDS), len(rows), backbone.num_features), np.float16)
    packed = np.zeros((len(KINDS), len(rows), _WIDTH), np.float16)
    told = about(backbone, transform, choice.precision) | {"decoder": decoder_fingerprint()}
    seen = [FeatureCache(cache_dir, told | {"duplicate": k}, num_features=backbone.num_features) for k in KINDS]
    measured = [_cache(cache_dir, {"duplicate": kind}) for kind in KINDS]
    missing = np.zeros(len(rows), np.bool_)
    for k in range(len(KINDS)):
        missing |= ~(seen[k].read(keys, values[k]) & measured[k].read(keys, packed[k]))
    todo = np.flatnonzero(missing)
    if len(todo):
        usable = _make_views(manifest, rows, todo, backbone, choice, cache_dir, values, packed, progress)
        for k in range(len(KINDS)):
            seen[k].write(keys[usable], values[k][usable])
            measured[k].write(keys[usable], packed[k][usable])
        keep = np.setdiff1d(np.arange(len(rows)), np.setdiff1d(todo, usable))
        rows, values, packed = rows[keep], values[:, keep], packed[:, keep]
        if len(rows) < FEWEST:
            return None
    return Views(
        rows=np.tile(rows, len(KINDS)), kinds=np.repeat(np.array(KINDS), len(rows)),
        features=values.reshape(-1, values.shape[2]), thumbnails=_unpacked(packed.reshape(-1, _WIDTH))["thumbnail"],
    )  # fmt: skip


def _make_views(
    manifest: Manifest, rows: NDArray[np.int64], todo: NDArray[np.int64], backbone: Backbone, choice: Choice,
    cache_dir: Path, values: NDArray[np.float16], packed: NDArray[np.float16], progress: Progress | None,
) -> NDArray[np.int64]:  # fmt: skip
    """Fill `values` and `packed` at the places `todo`; returns those that could be filled."""
    transform = backbone.transform
    engine = open_engine(backbone, choice=choice, size=transform.size, cache_dir=cache_dir)
    lock, done = threading.Lock(), 0
    filled = np.zeros((len(KINDS), len(rows)), np.bool_)

    def load(number: int) -> NDArray[np.uint8] | None:
        kind, place = divmod(number, len(rows))
        row = int(rows[place])
        try:
            image = _pixels(manifest, row)
        except (OSError, ImageError):
            return None
        if image is None:
            return None
        seed = int.from_bytes(manifest.hashes[row, :6].tobytes(), "little")
        view = duplicate_views(image, seed=seed)[KINDS[kind]]
        packed[kind, place] = _packed(pixel_measures(view)[None])[0]
        return resize(view, transform)

    def on_chunk(asked: NDArray[np.int64], good: NDArray[np.int64], features: NDArray[np.float32]) -> None:
        nonlocal done
        with lock:
            if len(good):
                fine = np.abs(features).max(axis=1) <= LARGEST  # NaN is not
                kind, place = np.divmod(good[fine], len(rows))
                values[kind, place] = features[fine]
                filled[kind, place] = True
            done += len(asked)
            if progress is not None:
                progress(done, len(KINDS) * len(todo))

    numbers = (np.arange(len(KINDS))[:, None] * len(rows) + todo).ravel()
    forward_images(numbers, load, engine=engine, size=transform.size, on_chunk=on_chunk)
    return np.asarray(todo[filled[:, todo].all(axis=0)], np.int64)


def _pixels(manifest: Manifest, row: int) -> NDArray[np.uint8] | None:
    data = manifest.path(row).read_bytes()
    if blake3(data).digest() != manifest.hashes[row].tobytes():
        return None  # changed since the scan: it would be filed under the wrong hash
    return decode(data, min_size=(WORKING_SIDE, WORKING_SIDE))


def _cache(cache_dir: Path, further: JSON) -> FeatureCache:
    told: JSON = {"backbone": "pixel measures", "version": VERSION, "decoder": decoder_fingerprint(), "precision": "u8"}
    return FeatureCache(cache_dir, told | further, num_features=_WIDTH)


def _packed(records: NDArray[Any]) -> NDArray[np.float16]:
    flat = np.zeros((len(records), 2 * _WIDTH), np.uint8)
    flat[:, : RECORD.itemsize] = np.ascontiguousarray(records).view(np.uint8).reshape(len(records), -1)
    return flat.view(np.float16)


def _unpacked(packed: NDArray[np.float16]) -> NDArray[Any]:
    flat = np.ascontiguousarray(packed).view(np.uint8)[:, : RECORD.itemsize]
    return np.ascontiguousarray(flat).view(RECORD).reshape(len(packed))
