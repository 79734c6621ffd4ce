"""The shell around the parts: static files, pages, filters, the way in, and what a browser makes of it."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from board_samples import TOKEN, client_of, running, site_at

from regraft.board import assets, pages
from regraft.board.server import address
from regraft.types import Interval

STATIC = assets.FOLDER
TEMPLATES = pages.TEMPLATES


# --- static files


def test_vendored_files_are_what_they_say():
    lines = (STATIC / "vendor" / "HASHES").read_text().splitlines()
    written = {name: digest for digest, name, _, _ in (line.split() for line in lines if not line.startswith("#"))}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (STATIC / "vendor").iterdir()}
    found.pop("HASHES")
    assert found == written
    versions = {name: version for _, name, version, _ in (line.split() for line in lines if not line.startswith("#"))}
    assert f'version:"{versions["htmx.min.js"]}"' in (STATIC / "vendor" / "htmx.min.js").read_text()
    assert f"v{versions['uPlot.iife.min.js']}" in (STATIC / "vendor" / "uPlot.iife.min.js").read_text()[:200]


def test_static_files_are_kept_for_good_by_a_name_that_changes_with_them(tmp_path):
    client = client_of(site_at(tmp_path))
    page = client.get("/who").text
    links = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
    assert {link.rpartition("/")[2] for link in links} >= {"board.css", "board.js", "htmx.min.js", "icon.png"}
    for link in links:
        answer = client.get(link)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == assets.FOREVER
        assert answer.headers["content-type"].partition(";")[0] in ("text/css", "text/javascript", "image/png")
        assert answer.content == (STATIC / link.split("/", 3)[3]).read_bytes()
    old = client.get("/static/0123456789abcdef/board.css")
    assert old.status_code == 200
    assert old.headers["cache-control"] == "no-store"


def test_static_files_travel_small(tmp_path):
    client = client_of(site_at(tmp_path))
    link = assets.static("vendor/htmx.min.js")
    plain = client.get(link, headers={"accept-encoding": "identity"})
    packed = client.get(link, headers={"accept-encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert int(packed.headers["content-length"]) < 0.5 * len(plain.content)
    assert len(gzip.compress(plain.content)) < 0.5 * len(plain.content)
    assert packed.content == plain.content


@pytest.mark.parametrize(
    "name",
    ["../app.py", "..%2fapp.py", "%2e%2e/app.py", "vendor/../../app.py", "/etc/passwd", "vendor/HASHES", "vendor/",
     "vendor/htmx.LICENSE", "", "board.css/", "board.css%00.js"],
)  # fmt: skip
def test_nothing_else_is_static(tmp_path, name):
    assert client_of(site_at(tmp_path)).get(f"/static/{assets.digest()}/{name}").status_code == 404


def test_a_name_that_is_no_file_is_found_out_at_once():
    with pytest.raises(KeyError):
        assets.static("board.cs")


# --- templates


@pytest.mark.parametrize("path", sorted(TEMPLATES.rglob("*.jinja")), ids=lambda path: path.name)
def test_templates_hold_nothing_that_the_policy_forbids(path):
    text = re.sub(r"\{#.*?#\}", "", path.read_text("utf-8"), flags=re.DOTALL)
    assert not re.findall(r"<style|\sstyle\s*=", text)
    assert not re.findall(r"\son[a-z]+\s*=|\shx-on|javascript:|\bjs:", text)
    for tag in re.findall(r"<script[^>]*>", text):
        assert "src=" in tag
    assert not re.findall(r"https?://", re.sub(r'"http://www.w3.org/[^"]*"', "", text))
    assert "| safe" not in text
    assert "|safe" not in text
    assert "autoescape" not in text


@pytest.mark.parametrize(
    "path", sorted(path for path in STATIC.rglob("*.[cj]s*") if "vendor" not in path.parts), ids=lambda path: path.name
)
def test_scripts_and_styles_load_nothing_from_elsewhere(path):
    text = re.sub(r"http://www\.w3\.org/\S+", "", path.read_text("utf-8"))
    assert not re.findall(r"https?://|@import|\beval\(|new Function|document\.write", text)


def test_a_template_that_names_nothing_fails():
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError):
        pages.environment().from_string("{{ nowhere }}").render()


def test_filters():
    whole = Interval(estimate=0.934, low=0.92, high=0.946)
    better = {"estimate": 0.012, "low": 0.004, "high": 0.028}
    assert pages.share(whole) == "93.4\u00a0%"
    assert pages.share(None) == "–"
    assert pages.share_range(whole) == "92.0–94.6\u00a0%"
    assert (pages.points(better), pages.points(-0.004), pages.points(0.0001)) == ("+1.2", "\u22120.4", "0.0")
    assert pages.points_range({"estimate": 0, "low": -0.004, "high": 0.028}) == "\u22120.4 to +2.8 points"
    assert [pages.direction({"estimate": 0, "low": a, "high": b}) for a, b in ((0.1, 0.2), (-0.2, -0.1), (-1, 1))] == [
        "better", "worse", "",
    ]  # fmt: skip
    assert pages.places(whole, 0.9, 1.0) == {"estimate": 34.0, "low": 20.0, "width": 26.0}
    assert pages.places({"estimate": 5, "low": -5, "high": 9}) == {"estimate": 100.0, "low": 0.0, "width": 100.0}
    assert (pages.seconds(None), pages.seconds(200.0)) == ("–", "3\u00a0min 20\u00a0s")
    assert [pages.ago(1e6, 1e6 + past) for past in (-9, 5, 300, 7300, 90_000, 500_000)] == [
        "just now", "just now", "5\u00a0min ago", "2\u00a0h ago", "yesterday", "5\u00a0days ago",
    ]  # fmt: skip
    assert pages.ago(0.0, 1e9) == "1970-01-01"
    assert pages.shown("a\x00b\u202ec" + "x" * 99, 20).startswith("a\ufffdb\ufffdcx")
    assert len(pages.shown("x" * 99, 20)) == 20


# --- the application


def test_starting_needs_no_framework(tmp_path):
    site_at(tmp_path)
    program = """
