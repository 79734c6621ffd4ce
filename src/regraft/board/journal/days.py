"""Which span of time a day is: from midnight to midnight where the viewer is, 23, 24 or 25 hours."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date as Date
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from regraft.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """One day at one place.

    Attributes:
        date: which.
        zone: where, or None for the time of this machine.
        begin, end: POSIX seconds; `end` belongs to the next day.
    """

    date: Date
    zone: ZoneInfo | None
    begin: float
    end: float

    def __contains__(self, time: float) -> bool:
        return self.begin <= time < self.end

    def clock(self, time: float) -> str:
        """`14:05`, as a clock there shows it."""
        return datetime.fromtimestamp(time, self.zone).strftime("%H:%M")

    def shifted(self, days: int) -> Date:
        """A day before or after, no further than the calendar goes."""
        try:
            return self.date + timedelta(days=days)
        except OverflowError:
            return self.date

    @property
    def title(self) -> str:
        """`Monday, 23 November 2026`."""
        names = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
        months = (
            "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
            "November", "December",
        )  # fmt: skip
        return f"{names[self.date.weekday()]}, {self.date.day} {months[self.date.month - 1]} {self.date.year}"


def day_of(word: str, *, now: float, zone: ZoneInfo | None = None) -> Day:
    """The day that a person means.

    Args:
        word: today, yesterday, or a date such as 2026-11-23.
        now: POSIX seconds.
        zone: where, or None for the time of this machine.

    Raises:
        UsageError: it is none of these.
    """
    today = datetime.fromtimestamp(now, zone).date()
    if word in ("", "today"):
        found = today
    elif word == "yesterday":
        found = today - timedelta(days=1)
    else:
        try:
            found = Date.fromisoformat(word)
            if not 1971 <= found.year <= 2999:
                raise ValueError
        except ValueError:
            raise UsageError(f"a day is today, yesterday or a date such as 2026-11-23: {word[:40]!r} is not") from None
    return Day(
        date=found, zone=zone, begin=_midnight(found, zone), end=_midnight(found + timedelta(days=1), zone)
    )  # fmt: skip


def zone_of(name: str) -> ZoneInfo | None:
    """A time zone by its name, such as Europe/Berlin; None for "" and for one that this machine does not know."""
    if not name or len(name) > 60:
        return None
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # ZoneInfoNotFoundError is a KeyError; a folder's name an OSError
        return None


def _midnight(day: Date, zone: ZoneInfo | None) -> float:
    """The first moment of a day; where the clock skips midnight, the moment after the gap."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()
