"""timm's models: by name, by a weights file, or by their address on the Hugging Face hub."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.errors import BackboneError, UsageError, nearest
from regraft.images import Transform
from regraft.models.sources import WEIGHTS, Source, Wanted, as_side, fill, first_line, named_by_file, seeded
from regraft.models.sources.local import hub_file
from regraft.models.sources.packaged import installed
from regraft.types import JSON

if TYPE_CHECKING:
    from torch import Tensor, nn

HUB_FILES = ("model.safetensors", "pytorch_model.bin")

_NOT_OF_A_NETWORK = ("checkpoint_path", "cache_dir", "scriptable", "exportable", "no_jit", "features_only", "kwargs")


def find_timm(wanted: Wanted) -> Source:
    """A model of timm.

    Raises:
        BackboneError: timm has no such model, or its weights are not to be had.
    """
    import timm

    name, path = wanted.name.removeprefix("timm/"), wanted.weights
    if name.endswith(WEIGHTS):
        if not Path(name).is_file():
            raise BackboneError(f"a weights file must exist: {name!r} does not")
        if path is not None or wanted.random:
            raise UsageError(f"the name {name!r} is a weights file already: give no other weights")
        path = Path(name)
        name = named_by_file(path)
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        raise BackboneError(
            f"backbone {name!r} is not known to timm{nearest(architecture, timm.list_models())}; "
            f"without a network these work: {', '.join(installed()) or 'none is installed'}. Search: regraft backbones"
        )
    cfg = _config(name)
    arguments: JSON = {}
    if path is not None:
        words = f"weights file {path.name}"
    elif wanted.random:
        words = f"random weights, seed {wanted.seed}"
    elif cfg.get("hf_hub_id"):
        words = f"timm's pretrained weights {cfg['hf_hub_id']}"
        path = hub_file(cfg["hf_hub_id"], HUB_FILES, network=wanted.network)
    else:
        raise BackboneError(
            f"timm has no pretrained weights for {name!r}; give a file with --weights, or take another: "
            f"regraft backbones --pretrained --search {architecture.partition('_')[0]}"
        )
    return Source(
        name=name,
        words=words,
        weights=path,
        open=lambda size: open_timm(name, arguments, cfg, path, size, wanted.seed),
        transform=_transform,
        recipe={"builder": "timm", "architecture": name, "arguments": arguments},
    )


def find_on_hub(wanted: Wanted) -> Source:
    """A timm model in a repository of the hub, described by its `config.json`.

    Raises:
        BackboneError: it is not to be had, or is no timm model.
    """
    repository = wanted.name.removeprefix("hf-hub:")
    file = hub_file(repository, ("config.json",), network=wanted.network)
    try:
        config = json.loads(file.read_text("utf-8"))
        architecture = str(config["architecture"])
        cfg = dict(config.get("pretrained_cfg") or config)
        arguments = dict(config.get("model_args") or {})
    except (OSError, ValueError, KeyError, TypeError):
        raise BackboneError(
            f"a timm model on the hub names its architecture, config.json of {repository} does not; "
            f"for a model of transformers: hf/{repository}"
        ) from None
    import timm

    if not timm.is_model(architecture):
        raise BackboneError(f"this timm has no architecture {architecture!r}, which {repository} is: upgrade timm")
    check_arguments(arguments, repository)
    if "num_classes" in config:
        cfg["num_classes"] = config["num_classes"]
    path, words = wanted.weights, f"weights of {repository} on the Hugging Face hub"
    if path is not None:
        words = f"weights file {path.name}"
    elif wanted.random:
        words = f"random weights, seed {wanted.seed}"
    else:
        path = hub_file(repository, HUB_FILES, network=wanted.network)
    known = {field.name for field in dataclasses.fields(timm.models.PretrainedCfg)}
    cfg = {key: value for key, value in cfg.items() if key in known and key not in ("hf_hub_id", "source", "file")}
    return Source(
        name=wanted.name,
        words=words,
        weights=path,
        open=lambda size: open_timm(architecture, arguments, cfg, path, size, wanted.seed),
        transform=_transform,
        recipe={"builder": "timm", "architecture": architecture, "arguments": arguments},
    )


def open_timm(name: str, arguments: JSON, cfg: JSON, path: Path | None, size: int | None, seed: int) -> nn.Module:
    """Build an architecture and fill it with the weights of a file, or with random ones.

    The number of classes and of input channels are read off the weights; position embeddings are resampled to `size`
    where the architecture has a fixed input.

    Raises:
        BackboneError: the weights do not fit, or the architecture cannot take that size.
    """
    import timm

    from regraft.models.checkpoints import read_state

    state = None if path is None else read_state(path)
    given = {**arguments, **_shape_of(state or {}, cfg)}
    own = as_side(cfg.get("input_size") or 224)
    if size not in (None, own) and cfg.get("fixed_input_size"):
        given["img_size"] = size
    # A hub's own config travels with the model; timm's own is found by name.
    overlay = {"pretrained_cfg": {**cfg, "input_size": tuple(cfg.get("input_size") or (3, 224, 224))}}

    def make() -> nn.Module:
        return timm.create_model(name, pretrained=False, **overlay, **given)  # type: ignore[no-any-return]

    try:
        model = seeded(make, seed)
    except Exception as error:
        if "img_size" in given and "img_size" not in arguments:
            raise BackboneError(
                f"{name} takes {own} pixels and not {size} ({first_line(error)}); leave --image-size out"
            ) from None
        raise BackboneError(f"timm cannot build {name} ({first_line(error)})") from None
    if state is not None:
        fill(model, _native(state, model), name)
    return model


def empty_timm(name: str, arguments: JSON, size: int) -> nn.Module:
    """An architecture with random values, built for a size, to be filled by a bundle; asks no network.

    Raises:
        BackboneError: this timm has no such architecture, or the arguments are not plain.
    """
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise BackboneError(f"this timm has no architecture {name!r}: upgrade timm")
    check_arguments(arguments, name)
    return open_timm(name, arguments, _config(name), None, size, 0)


def check_arguments(arguments: JSON, what: str) -> None:
    """Arguments of an architecture that came from a file: numbers and words that describe a network, nothing else.

    Raises:
        BackboneError: one could make timm read a file, ask a server or run something.
    """
    for key, value in arguments.items():
        parts = value if isinstance(value, list) else [value]
        plain = all(part is None or isinstance(part, bool | int | float | str) for part in parts)
        if not plain or key.startswith("pretrained") or key in _NOT_OF_A_NETWORK:
            raise BackboneError(f"arguments of a network are plain numbers and words: {key!r} of {what} is not")


def _config(name: str) -> JSON:
    """timm's facts about a name; {} where it has none."""
    import timm

    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return {} if cfg is None else dataclasses.asdict(cfg)


