"""A short name for exactly these labelled images."""

from __future__ import annotations

from blake3 import blake3

from regraft.types import Manifest


def data_version(manifest: Manifest, *, decisions: str = "") -> str:
    """Twelve hex digits that name the content: hash, label, split and group of every image, as given.

    The same whatever the order and the file names; different after any change of a label, split, group or image, and
    with any other decisions applied (`decisions`: the `version` of what was applied, "" for none).
    """
    names = [*manifest.class_names, ""]  # -1 is the last: unlabelled
    rows = sorted(
        "\0".join((digest.hex(), names[label], split, group))
        for digest, label, split, group in zip(
            (row.tobytes() for row in manifest.hashes),
            manifest.labels.tolist(),
            manifest.given_splits.tolist(),
            manifest.groups.tolist(),
            strict=True,
        )
    )
    rows += [f"decisions\0{decisions}"] if decisions else []
    return blake3("\1".join(rows).encode("utf-8", "surrogatepass")).hexdigest()[:12]
