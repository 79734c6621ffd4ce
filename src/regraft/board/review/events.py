"""What a browser sends → decisions that can be appended, or a reason why not. All of it is a stranger's word."""

from __future__ import annotations

import math
import re
from typing import Any

from regraft.board.review.desk import Desk
from regraft.board.review.history import History
from regraft.types import ACTIONS, JSON, Decision

MOST_EVENTS = 1_000
MOST_NOTE = 2_000
LONGEST_SECONDS = 86_400.0
WHY = ("label", "near_duplicate", "leakage", "outlier", "odd_image", "conflict", "")
PAIRED = ("distinct", "duplicate")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SESSION = re.compile(r"[\w.:-]{1,80}", re.ASCII)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""What no database holds: NUL (PostgreSQL), and halves of characters (UTF-8)."""


class Refused(ValueError):
    """An event that cannot be taken, and why."""


def decision(
    event: Any, desk: Desk, history: History, reviewer: str, now: float, earlier: dict[str, Decision]
) -> Decision:
    """Make one event of what was sent.

    Path, given and suggested class, scores, reviewer and time are the server's: nobody can write another's name, or
    that something else was shown.

    Args:
        event: a JSON value.
        desk: what is under review.
        history: for what `undo` takes back.
        reviewer: who sends.
        now: POSIX seconds.
        earlier: events of the same call, by their id.

    Raises:
        Refused: it is no such event.
    """
    if not isinstance(event, dict):
        raise Refused("an event is a JSON object")
    event_id, item = _uuid(event, "event_id"), _text(event, "item", 64)
    session = _text(event, "session", 80)
    if not _SESSION.fullmatch(session):
        raise Refused("session: 1 to 80 letters, digits and . _ : -")
    action = _text(event, "action", 20)
    if action not in ACTIONS:
        raise Refused(f"action: one of {', '.join(ACTIONS)}")
    row = desk.row_of(item)
    if row is None:
        raise Refused("item: no image of these data has this hash")
    item, other = desk.hash_of(row), _other(event, desk, row, action)
    label, supersedes, batch = _text(event, "label", 1000), _uuid(event, "supersedes", ""), _uuid(event, "batch", "")
    if (action == "relabel") != bool(label):
        raise Refused("label: relabel names the new class, no other action does")
    if label and desk.label_number(label) is None:
        raise Refused("label: no class of these data has this name")
    if action == "undo":
        _check_undo(history, earlier, reviewer, supersedes, batch)
    else:
        supersedes = ""  # a later decision of the same reviewer takes the place of the earlier: nothing need be named
    why = _text(event, "issue", 20)
    if why not in WHY:
        raise Refused(f"issue: one of {', '.join(WHY[:-1])}, or nothing")
    guess = int(desk.guesses[row])
    return Decision(
        event_id=event_id, time=now, project=desk.project, reviewer=reviewer, session=session, item=item, other=other,
        path=desk.path(row), issue="control" if desk.controls[row] and why != "conflict" and not other else why,
        given=desk.names[desk.given[row]], suggested=desk.names[guess] if guess >= 0 else "", action=action,
        label=label, scores=_scores(desk, row, other), duration=_seconds(event), supersedes=supersedes, batch=batch,
        note=_text(event, "note", MOST_NOTE),
    )  # fmt: skip


def same(a: Decision, b: Decision) -> bool:
    """Whether two events say the same, as the browser that sent them sees it."""
    return all(
        getattr(a, name) == getattr(b, name)
        for name in ("reviewer", "item", "other", "action", "label", "supersedes", "batch", "note")
    )


def shown_id(event: Any) -> str | None:
    """The id of what was refused, where it can be told: it may be anything."""
    name = event.get("event_id") if isinstance(event, dict) else None
    return name if isinstance(name, str) and len(name) <= 64 and name.isascii() and name.isprintable() else None


def shown_issue(event: Decision) -> str:
    """Why it was shown, as far as the reviewer is to know: which images are controls is never said."""
    return "label" if event.issue == "control" else event.issue


def _check_undo(history: History, earlier: dict[str, Decision], reviewer: str, supersedes: str, batch: str) -> None:
    if bool(supersedes) == bool(batch):
        raise Refused("undo: names the event that it takes back (supersedes), or a whole batch")
    if supersedes:
        undone = earlier.get(supersedes) or history.event(supersedes)
        if undone is None:
            raise Refused("supersedes: there is no such event")
        if undone.reviewer != reviewer:
            raise Refused("undo: takes back one's own decisions only")
        if undone.action == "undo":
            raise Refused("undo: is not taken back; decide again")
    elif not history.batch(batch) and all(event.batch != batch for event in earlier.values()):
        raise Refused("batch: there is no such batch")


def _other(event: JSON, desk: Desk, row: int, action: str) -> str:
    other = _text(event, "other", 64)
    if not other:
        if action in PAIRED:
            raise Refused(f"other: {action} is said of two images")
        return ""
    second = desk.row_of(other)
    if second is None or second == row:
        raise Refused("other: the hash of another image of these data")
    if action not in (*PAIRED, "skip", "undo"):
        raise Refused(f"other: {action} is said of one image")
    return desk.hash_of(second)


def _scores(desk: Desk, row: int, other: str) -> JSON:
    if not other:
        return desk.shown_scores(row)
    return {kind: round(float(desk.scores[kind][row]), 6) for kind in ("near_duplicate",) if kind in desk.scores}


def _text(event: JSON, name: str, most: int) -> str:
    value = event.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > most or _UNSTORABLE.search(value):
        raise Refused(f"{name}: a text of at most {most:,} characters")
    return value


def _uuid(event: JSON, name: str, default: str | None = None) -> str:
    value = event.get(name)
    if default is not None and value in (None, ""):
        return default
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise Refused(f"{name}: a UUID in lower case with hyphens")
    return value


def _seconds(event: JSON) -> float:
    value = event.get("duration", 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Refused("duration: seconds")
    return round(min(max(float(value), 0.0), LONGEST_SECONDS), 3)
