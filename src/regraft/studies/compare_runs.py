"""Two runs on the images that both were judged on: what changed, and how sure that is.

Every difference is B minus A, on the same images, with an interval from the same resamples
(`evaluate.intervals.paired_difference`). What makes the two hard to compare is said first: other data, other decisions,
other test images, other labels.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError
from regraft.evaluate.groups import Groups
from regraft.evaluate.intervals import affordable_resamples, paired_difference
from regraft.evaluate.resampled import difference_interval
from regraft.evaluate.sums import Rows, Sums
from regraft.store.run_files import read_config
from regraft.store.run_index import RunFacts
from regraft.studies.run_predictions import HeldOut, read_held_out
from regraft.types import JSON, Interval

MIN_SHARED = 10
"""Fewer images in common than this tell nothing of two runs."""

_WHERE = ("runs_dir", "project", "name", "exist_ok", "cache_dir")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassChange:
    """One class on the shared images.

    Attributes:
        name: of the class.
        support: images of it.
        before, after: F1 of A and of B.
        change: of F1, B minus A.
    """

    name: str
    support: int
    before: float
    after: float
    change: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """An image for which the runs gave different answers.

    Attributes:
        image: its path.
        given: its label.
        before, after: the answers of A and of B.
        sure_before, sure_after: their probabilities.
        kind: "fixed" (wrong, then right), "broken" (right, then wrong) or "otherwise" (wrong in another way).
    """

    image: str
    given: str
    before: str
    after: str
    sure_before: float
    sure_after: float
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChange:
    """An option that differs: values as text, and why each run had it."""

    name: str
    before: str
    after: str
    why_before: str = ""
    why_after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs beside each other.

    Attributes:
        a, b: facts of the two.
        refusal: why their measures cannot be compared, or "".
        cautions: what a reader must know before believing a difference.
        num_shared, num_a, num_b: images that both were judged on, and each.
        differences: measure to B minus A.
        before, after: measure to the value of A and of B on the shared images.
        classes: the classes, most changed first.
        flips: images with another answer; first the fixed, then the broken, the surest first.
        config: options that differ.
    """

    a: RunFacts
    b: RunFacts
    refusal: str
    cautions: tuple[str, ...]
    num_shared: int
    num_a: int
    num_b: int
    differences: dict[str, Interval]
    before: dict[str, float]
    after: dict[str, float]
    classes: tuple[ClassChange, ...]
    flips: tuple[Flip, ...]
    config: tuple[ConfigChange, ...]

    def count(self, kind: str) -> int:
        """Flips of a kind."""
        return sum(flip.kind == kind for flip in self.flips)

    def as_dict(self) -> JSON:
        """For `--json`."""
        import dataclasses

        plain = dataclasses.asdict(self)
        return plain | {"a": self.a.key, "b": self.b.key}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shared:
    """The rows that two runs share: same images, same labels, same order of classes."""

    images: NDArray[np.object_]
    labels: NDArray[np.int64]
    group_ids: NDArray[np.int64]
    predicted: tuple[NDArray[np.int64], NDArray[np.int64]]
    pred_probs: tuple[NDArray[np.float64], NDArray[np.float64]]
    class_names: tuple[str, ...]
    num_relabelled: int
    has_groups: bool

    def __len__(self) -> int:
        return len(self.images)


