"""What can be set for a fit, in one place for the command line, YAML files and Python."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from regraft.errors import UsageError, nearest


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Options of a fit; every `auto` is settled from the data and the machine, printed, and written down.

    Attributes:
        backbone: auto (ranked first), or a model: NAME of timm, torchvision/NAME, hf-hub:ORG/NAME, FILE.py:FUNCTION,
            or a weights file named like ARCHITECTURE.safetensors; with +stages at its end, features of all stages.
        weights: A local weights file for that architecture.
        features_from: The layer whose averaged output are the features; by default what enters the classifier.
        image_size: Side of the backbone's input in pixels; by default what it was trained with.
        resize: How an image becomes a square: squash (stretched), crop (its centre) or pad (framed).
        engine: What runs the backbone: openvino, torch, compiled, or auto.
        precision: Arithmetic of the backbone: bf16, fp32, or auto.
        strategy: What is trained: linear_probe the head on frozen features; light also the last stage and the norms;
            lp_ft everything, from the solved head; full everything, with a new head; scratch from random weights; auto
            the one that a race of them finds.
        budget: Of strategy auto: time for the race, such as 30m; by default that of ten extractions.
        metric: What the correction for rare classes and the best epoch are chosen for: macro_f1, balanced_accuracy or
            accuracy.
        balance: Of strategy linear_probe: what is done for rare classes: logit_adjustment, or auto, the remedy that
            regraft balance finds (slower).
        epochs: Passes over the training images; by default by their number.
        batch_size: Images a step.
        lr: Learning rate of the head.
        weight_decay: Of kernels and matrices.
        layer_decay: Factor of the learning rate from a layer to the one before it, in (0, 1].
        optimizer: A name of timm's: adamw, sgd, lamb, lion, ….
        schedule: Course of the learning rate: cosine, one_cycle, staircase or constant.
        warmup_epochs: Epochs, or a part of one, in which the learning rate rises.
        grad_accum_steps: Batches for each step.
        clip_grad: Largest norm of the gradient, 0 for none.
        label_smoothing: Share of the target that all classes have in common.
        mixup_alpha: Strength of mixup, 0 for none.
        cutmix_alpha: Strength of cutmix, 0 for none.
        drop_path: Largest rate at which residual blocks are skipped, 0 for none.
        augment: Random views of the training images: none, light or medium (regraft preview shows them).
        flip: Mirror them at random too; wrong for digits, text, left and right hands.
        cached_views: Of strategy light: views whose activations behind the frozen part are kept, 0 to run it each time.
        norm_statistics: Of batch norms while training: frozen or batch.
        model_ema: Decay of a moving average of the weights, such as 0.999; 0 for none.
        loss: cross_entropy, balanced_softmax, logit_adjusted, focal, ldam, gce or elr.
        sampling: How often each class is drawn: uniform, sqrt, balanced or progressive.
        patience: Evaluations without improvement after which training stops, 0 for never.
        averaging: Try averages of the weights on the validation images, and take one where these say so.
        training_precision: Arithmetic of training: bf16, fp16 (with scaling), fp32, or auto.
        compile: Train with torch.compile.
        time_limit: Of the training, such as 20m, 90s or 1h30m; the schedule is planned to end there.
        max_steps: Optimiser steps after which training ends; the schedule is planned to end there.
        resume: Go on with this unfinished run, with its own options.
        init_from: A new run that begins with the weights of this finished one.
        track: A service that hears of the run too: mlflow, trackio or wandb; may be given several times.
        decisions: Apply what reviewers decided about these images.
        database: Where their decisions are kept: sqlite:///FILE or postgresql://USER@HOST/NAME; by default
            $REGRAFT_DATABASE_URL, else RUNS_DIR/regraft.db.
        keep_ambiguous: Fit on images whose picture does not tell their class, too.
        folds: Number of folds of the cross-validation.
        repeats: How often it is repeated with other folds; by default more for small data.
        test: Share of the images locked away for the final estimate, 0 for none; auto decides by size.
        seed: Of the split and the folds.
        image_column: Column of a manifest that holds the image paths.
        label_column: Column that holds the class names.
        split_column: Column that holds train, val or test.
        group_column: Column of groups that must not straddle two splits.
        runs_dir: Folder in which runs are kept.
        project: Folder of this run within it; by default the name of the data.
        name: Name of this run; by default the next number.
        exist_ok: Replace a run of that name.
        cache_dir: Folder for features and converted backbones; by default the user's cache folder.
    """

    backbone: str = "tf_efficientnet_lite0"
    weights: Path | None = None
    features_from: str | None = None
    image_size: int | None = None
    resize: Literal["auto", "squash", "crop", "pad"] = "auto"
    engine: Literal["auto", "openvino", "torch", "compiled"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    strategy: Literal["auto", "linear_probe", "light", "lp_ft", "full", "scratch"] = "linear_probe"
    budget: str | float | None = None
    metric: Literal["macro_f1", "balanced_accuracy", "accuracy"] = "macro_f1"
    balance: Literal["logit_adjustment", "auto"] = "logit_adjustment"
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    weight_decay: float | None = None
    layer_decay: float | None = None
    optimizer: str | None = None
    schedule: Literal["cosine", "one_cycle", "staircase", "constant"] | None = None
    warmup_epochs: float | None = None
    grad_accum_steps: int | None = None
    clip_grad: float | None = None
    label_smoothing: float | None = None
    mixup_alpha: float | None = None
    cutmix_alpha: float | None = None
    drop_path: float | None = None
    augment: Literal["auto", "none", "light", "medium"] = "auto"
    flip: bool = False
    cached_views: int | None = None
    norm_statistics: Literal["auto", "frozen", "batch"] = "auto"
    model_ema: float | None = None
    loss: Literal["cross_entropy", "balanced_softmax", "logit_adjusted", "focal", "ldam", "gce", "elr"] | None = None
    sampling: Literal["uniform", "sqrt", "balanced", "progressive"] | None = None
    patience: int | None = None
    averaging: bool = True
    training_precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    compile: bool = False
    time_limit: str | float | None = None
    max_steps: int | None = None
    resume: Path | None = None
    init_from: Path | None = None
    track: tuple[Literal["mlflow", "trackio", "wandb"], ...] = ()
    decisions: bool = True
    database: str | None = None
    keep_ambiguous: bool = False
    folds: int = 5
    repeats: int | None = None
    test: float | Literal["auto"] = "auto"
    seed: int = 0
    image_column: str = "image"
    label_column: str = "label"
    split_column: str = "split"
    group_column: str = "group"
    runs_dir: Path = Path("runs")
    project: str | None = None
    name: str | None = None
    exist_ok: bool = False
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        for name in ("weights", "runs_dir", "cache_dir", "resume", "init_from"):
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, Path(value).expanduser())
        track: Any = self.track or ()
        # A call may give one word, a YAML file has lists.
        object.__setattr__(self, "track", (track,) if isinstance(track, str) else tuple(track))
        wrong = list(_wrong_words(self))
        rules = [
            (self.image_size is None or _within(self.image_size, 16, 2048), "image_size", "a number from 16 to 2048"),
            (_within(self.folds, 2, 100), "folds", "a number from 2 to 100"),
            (self.repeats is None or _within(self.repeats, 1, 100), "repeats", "a number from 1 to 100"),
            (self.test == "auto" or _is_share(self.test), "test", "auto or a share from 0 to below 1"),
            (_within(self.seed, 0, 2**32 - 1), "seed", "a number from 0 to 2^32 - 1"),
            (self.time_limit is None or seconds_of(self.time_limit) is not None, "time_limit", "a time such as 20m"),
            (self.budget is None or seconds_of(self.budget) is not None, "budget", "a time such as 30m"),
        ]
        for name, (least, most) in _RANGES.items():
            value, whole = getattr(self, name), type(least) is int
            good = value is None or (_between(value, least, most) and (not whole or isinstance(value, Integral)))
            rules.append((good, name, f"a {'whole ' if whole else ''}number from {least:g} to {most:g}"))
        wrong += [f"{name} is {rule}: {getattr(self, name)!r} is not" for good, name, rule in rules if not good]
        if self.strategy == "linear_probe" and (unused := self._asked_of_training()):
            wrong.append(
                f"{', '.join(unused)}: {'an option' if len(unused) == 1 else 'options'} of training, and strategy "
                "linear_probe solves a head on frozen features: choose strategy light, lp_ft, full or scratch"
            )
        if self.strategy != "auto" and self.budget is not None:
            wrong.append(f"budget is the time of a race: strategy {self.strategy} has none; time_limit is a training's")
        if self.strategy not in ("linear_probe", "auto") and self.balance != "logit_adjustment":
            wrong.append(
                f"balance={self.balance} compares heads on frozen features, and strategy {self.strategy} trains: give "
                "--loss or --sampling"
            )
        if self.resume is not None and self.init_from is not None:
            wrong.append("resume goes on with a run, init_from begins a new one: give one of them")
        if wrong:
            raise UsageError("; ".join(wrong))

    @property
    def time_limit_seconds(self) -> float | None:
        """`time_limit` as a number."""
        return None if self.time_limit is None else seconds_of(self.time_limit)

    @property
    def budget_seconds(self) -> float | None:
        """`budget` as a number."""
        return None if self.budget is None else seconds_of(self.budget)

    def training_options(self) -> dict[str, Any]:
        """What was asked for of the training: option to value; what is `auto` is left out."""
        return {name: getattr(self, name) for name in self._asked_of_training() if name in TRAINING_OPTIONS}

    def _asked_of_training(self) -> list[str]:
        default = {field.name: field.default for field in dataclasses.fields(self)}
        names = (*TRAINING_OPTIONS, "time_limit", "max_steps")
        return [name for name in names if getattr(self, name) != default[name]]

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> FitConfig:
        """A config from loose words, all mistakes reported at once.

        Raises:
            UsageError: unknown options or values.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = [f"{word!r} is not an option of fit{nearest(word, known)}" for word in options if word not in known]
        if unknown:
            try:
                cls(**{word: value for word, value in options.items() if word in known})
            except UsageError as error:
                unknown.append(str(error))
            raise UsageError("; ".join(unknown))
        return cls(**options)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for YAML and JSON; the database's address without its password."""
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: _plain(value) for name, value in values} | {"database": without_password(self.database)}


