"""The history of decisions in the database: events are appended, read and checked, never changed.

An append is one transaction, and appends to a project follow one another (SQLite: one writer at a time; PostgreSQL:
an advisory lock per project), so `seq` has no gaps and the chain of hashes one order. When `append` returns, the
events are on the disk.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from regraft.errors import DataError
from regraft.store.db import Database
from regraft.store.event import GENESIS, chained, normal, refusal
from regraft.store.fold import Folding, Key
from regraft.store.rows import COLUMNS, collector_paused, decision_of, row_of
from regraft.store.tables import DECISIONS, EVENT_FIELDS
from regraft.types import Decision, Verdict

_SERVER_FIELDS = ("time", "project", "path", "given", "suggested", "scores")
_CLIENT_FIELDS = tuple(name for name in EVENT_FIELDS if name not in _SERVER_FIELDS)
"""What must be the same when an event is sent again; the server may meanwhile have found a better path or score."""

_IDS_A_QUERY = 500  # older SQLite takes 999 values a statement
_ROWS_A_READ = 20_000


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
            known, new = self._sorted_out(connection, fresh, refused)
            _raise_unless(partial, refused)
            if new:
                connection.execute(DECISIONS.insert(), self._rows(connection, new))
        return Appended(
            accepted=tuple(event.event_id for event in new),
            known=tuple(known),
            refused=tuple(Refused(event_id=name, reason=reason) for name, reason in refused.items()),
        )

    def events(self, after_seq: int = 0) -> list[tuple[int, Decision]]:
        """The events after number `after_seq`, with their numbers, in order."""
        return [(seq, event) for seq, _, _, event in self.links(after_seq)]

    def links(self, after_seq: int = 0) -> Iterator[tuple[int, str, str, Decision]]:
        """The same one by one, as `(seq, previous, chain, event)`; read in pieces, so that memory stays small."""
        words: dict[str, str] = {}  # a class or a reviewer is one string in memory, however often it is named
        query = (
            sa.select(DECISIONS.c.seq, DECISIONS.c.previous, DECISIONS.c.chain, *COLUMNS)
            .where(DECISIONS.c.project == self.project, DECISIONS.c.seq > sa.bindparam("after"))
            .order_by(DECISIONS.c.seq)
            .limit(_ROWS_A_READ)
        )
        while True:
            with self.database.connect() as connection:
                rows = connection.execute(query, {"after": after_seq}).all()
            for seq, previous, chain, *values in rows:
                yield seq, previous, chain, decision_of(values, words)
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
        with self._lock, collector_paused():
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

    def _sorted_out(
        self, connection: sa.Connection, fresh: dict[str, Decision], refused: dict[str, str]
    ) -> tuple[list[str], list[Decision]]:
        """The ids that are known already, and the events to be written; what the history forbids goes to `refused`."""
        before = self._look_up(
            connection, [*fresh, *{event.supersedes for event in fresh.values() if event.supersedes}]
        )
        batches = self._batches(connection, [event for event in fresh.values() if event.action == "undo"])
        written = dict(before)
        known: list[str] = []
        new: list[Decision] = []
        for name, event in fresh.items():
            if name in before:
                reason = _differs(before[name], event)
            else:
                reason = _vain_undo(event, written, batches) if event.action == "undo" else None
            if reason is not None:
                refused[name] = reason
            elif name in before:
                known.append(name)
            else:
                new.append(event)
                written[name] = event
                if event.action != "undo":
                    batches.add((event.reviewer, event.batch))
        return known, new

    def _batches(self, connection: sa.Connection, undoes: list[Decision]) -> set[tuple[str, str]]:
        """Of the batches that are to be undone, those that are in the history, each with its reviewer."""
        wanted = {(undo.reviewer, undo.batch) for undo in undoes if undo.batch}
        query = (
            sa.select(sa.literal(1)).where(DECISIONS.c.project == self.project, DECISIONS.c.action != "undo").limit(1)
        )
        return {
            (reviewer, batch)
            for reviewer, batch in wanted
            if connection.execute(query.where(DECISIONS.c.reviewer == reviewer, DECISIONS.c.batch == batch)).first()
        }

    def _look_up(self, connection: sa.Connection, names: list[str]) -> dict[str, Decision]:
        found: dict[str, Decision] = {}
        query = sa.select(*COLUMNS).where(
            DECISIONS.c.project == self.project, DECISIONS.c.event_id.in_(sa.bindparam("names", expanding=True))
        )
        for start in range(0, len(names), _IDS_A_QUERY):
            for values in connection.execute(query, {"names": names[start : start + _IDS_A_QUERY]}):
                event = decision_of(values, {})
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
            chain = chained(previous, event)
            rows.append(row_of(event) | {"seq": seq, "previous": previous, "chain": chain})
            previous = chain
        return rows


def projects(database: Database) -> list[str]:
    """The names of all projects that have decisions, sorted."""
    with database.connect() as connection:
        return sorted(connection.execute(sa.select(DECISIONS.c.project).where(DECISIONS.c.seq == 1)).scalars())


def _differs(kept: Decision, event: Decision) -> str | None:
    for name in _CLIENT_FIELDS:
        if getattr(kept, name) != getattr(event, name):
            return f"an event is never changed: {event.event_id} is known with another {name}; a new one needs a new id"
    return None


def _vain_undo(undo: Decision, before: dict[str, Decision], batches: set[tuple[str, str]]) -> str | None:
    """Why an undo would take nothing back; None where it does."""
    if undo.batch:
        if (undo.reviewer, undo.batch) in batches:
            return None
        return f"undo must name a batch of one's own: {undo.batch!r} is none of {undo.reviewer!r}"
    target = before.get(undo.supersedes)
    if target is None:
        return f"undo must name an event of this history: {undo.supersedes!r} is not in it"
    if target.reviewer != undo.reviewer:
        return f"undo is for one's own events: {undo.supersedes!r} is another reviewer's; decide anew instead"
    if target.action == "undo":
        return f"an undo is not undone: {undo.supersedes!r} is one; decide anew instead"
    return None


def _raise_unless(partial: bool, refused: dict[str, str]) -> None:
    if refused and not partial:
        name, reason = next(iter(refused.items()))
        more = f" ({len(refused) - 1:,} more are refused)" if len(refused) > 1 else ""
        raise DataError(f"{reason}; event {name!r:.80}{more}; nothing was written")
