"""The values that pass between the stages: plain frozen dataclasses over NumPy arrays.

    Finding      one thing the scan has to say about one image (left out, or kept with a remark)
    Manifest     the usable images: paths, labels, content hashes, given splits and groups
    Split        which image is for development and which is locked away for the test
    Features     what a backbone made of each image
    Interval     an estimate with its confidence interval
    Predictions  class probabilities of images, with what is known about them
    IssueColumn  what one check of the audit says of each image
    Issues       what the whole audit says of each image
    Decision     what a reviewer did with one image, as one event of an append-only history
    Verdict      what the history says of one image, all reviewers together

Nothing here reads files or imports anything heavier than NumPy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNLABELLED = -1
"""The label of an image whose class is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its confidence interval.

    Attributes:
        estimate: the point estimate.
        low: lower end.
        high: upper end.
        level: coverage that is aimed at (0.95 unless said).
    """

    estimate: float
    low: float
    high: float
    level: float = 0.95

    def as_dict(self) -> dict[str, float]:
        """`{"estimate", "low", "high", "level"}`, as in `result.json`."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.estimate:.3f} ({self.low:.3f}–{self.high:.3f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing the scan has to say about one image.

    Attributes:
        image: path as the user would write it (relative to the data folder, or as in the manifest).
        label: the class that was given, or None.
        kind: a short stable word, such as `truncated`, `zero_byte`, `exact_duplicate`, `animated`.
        reason: one sentence for people.
        excluded: True where the image is left out of the fit, False where it stays and this is a remark.
        duplicate_set: number of the set of identical images it belongs to, or None.
        same_as: for a duplicate, the image that stands for the set; for a `similar_label`, the better spelling.
    """

    image: str
    label: str | None
    kind: str
    reason: str
    excluded: bool
    duplicate_set: int | None = None
    same_as: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Manifest:
    """The images that can be used, in a stable order (by relative path).

    Attributes:
        root: folder the paths are relative to.
        images: (N,) paths relative to `root`, with `/`; absolute where an image lies elsewhere.
        labels: int64 (N,), 0..K-1, or -1 where the image has no label.
        class_names: K names, sorted.
        hashes: uint8 (N, 32), the BLAKE3 hash of each file's bytes; an image is known by it.
        given_splits: (N,) of "train", "val", "test" or "" where the data did not say.
        groups: (N,) group names, "" where none was given; a group never straddles two splits.
        sizes: int32 (N, 2), height and width in pixels after orientation.
        source: what was understood, in words: "class folders", "CSV manifest", …
    """

    root: Path
    images: NDArray[np.str_]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    hashes: NDArray[np.uint8]
    given_splits: NDArray[np.str_]
    groups: NDArray[np.str_]
    sizes: NDArray[np.int32]
    source: str

    def __post_init__(self) -> None:
        n = len(self.images)
        lengths = {
            "labels": len(self.labels), "hashes": len(self.hashes), "given_splits": len(self.given_splits),
            "groups": len(self.groups), "sizes": len(self.sizes),
        }  # fmt: skip
        if any(length != n for length in lengths.values()):
            raise ValueError(f"a manifest's columns have one entry per image: {n=} but {lengths}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def path(self, index: int) -> Path:
        """Where image number `index` lies on this machine."""
        return self.root / str(self.images[index])

    @property
    def names(self) -> list[str]:
        """N paths as they can be shown and written anywhere (see `printable`); `images` are for opening files."""
        return [printable(image) for image in self.images.tolist()]

    def class_counts(self) -> NDArray[np.int64]:
        """int64 (K,): images per class."""
        return np.bincount(self.labels[self.labels >= 0], minlength=self.num_classes).astype(np.int64)

    def select(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Manifest:
        """The same manifest with only some rows (indices or a mask); the classes stay."""
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            hashes=self.hashes[rows],
            given_splits=self.given_splits[rows],
            groups=self.groups[rows],
            sizes=self.sizes[rows],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Who is for development and who is locked away.

    Attributes:
        development: int64 (n,), row numbers of the manifest that may be fitted and cross-validated on.
        test: int64 (m,), row numbers touched once, at the end; empty where the estimate is by
            cross-validation.
        group_ids: int64 (N,), one number per row of the manifest: rows of one group (a given group, or exact
            duplicates) share it.
        reason: in words, why it was split this way.
        leaks: findings about given splits that share a group or an identical image.
    """

    development: NDArray[np.int64]
    test: NDArray[np.int64]
    group_ids: NDArray[np.int64]
    reason: str
    leaks: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Features:
    """What a backbone made of each image.

    Attributes:
        values: float16 (N, D), row for row with the manifest it was made from.
        fingerprint: names the backbone, its weights, the transform and the precision.
        num_forwarded: images that went through the backbone now; the others came from the cache.
        seconds: wall time of the extraction.
        failed: row numbers whose file could not be read any more (their values are zero and must not be used).
    """

    values: NDArray[np.float16]
    fingerprint: str
    num_forwarded: int
    seconds: float
    failed: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def num_features(self) -> int:
        return int(self.values.shape[1])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Predictions:
    """Class probabilities of images, with what is known about them.

    Attributes:
        images: (N,) paths.
        pred_probs: float64 (N, K), rows sum to 1.
        class_names: K names.
        labels: int64 (N,) given labels, or None where none are known.
        split: (N,) "train", "val", "test" or "", or None.
        out_of_fold: bool (N,), True where the probabilities come from a model that never saw the image, or None.
        group_ids: int64 (N,), images that belong together share a number, or None.
    """

    images: Sequence[str] | NDArray[np.str_]
    pred_probs: NDArray[np.float64]
    class_names: tuple[str, ...]
    labels: NDArray[np.int64] | None = None
    split: NDArray[np.str_] | None = None
    out_of_fold: NDArray[np.bool_] | None = None
    group_ids: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def predicted(self) -> NDArray[np.int64]:
        """int64 (N,): the most probable class."""
        return np.argmax(self.pred_probs, axis=1).astype(np.int64) if len(self) else np.empty(0, np.int64)

    @property
    def confidence(self) -> NDArray[np.float64]:
        """float64 (N,): the probability of the predicted class."""
        return self.pred_probs.max(axis=1) if len(self) else np.empty(0, np.float64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IssueColumn:
    """What one check of the audit says of each image.

    Attributes:
        is_issue: bool (N,), True where a person should look.
        score: float64 (N,) in [0, 1]: 1 is clean, 0 is worst (cleanlab's sense).
        reasons: N sentences for people, "" where there is nothing to say.
    """

    is_issue: NDArray[np.bool_]
    score: NDArray[np.float64]
    reasons: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Issues:
    """What the audit says of each image of a manifest.

    Attributes:
        columns: check to what it says: `label`, `near_duplicate`, `leakage`, `outlier`, `odd_image`.
        suggested_labels: int64 (N,), -1 where there is no better label.
        near_duplicate_sets: int64 (N,), the number of the image's cluster of near-duplicates, -1 where there is none.
    """

    columns: dict[str, IssueColumn]
    suggested_labels: NDArray[np.int64]
    near_duplicate_sets: NDArray[np.int64]


JSON = dict[str, Any]
"""A JSON object."""

ACTIONS = ("keep", "relabel", "exclude", "ambiguous", "skip", "distinct", "duplicate", "undo")
"""What a reviewer can do. `keep`: the given label is right; `relabel`: it is `label`; `exclude`: leave the image out;
`ambiguous`: the picture does not tell; `skip`: looked at, nothing decided. Of a pair (`item`, `other`): `distinct`: two
pictures; `duplicate`: `item` survives, `other` is left out. `undo`: takes back the event `supersedes`, or the whole
`batch`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a reviewer did with one image: one event of a history that is only ever appended to.

    Attributes:
        event_id: UUID in lower case with hyphens, made by the client: sending an event again changes nothing.
        time: POSIX seconds (UTC), set by the server that took it.
        project: name of the data, as of run folders.
        reviewer: who.
        session: the reviewer's session: one page load, or one script.
        item: BLAKE3 hash of the image's bytes, 64 hex digits.
        other: of a pair, the hash of the other image; else "".
        path: the image's path when it was reviewed.
        issue: why it was shown: label, near_duplicate, leakage, outlier, odd_image, control, conflict, or "".
        given: class it had then, or "".
        suggested: class that was suggested then, or "".
        action: one of `ACTIONS`.
        label: of `relabel` the new class; else "".
        scores: numbers it was shown with: check to score.
        duration: seconds of looking.
        supersedes: of `undo` the event taken back; else "".
        batch: events sent as one share this UUID; else "".
        note: the reviewer's words, "" for none.
    """

    event_id: str
    time: float
    project: str
    reviewer: str
    session: str
    item: str
    path: str
    action: str
    other: str = ""
    issue: str = ""
    given: str = ""
    suggested: str = ""
    label: str = ""
    scores: JSON = field(default_factory=dict)
    duration: float = 0.0
    supersedes: str = ""
    batch: str = ""
    note: str = ""

    def as_dict(self) -> JSON:
        """As in a line of the exported history."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the history says of one image (or pair), all reviewers together.

    Attributes:
        item: BLAKE3 hash, 64 hex digits.
        other: of a pair, the other's hash; else "".
        action: keep, relabel, exclude, ambiguous, distinct or duplicate.
        label: of `relabel` the new class; else "".
        given: class that the image had when it was judged.
        reviewers: who agrees on it, sorted.
        conflict: True where reviewers disagree: then nothing is applied, and `action` is the latest one's.
        events: the decisions that it rests on, oldest first, one a reviewer.
    """

    item: str
    action: str
    other: str = ""
    label: str = ""
    given: str = ""
    reviewers: tuple[str, ...] = ()
    conflict: bool = False
    events: tuple[Decision, ...] = ()


_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(name: str) -> str:
    """A file or class name as it can be shown and written anywhere.

    Bytes that are no UTF-8 (Python keeps them as lone surrogates) and control characters become `\\xNN` or
    `\\uNNNN`; everything else stays.
    """
    if not _UNPRINTABLE.search(name):
        return name
    return _UNPRINTABLE.sub(lambda found: _escaped(ord(found.group())), name)


def _escaped(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # os.fsdecode's mark of an odd byte
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
