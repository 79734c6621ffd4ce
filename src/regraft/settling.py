"""Everything that was `auto`, settled with its reason: the backbone, what runs it, the way from image to input."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from regraft.config import FitConfig, Settled
from regraft.errors import BackboneError, UsageError
from regraft.export.bundle import load_bundle
from regraft.features.engines import Choice, choose, instead
from regraft.models.backbones import Backbone, resolve
from regraft.progress import Listener, Stopwatch
from regraft.store.runs import CONFIG
from regraft.studies.options import RankOptions
from regraft.studies.rank import rank_split
from regraft.studies.ranking import Ranking
from regraft.studies.resize import compare_policies, measuring_is_idle
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
    if config.init_from is not None:
        backbone = _of_run(config)
        config = dataclasses.replace(config, resize=backbone.transform.policy)
    else:
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
    if config.init_from is not None:
        options["resize"] = Settled(backbone.transform.policy, f"as in the run {config.init_from}")
        options["image_size"] = Settled(backbone.transform.size, f"as in the run {config.init_from}")
    if config.resize == "auto":
        options["resize"] = _resize(config, manifest, split, backbone, choice, ranking, cache_dir, listener, watch)
        backbone = backbone.at(dataclasses.replace(backbone.transform, policy=options["resize"].value))
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


def _resize(
    config: FitConfig, manifest: Manifest, split: Split, backbone: Backbone, choice: Choice, ranking: Ranking | None,
    cache_dir: Path, listener: Listener, watch: Stopwatch,
) -> Settled:  # fmt: skip
    """How an image becomes a square, where nobody said: measured where it can matter and be told."""
    if config.resume is not None and (recorded := _recorded(config.resume, "resize")) is not None:
        return recorded  # measured again on another machine, it could come out otherwise
    if ranking is not None:
        return Settled("squash", "as the backbones were ranked: the whole image is used, nothing is cut off")
    if config.strategy == "scratch":
        return Settled("squash", "the whole image is used, nothing is cut off (no pretrained features to measure by)")
    development, group_ids = manifest.select(split.development), split.group_ids[split.development]
    if (why := measuring_is_idle(development.sizes, group_ids)) is not None:
        return Settled("squash", why)
    with watch.stage("resize"):
        found = compare_policies(
            development, group_ids, backbone, choice=choice, cache_dir=cache_dir, metric=config.metric,
            seed=config.seed, progress=listener.progress,
        )  # fmt: skip
    return Settled(found.policy, found.reason)


def _recorded(run: Path, option: str) -> Settled | None:
    """What an option became in a run that goes on; None where that is not written down."""
    import yaml

    try:
        record = yaml.safe_load((run / CONFIG).read_text("utf-8"))
        return Settled(record["options"][option], str(record["reasons"][option]))
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None


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
        "resize": Settled(policy, "asked for" if config.resize != "auto" else "to be measured"),
        "engine": Settled(choice.engine, engine_reason.partition(": ")[2]),
        "precision": Settled(choice.precision, precision_reason.partition(": ")[2]),
        "repeats": Settled(
            repeats, "asked for" if config.repeats is not None else f"{n:,} images for development; fewer need more"
        ),
    }


def _of_run(config: FitConfig) -> Backbone:
    """The backbone of a finished run, with its weights and its way from image to input.

    Raises:
        BundleError: the run has no model, or a damaged one.
        UsageError: options that a run settles.
    """
    assert config.init_from is not None
    default = FitConfig()
    names = ("backbone", "weights", "features_from")
    given = [name for name in names if getattr(config, name) != getattr(default, name)]
    backbone = load_bundle(config.init_from).backbone
    given += ["image_size"] if config.image_size not in (None, backbone.transform.size) else []
    given += ["resize"] if config.resize not in ("auto", backbone.transform.policy) else []
    given += ["strategy=scratch"] if config.strategy == "scratch" else []
    if given:
        raise UsageError(
            f"a run brings its backbone, weights and input with it: leave out {', '.join(given)}, or --init-from"
        )
    return dataclasses.replace(backbone, source=f"weights of the run {config.init_from}")


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
