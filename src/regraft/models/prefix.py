"""Cut a backbone behind its second-to-last stage: what can be frozen, run once and kept, and what goes on learning."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regraft.models.stages import stage_ends
from regraft.models.surgery import Tap, TappedBackbone, replaced

TOLERANCE = 1e-4
"""Largest relative difference between the two parts one after the other and the whole."""


class Prefix(nn.Module):
    """The backbone up to and including a module: x → what that module gives."""

    def __init__(self, backbone: nn.Module, until: str) -> None:
        super().__init__()
        self._tapped = TappedBackbone(replaced(backbone, {until: Tap(backbone.get_submodule(until))}), 0)

    def forward(self, x: Tensor) -> Tensor:
        """The activations, as the module leaves them."""
        return self._tapped.reached(x)


def before_last_stage(backbone: nn.Module, example: Tensor) -> str | None:
    """Name of the module at which the second-to-last stage ends, or None where there is only one stage.

    Args:
        backbone: in eval mode; x → (N, D).
        example: float32 (n, C, H, W) that it accepts.
    """
    ends = list(stage_ends(backbone, example))
    return ends[-2] if len(ends) > 1 else None


def cut_behind_prefix(backbone: nn.Module, until: str, example: Tensor) -> tuple[Prefix, nn.Module] | None:
    """The two parts, which share their modules with the backbone: `suffix(prefix(x))` equals `backbone(x)`.

    Every module up to `until` becomes an identity in the suffix. That is right where the modules follow one another
    and nothing else happens between them; it is tried on the example, and where the results differ (position
    embeddings that are added on the way, connections that skip the cut) there is no cut.

    Args:
        backbone: in eval mode; x → (N, D).
        until: last module of the prefix.
        example: float32 (n, C, H, W), n > 1.

    Returns:
        prefix and suffix, or None.
    """
    prefix = Prefix(backbone, until)
    suffix = replaced(backbone, {name: nn.Identity() for name in _topmost(backbone, until)})
    try:
        with torch.no_grad():
            whole = backbone(example)
            activations = prefix(example)
            parts = suffix(activations)
    except Exception:  # a stranger's forward may raise anything on what it does not expect
        return None
    if not isinstance(activations, Tensor) or parts.shape != whole.shape:
        return None
    scale = max(1.0, float(whole.abs().max()))
    return (prefix, suffix) if float((parts - whole).abs().max()) <= TOLERANCE * scale else None


def _topmost(backbone: nn.Module, until: str) -> list[str]:
    """The fewest modules that hold everything up to and including `until`."""
    names, at = [], backbone
    path = until.split(".")
    for depth, child in enumerate(path):
        above = ".".join(path[:depth])
        for name in at._modules:
            if name == child:
                break
            names.append(f"{above}.{name}" if above else name)
        at = at.get_submodule(child)
    return [*names, until]
