"""A model laid open: every module with its type, shape, parameters and cost, and where its classifier begins.

What is shown is what `list(model.modules())`, `list(model.parameters())` and `model.state_dict()` hold, made readable.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import RenderableType
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from regraft.errors import RegraftError
from regraft.models.split import SplitModel, split
from regraft.models.tracing import Example, InputSize, examples, refuse_untraceable, run, undisturbed, unwrapped
from regraft.types import JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRow:
    """One module.

    Attributes:
        name: as in `model.named_modules()`.
        type: the class's name.
        output_shape: of what it returned first (batch of 1; of several tensors the first), None where it never ran.
        own_parameters: numbers in its own parameters.
        num_parameters: numbers in its own and its children's parameters; shared ones count once.
        num_buffers: numbers in its own and its children's buffers.
        size_mb: parameters and buffers, in 10^6 bytes.
        flops: floating-point operations for one input (two for a multiply-add), None where they cannot be counted.
        requires_grad: `all`, `some` or `none` of its parameters; `-` where it has none.
        dtype: of its first parameter or buffer, such as `float32`; "" where it has none.
        device: likewise, such as `cpu`, `cuda:0`.
        num_calls: how often it ran in one forward pass.
    """

    name: str
    type: str
    output_shape: tuple[int, ...] | None
    own_parameters: int
    num_parameters: int
    num_buffers: int
    size_mb: float
    flops: int | None
    requires_grad: str
    dtype: str
    device: str
    num_calls: int

    @property
    def depth(self) -> int:
        """1 for a child of the model; 0 for the model."""
        return self.name.count(".") + 1 if self.name else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterRow:
    """One parameter.

    Attributes:
        name: its key in `model.state_dict()`.
        shape: of the tensor.
        dtype: such as `float32`.
        requires_grad: whether it learns.
        grad_norm: Euclidean norm of its gradient, None before a backward pass.
        keys: all its keys in the state dict; more than one where it is shared.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    requires_grad: bool
    grad_norm: float | None
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Description:
    """What `describe` found; prints as a tree.

    Attributes:
        model: the model itself.
        total: the row of the whole model.
        modules: a row for every module inside, in the order of `model.named_modules()`.
        num_trainable: numbers in parameters that require a gradient.
        input_shape: of the dummy input that fitted, without its batch; None where none did or it is no tensor.
        split: where the backbone ends and the classifier begins; None where it could not be told.
        note: why there is no split, or no shapes, or "".
        depth: deepest level that is shown and exported, None for as deep as is readable (printed) or all (exported).
    """

    model: nn.Module = field(repr=False)
    total: ModuleRow
    modules: tuple[ModuleRow, ...]
    num_trainable: int
    input_shape: tuple[int, ...] | None
    split: SplitModel | None
    note: str
    depth: int | None

    def rows(self, depth: int | None = None) -> tuple[ModuleRow, ...]:
        """The modules down to a level."""
        return tuple(row for row in self.modules if depth is None or row.depth <= depth)

    def parameters(self) -> tuple[ParameterRow, ...]:
        """Every parameter as it is now: after a backward pass the gradient norms are there."""
        keys: dict[int, list[str]] = {}
        for name, p in self.model.named_parameters(remove_duplicate=False):
            keys.setdefault(id(p), []).append(name)
        return tuple(
            ParameterRow(
                name=name,
                shape=tuple(p.shape),
                dtype=_short(p.dtype),
                requires_grad=p.requires_grad,
                grad_norm=None
                if p.grad is None or p.grad.is_meta
                else float(torch.linalg.vector_norm(p.grad.detach())),
                keys=tuple(keys[id(p)]),
            )
            for name, p in self.model.named_parameters()
        )

    def as_dict(self) -> JSON:
        """A JSON object: the documented keys of `regraft describe --json`, and a few more."""
        told = self.split
        in_head = _numbers(told.head.parameters()) if told is not None else None
        return {
            "num_parameters": self.total.num_parameters,
            "num_trainable": self.num_trainable,
            "num_buffers": self.total.num_buffers,
            "size_mb": self.total.size_mb,
            "flops": self.total.flops,
            "input_shape": None if self.input_shape is None else list(self.input_shape),
            "backbone": {
                "num_parameters": self.total.num_parameters if told is None else _numbers(told.backbone.parameters()),
                "num_features": None if told is None else told.num_features,
                "boundary": None if told is None else told.boundary,
                "rule": None if told is None else told.rule,
                "reason": self.note if told is None else told.reason,
            },
            "classifier": {
                "name": None if told is None or told.rule == "by hand" else told.boundary,
                "num_parameters": None if told is None or told.num_classes is None else in_head,
                "num_classes": None if told is None else told.num_classes,
            },
            "modules": [
                {
                    "name": row.name,
                    "type": row.type,
                    "output_shape": None if row.output_shape is None else list(row.output_shape),
                    "num_parameters": row.num_parameters,
                    "requires_grad": row.requires_grad,
                    "own_parameters": row.own_parameters,
                    "num_buffers": row.num_buffers,
                    "size_mb": row.size_mb,
                    "flops": row.flops,
                    "dtype": row.dtype,
                    "device": row.device,
                }
                for row in self.rows(self.depth)
            ],
        }

    def __rich__(self) -> RenderableType:
        from regraft.models.drawing import Drawing

        return Drawing(self)

    def __str__(self) -> str:
        from regraft.models.drawing import as_text

        return as_text(self)

    def print(self) -> None:
        """Draw the tree on the terminal."""
        from rich.console import Console

        Console().print(self)


