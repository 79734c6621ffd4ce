"""What goes wrong between a reviewer and the database: no decision may be lost, doubled, or called saved too early."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from board_samples import running
from review_browser import Seat, chromium, history
from review_samples import sample_desk, sample_site

from regraft.board.review.desk import Desk
from regraft.board.site import Site

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from chromium()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return sample_desk(tmp_path_factory.mktemp("desk"), 48, size=(48, 64))


@pytest.fixture
def site(tmp_path: Path, desk: Desk) -> Site:
    return sample_site(tmp_path, desk)


@pytest.fixture
def seat(browser: Any, site: Site) -> Iterator[Seat]:
    with running(site, parts=("review",)) as address:
        made = Seat(browser, address)
        yield made
        made.context.close()  # what it complained about is what these tests are about


def ids(site: Site) -> list[str]:
    return [event.event_id for event in history(site)]


def test_a_cut_network_loses_and_doubles_nothing(seat: Seat, site: Site) -> None:
    seat.open()
    seen = [seat.shown]
    seat.press("Space")
    seat.saved()
    seat.context.set_offline(True)
    seat.page.wait_for_selector('#connection[data-state="offline"]')
    for key in ("Enter", "x", "a", "Space"):
        seen.append(seat.shown)
        seat.press(key)
    assert seat.kept() == 4
    assert "4 waiting" in seat.page.inner_text("#connection")
    told = seat.page.locator("#trail li .status").all_inner_texts()
    assert told == ["Waiting"] * 4 + ["Saved"]
    assert len(history(site)) == 1
    seat.context.set_offline(False)
    seat.saved()
    assert seat.kept() == 0
    assert [one.item for one in history(site)] == seen
    assert len(set(ids(site))) == 5
    assert seat.page.locator("#trail li .status").all_inner_texts() == ["Saved"] * 5


def test_an_answer_that_is_lost_is_asked_for_again(seat: Seat, site: Site) -> None:
    seat.open()
    lost = []

    def committed_but_not_heard(route: Any) -> None:
        if len(lost) < 3:
            lost.append(route.fetch().status)
            route.abort()
        else:
            route.continue_()

    seat.page.route("**/api/review/decisions", committed_but_not_heard)
    seat.press("Space", "x")
    seat.saved()
    assert lost == [200] * 3
    assert [one.action for one in history(site)] == ["keep", "exclude"]
    assert seat.kept() == 0


def test_nothing_is_called_saved_before_it_is(seat: Seat, site: Site) -> None:
    seat.open()
    held: list[Any] = []
    seat.page.route("**/api/review/decisions", lambda route: held.append(route))
    seat.press("Space")
    seat.page.wait_for_function("() => document.querySelector('#trail .status')?.textContent === 'Waiting'")
    assert "1 waiting" in seat.page.inner_text("#connection")
    assert history(site) == []
    for _ in range(100):
        if held:
            break
        seat.page.wait_for_timeout(50)
    held[0].continue_()
    seat.saved()
    assert seat.page.inner_text("#trail .status") == "Saved"
    assert len(history(site)) == 1


def test_what_waits_is_sent_after_a_reload_and_leaving_is_warned_of(seat: Seat, site: Site) -> None:
    seat.open()
    seat.page.route("**/api/review/decisions", lambda route: route.abort())
    seen = [seat.shown]
    seat.press("Space")
    seen.append(seat.shown)
    seat.press("x")
    following = seat.shown
    asked = []
    seat.page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.accept()))
    seat.page.reload()
    assert asked == ["beforeunload"]
    seat.settled()
    assert seat.shown == following  # what was decided is not shown as open
    assert seat.kept() == 2
    seat.page.unroute("**/api/review/decisions")
    seat.saved()
    assert [(one.item, one.action) for one in history(site)] == [(seen[0], "keep"), (seen[1], "exclude")]
    seat.page.reload()
    seat.settled()
    assert asked == ["beforeunload"]


def test_undo_of_what_still_waits_goes_out_behind_it(seat: Seat, site: Site) -> None:
    seat.open()
    seat.page.route("**/api/review/decisions", lambda route: route.abort())
    first = seat.shown
    seat.press("x")
    seat.page.on("dialog", lambda dialog: dialog.accept())
    seat.page.reload()
    seat.settled()
    seat.press("u")
    assert seat.shown == first
    seat.page.unroute("**/api/review/decisions")
    seat.saved()
    events = history(site)
    assert [one.action for one in events] == ["exclude", "undo"]
    assert events[1].supersedes == events[0].event_id


def test_a_decision_that_is_refused_is_shown_and_stops_nothing(seat: Seat, site: Site) -> None:
    seat.open()
    spoilt = []

    def spoil(route: Any) -> None:
        body = route.request.post_data_json
        for event in body["events"]:
            if not spoilt or event["event_id"] in spoilt:
                spoilt.append(event["event_id"])
                event["item"] = "0" * 64
        route.continue_(post_data=body)

    seat.page.route("**/api/review/decisions", spoil)
    seat.press("Space", "x")
    seat.saved()
    seat.page.wait_for_selector("#refused:not([hidden])")
    assert "no image" in seat.page.inner_text("#refused-list")
    assert [one.action for one in history(site)] == ["exclude"]
    seat.page.click("#refused-dismiss")
    assert not seat.page.is_visible("#refused")


def test_two_tabs_send_what_waits_once(seat: Seat, site: Site) -> None:
    seat.open()
    other = seat.context.new_page()
    other.goto(seat.base + "/review")
    other.wait_for_selector('#review[data-state="showing"]')
    seat.context.set_offline(True)
    for page, keys in ((seat.page, "xx"), (other, "aa")):
        for key in keys:
            before = page.evaluate("document.getElementById('stage').dataset.shown")
            page.keyboard.press(key)
            page.wait_for_function(
                "b => ![undefined, b].includes(document.getElementById('stage').dataset.shown)", arg=before
            )
    assert seat.kept() == 4
    seat.context.set_offline(False)
    seat.saved()
    other.wait_for_selector('#connection[data-state="saved"]')
    assert seat.kept() == 0
    assert sorted(one.action for one in history(site)) == ["ambiguous", "ambiguous", "exclude", "exclude"]
    assert len(set(ids(site))) == 4


def test_another_name_does_not_take_over_what_waits(seat: Seat, site: Site) -> None:
    seat.open()
    seat.page.route("**/api/review/decisions", lambda route: route.abort())
    seat.press("x")
    mine = seat.page.get_attribute("#review", "data-reviewer")
    seat.page.on("dialog", lambda dialog: dialog.accept())
    seat.page.goto(seat.base + "/who")
    seat.page.fill("#name", "Ada")
    seat.page.press("#name", "Enter")
    seat.page.wait_for_url(lambda url: "/who" not in url)
    seat.page.unroute("**/api/review/decisions")
    seat.open()
    assert mine in seat.page.inner_text("#telling")
    seat.press("Space")
    seat.saved()
    assert [(one.reviewer, one.action) for one in history(site)] == [("Ada", "keep")]
    assert seat.kept() == 1
