"""What the layers of a network see: moments before each batch norm, by hooks in one pass; and a network untrained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.images import Transform

if TYPE_CHECKING:
    from torch import nn

CHUNK = 16
CALIBRATION_IMAGES = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """One batch-norm layer.

    Attributes:
        name: within the network.
        means: float64 (n, C), of its input, per image and channel.
        squares: float64 (n, C), mean of squares.
        run_mean: float64 (C,), what training kept.
        run_var: float64 (C,).
    """

    name: str
    means: NDArray[np.float64]
    squares: NDArray[np.float64]
    run_mean: NDArray[np.float64]
    run_var: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """What came of one pass: features float32 (n, D), and the batch-norm layers in order."""

    features: NDArray[np.float32]
    layers: tuple[Layer, ...]


def look(module: nn.Module, pixels: NDArray[np.uint8], transform: Transform) -> Seen:
    """One pass of uint8 (n, size, size, 3) with a hook before every batch norm that kept statistics."""
    import torch
    from torch import nn

    moments: dict[str, list[tuple[Any, Any]]] = {}
    norms: dict[str, Any] = {}
    hooks = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
            norms[name] = layer
            moments[name] = []

            def before(_: nn.Module, inputs: tuple[Any, ...], name: str = name) -> None:
                x = inputs[0].float()
                moments[name].append((x.mean((2, 3)), x.square().mean((2, 3))))

            hooks.append(layer.register_forward_pre_hook(before))
    try:
        features = _forward(module, pixels, transform)
    finally:
        for hook in hooks:
            hook.remove()
    layers = tuple(
        Layer(
            name=name,
            means=torch.cat([mean for mean, _ in moments[name]]).double().numpy(),
            squares=torch.cat([square for _, square in moments[name]]).double().numpy(),
            run_mean=layer.running_mean.double().numpy(),
            run_var=layer.running_var.double().numpy(),
        )
        for name, layer in norms.items()
        if moments[name]
    )
    return Seen(features=features, layers=layers)


def look_untrained(
    module: nn.Module, transform: Transform, *, seed: int
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """The same network with random weights, as a function from pixels to features.

    Its batch norms take their statistics from the first images of each set: untrained ones would let the signal fade,
    and the comparison would be with a broken network instead of an ignorant one.
    """
    import torch
    from torch import nn

    blank = copy.deepcopy(module)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        drawn: set[int] = set()
        for layer in blank.modules():
            if callable(getattr(layer, "reset_parameters", None)):
                layer.reset_parameters()  # type: ignore[operator]
                drawn |= {id(parameter) for parameter in layer.parameters(recurse=False)}
        for parameter in blank.parameters():
            if id(parameter) not in drawn and parameter.ndim > 1:  # position embeddings and the like
                parameter.normal_(std=0.02)
    norms = [layer for layer in blank.modules() if isinstance(layer, nn.BatchNorm2d)]

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # a plain average
            layer.train()
        if norms:
            _forward(blank, pixels[:CALIBRATION_IMAGES], transform)
        blank.eval()
        return _forward(blank, pixels, transform)

    return run


def _forward(module: nn.Module, pixels: NDArray[np.uint8], transform: Transform) -> NDArray[np.float32]:
    import torch

    from regraft.features.engines.torch import PixelBackbone
    from regraft.memory import keep_freed_memory

    keep_freed_memory()
    whole = PixelBackbone(module, transform).to(memory_format=torch.channels_last)
    starts = range(0, len(pixels), CHUNK)
    with torch.inference_mode():
        parts = [whole(torch.from_numpy(pixels[start : start + CHUNK])).float().numpy() for start in starts]
    return np.concatenate(parts)
