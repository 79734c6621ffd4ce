"""The same picture, or the same group, on two sides of a given split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError
from regraft.types import IssueColumn


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Leaks:
    """What crosses.

    Attributes:
        column: per image, on both sides.
        pairs: int64 (P,), numbers of the near-duplicate pairs that cross.
        leaked: for each two splits ("test", "train"), in alphabetical order, how many images of the first have a
            twin or their group in the second.
    """

    column: IssueColumn
    pairs: NDArray[np.int64]
    leaked: dict[tuple[str, str], int]


def find_leaks(
    splits: NDArray[np.str_],
    pairs: NDArray[np.int64],
    similarity: NDArray[np.floating],
    *,
    groups: NDArray[np.str_] | None = None,
    sets: NDArray[np.int64] | None = None,
    images: Sequence[str] | None = None,
) -> Leaks:
    """Near-duplicates and groups across the given splits.

    Args:
        splits: (N,) "train", "val", "test", or "" for an image in none, which cannot leak.
        pairs: int64 (P, 2) of near-duplicates.
        similarity: (P,) in [0, 1].
        groups: (N,) given group names, "" where there is none.
        sets: int64 (N,) of near-duplicates, -1 for none: two images of a set that are no pair leak too.
        images: N names for the reasons; row numbers unless given.

    Returns:
        Leaks; an image's score is 1 minus the similarity of its most alike twin, 0 for a group, 0.5 for a set.

    Raises:
        DataError: columns that do not fit together.
    """
    num = len(splits)
    for name, column in (("groups", groups), ("sets", sets), ("images", images)):
        if column is not None and len(column) != num:
            raise DataError(f"one entry per image in every column: {num} splits, but {len(column)} {name}")
    if len(pairs) != len(similarity) or (len(pairs) and not 0 <= pairs.min() <= pairs.max() < num):
        raise DataError(
            f"pairs name two of the {num} images, each with a similarity: {len(pairs)=}, {len(similarity)=}"
        )
    score, reasons = np.ones(num), [""] * num
    reached: set[tuple[str, str, int]] = set()

    def say(image: int, other: int, value: float, words: str) -> None:
        there = str(splits[other])
        reached.add((str(splits[image]), there, image))
        if value < score[image] or not reasons[image]:
            name = f"image {other}" if images is None else repr(str(images[other]))
            score[image] = min(score[image], value)
            reasons[image] = f"{words} {name} in {there}, and this image is in {splits[image]}"

    first, second = splits[pairs[:, 0]], splits[pairs[:, 1]]
    crossing = np.flatnonzero((first != second) & (first != "") & (second != ""))
    for number in crossing[np.argsort(-np.asarray(similarity)[crossing], kind="stable")].tolist():
        a, b = pairs[number].tolist()
        alike = float(similarity[number])
        for image, other in ((a, b), (b, a)):
            say(image, other, 1 - alike, "identical to" if alike == 1 else "nearly the same as")
    if sets is not None:
        _across(splits, sets, (sets >= 0) & (splits != ""), 0.5, "in one set of near-duplicates with", say)
    if groups is not None:
        _across(splits, groups, (groups != "") & (splits != ""), 0.0, "in one group with", say)
    leaked: dict[tuple[str, str], int] = {}
    for here, there, _ in sorted(reached):
        leaked[here, there] = leaked.get((here, there), 0) + 1
    return Leaks(
        column=IssueColumn(is_issue=np.array([bool(r) for r in reasons], np.bool_), score=score, reasons=reasons),
        pairs=crossing,
        leaked=leaked,
    )


def _across(
    splits: NDArray[np.str_],
    names: NDArray[Any],
    usable: NDArray[np.bool_],
    value: float,
    words: str,
    say: Callable[[int, int, float, str], None],
) -> None:
    """Call `say` for every image whose name occurs in another split, with one image of each such split."""
    rows = np.flatnonzero(usable)
    if not len(rows):
        return
    _, place = np.unique(names[rows], return_inverse=True)
    _, side = np.unique(splits[rows], return_inverse=True)
    examples: dict[int, dict[int, int]] = {}
    for row, name, where in zip(rows.tolist(), place.tolist(), side.tolist(), strict=True):
        examples.setdefault(name, {}).setdefault(where, row)
    for row, name, where in zip(rows.tolist(), place.tolist(), side.tolist(), strict=True):
        for other_side, other in examples[name].items():
            if other_side != where:
                say(row, other, value, words)
