"""Fine-tuning through the pipeline: what a run folder holds, resume after a kill, options that do not go together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from conftest import SIZE, borrow
from drawn import draw_folder
from regraft.config import FitConfig
from regraft.errors import DataError, UsageError
from regraft.pipeline import fit
from regraft.predictor import load


def small_fit(data: Path, cache: Path, runs: Path, **options):
    defaults = {"strategy": "lp_ft", "epochs": 1, "image_size": SIZE, "resize": "squash", "engine": "openvino"}
    return fit(data, FitConfig(**{**defaults, "runs_dir": runs, "cache_dir": cache, **options}))


@pytest.fixture(scope="module")
def tuned(converted, tmp_path_factory):
    """One fine-tuned run on drawn images with a locked test set."""
    folder = tmp_path_factory.mktemp("tuned")
    data = draw_folder(folder / "shapes", per_class=16)
    borrow(converted, folder / "cache")
    return small_fit(data, folder / "cache", folder / "runs", epochs=2, test=0.25), data, folder


@pytest.mark.real
def test_a_tuned_run_holds_what_any_run_holds_and_its_curves(tuned):
    run, _, _ = tuned
    result = json.loads((run.path / "result.json").read_text())
    assert (result["strategy"], result["split"], result["num_evaluated"]) == ("lp_ft", "test", 12)
    assert result["training"]["num_train"] + result["training"]["num_validation"] == 36
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"train/loss", "val/macro_f1", "lr"} <= set(rows[0])
    assert {"best.safetensors", "last.safetensors"} == {p.name for p in (run.path / "checkpoints").iterdir()}
    assert list((run.path / "tensorboard").glob("events.out.tfevents.*"))
    config = yaml.safe_load((run.path / "config.yaml").read_text())
    assert config["options"]["epochs"] == 2
    assert config["options"]["lr"] > 0
    assert config["reasons"]["lr"]
    assert set(run.predictions.split.tolist()) == {"val", "test"}
    difference = result["beside"]["difference"]["accuracy"]
    theirs = result["beside"]["metrics"]["accuracy"]["estimate"]
    assert difference["estimate"] == pytest.approx(result["metrics"]["accuracy"]["estimate"] - theirs)


@pytest.mark.real
def test_the_bundle_predicts_what_was_evaluated(tuned):
    run, data, folder = tuned
    images = run.predictions.images
    again = load(run.path, cache_dir=folder / "cache").predict_proba([data / str(image) for image in images])
    np.testing.assert_allclose(again, run.predictions.pred_probs, atol=1e-6)
    kept = [path.read_bytes() for path in (folder / "cache" / "ir").glob("*/backbone.safetensors")]
    assert (run.path / "model" / "backbone.safetensors").read_bytes() in kept
    assert len(kept) >= 2  # the tuned one and the one it began with


@pytest.mark.real
def test_a_new_run_begins_with_the_weights_of_a_finished_one(tuned):
    run, data, folder = tuned
    second = fit(
        data, FitConfig(init_from=run.path, runs_dir=folder / "runs", cache_dir=folder / "cache", test=0.25)
    )  # fmt: skip
    ours, theirs = (r.path / "model" / "backbone.safetensors" for r in (second, run))
    from safetensors.numpy import load_file

    a, b = load_file(ours), load_file(theirs)
    assert all(np.array_equal(a[name], b[name]) for name in b)
    with pytest.raises(UsageError, match="leave out image_size"):
        fit(data, FitConfig(init_from=run.path, image_size=64, cache_dir=folder / "cache", runs_dir=folder / "runs"))


@pytest.mark.real
def test_without_a_test_set_every_fold_is_tuned_and_nothing_is_chosen(converted, tmp_path):
    data = draw_folder(tmp_path / "shapes", per_class=6)
    borrow(converted, tmp_path / "cache")
    run = small_fit(data, tmp_path / "cache", tmp_path / "runs", strategy="light", folds=2)
    assert run.result["split"] == "cv"
    assert run.result["training"]["num_folds"] == 2
    assert run.predictions.out_of_fold.all()
    assert len(run.predictions) == 18


@pytest.mark.real
def test_killed_and_resumed_a_run_ends_as_one_that_was_not(converted, tmp_path):
    data = draw_folder(tmp_path / "shapes", per_class=16)
    borrow(converted, tmp_path / "cache")
    options = {
        "strategy": "lp_ft",
        "epochs": 6,
        "image_size": SIZE,
        "resize": "squash",
        "engine": "openvino",
        "test": 0.25,
    }
    code = (
        "import sys, json; from regraft.pipeline import fit; from regraft.config import FitConfig; "
        "fit(sys.argv[1], FitConfig(**json.loads(sys.argv[2])))"
    )
    common = {"runs_dir": str(tmp_path / "runs"), "cache_dir": str(tmp_path / "cache")}
    words = [sys.executable, "-c", code, str(data)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen([*words, json.dumps({**options, **common, "name": "killed"})], env=environment)
    folder = tmp_path / "runs" / "shapes" / "killed"
    deadline = time.monotonic() + 300
    while not (folder / "checkpoints" / "last.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (folder / "result.json").exists()

    for given in ({"resume": str(folder), "cache_dir": common["cache_dir"]}, {**options, **common, "name": "whole"}):
        subprocess.run([*words, json.dumps(given)], env=environment, check=True, capture_output=True)
    timed = ("seconds", "images_per_second")
    rows = [
        [
            {k: v for k, v in json.loads(line).items() if k not in timed}
            for line in (folder.parent / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("killed", "whole")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 6
    results = [json.loads((folder.parent / name / "result.json").read_text()) for name in ("killed", "whole")]
    assert results[0]["metrics"] == results[1]["metrics"]


def unfinished(tmp_path: Path, **record) -> Path:
    folder = tmp_path / "runs" / "d" / "1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(record))
    return folder


def test_what_cannot_be_resumed_is_said(tmp_path):
    data = draw_folder(tmp_path / "d", per_class=4)
    with pytest.raises(UsageError, match=r"a run is a folder with config.yaml"):
        fit(data, FitConfig(resume=tmp_path / "none"))
    asked = FitConfig(strategy="lp_ft", cache_dir=tmp_path / "c").as_dict()
    folder = unfinished(tmp_path, asked=asked, data_version="another")
    with pytest.raises(UsageError, match="leave out epochs"):
        fit(data, FitConfig(resume=folder, strategy="lp_ft", epochs=3))
    with pytest.raises(DataError, match="a run goes on with the data it began with"):
        fit(data, FitConfig(resume=folder))
    (folder / "result.json").write_text("{}")
    with pytest.raises(UsageError, match="is finished; --init-from"):
        fit(data, FitConfig(resume=folder))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 3}, "choose strategy light"),
        ({"strategy": "lp_ft", "epochs": 0}, "epochs is a whole number from 1"),
        ({"strategy": "lp_ft", "time_limit": "soon"}, "time_limit is a time such as 20m"),
        ({"strategy": "lp_ft", "schedule": "cosin"}, "did you mean 'cosine'"),
        ({"resume": "a", "init_from": "b"}, "give one of them"),
    ],
)
def test_wrong_options_are_told_at_once(options, said):
    with pytest.raises(UsageError, match=said):
        FitConfig(**options)


@pytest.mark.parametrize(
    ("time_limit", "seconds"), [("90", 90), ("90s", 90), ("20m", 1200), ("1h30m", 5400), ("1.5h", 5400), (45, 45)]
)
def test_times(time_limit, seconds):
    assert FitConfig(strategy="full", time_limit=time_limit).time_limit_seconds == seconds
