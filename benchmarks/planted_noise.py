"""Known errors in known labels: parts of a data set by size and imbalance, two kinds of noise. For the scripts beside.

A cell is (data set, images of the largest class, imbalance ratio, kind of noise, share of wrong labels, seed).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["symmetric", "confusion"]
RATES = (0.02, 0.05, 0.1, 0.2, 0.4)
KINDS: tuple[Kind, ...] = ("symmetric", "confusion")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One experiment.

    Attributes:
        data: name of the data set.
        per_class: images of the largest class; 0 takes the data as they are.
        ratio: largest to smallest class, in an exponential profile; class 0 is the largest at seed 0, and the order
            is drawn by seed.
        kind: symmetric (any other class alike) or confusion (the classes that a clean model confuses it with).
        rate: share of labels that are made wrong; 0 plants nothing.
        seed: of the part, the noise and the folds.
    """

    data: str
    per_class: int
    ratio: int
    kind: Kind
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """A stable word for files."""
        return f"{self.data}-{self.per_class}-{self.ratio}-{self.kind}-{self.rate:g}-{self.seed}"

    @property
    def row(self) -> tuple[str, str, float]:
        """What is averaged over seeds: data with sizes, kind of noise, rate."""
        size = (
            "as it is" if not self.per_class else f"{self.per_class} a class" + f", 1:{self.ratio}" * (self.ratio > 1)
        )
        return f"{self.data}, {size}", self.kind, self.rate


def all_cells(num_seeds: int = 3) -> Iterator[Cell]:
    """Smallest and cheapest first, seed by seed, so that a run that is cut short has measured every kind of cell."""
    profiles = [("fashion", size, ratio) for size in (20, 100, 1000) for ratio in (1, 10)]
    profiles.insert(4, ("openclipart", 0, 1))
    for seed in range(num_seeds):
        for data, size, ratio in profiles:
            for kind in KINDS:
                for rate in RATES:
                    yield Cell(data=data, per_class=size, ratio=ratio, kind=kind, rate=rate, seed=seed)
            yield Cell(data=data, per_class=size, ratio=ratio, kind="symmetric", rate=0.0, seed=seed)


def choose_rows(cell: Cell, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 (n,), sorted: the part of the data set that the cell uses."""
    if not cell.per_class:
        return np.arange(len(labels))
    rng = np.random.default_rng([cell.seed, cell.per_class, cell.ratio])
    num_classes = int(labels.max()) + 1
    share = cell.ratio ** (-np.arange(num_classes) / (num_classes - 1))
    sizes = np.maximum(np.round(cell.per_class * share).astype(int), 2)
    parts = [rng.permutation(np.flatnonzero(labels == k))[:n] for k, n in zip(rng.permutation(num_classes), sizes)]  # noqa: B905
    return np.sort(np.concatenate(parts))


def plant(cell: Cell, labels: NDArray[np.int64], confusion: NDArray[np.float64]) -> NDArray[np.int64]:
    """Labels with exactly round(rate x N) wrong ones.

    Args:
        cell: kind, rate and seed.
        labels: int64 (N,), the right ones.
        confusion: float64 (K, K), for each class the mean probabilities that a clean model gives its images, out of
            fold; used by the kind `confusion`, without its diagonal.
    """
    rng = np.random.default_rng([cell.seed, int(1000 * cell.rate), len(cell.kind), cell.per_class, cell.ratio])
    weight = np.ones_like(confusion) if cell.kind == "symmetric" else confusion.copy()
    np.fill_diagonal(weight, 0)
    weight /= weight.sum(axis=1, keepdims=True)
    planted = labels.copy()
    for row in rng.permutation(len(labels))[: round(cell.rate * len(labels))].tolist():
        planted[row] = rng.choice(len(weight), p=weight[labels[row]])
    return planted
