"""A tracker of a service behind a queue and one thread: a fit never waits for it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from regraft.tracking.base import Status, Tracker, reason

EVERY_SECONDS = 2.0
"""The thread wakes so often, takes what has come, and sends it together: between two awakenings it costs nothing."""

PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds between two tries of one call."""

MOST_WAITING = 10_000
"""Calls; numbers that come while so many wait are left out. Some 5 MB."""

SLOW_SECONDS = 30.0
"""A call that takes longer is said to be slow."""

_AT_THE_END = 3
"""Calls that fail in a row once the run is over, until nothing more is tried."""

_Call = Callable[[Tracker], None]
_Answer = TypeVar("_Answer")


class Background(Tracker):
    """Tells a tracker in a thread of its own. What is told costs an append to a queue, some 2 µs.

    A service that cannot be reached is tried again, with growing pauses, while the queue fills; then numbers are left
    out. The first failure, the first slow answer and the first number left out are said, whichever comes first, once.
    Everything is said in the thread that tells, never from the background.

    Args:
        name: of the service, for people.
        open_: makes the tracker, in the thread, and may say a line; tried again until the run ends.
        warn: told in one line.
        kept: where else everything that is told can be found, for people.
        most: calls that may wait.
        slow_seconds: when an answer is slow.
    """

    def __init__(
        self, name: str, open_: Callable[[Callable[[str], None]], Tracker], warn: Callable[[str], None], *, kept: str,
        most: int = MOST_WAITING, slow_seconds: float = SLOW_SECONDS,
    ) -> None:  # fmt: skip
        self.name, self._open, self._warn, self._kept, self._most = name, open_, warn, kept, most
        self._slow_seconds = slow_seconds
        self._waiting: deque[_Call] = deque()
        self._words: deque[str] = deque()
        self._ending, self._done = threading.Event(), threading.Event()
        self._status: Status = "finished"
        self._trouble_said = False
        self._busy_since: float | None = None
        self._told = self._sent = self._failed_in_a_row = 0  # the first is the caller's, the others the thread's
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        """From the background: said when the run next tells something."""
        self._words.append(text)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        if len(self._waiting) >= self._most:
            self._told += 1
            self._trouble("does not keep up", f"{len(self._waiting):,} calls wait")
            self._speak()
            return
        self._put(lambda tracker: tracker.log_metrics(metrics, step))

    def log_settings(self, settings: Mapping[str, tuple[Any, str]]) -> None:
        self._put(lambda tracker: tracker.log_settings(settings))

    def log_tags(self, tags: Mapping[str, str]) -> None:
        self._put(lambda tracker: tracker.log_tags(tags))

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, step: int) -> None:
        self._put(lambda tracker: tracker.log_table(name, columns, rows, step=step))

    def log_image(self, name: str, picture: bytes, *, width: int, height: int, step: int) -> None:
        self._put(lambda tracker: tracker.log_image(name, picture, width=width, height=height, step=step))

    def log_histogram(self, name: str, counts: NDArray[np.int64], edges: NDArray[np.float64], *, step: int) -> None:
        self._put(lambda tracker: tracker.log_histogram(name, counts, edges, step=step))

    def log_artifact(self, name: str, path: Path) -> None:
        self._put(lambda tracker: tracker.log_artifact(name, path))

    def rewind(self, step: int) -> None:
        self._put(lambda tracker: tracker.rewind(step))

    def close(self, status: Status = "finished", *, seconds: float = 10.0) -> None:
        """Send what waits, at most for so many seconds; what could not be sent is said."""
        self.end(status)
        self.wait(seconds)

    def end(self, status: Status = "finished") -> None:
        """Nothing more will come; do not wait."""
        if not self._ending.is_set():
            self._status = status
            self._ending.set()

    def is_done_within(self, seconds: float) -> bool:
        """After `end`: whether all is sent, or given up."""
        return self._done.wait(seconds)

    def wait(self, seconds: float) -> None:
        """After `end`: until all is sent, or the time is over."""
        self._done.wait(max(0.0, seconds))
        if unsent := self._told + 1 - self._sent:  # the last call says that nothing more will come
            self.say(
                f"{self.name}: {unsent:,} of {self._told + 1:,} calls were not sent"
                + ("" if self._done.is_set() else " in time")
                + f"; all is in {self._kept}"
            )
        self._speak()

    def _put(self, call: _Call) -> None:
        if self._ending.is_set():
            return
        self._told += 1
        self._waiting.append(call)
        since = self._busy_since
        if since is not None and time.monotonic() - since > self._slow_seconds:
            self._trouble("does not answer", f"for {self._slow_seconds:.0f} s")
        self._speak()

    def _speak(self) -> None:
        while self._words:
            self._warn(self._words.popleft())

    def _trouble(self, what: str, why: str) -> None:
        if not self._trouble_said:
            self._trouble_said = True
            self.say(f"{self.name} {what} and is tried again; the run goes on, and all is in {self._kept} ({why})")

    def _work(self) -> None:
        tracker = None
        while tracker is None and not self._has_given_up():
            tracker = self._tried(lambda: self._open(self.say))
        if tracker is not None:
            self._serve(tracker)
        self._done.set()

    def _serve(self, tracker: Tracker) -> None:
        while True:
            last = self._ending.is_set()  # asked before the queue is emptied: nothing comes after it
            while self._waiting and not self._has_given_up():
                call = self._waiting.popleft()
                if self._tried(lambda call=call: call(tracker) or True):  # type: ignore[misc]
                    self._sent += 1
            if not self._has_given_up():
                self._tried(tracker.flush)
            if last:
                break
            self._ending.wait(EVERY_SECONDS)
        if not self._has_given_up() and self._tried(lambda: tracker.close(self._status) or True):  # type: ignore[func-returns-value]
            self._sent += 1

    def _tried(self, call: Callable[[], _Answer]) -> _Answer | None:
        """What it gives, in the end; None where it failed again and again, and the next call has its turn."""
        for pause in (*PAUSES, 0.0):
            is_last = self._ending.is_set() or not pause
            self._busy_since = time.monotonic()
            try:
                answer = call()
            except Exception as error:  # a service's own: whatever it is, it must not cost a fit
                self._failed_in_a_row += 1
                self._trouble("failed", reason(error))
            else:
                self._failed_in_a_row = 0
                return answer
            finally:
                self._busy_since = None
            if is_last:
                break
            self._ending.wait(pause)
        return None

    def _has_given_up(self) -> bool:
        return self._ending.is_set() and self._failed_in_a_row >= _AT_THE_END
