"""What the decisions say of each image under review, as arrays that follow the history as it grows.

The history itself is the ledger's; here is only what its verdicts mean for the rows of one desk, so that a queue of
100,000 images is filtered in a millisecond.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from regraft.board.review.desk import Desk
from regraft.board.review.order import KINDS
from regraft.board.review.pace import Pace
from regraft.store.decisions import Ledger
from regraft.store.fold import Folding, Key, key_of
from regraft.types import ACTIONS, Decision, Verdict, printable

CODES = {action: number for number, action in enumerate(("", *ACTIONS))}
SKIP = CODES["skip"]
FALL = 0.25
"""An image comes back where the probability that its label is right fell by this much: less is the noise of other
folds."""


class History:
    """The decisions so far, seen from a desk.

    Attributes:
        lock: held while the arrays change; hold it to read several of them.
        seq: number of the last event that is in here.
        action: int8 (N,), number in `CODES` of what counts for an image, 0 where it is undecided.
        conflict: bool (N,), reviewers disagree.
        latest: int64 (N,), number of the event that decided, 0 where there is none.
        deciders: int16 (N,), how many reviewers the verdict rests on.
        returned: row to why it is looked at again.
        pair_action: int8 (P,).
        pair_conflict: bool (P,).
    """

    def __init__(self, desk: Desk, ledger: Ledger) -> None:
        self.desk, self.ledger = desk, ledger
        self.lock = threading.RLock()
        self.seq = 0
        num = len(desk)
        self.action, self.conflict = np.zeros(num, np.int8), np.zeros(num, np.bool_)
        self.latest, self.deciders = np.zeros(num, np.int64), np.zeros(num, np.int16)
        self.back = np.zeros(num, np.bool_)
        self.returned: dict[int, str] = {}
        self.pair_action, self.pair_conflict = np.zeros(len(desk.pairs), np.int8), np.zeros(len(desk.pairs), np.bool_)
        self.pace: defaultdict[str, Pace] = defaultdict(Pace)
        self._folding = Folding()
        self._events: dict[str, tuple[int, Decision]] = {}
        self._batches: set[str] = set()
        self._looks: dict[str, NDArray[np.int8]] = {}
        self._skips: defaultdict[int, dict[str, Decision]] = defaultdict(dict)
        self._pair_numbers = {(int(a), int(b)): number for number, (a, b) in enumerate(np.sort(desk.pairs, axis=1))}
        self._gone: dict[str, Decision] = {}
        self._rows: dict[str, int | None] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take in what was decided since, by whomever, here or in another process."""
        with self.lock:
            fresh = self.ledger.events(self.seq)
            if not fresh:
                return
            self._rows |= self.desk.rows_of([event.item for _, event in fresh])
            touched: dict[Key, None] = {}
            for seq, event in fresh:
                self._take(seq, event, touched)
            touched |= dict.fromkeys(self._folding.add(event for _, event in fresh))
            for item, other in touched:
                self._apply_pair(item, other) if other else self._apply(item)
            if self._gone:
                self._replaced_files()

    def event(self, event_id: str) -> Decision | None:
        """An event that is known, or None."""
        with self.lock:
            found = self._events.get(event_id)
        return None if found is None else found[1]

    def batch(self, batch: str) -> bool:
        """Whether anything was decided under this batch."""
        with self.lock:
            return batch in self._batches

    def verdict(self, item: str, other: str = "") -> Verdict | None:
        """What counts for an image, or for two of them, whichever is named first."""
        with self.lock:
            return self._folding.verdicts.get((other, item) if other and other < item else (item, other))

    def verdicts(self) -> dict[Key, Verdict]:
        """All that counts now."""
        with self.lock:
            return dict(self._folding.verdicts)

    def looks(self, reviewer: str) -> NDArray[np.int8]:
        """int8 (N,): what this reviewer says of each image, `SKIP` included."""
        with self.lock:
            if reviewer not in self._looks:
                self._looks[reviewer] = np.zeros(len(self.desk), np.int8)
            return self._looks[reviewer]

    @property
    def reviewers(self) -> dict[str, int]:
        """Who, and how many images each has decided."""
        with self.lock:
            counts = {name: int(((looks > 0) & (looks != SKIP)).sum()) for name, looks in self._looks.items()}
        return {name: count for name, count in sorted(counts.items()) if count}

    def mine(self, row: int, reviewer: str) -> Decision | None:
        """This reviewer's own word on an image."""
        with self.lock:
            verdict = self.verdict(self.desk.hash_of(row))
            found = [event for event in verdict.events if event.reviewer == reviewer] if verdict is not None else []
            return found[-1] if found else self._skips.get(row, {}).get(reviewer)

    def last_of(self, reviewer: str) -> Decision | None:
        """The last decision of this reviewer that was not taken back, or None."""
        with self.lock:
            undone: set[str] = set()
            for _, event in reversed(self._events.values()):
                if event.reviewer != reviewer:
                    continue
                if event.action == "undo":
                    undone.add(event.supersedes or event.batch)
                elif event.event_id not in undone and not (event.batch and event.batch in undone):
                    return event
        return None

    def events_since(self, seq: int, most: int) -> list[tuple[int, Decision]]:
        """At most `most` events after number `seq`, oldest first."""
        with self.lock:
            found: list[tuple[int, Decision]] = []
            for known in reversed(self._events.values()):
                if known[0] <= seq:
                    break
                found.append(known)
        return found[::-1][:most]

    def _take(self, seq: int, event: Decision, touched: dict[Key, None]) -> None:
        """Note what the fold leaves out: who skipped what, how long it took, and images that are not here any more."""
        self.seq = seq
        self._events[event.event_id] = seq, event
        self.pace[event.reviewer].looked(event.time, event.duration)
        if event.action == "undo":
            for skip in self._undone_skips(event):
                touched[key_of(skip)] = None
            return
        if event.batch:
            self._batches.add(event.batch)
        row = self._rows[event.item]
        if row is None:
            self._gone[event.path] = event
        elif not event.other:
            touched[key_of(event)] = None
            if event.action == "skip":
                self._skips[row][event.reviewer] = event
            elif row in self._skips:
                self._skips[row].pop(event.reviewer, None)

    def _undone_skips(self, undo: Decision) -> list[Decision]:
        """Forget the skips that an undo takes back, and return them."""
        if undo.supersedes:
            target = self._events.get(undo.supersedes)
            row = None if target is None else self._rows[target[1].item]
            rows = [] if row is None else [row]
        else:
            rows = list(self._skips)
        found = []
        for row in rows:
            skip = self._skips.get(row, {}).get(undo.reviewer)
            if skip is not None and (skip.event_id == undo.supersedes or (undo.batch and skip.batch == undo.batch)):
                found.append(self._skips[row].pop(undo.reviewer))
        return found

    def _apply(self, item: str) -> None:
        row = self._rows.get(item)
        if row is None:
            return
        verdict = self.verdict(item)
        for looks in self._looks.values():
            looks[row] = 0
        for reviewer in self._skips.get(row, ()):
            self.looks(reviewer)[row] = SKIP
        self.returned.pop(row, None)
        if verdict is None:
            self.action[row] = self.latest[row] = self.deciders[row] = 0
            self.conflict[row] = self.back[row] = False
            return
        for event in verdict.events:
            self.looks(event.reviewer)[row] = CODES[event.action]
        last = max(verdict.events, key=lambda event: self._events[event.event_id][0])
        self.action[row], self.conflict[row] = CODES[verdict.action], verdict.conflict
        self.latest[row] = self._events[last.event_id][0]
        self.deciders[row] = len({event.reviewer for event in verdict.events})
        words = changed(self.desk, row, last)
        self.back[row] = words is not None
        if words is not None:
            self.returned[row] = words

    def _apply_pair(self, item: str, other: str) -> None:
        rows = [self.desk.row_of(hash) for hash in (item, other)]
        known = sorted(row for row in rows if row is not None)
        number = self._pair_numbers.get((known[0], known[1])) if len(known) == 2 else None
        if number is None:
            return
        verdict = self.verdict(item, other)
        self.pair_action[number] = 0 if verdict is None else CODES[verdict.action]
        self.pair_conflict[number] = verdict is not None and verdict.conflict

    def _replaced_files(self) -> None:
        """Images that are new where a reviewed one was: the file was replaced."""
        for row, path in enumerate(self.desk.paths):
            event = self._gone.get(printable(path))
            if event is not None and not self.action[row] and self.desk.queued[row]:
                self.returned[row] = f"the file holds another image than when {event.reviewer} saw it on {_day(event)}"
        self._gone.clear()


