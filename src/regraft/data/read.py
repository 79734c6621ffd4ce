"""`read`: from a folder or a manifest to a `Scan`, the first step of every verb that takes data."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from regraft.data.checks import exact_duplicates, rare_classes, similar_labels
from regraft.data.files import printable_path
from regraft.data.kinds import BAD_FILES, printable
from regraft.data.layout import LAYOUTS, MANIFEST_ENDINGS, Listing, list_folder
from regraft.data.scan import Scan
from regraft.data.tables import list_manifest
from regraft.data.verdicts import Examined, examine
from regraft.errors import DataError, nearest
from regraft.images import EXTENSIONS
from regraft.types import UNLABELLED, Finding, Manifest


def read(
    source: str | Path,
    *,
    image_column: str = "image",
    label_column: str = "label",
    split_column: str = "split",
    group_column: str = "group",
    unlabelled: bool = False,
    cache_dir: Path | None = None,
    num_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scan:
    """Scan labelled images: every file is read, hashed and decoded once; nothing on disk is changed.

    Args:
        source: a folder of class folders, a folder of `train|val|valid|validation|test` folders of class folders, or a
            CSV, TSV or Parquet manifest (relative paths are relative to it).
        image_column: the manifest's column of paths.
        label_column: of class names.
        split_column: of train, val or test; may be missing.
        group_column: of names that must not straddle two splits; may be missing.
        unlabelled: take all images below a folder, or of a manifest, without labels.
        cache_dir: where verdicts are remembered by content, so that a second scan decodes nothing; None: nowhere.
        num_threads: default: one for each core of this process.
        progress: called with (files done, files in all).

    Returns:
        The usable images in `manifest`, sorted by path, and everything there is to say about the others in
        `findings`. A bad file never raises.

    Raises:
        DataError: there is nothing to scan, or the layout is none of the above.

    Example:
        >>> scan = read("photos/")  # doctest: +SKIP
        >>> scan.manifest.class_names, scan.counts_by_kind  # doctest: +SKIP
    """
    began = time.perf_counter()
    listing = _listing(
        Path(source).expanduser(),
        unlabelled,
        {
            "image_column": image_column,
            "label_column": label_column,
            "split_column": split_column,
            "group_column": group_column,
        },
    )
    if not listing.images:
        raise DataError(f"the data need images: {printable_path(Path(source))} has none; give {LAYOUTS}")
    rows = [row for row in range(len(listing.images)) if row not in listing.problems]
    examined = examine(
        listing.images,
        rows,
        root=listing.root,
        cache_dir=cache_dir,
        num_threads=num_threads,
        progress=progress,
    )
    scan = _scan(listing, examined, unlabelled=unlabelled)
    return Scan(
        **{name: getattr(scan, name) for name in Scan.__slots__ if name != "seconds"},
        seconds=time.perf_counter() - began,
    )


def _listing(source: Path, unlabelled: bool, columns: dict[str, str]) -> Listing:
    if not source.exists():
        parent = source.absolute().parent
        try:
            beside = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
        except OSError:
            beside = []
        raise DataError(f"the data must exist: {printable_path(source)} does not{nearest(source.name, beside)}")
    if source.is_dir():
        return list_folder(source, unlabelled=unlabelled)
    if source.suffix.lower() not in MANIFEST_ENDINGS or not source.is_file():
        raise DataError(f"the data must be a folder or a manifest: {printable_path(source)} is neither; give {LAYOUTS}")
    try:
        return list_manifest(source, unlabelled=unlabelled, **columns)
    except OSError as error:
        raise DataError(f"a manifest must be readable: {printable_path(source)} is not ({error.strerror})") from None


def _scan(listing: Listing, examined: Examined, *, unlabelled: bool) -> Scan:
    findings: list[Finding] = []
    usable: list[int] = []
    formats, num_frames = examined.formats.tolist(), examined.num_frames.tolist()
    for row, image in enumerate(listing.images):
        kind, reason = examined.problems.get(row, ("", ""))
        if row in listing.problems:
            kind = listing.problems[row]
            reason = BAD_FILES[kind]
        elif not kind and not unlabelled and listing.labels[row] is None:
            kind, reason = "unlabelled", _why_unlabelled(listing, image)
        if kind:
            findings.append(
                Finding(image=printable(image), label=listing.labels[row], kind=kind, reason=reason, excluded=True)
            )
        else:
            usable.append(row)
            findings += _remarks(listing, row, examined.format_names[formats[row]], num_frames[row])
    similar, notes = similar_labels(listing, usable)
    findings += similar
    copies = exact_duplicates(listing, examined.hashes, usable)
    findings += copies.values()
    usable = [row for row in usable if row not in copies]
    too_few = rare_classes(listing, usable)
    findings += too_few.values()
    usable = [row for row in usable if row not in too_few]
    usable.sort(key=lambda row: listing.images[row])
    counts = np.bincount(examined.formats[usable], minlength=len(examined.format_names)).tolist()
    return Scan(
        manifest=_manifest(listing, examined, usable),
        findings=tuple(sorted(findings, key=lambda found: (not found.excluded, found.kind, found.image))),
        num_files=len(set(listing.images)),
        source=listing.source,
        formats={name: count for name, count in zip(examined.format_names, counts, strict=True) if count},
        seconds=0.0,
        num_decoded=examined.num_decoded,
        notes=(*listing.notes, *notes),
        num_hidden=listing.num_hidden,
    )


def _manifest(listing: Listing, examined: Examined, rows: list[int]) -> Manifest:
    class_names = tuple(sorted({label for row in rows if (label := listing.labels[row]) is not None}))
    numbers: dict[str | None, int] = {name: number for number, name in enumerate(class_names)}
    return Manifest(
        root=listing.root,
        images=np.array([listing.images[row] for row in rows], dtype=np.str_),
        labels=np.array([numbers.get(listing.labels[row], UNLABELLED) for row in rows], np.int64),
        class_names=class_names,
        hashes=examined.hashes[rows],
        given_splits=np.array([listing.splits[row] for row in rows], dtype=np.str_),
        groups=np.array([listing.groups[row] for row in rows], dtype=np.str_),
        sizes=examined.sizes[rows],
        source=listing.source,
    )


def _remarks(listing: Listing, row: int, found: str, num_frames: int) -> list[Finding]:
    image = listing.images[row]
    remarks: list[tuple[str, str]] = []
    ending = os.path.splitext(image)[1].lower()  # 20 x faster than Path
    if EXTENSIONS.get(ending) != ("JPEG" if found == "MPO" else found):
        remarks.append(("wrong_extension", f"its name ends in {printable(ending)!r}, but it is {found}; it was used"))
    if num_frames > 1:
        remarks.append(("animated", f"it has {num_frames:,} frames or pages; the first was used"))
    if row in listing.repeated:
        remarks.append(("listed_twice", f"the manifest lists it {listing.repeated[row]:,} times; it counts once"))
    return [
        Finding(image=printable(image), label=listing.labels[row], kind=kind, reason=reason, excluded=False)
        for kind, reason in remarks
    ]


def _why_unlabelled(listing: Listing, image: str) -> str:
    if "manifest" in listing.source:
        return "its row has no label"
    return "it lies in no class folder"
