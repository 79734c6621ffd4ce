"""Near-duplicates of a whole data set: searched once, kept by content, and made into groups that never straddle folds.

search_duplicates   features, pixel records, views → pairs and sets; the sets are kept for these images
kept_sets           the sets of an earlier search of the same images, whatever they are called or labelled
keep_together       a split whose folds cannot tear a set apart, without training images that leak into its test
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from regraft.audit.near_duplicates import NearDuplicates, find_near_duplicates
from regraft.audit.neighbours import nearest
from regraft.data.corrected import Corrected
from regraft.evaluate.wording import count
from regraft.features.engines import Choice
from regraft.files import write_bytes
from regraft.models.backbones import Backbone
from regraft.progress import Listener, Stopwatch
from regraft.studies.leak_price import join_groups
from regraft.studies.pixel_records import pixel_records, views_of_duplicates
from regraft.studies.reviewed_sets import reviewed_sets
from regraft.types import Features, Finding, Manifest, Split

FORMAT = 1
NUM_NEIGHBOURS = 16
"""Nearest images that are looked for once: 4 for duplicates, 10 for outliers, 6 that may be of the own group."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Search:
    """What a search found, and what it measured.

    Attributes:
        found: pairs and sets.
        records: RECORD (N,), the pixel measures.
        neighbours: of every image the 16 nearest by features and their similarity, groups apart: see `nearest`.
    """

    found: NearDuplicates
    records: NDArray[Any]
    neighbours: tuple[NDArray[np.int64], NDArray[np.float32]]


def search_duplicates(
    manifest: Manifest,
    features: Features,
    backbone: Backbone,
    *,
    choice: Choice,
    cache_dir: Path,
    listener: Listener,
    watch: Stopwatch,
) -> Search:
    """Find the near-duplicates among all images, and keep their sets for later fits of the same images.

    Args:
        manifest: N images.
        features: of these, row for row.
        backbone: with the transform that the features were made with.
        choice: engine and precision of the features.
        cache_dir: where pixel measures, views and sets are kept.
        listener: hears of progress.
        watch: times the stages `pixels`, `views` and `near-duplicates`.
    """
    with watch.stage("pixels"):
        records = pixel_records(manifest, cache_dir=cache_dir, progress=listener.progress)
    with watch.stage("views"):
        views = views_of_duplicates(
            manifest, backbone, choice=choice, cache_dir=cache_dir, progress=listener.progress
        )  # fmt: skip
    with watch.stage("near-duplicates"):
        neighbours = nearest(features.values, NUM_NEIGHBOURS)
        found = find_near_duplicates(
            features.values, records["thumbnail"], content_ids=_contents(manifest), labels=manifest.labels,
            views=views, images=manifest.names, neighbours=neighbours[0],
        )  # fmt: skip
        keep_sets(cache_dir, manifest, found.sets, found.pairs)
    return Search(found=found, records=records, neighbours=neighbours)


def kept_sets(cache_dir: Path, manifest: Manifest) -> NDArray[np.int64] | None:
    """int64 (N,), -1 for none: the sets that a search of exactly these images found; None where there was no search."""
    found = _kept(cache_dir, manifest)
    return None if found is None else found[0]


def _kept(cache_dir: Path, manifest: Manifest) -> tuple[NDArray[np.int64], NDArray[np.int64] | None] | None:
    """The sets, and the pairs of rows that link them (None: not kept)."""
    try:
        kept = load(_place(cache_dir, manifest).read_bytes())
        hashes, numbers = kept["hashes"], kept["sets"]
    except (OSError, KeyError, SafetensorError):
        return None
    rows = {key.tobytes(): row for row, key in enumerate(manifest.hashes)}
    places = np.array([rows.get(key.tobytes(), -1) for key in hashes], np.int64)
    sets = np.full(len(manifest), -1, np.int64)
    sets[places[places >= 0]] = numbers[places >= 0]
    pairs = kept.get("pairs")
    return sets, None if pairs is None else _both(places[pairs])


