"""From a scan to what is developed on and what is locked away, after the decisions of reviewers: for every verb."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from regraft.data.corrected import Corrected, Decisions
from regraft.data.corrections import apply
from regraft.data.scan import Scan
from regraft.data.split import one_group_findings, split
from regraft.data.version import data_version
from regraft.errors import DataError
from regraft.types import Manifest, Split


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parting:
    """What a verb works with.

    Attributes:
        manifest: the images with a label: as corrected in development, as given in the test set; -1 where a decision
            leaves a development image out.
        split: drawn from the labels as given, so that no decision moves an image between development and test; without
            what decisions leave out.
        corrected: what the decisions did, or None where there are none.
        version: a name for exactly these images, labels, groups and decisions.
    """

    manifest: Manifest
    split: Split
    corrected: Corrected | None
    version: str


def part(
    scan: Scan,
    *,
    test: float | Literal["auto"] = "auto",
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> Parting:
    """Split the images of a scan that have a label, and apply the scan's decisions to the development images.

    Args:
        scan: what `read` gave, with decisions or without.
        test: as in `split`.
        seed: as in `split`.
        say: is told how many decisions were applied.

    Raises:
        UsageError: as `split`.
        DataError: as `split`; or decisions leave fewer than two classes to learn.
    """
    manifest = scan.manifest
    manifest = manifest.select(manifest.labels >= 0) if (manifest.labels < 0).any() else manifest
    given = split(manifest, test=test, seed=seed)
    if scan.decisions is None:
        return Parting(manifest=manifest, split=given, corrected=None, version=data_version(manifest))
    parted = decide(manifest, given, scan.decisions)
    assert parted.corrected is not None
    if say is not None:
        for sentence in parted.corrected.sentences:
            say(sentence)
    return parted


def decide(manifest: Manifest, given: Split, decisions: Decisions) -> Parting:
    """Apply decisions to the development images of a split.

    Args:
        manifest: images with labels, as given.
        given: drawn from these labels.
        decisions: of reviewers.

    Raises:
        DataError: they leave fewer than two classes to learn.
    """
    corrected = apply(
        manifest, decisions.verdicts, development=given.development, test=given.test,
        keep_ambiguous=decisions.keep_ambiguous,
    )  # fmt: skip
    present = len(np.unique(corrected.manifest.labels[corrected.development]))
    if present < 2:
        raise DataError(
            f"a classifier needs two classes to learn: the decisions leave {present} ({corrected.sentence}); "
            "review them again, or leave them out: --no-decisions"
        )
    before = [found for found in given.leaks if found.kind != "one_group_class"]
    after = one_group_findings(corrected.manifest, given.group_ids, corrected.development)
    return Parting(
        manifest=corrected.manifest,
        split=dataclasses.replace(
            given, development=corrected.development, test=corrected.test, leaks=(*before, *after)
        ),
        corrected=corrected,
        version=data_version(manifest, decisions=corrected.version),
    )  # fmt: skip
