"""Days where the viewer is, over changes of the clock; stretches of looking against a slow count of seconds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regraft.board.journal.days import Day, day_of, zone_of
from regraft.board.journal.stretches import Stretch, clipped, stretches
from regraft.board.review.pace import IDLE_SECONDS, Pace
from regraft.errors import UsageError

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()


def hours(day: Day) -> float:
    return (day.end - day.begin) / 3600


@pytest.mark.parametrize(
    ("word", "zone", "expected"),
    [
        ("2026-03-28", "Europe/Berlin", 24), ("2026-03-29", "Europe/Berlin", 23), ("2026-10-25", "Europe/Berlin", 25),
        ("2026-03-29", "UTC", 24), ("2018-11-04", "America/Sao_Paulo", 23),  # midnight itself is skipped there
        ("2026-04-05", "Australia/Lord_Howe", 24.5),  # where the clock moves by half an hour
    ],
)  # fmt: skip
def test_a_day_has_as_many_hours_as_it_has_there(word, zone, expected):
    assert hours(day_of(word, now=NOON, zone=ZoneInfo(zone))) == expected


@given(
    st.dates(date(1990, 1, 1), date(2030, 1, 1)), st.sampled_from(["Europe/Berlin", "America/Sao_Paulo", "Asia/Beirut"])
)
def test_days_follow_one_another_without_gap(day, zone):
    first = day_of(day.isoformat(), now=NOON, zone=ZoneInfo(zone))
    second = day_of(first.shifted(1).isoformat(), now=NOON, zone=ZoneInfo(zone))
    assert first.end == second.begin
    assert first.begin in first
    assert first.end not in first
    for moment in (first.begin, first.end - 1):
        assert datetime.fromtimestamp(moment, ZoneInfo(zone)).date() == day


def test_today_is_where_the_viewer_is():
    late = datetime(2026, 11, 23, 23, 30, tzinfo=UTC).timestamp()
    assert day_of("today", now=late, zone=ZoneInfo("America/New_York")).date == date(2026, 11, 23)
    assert day_of("today", now=late, zone=BERLIN).date == date(2026, 11, 24)
    assert day_of("yesterday", now=late, zone=BERLIN).date == date(2026, 11, 23)
    assert day_of("", now=late, zone=BERLIN).title == "Tuesday, 24 November 2026"


def test_both_hours_from_two_to_three_when_the_clock_is_put_back():
    day = day_of("2026-10-25", now=NOON, zone=BERLIN)
    first = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=0).timestamp()
    second = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1).timestamp()
    assert second - first == 3600
    assert first in day
    assert second in day
    assert day.clock(first) == day.clock(second) == "02:30"
    (one,) = stretches([(first + 60 * i, 30.0) for i in range(61)])
    assert one.seconds == 3630  # an hour of work across the change is an hour


@pytest.mark.parametrize("word", ["tomorrow", "2026-02-30", "23.11.2026", "1900-01-01", "9999-12-31", "x" * 1000, "\0"])
def test_words_that_are_no_day(word):
    with pytest.raises(UsageError, match="a day is today"):
        day_of(word, now=NOON)


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "Europe", "\0", "x" * 100])
def test_names_that_are_no_zone(name):
    assert zone_of(name) is None
    assert zone_of("Europe/Berlin") == BERLIN


def reference(looks: Sequence[tuple[int, int]], idle: int) -> tuple[int, int]:
    """(stretches, seconds) counted second by second: a second belongs if it is looked in, or in a short silence."""
    laid: list[tuple[int, int]] = []
    for time, duration in sorted(looks, reverse=True):
        end = time if not laid else min(time, laid[-1][0] - laid[-1][1])
        laid.append((end, min(duration, idle)))
    laid.reverse()
    first = min((end - seconds for end, seconds in laid), default=0)
    busy = np.zeros(max((end for end, _ in laid), default=0) - first, bool)
    breaks = 0
    for number, (end, seconds) in enumerate(laid):
        silence = end - laid[number - 1][0] if number else idle + 1
        breaks += silence > idle
        busy[end - (seconds if silence > idle else silence) - first : end - first] = True
    return breaks, int(busy.sum())


LOOKS = st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 300)), max_size=30)


@given(LOOKS)
def test_stretches_as_counted_second_by_second(looks):
    found = stretches(looks)
    assert (len(found), sum(one.seconds for one in found)) == reference(looks, int(IDLE_SECONDS))
    assert sum(one.num_decisions for one in found) == len(looks)
    assert all(before.end <= after.begin for before, after in pairwise(found))


def test_idle_time_does_not_count():
    assert stretches([(100, 5), (220, 5)]) == [Stretch(95, 220, 2)]  # two minutes are no break
    assert stretches([(100, 5), (221, 5)]) == [Stretch(95, 100, 1), Stretch(216, 221, 1)]  # more are
    assert stretches([(1000, 5000)]) == [Stretch(1000 - IDLE_SECONDS, 1000, 1)]  # the page was left open
    assert stretches([]) == []


def test_decisions_made_offline_take_the_time_they_took():
    (one,) = stretches([(1000, 6.0)] * 100)
    assert one.seconds == 600


def test_the_pace_on_the_review_page_is_the_last_stretch():
    rng, now, pace, looks = np.random.default_rng(0), 1e6, Pace(), []
    for _ in range(200):
        duration = float(rng.exponential(8))
        now += duration + float(rng.choice([0.1, 60, 300], p=[0.9, 0.06, 0.04]))
        looks.append((now, duration))
        pace.looked(now, duration)
    found = stretches(looks)
    assert len(found) > 3
    assert pace.stretch(now) == pytest.approx(found[-1].seconds)


def test_a_stretch_over_midnight_belongs_to_both_days_in_part():
    over = [Stretch(90, 110, 3), Stretch(200, 210, 1)]
    assert clipped(over, 0, 100) == [Stretch(90, 100, 3)]
    assert clipped(over, 100, 300) == [Stretch(100, 110, 3), Stretch(200, 210, 1)]
    assert clipped(over, 110, 200) == []
