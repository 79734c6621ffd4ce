"""Stratified, grouped dealing of images to folds, by content and seed alone.

Groups of more than one image are placed one by one, largest first, where their classes are needed most (the greedy
rule of scikit-learn's StratifiedGroupKFold); single images, nearly always the bulk, are then dealt class by class in
one vectorised step. scikit-learn's own visits every group in Python for every fold and cannot be independent of the
order of rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def assign_folds(
    labels: NDArray[np.int64],
    group_ids: NDArray[np.int64],
    hashes: NDArray[np.uint8],
    *,
    num_folds: int = 5,
    num_repeats: int = 1,
    seed: int = 0,
) -> NDArray[np.int8]:
    """Folds for repeated grouped cross-validation.

    Each class is spread as evenly as its groups allow; a class with fewer groups than folds is in some folds only. A
    class of two groups or more is never all in one fold where that can be avoided, so that every training part knows
    it (it cannot be avoided where groups mix classes so that their needs contradict each other).

    Args:
        labels: int64 (n,).
        group_ids: int64 (n,); images of one group share a number and get the same fold.
        hashes: uint8 (n, 32), content hashes: ties and order are decided by them, never by the order of rows.
        num_folds: 2 to 127.
        num_repeats: how many independent assignments.
        seed: another seed deals differently.

    Returns:
        int8 (num_repeats, n), 0..num_folds-1.

    Raises:
        ValueError: columns differ in length, or `num_folds` is out of range.
    """
    if not 2 <= num_folds <= 127:
        raise ValueError(f"folds must be 2 to 127: {num_folds=}")
    shares = np.full(num_folds, 1 / num_folds)
    return np.stack([deal(labels, group_ids, hashes, shares, seed=seed, repeat=r) for r in range(num_repeats)])


def one_group_classes(labels: NDArray[np.int64], group_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64: the classes whose images all belong to one group, which cross-validation cannot measure."""
    pairs = np.unique(np.stack([labels, group_ids], axis=1), axis=0)
    classes, num_groups = np.unique(pairs[:, 0], return_counts=True)
    return np.asarray(classes[num_groups == 1], np.int64)


def deal(
    labels: NDArray[np.int64],
    group_ids: NDArray[np.int64],
    hashes: NDArray[np.uint8],
    shares: NDArray[np.float64],
    *,
    seed: int,
    repeat: int = 0,
) -> NDArray[np.int8]:
    """Deal images to bins of the given shares (which sum to 1): int8 (n,)."""
    n = len(labels)
    if not (len(group_ids) == len(hashes) == n):
        raise ValueError(f"one group and one hash for each label: {n=}, {len(group_ids)=}, {len(hashes)=}")
    if n == 0:
        return np.empty(0, np.int8)
    _, classes = np.unique(labels, return_inverse=True)
    _, groups, sizes = np.unique(group_ids, return_inverse=True, return_counts=True)
    keys = mixed(hashes, seed=seed, repeat=repeat)
    state = _Bins(np.bincount(classes), shares)
    bins = np.zeros(n, np.int8)

    by_group = np.lexsort((keys, groups))  # the first row of each group carries its key
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    group_keys = keys[by_group[starts]]
    together = np.flatnonzero(sizes > 1)
    for group in together[np.lexsort((group_keys[together], -sizes[together]))]:
        rows = by_group[starts[group] : starts[group] + sizes[group]]
        bins[rows] = state.place(*np.unique(classes[rows], return_counts=True))

    alone = by_group[starts[sizes == 1]]
    alone = alone[np.lexsort((keys[alone], classes[alone]))]
    counts = np.bincount(classes[alone], minlength=len(state.totals))
    ends = np.cumsum(counts)
    # rare classes first: the frequent ones can even out what they leave
    for label in np.lexsort((_class_keys(keys, classes), counts)):
        if counts[label]:
            rows = alone[ends[label] - counts[label] : ends[label]]
            bins[rows] = np.repeat(np.arange(len(shares), dtype=np.int8), state.pour(int(label), int(counts[label])))
    _separate(bins, classes, groups, shares)
    return bins