import sys
from pathlib import Path
from regraft.board.app import create_app
from regraft.board.site import Site
from regraft.store.db import open_database
import regraft.board.server
folder = Path(sys.argv[1])
create_app(Site(runs_dir=folder / "runs", cache_dir=folder, database=open_database(runs_dir=folder / "runs")))
print(*{name.partition(".")[0] for name in sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"fastapi", "regraft"} <= loaded
    assert not loaded & {
        "torch",
        "timm",
        "torchvision",
        "sklearn",
        "scipy",
        "matplotlib",
        "openvino",
        "pandas",
        "mlflow",
    }


def test_health_needs_no_token(tmp_path):
    import os

    import regraft

    client = client_of(site_at(tmp_path, token=TOKEN), signed_in=False)
    assert client.get("/healthz").json() == {"regraft": regraft.__version__, "pid": os.getpid()}


def test_the_way_home(tmp_path):
    assert client_of(site_at(tmp_path)).get("/").headers["location"] == "/runs"


def test_the_bar_shows_what_there_is(tmp_path):
    client = client_of(site_at(tmp_path, desk=None, tensorboard="http://127.0.0.1:6006/"))
    page = client.get("/who").text
    assert 'href="http://127.0.0.1:6006/" target="_blank" rel="noopener noreferrer"' in page
    assert 'href="/review"' not in page
    assert "TensorBoard" not in client_of(site_at(tmp_path)).get("/who").text


def test_errors_are_pages_for_people_and_words_for_scripts(tmp_path):
    client = client_of(site_at(tmp_path))
    page = client.get("/nowhere", headers={"accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    assert "No page has this address." in page.text
    for headers in ({}, {"accept": "text/html", "hx-request": "true"}):
        assert client.get("/nowhere", headers=headers).json() == {"error": "No page has this address."}
    assert client.get("/api/nowhere", headers={"accept": "text/html"}).json()["error"]


def test_it_can_all_be_done_without_a_script(tmp_path):
    client = client_of(site_at(tmp_path, token=TOKEN, host="192.0.2.7"), signed_in=False)
    client.headers["accept"] = "text/html"
    page = client.get("/who?next=/healthz")
    assert page.status_code == 401
    form = dict(re.findall(r'name="(\w+)"[^>]*?value="([^"]*)"', page.text))
    inside = client.post("/login", data={**form, "token": TOKEN, "name": "Ada"})
    assert inside.headers["location"] == "/who?next=/healthz"
    page = client.get(inside.headers["location"])
    assert "Ada" in page.text
    form = dict(re.findall(r'name="(\w+)"[^>]*?value="([^"]*)"', page.text))
    changed = client.post("/who", data={**form, "name": "Grace"})
    assert (changed.status_code, changed.headers["location"]) == (303, "/healthz")
    assert "Grace" in client.get("/who").text
    refused = client.post("/who", data={**form, "name": "\u202e"})
    assert refused.status_code == 400
    assert "characters that can be seen" in refused.text


# --- in a browser

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium was found on the PATH")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


class Noted(http.server.BaseHTTPRequestHandler):
    """Stands for another program on this machine, and remembers what it was told."""

    referrers: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.referrers.append(self.headers.get("referer"))
        body = b"<title>there</title><link rel=icon href=data:,>"
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def neighbour() -> Iterator[str]:
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Noted)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_address[1]}/"
    served.shutdown()
    served.server_close()


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory, neighbour: str) -> Iterator[str]:
    site = site_at(tmp_path_factory.mktemp("board"), token=TOKEN, tensorboard=neighbour)
    with running(site) as where:
        yield where


