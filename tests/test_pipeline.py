"""A fit from Python: the promised formats, and what happens when the ground moves."""

from __future__ import annotations

import csv
import json
import math
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import regraft
from drawn import draw_folder
from regraft.errors import DataError, UsageError
from regraft.progress import Listener

MEASURES = ["accuracy", "balanced_accuracy", "macro_f1", "log_loss", "ece"]


class Ears(Listener):
    def __init__(self) -> None:
        self.stages: list[str] = []
        self.said: list[str] = []

    def stage_began(self, name: str) -> None:
        self.stages.append(name)

    def say(self, text: str) -> None:
        self.said.append(text)


def strict(text: str):
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


@pytest.fixture(scope="module")
def result(trained):
    return strict((trained.run / "result.json").read_text("utf-8"))


class TestFormats:
    def test_result_json(self, result):
        promised = {
            "split", "metrics", "baseline", "per_class", "num_images", "num_excluded", "strategy", "backbone",
            "seconds",
        }  # fmt: skip
        assert promised <= set(result)
        assert result["split"] == "cv"
        assert list(result["metrics"]) == MEASURES
        for interval in result["metrics"].values():
            assert set(interval) == {"estimate", "low", "high", "level"}
            assert interval["low"] <= interval["estimate"] <= interval["high"]
            assert interval["level"] == 0.95
        assert set(MEASURES) <= set(result["baseline"])
        assert list(result["per_class"]) == ["circle", "square", "star"]
        for row in result["per_class"].values():
            assert set(row) == {"precision", "recall", "f1", "support"}
            assert row["support"] == 8
        assert (result["num_images"], result["num_excluded"]) == (24, 0)
        assert (result["strategy"], result["backbone"]) == ("linear_probe", "tf_efficientnet_lite0")
        assert {"scan", "split", "extract", "fit", "evaluate", "bundle", "report"} <= set(result["seconds"])
        assert all(isinstance(seconds, float) for seconds in result["seconds"].values())

    def test_predictions_parquet(self, trained):
        table = pq.read_table(trained.run / "predictions.parquet")
        assert table.column_names == [
            "image", "predicted_label", "confidence", "given_label", "split", "out_of_fold", "group", "p_circle",
            "p_square", "p_star",
        ]  # fmt: skip
        rows = table.to_pylist()
        assert [row["image"] for row in rows] == sorted(
            f"{k}/{n:04d}.png" for k in ("circle", "square", "star") for n in range(8)
        )
        assert all(row["given_label"] == row["image"].partition("/")[0] for row in rows)
        assert {(row["split"], row["out_of_fold"]) for row in rows} == {("train", True)}
        for row in rows:
            assert sum(row[f"p_{name}"] for name in ("circle", "square", "star")) == pytest.approx(1, abs=1e-5)

    def test_config_env_and_metrics(self, trained, result):
        config = yaml.safe_load((trained.run / "config.yaml").read_text("utf-8"))
        assert config["data"] == str(trained.data.resolve())
        assert config["options"]["precision"] in ("bf16", "fp32")
        assert config["options"]["image_size"] == 32
        assert "auto" not in [config["options"][name] for name in ("engine", "precision", "resize")]
        assert config["asked"]["engine"] == "auto"
        assert set(config["reasons"]) >= {"engine", "precision", "backbone", "resize", "repeats", "image_size"}
        env = strict((trained.run / "env.json").read_text("utf-8"))
        assert {"python", "platform", "processor", "packages"} <= set(env)
        rows = [strict(line) for line in (trained.run / "metrics.jsonl").read_text("utf-8").splitlines()]
        assert [row["step"] for row in rows] == list(range(len(rows)))
        assert sum(row["chosen"] for row in rows) == 1

    def test_no_temporary_files_stay(self, trained):
        assert not list(trained.run.rglob(".*"))

    def test_report_is_one_file(self, trained):
        text = (trained.run / "report.html").read_text("utf-8")
        assert "circle" in text
        assert '<link rel="stylesheet' not in text
        assert "url(http" not in text
        assert "<script src" not in text


def test_fit_from_python(cache_dir, tmp_path, trained):
    ears = Ears()
    scan = regraft.read(trained.data)
    run = regraft.fit(scan, listener=ears, image_size=32, runs_dir=str(tmp_path / "runs"))
    assert ears.stages[0] == "scan"
    assert any("precision = " in text for text in ears.said)
    assert run.path == tmp_path / "runs" / "shapes" / "1"
    assert run.report.is_file()
    assert run.metrics["accuracy"].estimate > 0.9
    assert len(run.predictions) == 24
    assert run.model.predict([next(trained.data.rglob("*.png"))]) != [None]
    assert "Run(" in repr(run)


