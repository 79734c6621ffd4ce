"""The feature cache: immutable safetensors shards, one folder per fingerprint.

    CACHE/features/<fingerprint>/about.json              what the fingerprint stands for
    CACHE/features/<fingerprint>/<name>.safetensors      keys u8 (n, 32), features f16 (n, D)

A key is the BLAKE3 hash of an image file's bytes, so renamed and copied files are hits. A shard is written aside,
fsynced and renamed, and never touched again: many processes may read and write at once, also over NFS, and a killed
process loses only the shard it had not written yet. Every shard carries the hash of its content; one that does not
match is set aside and its images are computed again.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from regraft.files import write_bytes, write_json
from regraft.types import JSON

FORMAT = 1
ABANDONED_SECONDS = 86_400.0
"""A temporary file this old belongs to nobody."""


def fingerprint(about: JSON) -> str:
    """Names what makes features what they are: backbone, weights, transform, precision. 32 hex digits."""
    text = json.dumps({**about, "format": FORMAT}, sort_keys=True, ensure_ascii=False)
    return blake3(text.encode("utf-8")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class ShardReport:
    """One shard as `verify` found it."""

    path: Path
    num_images: int
    num_bytes: int
    damage: str | None


class FeatureCache:
    """The shards of one fingerprint.

    Args:
        cache_dir: the cache's root.
        about: what makes these features what they are; its hash is the fingerprint.
        num_features: D.
    """

    def __init__(self, cache_dir: Path, about: JSON, *, num_features: int) -> None:
        self.fingerprint = fingerprint(about)
        self.folder = cache_dir / "features" / self.fingerprint
        self.num_features = num_features
        if not (self.folder / "about.json").is_file():
            _sweep(cache_dir, now=time.time(), older_than_seconds=ABANDONED_SECONDS)
            write_json(self.folder / "about.json", {**about, "num_features": num_features, "format": FORMAT})

    def read(self, keys: NDArray[np.uint8], out: NDArray[np.float16]) -> NDArray[np.bool_]:
        """Fill the rows of `out` (N, D) whose key (N, 32) is cached; returns which they are, bool (N,)."""
        found = np.zeros(len(keys), bool)
        wanted = _prefixes(keys)
        order = np.argsort(wanted, kind="stable")
        ordered = wanted[order]
        for path in sorted(self.folder.glob("*.safetensors")):
            if found.all():
                break
            shard = _read_shard(path, self.num_features)
            if shard is None:
                _set_aside(path)
                continue
            shard_keys, values = shard
            have = _prefixes(shard_keys)
            # Every place in `order` that holds this prefix: identical files share one row of the shard.
            first = np.searchsorted(ordered, have, "left")
            count = np.searchsorted(ordered, have, "right") - first
            rows = np.repeat(np.arange(len(have)), count)
            offsets = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
            targets = order[np.repeat(first, count) + offsets]
            same = (keys[targets] == shard_keys[rows]).all(axis=1)
            out[targets[same]] = values[rows[same]]
            found[targets[same]] = True
        return found

    def write(self, keys: NDArray[np.uint8], values: NDArray[np.float16]) -> None:
        """Add a shard: keys (n, 32), values (n, D)."""
        if not len(keys):
            return
        digest = _digest(keys, values)
        data = save({"keys": keys, "features": values}, metadata={"blake3": digest, "format": str(FORMAT)})
        write_bytes(self.folder / f"{digest[:24]}.safetensors", data)


def verify(cache_dir: Path) -> Iterator[ShardReport]:
    """Read every shard of the cache and check it against the hash it carries."""
    for path in sorted((cache_dir / "features").glob("*/*.safetensors")):
        shard = _read_shard(path, None)
        with contextlib.suppress(OSError):
            size = path.stat().st_size
            yield ShardReport(path, 0 if shard is None else len(shard[0]), size, "damaged" if shard is None else None)


def list_entries(cache_dir: Path) -> list[JSON]:
    """One row per fingerprint: what it stands for, images, bytes, when it was last written."""
    rows = []
    for folder in sorted(path for path in (cache_dir / "features").glob("*") if path.is_dir()):
        shards = list(folder.glob("*.safetensors"))
        try:
            stats = [shard.stat() for shard in shards]
            last_written = max((stat.st_mtime for stat in stats), default=folder.stat().st_mtime)
        except OSError:  # deleted under our hands
            continue
        about = _read_about(folder)
        rows.append(
            {
                "fingerprint": folder.name,
                "backbone": about.get("backbone"),
                "size": about.get("transform", {}).get("size"),
                "precision": about.get("precision"),
                "num_images": sum(_num_rows(shard) for shard in shards),
                "num_shards": len(shards),
                "num_bytes": sum(stat.st_size for stat in stats),
                "last_written": last_written,
            }
        )
    return rows


def _read_about(folder: Path) -> JSON:
    try:
        about = json.loads((folder / "about.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _num_rows(path: Path) -> int:
    """Images in a shard, read from its header; 0 where that is damaged."""
    try:
        with safe_open(path, framework="numpy") as shard:
            return int(shard.get_slice("keys").get_shape()[0])
    except (OSError, ValueError, IndexError, SafetensorError):
        return 0


def prune(cache_dir: Path, *, older_than_seconds: float, now: float, fingerprint: str | None = None) -> int:
    """Delete fingerprints that were not written for a while, damaged shards and abandoned temporary files; where no
    fingerprint is named, also the review's thumbnails and what it had ready.

    Returns:
        bytes that were freed.
    """
    freed = 0
    doomed = [
        cache_dir / "features" / row["fingerprint"]
        for row in list_entries(cache_dir)
        if (fingerprint is None or row["fingerprint"].startswith(fingerprint))
        and now - row["last_written"] >= older_than_seconds
    ]
    for path in doomed:
        freed += _delete(path)
    if fingerprint is None:
        freed += _delete_old(cache_dir, ("thumbs/*/[!.]*", "review/*"), now=now, older_than_seconds=older_than_seconds)
    # Younger ones may be what another process is writing just now.
    return freed + _sweep(cache_dir, now=now, older_than_seconds=min(older_than_seconds, 3600))


def _sweep(cache_dir: Path, *, now: float, older_than_seconds: float) -> int:
    """Delete what killed processes and damage left behind; returns the bytes freed."""
    left = (
        "features/*/.*.tmp", "features/*/*.damaged", "verdicts/*/.*.tmp", "near-duplicates/.*.tmp", "ir/.tmp-*",
        "thumbs/*/.*.tmp",
    )  # fmt: skip
    return _delete_old(cache_dir, left, now=now, older_than_seconds=older_than_seconds)


def _delete_old(cache_dir: Path, patterns: Sequence[str], *, now: float, older_than_seconds: float) -> int:
    """Delete what was last written so long ago; returns the bytes freed."""
    freed = 0
    for pattern in patterns:
        for path in cache_dir.glob(pattern):
            with contextlib.suppress(OSError):
                if now - path.stat().st_mtime >= older_than_seconds:
                    freed += _delete(path)
    return freed


def _delete(path: Path) -> int:
    """Delete a file or a folder; returns its bytes."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    freed = 0
    for file in files:
        with contextlib.suppress(OSError):
            freed += file.stat().st_size
            file.unlink()
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    return freed


