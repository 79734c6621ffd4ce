"""The bundle: a trained classifier as a folder of plain data. Nothing in it is executed on loading.

    model/
      config.json              class names, exact preprocessing, head, calibration, versions
      head.safetensors         weight f32 (K, D), bias f32 (K,)
      backbone.safetensors     the backbone's state dict, for PyTorch
      backbone/model.xml,.bin  the backbone for OpenVINO, so that predicting needs no torch
      README.md                a model card

Loading checks every file against the hash that `config.json` records.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from regraft.errors import BundleError
from regraft.files import write_bytes, write_json
from regraft.images import ResizePolicy, Transform
from regraft.models.backbones import Backbone, hash_file, rebuild
from regraft.types import JSON, printable

if TYPE_CHECKING:
    from torch import nn

FORMAT = "regraft-bundle/1"
Precision = Literal["fp32", "bf16"]
_HEAD, _BACKBONE, _IR = "head.safetensors", "backbone.safetensors", "backbone"
_FILES = (_HEAD, _BACKBONE, f"{_IR}/model.xml", f"{_IR}/model.bin")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """A solved linear head: logits = features @ weight.T + bias, probabilities = softmax(logits / temperature).

    Attributes:
        weight: float32 (K, D).
        bias: float32 (K,); a logit adjustment, where one was chosen, is included.
        temperature: of the calibration.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    temperature: float

    def pred_probs(self, features: NDArray[np.float16] | NDArray[np.float32]) -> NDArray[np.float64]:
        """float64 (N, K) of features (N, D), which are rounded to float16 first, as the cache rounds them."""
        logits = features.astype(np.float16).astype(np.float32) @ self.weight.T + self.bias
        scaled = logits.astype(np.float64) / self.temperature
        scaled -= scaled.max(axis=1, keepdims=True, initial=-np.inf)
        np.exp(scaled, out=scaled)
        return np.asarray(scaled / scaled.sum(axis=1, keepdims=True), np.float64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bundle:
    """A trained classifier as loaded from its folder.

    Attributes:
        path: the folder.
        class_names: K names, in the order of the head's rows.
        transform: the exact preprocessing.
        precision: of the backbone's arithmetic when the head was solved.
        head: the classifier.
        backbone: ready to be opened by an engine.
        config: the whole of `config.json`.
    """

    path: Path
    class_names: tuple[str, ...]
    transform: Transform
    precision: str
    head: Head
    backbone: Backbone
    config: JSON


def save_bundle(
    folder: Path,
    *,
    class_names: tuple[str, ...],
    transform: Transform,
    precision: str,
    head: Head,
    backbone: Backbone,
    backbone_files: Mapping[str, Path],
    versions: Mapping[str, str],
    details: JSON,
    card: str,
) -> None:
    """Write a bundle.

    Args:
        folder: where; created.
        class_names: K names.
        transform: the exact preprocessing.
        precision: of the features the head was solved on.
        head: the solved head.
        backbone: what made the features.
        backbone_files: name in the bundle to file, such as {"backbone.safetensors": …, "backbone/model.xml": …}.
        versions: of the packages that took part.
        details: further facts for the record (strategy, strength, data version).
        card: the model card, Markdown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / _HEAD, save({"weight": head.weight, "bias": head.bias}))
    for name, source in backbone_files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)
    write_bytes(folder / "README.md", card.encode("utf-8"))
    files = {name: hash_file(folder / name) for name in (_HEAD, *backbone_files)}
    config = {
        "format": FORMAT,
        "class_names": list(class_names),
        "transform": transform.as_dict(),
        "precision": precision,
        "head": {"temperature": head.temperature, "num_classes": len(class_names)},
        "backbone": {
            "name": backbone.name,
            "source": backbone.source,
            "weights_hash": backbone.weights_hash,
            "num_features": backbone.num_features,
            "num_parameters": backbone.num_parameters,
            "features_from": backbone.features_from,
            "slices": {name: list(span) for name, span in backbone.slices.items()},
            "recipe": dict(backbone.recipe),
        },
        "details": details,
        "versions": dict(versions),
        "files": files,
    }
    write_json(folder / "config.json", config)  # last: a bundle without it is incomplete


def load_bundle(path: Path) -> Bundle:
    """Read a bundle: a run folder, or the `model` folder in it. No code of the bundle is run.

    Raises:
        BundleError: it is missing, incomplete, damaged, or not a bundle.
    """
    folder = path / "model" if (path / "model" / "config.json").is_file() else path
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except OSError:
        raise BundleError(f"a model is a run folder or its model/ folder: {str(path)!r} has no config.json") from None
    except (ValueError, RecursionError) as error:
        raise BundleError(f"the model {str(folder)!r} is damaged: config.json is not JSON ({error})") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        found = config.get("format") if isinstance(config, dict) else type(config).__name__
        raise BundleError(f"the model {str(folder)!r} must have the format {FORMAT!r}: it has {found!r}")
    _check_files(folder, config)
    try:
        transform = Transform.from_dict(config["transform"])
        class_names, facts = tuple(config["class_names"]), config["backbone"]
        _check_facts(config, transform)
        head = _head(folder, config)
        return Bundle(
            path=folder,
            class_names=class_names,
            transform=transform,
            precision=str(config["precision"]),
            head=head,
            backbone=_backbone(folder, facts, transform, config["files"]),
            config=config,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, SafetensorError) as error:
        raise BundleError(f"the model {str(folder)!r} is damaged: {type(error).__name__}: {error}") from None


def _check_files(folder: Path, config: JSON) -> None:
    files: Any = config.get("files")
    if not isinstance(files, dict) or _HEAD not in files:
        raise BundleError(f"the model {str(folder)!r} is damaged: config.json lists no files")
    for name, digest in files.items():
        if name not in _FILES:
            raise BundleError(f"a model consists of {', '.join(_FILES)}: {name!r} is none of them")
        if not (folder / name).is_file():
            raise BundleError(f"the model {str(folder)!r} is incomplete: {name} is missing")
        if hash_file(folder / name) != digest:
            raise BundleError(f"the model {str(folder)!r} is damaged: {name} is not what was saved")


def _check_facts(config: JSON, transform: Transform) -> None:
    """Raise ValueError or TypeError unless `config.json` says what a fit could have written."""
    names, facts = config["class_names"], config["backbone"]
    numbers = [*transform.mean, *transform.std, transform.crop_pct, config["head"]["temperature"]]
    rules = {
        "class_names must be different, printable names": isinstance(names, list)
        and all(isinstance(name, str) and name and printable(name) == name for name in names)
        and len(set(names)) == len(names) > 0,
        "transform.size must lie between 1 and 4096": type(transform.size) is int and 1 <= transform.size <= 4096,
        "transform.policy must be squash, crop or pad": transform.policy in get_args(ResizePolicy),
        "transform.mean and std must be three numbers each": len(transform.mean) == len(transform.std) == 3
        and all(np.isfinite(number) for number in numbers)
        and min(transform.std) > 0,
        "transform.crop_pct must lie above 0 and be at most 1": 0 < transform.crop_pct <= 1,
        "transform.background must be three levels": len(transform.background) == 3
        and all(type(level) is int and 0 <= level <= 255 for level in transform.background),
        "precision must be fp32 or bf16": config["precision"] in get_args(Precision),
        "the temperature must be above 0": config["head"]["temperature"] > 0,
        "backbone.recipe must be one of timm, of torchvision, or none": _plain(_recipe(facts)),
        "backbone.features_from must name a module": isinstance(facts.get("features_from"), str | None),
    }
    for rule, kept in rules.items():
        if not kept:
            raise ValueError(rule)


def _head(folder: Path, config: JSON) -> Head:
    tensors = load_file(folder / _HEAD)
    weight, bias = tensors["weight"].astype(np.float32), tensors["bias"].astype(np.float32)
    num_classes = len(config["class_names"])
    if weight.shape != (num_classes, config["backbone"]["num_features"]) or bias.shape != (num_classes,):
        raise ValueError(f"a head of {weight.shape} does not fit {num_classes} classes")
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ValueError("the head must hold finite numbers")
    return Head(weight=weight, bias=bias, temperature=float(config["head"]["temperature"]))


def _recipe(facts: JSON) -> JSON:
    """How the backbone is rebuilt; the first bundles held none, and all were timm's."""
    if "recipe" in facts:
        return dict(facts["recipe"])
    name = facts["name"].removesuffix("+stages")
    return {"builder": "timm", "architecture": name, "arguments": {}, "stages": name != facts["name"]}


def _plain(recipe: JSON) -> bool:
    """Whether a recipe names a builder, and an architecture in a form that makes no library ask a server."""
    return (
        recipe["builder"] in ("timm", "torchvision", "ir-only")
        and (recipe["builder"] == "ir-only" or re.fullmatch(r"\w+(\.[\w-]+)*", recipe["architecture"]) is not None)
        and isinstance(recipe["arguments"], dict)
        and type(recipe["stages"]) is bool
        and all(re.fullmatch(r"\w+", key) for key in recipe["arguments"])
    )


def _backbone(folder: Path, facts: JSON, transform: Transform, files: JSON) -> Backbone:
    recipe = _recipe(facts)

    def build() -> nn.Module:
        if _BACKBONE not in files:
            raise BundleError(f"the model {str(folder)!r} is incomplete: {_BACKBONE} is missing")
        told = facts.get("features_from")
        return rebuild(recipe, folder / _BACKBONE, size=transform.size, features_from=told)

    ir = folder / _IR
    num_features = int(facts["num_features"])
    return Backbone(
        name=str(facts["name"]),
        source=str(facts["source"]),
        weights_hash=str(facts["weights_hash"]),
        num_features=num_features,
        num_parameters=int(facts["num_parameters"]),
        transform=transform,
        build=build,
        ir=ir if {f"{_IR}/model.xml", f"{_IR}/model.bin"} <= files.keys() else None,  # listed: checked by its hash
        slices={str(k): (int(first), int(last)) for k, (first, last) in facts.get("slices", {}).items()},
        features_from=None if facts.get("features_from") is None else str(facts["features_from"]),
        recipe=recipe,
    )
