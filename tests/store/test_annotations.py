"""Stars, tags and notes: on both databases, whoever does it however often."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from regraft.errors import UsageError
from regraft.store.annotations import MAX_TAGS, Annotations


@pytest.fixture
def said(database):
    ticks = iter(range(1, 10_000))
    return Annotations(database, clock=lambda: float(next(ticks)))


def test_stars_are_ones_own(said):
    for _ in range(2):
        said.star("p", "1", "Ada", on=True)
    said.star("p", "1", "Bob", on=True)
    said.star("p", "2", "Bob", on=True)
    assert said.of("p", "1").stars == ("Ada", "Bob")
    for _ in range(2):
        said.star("p", "1", "Ada", on=False)
    assert said.of("p", "1").stars == ("Bob",)
    assert set(said.all()) == {("p", "1"), ("p", "2")}


def test_tags_are_everybodys(said):
    for person in ("Ada", "Bob"):
        said.tag("p", "1", person, "  to   ship ")
    said.tag("p", "1", "Ada", "日本")
    assert said.of("p", "1").tags == ("to ship", "日本")
    said.tag("p", "1", "Bob", "to ship", on=False)
    assert said.of("p", "1").tags == ("日本",)


def test_notes_are_their_authors_and_stay_in_order(said):
    first = said.note("p", "1", "Ada", "one\r\ntwo\x00")
    second = said.note("p", "1", "Bob", "'; DROP TABLE run_notes; --")
    assert [note.note for note in said.of("p", "1").notes] == ["one\ntwo", second.note]
    assert not said.remove_note("p", "1", "Bob", first.note_id)
    assert not said.remove_note("p", "2", "Ada", first.note_id)
    assert said.remove_note("p", "1", "Ada", first.note_id)
    assert said.of("p", "1").notes == (second,)


@pytest.mark.parametrize("tag", ["", " ", "x" * 41, "a\x1bb", "a,b", "\u202e"])
def test_tags_that_are_none(said, tag):
    with pytest.raises(UsageError):
        said.tag("p", "1", "Ada", tag)
    assert said.all() == {}


def test_a_run_has_so_many_tags(said):
    for i in range(MAX_TAGS):
        said.tag("p", "1", "Ada", str(i))
    with pytest.raises(UsageError, match="at most"):
        said.tag("p", "1", "Ada", "more")
    assert len(said.of("p", "1").tags) == MAX_TAGS


def test_many_at_once(database):
    said = Annotations(database)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: said.star("p", "1", f"person {i % 4}", on=True), range(40)))
    assert len(said.of("p", "1").stars) == 4
