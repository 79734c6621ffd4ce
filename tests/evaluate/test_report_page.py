"""The report as a browser shows it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_samples import HOSTILE, contents, trained

from regraft.evaluate.report import write_report

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
SAMPLES: dict[str, dict[str, Any]] = {
    "usual": {},
    "hostile": {"names": HOSTILE},
    "many": {"names": tuple(f"a long class name that goes on, number {i}" for i in range(200)), "num_images": 4000},
    "trained": {"training": trained()},
    "empty": {"num_images": 0, "num_findings": 0, "path": (), "choice": "", "config": {}, "env": {}},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium was found on the PATH")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    for name, changes in SAMPLES.items():
        write_report(folder / f"{name}.html", contents(**changes))
    return folder


def opened(browser: Any, path: Path, *, width: int = 1280, scheme: str = "light", **options: Any) -> Any:
    """A page that remembers what it complained about and what it asked for."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
    page.complaints, page.requests = [], []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("dialog", lambda dialog: (page.complaints.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(path.as_uri())
    return page


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("width", [390, 1280])
def test_it_opens_quietly_asks_for_nothing_and_fits(browser: Any, folder: Path, name: str, width: int) -> None:
    page = opened(browser, folder / f"{name}.html", width=width)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def column(page: Any, number: int) -> list[str]:
    found: list[str] = page.locator(f"table.sortable tbody tr > :nth-child({number})").all_inner_texts()
    return found


def test_a_heading_sorts_its_column_both_ways(browser: Any, folder: Path) -> None:
    page = opened(browser, folder / "usual.html")
    page.get_by_role("button", name="Class").click()
    assert column(page, 1) == ["ant", "bee", "cat", "dog"]
    page.get_by_role("button", name="Class").click()
    assert column(page, 1) == ["dog", "cat", "bee", "ant"]
    page.get_by_role("button", name="Images").click()
    counts = [int(text) for text in column(page, 6)]
    assert counts == sorted(counts)
    assert page.locator("th[aria-sort]").count() == 1
    page.close()


def test_it_reads_the_same_without_scripts(browser: Any, folder: Path) -> None:
    page = opened(browser, folder / "usual.html", java_script_enabled=False)
    assert page.locator("table.sortable tbody tr").count() == 4
    assert page.locator("table.sortable button").count() == 0
    page.close()


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("usual", "light"), ("usual", "dark"), ("hostile", "light"), ("trained", "light"), ("trained", "dark"),
        ("empty", "dark"),
    ],
)  # fmt: skip
def test_no_serious_barrier_to_anyone(browser: Any, folder: Path, name: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    page = opened(browser, folder / f"{name}.html", scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    violations = axe.Axe().run(page).response["violations"]
    grave = [(v["id"], v["nodes"][0]["html"]) for v in violations if v["impact"] in ("serious", "critical")]
    assert grave == []
    page.close()
