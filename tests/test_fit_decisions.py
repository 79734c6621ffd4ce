"""A fit with decisions and without, on drawn images: what changes, what is said, and what no decision can change."""

from __future__ import annotations

import dataclasses
import json
import uuid
from pathlib import Path

import pytest
import yaml

import regraft
from conftest import SIZE
from drawn import draw_folder
from regraft.config import FitConfig
from regraft.errors import DataError, UsageError
from regraft.progress import Listener
from regraft.store.db import open_database
from regraft.store.decisions import Ledger
from regraft.types import Decision


class Ears(Listener):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def hashes_of(data: Path) -> dict[str, str]:
    manifest = regraft.read(data).manifest
    return {image: key.tobytes().hex() for image, key in zip(manifest.images.tolist(), manifest.hashes, strict=True)}


def decide(runs_dir: Path, project: str, *events: dict, database: str | None = None) -> None:
    opened = open_database(database, runs_dir=runs_dir)
    Ledger(opened, project).append(
        [
            Decision(**{
                "event_id": str(uuid.uuid4()), "time": 1.0, "project": project, "reviewer": "ann", "session": "s",
                "path": "x",
            } | event)
            for event in events
        ]
    )  # fmt: skip
    opened.close()


def files_of(data: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(data.rglob("*.png"))}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three classes of ten; two images of circles lie in the wrong folder."""
    folder = draw_folder(tmp_path / "shapes", per_class=10)
    for name in ("0000.png", "0001.png"):
        (folder / "circle" / name).rename(folder / "star" / f"wrong-{name}")
    return folder


def fit(data: Path, runs_dir: Path, ears: Ears | None = None, **options):
    return regraft.fit(
        data, listener=ears or Ears(), image_size=SIZE, resize="squash", repeats=1, runs_dir=runs_dir, **options
    )


def test_decisions_are_applied_told_and_written_down(cache_dir, data, tmp_path):
    runs_dir = tmp_path / "runs"
    before, untouched = fit(data, runs_dir), files_of(data)
    assert before.result.get("decisions") is None
    key = hashes_of(data)
    decide(
        runs_dir, "shapes",
        {"item": key["star/wrong-0000.png"], "action": "relabel", "label": "circle", "given": "star"},
        {"item": key["star/wrong-0001.png"], "action": "relabel", "label": "circle", "given": "star"},
        {"item": key["square/0003.png"], "action": "exclude"},
        {"item": key["square/0004.png"], "action": "ambiguous"},
        {"item": key["square/0005.png"], "other": key["square/0006.png"], "action": "duplicate"},
        {"item": key["square/0007.png"], "action": "relabel", "label": "star"},
        {"item": key["square/0007.png"], "action": "keep", "given": "square", "reviewer": "bo"},
    )  # fmt: skip
    ears = Ears()
    after = fit(data, runs_dir, ears)
    sentence = (
        "5 decisions applied: 2 labels changed, 1 image left out, 1 ambiguous image left out, 1 duplicate left out; "
        "1 in conflict was not"
    )
    assert sentence in ears.said
    told = after.result["decisions"]
    assert (told["num_applied"], told["num_relabelled"], told["num_conflicts"], told["seq"]) == (5, 2, 1, 7)
    assert told["judged_by"] == "corrected"
    assert len(told["head"]) == 64
    assert after.result["data_version"] != before.result["data_version"]
    assert after.result["num_images"] == 27
    assert after.result["num_excluded"] == 3
    assert after.result["class_counts"]["circle"]["development"] == 10
    labels = dict(zip(after.predictions.images, after.predictions.labels.tolist(), strict=True))
    assert labels["star/wrong-0000.png"] == 0
    assert not {"square/0003.png", "square/0004.png", "square/0006.png"} & set(labels)
    assert {"square/0005.png", "square/0007.png"} <= set(labels)
    record = yaml.safe_load((after.path / "config.yaml").read_text("utf-8"))
    assert record["decisions"] == {name: told[name] for name in ("database", "project", "seq", "head")}
    report = (after.path / "report.html").read_text("utf-8")
    assert "5 decisions applied" in report
    assert "left out of fitting" in report
    assert files_of(data) == untouched
    json.dumps(after.result, allow_nan=False)

    without = fit(data, runs_dir, decisions=False)
    assert without.result["data_version"] == before.result["data_version"]
    assert without.result["metrics"] == before.result["metrics"]
    assert "--no-decisions" in (without.path / "report.html").read_text("utf-8")


def test_no_decision_changes_the_headline_of_the_test_set(cache_dir, tmp_path):
    data = draw_folder(tmp_path / "shapes", per_class=24)
    runs_dir = tmp_path / "runs"
    before = fit(data, runs_dir, test=0.25)
    tested = [
        str(image) for image, split in zip(before.predictions.images, before.predictions.split, strict=True)
        if split == "test"
    ]  # fmt: skip
    key = hashes_of(data)
    wrong = [image for image in tested if image.startswith("star/")]
    decide(
        runs_dir, "shapes", {"item": key[tested[0]], "action": "exclude"},
        *({"item": key[image], "action": "relabel", "label": "circle"} for image in wrong),
    )  # fmt: skip
    ears = Ears()
    after = fit(data, runs_dir, ears, test=0.25)
    assert after.result["metrics"] == before.result["metrics"]
    assert after.result["per_class"] == before.result["per_class"]
    assert after.result["data_version"] != before.result["data_version"]  # the second score is another one
    told = after.result["decisions"]
    assert told["judged_by"] == "given"
    assert (told["num_applied"], told["num_test_relabelled"], told["num_test_left_out"]) == (0, len(wrong), 1)
    second = told["test_as_corrected"]
    assert second["num_images"] == len(tested) - 1
    assert second["metrics"]["accuracy"]["estimate"] < after.metrics["accuracy"].estimate  # wrong corrections
    assert any("which no decision changes" in text for text in ears.said)
    assert any(text.startswith("As corrected by reviewers") for text in ears.said)


def test_a_class_that_vanishes_is_said(cache_dir, data, tmp_path):
    key = hashes_of(data)
    stars = [image for image in key if image.startswith("star/")]
    decide(
        tmp_path / "runs", "shapes", *({"item": key[image], "action": "relabel", "label": "circle"} for image in stars)
    )
    ears = Ears()
    run = fit(data, tmp_path / "runs", ears)
    assert list(run.result["per_class"]) == ["circle", "square"]
    assert "the class 'star' is gone: decisions took all its development images (12 relabelled)" in ears.said
    assert run.model.class_names == ("circle", "square")
    decide(tmp_path / "runs", "shapes", *(
        {"item": key[image], "action": "relabel", "label": "circle"} for image in key if image.startswith("square/")
    ))  # fmt: skip
    with pytest.raises(DataError, match="--no-decisions"):
        fit(data, tmp_path / "runs")


class TestResumed:
    def unfinished(self, run, runs_dir: Path) -> Path:
        (run.path / "result.json").unlink()
        return run.path

    def test_with_the_decisions_it_began_with(self, cache_dir, data, tmp_path, monkeypatch):
        runs_dir = tmp_path / "runs"
        key = hashes_of(data)
        decide(runs_dir, "shapes", {"item": key["star/wrong-0000.png"], "action": "relabel", "label": "circle"})
        first = fit(data, runs_dir)
        decide(runs_dir, "shapes", {"item": key["square/0003.png"], "action": "exclude"})
        monkeypatch.chdir(tmp_path.parent)
        again = regraft.fit(data, resume=self.unfinished(first, runs_dir))
        assert again.result["data_version"] == first.result["data_version"]
        assert again.result["decisions"]["head"] == first.result["decisions"]["head"]

    def test_without_any_where_it_began_without(self, cache_dir, data, tmp_path):
        runs_dir = tmp_path / "runs"
        first = fit(data, runs_dir)
        decide(runs_dir, "shapes", {"item": hashes_of(data)["square/0003.png"], "action": "exclude"})
        again = regraft.fit(data, resume=self.unfinished(first, runs_dir))
        assert again.result.get("decisions") is None
        assert again.result["data_version"] == first.result["data_version"]

    def test_a_password_is_never_written_down(self, run, monkeypatch):
        from regraft import resuming

        monkeypatch.delenv("REGRAFT_DATABASE_URL", raising=False)
        config = FitConfig(database="postgresql://ann:secret@host/name?password=secret")
        assert "secret" not in json.dumps(config.as_dict())
        record = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
        record["asked"] |= {"database": config.as_dict()["database"]}
        record["decisions"] = {"database": "postgresql://ann:***@host/name", "project": "p", "seq": 3, "head": "x"}
        for name, text in (("config.yaml", yaml.safe_dump(record)), ("result.json", None)):
            (run / name).unlink()
            if text is not None:
                (run / name).write_text(text)
        with pytest.raises(UsageError, match="never written down"):
            resuming.continued(FitConfig(resume=run))
        given = dataclasses.replace(config, resume=run)
        assert resuming.continued(given)[1].database == config.database
        monkeypatch.setenv("REGRAFT_DATABASE_URL", "postgresql://ann:secret@host/name")
        assert resuming.continued(FitConfig(resume=run))[1].database is None
        assert resuming.last_decision(run) == 3
