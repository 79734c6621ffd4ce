"""`regraft decisions` and the files it writes and reads: whole or not at all, and every damage named by its line."""

from __future__ import annotations

import io
import json

import pytest
from histories import PROJECT, event, name_of
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import stranger
from regraft.errors import DataError
from regraft.store.db import open_database
from regraft.store.decisions import Ledger
from regraft.store.jsonl import MAX_LINE_BYTES, read_history, write_history

EVENTS = [
    event(1), event(2, action="relabel", label="고양이", note="two\nlines", scores={"label": 0.25}),
    event(3, reviewer="قطة", other=4, action="duplicate"), event(5, action="undo", supersedes=name_of(1)),
]  # fmt: skip


@pytest.fixture
def filled(database):
    ledger = Ledger(database, PROJECT)
    ledger.append(EVENTS)
    return ledger


def exported(ledger: Ledger) -> bytes:
    out = io.BytesIO()
    write_history(ledger, out)
    return out.getvalue()


def test_out_and_in_again_is_the_same_history(filled, database_url, cli, tmp_path):
    file = tmp_path / "h.jsonl"
    answer = cli("decisions", "export", file, "--database", database_url)
    head = filled.verify().head
    assert answer.code == 0, answer.err
    assert answer.out == f"4 events of 'photos', head {head}\n{file}\n"
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert [line["seq"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1]["chain"] == head
    assert "고양이" in file.read_text("utf-8")

    runs = tmp_path / "elsewhere"
    assert cli("decisions", "import", file, "--runs-dir", runs).out == "4 new events of 'photos', 0 were known\n"
    assert cli("decisions", "import", file, "--runs-dir", runs).out == "0 new events of 'photos', 4 were known\n"
    answer = cli("decisions", "verify", "--runs-dir", runs, "--json")
    assert json.loads(answer.out) == {"project": "photos", "num_events": 4, "head": head, "ok": True}
    assert json.loads(cli("decisions", "verify", file, "--json").out) == json.loads(answer.out)
    database = open_database(runs_dir=runs)
    assert Ledger(database, PROJECT).events() == filled.events()
    database.close()


def test_in_behind_other_events_and_under_another_name(filled, database_url, cli, tmp_path):
    file = tmp_path / "h.jsonl"
    file.write_bytes(exported(filled))
    filled.append([event(9)])
    answer = cli("decisions", "import", file, "--database", database_url, "--json")
    assert json.loads(answer.out)["num_known"] == 4
    assert cli("decisions", "import", file, "--project", "other", "--database", database_url).code == 0
    database = filled.database
    assert [e.project for _, e in Ledger(database, "other").events()] == ["other"] * 4
    assert Ledger(database, "other").verify().ok
    assert filled.last_seq() == 5


def test_two_teams_histories_meet(tmp_path):
    """Two databases with some events in common take in each other's history: both have all, each in its own order."""
    one, two = (Ledger(open_database(runs_dir=tmp_path / name), PROJECT) for name in "12")
    one.append([event(1), event(2), event(3)])
    two.append([event(2), event(7, reviewer="Bo"), event(1)])
    for ledger, file in ((one, exported(two)), (two, exported(one))):
        ledger.append(read_history(io.BytesIO(file), "h").events)
    assert {e.event_id for _, e in one.events()} == {e.event_id for _, e in two.events()}
    assert one.verify().ok
    assert two.verify().ok
    for ledger in (one, two):
        ledger.database.close()


def test_through_pipes(filled, database_url, tmp_path):
    out = stranger("decisions", "export", "-", "--database", database_url)
    assert (out.code, out.err) == (0, "")
    assert out.out.encode() == exported(filled)
    (tmp_path / "elsewhere").mkdir()
    done = stranger("decisions", "import", "-", cwd=tmp_path / "elsewhere", stdin=out.out.encode())
    assert done.out == "4 new events of 'photos', 0 were known\n"
    assert (tmp_path / "elsewhere" / "runs" / "regraft.db").is_file()


def test_a_head_noted_down_shows_what_was_cut_off(filled, database_url, cli, tmp_path):
    early = filled.verify().head
    filled.append([event(9)])
    full, file = exported(filled), tmp_path / "h.jsonl"
    assert cli("decisions", "verify", "--head", early, "--database", database_url).code == 0
    answer = cli("decisions", "verify", "--head", "ab" * 32, "--database", database_url)
    assert (answer.code, answer.out) == (3, "")
    assert "must still be in the history" in answer.err
    file.write_bytes(b"".join(full.splitlines(keepends=True)[:3]))
    assert cli("decisions", "verify", file).code == 0
    assert cli("decisions", "verify", file, "--head", early).code == 3


def test_what_was_changed_from_outside_is_found_and_not_exported(filled, database_url, cli, tmp_path):
    with filled.database.begin() as connection:
        sqlite = filled.database.is_sqlite
        trigger = "decisions_no_update" if sqlite else "decisions_append_only ON decisions"
        connection.exec_driver_sql(f"DROP TRIGGER {trigger}")
        connection.exec_driver_sql("UPDATE decisions SET label = 'dog' WHERE seq = 2")
    answer = cli("decisions", "verify", "--database", database_url)
    assert answer.code == 3
    assert "changed from outside, at event 2 of 4" in answer.err
    answer = cli("decisions", "export", tmp_path / "h.jsonl", "--database", database_url)
    assert (answer.code, (tmp_path / "h.jsonl").exists()) == (3, False)


def changed(line: bytes, **fields: object) -> bytes:
    return json.dumps(json.loads(line) | fields).encode() + b"\n"


DAMAGES = {
    "a changed label": (lambda a: [a[0], changed(a[1], label="dog"), *a[2:]], "line 2 does not fit its chain"),
    "a changed time": (lambda a: [*a[:3], changed(a[3], time=5.0)], "line 4 does not fit its chain"),
    "a line left out": (lambda a: [a[0], *a[2:]], "line 2 must have seq 2 and has 3"),
    "the first line left out": (lambda a: a[1:], "line 1 must have seq 1 and has 2"),
    "lines swapped": (lambda a: [a[1], a[0], *a[2:]], "line 1 must have seq 1"),
    "renumbered": (lambda a: [changed(a[1], seq=1)], "line 1 does not fit its chain"),
    "cut off": (lambda a: [*a[:3], a[3][:100]], "line 4 is not"),
    "no chain": (lambda a: [changed(a[0], chain=None)], "line 1 does not fit its chain"),
    "an empty line": (lambda a: [a[0], b"\n", *a[1:]], "line 2 is not"),
    "a list": (lambda a: [b"[1, 2]\n"], "line 1 is list"),
    "not JSON": (lambda a: [a[0], b"PK\x03\x04\xff\xfe\n"], "line 2 is not"),
    "a byte order mark": (lambda a: [b"\xef\xbb\xbf" + a[0]], "line 1 is not"),
    "NaN": (lambda a: [a[0].replace(b'"time": 1700000001.0', b'"time": NaN')], "NaN is no JSON"),
    "a field twice": (lambda a: [a[0].replace(b'"seq": 1', b'"seq": 2, "seq": 1')], "a name comes twice"),
    "a field missing": (lambda a: [b'{"seq": 1, "chain": "x"}\n'], "line 1 has no 'action'"),
    "a field more": (lambda a: [changed(a[0], colour="red")], "line 1 has 'colour', unknown"),
    "a number for a text": (lambda a: [changed(a[0], reviewer=5)], "reviewer must be text"),
    "an unknown action": (lambda a: [changed(a[0], action="eat")], "action must be one of"),
    "half a character": (lambda a: [changed(a[0], note="\ud83d")], "note must be text that can be shown"),
    "a terminal's escape": (lambda a: [changed(a[0], reviewer="\x1b[2J")], "reviewer must be text that can be shown"),
    "very deep": (lambda a: [b"[" * 100_000 + b"\n"], "line 1 is not"),
    "a giant number": (lambda a: [b'{"seq": ' + b"9" * 100_000 + b"}\n"], "line 1 is not"),
    "a giant line": (lambda a: [a[0], b'{"note": "' + b"x" * MAX_LINE_BYTES], "line 2 has more"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_whole_and_the_line_is_named(damage, cli, tmp_path):
    database = open_database(runs_dir=tmp_path / "from")
    ledger = Ledger(database, PROJECT)
    ledger.append(EVENTS)
    spoil, words = DAMAGES[damage]
    file = tmp_path / "h.jsonl"
    file.write_bytes(b"".join(spoil(exported(ledger).splitlines(keepends=True))))
    database.close()
    answer = cli("decisions", "import", file, "--runs-dir", tmp_path / "into")
    assert (answer.code, answer.out) == (3, "")
    assert words in answer.err
    assert answer.err.count("\n") == 1
    assert len(answer.err) < 600
    assert not (tmp_path / "into").exists()


def test_two_projects_in_one_file(filled):
    line = json.loads(exported(filled).splitlines()[0])
    from regraft.store.event import chained

    other = event(2, project="other")
    second = {"seq": 2, "chain": chained(line["chain"], other), **other.as_dict()}
    with pytest.raises(DataError, match="one project: 'h', line 2 is of 'other', the first line of 'photos'"):
        read_history(io.BytesIO(f"{json.dumps(line)}\n{json.dumps(second)}\n".encode()), "h")


@given(st.binary(max_size=200), st.integers(0, 2000), st.integers(0, 60))
@settings(deadline=None, max_examples=150)
def test_any_damage_is_an_error_in_words(splice, start, length):
    """Bytes put over others anywhere in a file: it is read as it was, or refused in words; nothing else happens."""
    good = GOOD[0]
    damaged = good[:start] + splice + good[start + length :]
    try:
        events = read_history(io.BytesIO(damaged), "h").events
    except DataError as error:
        said = str(error)
    else:
        said = ""
        assert list(events) == EVENTS[: len(events)]
    assert "\n" not in said


def _good() -> bytes:
    from regraft.store.event import GENESIS, chained

    lines, link = [], GENESIS
    for seq, one in enumerate(EVENTS, 1):
        link = chained(link, one)
        lines.append(json.dumps({"seq": seq, "chain": link, **one.as_dict()}) + "\n")
    return "".join(lines).encode()


GOOD = [_good()]


def test_an_event_that_is_known_with_other_content_stops_the_whole_import(filled, database_url, cli, tmp_path):
    other = Ledger(open_database(runs_dir=tmp_path / "other"), PROJECT)
    other.append([event(20), event(1, action="exclude")])
    (tmp_path / "h.jsonl").write_bytes(exported(other))
    other.database.close()
    answer = cli("decisions", "import", tmp_path / "h.jsonl", "--database", database_url)
    assert answer.code == 3
    assert "is known with another action" in answer.err
    assert filled.last_seq() == 4


def test_which_project(filled, database_url, cli, tmp_path):
    answer = cli("decisions", "verify", "--project", "photo", "--database", database_url)
    assert answer.code == 2
    assert "'photo' has none (did you mean 'photos'?)" in answer.err
    Ledger(filled.database, "other").append([event(1, project="other")])
    answer = cli("decisions", "verify", "--database", database_url)
    assert answer.code == 2
    assert "say whose decisions with --project" in answer.err
    assert "'other', 'photos'" in answer.err
    answer = cli("decisions", "verify", "--runs-dir", tmp_path / "nowhere")
    assert answer.code == 2
    assert "a database must exist" in answer.err
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("words", [["import", "no-such-file"], ["verify", "no-such-file"], ["import", "."]])
def test_a_file_that_cannot_be_read(words, cli):
    answer = cli("decisions", *words)
    assert answer.code == 1
    assert answer.err.startswith("regraft: ")


def test_an_empty_file(cli, tmp_path):
    (tmp_path / "h.jsonl").touch()
    for verb in ("import", "verify"):
        answer = cli("decisions", verb, tmp_path / "h.jsonl", "--runs-dir", tmp_path)
        assert answer.code == 3
        assert "must hold an event" in answer.err