def describe(
    module: nn.Module,
    *,
    input_size: InputSize | None = None,
    example: Example | None = None,
    depth: int | None = None,
    features_from: str | None = None,
) -> Description:
    """Lay a model open.

    The model runs on a dummy input in eval mode without gradients; its training flags, buffers and the random state
    are afterwards exactly as before. A model that runs on no input, or has no classifier, is described as far as that
    goes, and `note` says why.

    Args:
        module: any `nn.Module`.
        input_size: pixels, (height, width) or (channels, height, width); guessed from the model where not given.
        example: an input that the model accepts, where images do not do.
        depth: deepest level that is shown.
        features_from: by hand: the module behind which the backbone ends, as in `split`.

    Raises:
        SplitError: the module is lazy and has no shapes yet.
        UsageError: this is no module.
    """
    module = unwrapped(module)
    refuse_untraceable(module)
    traced = _trace(module, input_size, example)
    told: SplitModel | None = None
    note = traced.note
    if not note:
        try:
            told = split(module, features_from=features_from, input_size=input_size, example=example)
        except RegraftError as error:
            note = str(error)
    rows = [_row(name, m, traced) for name, m in module.named_modules()]
    return Description(
        model=module,
        total=rows[0],
        modules=tuple(rows[1:]),
        num_trainable=_numbers(p for p in module.parameters() if p.requires_grad),
        input_shape=traced.input_shape,
        split=told,
        note=note,
        depth=depth,
    )


@dataclass(slots=True)
class _Traced:
    """What one forward pass showed, by module name."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    flops: dict[str, int] | None = None
    input_shape: tuple[int, ...] | None = None
    note: str = ""


def _trace(module: nn.Module, size: InputSize | None, example: Example | None) -> _Traced:
    errors: list[str] = []
    with undisturbed(module), torch.no_grad():
        for label, x in examples(module, input_size=size, example=example, batch=1):
            shape = tuple(x.shape[1:]) if isinstance(x, Tensor) else None
            for counted in (True, False):  # some operations cannot run under the counter
                traced = _Traced(flops={} if counted else None, input_shape=shape)
                try:
                    _watch(module, x, traced)
                except Exception as error:  # a stranger's forward may raise anything; the next input may fit
                    errors.append(f"{label}: {' '.join(str(error).split())[:160]}")
                    continue
                return traced
    return _Traced(note=f"no input that was tried fits the model ({errors[0]}); say input_size=(C, H, W) or example=")


def _watch(module: nn.Module, x: Example, traced: _Traced) -> None:
    counter = FlopCounterMode(display=False) if traced.flops is not None else None
    begun: dict[str, list[int]] = {}

    def before(name: str, *_: Any) -> None:
        begun.setdefault(name, []).append(0 if counter is None else counter.get_total_flops())

    def after(name: str, _m: nn.Module, _i: Any, output: Any) -> None:
        start = begun[name].pop()
        if counter is not None and traced.flops is not None:
            traced.flops[name] = traced.flops.get(name, 0) + counter.get_total_flops() - start
        traced.calls[name] = traced.calls.get(name, 0) + 1
        tensor = _first_tensor(output)
        if tensor is not None:
            traced.shapes.setdefault(name, tuple(tensor.shape))

    handles = []
    try:
        for name, m in module.named_modules():
            handles.append(m.register_forward_pre_hook(functools.partial(before, name)))
            handles.append(m.register_forward_hook(functools.partial(after, name)))
        if counter is None:
            run(module, x)
        else:
            with counter:
                run(module, x)
    finally:
        for handle in handles:
            handle.remove()


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    inside: Iterable[Any] = output.values() if isinstance(output, Mapping) else output
    if isinstance(output, Mapping | list | tuple):
        return next((t for t in map(_first_tensor, inside) if t is not None), None)
    return getattr(output, "logits", None)


def _row(name: str, m: nn.Module, traced: _Traced) -> ModuleRow:
    parameters, buffers = list(m.parameters()), list(m.buffers())
    first = next(iter([*parameters, *buffers]), None)
    flags = {p.requires_grad for p in parameters}
    return ModuleRow(
        name=name,
        type=type(m).__name__,
        output_shape=traced.shapes.get(name),
        own_parameters=_numbers(m.parameters(recurse=False)),
        num_parameters=_numbers(parameters),
        num_buffers=_numbers(buffers),
        size_mb=round(sum(t.numel() * t.element_size() for t in [*parameters, *buffers]) / 1e6, 6),
        flops=None if traced.flops is None else traced.flops.get(name, 0),
        requires_grad="-" if not flags else "some" if len(flags) == 2 else "all" if flags == {True} else "none",
        dtype="" if first is None else _short(first.dtype),
        device="" if first is None else str(first.device),
        num_calls=traced.calls.get(name, 0),
    )


def _numbers(tensors: Iterable[Tensor]) -> int:
    return sum(t.numel() for t in {id(t): t for t in tensors}.values())


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
