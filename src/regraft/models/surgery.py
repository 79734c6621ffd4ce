"""A second view of a model with some of its modules exchanged; everything else is shared, nothing is copied.

replaced   the model with modules exchanged by name; only the modules on the way there are new objects
FlatBackbone   makes (N, D) features of whatever a model returns
Tap        ends the forward pass where the features enter the classifier
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from regraft.models.tracing import logits_of


def replaced(module: nn.Module, exchange: Mapping[str, nn.Module]) -> nn.Module:
    """The same model with other modules at some names.

    Modules on the way to an exchanged one become new objects of the same class that share parameters, buffers and
    attributes with the old ones; all other modules are the very same objects. The original is untouched, and what
    is trained through one view is trained in both. State-dict keys stay.

    Args:
        module: the model.
        exchange: module name (as in `named_modules`) → what stands there instead.
    """
    if "" in exchange:
        return exchange[""]
    clone = object.__new__(type(module))
    clone.__dict__.update(
        module.__dict__
    )  # the dicts of parameters and buffers are shared on purpose: .to() reaches both
    clone.__dict__["_modules"] = dict(module._modules)
    below: dict[str, dict[str, nn.Module]] = {}
    for name, new in exchange.items():
        child, _, rest = name.partition(".")
        below.setdefault(child, {})[rest] = new
    for child, inner in below.items():
        old = module._modules[child]
        assert old is not None
        clone._modules[child] = replaced(old, inner)
    return clone


class FlatBackbone(nn.Module):
    """(N, D) features of a model whose classifier has been taken out.

    Used where the model itself returns something else: a dict, a tuple, a map of (N, C, H, W), or scaled features.

    Attributes:
        body: the model without its classifier.
        num_features: D.
    """

    def __init__(self, body: nn.Module, num_features: int, scale: float = 1.0) -> None:
        super().__init__()
        self.body = body
        self.num_features = num_features
        self.scale = scale

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Features (N, D) of the model's usual input."""
        features = logits_of(self.body(*args, **kwargs)).flatten(1)
        return features if self.scale == 1.0 else features * self.scale


class _Reached(Exception):
    def __init__(self, features: Tensor) -> None:
        super().__init__("the features are here")
        self.features = features


class Tap(nn.Module):
    """Stands where the classifier stood and ends the forward pass with what came in.

    Attributes:
        layer: runs first where the features are its output, None where they are what enters.
    """

    def __init__(self, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        out = args[0] if self.layer is None else self.layer(*args, **kwargs)
        raise _Reached(logits_of(out))


class TappedBackbone(nn.Module):
    """Features of a model that is left in the middle of its forward pass.

    Attributes:
        body: the model with a `Tap` in it.
        num_features: D.
        pooling: how a map or a sequence becomes (N, D): see `pool`.
    """

    def __init__(self, body: nn.Module, num_features: int, pooling: str = "flatten") -> None:
        super().__init__()
        self.body = body
        self.num_features = num_features
        self.pooling = pooling

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Features (N, D) of the model's usual input."""
        return pool(self.reached(*args, **kwargs), self.pooling)

    def reached(self, *args: Any, **kwargs: Any) -> Tensor:
        """What arrives at the tap, not pooled."""
        try:
            self.body(*args, **kwargs)
        except _Reached as reached:
            return reached.features
        raise RuntimeError("the forward pass did not come by the place where the features are")


def pool(features: Tensor, pooling: str) -> Tensor:
    """(N, D) of a map or a sequence.

    Args:
        features: (N, D), (N, C, ...), (N, ..., C) or (N, T, C).
        pooling: `flatten`; `channels_first` or `channels_last`, the mean over the other axes; `class_token`, the first
            of the sequence.
    """
    if features.ndim == 2 or pooling == "flatten":
        return features.flatten(1)
    if pooling == "class_token":
        return features[:, 0]
    axes = range(2, features.ndim) if pooling == "channels_first" else range(1, features.ndim - 1)
    return features.mean(dim=tuple(axes))


class Slot(nn.Module):
    """Stands for one of several classifiers whose scores the model adds up: its input at its own place in (N, ΣD).

    The sum (or mean) of the padded vectors is their concatenation (divided by their number), so the model's own
    code joins the features and nothing about it must be known.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.pad(x, (self.before, self.after))