def compare_runs(
    a: RunFacts, b: RunFacts, folder_a: Path, folder_b: Path, *, level: float = 0.95, seed: int = 0
) -> Comparison:
    """Everything that changed from run A to run B.

    Never raises for what lies in the folders: a comparison that makes no sense has a `refusal`, and still the options
    that differ.
    """
    config = config_changes(read_config(folder_a) or {}, read_config(folder_b) or {})
    cautions = _told_apart(a, b)
    refusal, shared, sizes = "", None, (0, 0)
    for facts in (a, b):
        if facts.state != "finished":
            refusal = refusal or f"{facts.key} is {facts.state}: it has no result to compare."
    if not refusal:
        try:
            one, other = read_held_out(folder_a, a.split), read_held_out(folder_b, b.split)
            sizes = len(one), len(other)
            shared = share(one, other)
        except DataError as error:
            refusal = str(error)
    if shared is None:
        return Comparison(
            a=a, b=b, refusal=refusal, cautions=tuple(cautions), num_shared=0, num_a=sizes[0], num_b=sizes[1],
            differences={}, before={}, after={}, classes=(), flips=(), config=config,
        )  # fmt: skip
    if min(len(shared), *sizes) < max(sizes):
        cautions.append(
            f"The test images differ: {a.key} was judged on {sizes[0]:,}, {b.key} on {sizes[1]:,}; compared are the "
            f"{len(shared):,} that both were judged on, so the values differ from those of the leaderboard."
        )
    if shared.num_relabelled:
        cautions.append(
            f"{shared.num_relabelled:,} of the images in common have another label in {b.key} than in {a.key}; they "
            "are left out here."
        )
    if not shared.has_groups:
        cautions.append(
            "The runs do not say which images belong together, so each counts as independent: with several pictures of "
            "one thing the intervals are too narrow."
        )
    differences = paired_difference(
        shared.labels, shared.pred_probs[1], shared.pred_probs[0], group_ids=shared.group_ids,
        predicted_a=shared.predicted[1], predicted_b=shared.predicted[0], level=level, seed=seed,
    )  # fmt: skip
    ones = np.ones(len(shared))
    before, after = (
        {name: float(value) for name, value in Sums.over(rows, ones).overall().items()} for rows in _rows(shared)
    )
    return Comparison(
        a=a, b=b, refusal="", cautions=tuple(cautions), num_shared=len(shared), num_a=sizes[0], num_b=sizes[1],
        differences=differences, before=before, after=after, classes=class_changes(shared, level=level, seed=seed),
        flips=flips(shared), config=config,
    )  # fmt: skip


def share(one: HeldOut, other: HeldOut) -> Shared:
    """The rows that two runs have in common.

    Raises:
        DataError: their classes differ, or they share fewer than ten images.
    """
    if set(one.class_names) != set(other.class_names):
        odd = sorted(set(one.class_names) ^ set(other.class_names))
        raise DataError(
            f"runs are compared on the same classes: {', '.join(map(repr, odd[:5]))} "
            f"{'is' if len(odd) == 1 else 'are'} not in both"
        )
    images, rows_a, rows_b = np.intersect1d(one.images, other.images, assume_unique=True, return_indices=True)
    order = np.array([other.class_names.index(name) for name in one.class_names], np.int64)  # of `one`, in `other`
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    labels = one.labels[rows_a]
    same = labels == back[other.labels[rows_b]]
    if same.sum() < MIN_SHARED:
        raise DataError(
            f"runs are compared on at least {MIN_SHARED} images that both were judged on: these share {int(same.sum())}"
        )
    rows_a, rows_b = rows_a[same], rows_b[same]
    groups = one.groups if one.groups is not None else other.groups
    rows = rows_a if one.groups is not None else rows_b
    return Shared(
        images=images[same],
        labels=labels[same],
        group_ids=np.arange(len(rows_a)) if groups is None else groups[rows],
        predicted=(one.predicted[rows_a], back[other.predicted[rows_b]]),
        pred_probs=(one.pred_probs[rows_a], other.pred_probs[rows_b][:, order]),
        class_names=one.class_names,
        num_relabelled=int((~same).sum()),
        has_groups=groups is not None,
    )


def class_changes(shared: Shared, *, level: float = 0.95, seed: int = 0) -> tuple[ClassChange, ...]:
    """F1 of each class in both runs, and the paired difference; the largest changes first."""
    rows_a, rows_b = _rows(shared)
    groups = Groups.of(shared.group_ids, len(shared))
    number, ones = affordable_resamples(len(shared), 500), np.ones(len(shared))
    before, after = (Sums.over(rows, ones).per_class()["f1"] for rows in (rows_a, rows_b))
    draws = np.empty((number, len(shared.class_names)))
    for i, counts in enumerate(groups.resample(number, seed)):
        weights = counts[groups.index]
        draws[i] = Sums.over(rows_b, weights).per_class()["f1"] - Sums.over(rows_a, weights).per_class()["f1"]
    support = np.bincount(shared.labels, minlength=len(shared.class_names))
    found = []
    for k, name in enumerate(shared.class_names):
        seen = draws[np.isfinite(draws[:, k]), k]
        if not (np.isfinite(before[k]) and np.isfinite(after[k]) and len(seen)):
            continue
        num_groups = len(np.unique(groups.index[(shared.labels == k)]))
        change = difference_interval(float(after[k] - before[k]), seen, max(1, num_groups), level)
        found.append(
            ClassChange(
                name=name, support=int(support[k]), before=float(before[k]), after=float(after[k]), change=change
            )
        )
    return tuple(sorted(found, key=lambda row: (-abs(row.change.estimate), row.name)))


