"""Features of all stages from one pass: [stage1 | stage2 | … | final], each the mean over its places.

Early stages hold edges and textures, late ones objects; which of them separates the user's classes is measured, not
assumed. timm's models say where their stages end (`forward_intermediates`); in any other model they are found by
running it once: the last map of each resolution, or every quarter of a stack of equal blocks.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from regraft.errors import BackboneError
from regraft.models.surgery import pool

SUFFIX = "+stages"
"""What a backbone's name ends with where its features are those of all stages."""

MOST_EQUAL_BLOCKS = 6
"""A model with more intermediate outputs than this gives those at the end of each quarter."""

ENOUGH_RESOLUTIONS = 3
"""Modules further inside are looked at only until there are as many resolutions as this."""


def staged(backbone: nn.Module, example: Tensor) -> tuple[nn.Module, dict[str, tuple[int, int]]]:
    """A backbone whose features are those of all its stages, and the columns of each.

    Args:
        backbone: in eval mode; x → (N, D).
        example: float32 (n, C, H, W) that it accepts.

    Returns:
        the module x → (N, D1 + D2 + … + D), and {"stage1": (0, D1), …, "final": (…, …)}; the columns of `final` are
        what the backbone itself gives.

    Raises:
        BackboneError: it has no stages.
    """
    with torch.no_grad():
        final = backbone(example)
        made: nn.Module | None = _of_timm(backbone, example, final)
        if made is None:
            made = _of_hooks(backbone, example)
        parts = made.parts(example)  # type: ignore[operator]
    names = [*(f"stage{number + 1}" for number in range(len(parts) - 1)), "final"]
    slices, at = {}, 0
    for name, part in zip(names, parts, strict=True):
        slices[name] = (at, at + int(part.shape[1]))
        at += int(part.shape[1])
    return made, slices


