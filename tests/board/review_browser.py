"""The review as a person at a keyboard meets it: Chromium on a real server, for the tests of its pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from regraft.board.site import Site
from regraft.store.decisions import Ledger
from regraft.types import Decision

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
WIDE, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
LONGEST = 30_000
"""Milliseconds that the browser may take for one thing; a machine under load is slow, and no test is about speed."""


def chromium() -> Iterator[Any]:
    """A browser for a module's fixture."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium was found on the PATH")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


class Seat:
    """One reviewer in a browser of their own, who remembers what the page complained about."""

    def __init__(self, browser: Any, base: str, *, name: str = "", viewport: Any = None, **options: Any) -> None:
        self.base = base
        self.context = browser.new_context(viewport=viewport or WIDE, **options)
        self.context.set_default_timeout(LONGEST)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        if name:
            self.page.goto(f"{base}/who")
            self.page.fill("#name", name)
            self.page.press("#name", "Enter")
            self.page.wait_for_url(lambda url: "/who" not in url)

    def open(self, address: str = "/review") -> Seat:
        self.page.goto(self.base + address)
        self.settled()
        return self

    def settled(self) -> None:
        """Until the page shows an image, a pair or the end."""
        self.page.wait_for_selector('#review[data-state="showing"], #review[data-state="end"]')

    @property
    def shown(self) -> str:
        """Hash of the image on the screen, "" where there is none."""
        found: str = self.page.evaluate("document.getElementById('stage').dataset.shown ?? ''")
        return found

    def press(self, *keys: str) -> None:
        """Keys, each of which moves on to another image."""
        for key in keys:
            before = self.shown
            self.page.keyboard.press(key)
            self.moved(before)

    def moved(self, before: str) -> None:
        """Until another image than `before` is shown, or the end is reached."""
        self.page.wait_for_function(
            """before => {
                const now = document.getElementById('stage').dataset.shown;
                return (now && now !== before) || document.getElementById('review').dataset.state === 'end';
            }""",
            arg=before,
        )

    def says(self, text: str, selector: str = "#connection") -> None:
        """Until this text is there."""
        self.page.wait_for_selector(f"{selector}:has-text({text!r})")

    def saved(self) -> None:
        """Until nothing waits."""
        self.page.wait_for_selector('#connection[data-state="saved"]')

    def kept(self) -> int:
        """How many decisions the browser keeps that were not acknowledged."""
        found: int = self.page.evaluate("Object.keys(localStorage).filter(k => k.startsWith('regraft:outbox:')).length")
        return found

    def leave(self) -> None:
        """Close; a page that complained fails the test."""
        self.context.close()
        assert self.complaints == []


def history(site: Site) -> list[Decision]:
    """All decisions, oldest first; fails where the chain is broken."""
    assert site.desk is not None
    ledger = Ledger(site.database, site.desk.project)
    assert ledger.verify().ok
    return [event for _, event in ledger.events()]
