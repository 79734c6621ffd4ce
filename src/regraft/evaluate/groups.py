"""Rows that belong together: drawn together, and counted by how much they can know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regraft.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Groups:
    """Which rows belong together.

    Attributes:
        index: int64 (n,), each row's group, 0..number-1.
        number: how many groups there are.
    """

    index: NDArray[np.int64]
    number: int

    @classmethod
    def of(cls, group_ids: ArrayLike, num_rows: int) -> Groups:
        ids = np.asarray(group_ids)
        if ids.shape != (num_rows,):
            raise DataError(f"one group id per row: got {ids.shape} for {num_rows} rows")
        names, index = np.unique(ids, return_inverse=True)
        return cls(index=index.astype(np.int64), number=len(names))

    def resample(self, number: int, seed: int) -> Iterator[NDArray[np.float64]]:
        """How often each group was drawn, float64 (groups,), `number` times."""
        rng = np.random.default_rng(seed)
        for _ in range(number):
            draws = rng.integers(self.number, size=self.number)
            yield np.bincount(draws, minlength=self.number).astype(np.float64)

    def evidence(self, codes: NDArray[np.int64], num_classes: int) -> list[dict[str, float]]:
        """For each code: rows, groups that hold any, Kish's effective number. Negative codes are left out."""
        kept = codes >= 0
        pairs, sizes = np.unique(codes[kept] * self.number + self.index[kept], return_counts=True)
        owner = pairs // self.number
        num_rows = np.bincount(owner, sizes, num_classes)
        squares = np.bincount(owner, sizes.astype(np.float64) ** 2, num_classes)
        num_groups = np.bincount(owner, minlength=num_classes)
        return [
            {"num_rows": int(r), "num_groups": int(g), "kish": float(r * r / s) if s else 0.0}
            for r, g, s in zip(num_rows, num_groups, squares, strict=True)
        ]
