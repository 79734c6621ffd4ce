"""The score with the decisions so far and without them, in the background, one at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from regraft.board.review.desk import Desk
from regraft.store.fold import Key
from regraft.types import JSON, Verdict

Work = Callable[[Desk, Mapping[Key, Verdict], Path], JSON]


class Refits:
    """Runs a refit on a thread of its own and keeps the last outcome.

    Args:
        desk: what is under review.
        cache_dir: where its features are.
        work: what computes `{"before", "after", "difference", "test", "num_applied", "words"}`.
    """

    def __init__(self, desk: Desk, cache_dir: Path, *, work: Work | None = None) -> None:
        self.desk, self.cache_dir = desk, cache_dir
        self._work = work if work is not None else scores
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._began = self._ended = 0.0
        self._state = "idle"
        self._outcome: JSON = {}

    def start(self, verdicts: Mapping[Key, Verdict]) -> JSON:
        """Begin, unless one is running; returns the state."""
        with self._lock:
            if self._state != "running":
                self._state, self._outcome, self._began = "running", {}, time.monotonic()
                self._thread = threading.Thread(target=self._run, args=(dict(verdicts),), name="refit", daemon=True)
                self._thread.start()
        return self.state()

    def wait(self, seconds: float) -> None:
        """Wait for the one that is running, if any."""
        if self._thread is not None:
            self._thread.join(seconds)

    def state(self) -> JSON:
        """Where it is, and what it gave."""
        with self._lock:
            running = self._state == "running"
            seconds = (time.monotonic() if running else self._ended) - self._began
            empty: JSON = {
                "before": None, "after": None, "difference": None, "test": None, "num_applied": None, "words": [],
            }  # fmt: skip
            return empty | self._outcome | {"state": self._state, "seconds": round(seconds, 1)}

    def _run(self, verdicts: Mapping[Key, Verdict]) -> None:
        try:
            outcome, state = self._work(self.desk, verdicts, self.cache_dir), "done"
        except Exception as error:  # a board stays up whatever a computation meets; the page says what it was
            outcome, state = {"words": [f"the refit did not work: {error}"]}, "failed"
        with self._lock:
            self._outcome, self._state, self._ended = outcome, state, time.monotonic()


def scores(desk: Desk, verdicts: Mapping[Key, Verdict], cache_dir: Path) -> JSON:
    """Solve the head twice on cached features, with the labels as given and as decided: see `studies.refit`."""
    from regraft.board.review.prepare import manifest_of
    from regraft.data import Decisions
    from regraft.studies.refit import refit_images

    decisions = Decisions(verdicts=verdicts, project=desk.project)
    return refit_images(manifest_of(desk), decisions, backbone=desk.backbone, cache_dir=cache_dir).as_dict()
