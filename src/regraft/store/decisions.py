"""The history of decisions in the database: events are appended, read and checked, never changed.

An append is one transaction, and appends to a project follow one another (SQLite: one writer at a time; PostgreSQL:
an advisory lock per project), so `seq` has no gaps and the chain of hashes one order. When `append` returns, the
events are on the disk.
"""

from __future__ import annotations

import contextlib
import gc
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from regraft.errors import DataError
from regraft.store.db import Database
from regraft.store.event import GENESIS, chained, normal, refusal, scores_text
from regraft.store.fold import Folding, Key
from regraft.store.tables import DECISIONS, EVENT_FIELDS
from regraft.types import Decision, Verdict

_SERVER_FIELDS = ("time", "project", "path", "given", "suggested", "scores")
_CLIENT_FIELDS = tuple(name for name in EVENT_FIELDS if name not in _SERVER_FIELDS)
"""What must be the same when an event is sent again; the server may meanwhile have found a better path or score."""

_IDS_A_QUERY = 500  # older SQLite takes 999 values a statement
_ROWS_A_READ = 20_000
_SCORES = EVENT_FIELDS.index("scores")
_REPEATED = tuple(
    EVENT_FIELDS.index(name)
    for name in ("project", "reviewer", "session", "issue", "given", "suggested", "action", "label")
)
_FILL = tuple(Decision.__dict__[name].__set__ for name in EVENT_FIELDS)
_COLUMNS = [DECISIONS.c[name] for name in EVENT_FIELDS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """An event that was not taken, and why."""

    event_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What an append did.

    Attributes:
        accepted: ids of the events that are new, and now on the disk.
        known: ids of the events that already were.
        refused: what was left out; only ever filled with `partial=True`.
    """

    accepted: tuple[str, ...]
    known: tuple[str, ...]
    refused: tuple[Refused, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What checking the chain found.

    Attributes:
        ok: every event is what was written, none is missing between the first and the last.
        num_events: events looked at.
        head: the chain's last hash (as kept), 64 hex digits. Note it down elsewhere: events cut off at the end, or a
            history written anew, show only against it.
        first_bad: `seq` at which the chain breaks, or None.
    """

    ok: bool
    num_events: int
    head: str
    first_bad: int | None


class Ledger:
    """One project's history of decisions. Safe to share between threads; any number of processes may have one each."""

    def __init__(self, database: Database, project: str) -> None:
        self.database = database
        self.project = project
        self._folding = Folding()
        self._folded = 0
        self._lock = threading.Lock()

    def append(self, events: Sequence[Decision], *, partial: bool = False) -> Appended:
        """Add events, in one transaction. Sending an event again changes nothing, so when in doubt send again.

        Args:
            events: in the order in which they happened.
            partial: take what can be taken and list the rest in `refused`, instead of refusing the whole.

        Raises:
            DataError: an event is malformed (see `refusal`), of another project, known with other content, or an undo
                of what is unknown, another reviewer's, or an undo itself. Nothing was written.
            RegraftError: the database does not answer. Then nothing is known of the events: send them again.
        """
        refused: dict[str, str] = {}
        fresh: dict[str, Decision] = {}
        for event in events:
            reason = refusal(event) or self._foreign(event)
            if reason is None:
                event = normal(event)
                reason = _differs(fresh.setdefault(event.event_id, event), event)
            if reason is not None:
                refused[str(event.event_id)] = reason
        _raise_unless(partial, refused)
        with self.database.begin() as connection:
            self._take_turn(connection)
            known = self._look_up(connection, list(fresh))
            again = [name for name in fresh if name in known]
            for name in again:
                if (reason := _differs(known[name], fresh[name])) is not None:
                    refused[name] = reason
            targets = {event.supersedes for event in fresh.values() if event.supersedes}
            before = known | self._look_up(connection, sorted(targets - known.keys()))
            new = []
            for name, event in fresh.items():
                if name in known:
                    continue
                if (reason := _vain_undo(event, before)) is not None:
                    refused[name] = reason
                    continue
                before[name] = event
                new.append(event)
            _raise_unless(partial, refused)
            if new:
                connection.execute(DECISIONS.insert(), self._rows(connection, new))
        return Appended(
            accepted=tuple(event.event_id for event in new),
            known=tuple(name for name in again if name not in refused),
            refused=tuple(Refused(event_id=name, reason=reason) for name, reason in refused.items()),
        )

    def events(self, after_seq: int = 0) -> list[tuple[int, Decision]]:
        """The events after number `after_seq`, with their numbers, in order."""
        return [(seq, event) for seq, _, _, event in self.links(after_seq)]

    def links(self, after_seq: int = 0) -> Iterator[tuple[int, str, str, Decision]]:
        """The same one by one, as `(seq, previous, chain, event)`; read in pieces, so that memory stays small."""
        words: dict[str, str] = {}  # a class or a reviewer is one string in memory, however often it is named
        query = (
            sa.select(DECISIONS.c.seq, DECISIONS.c.previous, DECISIONS.c.chain, *_COLUMNS)
            .where(DECISIONS.c.project == self.project, DECISIONS.c.seq > sa.bindparam("after"))
            .order_by(DECISIONS.c.seq)
            .limit(_ROWS_A_READ)
        )
        while True:
            with self.database.connect() as connection:
                rows = connection.execute(query, {"after": after_seq}).all()
            for seq, previous, chain, *values in rows:
                yield seq, previous, chain, _event(values, words)
            if len(rows) < _ROWS_A_READ:
                return
            after_seq = rows[-1][0]

    def last_seq(self) -> int:
        """The number of the newest event, 0 where there is none."""
        with self.database.connect() as connection:
            return self._end(connection)[0]

    def verify(self) -> Verified:
        """Read the whole history and compute every hash anew."""
        head, count, first_bad = GENESIS, 0, None
        for seq, previous, chain, event in self.links():
            count += 1
            fits = seq == count and previous == head and chain == chained(previous, event)
            if not fits and first_bad is None:
                first_bad = seq
            head = chain
        return Verified(ok=first_bad is None, num_events=count, head=head, first_bad=first_bad)

    def verdicts(self) -> dict[Key, Verdict]:
        """What the history says now (see `regraft.store.fold`); reads only what was added since the last call."""
        with self._lock, _collector_paused():
            new = self.events(self._folded)
            if new:
                self._folding.add(event for _, event in new)
                self._folded = new[-1][0]
            return dict(self._folding.verdicts)

    def _foreign(self, event: Decision) -> str | None:
        if event.project == self.project:
            return None
        return f"project must be {self.project!r} in this history: the event is of {event.project!r}"

    def _take_turn(self, connection: sa.Connection) -> None:
        """Wait until no one else appends to this project; SQLite has done so when the transaction began."""
        if self.database.is_sqlite:
            return
        connection.exec_driver_sql("SET LOCAL synchronous_commit = on")  # whatever the server's habit: saved is saved
        name = sa.func.hashtextextended(f"regraft decisions {self.project}", 0)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(name)))

    def _look_up(self, connection: sa.Connection, names: list[str]) -> dict[str, Decision]:
        found: dict[str, Decision] = {}
        query = sa.select(*_COLUMNS).where(
            DECISIONS.c.project == self.project, DECISIONS.c.event_id.in_(sa.bindparam("names", expanding=True))
        )
        for start in range(0, len(names), _IDS_A_QUERY):
            for values in connection.execute(query, {"names": names[start : start + _IDS_A_QUERY]}):
                event = _event(values, {})
                found[event.event_id] = event
        return found

    def _end(self, connection: sa.Connection) -> tuple[int, str]:
        row = connection.execute(
            sa.select(DECISIONS.c.seq, DECISIONS.c.chain)
            .where(DECISIONS.c.project == self.project)
            .order_by(DECISIONS.c.seq.desc())
            .limit(1)
        ).first()
        return (0, GENESIS) if row is None else (int(row[0]), str(row[1]))

    def _rows(self, connection: sa.Connection, events: list[Decision]) -> list[dict[str, object]]:
        seq, previous = self._end(connection)
        rows = []
        for event in events:
            seq += 1
            row: dict[str, object] = {name: getattr(event, name) for name in EVENT_FIELDS}
            chain = chained(previous, event)
            row |= {"scores": scores_text(event.scores), "seq": seq, "previous": previous, "chain": chain}
            rows.append(row)
            previous = chain
        return rows


