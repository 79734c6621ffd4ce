"""Heads whose scales are set apart from their directions (Kang et al. 2020, Decoupling), on solved heads.

    tau_normalised      each class's weights divided by their norm to the power τ
    fit_scales          a learnable scale for each class (LWS), fitted on held-out logits with the classes balanced
    class_mean_heads    the nearest class mean

All three drop the intercept as the paper does; the features are centred, so it holds nothing but the class frequencies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.fit.nested import Heads, Nested


def without_intercept(heads: Heads) -> Heads:
    """The same directions, intercept 0."""
    heads = heads.copy()
    heads[:, :, -1] = 0
    return heads


def tau_normalised(heads: Heads, tau: float) -> Heads:
    """w_k / |w_k|^τ without intercept (Kang et al. 2020, eq. 5); norms relative to their geometric mean.

    The penalty makes the weights sum to zero over the classes, so that the norms are not a matter of convention.
    """
    heads = without_intercept(heads)
    norms = np.sqrt(np.square(heads[:, :, :-1]).sum(axis=2))
    seen = norms > 0
    logs = np.log(np.where(seen, norms, 1.0))
    logs -= logs.sum(axis=1, keepdims=True) / np.maximum(seen.sum(axis=1, keepdims=True), 1)
    heads *= np.exp(-tau * np.where(seen, logs, 0.0))[:, :, None].astype(np.float32)
    return heads


def fit_scales(
    logits: NDArray[np.floating], labels: NDArray[np.int64], num_classes: int, balance: float
) -> NDArray[np.float64]:
    """Scales s (K,) > 0 that minimise the weighted log loss of softmax(s_k z_k): learnable weight scaling, convex in s.

    Kang et al. fit them by class-balanced sampling on the training images; here on held-out logits, on which a scale
    does not mistake over-fitting for confidence. A penalty of (s - 1)^2 that weighs as much as one image a class keeps
    the scales of classes that hardly occur.

    Args:
        logits: (n, K), held out, without intercept.
        labels: int64 (n,).
        num_classes: K.
        balance: 1 weighs all classes alike, 0 all images.
    """
    from scipy.optimize import minimize

    z = np.asarray(logits, np.float64)
    counts = np.bincount(labels, minlength=num_classes).astype(np.float64)
    weight = np.maximum(counts, 1)[labels] ** -balance
    weight /= weight.sum()
    rho = num_classes / max(len(labels), 1)
    rows = np.arange(len(labels))

    def loss(scale: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scaled = z * scale
        scaled -= scaled.max(axis=1, keepdims=True)
        probs = np.exp(scaled)
        total = probs.sum(axis=1)
        value = float(weight @ (np.log(total) - scaled[rows, labels]))
        probs /= total[:, None]
        probs[rows, labels] -= 1
        gradient = weight @ (probs * z)
        return value + rho / 2 * float(np.square(scale - 1).mean()), gradient + rho / num_classes * (scale - 1)

    found = minimize(
        loss, np.ones(num_classes), jac=True, method="L-BFGS-B", bounds=[(0.05, 20.0)] * num_classes,
        options={"maxiter": 50},
    )  # fmt: skip
    return np.asarray(found.x, np.float64)


def class_mean_heads(nested: Nested, inputs: NDArray[Any], variance: NDArray[np.float64], whitening: float) -> Heads:
    """The nearest class mean as linear heads: -|x - m_k|^2 / 2 less what all classes share.

    Args:
        nested: the problems; means are over the images of their training parts, without further views.
        inputs: float32 (M, r + 1), rotated features.
        variance: float64 (r,), of the inputs.
        whitening: directions are weighed by 1 / (variance + penalty), the penalty the largest variance times
            10^-whitening; 0 is nearly the plain distance of standardised features, 3 nearly Mahalanobis'.
    """
    num, width = len(nested.labels), inputs.shape[1] - 1
    sums = np.zeros((nested.num_repeats, nested.num_folds, nested.num_classes, width))
    for r, row in enumerate(nested.folds):
        for f in range(nested.num_folds):
            held = np.flatnonzero(row == f)
            onehot = np.zeros((nested.num_classes, len(held)), np.float32)
            onehot[nested.labels[held], np.arange(len(held))] = 1
            sums[r, f] = onehot @ inputs[:num][held, :-1]
    total = sums[0].sum(axis=0)
    metric = 1 / (variance + variance[0] * 10.0**-whitening)
    heads = np.zeros((nested.num_problems, nested.num_classes, width + 1), np.float32)

    def put(problem: int, left: NDArray[np.float64]) -> None:
        means = left / np.maximum(nested.counts[problem], 1)[:, None]
        heads[problem, :, :-1] = means * metric
        heads[problem, :, -1] = -0.5 * (np.square(means) * metric).sum(axis=1)

    for r in range(nested.num_repeats):
        for f in range(nested.num_folds):
            put(nested.without(r, f), total - sums[r, f])
            for g in range(f + 1, nested.num_folds):
                put(nested.without(r, f, g), total - sums[r, f] - sums[r, g])
    put(nested.num_problems - 1, total)
    return heads
