"""Predictions as files: the promised columns, the same in every format, empty where an image could not be read."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regraft.errors import UsageError
from regraft.predictions import columns, stream_predictions, write_predictions
from regraft.types import Predictions

ENDINGS = ("csv", "parquet", "json")
KNOWN = ["given_label", "split", "out_of_fold", "group"]


def some(num: int = 4, *, known: bool = True, names: tuple[str, ...] = ("a", 'b, "c"', "ü🐈")) -> Predictions:
    probs = np.random.default_rng(num).dirichlet(np.ones(len(names)), num)
    probs[1::3] = np.nan
    return Predictions(
        images=[f"folder/{k}\n, \"x\".png" for k in range(num)], pred_probs=probs, class_names=names,
        labels=np.arange(num) % len(names) - (np.arange(num) == 2) * 3 if known else None,
        split=np.array(["train", "test"] * num)[:num] if known else None,
        out_of_fold=np.arange(num) % 2 == 0 if known else None,
        group_ids=np.arange(num) // 2 if known else None,
    )  # fmt: skip


def rows_of(path) -> list[dict]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".json":
        return json.loads(path.read_text("utf-8"), parse_constant=pytest.fail)
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    read = {"confidence": float, "out_of_fold": lambda word: word == "True", "group": int}
    return [
        {k: None if v == "" else float(v) if k.startswith("p_") else read.get(k, str)(v) for k, v in row.items()}
        for row in rows
    ]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("proba", [False, True])
def test_columns_and_values(tmp_path, ending, known, proba):
    predictions = some(known=known)
    path = tmp_path / f"x.{ending}"
    write_predictions(path, predictions, proba=proba)
    rows = rows_of(path)
    wanted = ["image", "predicted_label", "confidence", *(KNOWN if known else [])]
    assert list(rows[0]) == wanted + ([f"p_{name}" for name in predictions.class_names] if proba else [])
    for k, row in enumerate(rows):
        assert row["image"] == predictions.images[k]
        if k == 1:
            assert row["predicted_label"] is row["confidence"] is None
            assert all(row[name] is None for name in row if name.startswith("p_"))
            continue
        assert row["predicted_label"] == predictions.class_names[int(predictions.pred_probs[k].argmax())]
        assert row["confidence"] == pytest.approx(predictions.pred_probs[k].max(), rel=1e-12)
        for j, name in enumerate(predictions.class_names if proba else ()):
            assert row[f"p_{name}"] == pytest.approx(predictions.pred_probs[k, j], rel=1e-6)
    if known:
        assert rows[2]["given_label"] is None or rows[2]["given_label"] == ""
        assert [row["out_of_fold"] for row in rows] == [True, False, True, False]
        assert rows[0]["split"] == "train"
        assert [row["group"] for row in rows] == [0, 0, 1, 1]


@pytest.mark.parametrize("ending", ENDINGS)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_parts_are_the_whole(tmp_path_factory, ending, sizes):
    folder = tmp_path_factory.mktemp("x")
    whole = some(sum(sizes), known=False)
    ends = np.cumsum(sizes)
    parts = [
        Predictions(
            images=whole.images[e - n : e], pred_probs=whole.pred_probs[e - n : e], class_names=whole.class_names
        )
        for e, n in zip(ends, sizes, strict=True)
    ]
    write_predictions(folder / f"whole.{ending}", whole, proba=True)
    assert list(stream_predictions(folder / f"parts.{ending}", parts, proba=True)) == parts
    assert rows_of(folder / f"parts.{ending}") == rows_of(folder / f"whole.{ending}")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_failure_midway_leaves_the_old_file(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    path.write_text("old")

    def parts():
        yield some()
        raise RuntimeError("the disk was pulled out")

    with pytest.raises(RuntimeError):
        list(stream_predictions(path, parts(), proba=False))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_parts_no_file(tmp_path, ending):
    assert list(stream_predictions(tmp_path / f"x.{ending}", [], proba=False)) == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ENDINGS)
def test_any_file_name_can_be_written(tmp_path, ending):
    names = ["odd\udcff.png", "\x1b[2J", "=1+1", "'; drop table"]
    probs = np.full((4, 2), 0.5)
    probs[0] = np.nan
    write_predictions(
        tmp_path / f"x.{ending}", Predictions(images=names, pred_probs=probs, class_names=("a", "b")), proba=True
    )
    rows = rows_of(tmp_path / f"x.{ending}")
    assert [row["image"] for row in rows][1:] == names[1:]
    assert rows[0]["predicted_label"] is None


def test_all_unreadable_is_still_typed(tmp_path):
    nothing = Predictions(images=["a"], pred_probs=np.full((1, 2), math.nan), class_names=("a", "b"))
    list(stream_predictions(tmp_path / "x.parquet", [nothing, some(3, known=False, names=("a", "b"))], proba=True))
    table = pq.read_table(tmp_path / "x.parquet")
    assert [str(field.type) for field in table.schema] == ["string", "string", "double", "float", "float"]


def test_endings(tmp_path):
    for name in ("x.xlsx", "x", "csv"):
        with pytest.raises(UsageError, match=r"\.csv, \.parquet, \.json"):
            write_predictions(tmp_path / name, some(), proba=False)
    write_predictions(tmp_path / "x.CSV", some(), proba=False)


def test_no_images():
    empty = Predictions(images=[], pred_probs=np.empty((0, 2)), class_names=("a", "b"))
    assert columns(empty, proba=False) == {"image": [], "predicted_label": [], "confidence": []}
