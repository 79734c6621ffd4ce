"""Events for the tests of the store."""

from __future__ import annotations

import uuid
from typing import Any

from regraft.types import Decision

PROJECT = "photos"


def name_of(n: int) -> str:
    """The UUID of event number n."""
    return str(uuid.UUID(int=n))


def item_of(n: int) -> str:
    """The hash of image number n."""
    return f"{n:064x}"


def event(n: int, *, item: Any = None, other: Any = "", **fields: Any) -> Decision:
    """Event number n: unless told otherwise Ada keeps image n. `item` and `other` may be numbers of images."""
    item = n if item is None else item
    plain: dict[str, Any] = {
        "event_id": name_of(n), "time": 1.7e9 + n, "project": PROJECT, "reviewer": "Ada", "session": "s1",
        "item": item_of(item) if isinstance(item, int) else item, "path": f"cat/{item}.jpg", "action": "keep",
        "other": item_of(other) if isinstance(other, int) else other, "given": "cat",
    }  # fmt: skip
    return Decision(**(plain | fields))