def opened(browser: Any, url: str, **options: Any) -> Any:
    """A page of a fresh visitor that remembers complaints and requests."""
    page = browser.new_context(**options).new_page()
    page.complaints, page.requests = [], []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.requests.append(request))
    page.goto(url)
    return page


def complaints(page: Any) -> list[str]:
    """What the console shows, but for the 401 of the page that asks for the token."""
    return [text for text in page.complaints if "status of 401" not in text]


@pytest.mark.browser
def test_the_printed_address_lets_a_person_in_and_forgets_the_token(browser, board):
    page = opened(browser, f"{board}/who#token={TOKEN}")
    page.wait_for_selector("input[name=name]:not([type=hidden]) >> visible=true")
    page.wait_for_function("!document.getElementById('login')")
    assert page.url == f"{board}/who"
    assert TOKEN not in page.evaluate(
        "JSON.stringify([history.state, document.referrer, document.cookie, document.body.outerHTML])"
    )
    for request in page.requests:
        assert TOKEN not in request.url.partition("#")[0]
        assert TOKEN not in str(request.headers)
    page.go_back()
    assert TOKEN not in page.url
    assert complaints(page) == []
    page.context.close()


@pytest.mark.browser
def test_a_wrong_token_is_said(browser, board):
    page = opened(browser, f"{board}/who#token=no")
    page.wait_for_selector("#login-problem:visible")
    assert "not this board" in page.inner_text("#login-problem")
    assert "token" not in page.url
    page.context.close()


@pytest.mark.browser
def test_a_link_from_elsewhere_finds_its_visitor_inside(browser, board, neighbour):
    page = opened(browser, f"{board}/who#token={TOKEN}")
    page.wait_for_function("!document.getElementById('login')")
    page.goto(neighbour.replace("127.0.0.1", "localhost"))  # another site
    link = "where => { const a = document.createElement('a'); a.href = where; document.body.append(a); a.click() }"
    with page.expect_response(f"{board}/who") as first:
        page.evaluate(link, f"{board}/who")
    assert first.value.status == 401  # the cookie stays at home at first
    page.wait_for_selector("form[action='/who']")
    page.context.close()


@pytest.mark.browser
def test_nothing_of_the_board_is_told_to_a_neighbour(browser, board):
    page = opened(browser, f"{board}/who#token={TOKEN}")
    page.wait_for_function("!document.getElementById('login')")
    Noted.referrers.clear()
    with page.context.expect_page() as coming:
        page.get_by_role("link", name="TensorBoard").click()
    coming.value.wait_for_load_state()
    assert coming.value.title() == "there"
    assert coming.value.evaluate("window.opener") is None
    assert Noted.referrers == [None]
    page.context.close()