def flips(shared: Shared) -> tuple[Flip, ...]:
    """Images with another answer: fixed, broken, then wrong in another way; the surest of the new answers first."""
    one, other = shared.predicted
    found = []
    for i in np.flatnonzero(one != other):
        kind = "fixed" if other[i] == shared.labels[i] else "broken" if one[i] == shared.labels[i] else "otherwise"
        names = (shared.class_names[k] for k in (shared.labels[i], one[i], other[i]))
        given, before, after = names
        found.append(
            Flip(
                image=str(shared.images[i]), given=given, before=before, after=after, kind=kind,
                sure_before=float(shared.pred_probs[0][i, one[i]]), sure_after=float(shared.pred_probs[1][i, other[i]]),
            )
        )  # fmt: skip
    order = {"fixed": 0, "broken": 1, "otherwise": 2}
    return tuple(sorted(found, key=lambda flip: (order[flip.kind], -flip.sure_after, flip.image)))


def config_changes(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[ConfigChange, ...]:
    """Options with other values, and other reasons for them; where runs are kept is no option."""

    def table(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        value = config.get(name)
        return value if isinstance(value, Mapping) else {}

    found = [
        ConfigChange(name=name, before=_shown(one.get(name)), after=_shown(other.get(name)))
        for name in ("data", "data_version", "decisions") if _shown(one.get(name)) != _shown(other.get(name))
    ]  # fmt: skip
    options = table(one, "options"), table(other, "options")
    reasons = table(one, "reasons"), table(other, "reasons")
    for name in dict.fromkeys([*options[0], *options[1]]):
        before, after = (_shown(table_.get(name)) if name in table_ else "not there" for table_ in options)
        if before != after and name not in _WHERE:
            why = [_shown(table_.get(name, "")) for table_ in reasons]
            found.append(
                ConfigChange(name=_shown(name), before=before, after=after, why_before=why[0], why_after=why[1])
            )
    return tuple(found)


def _told_apart(a: RunFacts, b: RunFacts) -> list[str]:
    """What differs between the two besides the model."""
    words = []
    if a.project != b.project:
        words.append(f"They belong to different projects: {a.project} and {b.project}.")
    if not (a.data_version and b.data_version):
        words.append("One of the two does not say which version of the data it was made of.")
    elif a.data_version != b.data_version:
        words.append(
            f"The data differ: {a.key} was made of version {a.data_version}, {b.key} of {b.data_version}. A difference "
            "may come from the images and labels as well as from the model."
        )
    if a.decisions != b.decisions:
        words.append(
            f"The review decisions differ: {a.decisions or 'none'} were applied for {a.key}, "
            f"{b.decisions or 'none'} for {b.key}."
        )
    if a.split and b.split and a.split != b.split:
        how = {"test": "on test images", "cv": "by cross-validation"}
        words.append(
            f"They were judged differently: {a.key} {how.get(a.split, a.split)}, {b.key} {how.get(b.split, b.split)}."
        )
    return words


def _rows(shared: Shared) -> Sequence[Rows]:
    return [
        Rows.of(shared.labels, probs, predicted)
        for probs, predicted in zip(shared.pred_probs, shared.predicted, strict=True)
    ]


_short = reprlib.Repr()
_short.maxstring, _short.maxother, _short.maxlist, _short.maxdict, _short.maxlevel = 200, 200, 12, 12, 3


def _shown(value: Any) -> str:
    """Any value of a config as one short line."""
    if value is None:
        return "none"
    shown = value[:300] if isinstance(value, str) else _short.repr(value)
    return "".join(ch if ch.isprintable() else "\ufffd" for ch in shown)
