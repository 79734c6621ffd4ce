"""What of the data a run can use: images with a label, in classes enough, whose files are still what was scanned."""

from __future__ import annotations

import dataclasses
import shlex

import numpy as np
from numpy.typing import NDArray

from regraft.data import Scan
from regraft.errors import DataError
from regraft.progress import Listener
from regraft.types import Features, Manifest, Split


def labelled(scan: Scan, min_classes: int = 2) -> Manifest:
    """The images that have a label.

    Raises:
        DataError: fewer classes than `min_classes`.
    """
    manifest = scan.manifest
    manifest = manifest.select(manifest.labels >= 0) if (manifest.labels < 0).any() else manifest
    present = int((manifest.class_counts() > 0).sum())
    if present < min_classes:
        counts = ", ".join(f"{kind} {count}" for kind, count in scan.counts_by_kind.items()) or "nothing"
        raise DataError(
            f"at least {min_classes} classes with 2 usable images each are needed: {present} found among "
            f"{scan.num_files} files (left out or remarked: {counts}). "
            f"List all: regraft scan {shlex.quote(str(manifest.root))} --issues issues.csv"
        )
    return manifest


def without_failed(
    manifest: Manifest, split: Split, features: Features, listener: Listener
) -> tuple[Manifest, Split, Features]:
    """Leave out images whose file changed or vanished between the scan and the extraction."""
    if not len(features.failed):
        return manifest, split, features
    for row in features.failed[:10].tolist():
        listener.say(f"image {str(manifest.images[row])!r} changed or vanished since the scan; it was left out")
    listener.say(f"{len(features.failed):,} images changed or vanished since the scan and were left out")
    keep = np.setdiff1d(np.arange(len(manifest)), features.failed)
    if len(np.unique(manifest.labels[np.intersect1d(split.development, keep)])) < 2:
        raise DataError(
            f"at least 2 classes must still be readable after the scan: {len(features.failed):,} of {len(manifest):,} "
            "images changed or vanished; run it again when the files are at rest"
        )
    features = dataclasses.replace(features, values=features.values[keep], failed=np.empty(0, np.int64))
    return *only(manifest, split, keep), features


def only(manifest: Manifest, split: Split, keep: NDArray[np.int64]) -> tuple[Manifest, Split]:
    """Some rows (sorted) of a manifest, and its split by the new row numbers."""
    renumber = np.full(len(manifest), -1, np.int64)
    renumber[keep] = np.arange(len(keep))
    parts = {name: renumber[getattr(split, name)] for name in ("development", "test")}
    split = dataclasses.replace(
        split, group_ids=split.group_ids[keep], **{name: rows[rows >= 0] for name, rows in parts.items()}
    )
    return manifest.select(keep), split
