"""Everything that was `auto`, settled with its reason: the backbone, what runs it, the way from image to input."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from regraft.config import FitConfig, Settled
from regraft.errors import BackboneError, UsageError
from regraft.features.engines import Choice, choose, instead
from regraft.models.backbones import Backbone, resolve
from regraft.progress import Listener, Stopwatch
from regraft.studies.options import RankOptions
from regraft.studies.rank import rank_split
from regraft.studies.ranking import Ranking
from regraft.types import Manifest, Split

_ASIDE = ".backbone.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Settlement:
    """What a fit works with.

    Attributes:
        backbone: found, with the transform that is used.
        choice: engine, precision and device.
        options: option to what it became, and why.
        ir: folder of the backbone for OpenVINO, or None where it does not convert.
        ranking: what `auto` was chosen from, or None.
    """

    backbone: Backbone
    choice: Choice
    options: dict[str, Settled]
    ir: Path | None
    ranking: Ranking | None


def settle(
    config: FitConfig, manifest: Manifest, split: Split, *, cache_dir: Path, listener: Listener, watch: Stopwatch
) -> Settlement:
    """Find the backbone, convert it where it was not yet, choose the engine.

    Raises:
        BackboneError: it is not to be had, or the engine that was asked for cannot run it.
        UsageError: options that do not go together.
    """
    ranking = _rank(manifest, split, config, listener, watch) if config.backbone == "auto" else None
    name = ranking[ranking.pick].backbone if ranking is not None else config.backbone
    backbone = resolve(name, cache_dir=cache_dir, weights=config.weights, features_from=config.features_from)
    choice = choose(config.engine, config.precision)
    backbone, options = _options(config, backbone, choice, len(split.development))
    if ranking is not None:
        options["backbone"] = Settled(backbone.name, ranking.reason)
    with watch.stage("backbone"):
        ir, why_not = _converted(backbone, cache_dir)
    if ir is None and choice.engine == "openvino":
        if not choice.automatic:
            raise BackboneError(why_not)
        choice = instead(choice, why_not.removesuffix("; use --engine torch"))
        options["engine"] = Settled("torch", choice.reason.partition("; ")[0].partition(": ")[2])
    for option, value in options.items():
        listener.say(f"{option} = {value.value}: {value.reason}")
    return Settlement(backbone=backbone, choice=choice, options=options, ir=ir, ranking=ranking)


def backbone_files(settled: Settlement, folder: Path) -> dict[str, Path]:
    """The backbone as files for the bundle: OpenVINO's where it converts, PyTorch's always."""
    ir = settled.ir
    if ir is None:
        from safetensors.torch import save_file

        aside = folder / _ASIDE
        save_file({k: v.contiguous() for k, v in settled.backbone.build().state_dict().items()}, aside)
        return {"backbone.safetensors": aside}
    return {
        "backbone.safetensors": ir / "backbone.safetensors",
        "backbone/model.xml": ir / "model.xml",
        "backbone/model.bin": ir / "model.bin",
    }


def with_training(settled: Settlement, backbone: Backbone, settings: dict[str, Settled], cache_dir: Path) -> Settlement:
    """The same with a trained backbone, converted where that goes, and with the settings of its training.

    Raises:
        BackboneError: nothing could rebuild it from a bundle.
    """
    ir, _ = _converted(backbone, cache_dir)
    return dataclasses.replace(settled, backbone=backbone, options=settled.options | settings, ir=ir)


def tidy(folder: Path) -> None:
    """Remove what `backbone_files` put aside for the bundle."""
    (folder / _ASIDE).unlink(missing_ok=True)


def _rank(manifest: Manifest, split: Split, config: FitConfig, listener: Listener, watch: Stopwatch) -> Ranking:
    """What `--backbone auto` takes: the same images, folds' seed and transform as the fit that follows."""
    if config.weights is not None:
        raise UsageError(f"weights belong to a named backbone: weights={str(config.weights)!r} with backbone='auto'")
    options = RankOptions(
        metric=config.metric, sizes=() if config.image_size is None else (config.image_size,),
        native=config.image_size is None, resize="squash" if config.resize == "auto" else config.resize,
        engine=config.engine, precision=config.precision, folds=config.folds, seed=config.seed,
        cache_dir=config.cache_dir,
    )  # fmt: skip
    ranking = rank_split(manifest, split, "auto", options, listener=listener, watch=watch)
    for sentence in ranking.sentences():
        listener.say(sentence)
    return ranking


def _options(
    config: FitConfig, backbone: Backbone, choice: Choice, num_development: int
) -> tuple[Backbone, dict[str, Settled]]:
    own = backbone.transform
    policy = "squash" if config.resize == "auto" else config.resize
    size = config.image_size if config.image_size is not None else own.size
    transform = dataclasses.replace(own, size=size, policy=policy)
    n = num_development
    repeats = config.repeats if config.repeats is not None else 5 if n < 500 else 3 if n < 2000 else 1
    engine_reason, _, precision_reason = choice.reason.partition("; ")
    return backbone.at(transform), {
        "backbone": Settled(backbone.name, backbone.source),
        "image_size": Settled(
            size, "asked for" if config.image_size is not None else "what the backbone was trained with"
        ),
        "resize": Settled(
            policy, "asked for" if config.resize != "auto" else "the whole image is used, nothing is cut off"
        ),
        "engine": Settled(choice.engine, engine_reason.partition(": ")[2]),
        "precision": Settled(choice.precision, precision_reason.partition(": ")[2]),
        "repeats": Settled(
            repeats, "asked for" if config.repeats is not None else f"{n:,} images for development; fewer need more"
        ),
    }


def _converted(backbone: Backbone, cache_dir: Path) -> tuple[Path | None, str]:
    """The folder of the backbone for OpenVINO, or None and why not.

    Raises:
        BackboneError: it must be converted, because nothing else could rebuild it from a bundle.
    """
    from regraft.features.engines.openvino import ir_folder

    try:
        return ir_folder(backbone, size=backbone.transform.size, cache_dir=cache_dir), ""
    except BackboneError as error:
        if backbone.recipe.get("builder") == "ir-only":
            raise BackboneError(
                f"a saved model predicts without your code, so that {backbone.name} must convert to OpenVINO: "
                f"{str(error).removesuffix('; use --engine torch')}; write it with plain tensor operations"
            ) from None
        return None, str(error)
