"""What an arm learns from and is judged on: folds, and nested subsets of each fold's training part.

All arms meet the same cells: the same rows to learn from, the same to be judged on, the same seed. So what differs
between two arms on a cell is owed to the arms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.data.folds import assign_folds, mixed
from regraft.errors import DataError

Ints = NDArray[np.int64]

HALVINGS = (2, 1, 0)
"""Subsets of n/4, n/2 and n images."""

LEAST_RATIO = 1.3
"""Sizes that are closer than this say the same twice; with three images a class n/4 and n/2 can be one."""

MAX_FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Cell:
    """One occasion to measure an arm.

    Attributes:
        halvings: the subset holds about n / 2^halvings images.
        repeat: which assignment of folds.
        fold: which fold is held out.
        seed: of the training.
    """

    halvings: int
    repeat: int
    fold: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Plan:
    """Who learns from what.

    Attributes:
        labels: int64 (N,), 0..K-1, of the development images.
        num_classes: K.
        group_ids: int64 (N,).
        folds: int8 (R, N).
        ranks: float64 (R, N), the order in which rows enter the subsets of a repeat's training parts.
        halvings: the sizes that differ enough, small subsets first; always ends with 0.
        sizes: int64 (S,), mean number of training images at each.
        seed: of everything.
    """

    labels: Ints
    num_classes: int
    group_ids: Ints
    folds: NDArray[np.int8]
    ranks: NDArray[np.float64]
    halvings: tuple[int, ...]
    sizes: tuple[int, ...]
    seed: int

    @property
    def num_images(self) -> int:
        return len(self.labels)

    @property
    def num_folds(self) -> int:
        return int(self.folds.max()) + 1

    def size_of(self, halvings: int) -> int:
        """Mean number of training images with so many halvings."""
        return self.sizes[self.halvings.index(halvings)]

    def cells(self, halvings: int) -> Iterator[Cell]:
        """The occasions at one size, in the order in which every arm takes them. Each has its own seed, so that a mean
        over cells is a mean over folds, subsets and seeds at once."""
        for repeat in range(len(self.folds)):
            for fold in range(self.num_folds):
                number = repeat * self.num_folds + fold
                yield Cell(halvings=halvings, repeat=repeat, fold=fold, seed=self.seed * 1000 + number)

    def rows(self, cell: Cell) -> tuple[Ints, Ints]:
        """(rows to learn from, rows to be judged on) of a cell, both sorted."""
        held_out = self.folds[cell.repeat] == cell.fold
        train = prefix(self.labels, self.group_ids, self.ranks[cell.repeat], ~held_out, 0.5**cell.halvings)
        return train, np.flatnonzero(held_out)


def plan(
    labels: Ints, group_ids: Ints, hashes: NDArray[np.uint8], *, num_classes: int, num_repeats: int = 3, seed: int = 0
) -> Plan:
    """Folds and subsets by content and seed alone.

    Args:
        labels: int64 (N,), 0..K-1; a class may have no row.
        group_ids: int64 (N,); rows of one group learn together and are judged together.
        hashes: uint8 (N, 32), content hashes.
        num_classes: K.
        num_repeats: assignments of folds.
        seed: another seed draws otherwise.

    Raises:
        DataError: a race cannot be judged: fewer than two classes that have two groups each.
    """
    pairs = np.unique(np.stack([labels, group_ids], axis=1), axis=0) if len(labels) else np.empty((0, 2), np.int64)
    groups_of_class = np.bincount(pairs[:, 0].astype(np.int64), minlength=num_classes)
    judged = int((groups_of_class >= 2).sum())
    if judged < 2:
        raise DataError(
            f"a race needs two classes with two images each that do not belong together: {judged} found among "
            f"{len(labels):,} development images; label more, or lock fewer away (--test 0)"
        )
    num_groups = len(np.unique(group_ids))
    # As many folds as most classes have groups for: with 3 images a class, 3 folds leave 2 to learn from.
    typical = int(np.median(groups_of_class[groups_of_class >= 2]))
    num_folds = max(2, min(MAX_FOLDS, typical, num_groups))
    folds = assign_folds(labels, group_ids, hashes, num_folds=num_folds, num_repeats=num_repeats, seed=seed)
    ranks = np.stack([mixed(hashes, seed=seed, repeat=1000 + r) / 2.0**64 for r in range(num_repeats)])
    kept, sizes = [0], [0]
    for halvings in sorted(HALVINGS):
        counts = [
            len(prefix(labels, group_ids, ranks[r], folds[r] != f, 0.5**halvings))
            for r in range(num_repeats)
            for f in range(num_folds)
        ]
        size = round(float(np.mean(counts)))
        if halvings == 0:
            sizes = [size]
        elif sizes[0] >= LEAST_RATIO * size:
            kept.insert(0, halvings)
            sizes.insert(0, size)
    return Plan(
        labels=labels, num_classes=num_classes, group_ids=group_ids, folds=folds, ranks=ranks,
        halvings=tuple(kept), sizes=tuple(sizes), seed=seed,
    )  # fmt: skip


def prefix(labels: Ints, group_ids: Ints, ranks: NDArray[np.float64], pool: NDArray[np.bool_], share: float) -> Ints:
    """The first `share` of a pool: stratified, whole groups, every class of the pool in it; smaller ones are nested.

    Each class lines its groups up by chance; a group's turn is how far down its class's line it stands, and the first
    of every line always come. A group of several classes stands where its luckiest class puts it.

    Args:
        labels: int64 (N,).
        group_ids: int64 (N,).
        ranks: float64 (N,), in [0, 1): chance.
        pool: bool (N,).
        share: of the pool's rows, in (0, 1].

    Returns:
        int64, sorted row numbers.
    """
    rows = np.flatnonzero(pool)
    if share >= 1 or not len(rows):
        return rows
    _, groups = np.unique(group_ids[rows], return_inverse=True)
    chance = np.ones(int(groups.max()) + 1)
    np.minimum.at(chance, groups, ranks[rows])
    order = np.lexsort((groups, chance[groups], labels[rows]))
    sorted_labels, sorted_groups = labels[rows][order], groups[order]
    starts = np.flatnonzero(np.r_[True, sorted_labels[1:] != sorted_labels[:-1]])
    counts = np.diff(np.r_[starts, len(rows)])
    place = np.arange(len(rows)) - np.repeat(starts, counts)
    turn = (place + 0.5) / np.repeat(counts, counts)
    # all rows of the group at the head of a line come first: turn 0
    turn[sorted_groups == np.repeat(sorted_groups[starts], counts)] = 0.0
    of_group = np.ones(len(chance))
    np.minimum.at(of_group, sorted_groups, turn)
    by_turn = np.lexsort((np.arange(len(chance)), chance, of_group))
    sizes = np.bincount(groups, minlength=len(chance))[by_turn]
    before = np.cumsum(sizes) - sizes
    wanted = share * len(rows)
    taken = (of_group[by_turn] == 0) | (before + sizes / 2 <= wanted)
    chosen = np.zeros(len(chance), np.bool_)
    chosen[by_turn[taken]] = True
    return rows[chosen[groups]]
