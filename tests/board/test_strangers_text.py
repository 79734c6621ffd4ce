"""What strangers may have written (class names, paths, notes, names of people, parameters) stays text."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from board_samples import (
    HOSTILE_NAMES,
    PAGE,
    TOKEN,
    Elements,
    api_routes,
    client_of,
    harmless,
    running,
    site_at,
    with_probe,
)
from review_browser import chromium
from review_samples import sample_desk, sample_site
from starlette.testclient import TestClient

from regraft.board.app import PARTS
from regraft.board.pages import environment
from regraft.board.site import Site
from regraft.board.visitors import checked_name
from regraft.errors import UsageError
from run_samples import HOSTILE, HOSTILE_FOLDER, write_run


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return site_at(tmp_path / "site")


@pytest.fixture
def client(site: Site) -> TestClient:
    return client_of(site)


@pytest.fixture
def guarded(tmp_path: Path) -> Site:
    return site_at(tmp_path / "guarded", token=TOKEN, host="192.0.2.7")


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


# --- the whole board, full of it


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A board whose classes, paths, groups, projects and runs have such names."""
    folder = tmp_path_factory.mktemp("hostile")
    site = sample_site(folder, sample_desk(folder, 40, classes=HOSTILE_NAMES))
    config: dict[str, Any] = {"options": {"backbone": HOSTILE, "strategy": HOSTILE}, "data": HOSTILE}
    for name in ("1", HOSTILE_FOLDER):
        write_run(site.runs_dir, HOSTILE_FOLDER, name, config=config, result={"backbone": HOSTILE, "strategy": HOSTILE})
    return site


@pytest.fixture(scope="module")
def full(hostile: Site) -> TestClient:
    return client_of(hostile, parts=PARTS)


def reads(client: TestClient, site: Site) -> list[str]:
    """Every address that can be read, with parameters that lead somewhere."""
    item = site.desk.hash_of(0) if site.desk is not None else ""
    values = {
        "item": item,
        "hash": item,
        "run_id": "1",
        "project": quote(HOSTILE_FOLDER),
        "name": quote(HOSTILE_FOLDER),
    }
    return [
        re.sub(r"\{(\w+)(:\w+)?\}", lambda hit: values.get(hit[1], "1"), route.path)
        for route in api_routes(client.app.routes)  # type: ignore[attr-defined]
        if "GET" in (route.methods or ())
    ]


def test_every_page_of_a_hostile_board_holds_only_its_own_elements(hostile, full):
    pages = 0
    for path in reads(full, hostile):
        answer = full.get(path, headers=PAGE)
        assert answer.status_code < 500, path
        if answer.headers.get("content-type", "").startswith("text/html"):
            pages += 1
            if answer.headers["content-security-policy"].startswith("default-src"):
                harmless(answer.text)
    assert pages >= 4


WORDS = (
    "'; DROP TABLE events; --", "' OR '1'='1", '" OR 1=1 --', "%_\\", "1 UNION SELECT 1", "\x00", "\ud800", "٣", "-1",
    "99999999999999999999", "1e400", "NaN", "../../../etc/passwd", "<script>alert(1)</script>", "a>b>c", "{}", "[", "",
)  # fmt: skip
"""What databases, parsers and number formats stumble over."""

COMMON = ("q", "sort", "project", "person", "tag", "star", "run", "class", "note", "day", "state", "page", "after")


def tables(site: Site) -> dict[str, int]:
    with site.database.engine.connect() as connection:
        names = sorted(sa.inspect(connection).get_table_names())
        return {name: connection.execute(sa.text(f'SELECT count(*) FROM "{name}"')).scalar_one() for name in names}


@pytest.mark.parametrize("word", WORDS)
def test_no_parameter_is_a_program(hostile, full, word):
    before, text = tables(hostile), quote(word.replace("/", "%2f"), errors="surrogatepass")
    for route in api_routes(full.app.routes):
        fields = route.dependant.query_params
        query = "&".join(f"{name}={text}" for name in {*COMMON, *(field.alias for field in fields)})
        paths = {re.sub(r"\{(\w+)(:\w+)?\}", text, route.path), re.sub(r"\{(\w+)(:\w+)?\}", "1", route.path)}
        for path in paths if "GET" in (route.methods or ()) else ():
            answer = full.get(f"{path}?{query}", headers=PAGE)
            assert answer.status_code < 500, (path, query)
            assert b"root:x:" not in answer.content
    assert tables(hostile) == before


@pytest.mark.parametrize("word", WORDS)
def test_no_body_is_a_program(hostile, full, word):
    names = tables(hostile).keys()
    values = dict.fromkeys((*COMMON, "name", "text", "label", "item", "event_id", "action", "session", "batch"), word)
    bodies = [values, [values], word, None, {"events": word}, {"events": [values, word, None]}, {"runs": [values]},
              {"runs": values, "events": [[values]], "projects": [word]}]  # fmt: skip
    for route in api_routes(full.app.routes):
        path = re.sub(r"\{(\w+)(:\w+)?\}", "1", route.path)
        if "POST" not in (route.methods or ()) or path in ("/logout", "/api/review/refit"):
            continue
        for body in bodies:
            answer = full.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
            assert answer.status_code < 500, (path, body, answer.text)
        form = {"content-type": "application/x-www-form-urlencoded"}
        text = "&".join(f"{name}={quote(word, errors='surrogatepass')}" for name in values)
        assert full.post(path, content=text, headers=form).status_code < 500, path
        assert full.post(path, content=word.encode(errors="surrogatepass"), headers=form).status_code < 500, path
    assert tables(hostile).keys() == names


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    yield from chromium()


@pytest.mark.browser
def test_a_browser_runs_nothing_of_it_and_the_policy_is_never_touched(browser, hostile, full):
    with running(hostile, parts=PARTS) as address:
        page = browser.new_page()
        heard: list[str] = []
        page.on("console", lambda message: message.type == "error" and heard.append(f"{page.url}: {message.text}"))
        page.on("pageerror", lambda error: heard.append(f"{page.url}: {error}"))
        page.on("dialog", lambda dialog: (heard.append(f"{page.url}: {dialog.message}"), dialog.dismiss()))
        seen = 0
        for path in reads(full, hostile):
            answer = full.get(path, headers=PAGE)
            if answer.status_code == 200 and answer.headers["content-type"].startswith("text/html"):
                page.goto(address + path)
                page.wait_for_load_state("load")
                page.wait_for_timeout(150)  # scripts fill it
                seen += 1
        assert seen >= 5
        assert heard == []
        page.close()
