"""What long work tells whoever is listening. The base does nothing, so no stage asks whether anyone listens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any


class Listener:
    """Hears of stages, their progress and what was decided; does nothing with it."""

    def stage_began(self, name: str) -> None:
        """A stage of the pipeline begins."""

    def stage_ended(self, name: str, seconds: float) -> None:
        """It ended, or failed."""

    def progress(self, done: int, total: int) -> None:
        """Within the current stage; may be called from several threads, one at a time."""

    def stepped(self, step: int, steps: int | None, loss: float, images_per_second: float) -> None:
        """After optimiser step `step` of `steps` in the whole training (None where unknown); called for each one."""

    def epoch(self, row: Mapping[str, Any], epochs: int, *, metric: str, is_best: bool) -> None:
        """After an evaluation in training.

        Args:
            row: as in `metrics.jsonl`; numbers that are not finite are None.
            epochs: how many are planned at most.
            metric: the name in `row` that decides.
            is_best: whether it was never better.
        """

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
