"""One event of the history: what it may hold, how it is written down, and the hash that chains it to the one before.

    chain(n) = BLAKE3(chain(n-1) as 64 hex digits, "\\n", canonical(event n)), chain(0) = 64 zeros

The canonical form is a JSON object in ASCII with sorted keys and without spaces; what is empty (`""`, `{}`, 0) is left
out, so that a later version can add fields without breaking the chains that exist.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from blake3 import blake3

from regraft.errors import nearest
from regraft.types import ACTIONS, JSON, Decision, printable

GENESIS = "0" * 64
"""What the first event of a project is chained to."""

PAIR_ACTIONS = ("distinct", "duplicate")
"""Actions on two images; `skip` and `undo` are for one or two."""

LIMITS = {
    "project": 255, "reviewer": 80, "session": 200, "path": 4096, "issue": 40, "given": 1000, "suggested": 1000,
    "label": 1000, "note": 10_000,
}  # fmt: skip
"""Characters a field may hold. A class name is a folder's (255 bytes) or a manifest's."""

MAX_SCORES_CHARS = 10_000
"""Of `scores` as JSON."""

_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_HASH = re.compile("[0-9a-f]{64}")
_TEXTS = ("event_id", "item", "other", "action", "supersedes", "batch", *LIMITS)
_LATEST = 253_402_300_799.0  # the last second of the year 9999
_DAY = 86_400.0
_LINES = str.maketrans("", "", "\n\r\t")
_dump: Callable[[Any], str] = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def normal(event: Decision) -> Decision:
    """The event as it is kept: numbers as floats, the path as it can be shown anywhere (see `printable`)."""
    if type(event.time) is type(event.duration) is float and event.path.isprintable():
        return event
    return replace(event, time=float(event.time), duration=float(event.duration), path=printable(event.path))


def refusal(event: Decision) -> str | None:
    """Why an event cannot be taken, in words; None where it can.

    Only the event itself is looked at: `Ledger.append` also refuses a known `event_id` with other content, and an undo
    of an event that is unknown or another reviewer's.
    """
    return _malformed(event) or _contradicts_itself(event)


def _malformed(event: Decision) -> str | None:
    for name in _TEXTS:
        text = getattr(event, name)
        if not isinstance(text, str):
            return f"{name} must be text: {_short(text)} is not"
        if len(text) > LIMITS.get(name, 64):
            return f"{name} may hold {LIMITS.get(name, 64):,} characters: this one has {len(text):,}"
        if not text.isprintable() and name != "path":  # quick for nearly all; spaces of other scripts are fine too
            shown = text.translate(_LINES) if name == "note" else text
            if printable(shown) != shown:
                return f"{name} must be text that can be shown: {_short(text)} holds an odd character"
    if not _UUID.fullmatch(event.event_id):
        return f"event_id must be a UUID in lower case with hyphens: {_short(event.event_id)} is not"
    for name, value in (("supersedes", event.supersedes), ("batch", event.batch)):
        if value and not _UUID.fullmatch(value):
            return f"{name} must be empty or a UUID in lower case with hyphens: {_short(value)} is not"
    for name, value in (("item", event.item), ("other", event.other)):
        if (value or name == "item") and not _HASH.fullmatch(value):
            return f"{name} must be a BLAKE3 hash, 64 hex digits in lower case: {_short(value)} is not"
    for name, number, most in (("time", event.time, _LATEST), ("duration", event.duration, _DAY)):
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= most:
            return f"{name} must be a number of seconds between 0 and {most:,.0f}: {_short(number)} is not"
    return _scores_malformed(event.scores)


def _scores_malformed(scores: object) -> str | None:
    if not isinstance(scores, dict):
        return f"scores must be an object of numbers: {_short(scores)} is not"
    for name, value in scores.items():
        if not isinstance(name, str) or printable(name) != name:
            return f"scores must be named by text that can be shown: {_short(name)} is not"
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            return f"scores must be finite numbers: {name} is {_short(value)}"
    if scores and len(_dump(scores)) > MAX_SCORES_CHARS:
        return f"scores may hold {MAX_SCORES_CHARS:,} characters as JSON: these have {len(_dump(scores)):,}"
    return None


def _contradicts_itself(event: Decision) -> str | None:
    action = event.action
    if action not in ACTIONS:
        return f"action must be one of {', '.join(ACTIONS)}: {_short(action)} is not{nearest(action, ACTIONS)}"
    for name in ("project", "reviewer"):
        if not getattr(event, name).strip():
            return f"{name} must be named: it is empty"
    if (action == "relabel") != bool(event.label.strip()):
        return (
            "relabel must name the new class in label: it is empty"
            if action == "relabel"
            else f"label is for relabel alone: {action} has {_short(event.label)}"
        )
    if action in PAIR_ACTIONS and not event.other:
        return f"{action} is about two images: other is empty"
    if event.other and action not in (*PAIR_ACTIONS, "skip", "undo"):
        return f"{action} is about one image: other is {_short(event.other)}"
    if event.other == event.item:
        return "a pair must be of two images: item and other are the same"
    if action == "undo" and bool(event.supersedes) == bool(event.batch):
        return "undo must name one event in supersedes, or one batch: it names " + (
            "both" if event.batch else "neither"
        )
    if action != "undo" and event.supersedes:
        return f"supersedes is for undo alone: {action} has {event.supersedes!r}"
    return None


def canonical(event: Decision) -> bytes:
    """The one way in which an event is written for hashing (see the head of this file)."""
    return _dump({name: value for name in _FIELDS if (value := getattr(event, name))}).encode("ascii")


def chained(previous: str, event: Decision) -> str:
    """The event's link in the chain: 64 hex digits."""
    return blake3(previous.encode("ascii") + b"\n" + canonical(event)).hexdigest()


def scores_text(scores: JSON) -> str:
    """Scores as they are kept in the database."""
    return _dump(scores) if scores else "{}"


def _short(value: object) -> str:
    """A value for an error message: never long, never broken over lines."""
    text = repr(value)
    return printable(text if len(text) <= 60 else f"{text[:57]}…")


_FIELDS = tuple(sorted(Decision.__dataclass_fields__))