def _prefixes(keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The first 8 bytes of each hash: enough to look up, never enough to decide."""
    return np.ascontiguousarray(keys[:, :8]).view(np.uint64).ravel()


def _digest(keys: NDArray[np.uint8], values: NDArray[np.float16]) -> str:
    hasher = blake3(np.ascontiguousarray(keys).data)
    hasher.update(np.ascontiguousarray(values).view(np.uint8).data)
    return hasher.hexdigest()


def _read_shard(path: Path, num_features: int | None) -> tuple[NDArray[np.uint8], NDArray[np.float16]] | None:
    """(keys, values) of a shard, or None where it is damaged."""
    try:
        with safe_open(path, framework="numpy") as shard:
            keys, values = shard.get_tensor("keys"), shard.get_tensor("features")
            digest = (shard.metadata() or {}).get("blake3")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
    good = keys.dtype == np.uint8 and values.dtype == np.float16 and keys.ndim == values.ndim == 2
    good = good and keys.shape[1] == 32 and len(keys) == len(values)
    if not good or (num_features is not None and values.shape[1] != num_features) or digest != _digest(keys, values):
        return None
    return keys, values


def _set_aside(path: Path) -> None:
    with contextlib.suppress(OSError):  # gone already, or a read-only cache
        path.replace(path.with_suffix(".damaged"))
