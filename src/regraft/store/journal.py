"""What people write of their days, who shares the time spent reviewing, and the decisions of a span of time."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass

import sqlalchemy as sa
from sqlalchemy import Column, Double, Index, PrimaryKeyConstraint, Table, Text

from regraft.errors import UsageError
from regraft.store.db import Database
from regraft.store.tables import DECISIONS, METADATA

KINDS = ("note", "question")
MAX_WORDS, MAX_A_DAY = 4000, 500

NOTES = Table(
    "journal_notes", METADATA, Column("note_id", Text, nullable=False), Column("time", Double, nullable=False),
    *(Column(name, Text, nullable=False) for name in ("person", "kind", "project", "run", "words")),
    PrimaryKeyConstraint("note_id", name="journal_notes_pkey"), Index("journal_notes_time", "time"),
)  # fmt: skip
SHARING = Table(
    "journal_sharing", METADATA, Column("person", Text, nullable=False), Column("time", Double, nullable=False),
    PrimaryKeyConstraint("person", name="journal_sharing_pkey"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalNote:
    """What somebody wrote.

    Attributes:
        note_id: its name.
        time: POSIX seconds (UTC).
        person: who.
        kind: note or question.
        project, run: what it is about, "" for nothing in particular.
        words: the text; may have several lines.
    """

    note_id: str
    time: float
    person: str
    kind: str
    project: str
    run: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One decision, as far as a journal tells of it.

    Attributes:
        time: POSIX seconds at which it was taken in.
        duration: seconds of looking before.
        person, project, action: who, of which data, and what.
    """

    time: float
    duration: float
    person: str
    project: str
    action: str


class Journal:
    """The journal's part of a project database; safe to share between threads.

    Args:
        database: where it is kept.
        clock: POSIX seconds.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock

    def write(self, person: str, words: str, *, kind: str = "note", project: str = "", run: str = "") -> JournalNote:
        """Write a note or a question down, now.

        Raises:
            UsageError: no words, more than 4,000 characters, another kind, or more than 500 notes a day of one person.
        """
        if kind not in KINDS:
            raise UsageError(f"what is written is a {' or a '.join(KINDS)}: {kind!r} is neither")
        words = "".join(ch for ch in words.replace("\r\n", "\n") if ch.isprintable() or ch in "\n\t").strip()
        if not words or len(words) > MAX_WORDS:
            raise UsageError(f"a {kind} has 1 to {MAX_WORDS:,} characters: this one has {len(words):,}")
        note = JournalNote(
            note_id=str(uuid.uuid4()), time=self._clock(), person=person, kind=kind, project=project, run=run,
            words=words,
        )  # fmt: skip
        latest = sa.select(sa.func.count()).select_from(NOTES)
        latest = latest.where(NOTES.c.person == person, NOTES.c.time > note.time - 86_400)
        with self._database.begin() as connection:
            if connection.execute(latest).scalar_one() >= MAX_A_DAY:
                raise UsageError(f"a journal takes {MAX_A_DAY} notes a day of one person: {person!r} has written them")
            connection.execute(sa.insert(NOTES).values(asdict(note)))
        return note

    def remove(self, person: str, note_id: str) -> bool:
        """Take back a note of one's own; False where there is none."""
        with self._database.begin() as connection:
            return connection.execute(sa.delete(NOTES).filter_by(person=person, note_id=note_id)).rowcount > 0

    def notes(self, begin: float, end: float) -> list[JournalNote]:
        """Those of a span of time (`end` excluded), oldest first."""
        query = sa.select(NOTES).where(NOTES.c.time >= begin, NOTES.c.time < end).order_by(NOTES.c.time)
        with self._database.connect() as connection:
            return [JournalNote(**row._mapping) for row in connection.execute(query)]

    def looks(self, begin: float, end: float) -> list[Look]:
        """The decisions of a span of time, oldest first, undone ones and undos included."""
        names = ("time", "duration", "reviewer", "project", "action")
        query = sa.select(*(DECISIONS.c[name] for name in names))
        query = query.where(DECISIONS.c.time >= begin, DECISIONS.c.time < end)
        query = query.order_by(DECISIONS.c.time, DECISIONS.c.project, DECISIONS.c.seq)
        with self._database.connect() as connection:
            return [
                Look(time=time, duration=duration, person=person, project=project, action=action)
                for time, duration, person, project, action in connection.execute(query)
            ]

    def share(self, person: str, *, on: bool) -> None:
        """Show one's stretches of reviewing to others from now on, all days of them, or to nobody."""
        with self._database.begin() as connection:
            connection.execute(sa.delete(SHARING).filter_by(person=person))
            if on:
                connection.execute(sa.insert(SHARING).values(person=person, time=self._clock()))

    def sharing(self) -> set[str]:
        """Who shares."""
        with self._database.connect() as connection:
            return set(connection.execute(sa.select(SHARING.c.person)).scalars())
