"""Run folders for tests: what a fit leaves behind, without a fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.predictions import write_predictions
from regraft.types import Predictions

CLASSES = ("ant", "bee", "cat")
HOSTILE = '<img src=x onerror=alert(1)> & "quotes" {{ site }}'
"""A name that a page must show and never obey; it cannot be a folder's."""
HOSTILE_FOLDER = "{{ site }} & 'it' #ü 日本"


def write_run(
    runs_dir: Path,
    project: str = "photos",
    name: str = "1",
    *,
    macro_f1: float = 0.8,
    half_width: float = 0.05,
    finished: bool = True,
    num_rows: int = 8,
    config: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    predictions: Predictions | None = None,
) -> Path:
    """A run folder; `config` and `result` replace or add entries."""
    folder = runs_dir / project / name
    folder.mkdir(parents=True)
    asked = {"backbone": "auto", "strategy": "linear_probe", "seed": 0, "epochs": None, "init_from": None}
    settled = {"data": "/data/photos", "data_version": "v1", "options": asked | {"backbone": "resnet18"},
               "reasons": {"backbone": "ranked first"}, "asked": asked}  # fmt: skip
    (folder / "config.yaml").write_text(json.dumps(settled | (config or {})), "utf-8")  # JSON is YAML
    (folder / "env.json").write_text('{"python": "3.11", "num_cores": 2, "packages": {"numpy": "2.1"}}', "utf-8")
    rows = [{"step": 10 * i, "epoch": i, "train/loss": 1 / (i + 1), "val/loss": 1.1 / (i + 1), "lr": 0.001,
             "val/macro_f1": None if i == 0 else 1 - 1 / (i + 1)} for i in range(num_rows)]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    if not finished:
        return folder
    (folder / "report.html").write_text("<!doctype html><title>report</title><p>report</p>", "utf-8")
    (folder / "model").mkdir()
    (folder / "model" / "head.safetensors").write_bytes(bytes(64))
    measures = {m: interval(macro_f1, half_width) for m in ("accuracy", "balanced_accuracy", "macro_f1")}
    measures |= {"log_loss": interval(1 - macro_f1, half_width), "ece": interval(0.05, 0.02)}
    whole = {
        "split": "test", "metrics": measures, "num_images": 30, "num_evaluated": 12, "num_excluded": 1,
        "strategy": "linear_probe", "backbone": "resnet18", "data_version": settled["data_version"],
        "per_class": {c: {"precision": 0.8, "recall": 0.7, "f1": macro_f1, "support": 4} for c in CLASSES},
        "baseline": dict.fromkeys(measures, 0.33), "warnings": [], "seconds": {"scan": 1.5, "fit": 3.0},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(whole | (result or {})), "utf-8")
    if predictions is not None:
        write_predictions(folder / "predictions.parquet", predictions, proba=True)
    return folder


def interval(estimate: float, half_width: float) -> dict[str, float]:
    return {"estimate": estimate, "low": max(0.0, estimate - half_width), "high": estimate + half_width, "level": 0.95}


def predicted(
    num_images: int = 200,
    *,
    accuracy: float = 0.8,
    seed: int = 0,
    labels: NDArray[np.int64] | None = None,
    first: int = 0,
    class_names: tuple[str, ...] = CLASSES,
) -> Predictions:
    """Predictions of images `img{first}.png`…, every fourth of them in the test set."""
    rng = np.random.default_rng(seed)
    k = len(class_names)
    given = labels if labels is not None else np.arange(first, first + num_images) % k
    wrong = rng.random(num_images) > accuracy
    answer = np.where(wrong, (given + rng.integers(1, k, num_images)) % k, given)
    probs = np.full((num_images, k), 0.3 / (k - 1))
    probs[np.arange(num_images), answer] = 0.7
    is_test = np.arange(first, first + num_images) % 4 == 0
    return Predictions(
        images=np.array([f"img{i:05d}.png" for i in range(first, first + num_images)]),
        pred_probs=probs, class_names=class_names, labels=given.astype(np.int64),
        split=np.where(is_test, "test", "train"), out_of_fold=~is_test,
    )  # fmt: skip
