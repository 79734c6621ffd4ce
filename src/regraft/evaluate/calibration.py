"""Temperature scaling (Guo, Pleiss, Sun & Weinberger 2017): one number that makes confidence mean accuracy.

It divides the logits, so that no answer changes. Fit it on out-of-fold logits: on rows the head was fitted on, it
comes out too low.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regraft.errors import DataError

COLDEST, HOTTEST = 0.05, 20.0


def softmax(logits: ArrayLike, *, temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities of logits (…, K): softmax(logits / temperature), float64 of the same shape."""
    z = np.asarray(logits, np.float64) / temperature
    z = np.exp(z - z.max(axis=-1, keepdims=True))
    return np.asarray(z / z.sum(axis=-1, keepdims=True), np.float64)


def fit_temperature(logits: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The temperature T in [0.05, 20] that minimises the log loss of softmax(logits / T).

    The loss is convex in 1/T: safeguarded Newton steps on its derivative, which has one root. Where every answer is
    right the likelihood asks for T = 0, total certainty; then 1/(n + 2) of each row's mass is given to the
    runner-up, in the manner of Platt's targets (1999), so that n right answers in a row earn a confidence of about
    (n + 1)/(n + 2) and no more.

    Args:
        logits: float (n, K), out-of-sample. Log-probabilities serve as well.
        labels: int (n,), 0..K-1.
        weights: float (n,), >= 0; 1 unless said.

    Returns:
        T; 1.0 where there is nothing to fit (no rows, or logits that are all alike).

    Raises:
        DataError: shapes that do not fit, labels out of range, logits that are not finite.
    """
    z, y = np.asarray(logits, np.float64), np.asarray(labels)
    if z.ndim != 2 or y.shape != z.shape[:1]:
        raise DataError(f"logits (n, K) and labels (n,) go together: got {z.shape} and {y.shape}")
    n, num_classes = z.shape
    w = np.ones(n) if weights is None else np.asarray(weights, np.float64)
    if w.shape != y.shape or not (np.isfinite(w).all() and (w >= 0).all()):
        raise DataError(f"weights are finite and >= 0, one a row: got {w.shape} for {n} rows")
    if n == 0 or num_classes < 2 or w.sum() == 0:
        return 1.0
    if y.min() < 0 or y.max() >= num_classes:
        raise DataError(f"labels are whole numbers in 0..{num_classes - 1}: leave unlabelled images (-1) out")
    if not np.isfinite(z).all():
        raise DataError("logits must be finite; clip probabilities before their logarithm is taken")
    z = z - z.max(axis=1, keepdims=True)
    if not z.any():
        return 1.0
    target = z[np.arange(n), y]
    if not target[w > 0].any():  # every label has the top logit
        runner_up = np.partition(z, num_classes - 2, axis=1)[:, num_classes - 2]
        target = runner_up / (w.sum() + 2)
    return 1 / _root(z, w / w.sum(), float(w @ target / w.sum()))


def _root(z: NDArray[np.float64], share: NDArray[np.float64], target: float) -> float:
    """Inverse temperature b at which the expected logit under softmax(b z) equals the target's mean logit."""

    def slope(b: float) -> tuple[float, float]:
        p = np.exp(b * z)
        p /= p.sum(axis=1, keepdims=True)
        mean = (p * z).sum(axis=1)
        return float(share @ mean) - target, float(share @ ((p * z * z).sum(axis=1) - mean**2))

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(low)[0] >= 0:
        return low
    if slope(high)[0] <= 0:
        return high
    b = 1.0
    for _ in range(100):
        first, second = slope(b)
        low, high = (b, high) if first < 0 else (low, b)
        step = b - first / second if second > 0 else low
        last, b = b, step if low < step < high else (low * high) ** 0.5
        if abs(b - last) < 1e-10 * b:
            break
    return b