def _both(pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.asarray(pairs[(pairs >= 0).all(axis=1)], np.int64)


def keep_together(manifest: Manifest, split: Split, sets: NDArray[np.int64]) -> tuple[Split, str]:
    """The same split with near-duplicates in one group, and what that changed, in one sentence.

    The test set stays as it is. A development image in one set with a test image is left out of development: fitted on,
    it would give its twin's answer away. A class's last development images stay all the same.

    Args:
        manifest: N images.
        split: as drawn or given.
        sets: int64 (N,), -1 for none.

    Returns:
        The split, its group numbers joined wherever a set links them, with a finding for each image left out.
    """
    if not (sets >= 0).any():
        return split, "no near-duplicates are known among these images: the groups stay as they were"
    joined = join_groups(split.group_ids, sets)
    in_test = np.unique(sets[split.test])
    leaking = np.isin(sets[split.development], in_test[in_test >= 0])
    remaining = np.unique(manifest.labels[split.development[~leaking]])
    leaking &= np.isin(manifest.labels[split.development], remaining)
    out = split.development[leaking]
    names = manifest.names
    twins = {int(sets[row]): names[row] for row in reversed(split.test.tolist()) if sets[row] >= 0}
    findings = tuple(
        Finding(
            image=names[row], label=manifest.class_names[manifest.labels[row]], kind="near_duplicate_leak",
            reason=f"nearly the same as {twins[int(sets[row])]!r} of the test set; it was left out of development",
            excluded=True, same_as=twins[int(sets[row])],
        )
        for row in out.tolist()
    )  # fmt: skip
    development = split.development[~leaking]
    inside = sets[development]
    _, counts = np.unique(inside[inside >= 0], return_counts=True)
    several = counts[counts > 1]
    words = (
        f"near-duplicates share a fold: {int(several.sum()):,} development images in {count(len(several), 'set')}"
        if len(several)
        else "no two development images are near-duplicates"
    )
    if len(split.test):
        words += f"; {len(out):,} near-duplicates of test images were left out of development"
    return dataclasses.replace(
        split, development=development, group_ids=joined, leaks=(*split.leaks, *findings)
    ), words  # fmt: skip


def group_near_duplicates(
    manifest: Manifest,
    split: Split,
    *,
    cache_dir: Path,
    search: NDArray[np.int64] | None = None,
    corrected: Corrected | None = None,
) -> tuple[Split, str]:
    """What a fit does about near-duplicates: it obeys an audit's sets, and says so where there are none.

    Searching costs a decode of every image and 1,500 views through the backbone, so that a fit reads the sets that
    `regraft audit` kept for the same images, unless it is given those of a search.

    Args:
        manifest: N images.
        split: as drawn or given.
        cache_dir: where an audit kept its sets.
        search: the sets of a search now, `search_duplicates(…).found.sets`.
        corrected: what reviewers decided; pairs they told apart are not kept together.

    Returns:
        As `keep_together`.
    """
    found = _kept(cache_dir, manifest) if search is None else (search, None)
    if found is None:
        return split, (
            "near-duplicates were not looked for in these images: regraft audit finds them, and later fits keep them "
            "in one fold and out of the test set"
        )
    sets = found[0] if corrected is None else reviewed_sets(*found, manifest, split, corrected)
    return keep_together(manifest, split, sets)


def _contents(manifest: Manifest) -> NDArray[np.int64]:
    """int64 (N,): identical files share a number."""
    if not len(manifest):
        return np.empty(0, np.int64)
    return np.unique(manifest.hashes, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _place(cache_dir: Path, manifest: Manifest) -> Path:
    contents = np.unique(manifest.hashes, axis=0) if len(manifest) else manifest.hashes
    return cache_dir / "near-duplicates" / f"{blake3(contents.tobytes()).hexdigest()[:32]}-{FORMAT}.safetensors"


def keep_sets(
    cache_dir: Path, manifest: Manifest, sets: NDArray[np.int64], pairs: NDArray[np.int64] | None = None
) -> None:
    """Keep the sets of a search of exactly these images, and the pairs (P, 2) of rows that they were made from."""
    rows = np.flatnonzero(sets >= 0)
    place = np.full(len(manifest), -1, np.int64)
    place[rows] = np.arange(len(rows))
    kept: dict[str, NDArray[Any]] = {"hashes": np.ascontiguousarray(manifest.hashes[rows]), "sets": sets[rows]}
    if pairs is not None:
        kept["pairs"] = _both(place[pairs])
    write_bytes(_place(cache_dir, manifest), save(kept))


def keep_for_all(cache_dir: Path, everyone: Manifest, searched: Manifest, found: NearDuplicates) -> None:
    """Keep a search of some images for all of them too, where these were never searched: fits ask for all."""
    if kept_sets(cache_dir, everyone) is not None:
        return
    rows = {key.tobytes(): row for row, key in enumerate(everyone.hashes)}
    places = np.array([rows[key.tobytes()] for key in searched.hashes], np.int64)
    sets = np.full(len(everyone), -1, np.int64)
    sets[places] = found.sets
    keep_sets(cache_dir, everyone, sets, places[found.pairs])
