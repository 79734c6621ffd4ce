"""A decision as a row of the database, and a row as a decision; quick, because a history has 100,000 of them."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Iterable, Iterator
from typing import Any

from regraft.store.event import scores_text
from regraft.store.tables import DECISIONS, EVENT_FIELDS
from regraft.types import Decision

COLUMNS = [DECISIONS.c[name] for name in EVENT_FIELDS]
"""What to select for `decision_of`."""

_SCORES = EVENT_FIELDS.index("scores")
_REPEATED = tuple(
    EVENT_FIELDS.index(name)
    for name in ("project", "reviewer", "session", "issue", "given", "suggested", "action", "label")
)
_FILL = tuple(Decision.__dict__[name].__set__ for name in EVENT_FIELDS)


def row_of(event: Decision) -> dict[str, Any]:
    """The columns that hold the event; its number and its link in the chain are still to come."""
    row = {name: getattr(event, name) for name in EVENT_FIELDS}
    row["scores"] = scores_text(event.scores)
    return row


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection for a moment: a million new objects, none of them garbage, would be walked again and again
    (a third of the time of reading 100,000 events)."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def decision_of(values: Iterable[Any], words: dict[str, str]) -> Decision:
    """One row as a decision. Filling the slots takes a third of the time of the frozen `__init__`: 100,000 in 0.3 s."""
    row = list(values)
    for n in _REPEATED:
        row[n] = words.setdefault(row[n], row[n])
    row[_SCORES] = {} if row[_SCORES] == "{}" else json.loads(row[_SCORES])
    event = object.__new__(Decision)
    for fill, value in zip(_FILL, row, strict=True):
        fill(event, value)
    return event
