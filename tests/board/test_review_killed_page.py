"""A reviewer at the keyboard whose server is killed again and again: what was saved is kept, the rest arrives."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mortal_board import MOMENTS, mortal_board
from review_browser import Seat, chromium

from regraft.store.db import open_database
from regraft.store.decisions import Ledger

pytestmark = pytest.mark.browser

KEYS = ("Space", "Space", "x", "a", "s", "u")
FROM_OUTSIDE = 8
"""Deaths at any moment; the other twelve are in the middle of an append, four at each of `MOMENTS`."""
PATIENCE = 300
"""Milliseconds to wait for the next image, which may be longer in coming while no server is there."""

WITNESS = """
window.witness = {made: [], accepted: [], known: []};
const kept = Storage.prototype.setItem;
Storage.prototype.setItem = function (key, value) {
  if (key.startsWith("regraft:outbox:")) witness.made.push(JSON.parse(value).event);
  return kept.call(this, key, value);
};
const asked = window.fetch;
window.fetch = async (address, ...rest) => {
  const answer = await asked(address, ...rest);
  if (String(address).endsWith("/decisions") && answer.ok) answer.clone().json().then(({ accepted, known }) => {
    witness.accepted.push(...accepted);
    witness.known.push(...known);
  }, () => {});
  return answer;
};
"""
"""Writes down, in the page, what was decided, in order, and what the server said of it."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from chromium()


def decide(seat: Seat, key: str) -> None:
    """One key, where there is an image to decide about."""
    from playwright.sync_api import TimeoutError

    before = seat.shown
    if before:
        seat.page.keyboard.press(key)
    elif seat.page.is_visible(".failed [data-do=reload]"):
        seat.page.click(".failed [data-do=reload]")
    with contextlib.suppress(TimeoutError):
        seat.page.wait_for_function(
            "b => ![undefined, b].includes(document.getElementById('stage').dataset.shown)", arg=before,
            timeout=PATIENCE,
        )  # fmt: skip


def test_a_server_killed_twenty_times_loses_nothing_that_was_acknowledged(browser: Any, tmp_path: Path) -> None:
    rng = random.Random(20)
    deaths = [(moment, append) for moment in MOMENTS for append in (1, 2, 3, 4)] + [("", 0)] * FROM_OUTSIDE
    rng.shuffle(deaths)
    with mortal_board(tmp_path, 400) as board:
        board.start(*deaths[0])
        seat = Seat(browser, f"http://127.0.0.1:{board.port}")
        seat.context.add_init_script(WITNESS)
        seat.open()
        for number, (moment, append) in enumerate(deaths):
            if number:
                board.start(moment, append)
            if not moment:
                threading.Timer(rng.uniform(0.02, 0.6), board.kill).start()
            while not board.dead:
                decide(seat, rng.choice(KEYS))
            board.buried()
            for _ in range(rng.randrange(3)):
                decide(seat, rng.choice(KEYS))
        board.start()
        seat.settled()
        seat.press("x")
        seat.saved()
        witness = seat.page.evaluate("witness")
        assert seat.kept() == 0
        assert not seat.page.is_visible("#refused")
        seat.context.close()
    ledger = Ledger(open_database(runs_dir=tmp_path / "runs"), "photos")
    stored = [event.event_id for _, event in ledger.events()]
    verified = ledger.verify()
    ledger.database.close()
    made = [event["event_id"] for event in witness["made"]]
    assert stored == made  # each once, in the order of deciding, nothing left behind
    assert {*witness["accepted"], *witness["known"]} == {*made}
    assert witness["known"]  # answers were lost after the commit
    assert verified.ok
    assert verified.num_events == len(made)
