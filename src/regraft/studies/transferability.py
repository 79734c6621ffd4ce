"""Scores from the literature that guess how well features will transfer. Shown as columns; they never decide.

    log_me    You et al. 2021, LogME: evidence of a Bayesian linear model, one target per class
    h_score   Bao et al. 2019: tr(cov(f)^-1 cov(E[f|y]))
    leep      Nguyen et al. 2020: log-likelihood under the source classifier's own labels
    gbc       Pándy et al. 2022: overlap of the classes as Gaussians (Bhattacharyya), negative

Over many set-ups small changes of the protocol change which score wins; held-out accuracy is what they estimate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_ITERATIONS = 100
_TOLERANCE = 1e-6


def log_me(features: NDArray[Any], labels: NDArray[np.int64], num_classes: int) -> float:
    """Log maximum evidence, mean over images and classes; higher is better.

    The fixed point of You et al. 2021 (a local maximum of the evidence), features not centred as published.

    Args:
        features: float (N, D).
        labels: int64 (N,).
        num_classes: K; classes without rows are left out.
    """
    values = np.asarray(features, np.float64)
    num, width = values.shape
    if num <= width:
        left, root = np.linalg.eigh(values @ values.T)[::-1]
        order = np.argsort(-root)
        root, left = root[order], left[:, order]
        keep = root > max(root[0], 1e-300) * 1e-12
        sigma, left = root[keep], left[:, keep]
    else:
        root, right = np.linalg.eigh(values.T @ values)
        keep = root > max(root[-1], 1e-300) * 1e-12
        sigma = root[keep][::-1]
        left = (values @ right[:, keep][:, ::-1]) / np.sqrt(sigma)
    evidences = []
    for k in range(num_classes):
        target = (labels == k).astype(np.float64)
        if target.any():
            evidences.append(_evidence(sigma, left.T @ target, float(target @ target), num, width))
    return float(np.mean(evidences))


def _evidence(sigma: Floats, loads: Floats, energy: float, num: int, width: int) -> float:
    """Log evidence per image at the fixed point of α (prior) and β (noise precision)."""
    squares = loads**2
    outside = max(energy - float(squares.sum()), 0.0)  # of the target, orthogonal to the features
    alpha, beta, old = 1.0, 1.0, -1.0
    for _ in range(_ITERATIONS):
        ratio = alpha / beta
        gamma = float((sigma / (sigma + ratio)).sum())
        length = float((sigma * squares / (ratio + sigma) ** 2).sum())
        missed = float((squares / (1 + sigma / ratio) ** 2).sum()) + outside
        alpha = gamma / max(length, 1e-30)
        beta = max(num - gamma, 1e-10) / max(missed, 1e-30)
        if abs(alpha / beta - old) <= _TOLERANCE * abs(old):
            break
        old = alpha / beta
    ratio = alpha / beta
    length = float((sigma * squares / (ratio + sigma) ** 2).sum())
    missed = float((squares / (1 + sigma / ratio) ** 2).sum()) + outside
    determinant = float(np.log(alpha + beta * sigma).sum()) + (width - len(sigma)) * np.log(alpha)
    evidence = (
        width / 2 * np.log(alpha)
        + num / 2 * np.log(beta)
        - determinant / 2
        - beta / 2 * missed
        - alpha / 2 * length
        - num / 2 * np.log(2 * np.pi)
    )
    return float(evidence / num)


def principal_axes(features: NDArray[Any]) -> Floats:
    """Centred features in the basis of their covariance, (N, r), largest variance first: rotated, nothing lost.

    Computed from the smaller of the two Gram matrices; `h_score` and `gbc` share it.
    """
    values = np.asarray(features, np.float64)
    values = values - values.mean(axis=0)
    if values.shape[0] <= values.shape[1]:
        root, vectors = np.linalg.eigh(values @ values.T)
        keep = root > max(root[-1], 1e-300) * 1e-10
        return np.asarray((vectors[:, keep] * np.sqrt(root[keep]))[:, ::-1])
    root, vectors = np.linalg.eigh(values.T @ values)
    keep = root > max(root[-1], 1e-300) * 1e-10
    return np.asarray(values @ vectors[:, keep][:, ::-1])


def h_score(
    features: NDArray[Any], labels: NDArray[np.int64], num_classes: int, *, axes: Floats | None = None
) -> float:
    """tr(cov(f)^-1 cov(E[f|y])), by the pseudo-inverse; between 0 and K - 1, higher is better.

    Args:
        features: float (N, D). With N near or below D the score overfits; it is a column, not a judge.
        labels: int64 (N,).
        num_classes: K.
        axes: `principal_axes(features)`, where they are known.
    """
    rotated = principal_axes(features) if axes is None else axes
    means, counts = _class_means(rotated, labels, num_classes)
    return float(((counts / len(rotated))[:, None] * means**2 / np.square(rotated).mean(axis=0)).sum())


def leep(source_probs: NDArray[Any], labels: NDArray[np.int64], num_classes: int) -> float:
    """Mean log-likelihood of the labels when the source classifier's classes stand for them; at most 0.

    Args:
        source_probs: float (N, Z), rows sum to 1: the backbone's original classifier on these images.
        labels: int64 (N,).
        num_classes: K.
    """
    probs = np.asarray(source_probs, np.float64)
    joint = np.zeros((num_classes, probs.shape[1]))
    np.add.at(joint, labels, probs / len(labels))
    conditional = joint / np.maximum(joint.sum(axis=0), 1e-300)  # P(y | z)
    likely = np.einsum("nz,nz->n", probs, conditional[labels])
    return float(np.log(np.maximum(likely, 1e-300)).mean())


def gbc(
    features: NDArray[Any], labels: NDArray[np.int64], num_classes: int, *, width: int = 64, axes: Floats | None = None
) -> float:
    """Minus the summed Bhattacharyya coefficients of all pairs of classes, as spherical Gaussians; at most 0.

    As published: features on their first `width` principal components, one variance a class.

    Args:
        features: float (N, D).
        labels: int64 (N,).
        num_classes: K; classes without rows are left out.
        width: principal components.
        axes: `principal_axes(features)`, where they are known.
    """
    values = (principal_axes(features) if axes is None else axes)[:, :width]
    means, counts = _class_means(values, labels, num_classes)
    seen = np.flatnonzero(counts > 0)
    spread = np.zeros(num_classes)
    np.add.at(spread, labels, np.square(values - means[labels]).mean(axis=1))
    spread = np.maximum(spread[seen] / counts[seen], 1e-12)
    distance = np.square(means[seen][:, None] - means[seen][None]).sum(axis=2)
    both = (spread[:, None] + spread[None]) / 2
    exponent = distance / (8 * both) + values.shape[1] / 2 * np.log(both / np.sqrt(spread[:, None] * spread[None]))
    pairs = np.triu_indices(len(seen), 1)
    return -float(np.exp(-exponent[pairs]).sum())


def _class_means(values: Floats, labels: NDArray[np.int64], num_classes: int) -> tuple[Floats, Floats]:
    """Means (K, D) and counts (K,); a class without rows has the mean 0."""
    counts = np.bincount(labels, minlength=num_classes).astype(np.float64)
    means = np.zeros((num_classes, values.shape[1]))
    np.add.at(means, labels, values)
    return means / np.maximum(counts, 1)[:, None], counts
