"""Run folders: numbered safely, never overwritten unasked, listed whatever their state."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from regraft.errors import UsageError
from regraft.store.runs import CONFIG, RESULT, create_run_folder, list_runs, project_name


def test_names_are_the_next_numbers(tmp_path):
    assert [create_run_folder(tmp_path, "p").name for _ in range(3)] == ["1", "2", "3"]
    (tmp_path / "p" / "10").mkdir()
    (tmp_path / "p" / "notes.txt").touch()
    (tmp_path / "p" / "007x").mkdir()
    assert create_run_folder(tmp_path, "p").name == "11"
    assert create_run_folder(tmp_path, "q").name == "1"


def test_many_at_once_get_one_each(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: create_run_folder(tmp_path, "p"), range(40)))
    assert len(set(made)) == 40


@pytest.mark.parametrize(
    "name", ["", ".", "..", " ", "a/b", "a\\b", "/abs", "a\0b", "line\nbreak", "\x1b[2J", "a:b", "odd\udcff", "?", "*"]
)
def test_only_plain_names(tmp_path, name):
    with pytest.raises(UsageError, match="plain folder name"):
        create_run_folder(tmp_path, "p", name)
    with pytest.raises(UsageError, match="plain folder name"):
        create_run_folder(tmp_path, name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a", "my run", "日本 🐈", "-x", "1", ".hidden", "a" * 200])
def test_odd_but_plain_names(tmp_path, name):
    assert create_run_folder(tmp_path, "p", name) == tmp_path / "p" / name


def test_taken_names(tmp_path):
    run = create_run_folder(tmp_path, "p", "first")
    (run / "x").touch()
    with pytest.raises(UsageError, match="never overwritten"):
        create_run_folder(tmp_path, "p", "first")
    with pytest.raises(UsageError, match="is no run"):
        create_run_folder(tmp_path, "p", "first", exist_ok=True)
    assert (run / "x").exists()
    (run / CONFIG).touch()
    assert not list(create_run_folder(tmp_path, "p", "first", exist_ok=True).iterdir())
    assert create_run_folder(tmp_path, "p", "first", exist_ok=True) == run  # an empty folder is nobody's
    (tmp_path / "p" / "file").write_text("mine")
    with pytest.raises(UsageError, match="is no run"):
        create_run_folder(tmp_path, "p", "file", exist_ok=True)
    assert (tmp_path / "p" / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "project"),
    [
        ("photos", "photos"), ("my photos", "my photos"), ("a:b|c", "a_b_c"), ("new\nline", "new_line"),
        ("odd\udcff", "odd_"), ("...", "data"), ("v1.2", "v1.2"), (" x. ", "x"),
    ],
)  # fmt: skip
def test_project_of_a_folder(tmp_path, name, project):
    (tmp_path / os.fsdecode(os.fsencode(name))).mkdir()
    assert project_name(tmp_path / name) == project


def test_project_of_a_manifest_and_of_the_root(tmp_path):
    (tmp_path / "labels.v2.csv").touch()
    assert project_name(tmp_path / "labels.v2.csv") == "labels.v2"
    assert project_name(Path("/")) == "data"


def test_list_finds_every_state(tmp_path):
    assert list_runs(tmp_path / "none") == []
    for name, content in {"1": '{"a": 1}', "2": None, "3": "{", "4": "\udcff", "5": "[1]"}.items():
        folder = create_run_folder(tmp_path, "p", name)
        (folder / CONFIG).touch()
        if content is not None:
            (folder / RESULT).write_bytes(content.encode("utf-8", "surrogateescape"))
    create_run_folder(tmp_path, "p", "no config")
    records = {record.name: record for record in list_runs(tmp_path)}
    assert list(records) == ["1", "2", "3", "4", "5"]
    assert records["1"].result == {"a": 1}
    assert records["1"].finished is not None
    assert [records[name].result for name in "234"] == [None] * 3
    assert records["2"].finished is None
