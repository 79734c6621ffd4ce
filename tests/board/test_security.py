"""Each attack on the board, and that it fails."""

from __future__ import annotations

import base64
import logging
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from board_samples import HOSTILE_NAMES, TOKEN, client_of, site_at
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from regraft.board import security
from regraft.board.app import create_app
from regraft.board.entrance import local
from regraft.board.keys import Keys, open_keys
from regraft.board.pages import environment
from regraft.board.security import HEADERS, OPEN, POLICY, STRANGERS_PAGE_POLICY, allowed_names, host_name
from regraft.board.site import Site
from regraft.board.visitors import checked_name
from regraft.errors import UsageError

PAGE = {"accept": "text/html"}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return site_at(tmp_path / "site")


@pytest.fixture
def client(site: Site) -> TestClient:
    return client_of(site)


@pytest.fixture
def guarded(tmp_path: Path) -> Site:
    return site_at(tmp_path / "guarded", token=TOKEN, host="192.0.2.7")


def with_probe(site: Site) -> tuple[TestClient, FastAPI]:
    """A board with a route that takes a body, one that fails, and one that says who asks."""
    client = client_of(site)
    app: FastAPI = client.app  # type: ignore[assignment]

    @app.post("/api/probe")
    async def probe(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @app.post("/api/fields")
    def fields(sent: dict[str, str]) -> dict[str, int]:
        return {"bytes": sum(len(value.encode()) for value in sent.values())}

    @app.get("/fail")
    def fail() -> None:
        raise RuntimeError("the inside of the board")

    @app.get("/api/me")
    def me(request: Request) -> dict[str, str]:
        return {"reviewer": security.reviewer_of(request)}

    return client, app


def api_routes(routes: Any) -> Iterator[APIRoute]:
    """All routes, also those of included routers."""
    for route in routes:
        inner = getattr(getattr(route, "original_router", None), "routes", None) or getattr(route, "routes", None)
        if isinstance(route, APIRoute):
            yield route
        elif inner:
            yield from api_routes(inner)


def addresses(app: FastAPI) -> list[tuple[str, str]]:
    """(method, path) of every route, parameters filled in."""
    found = []
    for route in api_routes(app.routes):
        path = re.sub(r"\{(\w+)(:\w+)?\}", "1", route.path)
        found += [(method, path) for method in sorted(route.methods or ())]
    assert ("POST", "/who") in found
    assert ("GET", "/pictures/1/thumb") in found
    return found


# --- Host


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"), ("LocalHost:8765", "localhost"), ("127.0.0.1:1", "127.0.0.1"), ("[::1]:80", "::1"),
        ("[::1]", "::1"), ("evil.example:80", "evil.example"), ("localhost:evil", ""), ("localhost@evil", ""),
        ("localhost/evil", ""), ("localhost#", ""), ("[evil]", ""), ("", ""), (":80", ""), ("a b", ""), ("::1", ""),
        ("localhost:٨٠", ""),
    ],
)  # fmt: skip
def test_the_name_in_a_host_header(header, name):
    assert host_name(header) == name


@pytest.mark.parametrize("host", ["localhost:8765", "127.0.0.1:8765", "127.0.0.1", "[::1]:9000", "LOCALHOST:1"])
def test_this_machine_is_called_by_its_own_names(client, host):
    assert client.get("/who", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8765", "127.0.0.1.evil.example", "localhost.evil.example", "evil.localhost:8765",
        "10.0.0.1:8765", "localhost@evil.example", "localhost:8765, evil.example", "", "2130706433", "0x7f000001",
    ],
)  # fmt: skip
def test_a_foreign_name_pointed_at_the_board_gets_nothing(client, host):
    for path in ("/healthz", "/who", "/api/session"):
        assert client.get(path, headers={"host": host}).status_code == 421


def test_two_host_headers_are_none(site):
    client = client_of(site)
    answer = client.get("/healthz", headers=[("host", "127.0.0.1:8765"), ("host", "evil.example")])
    assert answer.status_code == 421


def test_a_board_of_a_team_is_called_by_address_or_by_a_name_it_was_told(guarded, monkeypatch):
    monkeypatch.setenv("REGRAFT_ALLOWED_HOSTS", "board.lab.example, other.example")
    client = client_of(guarded, signed_in=False)
    for host, status in (
        ("192.0.2.7:8765", 200), ("10.1.2.3", 200), ("board.lab.example", 200), ("localhost:1", 200),
        ("evil.example", 421),
    ):  # fmt: skip
        assert client.get("/healthz", headers={"host": host}).status_code == status
    assert "" not in allowed_names("192.0.2.7", {"REGRAFT_ALLOWED_HOSTS": " ,"})


