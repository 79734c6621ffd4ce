"""Ridge regression on one-hot targets with exact held-out predictions for every strength, without refitting.

With H the matrix that maps targets to fitted values and e = (I - H) Y, what a fit without the group g would have
missed on it is (I - H_gg)^-1 e_g: one row is leave-one-out, several are leave-one-group-out or a fold. One
eigendecomposition serves every strength. For a group larger than half the rank it is cheaper to take the group
out of the covariance and to decompose that, once for all strengths; the predictions are the same.

Scores are not probabilities. They rank classes, at a fraction of the cost of the multinomial head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.fit.checks import check_folds, check_rows
from regraft.fit.selection import dense_groups
from regraft.fit.spectrum import Spectrum, decompose

Floats = NDArray[np.float64]

NUM_STRENGTHS = 20
_BLOCK_ELEMENTS = 1 << 22
_MAX_KEPT_ELEMENTS = 1 << 27


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ridge:
    """A ridge head and the path it was chosen from.

    Attributes:
        strengths: float64 (L,), strongest first. The fit minimises the squared error summed over its rows plus
            N × strength × ||W||², N the number of all rows, also where some are held out.
        errors: float64 (L,), held-out squared error, mean over rows, summed over classes.
        accuracies: float64 (L,), held-out.
        chosen: index into `strengths` of the smallest error.
        oof_scores: float64 (N, K), held-out scores at the chosen strength.
        weight: float64 (K, D), for raw features, fitted on all rows.
        bias: float64 (K,).
    """

    strengths: Floats
    errors: Floats
    accuracies: Floats
    chosen: int
    oof_scores: Floats
    weight: Floats
    bias: Floats

    def predict_scores(self, features: NDArray[Any]) -> Floats:
        """Scores (M, K) of raw features (M, D)."""
        return np.asarray(np.asarray(features, np.float64) @ self.weight.T + self.bias)


def fit_ridge(
    features: NDArray[Any],
    labels: NDArray[np.int64],
    *,
    num_classes: int,
    folds: NDArray[np.integer] | None = None,
    group_ids: NDArray[np.int64] | None = None,
    strengths: Sequence[float] | str = "auto",
) -> Ridge:
    """Fit the head and choose its strength by held-out squared error.

    The squared error is chosen by rather than the accuracy because it is smooth: the accuracy of neighbouring
    strengths differs by less than its noise.

    Args:
        features: float16, float32 or float64 (N, D), finite. Memory: one float64 matrix of that size beside them.
        labels: int64 (N,), 0..K-1.
        num_classes: K.
        folds: int (N,), held out together; or None for leave-one-group-out.
        group_ids: int64 (N,); without folds a group is held out together, with folds it must lie within one. None:
            every row is its own, which is leave-one-out.
        strengths: penalties above 0, or `auto` for 20 from λ to λ/100,000, λ the largest eigenvalue of the
            correlation matrix.

    Raises:
        UsageError: arguments that do not fit together.
        DataError: fewer than two classes have rows, features that are not finite, or nothing left to train on.
    """
    labels = np.asarray(labels, np.int64)
    groups = dense_groups(group_ids)
    check_rows(features, labels, num_classes, groups, None)
    num = len(labels)
    together = np.arange(num) if groups is None else groups
    if folds is not None:
        together = np.unique(np.asarray(folds), return_inverse=True)[1].reshape(np.shape(folds))
        check_folds(together[None], groups, None, num)
    elif groups is not None:
        check_folds(together[None], None, None, num)

    spectrum = decompose(features, np.float64)
    if isinstance(strengths, str):
        top = float(spectrum.variance[0]) if len(spectrum.variance) else 1.0
        strengths = np.geomspace(top, top * 1e-5, NUM_STRENGTHS).tolist()
    path = np.sort(np.asarray(strengths, np.float64))[::-1]
    targets = np.zeros((num, num_classes))
    targets[np.arange(num), labels] = 1

    keep_all = len(path) * num * num_classes <= _MAX_KEPT_ELEMENTS
    kept = np.empty((len(path), num, num_classes)) if keep_all else None
    errors, accuracies = np.zeros(len(path)), np.zeros(len(path))
    for rows, scores in _held_out(spectrum, targets, together, path):
        errors += np.square(scores - targets[rows]).sum(axis=(1, 2)) / num
        accuracies += (scores.argmax(axis=2) == labels[rows]).sum(axis=1) / num
        if kept is not None:
            kept[:, rows] = scores
    chosen = int(np.argmin(errors))
    if kept is not None:
        oof_scores = kept[chosen].copy()
    else:
        oof_scores = np.empty((num, num_classes))
        for rows, scores in _held_out(spectrum, targets, together, path[chosen : chosen + 1]):
            oof_scores[rows] = scores[0]

    inner = spectrum.rotated[:, :-1]
    weights = (inner.T @ targets).T / (num * (spectrum.variance + path[chosen]))
    weight, bias = spectrum.to_raw(np.concatenate([weights, targets.mean(axis=0)[:, None]], axis=1))
    return Ridge(
        strengths=path, errors=errors, accuracies=accuracies, chosen=chosen, oof_scores=oof_scores,
        weight=weight, bias=bias,
    )  # fmt: skip


def _held_out(
    spectrum: Spectrum, targets: Floats, together: NDArray[np.int64], strengths: Floats
) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """Rows (m,) that are complete groups, and their held-out scores (L, m, K)."""
    inputs = spectrum.rotated[:, :-1]
    cross = inputs.T @ targets
    rank = inputs.shape[1]
    order = np.argsort(together, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(together[order])) + 1)
    sizes = np.array([len(rows) for rows in members])
    for size in np.unique(sizes).tolist():
        alike = np.array([rows for rows in members if len(rows) == size])
        if 2 * size > rank:
            for rows in alike:
                yield rows, _without(inputs, spectrum.variance, cross, targets, rows, strengths)
            continue
        step = max(1, _BLOCK_ELEMENTS // (size * max(rank, targets.shape[1] * len(strengths))))
        for first in range(0, len(alike), step):
            block = alike[first : first + step]
            yield block.ravel(), _closed_form(inputs, spectrum.variance, cross, targets, block, strengths)


def _closed_form(
    inputs: Floats, variance: Floats, cross: Floats, targets: Floats, groups: NDArray[np.int64], strengths: Floats
) -> Floats:
    """Held-out scores (L, G m, K) of G groups of m rows each, by (I - H_gg)^-1 e_g."""
    count, size = groups.shape
    num, num_classes = targets.shape
    shrink = 1 / (num * (variance[:, None] + strengths))  # (r, L)
    held, wanted = inputs[groups], targets[groups]
    heads = (shrink[:, :, None] * cross[:, None, :]).reshape(len(shrink), -1)
    fitted = (held.reshape(count * size, -1) @ heads).reshape(count, size, len(strengths), num_classes)
    fitted += targets.mean(axis=0)
    scores = np.empty((len(strengths), count * size, num_classes))
    diagonal = np.square(held[:, 0]) @ shrink if size == 1 else None
    for index in range(len(strengths)):
        missed = wanted - fitted[:, :, index]
        if diagonal is not None:
            missed /= (1 - 1 / num - diagonal[:, index])[:, None, None]
        else:
            hat = (held * shrink[:, index]) @ held.swapaxes(1, 2) + 1 / num
            missed = np.linalg.solve(np.eye(size) - hat, missed)
        scores[index] = (wanted - missed).reshape(count * size, num_classes)
    return scores


def _without(
    inputs: Floats, variance: Floats, cross: Floats, targets: Floats, rows: NDArray[np.int64], strengths: Floats
) -> Floats:
    """Held-out scores (L, m, K) of one large group, by taking it out of the covariance."""
    num = len(targets)
    rest = num - len(rows)
    held, wanted = inputs[rows], targets[rows]
    mean = -held.sum(axis=0) / rest  # the sum over all rows is zero
    level = (targets.sum(axis=0) - wanted.sum(axis=0)) / rest
    scatter = np.diag(num * variance) - held.T @ held - rest * np.outer(mean, mean)
    values, vectors = np.linalg.eigh(scatter)
    loads = vectors.T @ (cross - held.T @ wanted - rest * np.outer(mean, level))
    seen = (held - mean) @ vectors
    return np.stack([level + seen @ (loads / (values + num * strength)[:, None]) for strength in strengths])
