"""Requests that bring too much, or what cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
from board_samples import client_of, site_at, with_probe

from regraft.board import security
from regraft.board.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return site_at(tmp_path / "site")


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


def test_headers_and_addresses_are_bounded(site):
    client = client_of(site)
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


def test_a_form_has_a_bounded_number_of_fields(site):
    many = "&".join(f"a{i}=1" for i in range(1000))
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert client_of(site).post("/who", content=many, headers=form).status_code == 400


@pytest.mark.parametrize("length", ["x", "-1", "", "٣", "1, 2", "9" * 5000])
def test_a_length_that_is_none_is_refused(site, length):
    client, _ = with_probe(site)
    answer = client.post("/api/probe", headers={"content-length": length.encode()}, content=b"")
    assert answer.status_code in (400, 413)
