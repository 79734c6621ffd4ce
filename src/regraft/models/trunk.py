"""From a whole model to the backbone that regraft runs: normalised RGB (N, 3, size, size) → features (N, D)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regraft.errors import BackboneError, SplitError
from regraft.models.sources import first_line
from regraft.models.split import split
from regraft.models.stages import staged

MOST_FEATURES = 32_768
"""More are a map that was not pooled: they would fill the cache and drown the head."""


class Grey(nn.Module):
    """A backbone of one channel that is given three: their weighted mean, ITU-R BT.601 luma, as images become grey.

    Normalisation by the same mean and std for each channel commutes with it, because the weights add up to 1.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("luma", torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, D) of (N, 3, size, size)."""
        return self.body((x * self.luma).sum(dim=1, keepdim=True))  # type: ignore[operator, no-any-return]


def trunk_of(
    model: nn.Module, name: str, *, size: int, features_from: str | None, stages: bool
) -> tuple[nn.Module, dict[str, tuple[int, int]]]:
    """Take the classifier off a model.

    Args:
        model: whole, in eval mode; changed.
        name: for messages.
        size: side of the input in pixels.
        features_from: the module whose pooled output are the features, or None for what enters the classifier.
        stages: whether the features of all stages are wanted.

    Returns:
        the backbone in eval mode without gradients, and the named columns of its features.

    Raises:
        BackboneError: it does not take RGB images of this size, or has no stages.
        SplitError: where it ends cannot be found.
    """
    channels = channels_of(model)
    if channels not in (1, 3):
        raise BackboneError(
            f"images have 3 channels (or 1, grey): {name} takes {channels}; put a layer before it that makes them"
        )
    example = torch.linspace(-2, 2, 2 * 3 * size * size).reshape(2, 3, size, size)
    body = None if features_from else _timm_trunk(model)
    if body is None:
        body = split(model, features_from=features_from, input_size=(channels, size, size)).backbone
    body = (Grey(body) if channels == 1 else body).eval().requires_grad_(False)
    try:
        with torch.inference_mode():
            out = body(example)
    except Exception as error:
        raise BackboneError(
            f"{name} does not run on {size} × {size} pixels ({first_line(error)}); leave --image-size out"
        ) from None
    if not isinstance(out, Tensor) or out.ndim != 2:
        raise SplitError(f"a backbone gives (N, D) features, {name} does not; say where: --features-from LAYER")
    if out.shape[1] > MOST_FEATURES:
        raise SplitError(
            f"features are at most {MOST_FEATURES:,} numbers: {name} gives {out.shape[1]:,}, a whole map; "
            "name the layer that is to be averaged: --features-from LAYER (regraft describe lists them)"
        )
    if stages:
        return staged(body, example)
    return body, {"final": (0, int(out.shape[1]))}


def _timm_trunk(model: nn.Module) -> nn.Module | None:
    """timm's own way to take the classifier off; None where the model has none."""
    if not (hasattr(model, "reset_classifier") and hasattr(model, "forward_head")):
        return None
    try:
        model.reset_classifier(0)  # type: ignore[operator]
    except (NotImplementedError, AssertionError, TypeError):
        return None
    return model


def channels_of(model: nn.Module) -> int:
    """Channels of the first convolution; 3 where there is none."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels
