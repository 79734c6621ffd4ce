"""Checks on the listing as a whole: labels that look alike, identical images, classes too small to cross-validate.

Each check takes columns and the rows that are still in, and returns the rows it leaves out with their findings.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from regraft.data.kinds import folded, printable
from regraft.data.layout import Listing
from regraft.types import Finding

MIN_IMAGES = 2
"""A class with fewer usable images cannot be in training and in validation at once."""

_KEEP_ORDER = {"test": 0, "val": 1, "train": 2, "": 2}


def similar_labels(listing: Listing, rows: Sequence[int]) -> tuple[list[Finding], list[str]]:
    """Labels that differ only in case, spaces, hyphens or Unicode form: remarks on the rarer spelling's images.

    Nothing is merged: `Pool` and `pool` may be two classes.

    Returns:
        The findings, and one sentence for each pair of spellings.
    """
    counts = Counter(label for row in rows if (label := listing.labels[row]) is not None)
    by_form: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        by_form[folded(label)].append(label)
    better: dict[str, str] = {}
    notes: list[str] = []
    for spellings in by_form.values():
        best, *others = sorted(spellings, key=lambda label: (-counts[label], label != label.strip(), label))
        for other in sorted(others):
            better[other] = best
            notes.append(
                f"the labels {other!r} ({counts[other]:,} images) and {best!r} ({counts[best]:,}) differ only in case, "
                f"spaces, hyphens or Unicode form and were kept apart; to merge them, write {best!r} for {other!r}"
            )
    findings = [
        Finding(
            image=printable(listing.images[row]),
            label=label,
            kind="similar_label",
            reason=f"its label {label!r} is nearly {better[label]!r}; if they are one class, write {better[label]!r}",
            excluded=False,
            same_as=better[label],
        )
        for row in rows
        if (label := listing.labels[row]) is not None and label in better
    ]
    return findings, notes


def exact_duplicates(listing: Listing, hashes: NDArray[np.uint8], rows: Sequence[int]) -> dict[int, Finding]:
    """Files with the same bytes, by row of those left out.

    With one label, one file stays: that of the test split before val before train, so that a leak costs training and
    not the test; then the first by name. With several labels none can be trusted, and all are left out.
    """
    if len(rows) == 0:
        return {}
    order, starts = _runs(hashes, np.asarray(rows, np.int64))
    left_out: dict[int, Finding] = {}
    sizes = np.diff(np.append(starts, len(order)))
    several = zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True)
    for number, (start, size) in enumerate(several):
        same = order[start : start + size].tolist()
        same.sort(key=lambda row: (_KEEP_ORDER[listing.splits[row]], listing.images[row], listing.groups[row]))
        labels = Counter(listing.labels[row] for row in same)
        first = same[0]
        if len(labels) > 1:
            second = next(row for row in same if listing.labels[row] != listing.labels[first])
            said = ", ".join(f"{label!r} ({times}x)" for label, times in sorted(labels.items(), key=str))
            for row in same:
                other = first if listing.labels[first] != listing.labels[row] else second
                left_out[row] = _duplicate(
                    listing, row, other, number, "conflicting_duplicate",
                    f"identical images have different labels: {said}; keep the right one",
                )  # fmt: skip
        else:
            for row in same[1:]:
                here, there = listing.splits[row], listing.splits[first]
                leaked = _KEEP_ORDER[here] != _KEEP_ORDER[there]
                name = printable(listing.images[first])
                reason = (
                    f"identical to {name!r} of the given {there} split; the {here or 'unassigned'} copy was left out"
                    if leaked
                    else f"identical to {name!r}, which stays"
                )
                kind = "leaked_duplicate" if leaked else "exact_duplicate"
                left_out[row] = _duplicate(listing, row, first, number, kind, reason)
    return left_out


def rare_classes(listing: Listing, rows: Sequence[int]) -> dict[int, Finding]:
    """Images of classes with fewer than two usable ones, by row."""
    counts = Counter(listing.labels[row] for row in rows)
    return {
        row: Finding(
            image=printable(listing.images[row]),
            label=label,
            kind="rare_class",
            reason=f"its class {label!r} has {counts[label]} usable image; {MIN_IMAGES} are needed",
            excluded=True,
        )
        for row in rows
        if (label := listing.labels[row]) is not None and counts[label] < MIN_IMAGES
    }


def _duplicate(listing: Listing, row: int, other: int, number: int, kind: str, reason: str) -> Finding:
    return Finding(
        image=printable(listing.images[row]),
        label=listing.labels[row],
        kind=kind,
        reason=reason,
        excluded=True,
        duplicate_set=number,
        same_as=printable(listing.images[other]),
    )


def _runs(hashes: NDArray[np.uint8], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows sorted by hash, and where each run of equal hashes starts."""
    words = np.ascontiguousarray(hashes[rows]).view(">u8")  # (n, 4)
    order = np.lexsort(words.T[::-1])
    words = words[order]
    new = np.ones(len(rows), bool)
    new[1:] = (words[1:] != words[:-1]).any(axis=1)
    return rows[order], np.flatnonzero(new)
