"""Running somebody else's model on a dummy input without leaving a trace in it.

undisturbed   a context: eval mode, and afterwards every flag, buffer and random state is as it was
examples      dummy inputs that the model may accept, the likeliest first
run           call a model with a tensor, a tuple of arguments or a dict of keyword arguments
logits_of     the class scores in whatever the model returns
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from regraft.errors import SplitError, UsageError

Example = Any
"""A tensor, a tuple of positional arguments, or a dict of keyword arguments."""

InputSize = int | Sequence[int]
"""One side in pixels, (height, width), or the shape of one input without the batch: (channels, height, width)."""

SIDES = (224, 32, 64, 96, 28, 299, 256, 384, 128, 512)
"""Sides that are tried, in this order, where a model does not say what it takes."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def unwrapped(module: nn.Module) -> nn.Module:
    """The user's own module inside DataParallel, DistributedDataParallel and torch.compile's wrapper."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        else:
            return module


def refuse_untraceable(module: nn.Module) -> None:
    """Say why a module cannot be run on a dummy input at all.

    Raises:
        SplitError: it is lazy (its parameters have no shape yet), or a TorchScript program.
        UsageError: it is no `nn.Module`.
    """
    if not isinstance(module, nn.Module):
        raise UsageError(f"a model is an nn.Module, this is {type(module).__name__}; pass the model itself")
    if isinstance(module, torch.jit.ScriptModule):
        raise SplitError("a TorchScript module cannot be taken apart; use the Python model that it was made from")
    lazy = [name for name, p in module.named_parameters() if isinstance(p, nn.parameter.UninitializedParameter)]
    lazy += [name for name, b in module.named_buffers() if isinstance(b, nn.parameter.UninitializedBuffer)]
    if lazy:
        raise SplitError(
            f"a lazy module has no shapes before its first batch ({', '.join(lazy[:3])}); "
            "run it once: model(torch.zeros(1, channels, height, width))"
        )


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards training flags, buffers and the random state are exactly what they were.

    Gradients are not switched off here. Buffers that the model replaced are put back as the same objects.
    """
    modules = list(module.modules())
    flags = [m.training for m in modules]
    buffers = [
        (m, name, b, None if b.is_meta else b.detach().clone())
        for m in modules
        for name, b in m._buffers.items()
        if b is not None
    ]
    names = [(m, set(m._buffers)) for m in modules]
    devices = sorted({p.device.index or 0 for p in module.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a stranger's model may warn; it is not the caller's doing
        torch.default_generator.manual_seed(0)  # torch.manual_seed would also reseed devices that are not put back
        for index in devices:
            torch.cuda.default_generators[index].manual_seed(0)
        try:
            for m in modules:
                m.training = False
            yield
        finally:
            for m, flag in zip(modules, flags, strict=True):
                m.training = flag
            with torch.no_grad():
                for m, name, buffer, value in buffers:
                    m._buffers[name] = buffer
                    if value is not None:
                        buffer.copy_(value)
            for m, known in names:
                for name in set(m._buffers) - known:
                    del m._buffers[name]


def run(module: nn.Module, example: Example) -> Any:
    """Call a module: a tuple is spread over its arguments, a dict over its keywords."""
    if isinstance(example, tuple):
        return module(*example)
    if isinstance(example, Mapping):
        return module(**example)
    return module(example)


def logits_of(output: Any) -> Tensor:
    """The class scores in what a model returns: (N, K) wherever possible.

    A tensor is itself; an object or dict gives its `logits`, `out` or its only matrix; a tuple gives its first
    tensor (auxiliary outputs come later). A (N, K, 1, 1) tensor becomes (N, K), a (N,) tensor (N, 1).

    Raises:
        SplitError: there is no such tensor, or more than one.
    """
    tensor = _tensor_in(output)
    if tensor.ndim == 1:
        return tensor[:, None]
    if tensor.ndim > 2 and all(n == 1 for n in tensor.shape[2:]):
        return tensor.flatten(1)
    return tensor


def _tensor_in(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "out"):
        value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    if isinstance(output, Mapping):
        matrices = [v for v in output.values() if isinstance(v, Tensor) and v.ndim == 2]
        if len(matrices) == 1:
            return matrices[0]
        raise SplitError(
            f"a dict output needs a key 'logits' or exactly one (N, K) tensor, this has {list(output)}; "
            "wrap the model so that it returns its class scores"
        )
    if isinstance(output, list | tuple):
        for value in output:
            if value is not None:
                return _tensor_in(value)
    raise SplitError(f"a classifier returns a tensor of class scores, this returns {type(output).__name__}")


def examples(
    module: nn.Module, *, input_size: InputSize | None, example: Example | None, batch: int
) -> Iterator[tuple[str, Example]]:
    """Dummy inputs for a model, the likeliest first, each with its name for an error message.

    They are random normal numbers on the device and in the precision of the model's first parameter. What the model
    says itself comes first: timm's `pretrained_cfg`, a patch embedding's `img_size`, `image_size` of a torchvision
    ViT or a Hugging Face config; then common sides.

    Args:
        module: the model.
        input_size: what the user says; then nothing else is tried.
        example: the user's own input; then nothing else is tried.
        batch: images in a batch.
    """
    if example is not None:
        yield "the example", example
        return
    first = next((p for p in module.parameters() if p.is_floating_point() or p.is_complex()), torch.zeros(0))
    for shape in dict.fromkeys(_shapes(module, input_size)):
        yield "x".join(map(str, shape)), torch.randn((batch, *shape), device=first.device, dtype=first.dtype)


def _shapes(module: nn.Module, input_size: InputSize | None) -> Iterator[tuple[int, ...]]:
    layer = next((m for m in module.modules() if isinstance(m, (*_CONVOLUTIONS, nn.Linear))), None)
    config = getattr(module, "config", None)
    channels = int(getattr(config, "num_channels", 0) or 3)
    if isinstance(layer, _CONVOLUTIONS):
        channels = layer.in_channels
    if input_size is not None:
        size = (int(input_size),) * 2 if isinstance(input_size, int) else tuple(int(n) for n in input_size)
        yield size if len(size) != 2 else (channels, *size)
        if len(size) == 2:
            yield 3, *size  # the first layer need not see the image itself (a cosine transform before it)
        return
    for source in (getattr(module, "patch_embed", None), module, config):
        for name in ("img_size", "image_size"):
            said = getattr(source, name, None)
            if isinstance(said, int):
                yield channels, said, said
            elif isinstance(said, list | tuple) and len(said) == 2 and all(isinstance(n, int) for n in said):
                yield channels, *said
    cfg = getattr(module, "pretrained_cfg", None) or {}
    said = cfg.get("input_size") if isinstance(cfg, dict) else None
    if isinstance(said, list | tuple) and len(said) == 3:
        yield channels, int(said[1]), int(said[2])
        yield int(said[0]), int(said[1]), int(said[2])
    if type(module).__name__ == "Inception3":
        yield channels, 299, 299
    if isinstance(layer, nn.Linear):
        width = layer.in_features
        for c in (1, 3):
            side = round((width / c) ** 0.5)
            if c * side * side == width:
                yield c, side, side
        yield (width,)
    for side in SIDES:
        if isinstance(layer, nn.Conv1d):
            yield channels, side
        elif isinstance(layer, nn.Conv3d):
            yield channels, 16, side, side
        else:
            yield channels, side, side
