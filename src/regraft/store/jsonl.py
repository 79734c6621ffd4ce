"""The history as a file: JSON lines, one event a line, in order, each with its number and its link in the chain.

    {"seq": 1, "chain": "9f…", "event_id": "…", "time": 1795431234.5, "project": "photos", "reviewer": "Ada", …}

A file holds one project's whole history. It can be read without regraft, checked without the database, and taken into
another database, where the events are chained anew behind those that are there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, BinaryIO

from regraft.errors import DataError
from regraft.store.decisions import Ledger, Verified
from regraft.store.event import GENESIS, chained, refusal
from regraft.types import Decision, printable

MAX_LINE_BYTES = 1_000_000
"""Of one event; the longest that the limits of its fields allow has less."""

_FIELDS = {field.name: field for field in fields(Decision)}
_LINK = ("seq", "chain")


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A history that was read from a file, its chain checked.

    Attributes:
        project: of all its events; "" where there are none.
        events: in order.
        chains: of each event its link in the chain.
    """

    project: str
    events: tuple[Decision, ...]
    chains: tuple[str, ...]

    @property
    def head(self) -> str:
        """The chain's last hash."""
        return self.chains[-1] if self.chains else GENESIS


def write_history(ledger: Ledger, out: BinaryIO) -> Verified:
    """Write a project's history, checking its chain on the way.

    Raises:
        DataError: the chain in the database is broken; what stands before that event is written.
    """
    head, count = GENESIS, 0
    for seq, previous, chain, event in ledger.links():
        count += 1
        if seq != count or previous != head or chain != chained(previous, event):
            raise DataError(
                f"a history is exported whole: that of {ledger.project!r} was tampered with at event {seq:,}; "
                "regraft decisions verify says more"
            )
        line = {"seq": seq, "chain": chain, **event.as_dict()}
        out.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n")
        head = chain
    return Verified(ok=True, num_events=count, head=head, first_bad=None)


def read_history(lines: BinaryIO, name: str) -> History:
    """Read a history and check it: every line, and that each follows the one before.

    Args:
        lines: the file, open for reading bytes.
        name: what to call it in an error.

    Raises:
        DataError: a line is damaged, missing, changed or of another project; the message names the line.
    """
    events: list[Decision] = []
    chains: list[str] = []
    for number, line in enumerate(_bounded(lines, name), 1):
        where = f"{printable(name)!r}, line {number:,}"
        record = _record(line, where)
        seq, chain = (record.pop(word, None) for word in _LINK)
        event = _event(record, where)
        if seq != number or isinstance(seq, bool):
            raise DataError(f"events must follow one another: {where} must have seq {number} and has {_short(seq)}")
        if chain != chained(chains[-1] if chains else GENESIS, event):
            raise DataError(
                f"an event must be as it was written: {where} does not fit its chain (it was changed, or one before it "
                "is missing); ask for the file again"
            )
        if events and event.project != events[0].project:
            ours, first = _short(event.project), _short(events[0].project)
            raise DataError(f"a file holds one project: {where} is of {ours}, the first line of {first}")
        events.append(event)
        chains.append(chain)
    return History(project=events[0].project if events else "", events=tuple(events), chains=tuple(chains))


def _bounded(lines: BinaryIO, name: str) -> Iterator[bytes]:
    """Line by line, never more than a line's limit in memory."""
    number = 0
    while line := lines.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise DataError(f"a line may have {MAX_LINE_BYTES:,} bytes: {printable(name)!r}, line {number:,} has more")
        yield line


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(line.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_no_doubles)
    except (ValueError, RecursionError) as error:  # a line that is cut off ends here
        raise DataError(f"a line must be one JSON object: {where} is not ({_one_line(error)})") from None
    if not isinstance(found, dict):
        raise DataError(f"a line must be one JSON object: {where} is {type(found).__name__}")
    return found


def _event(record: dict[str, Any], where: str) -> Decision:
    if (missing := _FIELDS.keys() - record.keys()) or (unknown := record.keys() - _FIELDS.keys()):
        words = f"has no {min(missing)!r}" if missing else f"has {_short(min(unknown))}, unknown to this regraft"
        raise DataError(f"an event has the fields of a decision: {where} {words}")
    event = Decision(**record)
    if (reason := refusal(event)) is not None:
        raise DataError(f"{reason} ({where})")
    return event


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _no_doubles(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    pairs = list(pairs)
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found


def _one_line(error: BaseException) -> str:
    return printable(" ".join(str(error).split())[:120])


def _short(value: object) -> str:
    text = repr(value)
    return printable(text if len(text) <= 60 else f"{text[:57]}…")