# --- the token


def test_other_machines_need_a_token(tmp_path):
    for host in ("0.0.0.0", "::", "192.0.2.7", "board.example"):
        with pytest.raises(UsageError, match="needs a token"):
            create_app(site_at(tmp_path / "a", host=host), parts=())
    with pytest.raises(UsageError, match="at least 16"):
        create_app(site_at(tmp_path / "b", token="hunter2"), parts=())


def test_without_the_token_nothing_but_the_door_is_open(guarded):
    client = client_of(guarded, signed_in=False)
    for method, path in addresses(client.app):
        if path in ("/healthz", "/login", "/api/session") or path.startswith("/static/"):
            continue
        answer = client.request(method, path)
        assert answer.status_code == 401, (method, path)
        assert TOKEN not in answer.text
    assert {one for one in OPEN if "login" not in one} == {"/healthz", "/static/", "/api/session"}
    assert client.get("/api/session").json() == {"inside": False, "csrf": "", "reviewer": ""}


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", f"Bearer {TOKEN.upper()}",
     TOKEN],
)  # fmt: skip
def test_a_token_that_is_nearly_right_is_wrong(guarded, header):
    client = client_of(guarded, signed_in=False)
    assert client.get("/who", headers={"authorization": header}).status_code == 401


def test_a_script_shows_the_token_in_a_header(guarded):
    client, _ = with_probe(guarded)
    client.cookies.clear()
    del client.headers["x-regraft-csrf"]
    proof = {"authorization": f"Bearer {TOKEN}"}
    assert client.post("/api/probe", content=b"123", headers=proof).json() == {"bytes": 3}
    named = client.get("/api/me", headers={**proof, "x-regraft-reviewer": "J%C3%BCrgen"})
    assert named.json() == {"reviewer": "Jürgen"}
    assert client.get("/api/me", headers=proof).json() == {"reviewer": "token"}


def test_a_token_in_an_address_opens_nothing(guarded):
    client = client_of(guarded, signed_in=False)
    assert client.get(f"/who?token={TOKEN}").status_code == 401
    assert client.post(f"/login?token={TOKEN}").status_code == 401


