"""Refusing what would hide label errors: probabilities by a model that was fitted on the very labels it judges."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError, UsageError

SURE = 0.999
DOUBTING = 0.05


def check_labels(labels: NDArray[np.int64], num_classes: int) -> None:
    """Labels are 0..K-1 and of two classes at least.

    Raises:
        DataError: they are not.
    """
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        raise DataError(
            f"labels are 0 to {num_classes - 1} here: {labels.min()} to {labels.max()} were given; leave "
            "images without a label out"
        )
    if len(np.unique(labels)) < 2:
        raise DataError(f"labels of at least 2 classes can be compared: {len(np.unique(labels))} found")


def check_pred_probs(name: str, pred_probs: NDArray[Any], num: int) -> NDArray[np.float64]:
    """The mean over repeats, float64 (N, K).

    Raises:
        DataError: it is not (N, K) or (R, N, K), not finite, negative, or its rows do not sum to 1.
        UsageError: repeats that are equal, which different folds never give.
    """
    values = np.asarray(pred_probs, np.float64)
    if values.ndim not in (2, 3) or values.shape[-2] != num or values.shape[-1] < 2:
        raise DataError(f"{name} is (N, K) or (R, N, K) with one row per label: got {values.shape} for {num} labels")
    if not np.isfinite(values).all() or values.min() < 0 or np.abs(values.sum(axis=-1) - 1).max() > 1e-3:
        raise DataError(f"rows of {name} are probabilities that sum to 1; pass softmax(logits / temperature)")
    if values.ndim == 2:
        return values
    if len(values) > 1 and any(np.array_equal(values[0], repeat) for repeat in values[1:]):
        raise UsageError(
            f"{name} must be out of fold: its {len(values)} repeats are equal, which other folds never give"
        )
    return np.asarray(values.mean(axis=0))


def check_folds(folds: NDArray[np.integer], num: int, num_repeats: int, groups: NDArray[np.int64]) -> None:
    """Each repeat has two folds or more, and no group lies in two.

    Raises:
        UsageError: the probabilities cannot be out of fold, or duplicates could vouch for each other.
    """
    folds = np.atleast_2d(np.asarray(folds))
    if folds.shape[1] != num or (num_repeats > 1 and len(folds) != num_repeats):
        raise UsageError(
            f"folds say for each repeat in which fold an image was held out: {folds.shape} do not fit {num_repeats} "
            f"repeats of {num} images"
        )
    _, first, index = np.unique(groups, return_index=True, return_inverse=True)
    for repeat in folds:
        if len(np.unique(repeat)) < 2:
            raise UsageError(
                "probabilities must be out of fold: one fold holds all images; cross-validate with 2 or more"
            )
        torn = np.flatnonzero(repeat != repeat[first][index])
        if len(torn):
            raise UsageError(
                f"a group lies in one fold, or duplicates vouch for each other's labels: group {groups[torn[0]]} is "
                "torn; deal the folds by these group_ids"
            )


def check_not_fitted(labels: NDArray[np.int64], pred_probs: NDArray[np.float64], votes: NDArray[Any]) -> None:
    """A head that is sure of every given label where the neighbours doubt some has seen the labels.

    Raises:
        UsageError: so it is.
    """
    doubt = float((votes.argmax(axis=1) != labels).mean())
    sure = float(pred_probs[np.arange(len(labels)), labels].min())
    if sure > SURE and doubt > DOUBTING:
        raise UsageError(
            f"pred_probs must be out of fold: every label has probability {sure:.3f} or more, while neighbours doubt "
            f"{doubt:.0%} of them; cross-validate"
        )
