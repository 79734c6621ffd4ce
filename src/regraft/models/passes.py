"""Two watched runs of a model: first what autograd makes of it, then what enters its classifier."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from regraft.errors import SplitError
from regraft.models.tracing import Example, InputSize, examples, logits_of, run

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(slots=True)
class Calls:
    """Which modules ran, and autograd's node of what they returned."""

    order: list[str] = field(default_factory=list)
    nodes: dict[Any, str] = field(default_factory=dict)
    weighted: dict[str, tuple[int, ...]] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)


def _has_weights(m: nn.Module) -> bool:
    """A leaf that owns a matrix or a kernel (parametrisations such as weight_norm count as its own)."""
    inside = [child for name, child in m.named_children() if name != "parametrizations"]
    parametrised = hasattr(m, "parametrizations")
    own = any(p.ndim >= 2 for p in m.parameters(recurse=parametrised))
    return own and not inside


def first_run(module: nn.Module, size: InputSize | None, example: Example | None) -> tuple[Example, Any, Calls]:
    """Run the model once with autograd, keeping the graph but none of the activations."""
    errors: list[str] = []
    for name, x in examples(module, input_size=size, example=example, batch=2):
        calls = Calls()
        try:
            with (
                watched(module, functools.partial(_note, calls)),
                torch.enable_grad(),
                torch.autograd.graph.saved_tensors_hooks(lambda t: t.shape, _never),
            ):
                output = run(module, _tracked(x))
        except Exception as error:  # a stranger's forward may raise anything; the next input may fit
            errors.append(f"{name}: {' '.join(str(error).split())[:160]}")
            continue
        return x, output, calls
    raise SplitError(f"no input that was tried fits the model ({errors[0]}); say input_size=(C, H, W) or example=")


def _never(_: Any) -> Tensor:
    raise RuntimeError("the graph is only looked at, never run backwards")


def _tracked(x: Example) -> Example:
    """The example with floating-point tensors that autograd follows (not leaves: a model may change them in place)."""
    if isinstance(x, Tensor):
        return x.detach().clone().requires_grad_() * 1 if x.is_floating_point() or x.is_complex() else x
    if isinstance(x, tuple):
        return tuple(_tracked(v) for v in x)
    return {k: _tracked(v) for k, v in x.items()} if isinstance(x, dict) else x


def _note(calls: Calls, name: str, m: nn.Module, _: tuple[Any, ...], output: Any) -> None:
    calls.order.append(name)
    if not isinstance(output, Tensor):
        return
    if output.grad_fn is not None:
        calls.outputs.setdefault(name, output.grad_fn)
    if _has_weights(m):
        calls.weighted[name] = tuple(output.shape)
        if output.grad_fn is not None:
            calls.nodes[output.grad_fn] = name


@contextmanager
def watched(module: nn.Module, note: Callable[[str, nn.Module, tuple[Any, ...], Any], None]) -> Iterator[None]:
    """Inside, `note(name, module, inputs, output)` is called whenever a module of the model has run."""
    handles: list[RemovableHandle] = []
    try:
        handles += [m.register_forward_hook(functools.partial(note, name)) for name, m in module.named_modules()]
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Dropouts(TorchFunctionMode):
    """Sees calls of `torch.nn.functional.dropout` that no module makes."""

    def __init__(self) -> None:
        super().__init__()
        self.last: tuple[float, Tensor] | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is nn.functional.dropout and isinstance(out, Tensor):
            p = (kwargs or {}).get("p", args[1] if len(args) > 1 else 0.5)
            self.last = (float(p), out)
        return out


@dataclass(slots=True)
class Watch:
    """What was seen on the second run: what entered the classifier, and what ran directly before it."""

    entering: dict[str, Tensor] = field(default_factory=dict)
    before: dict[str, list[str]] = field(default_factory=dict)
    functional: dict[str, float] = field(default_factory=dict)
    leaves: list[tuple[str, nn.Module, Any]] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.zeros(0))

    def dropouts_before(self, layer: str) -> list[str]:
        return self.before.get(layer, [])

    def functional_dropout(self, module: nn.Module, layer: str) -> tuple[str, str, float] | None:
        p = self.functional.get(layer, 0.0)
        owner = layer
        while p and owner:
            owner = owner.rpartition(".")[0]
            for attribute, value in vars(module.get_submodule(owner)).items():
                if "drop" in attribute and isinstance(value, float) and value == p:
                    return owner, attribute, p
        return None


def second_run(module: nn.Module, layers: list[str], x: Example) -> Watch:
    watch, mode = Watch(), _Dropouts()
    modules = dict(module.named_modules())
    counts: dict[str, int] = {}

    def leaf_ran(name: str, m: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        counts[name] = counts.get(name, 0) + 1
        if not any(True for _ in m.children()) and name not in layers:
            watch.leaves = [*watch.leaves[-3:], (name, m, output if isinstance(m, _DROPOUTS) else None)]

    def enters(name: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not inputs or not isinstance(inputs[0], Tensor):
            return
        watch.entering[name] = inputs[0].detach().clone()  # the model may go on changing it in place
        chain: list[str] = []
        for leaf, m, output in reversed(watch.leaves):
            if not isinstance(m, _DROPOUTS) or output is None or output.data_ptr() != inputs[0].data_ptr():
                break
            chain.insert(0, leaf)
        watch.before[name] = chain
        if not chain and mode.last is not None and mode.last[1].data_ptr() == inputs[0].data_ptr():
            watch.functional[name] = mode.last[0]

    handles = [modules[n].register_forward_pre_hook(functools.partial(enters, n)) for n in layers]
    try:
        with watched(module, leaf_ran), torch.no_grad(), mode:
            watch.logits = logits_of(run(module, x)).detach()
    finally:
        for handle in handles:
            handle.remove()
    for name, chain in watch.before.items():
        watch.before[name] = [d for d in chain if counts[d] == 1]
    return watch