TRAINING_OPTIONS = (
    "epochs", "batch_size", "lr", "weight_decay", "layer_decay", "optimizer", "schedule", "warmup_epochs",
    "grad_accum_steps", "clip_grad", "label_smoothing", "mixup_alpha", "cutmix_alpha", "drop_path", "augment", "flip",
    "cached_views", "norm_statistics", "model_ema", "loss", "sampling", "patience", "averaging", "training_precision",
    "compile",
)  # fmt: skip
"""Options of `FitConfig` that say how a model is trained; the names are those of `regraft.fit.strategies.Settings`."""

_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 100_000), "batch_size": (1, 65_536), "lr": (0.0, 10.0), "weight_decay": (0.0, 10.0),
    "layer_decay": (0.01, 1.0), "warmup_epochs": (0.0, 1000.0), "grad_accum_steps": (1, 4096),
    "clip_grad": (0.0, 1e6), "label_smoothing": (0.0, 0.99), "mixup_alpha": (0.0, 10.0), "cutmix_alpha": (0.0, 10.0),
    "drop_path": (0.0, 0.9), "cached_views": (0, 1000), "model_ema": (0.0, 0.99999), "patience": (0, 100_000),
    "max_steps": (1, 10**9),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settled:
    """What an option became, and why."""

    value: Any
    reason: str