@pytest.mark.browser
def test_the_policy_holds_and_the_page_does_without_what_it_forbids(browser, board):
    page = opened(browser, f"{board}/who#token={TOKEN}")
    page.wait_for_function("!document.getElementById('login')")
    assert page.evaluate("getComputedStyle(document.querySelector('.bar')).position") == "sticky"
    assert page.evaluate("htmx.config.allowEval") is False
    assert page.evaluate("htmx.config.includeIndicatorStyles") is False
    assert page.evaluate("htmx.config.selfRequestsOnly") is True
    page.evaluate("regraft.connection('waiting', 3)")
    assert page.inner_text("#connection") == "3 waiting"
    assert complaints(page) == []
    planted = (
        """text => { const box = document.createElement('div'); box.innerHTML = text; document.body.append(box); }"""
    )
    page.evaluate("window.hit = 0")
    page.evaluate(planted, "<img src=/none onerror='window.hit=1'><p style='color:red' onclick='window.hit=1'>x</p>")
    script = "how => document.body.append(Object.assign(document.createElement('script'), how))"
    page.evaluate(script, {"textContent": "window.hit = 2"})
    page.evaluate(script, {"src": "data:text/javascript,window.hit=3"})
    page.wait_for_timeout(100)
    assert page.evaluate("window.hit") == 0
    assert page.evaluate("fetch('http://127.0.0.1:1/').then(() => 'sent', () => 'stopped')") == "stopped"
    assert sum("Content Security Policy" in text for text in page.complaints) >= 4
    page.context.close()


@pytest.mark.browser
def test_another_page_can_neither_frame_the_board_nor_read_it(browser, board, neighbour):
    page = opened(browser, f"{board}/who#token={TOKEN}")
    page.wait_for_function("!document.getElementById('login')")
    page.goto(neighbour)
    read = "where => fetch(where, {credentials: 'include'}).then(() => 'read', () => 'stopped')"
    assert page.evaluate(read, f"{board}/api/session") == "stopped"
    post = """where => fetch(where, {method: 'POST', mode: 'no-cors', credentials: 'include',
              headers: {'Content-Type': 'text/plain'}, body: 'name=Eve'}).then(() => 'read', () => 'stopped')"""
    assert page.evaluate(post, f"{board}/who") == "stopped"
    with page.expect_response(f"{board}/who") as framed:
        page.evaluate("where => { const f = document.createElement('iframe'); f.src = where; document.body.append(f) }",
                      f"{board}/who")  # fmt: skip
    assert framed.value.status == 403
    page.goto(f"{board}/who")
    assert "Eve" not in page.content()
    page.context.close()


@pytest.mark.browser
def test_it_reads_without_scripts_on_a_phone_in_the_dark(browser, board):
    page = opened(browser, f"{board}/who", java_script_enabled=False, color_scheme="dark",
                  viewport={"width": 390, "height": 800})  # fmt: skip
    page.fill("#token", TOKEN)
    page.fill("#name", "Ada Lovelace")
    page.click("text=Open the board")
    assert page.input_value("#name") == "Ada Lovelace"
    assert page.locator("nav a").count() >= 1
    assert complaints(page) == []
    page.context.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_serious_barrier_to_anyone(browser, board, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}, "bypass_csp": True}
    page = opened(browser, f"{board}/who", **options)
    for _ in range(2):
        violations = axe.Axe().run(page).response["violations"]
        assert [(v["id"], v["nodes"][0]["html"]) for v in violations if v["impact"] in ("serious", "critical")] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate("token => { location.hash = 'token=' + token }", TOKEN)
        page.wait_for_function("!document.getElementById('login')")
    page.context.close()


def test_an_address_names_a_machine_that_others_reach(tmp_path):
    site = site_at(tmp_path, token=TOKEN, host="0.0.0.0", port=1234)
    assert re.fullmatch(rf"http://[^0/][^/]*:1234/#token={TOKEN}", address(site))
    assert address(site_at(tmp_path)) == "http://127.0.0.1:8765/"
    assert address(site_at(tmp_path, host="::1")) == "http://[::1]:8765/"


def test_every_template_is_one_of_a_page(tmp_path: Path):
    for path in TEMPLATES.rglob("*.jinja"):
        pages.environment().get_template(path.relative_to(TEMPLATES).as_posix())
