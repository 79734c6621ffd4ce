"""The index says what the folders say, reads a folder once, and survives whatever lies in one."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regraft.errors import UsageError
from regraft.store.run_files import is_run_file, number, opened, read_config, run_files, text
from regraft.store.run_index import RunIndex, find_run
from run_samples import write_run


def keys(index: RunIndex) -> list[str]:
    return [facts.key for facts in index.refresh(max_age=0)]


def test_it_says_what_the_folder_says(tmp_path):
    write_run(tmp_path, "photos", "1", macro_f1=0.8, config={"decisions": {"seq": 7, "head": "abc"}})
    (facts,) = RunIndex(tmp_path).refresh()
    assert (facts.key, facts.state, facts.split, facts.strategy, facts.backbone) == (
        "photos/1", "finished", "test", "linear_probe", "resnet18",
    )  # fmt: skip
    assert facts.metrics["macro_f1"] == pytest.approx((0.8, 0.75, 0.85))
    assert (facts.seconds, facts.num_images, facts.num_evaluated, facts.data_version) == (4.5, 30, 12, "v1")
    assert facts.decisions == "7:abc"
    assert facts.finished is not None
    assert facts.who


def test_decisions_that_changed_nothing_are_none(tmp_path):
    write_run(tmp_path, name="1", result={"decisions": {"seq": 7, "head": "f" * 64, "num_applied": 0}})
    write_run(tmp_path, name="2", result={"decisions": {"seq": 7, "head": "f" * 64, "num_applied": 3}})
    write_run(tmp_path, name="3", result={"decisions": [1]})
    assert [facts.decisions for facts in RunIndex(tmp_path).refresh()] == ["", "7:" + "f" * 11, ""]


def test_numbers_are_in_order_of_number(tmp_path):
    for name in ("10", "9", "best", "1"):
        write_run(tmp_path, name=name)
    assert keys(RunIndex(tmp_path)) == ["photos/1", "photos/9", "photos/10", "photos/best"]


def test_a_second_look_opens_nothing_and_a_change_is_seen(tmp_path):
    for i in range(5):
        write_run(tmp_path, name=str(i))
    index = RunIndex(tmp_path)
    index.refresh(max_age=0)
    assert index.num_read == 5
    index.refresh(max_age=0)
    assert index.num_read == 5
    folder = tmp_path / "photos" / "3"
    result = json.loads((folder / "result.json").read_text())
    result["strategy"] = "lp_ft"
    (folder / "result.json").write_text(json.dumps(result))
    shutil.rmtree(tmp_path / "photos" / "4")
    write_run(tmp_path, "more", "1", finished=False)
    found = {facts.key: facts for facts in index.refresh(max_age=0)}
    assert index.num_read == 7
    assert found["photos/3"].strategy == "lp_ft"
    assert "photos/4" not in found
    assert found["more/1"].state == "unfinished"


def test_within_its_age_it_does_not_look_at_all(tmp_path):
    now = [0.0]
    index = RunIndex(tmp_path, clock=lambda: now[0])
    assert index.refresh(max_age=1) == []
    write_run(tmp_path)
    assert index.refresh(max_age=1) == []
    now[0] = 1.0
    assert len(index.refresh(max_age=1)) == 1


def test_the_cache_file_saves_reading_and_may_be_damaged(tmp_path):
    root, cache = tmp_path / "runs", tmp_path / "cache" / "index.json"
    for i in range(3):
        write_run(root, name=str(i))
    first = RunIndex(root, cache).refresh()
    second = RunIndex(root, cache)
    assert second.refresh() == first
    assert second.num_read == 0
    for damage in (b"", b"{", b"[]", b'{"format": 1}', b'{"format": 1, "runs_dir": "x", "runs": [1]}', bytes(100)):
        cache.write_bytes(damage)
        third = RunIndex(root, cache)
        assert third.refresh() == first
        assert third.num_read == 3
    (tmp_path / "file").touch()
    assert RunIndex(root, tmp_path / "file" / "below.json").refresh() == first  # it cannot be written: no matter


def test_the_cache_of_other_runs_is_not_believed(tmp_path):
    write_run(tmp_path / "a", name="1")
    RunIndex(tmp_path / "a", tmp_path / "cache.json").refresh()
    assert RunIndex(tmp_path / "b", tmp_path / "cache.json").refresh() == []


def test_running_while_something_changes(tmp_path):
    folder = write_run(tmp_path, finished=False)
    index = RunIndex(tmp_path)
    (facts,) = index.refresh(max_age=0)
    assert facts.is_running(time.time())
    long_ago = time.time() - 3600
    for file in folder.iterdir():
        os.utime(file, (long_ago, long_ago))
    (facts,) = index.refresh(max_age=0)
    assert not facts.is_running(time.time())
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write("{}\n")
    (facts,) = index.refresh(max_age=0)
    assert facts.is_running(time.time())


HOSTILE_RESULTS = {
    "empty": b"", "cut": b"{", "list": b"[]", "number": b"7", "odd bytes": b"\xff\xfe{", "nul": bytes(1000),
    "nan": b'{"metrics": {"macro_f1": {"estimate": NaN, "low": 0, "high": 1}}}',
    "huge number": b'{"num_images": 1' + b"0" * 4000 + b', "metrics": {"macro_f1": 3}}',
    "deep": b"[" * 100_000,
    "deep object": b'{"metrics": ' * 20_000,
    "too large": b" " * ((16 << 20) + 1) + b"{}",
    "wrong kinds": b'{"metrics": [], "seconds": "x", "strategy": {"a": 1}, "warnings": 5, "split": ["a"]}',
    "upside down": b'{"metrics": {"macro_f1": {"estimate": 0.1, "low": 0.9, "high": 0.2}}}',
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE_RESULTS.values(), ids=HOSTILE_RESULTS)
def test_a_hostile_result_is_a_damaged_run(tmp_path, content):
    folder = write_run(tmp_path)
    (folder / "result.json").write_bytes(content)
    (facts,) = RunIndex(tmp_path).refresh()
    assert facts.state == "damaged"
    assert facts.metrics == {}


HOSTILE_CONFIGS = {
    "python object": "!!python/object/apply:os.system ['true']", "cut": "a: [", "tab": "a:\n\t- b",
    "bomb": "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\noptions: *c\n", "deep": "[" * 3000, "deep2": "- " * 3000,
    "bytes": "\udcff", "too large": "a: 1\n" * 100_000, "list": "[1]",
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE_CONFIGS.values(), ids=HOSTILE_CONFIGS)
def test_a_hostile_config_says_nothing(tmp_path, content):
    folder = write_run(tmp_path, finished=False)
    (folder / "config.yaml").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert read_config(folder) is None
    (facts,) = RunIndex(tmp_path).refresh()
    assert (facts.state, facts.strategy) == ("unfinished", "")


def test_links_pipes_and_odd_names_are_left_out(tmp_path):
    root = tmp_path / "runs"
    write_run(root, "photos", "1")
    secret = write_run(tmp_path / "elsewhere", "photos", "1")
    (root / "photos" / "linked").symlink_to(secret)
    (root / "linked").symlink_to(secret.parent)
    write_run(root, "new\nline", "1")
    write_run(root, "photos", "a\x1b[2Jb")
    index = RunIndex(root)
    assert keys(index) == ["photos/1"]
    assert index.num_odd == 4
    assert index.get("photos", "linked") is None
    assert index.get("linked", "1") is None
    assert index.get("..", "elsewhere") is None


def test_files_that_are_links_are_not_read(tmp_path):
    (tmp_path / "secret.json").write_text('{"strategy": "secret", "metrics": {}}')
    folder = write_run(tmp_path / "runs")
    (folder / "result.json").unlink()
    (folder / "result.json").symlink_to(tmp_path / "secret.json")
    (folder / "metrics.jsonl").unlink()
    os.mkfifo(folder / "metrics.jsonl")
    (folder / "model" / "head.safetensors").unlink()
    (folder / "model").rmdir()
    (folder / "model").symlink_to(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (facts,) = RunIndex(tmp_path / "runs").refresh()
    assert facts.strategy != "secret"
    for path in ("result.json", "metrics.jsonl", "model/config.json", "../secret.json", "model", "/etc/passwd"):
        with pytest.raises(OSError), opened(folder, path):
            pass
    assert [path for path, _ in run_files(folder)] == ["config.yaml", "env.json", "report.html"]


@pytest.mark.parametrize(
    ("path", "good"),
    [
        ("result.json", True), ("model/head.safetensors", True), ("model/backbone/model.xml", True),
        ("checkpoints/best.safetensors", True), ("tensorboard/events.out.tfevents.17.vm.1", True),
        ("model/evil.pkl", False), ("model/../result.json", False), ("model//a.json", False), ("model", False),
        ("model/a/b/c.json", False), ("other.txt", False), (".env", False), ("/result.json", False), ("", False),
        ("checkpoints/last.pt", False), ("model\\a.json", False), ("model/..json", False),
    ],
)  # fmt: skip
def test_which_files_are_a_runs_own(path, good):
    assert is_run_file(path) is good


@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers())))
def test_text_is_one_printable_line_and_numbers_are_finite(value):
    shown = text(value, 20)
    assert len(shown) <= 20
    assert shown.isprintable()
    found = number(value)
    assert found is None or found == value


def test_a_run_is_found_as_a_person_names_it(tmp_path):
    first, second = write_run(tmp_path, "photos", "1"), write_run(tmp_path, "photos", "2")
    other = write_run(tmp_path, "more", "2")
    assert find_run(tmp_path, "1") == first
    assert find_run(tmp_path, "photos/2") == second
    assert find_run(tmp_path, str(other)) == other
    assert find_run(tmp_path, "2", project="more") == other
    with pytest.raises(UsageError, match="more/2, photos/2"):
        find_run(tmp_path, "2")
    for word in ("3", "photos", "", ".", "..", "a/b/c", "\0"):
        with pytest.raises(UsageError):
            find_run(tmp_path, word)


def test_nothing_there(tmp_path):
    assert RunIndex(tmp_path / "none").refresh() == []
    (tmp_path / "file").touch()
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "1").mkdir()
    assert RunIndex(tmp_path).refresh() == []
    assert Path(tmp_path / "p" / "1").is_dir()
