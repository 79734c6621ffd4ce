"""Heads: what turns (N, D) features into (N, K) class scores, and the plain module that joins the two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regraft.errors import SplitError, UsageError
from regraft.models.tracing import examples, logits_of, refuse_untraceable, run, undisturbed


class Classifier(nn.Module):
    """A backbone and a head: `forward(x)` is `head(backbone(x))`, and nothing else.

    Attributes:
        backbone: x → features (N, D).
        head: features (N, D) → logits (N, K).
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.head(self.backbone(x))
        return logits


def graft(
    backbone: nn.Module,
    num_classes: int,
    *,
    dropout: float = 0.0,
    bias: bool = True,
    num_features: int | None = None,
) -> Classifier:
    """Put a new linear head on a backbone.

    The head's weights are drawn from a normal distribution of standard deviation 0.01 and its bias is zero, so that the
    first probabilities are close to uniform. It lies on the backbone's device and in its precision.

    Args:
        backbone: any module that gives (N, D) features; `split(model)` makes one.
        num_classes: K.
        dropout: share of features that is dropped in training, in [0, 1).
        bias: whether the head has one.
        num_features: D; by default the backbone's own `num_features`, checked or found on a dummy input.

    Raises:
        UsageError: `num_classes` < 1 or `dropout` outside [0, 1).
        SplitError: the backbone does not give (N, D) features.
    """
    if num_classes < 1:
        raise UsageError(f"a head has at least one class: {num_classes=}")
    if not 0.0 <= dropout < 1.0:
        raise UsageError(f"dropout is a share in [0, 1): {dropout=}")
    width = num_features if num_features is not None else features_of(backbone)
    like = next((p for p in backbone.parameters() if p.is_floating_point()), torch.zeros(0))
    linear = nn.Linear(width, num_classes, bias=bias, device=like.device, dtype=like.dtype)
    nn.init.normal_(linear.weight, std=0.01)
    if bias:
        nn.init.zeros_(linear.bias)
    return Classifier(backbone, nn.Sequential(nn.Dropout(dropout), linear) if dropout else linear)


def features_of(backbone: nn.Module) -> int:
    """D, the width of a backbone's features, found by one forward pass on a dummy input.

    Raises:
        SplitError: it cannot be run on any input that was tried, or does not give (N, D).
    """
    refuse_untraceable(backbone)
    errors: list[str] = []
    with undisturbed(backbone), torch.no_grad():
        for name, x in examples(backbone, input_size=None, example=None, batch=2):
            try:
                out = logits_of(run(backbone, x))
            except SplitError:
                raise
            except Exception as error:
                errors.append(f"{name}: {' '.join(str(error).split())[:80]}")
                continue
            if out.ndim == 2:
                return int(out.shape[1])
            raise SplitError(
                f"a backbone gives (N, D) features, this gives {tuple(out.shape)}; "
                "pool it, or take the backbone from split(model, features_from=...)"
            )
    said = getattr(backbone, "num_features", None)
    if isinstance(said, int):
        return said
    raise SplitError(f"no input that was tried fits the backbone ({errors[0]}); say graft(..., num_features=D)")


class JoinedHeads(nn.Module):
    """Several classifiers, each on its own part of the features; their scores are added and scaled.

    Attributes:
        layers: the classifiers.
        widths: how many of the D features each one takes.
        scale: 1 for the sum, 1/n for the mean.
    """

    def __init__(self, layers: Sequence[nn.Module], widths: Sequence[int], scale: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.widths = list(widths)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        parts = torch.split(features, self.widths, dim=1)
        scores = [layer(part) for layer, part in zip(self.layers, parts, strict=True)]
        return torch.stack(scores).sum(0) * self.scale


class MissingHead(nn.Module):
    """Stands where no head fits: the features were taken by hand from the middle of the model."""

    def __init__(self, features_from: str) -> None:
        super().__init__()
        self.features_from = features_from

    def forward(self, features: Tensor) -> Tensor:
        raise SplitError(
            f"features from {self.features_from!r} do not fit the model's own classifier; "
            "put a new head on: graft(backbone, num_classes)"
        )