def test_the_door_gives_a_cookie_that_scripts_and_other_sites_cannot_use(guarded):
    client = client_of(guarded, signed_in=False)
    assert client.post("/login", json={"token": TOKEN + "x"}).status_code == 401
    assert not client.cookies
    answer = client.post("/login", data={"token": TOKEN, "name": "Ada", "next": "/who"}, headers=PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/who")
    cookies = answer.headers.get_list("set-cookie")
    assert len(cookies) == 2
    for cookie in cookies:
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Path=/" in cookie
        assert "Domain" not in cookie
        assert TOKEN not in cookie
        assert base64.b64encode(TOKEN.encode()).decode()[:12] not in cookie
    assert client.get("/who").status_code == 200
    secure = client.post("/login", json={"token": TOKEN}, headers={"origin": "https://192.0.2.7:8765"})
    assert "Secure" in secure.headers["set-cookie"]


def test_leaving_takes_the_cookie(guarded):
    client = client_of(guarded)
    assert client.post("/logout").status_code == 303
    assert client.get("/who").status_code == 401


def forged(client: TestClient, value: str) -> int:
    fresh = TestClient(client.app, base_url=str(client.base_url))
    cookie = b"regraft_session_8765=" + value.encode("utf-8")
    return fresh.get("/who", headers=[(b"cookie", cookie)]).status_code


def test_a_session_cannot_be_made_up_altered_or_outlive_its_time(guarded, tmp_path, monkeypatch):
    client = client_of(guarded)
    good = client.cookies["regraft_session_8765"]
    body, _, code = good.partition(".")
    assert forged(client, good) == 200
    text = base64.urlsafe_b64decode(body + "==").decode()
    longer = base64.urlsafe_b64encode((text + "0").encode()).decode().rstrip("=")
    keys = open_keys(tmp_path / "elsewhere", TOKEN)
    bad = ["", ".", body, f"{body}.", f".{code}", f"{body}.{code[:-1]}", f"{longer}.{code}", keys.seal("session", text),
           good.replace(".", ".."), "\u00e9", f"{body}=.{code}x"]  # fmt: skip
    for value in bad:
        assert forged(client, value) == 401, value
    assert forged(client, client.cookies["regraft_reviewer_8765"]) == 401
    later = time.time() + 31 * 86_400
    monkeypatch.setattr("regraft.board.visitors.time.time", lambda: later)
    assert forged(client, good) == 401


def test_sessions_outlive_a_restart_but_not_another_token(guarded):
    from dataclasses import replace

    good = client_of(guarded).cookies["regraft_session_8765"]
    assert forged(client_of(guarded), good) == 200
    assert forged(client_of(replace(guarded, token=TOKEN + "-new")), good) == 401


def test_the_secret_is_for_its_owner_alone(tmp_path):
    first = open_keys(tmp_path, None)
    path = tmp_path / "board.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert open_keys(tmp_path, None) == first != open_keys(tmp_path, TOKEN)
    path.chmod(0o644)
    assert open_keys(tmp_path, None) != first  # others could have read it
    path.chmod(0o600)
    path.write_bytes(b"short")
    assert open_keys(tmp_path, None).secret != Keys(b"short").secret
    path.unlink()
    path.symlink_to(tmp_path / "planted")
    (tmp_path / "planted").write_bytes(bytes(32))
    assert open_keys(tmp_path, None) != open_keys(tmp_path, None)


def test_the_token_is_in_no_log_page_or_referrer(guarded, caplog):
    caplog.set_level(logging.DEBUG)
    client, _ = with_probe(guarded)
    client.headers["authorization"] = f"Bearer {TOKEN}"
    answers = [
        client.get(path, headers=PAGE) for path in ("/who", "/fail", "/nowhere", "/login", f"/who?token={TOKEN}")
    ]
    answers += [client.post("/login", data={"token": word}, headers=PAGE) for word in (TOKEN, TOKEN + "x")]
    session = client.cookies["regraft_session_8765"]
    for answer in answers:
        assert TOKEN not in answer.text
        assert TOKEN not in str({**answer.headers, "set-cookie": ""})
        assert answer.headers["referrer-policy"] == "same-origin"
    for record in caplog.records:
        if not record.name.startswith(("httpx", "httpcore")):  # the client of this test, not the board
            assert TOKEN not in record.getMessage() + str(record.exc_text)
            assert session not in record.getMessage() + str(record.exc_text)
    assert any(record.name == "regraft.board" for record in caplog.records)


# --- changes from elsewhere


def test_every_change_needs_the_proof(site):
    client = client_of(site)
    del client.headers["x-regraft-csrf"]
    changes = [(m, p) for m, p in addresses(client.app) if m not in ("GET", "HEAD") and p != "/login"]
    assert changes
    for method, path in changes:
        for headers in ({}, {"x-regraft-csrf": "x"}, {"x-regraft-csrf": ""}):
            assert client.request(method, path, headers=headers).status_code == 403, (method, path)


def test_the_proof_of_one_session_is_none_for_another(guarded):
    one, other = client_of(guarded), client_of(guarded)
    proof = one.headers["x-regraft-csrf"]
    assert proof != other.headers["x-regraft-csrf"]
    assert other.post("/who", json={"name": "Eve"}, headers={"x-regraft-csrf": proof}).status_code == 403
    assert one.post("/who", json={"name": "Eve"}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "https://127.0.0.1:8765.evil.example", "null", "http://127.0.0.1:9999", "http://127.0.0.1",
     "file://", "http://localhost:8765", "127.0.0.1:8765", "", "http://evil@127.0.0.1:8765", "chrome-extension://abc"],
)  # fmt: skip
def test_a_change_from_another_origin_is_refused(client, origin):
    assert client.post("/who", json={"name": "Eve"}, headers={"origin": origin}).status_code == 403


def test_a_change_from_the_own_pages_is_taken(client):
    for headers in (
        {"origin": "http://127.0.0.1:8765"}, {"origin": "http://127.0.0.1:8765", "sec-fetch-site": "same-origin"},
        {"origin": "https://board.example", "host": "localhost"},
    ):  # fmt: skip
        expected = 403 if "board" in headers["origin"] else 200
        assert client.post("/who", json={"name": "Ada"}, headers=headers).status_code == expected
    assert client.post(
        "/who", json={"name": "Ada"}, headers={"host": "localhost", "origin": "https://localhost"}
    ).is_success


@pytest.mark.parametrize("where", ["cross-site", "same-site", "anything"])
def test_other_sites_can_link_here_but_embed_and_read_nothing(site, client, where):
    follow = {"sec-fetch-site": where, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    frame = {**follow, "sec-fetch-dest": "iframe"}
    load = {"sec-fetch-site": where, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    picture = f"/pictures/{next(iter(site.desk.images))}/thumb"
    assert client.get("/who", headers=follow).status_code == 200
    assert client.get("/who", headers=frame).status_code == 403
    assert client.get(picture, headers=load).status_code == 403
    assert client.get("/api/session", headers=follow).status_code == 403
    assert client.post("/who", json={"name": "Eve"}, headers=follow).status_code == 403


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "CONNECT", "PROPFIND"])
def test_other_methods_do_nothing(client, method):
    answer = client.request(method, "/who", headers={"origin": "http://evil.example"})
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers


