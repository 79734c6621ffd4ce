"""The public API, pinned: what scripts rely on changes only on purpose, here too."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib.metadata import version

import pytest

import regraft

SIGNATURES = {
    "FitConfig": (
        "*, backbone, weights, features_from, image_size, resize, engine, precision, strategy, budget, metric, "
        "balance, epochs, batch_size, lr, weight_decay, layer_decay, optimizer, schedule, warmup_epochs, "
        "grad_accum_steps, clip_grad, label_smoothing, mixup_alpha, cutmix_alpha, drop_path, augment, flip, "
        "cached_views, norm_statistics, model_ema, loss, sampling, patience, averaging, training_precision, "
        "compile, time_limit, max_steps, resume, init_from, track, decisions, database, keep_ambiguous, folds, "
        "repeats, test, seed, image_column, label_column, split_column, group_column, runs_dir, project, name, "
        "exist_ok, cache_dir"
    ),
    "ImageClassifier": "*, backbone, image_size, resize, engine, precision, metric, seed, cache_dir",
    "Predictor": "bundle, *, engine, cache_dir",
    "evaluate": "model, scan, *, seed, tta, tta_flip, listener",
    "fit": "data, config, *, listener, **options",
    "load": "path, *, engine, cache_dir",
    "read": "source, *, config, cache_dir, listener, **options",
}
METHODS = {
    "ImageClassifier": {"fit": "X, y", "predict": "X", "predict_proba": "X"},
    "Predictor": {
        "predict": "images, *, tta, tta_flip", "predict_proba": "images, *, tta, tta_flip, progress",
        "stream": "images, *, tta, tta_flip, on_failure",
    },
}  # fmt: skip


def shape(function: object) -> str:
    words, starred = [], False
    for name, parameter in inspect.signature(function).parameters.items():  # type: ignore[arg-type]
        if name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            words.append("*")
            starred = True
        words.append(f"**{name}" if parameter.kind is parameter.VAR_KEYWORD else name)
    return ", ".join(words)


def test_names():
    assert {*SIGNATURES, "RegraftError", "Run"} <= set(regraft.__all__)
    assert list(regraft.__all__) == sorted(regraft.__all__)
    assert set(dir(regraft)) == {*regraft.__all__, "__version__"}
    for name in regraft.__all__:
        assert getattr(regraft, name).__doc__


@pytest.mark.parametrize("name", list(SIGNATURES))
def test_signatures(name):
    assert shape(getattr(regraft, name)) == SIGNATURES[name]


@pytest.mark.parametrize("name", list(METHODS))
def test_methods(name):
    assert {method: shape(getattr(getattr(regraft, name), method)) for method in METHODS[name]} == METHODS[name]


@pytest.mark.parametrize("first", ["import regraft.fit.linear_probe, regraft.evaluate", "regraft.read", "regraft.load"])
def test_functions_are_not_hidden_by_the_packages_of_their_name(first):
    program = f"import regraft; {first}; assert callable(regraft.fit) and callable(regraft.evaluate)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_run_and_errors():
    assert {"path", "result", "metrics", "predictions", "report", "model"} <= set(dir(regraft.Run))
    codes = {cls.__name__: cls.exit_code for cls in _tree(regraft.RegraftError)}
    assert codes["RegraftError"] == codes["BundleError"] == codes["BackboneError"] == 1
    assert codes["UsageError"] == codes["MissingExtraError"] == 2
    assert codes["DataError"] == codes["ImageError"] == 3


def _tree(cls: type) -> list[type]:
    return [cls, *(found for child in cls.__subclasses__() for found in _tree(child))]


def test_version_and_unknown_names():
    assert regraft.__version__ == version("regraft")
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = regraft.nothing
