"""Parameter groups for an optimiser: smaller learning rates towards the input, no decay for norms and biases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from regraft.errors import UsageError
from regraft.models.heads import Classifier


def param_groups(
    model: nn.Module,
    *,
    lr: float,
    layer_decay: float | None = None,
    weight_decay: float = 0.0,
    no_decay: bool = True,
) -> list[dict[str, Any]]:
    """Groups for any `torch.optim` optimiser.

    The head learns with `lr`, a layer that is k layers before it with `lr * layer_decay**k` (Clark et al. 2020,
    ELECTRA; Bao et al. 2021, BEiT). What a layer is, timm's models say themselves (`group_matcher`, by
    `timm.optim.param_groups_layer_decay`); elsewhere it is a block of the deepest repeated structure, in the order of
    the modules.

    Args:
        model: any module, or a `Classifier`, whose head always counts as the last layer.
        lr: learning rate of the last layer.
        layer_decay: in (0, 1]; None or 1 gives every layer the same rate.
        weight_decay: for matrices and kernels.
        no_decay: leave vectors (norms, biases) and what the model itself names in `no_weight_decay()` undecayed.

    Returns:
        `{"params", "lr", "weight_decay", "name"}` for each group that has trainable parameters; every trainable
        parameter is in exactly one.

    Raises:
        UsageError: `layer_decay` is outside (0, 1], or nothing is trainable.
    """
    if layer_decay is not None and not 0.0 < layer_decay <= 1.0:
        raise UsageError(f"layer_decay is in (0, 1]: {layer_decay=}")
    decay = 1.0 if layer_decay is None else layer_decay
    depths, undecayed = _depths(model)
    names = {id(p): name for name, p in model.named_parameters()}
    top = max(depths.values(), default=0)
    groups: dict[str, dict[str, Any]] = {}
    for p in model.parameters():
        if not p.requires_grad:
            continue
        depth = depths[id(p)] if decay < 1.0 else top
        plain = no_decay and (p.ndim <= 1 or names[id(p)].endswith(".bias") or id(p) in undecayed)
        name = f"layer_{depth}_{'no_decay' if plain else 'decay'}" if decay < 1.0 else "no_decay" if plain else "decay"
        group = groups.setdefault(
            name,
            {
                "params": [],
                "lr": lr * decay ** (top - depth),
                "weight_decay": 0.0 if plain else weight_decay,
                "name": name,
            },
        )
        group["params"].append(p)
    if not groups:
        raise UsageError("an optimiser needs trainable parameters, all are frozen; unfreeze(model, from_=...) first")
    return list(groups.values())


def _depths(model: nn.Module) -> tuple[dict[int, int], set[int]]:
    """Depth of each parameter (by id; 0 is next to the input), and those that the model itself wants undecayed."""
    if isinstance(model, Classifier):
        depths, undecayed = _depths(model.backbone)
        top = max(depths.values(), default=-1) + 1
        return {**{id(p): top for p in model.head.parameters()}, **depths}, undecayed
    if (body := model._modules.get("body")) is not None and len(model._modules) == 1:
        return _depths(body)
    undecayed = set()
    if callable(said := getattr(model, "no_weight_decay", None)):
        wanted = set(said())
        undecayed = {id(p) for name, p in model.named_parameters() if name in wanted}
    if callable(getattr(model, "group_matcher", None)):
        return _depths_by_timm(model), undecayed
    depths, depth = {}, 0
    for unit in _units(model):
        parameters = [p for p in unit if id(p) not in depths]
        if parameters:
            depths.update({id(p): depth for p in parameters})
            depth += 1
    return depths, undecayed


def _depths_by_timm(model: nn.Module) -> dict[int, int]:
    from timm.optim import param_groups_layer_decay

    flags = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for p, _ in flags:  # timm leaves frozen parameters out, but their depth counts
            if p.is_floating_point():
                p.requires_grad_(True)
        groups = param_groups_layer_decay(model, layer_decay=0.5)
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)
    scales = sorted({group["lr_scale"] for group in groups})
    rank = {scale: i for i, scale in enumerate(scales)}
    depths = {id(p): rank[group["lr_scale"]] for group in groups for p in group["params"]}
    return {id(p): depths.get(id(p), 0) for p, _ in flags}


def _units(model: nn.Module) -> Iterator[list[nn.Parameter]]:
    """Parameters layer by layer, in the order of the modules.

    A norm's vectors go with the layer before them, loose parameters (tokens, embeddings) with the layer around them.
    """
    unit: list[nn.Parameter] = []
    weighty = False
    for loose, block in _blocks(model):
        heavy = not loose and any(p.ndim >= 2 for p in block)
        if heavy and weighty:
            yield unit
            unit, weighty = [], False
        unit = unit + block
        weighty = weighty or heavy
    if unit:
        yield unit


def _blocks(module: nn.Module) -> Iterator[tuple[bool, list[nn.Parameter]]]:
    """The module's own loose parameters (True), then its children (False); what only holds blocks is opened."""
    yield True, list(module.parameters(recurse=False))
    for child in module.children():
        if type(child) in (nn.Sequential, nn.ModuleList, nn.ModuleDict) or _holds_blocks(child):
            yield from _blocks(child)
        else:
            yield False, list(child.parameters())


def _holds_blocks(module: nn.Module) -> bool:
    """Whether there are, anywhere inside, two or more children of one class with two or more kernels each."""
    children = list(module.children())
    if len(children) > 1 and len({type(child) for child in children}) == 1:
        kernels = [sum(p.ndim >= 2 for p in child.parameters()) for child in children]
        if min(kernels) > 1 and all(any(True for _ in child.children()) for child in children):
            return True
    return any(_holds_blocks(child) for child in children)
