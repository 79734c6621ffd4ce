"""Freeze and thaw the front of a model.

A frozen parameter gets no gradient (`p.requires_grad_(False)`), and a frozen norm layer also keeps its running
statistics: it stays in eval mode, whatever `model.train()` says. Without the second half a "frozen" batch norm goes on
learning the new data's statistics under weights that cannot follow.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from torch import nn

from regraft.errors import UsageError, nearest

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)


def freeze(model: nn.Module, until: str | None = None) -> list[str]:
    """Freeze a model from its input up to and including a module.

    The order is that of `model.named_modules()`, which is the order of the layers in all but very odd models;
    parameters of the model itself (a class token, position embeddings) belong to its beginning.

    Args:
        model: any module; changed in place. Frozen norm layers stay in eval mode after `model.train()`, in copies
            and pickles of the model, and inside DistributedDataParallel.
        until: name of the last module that is frozen; None freezes everything.

    Returns:
        names of the parameters that were trainable before.

    Raises:
        UsageError: there is no module of that name.
    """
    trainable = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    changed = []
    for module in _through(model, until):
        for p in module.parameters(recurse=False):
            p.requires_grad_(False)
            if name := trainable.pop(id(p), ""):
                changed.append(name)
        if is_norm(module):
            module.__dict__["train"] = functools.partial(_stay_in_eval, module)
            module.train()
    return changed


def unfreeze(model: nn.Module, from_: str | None = None) -> list[str]:
    """Thaw a model from a module (included) to its output; None thaws everything.

    Thawed norm layers follow `model.train()` again, and take the model's mode at once. Integer parameters, which
    cannot have gradients, are left alone.

    Returns:
        names of the parameters that were frozen before.

    Raises:
        UsageError: there is no module of that name.
    """
    frozen = {id(p): n for n, p in model.named_parameters() if not p.requires_grad}
    changed = []
    for module in _from(model, from_):
        for p in module.parameters(recurse=False):
            if p.is_floating_point() or p.is_complex():
                p.requires_grad_(True)
                if name := frozen.pop(id(p), ""):
                    changed.append(name)
        if module.__dict__.pop("train", None) is not None:
            module.train(model.training)
    return changed


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises: torch's classes, and any leaf with own weights or statistics that is named so."""
    if isinstance(module, _NORMS):
        return True
    own = any(True for _ in module.parameters(recurse=False)) or any(True for _ in module.buffers(recurse=False))
    return own and "norm" in type(module).__name__.lower()


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    """What `train` means for a frozen norm layer. A module-level function, so that models pickle and copy."""
    return type(module).train(module, False)


def _through(model: nn.Module, last: str | None) -> Iterator[nn.Module]:
    _known(model, last)
    for name, module in model.named_modules():
        yield module
        if last is not None and name == last:
            yield from module.modules()
            return


def _from(model: nn.Module, first: str | None) -> Iterator[nn.Module]:
    _known(model, first)
    begun = not first
    for name, module in model.named_modules():
        begun = begun or name == first
        if begun:
            yield module


def _known(model: nn.Module, name: str | None) -> None:
    names = dict(model.named_modules())
    if name is not None and name not in names:
        raise UsageError(
            f"freezing ends at a module of the model, not {name!r}{nearest(name, names)}; all: describe(model)"
        )


def freeze_statistics(model: nn.Module) -> int:
    """Keep the running statistics of every batch norm: it stays in eval mode, its scale and shift go on learning.

    Returns:
        how many there are.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for layer in layers:
        layer.__dict__["train"] = functools.partial(_stay_in_eval, layer)
        layer.train()
    return len(layers)
