"""The verdicts that are applied to data, and the data after them: values without any reading or deciding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.data.pair_verdicts import Key, Pairs
from regraft.types import JSON, Finding, Manifest, Verdict


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decisions:
    """Verdicts of reviewers, and where they were read.

    Attributes:
        verdicts: (item, other) to verdict; `other` is "" where one image was judged.
        project: whose history it is.
        database: its address, without a password.
        seq: number of the last event.
        head: hash of the last event, in which all before it are chained.
        keep_ambiguous: whether images that do not tell their class are fitted on all the same.
    """

    verdicts: Mapping[Key, Verdict]
    project: str = ""
    database: str = ""
    seq: int = 0
    head: str = ""
    keep_ambiguous: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Corrected:
    """A manifest after the decisions, and what was applied.

    Attributes:
        manifest: the same N images in the same order. Development images have their labels as corrected, test images as
            given; -1 where a decision leaves an image out of development. Classes may have come and gone.
        development: int64, rows that may be fitted on.
        test: int64, rows of the test set as given, but for classes that development lost.
        as_given: int64 (N,), the labels as given, by the numbers of `manifest`; -1 where that class is gone.
        as_corrected: int64 (N,), the labels as decided, of test images too; -1 where an image is left out, or its class
            is unknown to development.
        pairs: which images are one picture, and which are not.
        num_relabelled: development images under another label than given.
        num_excluded: development images left out as such.
        num_ambiguous: development images left out because the picture does not tell.
        num_duplicates: development images left out because another one of the same picture stays.
        num_alone: development images left out because decisions left them alone in their class.
        num_distinct: pairs that are two pictures.
        num_kept: development images whose label was confirmed.
        num_conflicts: verdicts on which reviewers disagree; not applied.
        num_stale: new labels of images whose given label changed after the review; not applied.
        num_absent: verdicts on images that these data do not hold.
        num_test_relabelled: test images that have another label in `as_corrected`.
        num_test_left_out: test images that are left out of `as_corrected`.
        findings: one for each image that is left out, and a remark for each under another label.
        notes: sentences on classes that came or went.
        version: names what was applied; "" where nothing was.
    """

    manifest: Manifest
    development: NDArray[np.int64]
    test: NDArray[np.int64]
    as_given: NDArray[np.int64]
    as_corrected: NDArray[np.int64]
    pairs: Pairs
    num_relabelled: int
    num_excluded: int
    num_ambiguous: int
    num_duplicates: int
    num_alone: int
    num_distinct: int
    num_kept: int
    num_conflicts: int
    num_stale: int
    num_absent: int
    num_test_relabelled: int
    num_test_left_out: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    version: str

    @property
    def num_applied(self) -> int:
        """Decisions that changed something for development images."""
        changed = self.num_relabelled + self.num_excluded + self.num_ambiguous
        return changed + self.num_duplicates + self.num_distinct

    @property
    def num_kept_apart(self) -> int:
        """Decisions on test images, which change nothing but the second score."""
        return self.num_test_relabelled + self.num_test_left_out

    @property
    def sentence(self) -> str:
        """How many decisions were applied, and how many were not."""
        did = [
            some(self.num_relabelled, "label") + " changed" if self.num_relabelled else "",
            some(self.num_excluded, "image") + " left out" if self.num_excluded else "",
            some(self.num_ambiguous, "ambiguous image") + " left out" if self.num_ambiguous else "",
            some(self.num_duplicates, "duplicate") + " left out" if self.num_duplicates else "",
            some(self.num_distinct, "pair") + " told apart" if self.num_distinct else "",
        ]
        told = ", ".join(part for part in did if part)
        words = some(self.num_applied, "decision") + " applied" + (f": {told}" if told else "")
        if self.num_alone:
            words += f"; {some(self.num_alone, 'image')} then alone in the class, and left out"
        if self.num_conflicts:
            words += f"; {self.num_conflicts:,} in conflict {_was(self.num_conflicts)} not"
        if self.num_stale:
            words += f"; {self.num_stale:,} made stale by a newer label {_was(self.num_stale)} not"
        if self.num_kept_apart:
            words += f"; {self.num_kept_apart:,} on test images, kept apart"
        return words

    @property
    def sentences(self) -> tuple[str, ...]:
        """`sentence` and the notes."""
        return (self.sentence, *self.notes)

    def as_dict(self) -> JSON:
        """The counts."""
        names = (f.name for f in dataclasses.fields(self) if f.name.startswith("num_"))
        return {"num_applied": self.num_applied} | {name: getattr(self, name) for name in names}


def some(number: int, word: str) -> str:
    """`1 image`, `1,200 images`."""
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def _was(number: int) -> str:
    return "was" if number == 1 else "were"
