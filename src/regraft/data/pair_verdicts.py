"""What people decided about pairs of images: which are one picture, which of it stays, and which are two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.types import Verdict

Key = tuple[str, str]
"""Hashes of an image and, where a pair was judged, of the other one; else "". A pair has one key, whoever survives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """The pairs that count. An image is known by the 64 hex digits of its hash.

    Attributes:
        distinct: pairs that are two pictures, the smaller hash first, sorted.
        same: pairs that are one picture, likewise.
        left_out: rows of development images that go, since another of the same picture stays.
        test_left_out: rows of test images of which the same holds among the test images.
        num_conflicts: pairs on which reviewers disagree.
        num_absent: pairs of which an image is not in these data.
    """

    distinct: tuple[Key, ...]
    same: tuple[Key, ...]
    left_out: frozenset[int]
    test_left_out: frozenset[int]
    num_conflicts: int
    num_absent: int


def weigh_pairs(
    verdicts: Mapping[Key, Verdict],
    rows: Mapping[str, int],
    in_development: NDArray[np.bool_],
    in_test: NDArray[np.bool_],
) -> Pairs:
    """Which pairs count, and which images go.

    Images that are one picture, directly or through others, make a set. Of a set with test images all development
    images go, since the test set stays as it is; else those go that were not chosen as survivor. Where choices run in a
    circle, the first by row stays.

    Args:
        verdicts: (item, other) to verdict; those on single images are passed over.
        rows: hash to row.
        in_development: bool (N,).
        in_test: bool (N,); an image in neither takes no part.
    """
    distinct, chosen, num_conflicts, num_absent = [], [], 0, 0
    for verdict in sorted((one for one in verdicts.values() if one.other), key=lambda one: (one.item, one.other)):
        pair = (min(verdict.item, verdict.other), max(verdict.item, verdict.other))
        first, second = (rows.get(key, -1) for key in pair)
        if min(first, second) < 0 or first == second:
            num_absent += 1
        elif verdict.conflict:
            num_conflicts += 1
        elif all(in_development[row] or in_test[row] for row in (first, second)):
            if verdict.action == "distinct":
                distinct.append(pair)
            elif verdict.action == "duplicate":
                chosen.append((pair, rows[verdict.item], rows[verdict.other]))
    left_out: set[int] = set()
    test_left_out: set[int] = set()
    losers = {loser for _, _, loser in chosen}
    for members in connected([(survivor, loser) for _, survivor, loser in chosen]):
        tested = [row for row in members if in_test[row]]
        pool = tested or members
        stay = {row for row in pool if row not in losers} or {min(pool)}
        goes = test_left_out if tested else left_out
        goes.update(row for row in pool if row not in stay)
        left_out.update(row for row in members if tested and not in_test[row])
    return Pairs(
        distinct=tuple(sorted(distinct)), same=tuple(sorted(pair for pair, _, _ in chosen)),
        left_out=frozenset(left_out),
        test_left_out=frozenset(test_left_out), num_conflicts=num_conflicts, num_absent=num_absent,
    )  # fmt: skip


def connected(links: list[tuple[int, int]]) -> list[list[int]]:
    """The sets of rows that links join, each sorted."""
    parent: dict[int, int] = {}

    def root(row: int) -> int:
        while parent.setdefault(row, row) != row:
            parent[row] = row = parent[parent[row]]
        return row

    for first, second in links:
        parent[root(first)] = root(second)
    sets: dict[int, list[int]] = {}
    for row in sorted(parent):
        sets.setdefault(root(row), []).append(row)
    return list(sets.values())
