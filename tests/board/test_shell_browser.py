"""The shell in a real browser: the way in, the policy, neighbours, barriers."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from board_samples import TOKEN, running, site_at
from review_browser import chromium

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from chromium()


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


def test_a_wrong_token_is_said(browser, board):
    page = opened(browser, f"{board}/who#token=no")
    page.wait_for_selector("#login-problem:visible")
    assert "not this board" in page.inner_text("#login-problem")
    assert "token" not in page.url
    page.context.close()


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
