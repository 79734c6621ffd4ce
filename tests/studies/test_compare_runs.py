"""Two runs are compared on what they share, and what makes that hard is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from regraft.evaluate.intervals import paired_difference
from regraft.predictions import write_predictions
from regraft.store.run_index import RunIndex
from regraft.studies.compare_runs import Comparison, compare_runs, config_changes
from run_samples import CLASSES, predicted, write_run


def compared(root: Path, a: str = "photos/1", b: str = "photos/2") -> Comparison:
    facts = {found.key: found for found in RunIndex(root).refresh(max_age=0)}
    return compare_runs(facts[a], facts[b], root / a, root / b)


def test_differences_are_those_of_the_shared_test_images(tmp_path):
    one, other = predicted(400, accuracy=0.7, seed=1), predicted(400, accuracy=0.9, seed=2)
    write_run(tmp_path, name="1", predictions=one)
    write_run(tmp_path, name="2", predictions=other)
    found = compared(tmp_path)
    test = one.split == "test"
    expected = paired_difference(
        one.labels[test], other.pred_probs[test], one.pred_probs[test], group_ids=np.arange(test.sum())
    )
    assert found.refusal == ""
    assert (found.num_shared, found.num_a, found.num_b) == (100, 100, 100)
    for name, interval in expected.items():
        assert found.differences[name].estimate == pytest.approx(interval.estimate, abs=1e-6)
        assert found.differences[name].low == pytest.approx(interval.low, abs=1e-6)
    assert found.after["accuracy"] - found.before["accuracy"] == pytest.approx(found.differences["accuracy"].estimate)
    right_a, right_b = (p.predicted[test] == p.labels[test] for p in (one, other))
    changed = one.predicted[test] != other.predicted[test]
    assert found.count("fixed") == (~right_a & right_b).sum()
    assert found.count("broken") == (right_a & ~right_b).sum()
    assert len(found.flips) == changed.sum()
    assert found.flips[0].kind == "fixed"
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["num_shared"] == 100


def test_classes_against_the_plain_reckoning(tmp_path):
    one, other = predicted(300, seed=1), predicted(300, accuracy=0.95, seed=2)
    write_run(tmp_path, name="1", predictions=one)
    write_run(tmp_path, name="2", predictions=other)
    found = {row.name: row for row in compared(tmp_path).classes}
    test = one.split == "test"
    for k, name in enumerate(CLASSES):
        f1 = []
        for run in (one, other):
            hits = ((run.predicted == k) & (run.labels == k) & test).sum()
            size = ((run.predicted == k) & test).sum() + ((run.labels == k) & test).sum()
            f1.append(2 * hits / size)
        assert (found[name].before, found[name].after) == pytest.approx(f1)
        assert found[name].change.low <= found[name].change.estimate <= found[name].change.high


def test_a_run_beside_itself_does_not_differ(tmp_path):
    for name in "12":
        write_run(tmp_path, name=name, predictions=predicted(200))
    found = compared(tmp_path)
    assert found.flips == ()
    assert found.config == ()
    for interval in found.differences.values():
        assert interval.estimate == 0
        assert interval.low <= 0 <= interval.high


def test_the_order_of_classes_does_not_matter(tmp_path):
    one = predicted(200, seed=1)
    write_run(tmp_path, name="1", predictions=one)
    folder = write_run(tmp_path, name="2")
    order = [2, 0, 1]
    back = np.argsort(order)
    turned = predicted(200, seed=1)
    turned = replace(
        turned, class_names=tuple(CLASSES[k] for k in order), pred_probs=one.pred_probs[:, order],
        labels=back[one.labels],
    )  # fmt: skip
    write_predictions(folder / "predictions.parquet", turned, proba=True)
    found = compared(tmp_path)
    assert found.flips == ()
    assert found.differences["log_loss"].estimate == pytest.approx(0, abs=1e-9)


def test_groups_are_resampled_together_where_they_are_known(tmp_path):
    one, other = predicted(400, accuracy=0.7, seed=1), predicted(400, accuracy=0.9, seed=2)
    for name, part in (("1", one), ("2", other)):
        folder = write_run(tmp_path, name=name, predictions=part)
        table = pq.read_table(folder / "predictions.parquet")
        groups = pa.array(np.arange(400) // 40)
        pq.write_table(table.append_column("group", groups), folder / "predictions.parquet")
    found = compared(tmp_path)
    test = one.split == "test"
    expected = paired_difference(
        one.labels[test], other.pred_probs[test], one.pred_probs[test], group_ids=(np.arange(400) // 40)[test]
    )
    assert found.differences["accuracy"].low == pytest.approx(expected["accuracy"].low, abs=1e-6)
    assert not any("independent" in words for words in found.cautions)


def test_what_differs_is_said(tmp_path):
    write_run(tmp_path, "photos", "1", predictions=predicted(200))
    every = replace(predicted(200, first=40), out_of_fold=np.ones(200, bool))
    write_run(
        tmp_path, "photos", "2", predictions=every,
        result={"data_version": "v2", "split": "cv", "decisions": "d7"},
        config={"data_version": "v2", "options": {"lr": 0.1, "seed": 1}, "reasons": {"lr": "asked for"}},
    )  # fmt: skip
    found = compared(tmp_path)
    words = " ".join(found.cautions)
    assert "version v1, photos/2 of v2" in words
    assert "d7 for photos/2" in words
    assert "by cross-validation" in words
    assert "compared are the" in words
    assert found.refusal == ""  # test images of one that the other held out: a fair pair
    changes = {row.name: row for row in found.config}
    assert (changes["data_version"].before, changes["data_version"].after) == ("v1", "v2")
    assert (changes["lr"].before, changes["lr"].after, changes["lr"].why_after) == ("not there", "0.1", "asked for")
    assert changes["seed"].after == "1"


def test_images_with_other_labels_are_left_out(tmp_path):
    one = predicted(200)
    labels = one.labels.copy()
    labels[:40] = (labels[:40] + 1) % 3
    write_run(tmp_path, name="1", predictions=one)
    write_run(tmp_path, name="2", predictions=predicted(200, labels=labels))
    found = compared(tmp_path)
    assert found.num_shared == 40
    assert any("10 of the images in common have another label" in words for words in found.cautions)


def test_refusals(tmp_path):
    write_run(tmp_path, name="1", predictions=predicted(200))
    write_run(tmp_path, name="2", predictions=predicted(200, first=1000))
    write_run(tmp_path, name="3", predictions=predicted(200, class_names=("ant", "bee", "dog")))
    write_run(tmp_path, name="4")
    write_run(tmp_path, name="5", finished=False)
    for name, why in (("2", "at least 10"), ("3", "'cat', 'dog'"), ("4", "no predictions"), ("5", "unfinished")):
        found = compared(tmp_path, b=f"photos/{name}")
        assert why in found.refusal
        assert found.differences == {}
    folder = write_run(tmp_path, name="6")
    for damage in (
        b"",
        b"PAR1",
        b"PAR1" + bytes(100) + b"PAR1",
        (tmp_path / "photos/1/predictions.parquet").read_bytes()[:-9],
    ):
        (folder / "predictions.parquet").write_bytes(damage)
        assert "what a fit wrote" in compared(tmp_path, b="photos/6").refusal
    for columns in (
        {"image": ["a"]}, {"image": [1], "given_label": ["x"], "predicted_label": ["x"], "p_x": [1.0]},
        {"image": ["a"], "given_label": ["x"], "predicted_label": ["x"], "p_x": ["y"]},
    ):  # fmt: skip
        pq.write_table(pa.table(columns), folder / "predictions.parquet")
        assert compared(tmp_path, b="photos/6").refusal != ""


def test_config_values_of_any_kind_are_one_short_line():
    deep: list[object] = []
    for _ in range(1000):
        deep = [deep]
    odd = {"options": {"a": deep, "b": "x" * 10_000, "c": "new\nline", "d": {str(i): i for i in range(1000)}, 7: 1}}
    for row in config_changes(odd, {}):
        for word in (row.name, row.before, row.after):
            assert len(word) <= 400
            assert word.isprintable()
    assert config_changes({"options": [1]}, {"options": None, "reasons": 5}) == ()
