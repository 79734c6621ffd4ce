"""What happens to a whole batch: normalisation, mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from regraft.errors import UsageError
from regraft.images import Transform


def to_input(pixels: Tensor, transform: Transform) -> Tensor:
    """uint8 (N, S, S, 3) pixels to the backbone's float32 (N, 3, S, S), in channels_last memory, on their device.

    The arithmetic is that of the engines that extract features. Bytes travel to the device, not floats.
    """
    offset = 255.0 * torch.tensor(transform.mean, device=pixels.device).view(1, 3, 1, 1)
    factor = 1 / (255.0 * torch.tensor(transform.std, device=pixels.device)).view(1, 3, 1, 1)
    return (pixels.permute(0, 3, 1, 2).float() - offset) * factor


class Mixing:
    """timm's mixup and cutmix, decided by (seed, epoch, step, rank) alone.

    Args:
        num_classes: K.
        mixup_alpha: of the Beta distribution of mixup; 0 is none.
        cutmix_alpha: of cutmix; 0 is none. With both, a batch gets one or the other.
        prob: share of the batches that are mixed.
        mode: timm's: `batch` (one share for all), `pair` or `elem`.
        seed: >= 0.
        rank: number of this process, so that processes draw different shares.

    Raises:
        UsageError: neither is asked for, or values out of range.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        prob: float = 1.0,
        mode: str = "batch",
        seed: int = 0,
        rank: int = 0,
    ) -> None:
        if not (mixup_alpha >= 0 and cutmix_alpha >= 0 and mixup_alpha + cutmix_alpha > 0 and 0 <= prob <= 1):
            raise UsageError(
                f"mixing needs an alpha above 0 and a prob in [0, 1]: {mixup_alpha=}, {cutmix_alpha=}, {prob=}"
            )
        if mode not in ("batch", "pair", "elem"):
            raise UsageError(f"mixing goes by batch, pair or elem, not {mode!r}")
        self.num_classes, self.seed, self.rank = num_classes, seed, rank
        self.options = {"mixup_alpha": mixup_alpha, "cutmix_alpha": cutmix_alpha, "prob": prob, "mode": mode}

    def __call__(
        self, images: Tensor, targets: Tensor, sample_weight: Tensor | None = None, *, epoch: int, step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mix each image with another one of the batch; the last one of an odd batch stays as it is.

        Args:
            images: float (N, 3, H, W); left as they are.
            targets: int (N,), or soft (N, K).
            sample_weight: (N,), 1 without. The mixed loss Σ_j m_ij w_j l_j is kept: a mixed image's target is
                Σ_j m_ij w_j y_j / w'_i and its weight w'_i = Σ_j m_ij w_j, m the shares.
            epoch: from 0.
            step: number of the batch in the epoch.

        Returns:
            images (N, 3, H, W), soft targets float32 (N, K), weights float32 (N,).
        """
        from timm.data import Mixup

        num = len(images)
        even = num - num % 2
        shares = torch.eye(num, device=images.device)
        if even:
            # timm mixes targets with the images: as targets take the item numbers, and the result is the shares m
            mixup = Mixup(num_classes=even, label_smoothing=0.0, **self.options)
            state = np.random.get_state()  # noqa: NPY002 - timm draws from NumPy's global generator
            try:
                np.random.seed(np.random.SeedSequence([self.seed, epoch, step, self.rank]).generate_state(4))  # noqa: NPY002
                mixed, shares_of_even = mixup(images[:even].clone(), torch.arange(even, device=images.device))
            finally:
                np.random.set_state(state)  # noqa: NPY002
            shares[:even, :even] = shares_of_even.float()
            images = torch.cat([mixed, images[even:]])
        soft = (
            targets.float()
            if targets.is_floating_point()
            else functional.one_hot(targets.long(), self.num_classes).float()
        )
        weight = torch.ones(num, device=images.device) if sample_weight is None else sample_weight.float()
        mixed_weight = shares @ weight
        mixed_targets = shares @ (weight.unsqueeze(1) * soft)
        total = torch.where(mixed_weight > 0, mixed_weight, 1.0).unsqueeze(1)
        return images, torch.where(mixed_weight.unsqueeze(1) > 0, mixed_targets / total, soft), mixed_weight