def changed(desk: Desk, row: int, event: Decision) -> str | None:
    """Why an image that was decided is to be looked at again, or None: its label or the evidence is another."""
    given = desk.names[desk.given[row]]
    seen = f"when {event.reviewer} looked on {_day(event)}"
    if event.action == "relabel" and given == event.label:
        return None
    if event.given and given != event.given:
        return f"its label is {given!r} now; it was {event.given!r} {seen}"
    if not event.scores or desk.controls[row]:
        return None
    kinds = [kind for kind in desk.kinds(row) if kind in ("label", *KINDS)]
    for kind in kinds:
        if kind not in event.scores:
            return f"it is looked at for another reason now ({kind.replace('_', ' ')}) than {seen}"
    if "label" not in kinds:
        return None
    guess = desk.names[desk.guesses[row]] if desk.guesses[row] >= 0 else ""
    if guess and event.suggested and guess not in (event.suggested, event.label):
        return f"it looks like {guess!r} now; it looked like {event.suggested!r} {seen}"
    before, now = float(event.scores["label"]), float(desk.scores["label"][row])
    if event.action == "keep" and before - now >= FALL:
        return f"the label is right with probability {now:.2f} now; it was {before:.2f} {seen}"
    return None


def _day(event: Decision) -> str:
    return datetime.fromtimestamp(event.time, UTC).strftime("%Y-%m-%d")