def mixed(hashes: NDArray[np.uint8], *, seed: int, repeat: int = 0) -> NDArray[np.uint64]:
    """uint64 (n,): the first 8 bytes of each hash, scrambled by seed and repeat (splitmix64, Steele et al. 2014)."""
    words = np.ascontiguousarray(hashes[:, :8]).view("<u8").reshape(-1).astype(np.uint64)
    salt = (seed * 0x9E3779B97F4A7C15 + repeat * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) % 2**64
    with np.errstate(over="ignore"):
        words = (words ^ np.uint64(salt)) + np.uint64(0x9E3779B97F4A7C15)
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ (words >> np.uint64(31)), np.uint64)


class _Bins:
    """How many images of each class lie in each bin, and how many there should be."""

    def __init__(self, totals: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
        self.totals = totals
        self.shares = shares
        self.counts = np.zeros((len(totals), len(shares)), np.int64)
        self.loads = np.zeros(len(shares), np.int64)

    def place(self, classes: NDArray[np.int64], counts: NDArray[np.int64]) -> int:
        """Put a group with `counts` images of `classes` where it brings the shares nearest to the wanted ones."""
        missing = self.shares * self.totals[classes, None] - self.counts[classes]  # (c, B)
        # growth of the squared distance to the target, classes weighing alike
        cost = ((counts[:, None] ** 2 - 2 * counts[:, None] * missing) / self.totals[classes, None] ** 2).sum(axis=0)
        alone = (self.counts[classes] + counts[:, None] == self.totals[classes, None]).any(axis=0)
        alone &= (counts < self.totals[classes]).any()  # would gather all of a class in one bin
        best = int(np.lexsort((self.loads / self.shares, np.round(cost, 12), alone))[0])
        self.counts[classes, best] += counts
        self.loads[best] += counts.sum()
        return best

    def pour(self, label: int, amount: int) -> NDArray[np.int64]:
        """Spread single images of one class over the bins: int64 (B,), summing to `amount`."""
        wanted = np.maximum(self.shares * self.totals[label] - self.counts[label], 0)
        exact = amount * wanted / wanted.sum() if wanted.sum() > 0 else amount * self.shares
        poured = np.floor(exact + 1e-9).astype(np.int64)
        rest = amount - int(poured.sum())
        order = np.lexsort((self.loads / self.shares, -np.round(exact - poured, 9)))
        poured[order[:rest]] += 1
        self.counts[label] += poured
        self.loads += poured
        return poured


def _separate(
    bins: NDArray[np.int8], classes: NDArray[np.int64], groups: NDArray[np.int64], shares: NDArray[np.float64]
) -> None:
    """Mend, in place, classes of several groups that lie in one bin: move their smallest group elsewhere."""
    num_classes, num_bins = int(classes.max()) + 1, len(shares)
    for _ in range(3):
        counts = np.bincount(classes * num_bins + bins, minlength=num_classes * num_bins).reshape(-1, num_bins)
        gathered = np.flatnonzero((counts > 0).sum(axis=1) == 1)
        moved = False
        for label in gathered:
            rows = np.flatnonzero(classes == label)
            own, sizes = np.unique(groups[rows], return_counts=True)
            if len(own) < 2:
                continue
            members = [np.flatnonzero(groups == group) for group in own[np.argsort(sizes, kind="stable")]]
            group_rows = min(members, key=len)
            here = int(bins[group_rows[0]])
            loads = np.bincount(bins, minlength=num_bins) / shares
            loads[here] = np.inf
            bins[group_rows] = int(np.argmin(loads))
            moved = True
        if not moved:
            return


def _class_keys(keys: NDArray[np.uint64], classes: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The smallest key of each class: an order of classes that hangs on content alone."""
    smallest = np.full(int(classes.max()) + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, classes, keys)
    return smallest
