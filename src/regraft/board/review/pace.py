"""How long somebody has been looking without a break."""

from __future__ import annotations

from dataclasses import dataclass

IDLE_SECONDS = 120.0
"""A longer silence is a break, and no time of looking."""


@dataclass(slots=True)
class Pace:
    """One reviewer's present stretch of looking.

    Attributes:
        began: POSIX seconds at which the present stretch began.
        last: of the last decision; 0 before the first.
    """

    began: float = 0.0
    last: float = 0.0

    def looked(self, time: float, duration: float) -> None:
        """A decision came in that took `duration` seconds of looking."""
        if time - self.last > IDLE_SECONDS:
            self.began = time - min(max(duration, 0.0), IDLE_SECONDS)
        self.last = max(self.last, time)

    def stretch(self, now: float) -> float:
        """Seconds of the present stretch, 0 after a break."""
        return max(0.0, self.last - self.began) if now - self.last <= IDLE_SECONDS else 0.0
