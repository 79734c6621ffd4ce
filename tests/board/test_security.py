"""Who gets in, whose changes are taken, and what browsers are told."""

from __future__ import annotations

import base64
import logging
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from board_samples import PAGE, TOKEN, api_routes, client_of, site_at, with_probe
from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from regraft.board.app import create_app
from regraft.board.entrance import local
from regraft.board.keys import Keys, open_keys
from regraft.board.security import HEADERS, OPEN, POLICY, STRANGERS_PAGE_POLICY, allowed_names, host_name
from regraft.board.site import Site
from regraft.errors import UsageError


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return site_at(tmp_path / "site")


@pytest.fixture
def client(site: Site) -> TestClient:
    return client_of(site)


@pytest.fixture
def guarded(tmp_path: Path) -> Site:
    return site_at(tmp_path / "guarded", token=TOKEN, host="192.0.2.7")


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


@pytest.mark.parametrize(
    "path",
    [
        "/healthz%3F/../who", "/static%2f..%2fwho", "/static/..%2f..%2fwho", "/login/../who", "/login%2f..%2fwho",
        "//who", "/login%23/who", "/healthz;/who", "/./who", "/who%3F/login", "/who#/login", "/WHO", "/who/",
        "/who%00/login",
    ],
)  # fmt: skip
def test_no_crooked_address_leads_round_the_door(guarded, path):
    client = client_of(guarded, signed_in=False)
    answer = client.get(path, headers=PAGE)
    assert answer.status_code in (401, 404), answer.text
    assert "Who are you?" not in answer.text
    host = client.get("/who", headers={**PAGE, "host": "192.0.2.7/healthz?"})
    assert host.status_code == 421


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
    assert client.post("/who", json={"name": "x 99999999999"}).is_success  # a name that reads like a session
    assert forged(client, client.cookies["regraft_reviewer_8765"]) == 401
    later = time.time() + 31 * 86_400
    monkeypatch.setattr("regraft.board.visitors.time.time", lambda: later)
    assert forged(client, good) == 401


def test_sessions_outlive_a_restart_but_not_another_token(guarded):
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
    (tmp_path / "planted").chmod(0o600)
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
