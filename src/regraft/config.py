"""What can be set for a fit, in one place for the command line, YAML files and Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

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
        strategy: What is trained: linear_probe trains the head on frozen features.
        metric: What the correction for rare classes is chosen for: macro_f1, balanced_accuracy or accuracy.
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
    strategy: Literal["linear_probe"] = "linear_probe"
    metric: Literal["macro_f1", "balanced_accuracy", "accuracy"] = "macro_f1"
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
        for name in ("weights", "runs_dir", "cache_dir"):
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, Path(value).expanduser())
        wrong = list(_wrong_words(self))
        rules = [
            (self.image_size is None or _within(self.image_size, 16, 2048), "image_size", "a number from 16 to 2048"),
            (_within(self.folds, 2, 100), "folds", "a number from 2 to 100"),
            (self.repeats is None or _within(self.repeats, 1, 100), "repeats", "a number from 1 to 100"),
            (self.test == "auto" or _is_share(self.test), "test", "auto or a share from 0 to below 1"),
            (_within(self.seed, 0, 2**32 - 1), "seed", "a number from 0 to 2^32 - 1"),
        ]
        wrong += [f"{name} is {rule}: {getattr(self, name)!r} is not" for good, name, rule in rules if not good]
        if wrong:
            raise UsageError("; ".join(wrong))

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
        """Plain values for YAML and JSON."""
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: str(value) if isinstance(value, Path) else value for name, value in values}


@dataclass(frozen=True, slots=True)
class Settled:
    """What an option became, and why."""

    value: Any
    reason: str


def _within(value: object, low: int, high: int) -> bool:
    return type(value) is not bool and isinstance(value, Integral) and low <= int(value) <= high


def _is_share(value: object) -> bool:
    return type(value) is not bool and isinstance(value, Real) and 0 <= float(value) < 1


def _wrong_words(config: FitConfig) -> list[str]:
    hints = get_type_hints(type(config))
    wrong = []
    for field in dataclasses.fields(config):
        hint, value = hints[field.name], getattr(config, field.name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            words = ", ".join(get_args(hint))
            wrong.append(f"{field.name} is one of {words}: {value!r} is not{nearest(str(value), get_args(hint))}")
    return wrong
