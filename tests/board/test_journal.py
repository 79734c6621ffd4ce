"""The journal: the best so far, what is private, what is written down; its page and its verb."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from board_samples import client_of, running, site_at
from review_browser import Seat, chromium

from regraft.board.journal.day import DayJournal, journal_of
from regraft.board.journal.days import Day, day_of
from regraft.board.journal.markdown import markdown
from regraft.board.journal.stretches import Stretch
from regraft.errors import UsageError
from regraft.store.db import Database
from regraft.store.decisions import Ledger
from regraft.store.journal import Journal
from regraft.store.run_index import RunIndex
from regraft.types import Decision
from run_samples import HOSTILE, write_run

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()
DAY = day_of("2026-11-23", now=NOON, zone=ZoneInfo("UTC"))


def run_at(runs: Path, name: str, ended: float, *, project: str = "photos", **options: Any) -> Path:
    """A run that took 4.5 s and ended at a time."""
    folder = write_run(runs, project, name, **options)
    for file in folder.iterdir():
        os.utime(file, (ended - 1, ended - 1))
    if (folder / "result.json").exists():
        os.utime(folder / "result.json", (ended, ended))
    return folder


def config(**options: Any) -> dict[str, Any]:
    return {"options": {"backbone": "resnet18", "lr": 0.01, "name": None} | options}


def decision(time: float, reviewer: str, action: str = "keep", *, duration: float = 5.0, **values: Any) -> Decision:
    label = "dog" if action == "relabel" else ""
    return Decision(
        event_id=str(uuid.uuid4()), time=time, project="photos", reviewer=reviewer, session="s", item="a" * 64,
        path="a.png", action=action, given="cat", label=label, duration=duration, **values,
    )  # fmt: skip


def day_at(runs: Path, database: Database, viewer: str = "ann", *, day: Day = DAY, **options: Any) -> DayJournal:
    runs.mkdir(exist_ok=True)
    return journal_of(day, index=RunIndex(runs), database=database, viewer=viewer, now=NOON + 86_400, **options)


def test_runs_of_the_day_with_their_machine_time(tmp_path, database):
    runs = tmp_path / "runs"
    run_at(runs, "1", DAY.begin - 10)
    run_at(runs, "2", DAY.begin + 2)  # began 2.5 s before midnight
    run_at(runs, "3", NOON)
    run_at(runs, "4", NOON + 60, finished=False)
    run_at(runs, "5", DAY.end + 1)
    found = day_at(runs, database)
    assert [line.facts.name for line in found.runs] == ["3", "4", "5"]
    assert [line.seconds for line in found.runs] == pytest.approx([4.5, 0.0, 4.5])
    assert found.runs[0].began == pytest.approx(NOON - 4.5)
    assert found.machine_seconds == pytest.approx(9.0)
    assert found.runs[0].facts.who in found.people


def test_the_best_so_far_and_what_changed_it(tmp_path, database):
    runs = tmp_path / "runs"
    run_at(runs, "1", DAY.begin - 3600, macro_f1=0.70, config=config())
    run_at(runs, "2", NOON, macro_f1=0.72, config=config(lr=0.02))
    run_at(runs, "3", NOON + 60, macro_f1=0.60, config=config(lr=9))
    run_at(runs, "4", NOON + 120, macro_f1=0.95, config=config(lr=0.02, backbone="vit"))
    run_at(runs, "5", DAY.end + 60, macro_f1=0.99, config=config())
    (best,) = day_at(runs, database).bests
    assert best.facts.name == "4", "a run of the next day does not count yet"
    first, second = best.steps
    assert (first.facts.name, first.before and first.before.name, first.apart) == ("2", "1", False)
    assert first.changes == (("lr", "0.01", "0.02"),)
    assert (second.facts.name, second.before and second.before.name, second.apart) == ("4", "2", True)
    assert [change[0] for change in second.changes] == ["backbone"]
    text = markdown(day_at(runs, database))
    assert "it may be a tie" in text.split("photos/4")[0]
    assert "lr: 0.01 → 0.02" in text
    (lowest,) = day_at(runs, database, metric="log_loss").bests
    assert lowest.facts.name == "4"


def test_runs_on_other_data_are_not_compared(tmp_path, database):
    runs = tmp_path / "runs"
    run_at(runs, "1", NOON, macro_f1=0.9)
    run_at(runs, "2", NOON + 1, macro_f1=0.5, result={"data_version": "v2"})
    run_at(runs, "3", NOON + 2, macro_f1=0.4, result={"split": "cv"})
    run_at(runs, "1", NOON + 3, project="other", macro_f1=0.3)
    run_at(runs, "1", DAY.begin - 60, project="older", macro_f1=0.3)
    bests = day_at(runs, database).bests
    assert sorted((best.facts.key, len(best.steps)) for best in bests) == [
        ("other/1", 1), ("photos/1", 1), ("photos/2", 1), ("photos/3", 1),
    ]  # fmt: skip
    assert all(step.before is None for best in bests for step in best.steps)


def test_decisions_and_who_may_see_the_time(tmp_path, database):
    runs, journal = tmp_path / "runs", Journal(database)
    first = decision(NOON, "ann")
    events = [
        decision(DAY.begin - 500, "ann"), first, decision(NOON + 60, "ann", "relabel"), decision(NOON + 61, "bob"),
        decision(NOON + 62, "ann", "undo", supersedes=first.event_id, duration=0.0), decision(DAY.end, "bob"),
    ]  # fmt: skip
    Ledger(database, "photos").append(events)
    ann, bob = day_at(runs, database, "ann").reviews
    assert ann.actions == {"keep": 1, "relabel": 1, "undo": 1}
    assert ann.num_decisions == 2
    assert ann.seconds == pytest.approx(67.0)
    assert ann.stretches == (Stretch(NOON - 5, NOON + 62, 3),)
    assert (bob.num_decisions, bob.stretches, bob.seconds) == (1, None, None)

    def others() -> str:
        found = day_at(runs, database, "bob")
        return markdown(found) + json.dumps(found.as_dict()["reviews"][0])

    assert "private" in others()
    assert "uninterrupted" not in others().split("bob")[0]
    journal.share("ann", on=True)
    journal.share("ann", on=True)
    assert "12:01" in others()
    assert day_at(runs, database, "ann").shares
    journal.share("ann", on=False)
    assert "private" in others()
    assert [one.person for one in day_at(runs, database, person="bob").reviews] == ["bob"]


def test_what_is_written_down(database):
    now = [NOON]
    journal = Journal(database, clock=lambda: now[0])
    mine = journal.write("ann", " tried it\r\nno gain\0 ")
    now[0] += 1
    about = journal.write("bob", "why?", kind="question", project="photos", run="3")
    assert mine.words == "tried it\nno gain"
    assert journal.notes(NOON, NOON + 2) == [mine, about]
    assert journal.notes(NOON + 1, NOON + 1) == []
    assert not journal.remove("ann", about.note_id)
    assert journal.remove("ann", mine.note_id)
    assert not journal.remove("ann", mine.note_id)
    assert journal.notes(0, 1e12) == [about]
    for words, kind in (("", "note"), (" \n", "note"), ("x" * 4001, "note"), ("x", "shout")):
        with pytest.raises(UsageError):
            journal.write("ann", words, kind=kind)


def test_a_journal_is_no_rubbish_heap(database, monkeypatch):
    monkeypatch.setattr("regraft.store.journal.MAX_A_DAY", 2)
    now = [NOON]
    journal = Journal(database, clock=lambda: now[0])
    journal.write("ann", "one")
    journal.write("ann", "two")
    with pytest.raises(UsageError, match="a day of one person"):
        journal.write("ann", "three")
    journal.write("bob", "one")
    now[0] += 86_401
    journal.write("ann", "three")


def test_markdown_of_hostile_words_says_what_was_said(tmp_path, database):
    journal = Journal(database, clock=lambda: NOON)
    lines = [
        "# no heading",
        "- no list",
        "1. nor this",
        "> no quote",
        "| no | table |",
        "```",
        HOSTILE,
        "[x](y) _a_ *b*",
    ]
    words = "\n".join(lines)
    journal.write("**eve**\u202e", words, kind="question", project="a|b", run="`x`")
    text = markdown(day_at(tmp_path / "runs", database))
    lines = text.split("## Questions\n\n")[1].splitlines()
    assert len(lines) == 8
    assert all(line.startswith("- " if number == 0 else "  ") for number, line in enumerate(lines))
    for line in lines:
        body = re.sub(r"\\.", "", line.removeprefix("- 12:00 **").replace("**", "", 1))  # what is left is not escaped
        assert not re.search(r"[<>`*\[\]|#_&]", body), line
        assert not re.match(r"\s+([-+=>#|]|\d+[.)])", body), line
    assert "\u202e" not in text
    plain = re.sub(r"\\(.)", r"\1", text)
    assert all(line in plain for line in words.split("\n"))


def test_an_empty_day(tmp_path, database):
    found = day_at(tmp_path / "runs", database)
    assert (found.runs, found.bests, found.reviews, found.notes, found.people) == ((), (), (), (), ())
    assert "none was started" in markdown(found)
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["machine_seconds"] == 0
    with pytest.raises(UsageError, match="a metric is one of"):
        day_at(tmp_path / "runs", database, metric="f2")


def test_notes_beside_runs_are_in_the_journal(tmp_path, database):
    from regraft.store.annotations import Annotations

    Annotations(database, clock=lambda: NOON).note("photos", "3", "bob", "looks odd")
    Annotations(database, clock=lambda: DAY.end).note("photos", "3", "bob", "later")
    (note,) = day_at(tmp_path / "runs", database).notes
    assert (note.person, note.run, note.words) == ("bob", "3", "looks odd")


# The page


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Any]:
    made = site_at(tmp_path)
    yield made
    made.database.close()


def test_the_page_of_a_day(site):
    run_at(site.runs_dir, "7", NOON, macro_f1=0.8)
    Journal(site.database, clock=lambda: NOON).write(HOSTILE, HOSTILE, kind="question")
    Ledger(site.database, "photos").append([decision(NOON, HOSTILE), decision(NOON + 1, "bob")])
    client = client_of(site, parts=("journal",))
    page = client.get("/journal", params={"day": "2026-11-23", "zone": "UTC"})
    assert page.status_code == 200, page.text
    assert "Monday, 23 November 2026" in page.text
    assert "photos/7" in page.text
    assert "<img src=x" not in page.text
    assert page.text.count("The time is private.") == 2
    part = client.get("/journal", params={"day": "2026-11-23"}, headers={"HX-Request": "true"})
    assert "<html" not in part.text
    file = client.get("/journal/markdown", params={"day": "2026-11-23", "zone": "Asia/Tokyo"})
    assert file.headers["content-disposition"] == 'attachment; filename="journal-2026-11-23.md"'
    assert "21:00" in file.text
    assert client.get("/api/journal", params={"day": "2026-11-23"}).json()["day"] == "2026-11-23"


def test_bad_words_in_the_address(site):
    client = client_of(site, parts=("journal",))
    assert client.get("/journal", params={"day": "never"}).status_code == 400
    assert client.get("/journal", params={"zone": "Mars/Olympus"}).status_code == 200
    assert client.get("/journal", params={"person": "x" * 101}).status_code == 400
    for person in ("nobody", HOSTILE):
        page = client.get("/journal", params={"person": person})
        assert page.status_code == 200
        assert "<img src=x" not in page.text


def test_writing_sharing_and_taking_back(site):
    client = client_of(site, parts=("journal",))
    proof = client.headers.pop("x-regraft-csrf")
    assert client.post("/journal/notes", data={"words": "forged"}).status_code == 403
    assert client.post("/journal/share", data={"on": "1"}).status_code == 403
    client.headers["x-regraft-csrf"] = proof
    htmx = {"HX-Request": "true"}
    page = client.post("/journal/notes", data={"words": "tried lp_ft", "kind": "question"}, headers=htmx)
    assert "tried lp_ft" in page.text
    (note,) = Journal(site.database).notes(0, 1e12)
    assert (note.kind, note.project) == ("question", "shapes")
    assert "has 1 to 4,000" in client.post("/journal/notes", data={"words": " "}, headers=htmx).text
    assert "Keep my time to myself" in client.post("/journal/share", data={"on": "1"}, headers=htmx).text
    assert Journal(site.database).sharing() == {note.person}
    assert "Show my time to others" in client.post("/journal/share", data={"on": "0"}, headers=htmx).text
    assert client.post(f"/journal/notes/{uuid.uuid4()}/remove", headers=htmx).status_code == 404
    assert "tried lp_ft" not in client.post(f"/journal/notes/{note.note_id}/remove", headers=htmx).text
    assert Journal(site.database).notes(0, 1e12) == []


def test_only_who_has_the_token(site):
    locked = replace(site, token="0123456789abcdef-a-token")
    client = client_of(locked, signed_in=False, parts=("journal",))
    for address in ("/journal", "/journal/markdown", "/api/journal"):
        assert client.get(address).status_code == 401


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from chromium()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(site, browser, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    now = datetime.now(UTC).timestamp()
    run_at(site.runs_dir, "1", now - 400, macro_f1=0.7, config=config())
    run_at(site.runs_dir, "2", now - 300, macro_f1=0.72, config=config(lr=0.02))
    Ledger(site.database, "photos").append([decision(now - 200 + i, "ann") for i in range(20)])
    Journal(site.database).share("ann", on=True)
    tokyo = datetime.now(ZoneInfo("Asia/Tokyo"))
    with running(site, parts=("journal",)) as base:
        seat = Seat(browser, base, color_scheme=scheme, timezone_id="Asia/Tokyo")
        page = seat.page
        page.goto(f"{base}/journal")
        page.wait_for_url("**/journal?zone=Asia%2FTokyo")
        title = page.inner_text("h1")
        assert title in {day_of(str((tokyo + timedelta(days=d)).date()), now=now).title for d in (0, 1)}
        page.fill("#words", "shorter schedule, same score")
        page.get_by_role("button", name="Write it down").click()
        page.wait_for_selector("text=shorter schedule")
        assert page.input_value("#words") == ""
        assert [v["id"] for v in axe.Axe().run(page).response["violations"]] == []
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.get_by_role("button", name="Take back").click()
        page.wait_for_selector("text=shorter schedule", state="detached")
        assert seat.complaints == []
        seat.context.close()


# The verb


def test_the_verb(cli, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    run_at(runs, "3", datetime.now(UTC).timestamp())
    assert cli("journal", "--runs-dir", tmp_path / "none").code == 2
    assert cli("journal", "--runs-dir", runs, "--run", "3").code == 2
    assert "written down" in cli("journal", "--runs-dir", runs, "--question", "why | not?", "--run", "3").out
    assert "shown to others" in cli("journal", "--runs-dir", runs, "--share").out
    found = json.loads(cli("journal", "--runs-dir", runs, "--json").out)
    assert [note["run"] for note in found["notes"]] == ["3"]
    assert [run["run"] for run in found["runs"]] == ["photos/3"]
    told = cli("journal", "--runs-dir", runs)
    assert told.code == 0, told.err
    assert "why | not?" in told.out
    assert "photos/3" in told.out
    assert "why \\| not?" in cli("journal", "--runs-dir", runs, "--markdown").out
    assert "nobody else" in cli("journal", "--runs-dir", runs, "--no-share").out
    assert cli("journal", "--runs-dir", runs, "--day", "someday").code == 2
