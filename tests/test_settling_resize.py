"""`resize = auto` in a fit: what it became, why, and when nothing is measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import yaml

import regraft
from drawn import draw_folder, encode
from regraft import settling
from regraft.data import split
from regraft.progress import Listener, Stopwatch
from regraft.studies.resize import ResizeChoice


@pytest.fixture
def wide(tmp_path):
    """Two classes of 60 pictures, three times as wide as high, that differ at their ends only."""
    rng = np.random.default_rng(0)
    for name, colour in (("red", (200, 40, 40)), ("blue", (40, 60, 200))):
        (tmp_path / "wide" / name).mkdir(parents=True)
        for number in range(60):
            picture = rng.integers(90, 160, (24, 72, 3))
            picture[:, :12] = picture[:, -12:] = colour + rng.integers(-30, 30, (1, 1, 3))
            (tmp_path / "wide" / name / f"{number:02d}.png").write_bytes(encode(picture.astype(np.uint8)))
    return tmp_path / "wide"


@pytest.fixture
def forbidden(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("nothing was to be measured")

    monkeypatch.setattr(settling, "compare_policies", refuse)


def settled(data, tmp_path, **options):
    config = regraft.FitConfig(image_size=32, cache_dir=tmp_path / "cache", **options)
    manifest = regraft.read(data).manifest
    return settling.settle(
        config, manifest, split(manifest, test=0.0), cache_dir=tmp_path / "cache", listener=Listener(),
        watch=Stopwatch(Listener()),
    )  # fmt: skip


def test_a_fit_measures_it_and_writes_it_down(cache_dir, tmp_path, wide):
    run = regraft.fit(wide, image_size=32, runs_dir=tmp_path / "runs", repeats=1)
    config = yaml.safe_load((run.path / "config.yaml").read_text("utf-8"))
    assert config["asked"]["resize"] == "auto"
    assert config["options"]["resize"] in ("squash", "pad")
    assert "on 120 images" in config["reasons"]["resize"]
    assert "crop -" in config["reasons"]["resize"] or config["options"]["resize"] == "pad"
    assert run.result["seconds"]["resize"] > 0
    assert run.model.bundle.transform.policy == config["options"]["resize"]
    assert run.metrics["accuracy"].estimate > 0.9


def test_what_was_measured_is_used(cache_dir, tmp_path, wide, monkeypatch):
    heard = []

    def fake(manifest, group_ids, backbone, **options):
        heard.append((len(manifest), len(group_ids), backbone.transform.size, options["metric"]))
        return ResizeChoice(policy="pad", reason="because")

    monkeypatch.setattr(settling, "compare_policies", fake)
    found = settled(wide, tmp_path, metric="accuracy")
    assert heard == [(120, 120, 32, "accuracy")]
    assert found.backbone.transform.policy == "pad"
    assert dataclasses.astuple(found.options["resize"]) == ("pad", "because")


def test_test_images_take_no_part(cache_dir, tmp_path, wide, monkeypatch):
    seen = []
    monkeypatch.setattr(
        settling, "compare_policies",
        lambda manifest, *_, **__: seen.extend(manifest.names) or ResizeChoice(policy="squash", reason=""),
    )  # fmt: skip
    manifest = regraft.read(wide).manifest
    halves = split(manifest, test=0.15)
    settling.settle(
        regraft.FitConfig(image_size=32, cache_dir=tmp_path / "cache"), manifest, halves,
        cache_dir=tmp_path / "cache", listener=Listener(), watch=Stopwatch(Listener()),
    )  # fmt: skip
    assert len(halves.test) > 10
    assert sorted(seen) == sorted(np.array(manifest.names)[halves.development])


def test_nothing_is_measured_where_it_was_asked_for(cache_dir, tmp_path, wide, forbidden):
    for policy in ("squash", "crop", "pad"):
        found = settled(wide, tmp_path, resize=policy)
        assert found.backbone.transform.policy == policy
        assert dataclasses.astuple(found.options["resize"]) == (policy, "asked for")


def test_nothing_is_measured_on_few_or_square_images_or_from_scratch(cache_dir, tmp_path, wide, forbidden):
    few = draw_folder(tmp_path / "few")
    square = draw_folder(tmp_path / "square", per_class=40, size=(20, 20))
    words = {few: "too few", square: "square"}
    for data, word in words.items():
        found = settled(data, tmp_path).options["resize"]
        assert found.value == "squash"
        assert word in found.reason
    assert settled(wide, tmp_path, strategy="scratch").options["resize"].value == "squash"


def test_a_resumed_run_keeps_what_it_began_with(cache_dir, tmp_path, wide, forbidden):
    record = {"options": {"resize": "pad"}, "reasons": {"resize": "measured then"}}
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text(yaml.safe_dump(record), "utf-8")
    found = settled(wide, tmp_path, strategy="lp_ft", resume=tmp_path / "unfinished")
    assert dataclasses.astuple(found.options["resize"]) == ("pad", "measured then")
    assert found.backbone.transform.policy == "pad"
