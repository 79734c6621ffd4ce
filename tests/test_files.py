"""Files appear whole or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from regraft.files import default_cache_dir, replacing, write_bytes, write_json, write_text


def test_written_whole_and_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "folder" / ("x" * 250 + ".json")
    write_json(path, {"ä": [1, None]})
    assert json.loads(path.read_text("utf-8")) == {"ä": [1, None]}
    write_text(path, "b\n")
    assert path.read_bytes() == b"b\n"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as aside:
        aside.write_bytes(b"half of the n" * (1 // 0 if aside.write_bytes(b"half") else 1))
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"x": math.nan})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\udcff")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_bytes(tmp_path / "x", b"1")
    assert caught.value.filename == str(tmp_path / "x")
    assert caught.value.errno == 28


def test_cache_dir_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("REGRAFT_CACHE_DIR", "~/cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "cache"
    monkeypatch.setenv("REGRAFT_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "regraft"
