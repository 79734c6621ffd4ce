"""What the losses have in common: class weights, one loss and one weight per item, and their weighted mean.

Class counts may be weighted sums. A class without images counts as one image, so that no logarithm of zero is taken;
it stays improbable, but a smoothed or mixed target on it is finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from regraft.errors import UsageError

ClassWeight = Literal["balanced", "sqrt", "effective"] | Sequence[float] | None
"""How classes are weighted; see `class_weights`."""


def class_weights(class_counts: ArrayLike, how: ClassWeight, *, beta: float = 0.9999) -> NDArray[np.float64] | None:
    """Weight of an image of each class.

    Args:
        class_counts: (K,) images per class, or their summed weights.
        how: `balanced` is 1/n, `sqrt` is 1/√n, `effective` is (1 − β)/(1 − βⁿ), the inverse effective number of
            images (Cui et al. 2019, eq. 2); K numbers are taken as they are; None is no weighting.
        beta: of `effective`: 0 gives no weighting, towards 1 `balanced`.

    Returns:
        float64 (K,), scaled so that the mean over the images is 1 (except for given numbers), or None.

    Raises:
        UsageError: an unknown word, or numbers that are no weights.
    """
    if how is None:
        return None
    counts = floored_counts(class_counts)
    if not isinstance(how, str):
        given = np.asarray(how, np.float64)
        if given.shape != counts.shape or not np.isfinite(given).all() or (given < 0).any():
            raise UsageError(f"class_weight has one finite number >= 0 per class ({len(counts)} classes): {how!r}")
        return given
    if how == "balanced":
        weights = 1.0 / counts
    elif how == "sqrt":
        weights = 1.0 / np.sqrt(counts)
    elif how == "effective":
        if not 0.0 <= beta < 1.0:
            raise UsageError(f"beta of the effective number is in [0, 1): {beta=}")
        weights = (1.0 - beta) / -np.expm1(counts * np.log(beta)) if beta > 0 else np.ones_like(counts)
    else:
        raise UsageError(f"class_weight is balanced, sqrt, effective or K numbers, not {how!r}")
    real = np.asarray(class_counts, np.float64)
    return np.asarray(weights * (real.sum() / (weights @ real)))


class Loss(nn.Module):
    """What all losses share: one loss and one weight per item, and their weighted mean.

    A subclass gives `per_item`, and may set the buffer `class_weight` (K,), which multiplies the loss of an item of
    that class (of a mixed item: each class's part of it).
    """

    class_weight: Tensor | None
    soft_targets: str = ""
    """Why mixed or soft targets are refused; empty where they are defined."""

    def __init__(self, num_classes: int, class_weight: NDArray[np.float64] | None = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        tensor = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float32)
        self.register_buffer("class_weight", tensor, persistent=False)

    def per_item(self, logits: Tensor, targets: Tensor, indices: Tensor | None) -> Tensor:
        """(N,) losses from float32 or float64 logits (N, K), times the class weight."""
        raise NotImplementedError

    def item_weight(self, targets: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """(N,) what the mean is weighted by: `sample_weight` times the weight of the item's class, 1 without."""
        if self.class_weight is None:
            weight = torch.ones(len(targets), device=targets.device)
        else:
            weight = expected(self.class_weight.expand(len(targets), -1), targets)
        return weight if sample_weight is None else weight * sample_weight

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        sample_weight: Tensor | None = None,
        *,
        indices: Tensor | None = None,
        total_weight: Tensor | float | None = None,
    ) -> Tensor:
        """The weighted mean Σ s_i·l_i / Σ w_i, where l_i has the class weight in it and w_i is `item_weight`.

        Args:
            logits: (N, K), any floating dtype.
            targets: int (N,) in 0..K-1, or floating (N, K) with rows that sum to 1 (mixup, cutmix).
            sample_weight: (N,) >= 0; an item of weight 0 adds neither loss nor gradient. Where all are 0 the loss is 0.
            indices: int (N,), which item of the training set each is; only ELR needs it.
            total_weight: divide by this in place of Σ w_i. For gradients that do not depend on how a batch is cut:
                with G accumulated parts, or G processes whose gradients are averaged, pass 1/G of the Σ w_i of the
                whole batch.

        Returns:
            scalar, float32 (float64 for float64 logits).

        Raises:
            UsageError: shapes that do not fit, or soft targets where the loss has no meaning for them.
        """
        self._check(logits, targets, sample_weight)
        with torch.autocast(logits.device.type, enabled=False):
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            losses = self.per_item(wide, targets, indices)
            if sample_weight is not None:  # an infinite loss of weight 0 must not become NaN
                losses = torch.where(sample_weight > 0, losses, 0.0) * sample_weight
            if total_weight is None:
                total_weight = self.item_weight(targets, sample_weight).sum()
            total = torch.as_tensor(total_weight, device=losses.device, dtype=losses.dtype)
            return losses.sum() / torch.where(total > 0, total, 1.0)

    def set_epoch(self, epoch: int) -> None:
        """Told before each epoch, from 0; nothing to do for most."""

    def _check(self, logits: Tensor, targets: Tensor, sample_weight: Tensor | None) -> None:
        num = len(logits)
        if logits.ndim != 2 or logits.shape[1] != self.num_classes:
            raise UsageError(f"logits are (N, {self.num_classes}): {tuple(logits.shape)}")
        if targets.is_floating_point():
            if targets.shape != logits.shape:
                raise UsageError(f"soft targets have the shape of the logits: {tuple(targets.shape)}")
            if self.soft_targets:
                raise UsageError(f"soft targets (mixup, cutmix) do not go with this loss: {self.soft_targets}")
        elif targets.shape != (num,):
            raise UsageError(f"targets are (N,) with N={num}: {tuple(targets.shape)}")
        if sample_weight is not None and sample_weight.shape != (num,):
            raise UsageError(f"sample_weight is (N,) with N={num}: {tuple(sample_weight.shape)}")

    def _weighted(self, values: Tensor) -> Tensor:
        """(N, K) losses "if the label were k", times the class weights."""
        return values if self.class_weight is None else values * self.class_weight


def expected(values: Tensor, targets: Tensor) -> Tensor:
    """(N,): column y of (N, K) values for labels, Σ_k y_k v_k for soft targets."""
    if targets.is_floating_point():
        return (targets.to(values.dtype) * values).sum(1)
    return values.gather(1, targets.long().unsqueeze(1)).squeeze(1)


def floored_counts(class_counts: ArrayLike) -> NDArray[np.float64]:
    """float64 (K,): the counts, with 1 (or the smallest, where that is less) for a class without images.

    Raises:
        UsageError: they are no counts.
    """
    counts = np.asarray(class_counts, np.float64)
    if counts.ndim != 1 or not np.isfinite(counts).all() or (counts < 0).any() or counts.sum() <= 0:
        raise UsageError(f"class_counts are (K,), finite, >= 0 and not all 0: {np.asarray(class_counts)!r}")
    return np.where(counts > 0, counts, min(1.0, counts[counts > 0].min()))


def within(name: str, value: float, low: float = 0.0, below: float = float("inf")) -> float:
    """The value, or a UsageError where it is outside [low, below)."""
    if not low <= value < below:
        raise UsageError(f"{name} is in [{low:g}, {below:g}): {value!r}")
    return value
