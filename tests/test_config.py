"""Options: all mistakes at once, in words; the same from Python, YAML and the command line."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from regraft.config import FitConfig
from regraft.errors import UsageError


@pytest.mark.parametrize(
    "option",
    [
        {"image_size": 15}, {"image_size": 2049}, {"image_size": "64"}, {"image_size": 64.5}, {"image_size": True},
        {"folds": 1}, {"folds": 101}, {"folds": "5"}, {"folds": None}, {"repeats": 0}, {"repeats": 2.5},
        {"test": -0.1}, {"test": 1}, {"test": "some"}, {"test": None}, {"test": math.nan}, {"test": True},
        {"seed": -1}, {"seed": 2**32}, {"seed": "x"},
        {"engine": "warp"}, {"precision": "int8"}, {"resize": 3}, {"strategy": "hope"}, {"metric": "beauty"},
    ],
)  # fmt: skip
def test_wrong_values_are_named(option):
    (name,) = option
    with pytest.raises(UsageError) as caught:
        FitConfig(**option)
    assert name in str(caught.value)
    assert repr(option[name]) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        {"image_size": 16}, {"image_size": np.int64(64)}, {"folds": 2}, {"repeats": 100}, {"test": 0},
        {"test": np.float32(0.5)}, {"test": "auto"}, {"seed": 2**32 - 1}, {"resize": "pad"},
    ],
)  # fmt: skip
def test_right_values_pass(option):
    FitConfig(**option)


def test_all_mistakes_at_once_with_the_nearest_word():
    with pytest.raises(UsageError) as caught:
        FitConfig.from_options({"fold": 3, "engin": "torch", "precision": "fp23", "seed": -1})
    text = str(caught.value)
    for part in ("'fold'", "'folds'", "'engin'", "'engine'", "'fp23'", "'fp32'", "seed"):
        assert part in text


def test_paths_may_be_text(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for config in (
        FitConfig(runs_dir="~/runs", cache_dir="c", weights="w.pth"),  # type: ignore[arg-type]
        FitConfig.from_options({"runs_dir": "~/runs", "cache_dir": "c", "weights": "w.pth"}),
    ):
        assert (config.runs_dir, config.cache_dir, config.weights) == (Path("/home/me/runs"), Path("c"), Path("w.pth"))


def test_there_and_back_through_yaml_and_json():
    config = FitConfig(folds=3, test=0.25, runs_dir=Path("x"), name="a b")
    for text in (yaml.safe_load(yaml.safe_dump(config.as_dict())), json.loads(json.dumps(config.as_dict()))):
        assert FitConfig.from_options(text) == config


def test_frozen_and_documented():
    with pytest.raises(dataclasses.FrozenInstanceError):
        FitConfig().folds = 3  # type: ignore[misc]
    assert FitConfig.__doc__ is not None
    for field in dataclasses.fields(FitConfig):
        assert f"        {field.name}: " in FitConfig.__doc__
