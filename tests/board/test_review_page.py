"""The review's pages, driven by keyboard, mouse and touch in Chromium."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from board_samples import running
from review_browser import PHONE, WIDE, Seat, chromium, history
from review_samples import CLASSES, event, sample_desk, sample_site

from regraft.board.review import refit
from regraft.board.review.desk import Desk
from regraft.board.site import Site
from regraft.store.decisions import Ledger
from regraft.types import Decision

pytestmark = pytest.mark.browser
VIEWS = ("/review", "/review/grid", "/review/pairs", "/review/conflicts")


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
def base(site: Site) -> Iterator[str]:
    with running(site, parts=("review",)) as address:
        yield address


@pytest.fixture
def seat(browser: Any, base: str) -> Iterator[Seat]:
    made = Seat(browser, base)
    yield made
    made.leave()


def decided(site: Site, hash: str, action: str, *, reviewer: str, **values: Any) -> None:
    """Somebody elsewhere decided."""
    assert site.desk is not None
    row = site.desk.row_of(hash)
    assert row is not None
    sent = event(hash, action, **values)
    Ledger(site.database, site.desk.project).append(
        [Decision(**sent, time=1.0, project=site.desk.project, reviewer=reviewer, path=site.desk.path(row))]
    )


def order(site: Site) -> list[str]:
    assert site.desk is not None
    return [site.desk.hash_of(row) for row in site.desk.order.tolist()]


def test_fifty_images_by_keyboard_alone(browser: Any, tmp_path: Path) -> None:
    site = sample_site(tmp_path, sample_desk(tmp_path, 240, size=(48, 64)))
    assert site.desk is not None
    keys = ["Space", "Enter", "1", "x", "a", "s", "2", "Space", "Enter", "Space"]
    with running(site, parts=("review",)) as base:
        seat = Seat(browser, base).open()
        seen = []
        for i in range(50):
            seen.append(seat.shown)
            seat.press(keys[i % len(keys)])
        seat.saved()
        seat.leave()
    events = history(site)
    assert seen == order(site)[:50]
    assert [one.item for one in events] == seen
    wanted = {"Space": "keep", "x": "exclude", "a": "ambiguous", "s": "skip"}
    for i, one in enumerate(events):
        key, row = keys[i % len(keys)], site.desk.row_of(one.item)
        assert row is not None
        label = {"Enter": site.desk.guesses[row], "1": site.desk.top_labels[row, 0], "2": site.desk.top_labels[row, 1]}
        if key in wanted:
            assert (one.action, one.label) == (wanted[key], "")
        elif label[key] == site.desk.given[row]:  # the class it has already
            assert (one.action, one.label) == ("keep", "")
        else:
            assert (one.action, one.label) == ("relabel", site.desk.names[label[key]])


def test_undo_after_a_reload_takes_back_the_last_and_shows_it(seat: Seat, site: Site) -> None:
    seat.open()
    first = seat.shown
    seat.press("Space")
    second = seat.shown
    seat.press("x")
    seat.saved()
    seat.page.reload()
    seat.settled()
    assert seat.shown not in (first, second)
    seat.press("u")
    assert seat.shown == second
    seat.saved()
    seat.press("u")
    assert seat.shown == first
    seat.saved()
    events = history(site)
    assert [one.action for one in events] == ["keep", "exclude", "undo", "undo"]
    assert [one.supersedes for one in events[2:]] == [events[1].event_id, events[0].event_id]
    seat.page.keyboard.press("u")
    seat.says("Nothing to undo", "#announcements")
    assert len(history(site)) == 4


def test_two_reviewers_share_a_queue(browser: Any, base: str, site: Site) -> None:
    ada, omar = Seat(browser, base, name="Ada"), Seat(browser, base, name="عمر")
    ada.open()
    omar.open()
    assert ada.shown == omar.shown
    ada.press("Space", "Space", "Space")  # Omar is on the first still; the next two leave his list
    omar.page.wait_for_function("() => document.getElementById('reviewed').textContent === '3'")
    omar.press("x")
    assert omar.shown == order(site)[3]
    for _ in range(3):
        ada.press("Space")
        omar.press("x")
    ada.saved()
    omar.saved()
    events = history(site)
    assert sorted((one.reviewer, one.action) for one in events) == [("Ada", "keep")] * 6 + [("عمر", "exclude")] * 4
    assert len({(one.reviewer, one.item) for one in events}) == 10
    ada.page.click("#standing-open")
    ada.says("عمر", "#reviewers bdi")
    ada.leave()
    omar.leave()


def test_reviewers_who_disagree_meet_in_the_conflicts(seat: Seat, site: Site) -> None:
    asked = order(site)[0]
    decided(site, asked, "keep", reviewer="Ada")
    decided(site, asked, "exclude", reviewer="Omar", note="<b>torn</b>")
    seat.open("/review/conflicts")
    assert seat.shown == asked
    assert seat.page.locator(".others li").count() == 2
    assert "<b>torn</b>" in seat.page.inner_text(".others")
    seat.says("1", "#num-conflicts")
    seat.press("x")
    seat.saved()
    last = history(site)[-1]
    assert (last.issue, last.action) == ("conflict", "exclude")
    seat.page.reload()
    seat.page.wait_for_selector('#review[data-state="end"]')


def test_any_class_by_typing_a_part_of_its_name(seat: Seat, site: Site) -> None:
    seat.open()
    given = seat.page.inner_text(".labels .given bdi")
    for typed, wanted in (("strassen", CLASSES[0]), ("고ㅇ", CLASSES[2]), ("wolf", CLASSES[1]), ("صغ", CLASSES[3])):
        seat.page.keyboard.press("/")
        field = seat.page.locator("#class-search-input")
        field.wait_for()
        field.fill(typed)
        if typed == "strassen":  # ß is a letter of its own, not ss
            assert seat.page.locator("#class-search-list li").count() == 0
            field.fill("straß")
        assert seat.page.locator('#class-search-list [aria-selected="true"]').inner_text() == wanted
        assert field.get_attribute("aria-activedescendant") == "class-option-0"
        assert seat.page.get_by_role("combobox", name="Which class is it?").count() == 1
        seat.page.keyboard.press("Escape")
        field.wait_for(state="hidden")
    wanted = next(name for name in CLASSES if name != given)
    seat.page.keyboard.press("/")
    names = seat.page.locator("#class-search-list li").all_inner_texts()
    assert names == list(CLASSES)
    for _ in range(names.index(wanted)):
        seat.page.keyboard.press("ArrowDown")
    seat.press("Enter")
    seat.saved()
    assert [(one.action, one.label) for one in history(site)] == [("relabel", wanted)]


def test_a_note_goes_with_the_decision(seat: Seat, site: Site) -> None:
    seat.open()
    seat.page.keyboard.press("n")
    seat.page.keyboard.type("zwei Motive, x und <i>")
    seat.page.get_by_role("button", name="Keep the note").click()
    seat.press("a", "a")
    seat.saved()
    assert [one.note for one in history(site)] == ["zwei Motive, x und <i>", ""]


def test_looking_back_and_deciding_again(seat: Seat, site: Site) -> None:
    seat.open()
    first = seat.shown
    seat.press("Space", "ArrowLeft")
    assert seat.shown == first
    assert "kept" in seat.page.inner_text(".mark.decided")
    seat.press("x")
    seat.saved()
    assert [one.action for one in history(site)] == ["keep", "exclude"]
    assert {one.item for one in history(site)} == {first}


def test_letters_of_any_keyboard_and_a_key_held_down(seat: Seat, site: Site) -> None:
    seat.open()
    before = seat.shown
    down = "(o) => document.body.dispatchEvent(new KeyboardEvent('keydown', {bubbles: true, cancelable: true, ...o}))"
    seat.page.evaluate(down, {"key": "ㅌ", "code": "KeyX", "repeat": True})
    seat.page.evaluate(down, {"key": "x", "code": "KeyX", "ctrlKey": True})
    seat.page.evaluate(down, {"key": "ㅌ", "code": "KeyX"})  # x on a Korean keyboard
    seat.moved(before)
    before = seat.shown
    seat.page.evaluate(down, {"key": "&", "code": "Digit1"})  # 1 on a French one
    seat.moved(before)
    seat.saved()
    assert len(history(site)) == 2
    assert history(site)[0].action == "exclude"


def test_single_letters_can_be_turned_off(seat: Seat, site: Site) -> None:
    seat.open()
    seat.page.keyboard.press("?")
    seat.page.get_by_label("Single letters and digits are shortcuts").uncheck()
    seat.page.keyboard.press("Escape")
    before = seat.shown
    seat.page.keyboard.press("x")
    seat.page.keyboard.press("1")
    seat.press("Space")
    seat.saved()
    assert [(one.item, one.action) for one in history(site)] == [(before, "keep")]


def test_a_field_that_left_the_page_with_its_dialog_takes_no_key(seat: Seat, site: Site) -> None:
    """As between the end of a dialog and the next frame: the focus is where it was, in a label that nobody sees."""
    seat.open()
    before = seat.shown
    seat.page.evaluate(
        """() => {
            const box = document.querySelector('#help label input[type=checkbox]');
            const key = { key: ' ', code: 'Space', bubbles: true, cancelable: true };
            box.dispatchEvent(new KeyboardEvent('keydown', key));
        }"""
    )
    seat.moved(before)
    seat.saved()
    assert [(one.item, one.action) for one in history(site)] == [(before, "keep")]


def test_mouse_alone(seat: Seat, site: Site) -> None:
    seat.open()
    first = seat.shown
    seat.page.get_by_role("button", name=re.compile("^X? ?Exclude")).click()
    seat.moved(first)
    second = seat.shown
    seat.press("Space")  # the button that was clicked does not catch it
    third = seat.shown
    seat.page.locator(".choice").first.click()
    seat.moved(third)
    seat.saved()
    assert [(one.item, one.action) for one in history(site)[:2]] == [(first, "exclude"), (second, "keep")]
    assert len(history(site)) == 3


def test_blind_mode_hides_what_others_and_the_audit_think(seat: Seat, site: Site) -> None:
    seat.open()
    assert seat.page.locator(".probabilities .share").count() > 0
    seat.page.get_by_role("button", name="Blind").click()
    seat.page.wait_for_selector(".labels .suggested :text('hidden')")
    assert seat.page.locator(".probabilities .share").count() == 0
    assert seat.page.locator('[data-do="accept"]').is_disabled()
    seat.page.keyboard.press("Enter")
    assert seat.page.locator(".choice").all_inner_texts() != []
    wanted = next(i for i, name in enumerate(CLASSES) if name != seat.page.inner_text(".labels .given bdi"))
    seat.press(str(wanted + 1))  # of few classes, the digits are all of them
    seat.saved()
    assert [(one.action, one.label) for one in history(site)] == [("relabel", CLASSES[wanted])]
    seat.page.goto(seat.base + "/review/grid")
    seat.page.wait_for_selector("#grid-words:text('You look blind')")
    assert seat.page.locator(".pick").count() == 0
    assert seat.page.locator("#pair option").count() == 0


def test_filters_are_in_the_address(seat: Seat, site: Site) -> None:
    assert site.desk is not None
    seat.open()
    seat.page.get_by_text("Filters").click()
    seat.page.select_option("[name=class]", CLASSES[3])
    seat.page.wait_for_function(f"() => document.querySelector('.labels .given bdi')?.textContent === '{CLASSES[3]}'")
    seat.settled()
    assert "class=" in seat.page.url
    seat.page.reload()
    seat.settled()
    assert seat.page.inner_text(".labels .given bdi") == CLASSES[3]
    assert seat.page.inner_text("#filters-active") == "1"


def test_a_grid_decides_at_once_and_undo_takes_the_whole_batch_back(seat: Seat, site: Site) -> None:
    seat.page.goto(seat.base + "/review/grid")
    seat.page.wait_for_selector(".pick")
    num = seat.page.locator(".pick").count()
    seat.page.locator(".pick").first.focus()
    seat.page.keyboard.press("a")
    assert seat.page.locator('.pick[aria-selected="true"]').count() == num
    seat.page.keyboard.press("Space")  # all but the first
    assert seat.page.locator('.pick[aria-selected="true"]').count() == num - 1
    seat.page.keyboard.press("Space")
    seat.page.keyboard.press("Enter")
    seat.saved()
    events = history(site)
    assert len(events) == num
    assert {one.action for one in events} == {"relabel"}
    assert len({one.batch for one in events}) == 1
    assert bool(events[0].batch) == (num > 1)
    seat.page.reload()
    seat.page.wait_for_selector("#grid-words:has-text('Nothing of this pair'), .pick")
    seat.page.keyboard.press("u")
    seat.page.wait_for_function("() => document.getElementById('announcements').textContent.startsWith('Took back')")
    seat.saved()
    assert site.desk is not None
    assert Ledger(site.database, site.desk.project).verdicts() == {}


def test_duplicates_side_by_side(seat: Seat, site: Site) -> None:
    assert site.desk is not None
    pairs = [(site.desk.hash_of(a), site.desk.hash_of(b)) for a, b in site.desk.pairs.tolist()]
    seat.open("/review/pairs")
    for key in ("1", "2", "d"):
        before = seat.page.inner_text("#about-first")
        seat.page.keyboard.press(key)
        seat.page.wait_for_function("t => document.getElementById('about-first').innerText !== t", arg=before)
        seat.settled()
    seat.saved()
    assert [(one.action, one.item, one.other) for one in history(site)] == [
        ("duplicate", *pairs[0]), ("duplicate", *reversed(pairs[1])), ("distinct", *pairs[2]),
    ]  # fmt: skip
    seat.page.keyboard.press("b")
    seat.page.wait_for_selector("#stage.blink.second")
    seat.page.wait_for_selector("#stage.blink:not(.second)")
    seat.page.keyboard.press("u")
    seat.settled()
    seat.saved()
    assert history(site)[-1].supersedes == history(site)[2].event_id
    assert seat.page.locator("#stage.blink").count() == 0


def test_nothing_moves_by_itself_for_who_asked_for_that(browser: Any, base: str) -> None:
    seat = Seat(browser, base, reduced_motion="reduce").open("/review/pairs")
    seat.page.keyboard.press("b")
    seat.page.wait_for_selector("#stage.blink:not(.second)")
    seat.page.wait_for_timeout(700)
    assert seat.page.locator("#stage.blink.second").count() == 0
    seat.page.keyboard.press("b")
    seat.page.wait_for_selector("#stage.blink.second")
    seat.leave()


def test_refit_shows_the_score_before_and_after(seat: Seat, monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    seat.open()
    seat.press("x")
    seat.saved()
    seat.page.click("#standing-open")
    seat.page.click("#refit-start")
    seat.page.wait_for_selector("#refit[data-state='done'], #refit[data-state='failed']")
    seat.says("+2.0 points −1.0 to +5.0", "#refit-table")
    seat.says("86.0 80.0–91.0", "#refit-table")
    seat.says("unresolved so far", "#refit-words")


@pytest.fixture(autouse=True)
def quick_refit(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: Any) -> dict[str, Any]:
        score = {"level": 0.95}
        return {
            "before": {"estimate": 0.84, "low": 0.78, "high": 0.89, **score},
            "after": {"estimate": 0.86, "low": 0.8, "high": 0.91, **score},
            "difference": {"estimate": 0.02, "low": -0.01, "high": 0.05, **score},
            "test": None, "num_applied": 1, "words": ["unresolved so far"],
        }  # fmt: skip

    monkeypatch.setattr(refit, "scores", work)


def test_a_quiet_word_after_fifty_minutes(browser: Any, base: str) -> None:
    seat = Seat(browser, base)
    seat.page.clock.install()
    seat.open()
    for minute in range(0, 56, 4):
        seat.page.clock.fast_forward(240_000)
        seat.page.keyboard.press("Shift")
        assert seat.page.is_visible("#break") == (minute + 4 >= 50), minute
    seat.page.click("#break-never")
    assert not seat.page.is_visible("#break")
    seat.page.keyboard.press("?")
    assert not seat.page.is_checked("#setting-breaks")
    seat.leave()


def disagreed(site: Site) -> Site:
    """The same site, with something in each of its views."""
    decided(site, order(site)[0], "keep", reviewer="Ada")
    decided(site, order(site)[0], "exclude", reviewer="Omar")
    return site


def test_no_view_scrolls_sideways(seat: Seat, site: Site) -> None:
    disagreed(site)
    for view in VIEWS:
        seat.page.goto(seat.base + view)
        seat.page.wait_for_selector(".evidence .labels, .pick, #about-first p")
        for width in (320, 390, 768, 1024):
            seat.page.set_viewport_size({"width": width, "height": 800})
            assert seat.page.evaluate("document.documentElement.scrollWidth") <= width, (view, width)


def test_a_phone_with_a_thumb(browser: Any, base: str, site: Site) -> None:
    seat = Seat(browser, base, viewport=PHONE, has_touch=True, is_mobile=True).open()
    first = seat.shown
    for target in seat.page.locator(".act").all():
        box = target.bounding_box()
        assert box["height"] >= 44
        assert box["width"] >= 44
        assert box["y"] + box["height"] <= PHONE["height"]  # at hand without scrolling
    seat.page.locator('[data-do="keep"]').tap()
    seat.moved(first)
    seat.saved()
    assert [(one.item, one.action) for one in history(site)] == [(first, "keep")]
    seat.leave()


def test_names_of_any_script_stand_apart_and_are_never_markup(seat: Seat, site: Site) -> None:
    seat.open("/review?state=all")
    found = set()
    for _ in range(12):
        names = seat.page.locator(".labels bdi, .choice bdi, .thumbs bdi, .act bdi")
        found |= set(names.all_inner_texts())
        seat.press("ArrowRight")
    assert set(CLASSES) <= found
    assert seat.page.locator("#evidence b, #evidence script, .foot-bar b").count() == 0
    bare = seat.page.evaluate(
        """names => {
            const walker = document.createTreeWalker(document.querySelector('#evidence'), NodeFilter.SHOW_TEXT);
            const found = [];
            while (walker.nextNode()) {
                const node = walker.currentNode;
                if (names.includes(node.data.trim()) && !node.parentElement.closest('bdi')) found.push(node.data);
            }
            return found;
        }""",
        list(CLASSES),
    )
    assert bare == []


def test_test_images_are_marked(seat: Seat, site: Site) -> None:
    seat.open("/review?state=all&split=test")
    assert seat.page.is_visible(".test-band")
    assert "Test image" in seat.page.inner_text(".marks")
    seat.open("/review?state=all&split=train")
    assert not seat.page.is_visible(".test-band")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_barrier_to_anyone(browser: Any, base: str, site: Site, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    disagreed(site)
    seat = Seat(browser, base, viewport=WIDE, color_scheme=scheme, bypass_csp=True, reduced_motion="reduce")
    for view in VIEWS:
        seat.page.goto(base + view)
        seat.page.wait_for_selector(".evidence .labels, .pick, #about-first p")
        for opened in ("", *(("#standing-open", '[data-do="help"]') if view == "/review" else ())):
            if opened:
                seat.page.click(opened)
            violations = axe.Axe().run(seat.page).response["violations"]
            grave = [(v["id"], v["nodes"][0]["html"]) for v in violations if v["impact"] in ("serious", "critical")]
            assert grave == [], (view, opened)
            if opened:
                seat.page.keyboard.press("Escape")
    seat.leave()


def test_each_new_image_is_spoken(seat: Seat) -> None:
    seat.open()
    seat.press("Space")
    seat.page.wait_for_function(
        "() => /^kept as .*Image 2, .* left/.test(document.getElementById('announcements').textContent)"
    )
    assert seat.page.get_attribute("#announcements", "aria-live") == "polite"