def projects(database: Database) -> list[str]:
    """The names of all projects that have decisions, sorted."""
    with database.connect() as connection:
        return sorted(connection.execute(sa.select(DECISIONS.c.project).where(DECISIONS.c.seq == 1)).scalars())


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """No garbage collection for a moment: a million new objects, none of them garbage, would be walked again and again
    (a third of the time of reading 100,000 events)."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _event(values: Iterable[Any], words: dict[str, str]) -> Decision:
    """One row as a decision. Filling the slots takes a third of the time of the frozen `__init__`: 100,000 in 0.3 s."""
    row = list(values)
    for n in _REPEATED:
        row[n] = words.setdefault(row[n], row[n])
    row[_SCORES] = {} if row[_SCORES] == "{}" else json.loads(row[_SCORES])
    event = object.__new__(Decision)
    for fill, value in zip(_FILL, row, strict=True):
        fill(event, value)
    return event


def _differs(kept: Decision, event: Decision) -> str | None:
    for name in _CLIENT_FIELDS:
        if getattr(kept, name) != getattr(event, name):
            return f"an event is never changed: {event.event_id} is known with another {name}; a new one needs a new id"
    return None


def _vain_undo(event: Decision, before: dict[str, Decision]) -> str | None:
    if not event.supersedes:
        return None
    target = before.get(event.supersedes)
    if target is None:
        return f"undo must name an event of this history: {event.supersedes!r} is not in it"
    if target.reviewer != event.reviewer:
        return f"undo is for one's own events: {event.supersedes!r} is another reviewer's; decide anew instead"
    if target.action == "undo":
        return f"an undo is not undone: {event.supersedes!r} is one; decide anew instead"
    return None


def _raise_unless(partial: bool, refused: dict[str, str]) -> None:
    if refused and not partial:
        name, reason = next(iter(refused.items()))
        more = f" ({len(refused) - 1:,} more are refused)" if len(refused) > 1 else ""
        raise DataError(f"{reason}; event {name!r:.80}{more}; nothing was written")
