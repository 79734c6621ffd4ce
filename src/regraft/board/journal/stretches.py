"""Decisions → stretches of uninterrupted looking: how long somebody really worked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from regraft.board.review.pace import IDLE_SECONDS


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time of looking without a break of two minutes.

    Attributes:
        begin, end: POSIX seconds.
        num_decisions: made in it.
    """

    begin: float
    end: float
    num_decisions: int

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.end - self.begin


def stretches(looks: Iterable[tuple[float, float]], *, idle: float = IDLE_SECONDS) -> list[Stretch]:
    """One person's stretches, from what the decisions tell.

    Nobody looks at two pictures at once, so the looks are laid end to end, the last one where it was taken in:
    decisions that were made offline and arrive together take the time they took. A silence of more than `idle` seconds
    between two decisions is a break; of it, the look that ends it counts, and no more than `idle`.

    Args:
        looks: (POSIX time at which a decision was taken in, seconds of looking before it).
        idle: seconds.
    """
    ends: list[tuple[float, float]] = []
    latest = float("inf")
    for time, duration in sorted(looks, reverse=True):
        end, seconds = min(time, latest), min(max(duration, 0.0), idle)
        ends.append((end, seconds))
        latest = end - seconds
    found: list[Stretch] = []
    for end, seconds in reversed(ends):
        if found and end - found[-1].end <= idle:
            found[-1] = Stretch(found[-1].begin, end, found[-1].num_decisions + 1)
        else:
            found.append(Stretch(end - seconds, end, 1))
    return found


def clipped(found: Iterable[Stretch], begin: float, end: float) -> list[Stretch]:
    """The parts of stretches that lie within a span of time; a stretch over midnight belongs to both days in part."""
    return [
        Stretch(max(one.begin, begin), min(one.end, end), one.num_decisions)
        for one in found
        if one.begin < end and one.end >= begin and (min(one.end, end) > max(one.begin, begin) or one.begin >= begin)
    ]