HIDDEN = "***"


def without_password(url: str | None) -> str | None:
    """A database's address as it may be written down.

    >>> without_password("postgresql://ann:secret@host/name?password=secret")
    'postgresql://ann:***@host/name?password=***'
    """
    if url is None:
        return None
    hidden = re.sub(r"^([^/]*://[^:@/]*):.*@", rf"\1:{HIDDEN}@", url)
    return re.sub(r"([?&](?:password|sslpassword)=)[^&]*", rf"\1{HIDDEN}", hidden)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value


def _within(value: object, low: int, high: int) -> bool:
    return type(value) is not bool and isinstance(value, Integral) and low <= int(value) <= high


def _between(value: object, low: float, high: float) -> bool:
    return type(value) is not bool and isinstance(value, Real) and low <= float(value) <= high


def seconds_of(value: object) -> float | None:
    """Seconds of 90, "90", "90s", "20m", "1h30m"; None where it is no time above 0."""
    if isinstance(value, int | float):
        return float(value) if 0 < value < float("inf") and type(value) is not bool else None
    words = str(value).strip().lower()
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", words)
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return (3600 * hours + 60 * minutes + seconds) or None


def _is_share(value: object) -> bool:
    return type(value) is not bool and isinstance(value, Real) and 0 <= float(value) < 1


def _wrong_words(config: FitConfig) -> list[str]:
    hints = get_type_hints(type(config))
    wrong = []
    for field in dataclasses.fields(config):
        hint, value = hints[field.name], getattr(config, field.name)
        if value is not None and get_origin(hint) in (Union, UnionType):  # Literal[…] | None
            hint = next((part for part in get_args(hint) if get_origin(part) is Literal), hint)
        if isinstance(value, tuple):
            known = get_args(get_args(hint)[0])
            wrong += [
                f"{field.name} is one of {', '.join(known)}: {word!r} is not{nearest(str(word), known)}"
                for word in value if word not in known
            ]  # fmt: skip
            continue
        if get_origin(hint) is Literal and value not in get_args(hint) and field.name != "test":
            words = ", ".join(get_args(hint))
            wrong.append(f"{field.name} is one of {words}: {value!r} is not{nearest(str(value), get_args(hint))}")
    return wrong