def test_same_content_same_result_whatever_the_names_and_the_seed_matters(cache_dir, tmp_path):
    first = draw_folder(tmp_path / "a" / "data", per_class=6, seed=5)
    second = tmp_path / "b" / "data"
    for path in sorted(first.rglob("*.png")):
        copy = second / path.parent.name / f"z{99 - int(path.stem)}.png"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    results = [
        regraft.fit(folder, image_size=32, runs_dir=tmp_path / "runs", project=name, seed=seed).result
        for name, folder, seed in (("a", first, 0), ("b", second, 0), ("c", first, 1))
    ]
    assert results[0]["data_version"] == results[1]["data_version"]
    assert results[0]["class_counts"] == results[1]["class_counts"]
    for name in MEASURES:  # the same but for the order of sums in float32
        found = [list(result["metrics"][name].values()) for result in results]
        assert found[0] == pytest.approx(found[1], rel=5e-3, abs=1e-3)
    assert results[0]["metrics"]["log_loss"]["estimate"] != pytest.approx(results[2]["metrics"]["log_loss"]["estimate"])


def test_a_locked_test_set(cache_dir, tmp_path):
    data = draw_folder(tmp_path / "data", classes=("a", "b"), per_class=20)
    run = regraft.fit(data, image_size=32, runs_dir=tmp_path / "runs", test=0.25)
    assert run.result["split"] == "test"
    rows = pq.read_table(run.path / "predictions.parquet").to_pylist()
    tested = [row for row in rows if row["split"] == "test"]
    assert len(rows) == 40
    assert 8 <= len(tested) <= 12
    assert run.result["num_evaluated"] == len(tested) == sum(row["support"] for row in run.result["per_class"].values())
    assert all(row["out_of_fold"] == (row["split"] == "train") for row in rows)


def test_a_manifest_with_groups(cache_dir, tmp_path):
    draw_folder(tmp_path / "photos", classes=("a", "b"), per_class=12)
    with (tmp_path / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "kind", "person"])
        writer.writerows([f"photos/{k}/{n:04d}.png", k.upper(), f"p{n // 2}"] for k in "ab" for n in range(12))
    columns = {"image_column": "file", "label_column": "kind", "group_column": "person"}
    run = regraft.fit(tmp_path / "labels.csv", image_size=32, runs_dir=tmp_path / "runs", **columns)
    assert run.path.parent.name == "labels"
    assert list(run.result["per_class"]) == ["A", "B"]


def test_the_same_name_twice_and_unknown_options(cache_dir, tmp_path, trained):
    with pytest.raises(UsageError, match="'folds'"):
        regraft.fit(trained.data, fold=3)
    options = {"image_size": 32, "runs_dir": tmp_path / "runs", "name": "x"}
    regraft.fit(trained.data, **options)
    with pytest.raises(UsageError, match="never overwritten"):
        regraft.fit(trained.data, **options)


class TestFilesThatGo:
    def test_some_between_scan_and_extraction(self, cache_dir, tmp_path):
        data = draw_folder(tmp_path / "data", per_class=8)
        scan = regraft.read(data)
        (data / "circle" / "0003.png").unlink()
        (data / "star" / "0001.png").write_bytes(b"overwritten")
        ears = Ears()
        run = regraft.fit(scan, image_size=32, runs_dir=tmp_path / "runs", listener=ears)
        assert run.result["num_images"] == 22
        assert any("circle/0003.png" in text for text in ears.said)
        images = pq.read_table(run.path / "predictions.parquet")["image"].to_pylist()
        assert "circle/0003.png" not in images
        assert not math.isnan(run.metrics["accuracy"].estimate)

    @pytest.mark.parametrize("classes", [("circle",), ("circle", "square"), ("circle", "square", "star")])
    def test_whole_classes(self, cache_dir, tmp_path, classes):
        data = draw_folder(tmp_path / "data", per_class=4)
        scan = regraft.read(data)
        for name in classes:
            for path in (data / name).iterdir():
                path.unlink()
        if len(classes) == 1:
            run = regraft.fit(scan, image_size=32, runs_dir=tmp_path / "runs")
            assert run.result["num_images"] == 8
        else:
            with pytest.raises(DataError):
                regraft.fit(scan, image_size=32, runs_dir=tmp_path / "runs")


def test_evaluate_with_unreadable_images(cache_dir, tmp_path, trained):
    data = draw_folder(tmp_path / "data", per_class=3, seed=77)
    scan = regraft.read(data)
    (data / "circle" / "0000.png").unlink()
    found = regraft.evaluate(regraft.load(trained.run), scan)
    assert len(found.predictions) == 8
    for path in data.rglob("*.png"):
        path.unlink()
    with pytest.raises(DataError):
        regraft.evaluate(regraft.load(trained.run), scan)


def test_evaluate_labels_go_by_name_not_by_number(cache_dir, tmp_path, trained):
    for name in ("square", "star"):  # 0 and 1 here, 1 and 2 in the model
        shutil.copytree(trained.data / name, tmp_path / "data" / name)
    found = regraft.evaluate(regraft.load(trained.run), regraft.read(tmp_path / "data"))
    assert found.intervals["accuracy"].estimate == 1
    assert found.per_class["circle"]["support"] == 0
    assert found.predictions.labels is not None
    assert set(np.unique(found.predictions.labels)) == {1, 2}