def quarters(count: int) -> list[int]:
    """Numbers of the outputs that are taken of `count`: all, or the last of each quarter."""
    if count <= MOST_EQUAL_BLOCKS:
        return list(range(count))
    return [count * part // 4 - 1 for part in (1, 2, 3, 4)]


class Intermediates(nn.Module):
    """Stages of a timm model by its own `forward_intermediates`.

    Attributes:
        body: the timm model without its classifier.
        indices: which of its intermediate outputs are taken.
    """

    def __init__(self, body: nn.Module, indices: list[int]) -> None:
        super().__init__()
        self.body = body
        self.indices = indices

    def parts(self, x: Tensor) -> list[Tensor]:
        """The pooled features of each stage, then the final ones."""
        body: Any = self.body
        final, maps = body.forward_intermediates(x, indices=self.indices)
        return [*(m.mean(dim=(2, 3)) for m in maps), body.forward_head(final, pre_logits=True)]

    def forward(self, x: Tensor) -> Tensor:
        """(N, D1 + D2 + … + D)."""
        return torch.cat(self.parts(x), dim=1)


class Hooked(nn.Module):
    """Stages of any model, caught by forward hooks.

    Attributes:
        body: the backbone.
        pooling: module name → how its output becomes (N, C): see `surgery.pool`.
    """

    def __init__(self, body: nn.Module, pooling: Mapping[str, str]) -> None:
        super().__init__()
        self.body = body
        self.pooling = dict(pooling)
        self._caught = threading.local()  # extraction threads share one module
        for name, how in self.pooling.items():
            body.get_submodule(name).register_forward_hook(self._catcher(name, how))

    def _catcher(self, name: str, how: str) -> Any:
        def catch(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            # Pooled at once: a later layer may change the map in place.
            self._caught.features[name] = pool(output, how)

        return catch

    def parts(self, x: Tensor) -> list[Tensor]:
        """The pooled features of each stage, then the final ones."""
        self._caught.features = {}
        final = self.body(x)
        return [*(self._caught.features[name] for name in self.pooling), final]

    def forward(self, x: Tensor) -> Tensor:
        """(N, D1 + D2 + … + D)."""
        return torch.cat(self.parts(x), dim=1)


def _of_timm(backbone: nn.Module, example: Tensor, final: Tensor) -> Intermediates | None:
    """None where the model does not say its stages, or its head is not all that follows them."""
    if not (hasattr(backbone, "forward_intermediates") and hasattr(backbone, "forward_head")):
        return None
    try:
        _, maps = backbone.forward_intermediates(example)  # type: ignore[operator]
        made = Intermediates(backbone, quarters(len(maps)))
        parts = made.parts(example)
    except (TypeError, RuntimeError, AssertionError, IndexError, AttributeError):  # an older or partial implementation
        return None
    same = parts[-1].shape == final.shape and torch.allclose(parts[-1], final, rtol=1e-4, atol=1e-5)
    return made if len(parts) > 1 and same else None


@dataclass(frozen=True, slots=True)
class _Seen:
    """One module's output in the order of completion."""

    name: str
    type: str
    shape: tuple[int, ...]

    @property
    def depth(self) -> int:
        return self.name.count(".")


def stage_ends(backbone: nn.Module, example: Tensor) -> dict[str, str]:
    """The modules at which the stages of a backbone end, in order, and how the output of each becomes (N, C).

    Args:
        backbone: in eval mode; x → (N, D).
        example: float32 (n, C, H, W) that it accepts.

    Returns:
        module name → a word of `surgery.pool`; empty where neither maps that shrink nor blocks that repeat are found.
    """
    seen: list[_Seen] = []
    handles = [
        module.register_forward_hook(
            lambda m, _, out, name=name: (
                seen.append(_Seen(name, type(m).__name__, tuple(out.shape))) if isinstance(out, Tensor) else None
            )
        )
        for name, module in backbone.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            backbone(example)
    finally:
        for handle in handles:
            handle.remove()
    once = {name for name, count in Counter(s.name for s in seen).items() if count == 1}
    # A module that runs twice is no stage; one that changes the number of images works on windows of them.
    seen = [s for s in seen if s.name in once and s.shape[:1] == example.shape[:1]]
    return _blocks(seen) or _resolutions(seen)


def _of_hooks(backbone: nn.Module, example: Tensor) -> Hooked:
    pooling = stage_ends(backbone, example)
    if not pooling:
        raise BackboneError(
            f"stages are maps that shrink or blocks that repeat, {type(backbone).__name__} shows neither; "
            "name one layer instead: --features-from LAYER"
        )
    return Hooked(backbone, pooling)


def _blocks(seen: list[_Seen]) -> dict[str, str]:
    """The ends of the quarters of the longest row of at least four sibling blocks that give equal (N, T, C)."""
    rows: dict[tuple[str, str, tuple[int, ...]], list[str]] = {}
    for s in seen:
        if len(s.shape) == 3 and s.shape[1] > 1:
            rows.setdefault((s.name.rpartition(".")[0], s.type, s.shape), []).append(s.name)
    longest = max(rows.values(), key=len, default=[])
    return {longest[i]: "channels_last" for i in quarters(len(longest))} if len(longest) >= 4 else {}


def _resolutions(seen: list[_Seen]) -> dict[str, str]:
    """The last map of each resolution, from fine to coarse, of modules that are nested no deeper than needed."""
    best: dict[str, str] = {}
    for depth in sorted({s.depth for s in seen}):
        ends: dict[int, tuple[str, str]] = {}
        for s in seen:
            if len(s.shape) != 4 or s.depth > depth:
                continue
            last = s.shape[1] == s.shape[2] != s.shape[3]
            places = s.shape[1] * s.shape[2] if last else s.shape[2] * s.shape[3]
            if places > 1:
                ends[places] = (s.name, "channels_last" if last else "channels_first")
        if len(ends) > len(best):
            best = dict(ends[places] for places in sorted(ends, reverse=True))
        if len(best) >= ENOUGH_RESOLUTIONS:
            break
    return best