def _shape_of(state: dict[str, Tensor], cfg: JSON) -> dict[str, int]:
    """Numbers of classes and of channels that weights were made for, as arguments."""
    found = {}
    if state and (name := _first(cfg.get("classifier"))):
        weight = state.get(f"{name}.weight")
        found["num_classes"] = 0 if weight is None else int(weight.shape[0])
    weight = state.get(f"{_first(cfg.get('first_conv'))}.weight")
    if weight is not None and weight.ndim == 4 and weight.shape[1] != 3:
        found["in_chans"] = int(weight.shape[1])
    return found


def _first(names: Any) -> str:
    return names if isinstance(names, str) else str(names[0]) if names else ""


def _native(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict in the model's own keys and shapes: as it is, or through timm's filter for foreign formats."""
    own = model.state_dict()
    if all(key in own and own[key].shape == value.shape for key, value in state.items()):
        return state
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        try:
            return dict(convert(dict(state), model))
        except TypeError:
            return dict(convert(dict(state)))
    except Exception:  # not a format that it knows; the mismatch is told by name
        return state


def _transform(model: nn.Module) -> Transform:
    import timm

    data = timm.data.resolve_model_data_config(model)
    mean, std = (tuple(v) * 3 if len(v) == 1 else tuple(v) for v in (data["mean"], data["std"]))
    return Transform(size=as_side(data["input_size"]), crop_pct=min(1.0, data["crop_pct"]), mean=mean, std=std)
