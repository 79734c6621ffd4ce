"""The ledger on both databases: idempotent, chained, append-only, refusing in words; many threads and processes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa
from histories import PROJECT, event, item_of, name_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nursery import Nurse, nursery

from regraft.errors import DataError, RegraftError
from regraft.store import decisions
from regraft.store.db import open_database
from regraft.store.decisions import Appended, Ledger, Refused, projects
from regraft.store.event import GENESIS, LIMITS, canonical, chained, refusal
from regraft.store.fold import fold
from regraft.store.tables import DECISIONS
from regraft.types import ACTIONS


@pytest.fixture
def ledger(database) -> Ledger:
    return Ledger(database, PROJECT)


def names(*numbers: int) -> tuple[str, ...]:
    return tuple(name_of(n) for n in numbers)


def test_what_was_appended_is_read_back_whole(ledger):
    full = event(
        1, action="relabel", label="dog", suggested="dog", issue="label", scores={"label": 0.1, "n": 3},
        duration=1.25, batch=name_of(7), note="two lines\nof <b>words</b>; DROP TABLE",
    )  # fmt: skip
    pair = event(2, other=3, action="duplicate")
    assert ledger.append([full, pair]) == Appended(accepted=names(1, 2), known=())
    assert ledger.events() == [(1, full), (2, pair)]
    assert ledger.events(1) == [(2, pair)]
    assert ledger.last_seq() == 2


def test_of_an_empty_history(ledger, database):
    assert ledger.append([]) == Appended(accepted=(), known=())
    assert (ledger.events(), ledger.last_seq(), ledger.verdicts(), projects(database)) == ([], 0, {}, [])
    assert (ledger.verify().ok, ledger.verify().head) == (True, GENESIS)


def test_sending_again_changes_nothing(ledger):
    ledger.append([event(1), event(2)])
    head = ledger.verify().head
    assert ledger.append([event(2), event(3), event(3)]) == Appended(accepted=names(3), known=names(2))
    assert ledger.append([event(3)]) == Appended(accepted=(), known=names(3))
    assert ledger.last_seq() == 3
    assert ledger.verify().head != head


def test_the_server_may_fill_in_other_things_when_an_event_is_sent_again(ledger):
    ledger.append([event(1)])
    again = event(1, time=1.8e9, path="moved.jpg", given="dog", suggested="emu", scores={"label": 0.5})
    assert ledger.append([again]).known == names(1)
    assert ledger.events() == [(1, event(1))]


@pytest.mark.parametrize("change", [{"action": "exclude"}, {"reviewer": "Bo"}, {"item": item_of(9)}, {"note": "x"}])
def test_a_known_event_with_other_content_is_refused(ledger, change):
    ledger.append([event(1)])
    with pytest.raises(DataError, match="an event is never changed"):
        ledger.append([event(2), replace(event(1), **change)])
    with pytest.raises(DataError, match="an event is never changed"):
        ledger.append([event(5), replace(event(5), **change)])
    assert ledger.last_seq() == 1


def test_partial_takes_what_can_be_taken_and_says_why_of_the_rest(ledger):
    ledger.append([event(1)])
    sent = [
        event(2), event(1, note="x"), event(3, action="eat"), event(4, action="undo", supersedes=name_of(77)), event(1),
    ]  # fmt: skip
    done = ledger.append(sent[:-1], partial=True)
    assert (done.accepted, done.known) == (names(2), ())
    assert [refused.event_id for refused in done.refused] == list(names(3, 1, 4))
    assert all(isinstance(refused, Refused) and refused.reason for refused in done.refused)
    assert ledger.verify().num_events == 2


def test_projects_do_not_touch(database):
    ours, theirs = Ledger(database, "ours"), Ledger(database, "theirs")
    ours.append([event(1, project="ours")])
    theirs.append([event(1, project="theirs", action="exclude"), event(2, project="theirs")])
    assert projects(database) == ["ours", "theirs"]
    assert (ours.last_seq(), theirs.last_seq()) == (1, 2)
    assert ours.verify().ok
    with pytest.raises(DataError, match="project must be 'ours'"):
        ours.append([event(3, project="theirs")])


def test_the_chain_is_what_the_docs_say(ledger):
    from blake3 import blake3

    ledger.append([event(1, duration=2.0), event(2)])
    links = list(ledger.links())
    text = json.dumps(
        {"action": "keep", "duration": 2.0, "event_id": name_of(1), "given": "cat", "item": item_of(1),
         "path": "cat/1.jpg", "project": "photos", "reviewer": "Ada", "session": "s1", "time": 1.7e9 + 1},
        separators=(",", ":"),
    )  # fmt: skip
    first = blake3(("0" * 64 + "\n" + text).encode()).hexdigest()
    assert canonical(event(1, duration=2.0)) == text.encode()
    assert [(seq, previous) for seq, previous, _, _ in links] == [(1, "0" * 64), (2, first)]
    assert ledger.verify().head == links[1][2] == chained(first, event(2))


def test_the_database_itself_refuses_to_change_the_history(ledger, database):
    ledger.append([event(1)])
    for statement in ("UPDATE decisions SET label = 'x'", "DELETE FROM decisions"):
        with pytest.raises(RegraftError, match="decisions are only appended"), database.begin() as connection:
            connection.exec_driver_sql(statement)
    assert ledger.verify().ok


@pytest.mark.parametrize(
    ("tampering", "bad"),
    [
        ("UPDATE decisions SET label = 'x' WHERE seq = 3", 3),
        ("UPDATE decisions SET reviewer = 'Bo' WHERE seq = 1", 1),
        ("UPDATE decisions SET time = time + 1 WHERE seq = 5", 5),
        ("UPDATE decisions SET scores = '{\"label\":0.5}' WHERE seq = 4", 4),
        ("DELETE FROM decisions WHERE seq = 2", 3),
        ("DELETE FROM decisions WHERE seq = 1", 2),
        ("UPDATE decisions SET seq = seq + 10 WHERE seq > 3", 14),
    ],
)
def test_verify_finds_what_was_tampered_with(ledger, database, tampering, bad):
    ledger.append([event(n) for n in range(1, 6)])
    with database.begin() as connection:
        if database.is_sqlite:
            connection.exec_driver_sql("DROP TRIGGER decisions_no_update")
            connection.exec_driver_sql("DROP TRIGGER decisions_no_delete")
        else:
            connection.exec_driver_sql("DROP TRIGGER decisions_append_only ON decisions")
        connection.exec_driver_sql(tampering)
    found = ledger.verify()
    assert (found.ok, found.first_bad) == (False, bad)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"action": "kepe"}, "did you mean 'keep'"),
        ({"action": ""}, "action must be one of"),
        ({"item": "ab"}, "64 hex digits"),
        ({"item": item_of(1).upper().replace("1", "A")}, "64 hex digits"),
        ({"item": item_of(1) + "\n"}, "may hold 64 characters"),
        ({"event_id": "1"}, "event_id must be a UUID"),
        ({"event_id": name_of(0xABC).upper()}, "lower case"),
        ({"batch": "b"}, "batch must be empty or a UUID"),
        ({"action": "relabel"}, "relabel must name the new class"),
        ({"action": "relabel", "label": " "}, "relabel must name the new class"),
        ({"label": "dog"}, "label is for relabel alone"),
        ({"action": "duplicate"}, "about two images"),
        ({"action": "keep", "other": item_of(5)}, "about one image"),
        ({"action": "distinct", "other": item_of(1)}, "item and other are the same"),
        ({"action": "undo"}, "it names neither"),
        ({"action": "undo", "supersedes": name_of(3), "batch": name_of(4)}, "it names both"),
        ({"supersedes": name_of(3)}, "supersedes is for undo alone"),
        ({"reviewer": " "}, "reviewer must be named"),
        ({"project": ""}, "project must be named"),
        ({"reviewer": "x" * 81}, "reviewer may hold 80 characters: this one has 81"),
        ({"note": "x" * 10_001}, "note may hold 10,000 characters: this one has 10,001"),
        ({"action": "relabel", "label": "x" * 1001}, "label may hold 1,000 characters"),
        ({"path": "x" * 5000}, "path may hold 4,096"),
        ({"note": "a\x00b"}, "note must be text that can be shown"),
        ({"note": "a\x1b[31mb"}, "note must be text that can be shown"),
        ({"given": "a\x00b"}, "given must be text that can be shown"),
        ({"reviewer": "Ada\n"}, "reviewer must be text that can be shown"),
        ({"note": "half \ud83d"}, "note must be text that can be shown"),
        ({"action": "relabel", "label": "\udcff"}, "label must be text that can be shown"),
        ({"note": None}, "note must be text: None is not"),
        ({"item": b"ab"}, "item must be text"),
        ({"time": float("nan")}, "time must be a number of seconds"),
        ({"time": "now"}, "time must be a number of seconds"),
        ({"time": 1e300}, "time must be a number of seconds"),
        ({"duration": -1.0}, "duration must be a number of seconds"),
        ({"duration": True}, "duration must be a number of seconds"),
        ({"scores": []}, "scores must be an object"),
        ({"scores": {"label": float("inf")}}, "scores must be finite numbers"),
        ({"scores": {"label": "0.5"}}, "scores must be finite numbers"),
        ({"scores": {"label": {"a": 1}}}, "scores must be finite numbers"),
        ({"scores": {"a\x00": 1}}, "scores must be named by text"),
        ({"scores": {f"score {n}": n for n in range(2000)}}, "scores may hold 10,000 characters"),
        ({"scores": {"label": 10**400}}, "scores must be finite numbers"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_refused_in_words(tmp_path, fields, words):
    bad = event(1, **fields)
    assert words in (refusal(bad) or "")
    assert "\n" not in (refusal(bad) or "")
    assert len(refusal(bad) or "") < 400


def test_a_malformed_event_takes_its_whole_call_with_it(ledger):
    with pytest.raises(DataError, match=r"action must be one of .*nothing was written"):
        ledger.append([event(1), event(2, action="eat"), event(3)])
    assert ledger.last_seq() == 0


HOSTILE = [
    "'; DROP TABLE decisions; --", '" OR 1=1 --', "$$; SELECT pg_sleep(10); $$", "%s %(x)s :name ? ?1", "\\'; --",
    "<script>alert(1)</script>", "{{7*7}}", "../../etc/passwd",
    "قطة", "‮drawkcab", "고양이", "Straße", "👩‍👩‍👧", "NULL", "\u2066x",
]  # fmt: skip


def test_hostile_words_are_words_in_every_field(database):
    for word in HOSTILE:
        ledger = Ledger(database, word)
        fields = dict.fromkeys(("project", "reviewer", "session", "path", "given", "suggested", "label", "note"), word)
        hostile = event(1, **fields, action="relabel", issue=word[:40], scores={word: 1.0})
        ledger.append([hostile])
        assert ledger.append([hostile]).known == names(1)
        assert ledger.events() == [(1, hostile)]
        assert ledger.verify().ok
        assert ledger.verdicts()[item_of(1), ""].label == word
    assert projects(database) == sorted(HOSTILE)


def test_a_path_that_is_no_text_is_kept_as_it_can_be_shown(ledger):
    odd = event(1, path="cat/\udcff\x00\n.jpg")
    ledger.append([odd])
    assert ledger.append([odd]).known == names(1)
    assert ledger.events()[0][1].path == "cat/\\xff\\x00\\x0a.jpg"
    assert ledger.verify().ok


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u2028\u2029"), max_size=40)
numbers = st.floats(0, 1e9, allow_nan=False) | st.integers(0, 10**6)


fields_of = st.fixed_dictionaries(
    {
        "note": texts, "path": texts, "label": texts.filter(str.strip), "time": numbers,
        "duration": numbers.map(lambda n: n / 1e6),
        "scores": st.dictionaries(texts, st.floats(-1e300, 1e300) | st.integers(), max_size=3),
    }
)  # fmt: skip


@given(st.lists(fields_of, max_size=5))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_and_number_comes_back_and_the_chain_holds(database, many):
    project = f"p{sum(1 for _ in projects(database))}"
    ledger = Ledger(database, project)
    sent = [event(n, project=project, action="relabel", **fields) for n, fields in enumerate(many, 1)]
    ledger.append(sent)
    assert [read for _, read in ledger.events()] == sent
    assert ledger.verify().ok


def test_undo_in_the_ledger(ledger):
    ledger.append([event(1), event(2, reviewer="Bo"), event(3, action="undo", supersedes=name_of(1))])
    for bad, words in [
        (event(4, action="undo", supersedes=name_of(2)), "another reviewer's"),
        (event(4, action="undo", supersedes=name_of(3)), "an undo is not undone"),
        (event(4, action="undo", supersedes=name_of(9)), "is not in it"),
        (event(4, action="undo", supersedes=name_of(4)), "is not in it"),
    ]:
        with pytest.raises(DataError, match=words):
            ledger.append([bad])
    assert list(ledger.verdicts()) == [(item_of(2), "")]


def test_undo_of_a_batch_in_the_ledger(ledger):
    batch = name_of(99)
    undo = event(9, action="undo", batch=batch)
    for before in ([], [event(2, reviewer="Bo", batch=batch)]):
        ledger.append(before)
        with pytest.raises(DataError, match="a batch of one's own"):
            ledger.append([undo])
    assert ledger.append([event(3, batch=batch), undo]).accepted == names(3, 9)
    assert ledger.append([event(4, batch=batch)]).accepted
    assert ledger.append([event(10, action="undo", batch=batch)]).accepted
    assert list(ledger.verdicts()) == [(item_of(2), "")]


def test_verdicts_follow_the_history_in_pieces(ledger, monkeypatch):
    monkeypatch.setattr(decisions, "_ROWS_A_READ", 3)
    history = [
        event(n, item=n % 5, reviewer="AB"[n % 2], action=("keep", "exclude", "skip")[n % 3]) for n in range(1, 30)
    ]
    other = Ledger(ledger.database, PROJECT)
    for start in range(0, len(history), 4):
        other.append(history[start : start + 4])
        assert ledger.verdicts() == fold(history[: start + 4])
    assert ledger.verdicts() == fold(e for _, e in ledger.events())
    ledger.verdicts().clear()  # a copy
    assert ledger.verdicts()


def test_threads_and_one_ledger(ledger):
    """Two reviewers, sixteen threads, everything sent twice: nothing is lost, nothing is doubled."""
    sent = [[event(n * 20 + k, reviewer="AB"[n % 2]) for k in range(20)] for n in range(16)]
    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(ledger.append, sent + sent))
    assert sorted(name for each in done for name in each.accepted) == sorted(e.event_id for part in sent for e in part)
    assert sum(len(each.known) for each in done) == 320
    assert [seq for seq, _ in ledger.events()] == list(range(1, 321))
    assert ledger.verify().ok


def test_a_thousand_events_in_one_call_are_few_statements(ledger, database):
    statements = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    ledger.append([event(n) for n in range(1000)])
    assert len(statements) <= 10
    assert ledger.last_seq() == 1000


@pytest.fixture(scope="module")
def nurse() -> Iterator[Nurse]:
    with nursery() as nurse:
        yield nurse


def test_two_processes_append_at_once(database, database_url, nurse):
    pids = [nurse.start("write", database_url, who, first, 7, 700) for who, first in (("Ada", 0), ("Bo", 10_000))]
    said = [line for pid in pids for line in nurse.wait(pid)]
    assert said.count("ended 0") == 2
    ledger = Ledger(database, PROJECT)
    kept = [e.event_id for _, e in ledger.events()]
    assert sorted(kept) == sorted(line for line in said if line != "ended 0")
    assert len(kept) == 1400
    assert len({e.reviewer for _, e in ledger.events()}) == 2
    assert ledger.verify().ok


def test_killed_in_the_middle_twenty_times(database, database_url, nurse):
    """Every acknowledged event is there, the chain is whole, and no call is there by half."""
    ledger, size, said = Ledger(database, PROJECT), 5, []
    for n in range(20):
        pid = nurse.start("write", database_url, "Ada", n * 10_000, size, 9_000)
        lines = [nurse.read()[1] for _ in range(1 + 7 * n)]  # after another number of acknowledged events each time
        lines += nurse.kill(pid)
        assert lines[-1] == "ended -9"
        said += lines[:-1]
    kept = [e.event_id for _, e in ledger.events()]
    assert len(said) > 1000
    assert set(said) <= set(kept)
    assert len(kept) == len(set(kept))
    assert len(kept) % size == 0
    assert ledger.verify().ok
    assert ledger.append([event(1_000_000)]).accepted  # and it goes on


def test_killed_between_taking_its_turn_and_committing(database, database_url, nurse):
    """A writer that dies inside its transaction leaves nothing, and its turn is free."""
    ledger = Ledger(database, PROJECT)
    ledger.append([event(1)])
    for n in range(5):
        assert nurse.wait(nurse.start("die_within", database_url, 100 * (n + 1))) == ["ended -9"]
    assert ledger.last_seq() == 1
    assert ledger.append([event(2)]).accepted
    assert ledger.verify().ok


def test_a_connection_that_broke_is_made_again(postgres_url, postgres_cluster, tmp_path):
    database = open_database(postgres_url, runs_dir=tmp_path)
    ledger = Ledger(database, PROJECT)
    ledger.append([event(1)])
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname LIKE 't_%'"
    postgres_cluster.execute(cut)
    assert ledger.append([event(1), event(2)]) == Appended(accepted=names(2), known=names(1))

    inside = threading.Event()
    rows = ledger._rows

    def cut_off(*words):
        if not inside.is_set():
            inside.set()
            postgres_cluster.execute(cut)
        return rows(*words)

    ledger._rows = cut_off
    with pytest.raises(RegraftError, match="must answer: postgresql://"):
        ledger.append([event(3)])
    assert ledger.append([event(3)]).accepted == names(3)
    assert ledger.verify().ok
    database.close()


def test_every_action_has_a_place(ledger):
    for n, action in enumerate(ACTIONS, 1):
        more = {"relabel": {"label": "dog"}, "undo": {"supersedes": name_of(1)}}.get(action, {})
        pair = {"other": 50} if action in ("distinct", "duplicate") else {}
        ledger.append([event(n, action=action, **more, **pair)])
    assert ledger.last_seq() == len(ACTIONS)
    assert set(LIMITS) < set(DECISIONS.c.keys())
