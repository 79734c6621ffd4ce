"""What long work tells whoever is listening. The base does nothing, so no stage asks whether anyone listens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class Listener:
    """Hears of stages, their progress and what was decided; does nothing with it."""

    def stage_began(self, name: str) -> None:
        """A stage of the pipeline begins."""

    def stage_ended(self, name: str, seconds: float) -> None:
        """It ended, or failed."""

    def progress(self, done: int, total: int) -> None:
        """Within the current stage; may be called from several threads, one at a time."""

    def say(self, text: str) -> None:
        """One line that people should read: what was understood, decided, left out."""


class Stopwatch:
    """Seconds by stage, told to a listener as they pass.

    Attributes:
        seconds: stage to wall seconds, in order.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        self.listener.stage_began(name)
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
            self.listener.stage_ended(name, self.seconds[name])
