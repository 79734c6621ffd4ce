"""A model as a graph of its steps, for TensorBoard."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from regraft.tracking.base import GraphNode

MOST_NODES = 20_000
"""TensorBoard's page stands no more."""


def graph_nodes(model: nn.Module) -> list[GraphNode]:
    """Every step of `forward`, leaf modules as one; empty where the model's code depends on what flows through it.

    Nothing is computed: torch.fx follows the code with stand-ins for tensors.
    """
    try:
        graph = _Layers().trace(model)
    except Exception:  # a stranger's forward: torch.fx raises whatever the code does with a stand-in
        return []
    modules = dict(model.named_modules())
    names: dict[fx.Node, str] = {}
    taken: set[str] = set()
    nodes: list[GraphNode] = []
    for node in graph.nodes:
        if node.op == "get_attr":
            continue
        target, about = _target(node), ""
        if node.op == "call_module":
            module = modules[str(node.target)]
            target, about = type(module).__name__, module.extra_repr()
            name = str(node.target).replace(".", "/")
        else:
            scope = _scope(node)
            name = f"{scope}/{node.name}" if scope else node.name
        name = name if name not in taken else f"{name}/{node.name}"
        taken.add(name)
        names[node] = name
        inputs = tuple(names[source] for source in node.all_input_nodes if source in names)
        nodes.append(GraphNode(name, target, inputs, about))
    return nodes[:MOST_NODES]


class _Layers(fx.Tracer):
    """Takes what has no parts, and what is a convolution or a norm by its class, as one step.

    Their code may depend on shapes, as that of timm's convolutions with TensorFlow's padding does.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(m.children()) or isinstance(m, _LAYERS) or super().is_leaf_module(m, module_qualified_name)


_LAYERS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.Linear)


def _target(node: Any) -> str:
    if node.op in ("placeholder", "output"):
        return str(node.op)
    return getattr(node.target, "__name__", str(node.target))


def _scope(node: Any) -> str:
    """The path of the module in whose forward a function was called."""
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack))).replace(".", "/") if stack else ""
