"""Which items make up each training batch: a pure function of (seed, epoch), so that a resume is exact.

    uniform                every item once, shuffled
    balanced               every class equally often
    sqrt                   a class of n items as often as √n asks
    progressive            from uniform in the first epoch to balanced in the last

After Kang et al. 2020 (eq. 1 and 2), with one difference: a class's share of an epoch is kept to within one draw, and
its items are drawn in shuffled rounds, each as often as the others to within one, where the paper draws with
replacement. The expectation is the same, the variance is smaller, and no item waits for its luck.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regraft.errors import DataError, UsageError, nearest

Sampling = Literal["uniform", "balanced", "sqrt", "progressive"]
"""How often each class is drawn."""


def class_shares(class_counts: ArrayLike, sampling: Sampling, *, progress: float = 0.0) -> NDArray[np.float64]:
    """Share of an epoch's draws that each class gets (Kang et al. 2020).

    Args:
        class_counts: (K,) items per class; a class without items gets none.
        sampling: its shares go as n^1 (`uniform`), n^0 (`balanced`), n^½ (`sqrt`), or from n^1 to n^0 (`progressive`).
        progress: of `progressive`: 0 in the first epoch, 1 in the last.

    Returns:
        float64 (K,), sums to 1.

    Raises:
        UsageError: an unknown word.
    """
    counts = np.asarray(class_counts, np.float64)
    if sampling not in get_args(Sampling):
        known = get_args(Sampling)
        raise UsageError(f"sampling is one of {', '.join(known)}, not {sampling!r}{nearest(str(sampling), known)}")
    natural, equal = counts / counts.sum(), (counts > 0) / np.count_nonzero(counts)
    if sampling == "uniform":
        return np.asarray(natural)
    if sampling == "balanced":
        return np.asarray(equal)
    if sampling == "sqrt":
        return np.asarray(np.sqrt(counts) / np.sqrt(counts).sum())
    return np.asarray((1 - progress) * natural + progress * equal)


def epoch_order(
    labels: NDArray[np.int64],
    *,
    seed: int,
    epoch: int,
    sampling: Sampling = "uniform",
    num_epochs: int | None = None,
    sample_weight: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    """The items of one epoch in the order in which they are trained on.

    Args:
        labels: int64 (N,), 0..K-1.
        seed: >= 0.
        epoch: from 0.
        sampling: how often each class is drawn.
        num_epochs: planned epochs; only `progressive` needs it.
        sample_weight: (N,); items of weight 0 are left out. Other weights do not change how often an item is drawn
            (the loss obeys them; counted twice they would be squared).

    Returns:
        int64 (M,), M the number of items of positive weight. With `uniform` each of them once.

    Raises:
        UsageError: lengths that do not fit, an unknown word, `progressive` without `num_epochs`.
        DataError: no item is left.
    """
    kept = _kept(labels, sample_weight)
    progress = 0.0
    if sampling == "progressive":
        if num_epochs is None:
            raise UsageError("progressive sampling goes from the first epoch to the last: say num_epochs")
        progress = min(epoch / max(num_epochs - 1, 1), 1.0)
    rng = np.random.default_rng([seed, epoch])
    if sampling == "uniform":
        return rng.permutation(kept)
    classes, where, counts = np.unique(labels[kept], return_inverse=True, return_counts=True)
    draws = _rounded(class_shares(counts, sampling, progress=progress) * len(kept), rng)
    parts = [_rounds(kept[where == k], int(draws[k]), rng) for k in range(len(classes))]
    return rng.permutation(np.concatenate(parts))


class EpochBatches:
    """Batches of item numbers, for `DataLoader(dataset, batch_sampler=…)`; already divided over processes.

    An epoch of M items has ⌈M / batch_size⌉ batches whose sizes differ by at most one, so that no last batch is
    tiny (33 items by 32 make 17 + 16; a batch of one breaks batch norm). Of each batch, process r of w takes items
    r, r + w, r + 2w, …: disjoint shares that together are the one batch a single process would take. Do not let
    Accelerate or a `DistributedSampler` divide it again.

    Args:
        labels: int64 (N,), 0..K-1.
        batch_size: at most so many items in a batch, over all processes together.
        seed: as `epoch_order`.
        sampling: as `epoch_order`.
        num_epochs: as `epoch_order`.
        sample_weight: as `epoch_order`.
        rank: number of this process.
        world_size: number of processes.

    Raises:
        UsageError: as `epoch_order`, or a batch size smaller than the number of processes.
        DataError: fewer items than processes, or none.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int = 0,
        sampling: Sampling = "uniform",
        num_epochs: int | None = None,
        sample_weight: NDArray[np.float64] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise UsageError(f"rank is in 0..world_size-1: {rank=}, {world_size=}")
        if batch_size < 1 or batch_size // world_size < 1:
            raise UsageError(f"batch_size, over all processes, has an item for each: {batch_size=}, {world_size=}")
        self.labels, self.batch_size, self.seed = np.asarray(labels), batch_size, seed
        self.sampling, self.num_epochs, self.sample_weight = sampling, num_epochs, sample_weight
        self.rank, self.world_size = rank, world_size
        self.epoch, self.start = 0, 0
        self.num_items = len(_kept(self.labels, sample_weight))
        self.num_batches = -(-self.num_items // batch_size)
        """Batches in a whole epoch; `len()` is what is left of this one."""
        class_shares([1], sampling)
        if sampling == "progressive" and num_epochs is None:
            raise UsageError("progressive sampling goes from the first epoch to the last: say num_epochs")
        if self.num_items // self.num_batches < world_size:
            raise DataError(
                f"each process needs an item in each batch: {self.num_items} items make {self.num_batches} batches "
                f"for {world_size} processes; use fewer processes"
            )

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, and how many of its batches are already done (a resume in its middle)."""
        if not 0 <= start <= self.num_batches:
            raise UsageError(f"start is in 0..{self.num_batches}, the batches of an epoch: {start=}")
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.num_batches - self.start

    def __iter__(self) -> Iterator[list[int]]:
        order = epoch_order(
            self.labels, seed=self.seed, epoch=self.epoch, sampling=self.sampling, num_epochs=self.num_epochs,
            sample_weight=self.sample_weight,
        )  # fmt: skip
        for batch in np.array_split(order, self.num_batches)[self.start :]:
            yield batch[self.rank :: self.world_size].tolist()


def _kept(labels: NDArray[np.int64], sample_weight: NDArray[np.float64] | None) -> NDArray[np.int64]:
    if sample_weight is None:
        kept = np.arange(len(labels))
    else:
        weight = np.asarray(sample_weight)
        if weight.shape != (len(labels),) or not np.isfinite(weight).all() or (weight < 0).any():
            raise UsageError(f"sample_weight is (N,), finite and >= 0: {weight.shape=}, N={len(labels)}")
        kept = np.flatnonzero(weight > 0)
    if not len(kept):
        raise DataError(f"training needs items of positive weight: 0 of {len(labels)} are left")
    return kept.astype(np.int64)


def _rounded(shares: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Whole numbers with the same sum and expectation, each within one of its share (systematic sampling)."""
    ends = np.cumsum(shares)
    ends[-1] = round(ends[-1])
    ends = np.minimum(ends, ends[-1])
    return np.asarray(np.diff(np.floor(ends + rng.random()), prepend=0.0).astype(np.int64))


def _rounds(items: NDArray[np.int64], num: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`num` draws: all items, shuffled, again and again."""
    rounds = -(-num // len(items))
    return np.concatenate([rng.permutation(items) for _ in range(rounds)] or [items[:0]])[:num]
