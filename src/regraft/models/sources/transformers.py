"""Image classifiers of Hugging Face transformers: `hf/google/vit-base-patch16-224`. An optional package."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from regraft._imports import try_import
from regraft.errors import BackboneError
from regraft.images import Transform
from regraft.models.sources import Source, Wanted, as_side, fill, first_line, seeded
from regraft.models.sources.local import hub_file
from regraft.types import JSON

if TYPE_CHECKING:
    from torch import nn

FILES = ("model.safetensors", "pytorch_model.bin")


def find_transformers(wanted: Wanted) -> Source:
    """A classifier that transformers itself knows; repositories that bring their own code are refused.

    Raises:
        MissingExtraError: transformers is not installed.
        BackboneError: it is not to be had, carries code, or is no image classifier.
    """
    package: Any = try_import("transformers", extra="transformers")
    repository = wanted.name.removeprefix("hf/")
    config = _json(repository, "config.json", wanted.network)
    if config.get("auto_map"):
        raise BackboneError(
            f"models are data, {repository} brings Python code of its own, which is not run; "
            "where you trust it, load it in a file of yours: my_module.py:make_model"
        )
    path = wanted.weights
    if path is not None:
        words = f"weights file {path.name}"
    elif wanted.random:
        words = f"random weights, seed {wanted.seed}"
    else:
        words = f"weights of {repository} on the Hugging Face hub"
        path = hub_file(repository, FILES, network=wanted.network)

    def open_(size: int | None) -> nn.Module:
        from regraft.models.checkpoints import read_state

        try:
            made = package.AutoConfig.for_model(**config)
            model = seeded(lambda: package.AutoModelForImageClassification.from_config(made), wanted.seed)
        except Exception as error:  # an unknown type, no classifier of images, a field that is missing
            raise BackboneError(
                f"{repository} must be an image classifier of transformers: {first_line(error)}"
            ) from None
        own = _size(model.config, {})
        if size is not None and size != own and own is not None:
            raise BackboneError(f"{repository} takes {own} pixels: {size} does not fit; leave --image-size out")
        if path is not None:
            fill(model, read_state(path), repository)
        return model

    return Source(
        name=wanted.name,
        words=words,
        weights=path,
        open=open_,
        transform=lambda model: _transform(model, _preprocessor(repository, wanted.network)),
        recipe={"builder": "ir-only", "architecture": str(config.get("model_type", "")), "arguments": {}},
    )


def _json(repository: str, name: str, network: bool) -> JSON:
    try:
        value = json.loads(hub_file(repository, (name,), network=network).read_text("utf-8"))
    except ValueError as error:
        raise BackboneError(f"{name} of {repository} is not JSON ({first_line(error)})") from None
    if not isinstance(value, dict):
        raise BackboneError(f"{name} of {repository} is not an object")
    return value


def _preprocessor(repository: str, network: bool) -> JSON:
    try:
        return _json(repository, "preprocessor_config.json", network)
    except BackboneError:
        return {}


def _size(config: Any, preprocessor: JSON) -> int | None:
    said = preprocessor.get("crop_size") or preprocessor.get("size") or getattr(config, "image_size", None)
    if isinstance(said, dict):
        said = said.get("height") or said.get("shortest_edge")
    return as_side(said) if said else None


def _transform(model: nn.Module, preprocessor: JSON) -> Transform:
    # A model with a fixed grid of patches says its size itself; others are told by the preprocessor.
    size = _size(model.config, {}) or _size(None, preprocessor) or 224
    mean, std = ([float(v) for v in preprocessor.get(key) or [0.5] * 3] for key in ("image_mean", "image_std"))
    if len(mean) != 3 or len(std) != 3:
        raise BackboneError(f"images have 3 channels, the preprocessor of this model says {len(mean)}")
    return Transform(
        size=size,
        crop_pct=float(preprocessor.get("crop_pct") or 1.0),
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
    )
