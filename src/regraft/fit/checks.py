"""What a fit asks of its arguments, before any work."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError, UsageError


def check_rows(
    features: NDArray[Any],
    labels: NDArray[np.int64],
    num_classes: int,
    groups: NDArray[np.int64] | None,
    weight: NDArray[np.float64] | None,
) -> None:
    """Features, labels, groups and weights of one length, labels in range, features finite, two classes.

    Raises:
        UsageError: they do not fit together, all in one message.
        DataError: they do, but no head can be solved on them.
    """
    num = len(labels)
    wrong: list[str] = []
    if features.ndim != 2 or len(features) != num:
        wrong.append(f"features must be (N, D) with a row per label: {features.shape=}, {num=}")
    if num and (labels.min() < 0 or labels.max() >= num_classes):
        wrong.append(
            f"labels must be 0..{num_classes - 1}: they are {labels.min()}..{labels.max()}; leave unlabelled rows out"
        )
    if groups is not None and len(groups) != num:
        wrong.append(f"group_ids must be (N,): {len(groups)=}, {num=}")
    if weight is not None and (weight.shape != (num,) or not np.isfinite(weight).all() or (weight < 0).any()):
        wrong.append(f"sample_weight must be (N,), finite and not negative: {weight.shape=}, {num=}")
    if wrong:
        raise UsageError("; ".join(wrong))
    present = len(np.unique(labels if weight is None else labels[weight > 0]))
    if present < 2:
        raise DataError(
            f"a head needs rows of at least two classes, there are rows of {present}; add images of another class"
        )
    for start in range(0, num, 4096):
        if not np.isfinite(features[start : start + 4096]).all():
            raise DataError(
                f"features must be finite: they are not in rows {start}..{start + 4095}; extract them again"
            )


def check_folds(
    folds: NDArray[np.integer], groups: NDArray[np.int64] | None, weight: NDArray[np.float64] | None, num: int
) -> None:
    """Folds (R, N) that leave something to train on and never part a group.

    Raises:
        UsageError: they are not folds of these rows, or a group is in two.
        DataError: a fold leaves no row with weight.
    """
    if folds.ndim != 2 or folds.shape[1] != num:
        raise UsageError(f"folds must be (R, N) or (N,): {folds.shape=}, {num=}")
    if folds.min() < 0:
        raise UsageError(f"folds are numbered from 0: the smallest is {folds.min()}; every row is held out once")
    if groups is not None and any(_straddles(groups, row) for row in folds):
        raise UsageError("rows of one group must share a fold, or what is held out was seen; make the folds by group")
    used = np.ones(num, bool) if weight is None else weight > 0
    if any(not used[row != fold].any() for row in folds for fold in np.unique(row)):
        raise DataError("every fold must leave rows with weight to train on; use at least two folds, or other ones")


def _straddles(groups: NDArray[np.int64], folds: NDArray[np.integer]) -> bool:
    pairs = np.unique(np.stack([groups, folds.astype(np.int64)]), axis=1)
    return bool(pairs.shape[1] > len(np.unique(groups)))
