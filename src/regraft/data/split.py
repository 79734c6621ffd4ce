"""Which images are for development and which are locked away for the test."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regraft.data.folds import deal, one_group_classes
from regraft.data.kinds import printable
from regraft.errors import DataError, UsageError
from regraft.types import Finding, Manifest, Split

AUTO_TEST = 0.2
MIN_TEST_GROUPS = 500
"""From here on a test set says something: at 90 % accuracy its 95 % interval is ±2.6 points."""
MIN_TEST_GROUPS_PER_CLASS = 20


def split(manifest: Manifest, *, test: float | Literal["auto"] = "auto", seed: int = 0) -> Split:
    """Divide the images: stratified by class, groups and identical images together, by content and seed alone.

    Splits that the data give are respected: their test split is the test; without one, their validation split is
    (cross-validation needs none); with both, the validation split joins development. Otherwise `auto` locks a fifth
    away where that makes a test set of at least 500 groups and 20 a class (a group: images that belong together,
    mostly one), and else leaves the estimate to cross-validation. A class in the test is always in development too.

    Args:
        manifest: the usable images, labelled.
        test: share of images for the test, in [0, 1); 0 for none.
        seed: another seed draws another test set.

    Raises:
        UsageError: `test` is out of range.
        DataError: fewer than two classes are left to learn.
    """
    if test != "auto" and not (isinstance(test, int | float) and 0 <= test < 1):
        raise UsageError(f"test must be 'auto' or a share from 0 to below 1: {test=}")
    group_ids = group_numbers(manifest)
    if set(manifest.given_splits.tolist()) & {"val", "test"}:
        result = _given(manifest, group_ids)
    else:
        result = _drawn(manifest, group_ids, test, seed)
    num_classes = len(np.unique(manifest.labels[result.development]))
    if num_classes < 2:
        named = ", ".join(manifest.class_names[:3]) or "none"
        raise DataError(
            f"a classifier needs two classes to learn, with two usable images each: {num_classes} was found ({named}); "
            f"see what was left out: regraft scan DATA"
        )
    return Split(
        development=result.development,
        test=result.test,
        group_ids=group_ids,
        reason=result.reason,
        leaks=(*result.leaks, *one_group_findings(manifest, group_ids, result.development)),
    )


def group_numbers(manifest: Manifest) -> NDArray[np.int64]:
    """int64 (N,): one number for images that belong together, by given group or by identical bytes, transitively."""
    n = len(manifest)
    if n == 0:
        return np.empty(0, np.int64)
    words = np.ascontiguousarray(manifest.hashes).view(">u8")
    order = np.lexsort(words.T[::-1])
    new = np.ones(n, np.int64)
    new[1:] = (words[order][1:] != words[order][:-1]).any(axis=1)
    contents = np.empty(n, np.int64)
    contents[order] = np.cumsum(new) - 1
    named = np.flatnonzero(manifest.groups != "")
    if len(named) == 0:
        return contents
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, names = np.unique(manifest.groups[named], return_inverse=True)
    size = int(contents.max()) + 1 + int(names.max()) + 1
    edges = coo_array((np.ones(len(named)), (contents[named], contents.max() + 1 + names)), shape=(size, size))
    _, components = connected_components(edges, directed=False)
    return np.unique(components[contents], return_inverse=True)[1].astype(np.int64)


def _drawn(manifest: Manifest, group_ids: NDArray[np.int64], test: float | Literal["auto"], seed: int) -> Split:
    n, rows = len(manifest), np.arange(len(manifest), dtype=np.int64)
    num_groups = int(group_ids.max()) + 1 if n else 0
    num_classes = max(manifest.num_classes, 1)
    if test == "auto":
        held = AUTO_TEST * num_groups
        needed = max(MIN_TEST_GROUPS, MIN_TEST_GROUPS_PER_CLASS * num_classes)
        units = "images" if num_groups == n else "groups"
        if held < needed:
            reason = (
                f"no test set: a fifth of {num_groups:,} {units} is {held:,.0f}, and at least {needed:,} are needed "
                f"for {num_classes} classes; repeated cross-validation gives the estimate"
            )
            return Split(development=rows, test=rows[:0], group_ids=group_ids, reason=reason)
        share, why = (
            AUTO_TEST,
            f"a fifth was locked away as the test set: {{}} of {n:,} images (at least {needed:,} {units} were needed)",
        )
    else:
        share, why = float(test), f"{test:.0%} was asked for as the test set: {{}} of {n:,} images"
    if share == 0:
        reason = "no test set was asked for; cross-validation gives the estimate"
        return Split(development=rows, test=rows[:0], group_ids=group_ids, reason=reason)
    bins = deal(manifest.labels, group_ids, manifest.hashes, np.array([1 - share, share]), seed=seed)
    bins = _known_in_development(bins, manifest.labels, group_ids)
    held_out = np.flatnonzero(bins == 1)
    return Split(
        development=np.flatnonzero(bins == 0),
        test=held_out,
        group_ids=group_ids,
        reason=why.format(f"{len(held_out):,}"),
    )


def _known_in_development(
    bins: NDArray[np.int8], labels: NDArray[np.int64], group_ids: NDArray[np.int64]
) -> NDArray[np.int8]:
    """Bring back from the test whole groups of classes that development would not know."""
    while True:
        unknown = np.setdiff1d(labels[bins == 1], labels[bins == 0])
        if len(unknown) == 0:
            return bins
        back = np.unique(group_ids[np.isin(labels, unknown)])
        bins = np.where(np.isin(group_ids, back), np.int8(0), bins)


def _given(manifest: Manifest, group_ids: NDArray[np.int64]) -> Split:
    given = manifest.given_splits
    counts = {name: int((given == name).sum()) for name in ("train", "val", "test", "")}
    if counts["test"]:
        locked, reason = "test", f"the given test split ({counts['test']:,} images) is locked away"
        if counts["val"]:
            reason += f"; the validation split ({counts['val']:,}) joins development: cross-validation needs none"
    else:
        locked = "val"
        reason = (
            f"the data give no test split, so the given validation split ({counts['val']:,} images) is locked away "
            f"as the test set"
        )
    if counts[""]:
        reason += f"; {counts['']:,} images without a split join development"
    in_test = given == locked
    if in_test.all():
        raise DataError(
            f"there must be images to learn from: all {len(manifest):,} are in the given {locked} split; "
            f"give some of them the split train"
        )
    leaking = ~in_test & np.isin(group_ids, group_ids[in_test])
    findings = _leaks(manifest, group_ids, leaking, in_test, locked)
    if findings:
        reason += f"; {len(findings):,} images of development share a group or their bytes with it and were left out"
    development = ~in_test & ~leaking
    unknown = in_test & ~np.isin(manifest.labels, manifest.labels[development])
    if unknown.any():
        names = sorted({manifest.class_names[label] for label in manifest.labels[unknown]})
        shown = ", ".join(names[:3])
        reason += f"; {int(unknown.sum()):,} test images of classes that development lacks ({shown}) were left out"
    findings += [
        _finding(
            manifest, int(row), "test_only_class", f"its class is in the {locked} split alone; it was left out", True
        )
        for row in np.flatnonzero(unknown)
    ]
    return Split(
        development=np.flatnonzero(development),
        test=np.flatnonzero(in_test & ~unknown),
        group_ids=group_ids,
        reason=reason,
        leaks=tuple(findings),
    )


def _leaks(
    manifest: Manifest,
    group_ids: NDArray[np.int64],
    leaking: NDArray[np.bool_],
    in_test: NDArray[np.bool_],
    locked: str,
) -> list[Finding]:
    by_group: dict[int, int] = {}
    by_hash: dict[bytes, int] = {}
    for row in np.flatnonzero(in_test & np.isin(group_ids, group_ids[leaking])).tolist():
        by_group.setdefault(int(group_ids[row]), row)
        by_hash.setdefault(manifest.hashes[row].tobytes(), row)
    findings = []
    for row in np.flatnonzero(leaking).tolist():
        here = str(manifest.given_splits[row]) or "unassigned"
        mate = by_group[int(group_ids[row])]
        if (same := by_hash.get(manifest.hashes[row].tobytes())) is not None:
            other = printable(str(manifest.images[same]))
            kind, reason = "duplicate_leak", f"identical to {other!r} of the given {locked} split"
        else:
            other = printable(str(manifest.images[mate]))
            name = str(manifest.groups[row]) or str(manifest.groups[mate])
            kind, reason = "group_leak", f"its group {name!r} is also in the given {locked} split ({other!r})"
        findings.append(_finding(manifest, row, kind, f"{reason}; the {here} copy was left out", True, other))
    return findings


def one_group_findings(
    manifest: Manifest, group_ids: NDArray[np.int64], development: NDArray[np.int64]
) -> list[Finding]:
    """A remark for each class whose development images all belong to one group."""
    labels = manifest.labels[development]
    findings = []
    for label in one_group_classes(labels, group_ids[development]):
        rows = development[labels == label]
        reason = (
            f"all {len(rows):,} development images of class {manifest.class_names[label]!r} are in one group; "
            f"cross-validation cannot measure this class"
        )
        findings.append(_finding(manifest, int(rows[0]), "one_group_class", reason, False))
    return findings


def _finding(
    manifest: Manifest, row: int, kind: str, reason: str, excluded: bool, same_as: str | None = None
) -> Finding:
    label = int(manifest.labels[row])
    return Finding(
        image=printable(str(manifest.images[row])),
        label=manifest.class_names[label] if label >= 0 else None,
        kind=kind,
        reason=reason,
        excluded=excluded,
        same_as=same_as,
    )
