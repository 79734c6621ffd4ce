"""Results as a browser shows them: quiet, on a phone too, live while a run trains, deaf to what names say."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from board_samples import running, site_at

from regraft.board.runs import leaderboard
from regraft.board.site import Site
from run_samples import HOSTILE, HOSTILE_FOLDER, predicted, write_run

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = site_at(tmp_path, num_images=0)
    yield dataclasses.replace(made, desk=None)
    made.database.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium was found on the PATH")
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def address(site: Site) -> Iterator[str]:
    write_run(site.runs_dir, name="1", macro_f1=0.8, predictions=predicted(200, seed=1))
    write_run(site.runs_dir, name="2", macro_f1=0.79, predictions=predicted(200, seed=2))
    write_run(site.runs_dir, name="3", finished=False)
    write_run(site.runs_dir, "100%41", HOSTILE_FOLDER, result={"strategy": HOSTILE})
    with running(site) as address:
        yield address


def opened(browser: Any, address: str, *, width: int = 1280, scheme: str = "light") -> Any:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text) if message.type != "info" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("dialog", lambda dialog: (page.complaints.append(dialog.message), dialog.dismiss()))
    page.goto(address)
    return page


@pytest.mark.parametrize("width", [390, 1280])
def test_every_page_is_quiet_and_fits(browser, address, width):
    hostile = leaderboard.run_address("100%41", HOSTILE_FOLDER)
    for path in ("/runs", "/runs/photos/1", "/runs/compare?run=photos/1&run=photos/2", hostile):
        page = opened(browser, address + path, width=width)
        assert "There is nothing" not in page.title(), path
        page.wait_for_timeout(400)
        assert page.complaints == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_barrier_to_anyone(browser, address, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    for path in ("/runs", "/runs/photos/1", "/runs/compare?run=photos/1&run=photos/2")[: 2 + (scheme == "light")]:
        page = opened(browser, address + path, scheme=scheme)
        page.wait_for_selector("#curves figure, .leaderboard")
        violations = axe.Axe().run(page).response["violations"]
        grave = [(v["id"], v["nodes"][0]["html"]) for v in violations if v["impact"] in ("serious", "critical")]
        assert grave == [], path
        page.close()


def test_star_search_and_compare(browser, address):
    page = opened(browser, address + "/runs?project=photos")
    page.locator(".star").first.click()
    page.locator('.star[aria-pressed="true"]').wait_for()
    page.reload()
    assert page.locator('.star[aria-pressed="true"]').count() == 1
    page.locator(".pick input[value='photos/1']").check()
    page.locator(".pick input[value='photos/3']").check()
    page.locator(".pick input[value='photos/2']").check()  # a third one lets the first go
    assert page.locator(".pick :checked").count() == 2
    page.locator(".pick input[value='photos/3']").uncheck()
    page.locator(".pick input[value='photos/1']").check()
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("cannot be told apart").wait_for()
    page.goto(address + "/runs")
    page.locator("#q").fill("photos 2")
    sync_api.expect(page.locator(".run-link")).to_have_count(1)
    assert "q=photos" in page.url
    assert page.complaints == []
    page.close()


def test_curves_grow_while_the_run_trains(browser, site, address):
    page = opened(browser, address + "/runs/photos/3")
    page.wait_for_selector('#curves[data-rows="8"] figure canvas')
    with (site.runs_dir / "photos" / "3" / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 80, "train/loss": 0.01}\n')
    page.wait_for_selector('#curves[data-rows="9"]', timeout=10_000)
    assert "0.01" in page.locator("figcaption").first.inner_text()
    result = (site.runs_dir / "photos" / "1" / "result.json").read_text()
    (site.runs_dir / "photos" / "3" / "result.json").write_text(result)
    page.get_by_role("heading", name="Results").wait_for(timeout=10_000)
    page.close()


def test_a_note_is_written_without_leaving_the_page(browser, address):
    page = opened(browser, address + "/runs/photos/1")
    page.locator("#new-note").fill(HOSTILE)
    page.get_by_role("button", name="Write").click()
    page.locator(".note-text").wait_for()
    assert page.locator(".note-text").inner_text() == HOSTILE
    page.locator("#new-tag").fill("ship it")
    page.locator("#new-tag").press("Enter")
    page.locator(".tags-list .chip").wait_for()
    assert page.complaints == []
    page.close()
