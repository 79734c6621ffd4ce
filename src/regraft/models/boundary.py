"""Where the backbone ends and the classifier begins.

The class scores are followed backwards through autograd's graph until a layer with weights (a matrix or a kernel, not
a norm's vector) is met on every path. If that is one layer, everything that comes out went through it: it is the
classifier, and what entered it are the features. No attribute name is needed for that; names (timm's
`get_classifier`, torchvision's `fc`, `classifier`, `heads`, `head`, a Hugging Face config) only confirm it, and
decide where autograd sees nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from regraft.errors import SplitError
from regraft.models.passes import Calls, first_run, second_run
from regraft.models.tracing import Example, InputSize, logits_of

KNOWN_NAMES = ("fc", "classifier", "heads", "head", "last_linear")
"""First parts of a classifier's name in torchvision, timm and Hugging Face transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """What is known about the place between backbone and classifier.

    Attributes:
        layers: names of the classifier layers, in the order in which they run; more than one where scores are added.
        rule: `timm get_classifier`, `known name`, `hugging face` or `traced`.
        reason: in words, why this is the boundary.
        dropouts: names of the dropout modules that run directly before the classifier; they belong to the head.
        functional_dropout: (owner's name, attribute, p) of a dropout without a module before the classifier, or None.
        entering: what enters each classifier layer, detached.
        logits: the model's class scores (N, K) on `example`, detached.
        example: the dummy input.
    """

    layers: tuple[str, ...]
    rule: str
    reason: str
    dropouts: tuple[str, ...]
    functional_dropout: tuple[str, str, float] | None
    entering: tuple[Tensor, ...]
    logits: Tensor
    example: Example


def find_boundary(module: nn.Module, *, input_size: InputSize | None, example: Example | None) -> Boundary:
    """Find the classifier of a model. Call it inside `undisturbed`.

    Raises:
        SplitError: no input fits, the model has no classifier, or it cannot be told.
    """
    refuse_unsplittable(module)
    if getattr(module, "num_classes", None) == 0:
        raise SplitError("the model has no classifier (num_classes=0): it already is a backbone; use graft(model, K)")
    x, output, calls = first_run(module, input_size, example)
    scores = logits_of(output)
    if scores.ndim != 2:
        raise SplitError(
            f"a classifier gives (N, K) scores, this gives {tuple(scores.shape)}; {by_hand(module, calls.order)}"
        )
    if not (scores.is_floating_point() or scores.is_complex()):
        raise SplitError(
            f"class scores are floating-point numbers, these are {scores.dtype}; split the model before argmax"
        )
    layers = _frontier(scores, calls)
    how = "the last layer with weights that every output passes through"
    if layers is None:
        layers, how = _last_fitting(scores, calls), "the last layer with weights that ran (autograd sees no further)"
    if not layers:
        raise SplitError(
            "every output passes through the classifier, but here inputs reach the output without any layer with "
            f"weights; {by_hand(module, calls.order)}"
        )
    layers = sorted(layers, key=calls.order.index)
    layers = _enclosing(layers, calls, scores) or layers
    if len(layers) > 4:
        raise SplitError(
            f"the outputs pass through {len(layers)} layers side by side ({', '.join(layers[:3])}, …), so there may be "
            f"no classifier at all; {by_hand(module, calls.order)}"
        )
    rule = _rule(module, layers)
    watch = second_run(module, layers, x)
    missing = [name for name in layers if name not in watch.entering]
    if missing:
        raise SplitError(f"the layer {missing[0]!r} did not take a tensor; {by_hand(module, calls.order)}")
    return Boundary(
        layers=tuple(layers),
        rule=rule,
        reason=f"{' + '.join(layers)} is {how}" + _confirmation(rule, module),
        dropouts=tuple(watch.dropouts_before(layers[0])) if len(layers) == 1 else (),
        functional_dropout=watch.functional_dropout(module, layers[0]) if len(layers) == 1 else None,
        entering=tuple(watch.entering[name] for name in layers),
        logits=watch.logits,
        example=x,
    )


def refuse_unsplittable(module: nn.Module) -> None:
    """Raise `SplitError` for quantised modules: their layers have packed weights and no gradient to follow."""
    for name, m in module.named_modules():
        if ".quantized" in type(m).__module__ or "torchao" in type(getattr(m, "weight", None)).__module__:
            raise SplitError(
                f"a quantised layer cannot be taken apart ({name}: {type(m).__name__}); split the float model first, "
                "then quantise the backbone"
            )


def by_hand(module: nn.Module, ran: list[str]) -> str:
    """The way out: how to name the place by hand, with the modules that could be meant."""
    names = [n for n in dict(module.named_modules()) if n and n.count(".") <= 1 and n in set(ran)]
    return (
        f"say it by hand: features_from=NAME (--features-from NAME), one of {', '.join(names[-8:]) or '(no child)'}; "
        "a model without classifier is a backbone already: graft(model, K)"
    )


def _frontier(scores: Tensor, calls: Calls) -> list[str] | None:
    """The first layers with weights on every way back from the scores; None where autograd does not see them.

    An empty list: some way leads back to an input without meeting any.
    """
    if scores.grad_fn is None:
        return None
    found: dict[str, None] = {}
    seen: set[Any] = set()
    todo: list[Any] = [scores.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in calls.nodes:
            found[calls.nodes[node]] = None
            continue
        variable = getattr(node, "variable", None)
        if variable is not None and not isinstance(variable, nn.Parameter):
            return []
        todo += [n for n, _ in node.next_functions]
    return list(found)


def _last_fitting(scores: Tensor, calls: Calls) -> list[str]:
    """By order alone: the last layer with weights whose output is as wide as the scores."""
    fitting = [n for n in calls.order if n in calls.weighted and scores.shape[1] in calls.weighted[n][1:]]
    return fitting[-1:]


def _enclosing(layers: list[str], calls: Calls, scores: Tensor) -> list[str] | None:
    """Several layers in one module that every output passes through (a low-rank adapter, a gated head): that module."""
    if len(layers) < 2:
        return None
    parts = [name.split(".") for name in layers]
    depth = 0
    while all(len(p) > depth + 1 for p in parts) and len({p[depth] for p in parts}) == 1:
        depth += 1
    for length in range(depth, 0, -1):
        name = ".".join(parts[0][:length])
        node = calls.outputs.get(name)
        if node is not None and _all_through(scores, node):
            return [name]
    return None


def _all_through(scores: Tensor, node: Any) -> bool:
    """Whether every way back from the scores to an input or a parameter passes `node`."""
    seen: set[Any] = set()
    todo: list[Any] = [scores.grad_fn]
    while todo:
        here = todo.pop()
        if here is None or here in seen or here is node:
            continue
        seen.add(here)
        if hasattr(here, "variable"):
            return False
        todo += [n for n, _ in here.next_functions]
    return True


def _rule(module: nn.Module, layers: list[str]) -> str:
    get = getattr(module, "get_classifier", None)
    if callable(get):
        try:
            said = get()
        except Exception:  # some models of timm have the method and no such attribute
            said = None
        parts = said if isinstance(said, tuple | list) else [said]
        inside = {id(m) for part in parts if isinstance(part, nn.Module) for m in part.modules()}
        if all(id(module.get_submodule(name)) in inside for name in layers):
            return "timm get_classifier"
    config = getattr(module, "config", None)
    named = all(any(name.partition(".")[0].startswith(known) for known in KNOWN_NAMES) for name in layers)
    if named and hasattr(config, "num_labels"):
        return "hugging face"
    return "known name" if named else "traced"


def _confirmation(rule: str, module: nn.Module) -> str:
    labels = getattr(getattr(module, "config", None), "num_labels", "?")
    return {
        "timm get_classifier": ", and timm's get_classifier() names it",
        "known name": ", and it has a usual name",
        "hugging face": f", and the config speaks of {labels} labels",
    }.get(rule, "")
