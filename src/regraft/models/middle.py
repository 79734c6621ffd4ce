"""Features from the middle of a model, where the user names the module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from regraft.errors import SplitError, nearest
from regraft.models.surgery import Tap, TappedBackbone, pool, replaced
from regraft.models.tracing import Example, InputSize, examples, run

_CLASS_TOKENS = ("cls_token", "class_token", "cls", "class_embedding")


def cut_behind(
    module: nn.Module, name: str, *, input_size: InputSize | None, example: Example | None
) -> tuple[TappedBackbone, Example, str]:
    """The model up to and including a module, as a backbone. Call it inside `undisturbed` and `no_grad`.

    Modules that run only later are left out of the backbone.

    Returns:
        the backbone, the dummy input that fitted, and in words how its output is pooled.

    Raises:
        SplitError: there is no such module, it is not reached, or its output is no tensor of features.
    """
    modules = dict(module.named_modules())
    if name not in modules or not name:
        raise SplitError(
            f"features_from names a module of the model, not {name!r}{nearest(name, [n for n in modules if n])}; "
            "all names: describe(model)"
        )
    errors: list[str] = []
    for label, x in examples(module, input_size=input_size, example=example, batch=2):
        whole = TappedBackbone(replaced(module, {name: Tap(modules[name])}), 0)
        try:
            features, unused = _until(whole, module, x)
        except Exception as error:  # a stranger's forward may raise anything; the next input may fit
            errors.append(f"{label}: {' '.join(str(error).split())[:120]}")
            continue
        if features.ndim < 2 or not features.is_floating_point():
            raise SplitError(f"features are real (N, D), {name!r} gives {features.dtype} {tuple(features.shape)}")
        pooling, how = _pooling(module, features)
        exchange: dict[str, nn.Module] = {name: Tap(modules[name]), **{n: nn.Identity() for n in unused}}
        width = int(pool(features, pooling).shape[1])
        backbone = TappedBackbone(replaced(module, exchange), width, pooling)
        try:
            same = _same(run(backbone, x), pool(features, pooling))
        except Exception:  # the model looks at a module that it has not run yet: keep them all
            same = False
        return backbone if same else TappedBackbone(whole.body, width, pooling), x, how
    raise SplitError(f"no input that was tried reaches {name!r} ({errors[0]}); say input_size=(C, H, W) or example=")


def _until(tapped: TappedBackbone, module: nn.Module, x: Example) -> tuple[Tensor, list[str]]:
    """What arrives at the tap, and the topmost modules with parameters that had not begun to run by then."""
    begun: set[int] = set()
    handles = [m.register_forward_pre_hook(lambda m, _: begun.add(id(m))) for m in tapped.body.modules()]
    args, kwargs = (x, {}) if isinstance(x, tuple) else ((), x) if isinstance(x, dict) else ((x,), {})
    try:
        features = tapped.reached(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    unused: list[str] = []
    for name, m in tapped.body.named_modules(remove_duplicate=False):
        if not name or any(name.startswith(f"{u}.") for u in unused):
            continue
        if not any(id(child) in begun for child in m.modules()) and any(True for _ in m.parameters()):
            unused.append(name)
    return features, unused


def _pooling(module: nn.Module, features: Tensor) -> tuple[str, str]:
    """How a map or a sequence becomes (N, D), by its shape and by what the model says of itself; and in words."""
    shape = tuple(features.shape)
    if features.ndim == 2:
        return "flatten", "it is a vector already"
    if features.ndim == 3:
        token = any(n.rpartition(".")[2] in _CLASS_TOKENS for n, _ in module.named_parameters())
        if token and getattr(module, "global_pool", "token") not in ("avg", "avgmax", "max"):
            return "class_token", f"of the sequence {shape} the class token (the first) is taken"
        return "channels_last", f"the sequence {shape} is averaged over its places"
    said: Any = getattr(module, "output_fmt", None)
    square_first = shape[1] == shape[2] != shape[3] and features.ndim == 4
    if str(said).endswith("NHWC") or square_first:
        return "channels_last", f"the map {shape} (channels last) is averaged over its places"
    return "channels_first", f"the map {shape} (channels first) is averaged over its places"


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and (a.is_meta or bool(torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)))
