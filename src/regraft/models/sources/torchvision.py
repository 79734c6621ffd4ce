"""torchvision's image classifiers: `torchvision/resnet50`, or with a tag `torchvision/resnet50.IMAGENET1K_V1`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.errors import BackboneError, nearest
from regraft.images import Transform
from regraft.models.sources import Source, Wanted, as_side, fill, first_line, seeded
from regraft.models.sources.local import downloaded
from regraft.types import JSON

if TYPE_CHECKING:
    from torch import Tensor, nn

_DENSE_KEY = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")


def find_torchvision(wanted: Wanted) -> Source:
    """A classifier of torchvision; without a tag its default weights.

    Raises:
        BackboneError: torchvision has no such model or tag, or the weights are not to be had.
    """
    from torchvision import models

    architecture, _, tag = wanted.name.removeprefix("torchvision/").partition(".")
    known = models.list_models(module=models)
    if architecture not in known:
        raise BackboneError(f"torchvision has no image classifier {architecture!r}{nearest(architecture, known)}")
    choices = models.get_model_weights(architecture)
    if tag and tag not in choices.__members__:
        raise BackboneError(
            f"the weights of torchvision's {architecture} are {', '.join(choices.__members__)}: {tag!r} is not"
        )
    weights: Any = choices[tag] if tag else choices.DEFAULT
    path = wanted.weights
    if path is not None:
        words = f"weights file {path.name}"
    elif wanted.random:
        words = f"random weights, seed {wanted.seed}"
    else:
        words = f"torchvision's pretrained weights {weights.name}"
        path = downloaded(weights.url, network=wanted.network)
    transform = _transform(weights)
    return Source(
        name=wanted.name,
        words=words,
        weights=path,
        open=lambda size: open_torchvision(architecture, path, size, wanted.seed, own=transform.size),
        transform=lambda _: transform,
        recipe={"builder": "torchvision", "architecture": architecture, "arguments": {}},
    )


def open_torchvision(architecture: str, path: Path | None, size: int | None, seed: int, *, own: int) -> nn.Module:
    """Build an architecture and fill it with the weights of a file, or with random ones.

    Raises:
        BackboneError: the weights do not fit.
    """
    from torchvision import models

    from regraft.models.checkpoints import read_state

    state = None if path is None else _renamed(read_state(path))
    given: JSON = {}
    if state:
        # The classifier comes last in every torchvision model.
        given["num_classes"] = int(next(v for k, v in reversed(state.items()) if k.endswith("bias")).shape[0])
    if architecture in ("googlenet", "inception_v3"):
        aux = state is None or any(key.lower().startswith("aux") for key in state)
        given |= {"transform_input": True, "aux_logits": aux, "init_weights": False}
    if architecture.startswith("vit_"):
        side = size if size is not None else own
        given["image_size"] = side
        if state is not None:
            state = _resampled(state, side, architecture)
    try:
        model = seeded(lambda: models.get_model(architecture, weights=None, **given), seed)
    except (ValueError, AssertionError, RuntimeError) as error:
        raise BackboneError(f"torchvision cannot build {architecture} ({first_line(error)})") from None
    if state is not None:
        fill(model, state, f"torchvision's {architecture}")
    return model


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """DenseNet's files are older than the rule that a module's name has no dot."""
    return {_DENSE_KEY.sub(r"\1\2", key): value for key, value in state.items()}


def _resampled(state: dict[str, Tensor], side: int, architecture: str) -> dict[str, Tensor]:
    from torchvision.models.vision_transformer import interpolate_embeddings

    patch = int(architecture.rpartition("_")[2])
    if side % patch:
        raise BackboneError(f"{architecture} cuts images into patches of {patch} pixels: {side} is no multiple of it")
    return dict(interpolate_embeddings(side, patch, dict(state)))


def _transform(weights: Any) -> Transform:
    preset = weights.transforms()
    size = as_side(preset.crop_size)
    return Transform(
        size=size,
        crop_pct=min(1.0, size / as_side(preset.resize_size)),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )
