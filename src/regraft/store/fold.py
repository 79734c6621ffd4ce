"""From the history to what it says now: a fold over the events, in their order.

Of one image (or pair) and one reviewer the latest decision counts that was not undone; `skip` decides nothing.
Reviewers who say different things make a conflict, until a later decision with `issue="conflict"` settles it: of what
came before that one, nothing counts any more.

What two reviewers say is compared by what follows from it: `keep` of an image in class A and `relabel` to A agree.
"""

from __future__ import annotations

from collections.abc import Iterable

from regraft.types import Decision, Verdict

Key = tuple[str, str]
"""An image, (its hash, ""); or a pair, its two hashes in sorted order, whichever of them survives."""


def key_of(event: Decision | Verdict) -> Key:
    """What an event or a verdict is about."""
    if event.other and event.other < event.item:
        return event.other, event.item
    return event.item, event.other


def fold(events: Iterable[Decision]) -> dict[Key, Verdict]:
    """What the whole history says: one verdict an image or pair on which a decision stands.

    Of a pair, `Verdict.item` is the one that survives a `duplicate`, so it need not be the first of the key.
    """
    folding = Folding()
    folding.add(events)
    return folding.verdicts


class Folding:
    """The fold, kept up to date as events come in: adding n events costs O(n), however long the history is.

    Attributes:
        verdicts: key to verdict, for all events so far.
    """

    def __init__(self) -> None:
        self.verdicts: dict[Key, Verdict] = {}
        self._decisions: dict[Key, list[Decision]] = {}
        self._by_id: dict[str, Decision] = {}
        self._by_batch: dict[tuple[str, str], list[str]] = {}
        self._undone: set[str] = set()

    def add(self, events: Iterable[Decision]) -> set[Key]:
        """Take the next events, in their order; returns the keys whose verdict may have changed."""
        touched: dict[Key, None] = {}  # in the order of the events: in that of a set judging takes twice as long
        for event in events:
            if event.action == "undo":
                touched.update(dict.fromkeys(self._undo(event)))
            elif event.action != "skip" and event.event_id not in self._by_id:
                key = key_of(event)
                self._by_id[event.event_id] = event
                self._decisions.setdefault(key, []).append(event)
                if event.batch:
                    self._by_batch.setdefault((event.reviewer, event.batch), []).append(event.event_id)
                touched[key] = None
        for key in touched:
            verdict = _judged([event for event in self._decisions[key] if event.event_id not in self._undone])
            if verdict is None:
                self.verdicts.pop(key, None)
            else:
                self.verdicts[key] = verdict
        return set(touched)

    def _undo(self, event: Decision) -> list[Key]:
        """Mark what an undo takes back: one event or a batch, before it in the history, and its reviewer's own."""
        one, batch = event.supersedes, (event.reviewer, event.batch)
        names = [one] if one else self._by_batch.get(batch, [])
        found = [self._by_id[name] for name in names if name in self._by_id]
        own = [other for other in found if other.reviewer == event.reviewer]
        self._undone.update(other.event_id for other in own)
        return [key_of(other) for other in own]


def stand(event: Decision) -> tuple[str, str]:
    """What follows from a decision: two reviewers agree where this is the same."""
    match event.action:
        case "keep":
            return "class", event.given
        case "relabel":
            return "class", event.label
        case "duplicate":
            return "survivor", event.item
        case action:
            return action, ""


def _judged(standing: list[Decision]) -> Verdict | None:
    """The verdict on one key, from its decisions that were not undone, oldest first."""
    if not standing:
        return None
    events = _counting(standing)
    last = events[-1]
    said = stand(last)
    agreeing = sorted([event.reviewer for event in events if stand(event) == said])
    return Verdict(
        item=last.item, other=last.other, action=last.action, label=last.label, given=last.given,
        reviewers=tuple(agreeing), conflict=len(agreeing) < len(events), events=events,
    )  # fmt: skip


def _counting(standing: list[Decision]) -> tuple[Decision, ...]:
    """Each reviewer's latest decision, oldest first; where a conflict was settled, only from there on."""
    if len(standing) == 1:
        return (standing[0],)
    latest: dict[str, Decision] = {}
    for event in standing:
        if event.issue == "conflict":
            latest.clear()
        latest.pop(event.reviewer, None)  # to the end: events stay oldest first
        latest[event.reviewer] = event
    return tuple(latest.values())
