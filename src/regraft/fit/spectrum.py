"""Standardised features in the basis of their principal directions.

A head with an L2 penalty on standardised features is the same head in any orthonormal basis. In the basis of the
eigenvectors of the covariance the Hessian is nearly diagonal, and directions without variance can be dropped: with
fewer images than features a problem costs only the rank.

The mean and the standard deviation are those of all rows, held-out ones included. They use no labels; with
statistics of each fold's training part the held-out log loss moved by a hundredth of its standard error at 4,000
rows and by a thousandth at 10,000 (benchmarks/head.py), and one shared matrix makes the folds one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK_ROWS = 4096

SCALE_FLOOR = 0.5
"""A feature is divided by the root of its variance and of this share squared of the mean variance of all features.

Plain standardisation blows up features that hardly vary in the rows at hand and do elsewhere. On Fashion-MNIST
through lite0 at 96 px, new images' accuracy and log loss with 60 rows were .603 and 2.57 (plain) and .647 and 1.08
(0.5); with 600 .801, .578 and .807, .551; with 2,000 .832, .472 and .839, .454. Shares from 0.2 to 1 differ by less
than 0.3 points. Features of different units that are put side by side should be brought to one scale first.
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spectrum:
    """Standardised features, rotated.

    Attributes:
        mean: float64 (D,), of the raw features.
        scale: float64 (D,), what the raw features are divided by: their standard deviation, softened (SCALE_FLOOR).
        basis: (D, r), orthonormal columns, largest variance first.
        variance: float64 (r,), variance along each direction.
        rotated: (N, r + 1), the standardised features in that basis; the last column is 1, for the intercept.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    basis: NDArray[Any]
    variance: NDArray[np.float64]
    rotated: NDArray[Any]

    def to_raw(self, weights: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights (K, r + 1) in this basis as weight (K, D) and bias (K,) for raw features."""
        weight = (weights[:, :-1].astype(np.float64) @ self.basis.T) / self.scale
        return weight, weights[:, -1] - weight @ self.mean


def decompose(features: NDArray[Any], dtype: type[np.float32] | type[np.float64] = np.float32) -> Spectrum:
    """Standardise and rotate features (N, D).

    Args:
        features: float16, float32 or float64 (N, D), finite; left as they are.
        dtype: of the result. Memory: one (N, D) matrix of this type beside the features.
    """
    num, width = features.shape
    mean, scale = _moments(features)
    matrix = np.empty((num, width + 1), dtype)
    for rows in _blocks(num):
        matrix[rows, :width] = (features[rows] - mean) / scale
    matrix[:, width] = 1
    inner = matrix[:, :width]
    if num <= width:  # dual: the smaller of the two Gram matrices, in float64 because it is small
        exact = inner.astype(np.float64)
        values, left = np.linalg.eigh(exact @ exact.T / num)
        keep = _significant(values, 1e-11)
        values, left = values[keep][::-1], left[:, keep][:, ::-1]
        root = np.sqrt(values * num)
        basis = np.ascontiguousarray((exact.T @ (left / root)).astype(dtype))
        rotated = np.concatenate([left * root, np.ones((num, 1))], axis=1).astype(dtype)
        return Spectrum(mean=mean, scale=scale, basis=basis, variance=values, rotated=rotated)
    gram = np.zeros((width, width))
    for rows in _blocks(num):
        gram += inner[rows].T @ inner[rows]
    values, vectors = np.linalg.eigh(gram / num)
    keep = _significant(values, 1e-9 if dtype is np.float32 else 1e-13)
    values = values[keep][::-1]
    basis = np.ascontiguousarray(vectors[:, keep][:, ::-1].astype(dtype))
    rank = len(values)
    for rows in _blocks(num):
        matrix[rows, :rank] = matrix[rows, :width] @ basis
    matrix[:, rank] = 1
    return Spectrum(mean=mean, scale=scale, basis=basis, variance=values, rotated=matrix[:, : rank + 1])


def _significant(values: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    return values > max(share * float(values[-1]), 1e-12) if len(values) else np.empty(0, bool)


def _moments(features: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    num, width = features.shape
    mean, square = np.zeros(width), np.zeros(width)
    for rows in _blocks(num):
        mean += features[rows].sum(axis=0, dtype=np.float64)
    mean /= num
    for rows in _blocks(num):
        square += np.square(features[rows] - mean).sum(axis=0)
    spread = np.sqrt(square / num)
    # rounding leaves a constant column a spread of some 1e-16 of its value: that is no variation
    spread[spread <= 1e-9 * np.abs(mean)] = 0
    floor = SCALE_FLOOR * float(np.sqrt(np.square(spread).mean())) if width else 0.0
    return mean, np.hypot(spread, floor) if floor > 0 else np.ones(width)


def _blocks(num: int) -> list[slice]:
    return [slice(start, min(start + _BLOCK_ROWS, num)) for start in range(0, num, _BLOCK_ROWS)]