def test_there_are_no_web_sockets(client):
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/who"):
        pass


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("/runs/3?x=1", "/runs/3?x=1"), ("//evil.example", "/"), ("https://evil.example", "/"), ("/\\a.example", "/"),
        ("javascript:alert(1)", "/"), ("", "/"), ("/\t/evil.example", "/"), ("/a\r\nset-cookie: x=1", "/"),
        ("/logout", "/"), ("/" + "x" * 3000, "/"),
    ],
)  # fmt: skip
def test_nobody_is_sent_elsewhere(guarded, address, where):
    assert local(address) == where
    client = client_of(guarded, signed_in=False)
    answer = client.post("/login", data={"token": TOKEN, "name": "Ada", "next": address}, headers=PAGE)
    assert answer.headers["location"] == where


# --- too much


def test_a_request_brings_a_bounded_amount(site, monkeypatch):
    monkeypatch.setattr(security, "MAX_BODY", 1000)
    monkeypatch.setattr(security, "BODY_LIMITS", {"/api/sync": 5000})
    client, _ = with_probe(site)
    assert client.post("/api/probe", content=bytes(1000)).json() == {"bytes": 1000}
    for content in (bytes(1001), (bytes(100) for _ in range(11))):
        answer = client.post("/api/probe", content=content)
        assert answer.status_code == 413
        assert answer.headers["connection"] == "close"
        assert "1,000 bytes" in answer.json()["error"]
    assert client.post("/api/sync", content=bytes(4000)).status_code != 413
    assert client.post("/api/sync", content=bytes(5001)).status_code == 413


def test_headers_and_addresses_are_bounded(client):
    assert client.get("/healthz", headers={f"x-{i}": "1" for i in range(101)}).status_code == 431
    assert client.get("/healthz", headers={"x": "1" * 33_000}).status_code == 431
    assert client.get("/healthz?" + "x" * 8200).status_code == 414


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b'{"a": 1e999999}', b"{", b"null", b'{"a": "\\ud800"}',
        b"1" * 5000,
    ],
)  # fmt: skip
def test_a_body_that_is_no_json_is_an_error_in_words(site, body):
    client, _ = with_probe(site)
    for path in ("/api/fields", "/who"):
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code in (200, 400), answer.text
        if path == "/who":
            assert answer.status_code == 400
    many = "&".join(f"a{i}=1" for i in range(1000))
    assert (
        client.post("/who", content=many, headers={"content-type": "application/x-www-form-urlencoded"}).status_code
        == 400
    )


# --- strangers' text


class Elements(HTMLParser):
    """What a browser would make elements and attributes of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def harmless(text: str) -> None:
    """Fails where a page holds an element or attribute that is not the templates' own."""
    for tag, attributes in Elements(text).seen:
        assert tag not in ("svg", "img", "iframe", "object") or "onload" not in attributes
        assert tag != "script" or (attributes.get("src") or "").startswith("/static/")
        assert tag != "img" or (attributes.get("src") or "").startswith(("/static/", "/pictures/"))
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert not (attributes.get("href") or "").startswith("javascript:")


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_strangers_text_stays_text(guarded, name):
    client = client_of(guarded)
    client.headers.update(PAGE)
    answers = [
        client.get("/" + quote(name)),
        client.get("/who", params={"next": name}),
        client.get("/who", params={name: name}),
    ]
    answers += [client.post("/who", json={"name": name * 9})]
    client.post("/who", json={"name": name}, headers={"accept": "application/json"})
    answers += [client.get("/who"), client.get("/login", params={"next": name})]
    client.cookies.clear()
    answers += [
        client.get("/runs/" + quote(name)),
        client.post("/login", data={"token": name, "name": name, "next": name}),
    ]
    for answer in answers:
        assert answer.status_code < 500
        harmless(answer.text)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_macros_and_filters_escape(name):
    page = environment().from_string('{% from "macros.html.jinja" import name with context %}<p>{{ name(x) }}')
    text = page.render(x=name)
    harmless(text)
    assert {tag for tag, _ in Elements(text).seen} <= {"p", "bdi"}
    assert "\u202e" not in text  # it would turn the rest of the line around


