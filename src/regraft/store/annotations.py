"""What people say of runs: a star is a person's own, a tag is everybody's, a note is its author's.

They are kept in the project database and not in the run folders: a folder is the record of what the machine did.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Column, Double, PrimaryKeyConstraint, Table, Text
from sqlalchemy.dialects import postgresql, sqlite

from regraft.errors import UsageError
from regraft.store.db import Database
from regraft.store.tables import METADATA

MAX_TAG, MAX_NOTE, MAX_TAGS, MAX_NOTES = 40, 4000, 30, 500


def _run_columns() -> tuple[Column[str], ...]:
    return tuple(Column(name, Text, nullable=False) for name in ("project", "run", "person"))


STARS = Table(
    "run_stars", METADATA, *_run_columns(), Column("time", Double, nullable=False),
    PrimaryKeyConstraint("project", "run", "person", name="run_stars_pkey"),
)  # fmt: skip
TAGS = Table(
    "run_tags", METADATA, *_run_columns(), Column("tag", Text, nullable=False), Column("time", Double, nullable=False),
    PrimaryKeyConstraint("project", "run", "tag", name="run_tags_pkey"),
)  # fmt: skip
NOTES = Table(
    "run_notes", METADATA, *_run_columns(), Column("note_id", Text, nullable=False),
    Column("time", Double, nullable=False), Column("note", Text, nullable=False),
    PrimaryKeyConstraint("note_id", name="run_notes_pkey"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What somebody wrote beside a run."""

    note_id: str
    person: str
    time: float
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What people say of one run.

    Attributes:
        stars: who starred it, sorted.
        tags: sorted.
        notes: oldest first.
    """

    stars: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()


NO_MARKS = Marks()


class Annotations:
    """Stars, tags and notes of a project database.

    Args:
        database: where they are kept.
        clock: POSIX seconds.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock

    def star(self, project: str, run: str, person: str, *, on: bool) -> None:
        """Give or take back one's star; doing it twice changes nothing."""
        mine = {"project": project, "run": run, "person": person}
        with self._database.begin() as connection:
            if on:
                self._add(connection, STARS, **mine, time=self._clock())
            else:
                connection.execute(sa.delete(STARS).filter_by(**mine))

    def tag(self, project: str, run: str, person: str, tag: str, *, on: bool = True) -> None:
        """Put a tag on a run, or take it off, whoever put it there.

        Raises:
            UsageError: no tag, one of more than 40 characters or of several lines, or more than 30.
        """
        tag = " ".join(tag.split())
        if not tag or len(tag) > MAX_TAG or not tag.isprintable() or "," in tag:
            raise UsageError(f"a tag has 1 to {MAX_TAG} printable characters and no comma: {tag[:MAX_TAG]!r} is none")
        which = {"project": project, "run": run, "tag": tag}
        with self._database.begin() as connection:
            if on:
                self._add(connection, TAGS, **which, person=person, time=self._clock())
                self._check_count(connection, TAGS, project, run, MAX_TAGS, "tags")
            else:
                connection.execute(sa.delete(TAGS).filter_by(**which))

    def note(self, project: str, run: str, person: str, note: str) -> Note:
        """Write beside a run.

        Raises:
            UsageError: nothing was written, or more than 4,000 characters.
        """
        note = "".join(ch for ch in note.replace("\r\n", "\n") if ch.isprintable() or ch in "\n\t").strip()
        if not note or len(note) > MAX_NOTE:
            raise UsageError(f"a note has 1 to {MAX_NOTE:,} characters: this one has {len(note):,}")
        written = Note(note_id=str(uuid.uuid4()), person=person, time=self._clock(), note=note)
        with self._database.begin() as connection:
            connection.execute(
                sa.insert(NOTES).values(
                    project=project, run=run, person=person, note_id=written.note_id, time=written.time, note=note
                )
            )
            self._check_count(connection, NOTES, project, run, MAX_NOTES, "notes")
        return written

    def remove_note(self, project: str, run: str, person: str, note_id: str) -> bool:
        """Take back a note of one's own; False where there is none."""
        mine = {"project": project, "run": run, "person": person, "note_id": note_id}
        with self._database.begin() as connection:
            return connection.execute(sa.delete(NOTES).filter_by(**mine)).rowcount > 0

    def of(self, project: str, run: str) -> Marks:
        """What is said of one run."""
        return self._marks(project, run).get((project, run), NO_MARKS)

    def all(self) -> dict[tuple[str, str], Marks]:
        """(project, run) to what is said of it, where anything is."""
        return self._marks()

    def _marks(self, project: str | None = None, run: str | None = None) -> dict[tuple[str, str], Marks]:
        which = {} if project is None else {"project": project, "run": run}
        stars, tags = defaultdict(list), defaultdict(list)
        notes: dict[tuple[str, str], list[Note]] = defaultdict(list)
        with self._database.connect() as connection:
            for row in connection.execute(sa.select(STARS).filter_by(**which)):
                stars[row.project, row.run].append(row.person)
            for row in connection.execute(sa.select(TAGS).filter_by(**which)):
                tags[row.project, row.run].append(row.tag)
            for row in connection.execute(sa.select(NOTES).filter_by(**which).order_by(NOTES.c.time)):
                notes[row.project, row.run].append(
                    Note(note_id=row.note_id, person=row.person, time=row.time, note=row.note)
                )
        return {
            key: Marks(stars=tuple(sorted(stars[key])), tags=tuple(sorted(tags[key])), notes=tuple(notes[key]))
            for key in stars.keys() | tags.keys() | notes.keys()
        }

    def _add(self, connection: sa.Connection, table: Table, **row: object) -> None:
        """Insert a row unless it is there, whoever else does the same now."""
        insert = sqlite.insert if self._database.is_sqlite else postgresql.insert
        connection.execute(insert(table).values(**row).on_conflict_do_nothing())

    def _check_count(
        self, connection: sa.Connection, table: Table, project: str, run: str, limit: int, what: str
    ) -> None:
        count = connection.execute(
            sa.select(sa.func.count()).select_from(table).filter_by(project=project, run=run)
        ).scalar_one()
        if count > limit:
            raise UsageError(f"a run has at most {limit} {what}: {project}/{run} would have {count}; take one off")
