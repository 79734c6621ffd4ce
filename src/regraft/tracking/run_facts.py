"""What a tracker is told of a run when it opens, and what it calls the run itself: `tracking.json`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from regraft.files import write_json
from regraft.types import JSON

IDENTITIES = "tracking.json"
"""In a run folder: tracker to what it knows the run by, so that `--resume` goes on with the same one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """A run, as a tracker opens it.

    Attributes:
        folder: of the run.
        project: the name of the folder above it.
        name: its own.
        known: what `keep` was told by this tracker when the run began; empty for a new run.
        keep: writes down what the tracker knows the run by.
        say: one line that people should read.
    """

    folder: Path
    project: str
    name: str
    known: JSON = field(default_factory=dict)
    keep: Callable[[JSON], None] = lambda identity: None
    say: Callable[[str], None] = lambda text: None


class Identities:
    """`tracking.json` of a run folder; several trackers write their part of it, from threads of their own."""

    def __init__(self, folder: Path) -> None:
        self._path, self._lock = folder / IDENTITIES, threading.Lock()

    def of(self, tracker: str) -> JSON:
        """What this tracker knows the run by, or nothing."""
        found = self._read().get(tracker)
        return dict(found) if isinstance(found, dict) else {}

    def keep(self, tracker: str, identity: JSON) -> None:
        """Write it down."""
        with self._lock:
            write_json(self._path, self._read() | {tracker: identity})

    def _read(self) -> JSON:
        try:
            found = json.loads(self._path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