def test_names_of_people():
    assert checked_name("  Zoë\tvan  Dé ") == "Zoë van Dé"
    assert checked_name("e\u0301") == "é"
    for good in ("김", "ندى", "نمی\u200cدانم", "O'Brien-Łuk", "x" * 80):
        assert checked_name(good) == good
    for bad in ("", "  ", "x" * 81, "a\u202eb", "a\x00b", "\ud800", "...", "\u200d", "a\u2066b"):
        with pytest.raises(UsageError):
            checked_name(bad)


def test_one_is_who_one_said_and_nobody_else(client, monkeypatch):
    assert client.post("/who", json={"name": "Zoë"}).json() == {"reviewer": "Zoë"}
    assert client.get("/api/session").json()["reviewer"] == "Zoë"
    client.cookies.set("regraft_reviewer_8765", base64.urlsafe_b64encode(b"Eve").decode() + ".x", domain="127.0.0.1")
    assert client.get("/api/session").json()["reviewer"] != "Eve"


def test_off_loopback_a_name_must_be_said(guarded):
    client, _ = with_probe(guarded)
    del client.cookies["regraft_reviewer_8765"]
    assert client.get("/fail?a=b", headers=PAGE).headers["location"] == "/who?next=/fail%3Fa%3Db"
    assert client.get("/api/me").status_code == 403
    assert client.post("/api/probe").status_code == 403
    assert client.post("/who", json={"name": "Ada"}).status_code == 200
    assert client.get("/api/me").json() == {"reviewer": "Ada"}


SQL = (
    "'; DROP TABLE events; --", "' OR '1'='1", '" OR 1=1 --', "1; DELETE FROM events", "%", "_", "\\",
    "1 UNION SELECT 1", "\x00", "٣", "-1", "99999999999999999999", "1e400", "NaN",
)  # fmt: skip


def test_words_of_sql_are_words(site):
    client = client_of(site)
    engine = site.database.engine
    before = sorted(sa.inspect(engine).get_table_names())
    for route in api_routes(client.app.routes):
        if route.path == "/logout":
            continue
        names = [field.name for field in (*route.dependant.query_params, *route.dependant.path_params)]
        for word in SQL:
            path = re.sub(
                r"\{(\w+)(:\w+)?\}", lambda _, word=word: word.replace("/", "").replace("\x00", "%00"), route.path
            )
            for method in route.methods or ():
                answer = client.request(method, path.replace("%", "%25"), params=dict.fromkeys(names, word), json={})
                assert answer.status_code < 500, (method, path, answer.text)
    assert sorted(sa.inspect(engine).get_table_names()) == before


# --- what browsers are told


def test_every_answer_tells_browsers_what_they_may_do(guarded, monkeypatch):
    client, _ = with_probe(guarded)
    outside = client_of(guarded, signed_in=False)
    answers = [
        client.get("/who"), client.get("/"), client.get("/nowhere", headers=PAGE), client.get("/fail"),
        client.get("/fail", headers=PAGE), client.get("/healthz"), client.post("/who", json={"name": ""}),
        outside.get("/who", headers=PAGE), outside.get("/who"), client.get("/who", headers={"host": "evil.example"}),
        client.post("/api/probe", content=bytes(2_000_001)), client.get("/pictures/0/thumb"),
        client.get("/static/0/board.css"), client.get("/static/0/none"),
    ]  # fmt: skip
    assert {answer.status_code for answer in answers} >= {200, 303, 400, 401, 404, 413, 421, 500}
    for answer in answers:
        for name in HEADERS:
            assert name in answer.headers, (name, answer.request.url)
        assert "server" not in answer.headers
        assert "x-powered-by" not in answer.headers
        assert "inside of the board" not in answer.text
        assert "Traceback" not in answer.text


def test_the_policy_leaves_no_hole():
    for hole in ("unsafe", "*", "data:", "blob:", "http:", "https:"):
        assert hole not in POLICY
    assert POLICY.startswith("default-src 'none'")
    assert "allow-same-origin" not in STRANGERS_PAGE_POLICY
    assert "default-src 'none'" in STRANGERS_PAGE_POLICY


def test_off_loopback_browsers_are_not_told_what_they_would_complain_about(guarded):
    here, there = client_of(guarded).get("/who"), client_of(guarded).get("/who", headers={"host": "localhost:8765"})
    assert "cross-origin-opener-policy" not in here.headers
    assert there.headers["cross-origin-opener-policy"] == "same-origin"


def test_no_description_of_the_interface_is_served(client):
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert client.get(path).status_code == 404
