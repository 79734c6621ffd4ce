"""`regraft runs`: alone a list; with a word more the difference of two, and the way from one machine to another."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from board.board_samples import TOKEN, running, site_at
from conftest import Command
from regraft.board.site import Site
from regraft.errors import RegraftError, UsageError
from regraft.store.db import open_database
from regraft.store.decisions import Ledger
from regraft.store.push import Server, after_fit, push_runs, server_of
from regraft.store.run_index import RunIndex
from regraft.types import Decision
from run_samples import predicted, write_run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in "12":
        write_run(tmp_path / "runs", name=name, predictions=predicted(200, seed=int(name)))
    return tmp_path / "runs"


def test_alone_it_is_a_list(cli: Command, root):
    assert "photos/1" in cli("runs", root).out
    assert {Path(row["run"]).name for row in json.loads(cli("runs", root, "--json").out)} == {"1", "2"}
    assert cli("runs", root, "--metric", "beauty").code == 2


def test_compare(cli: Command, root):
    done = cli("runs", "compare", "1", "2", "--runs-dir", root)
    assert done.code == 0, done.err
    assert "50 images that both were judged on" in done.out
    found = json.loads(cli("runs", "compare", root / "photos/1", root / "photos/2", "--json").out)
    assert (found["a"], found["b"], found["num_shared"]) == ("photos/1", "photos/2", 50)
    assert set(found["differences"]) == {"accuracy", "balanced_accuracy", "macro_f1", "log_loss", "ece"}


def test_what_cannot_be_compared(cli: Command, root):
    write_run(root, name="3", finished=False)
    done = cli("runs", "compare", "1", "3", "--runs-dir", root)
    assert done.code == 3
    assert "unfinished" in done.err
    done = cli("runs", "compare", "1", "9", "--runs-dir", root)
    assert done.code == 2
    assert done.err.count("\n") == 1


def test_export_and_import(cli: Command, root, tmp_path):
    done = cli("runs", "export", "1", "photos/2", "-o", tmp_path / "x.zip", "--runs-dir", root)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == str(tmp_path / "x.zip")
    done = cli("runs", "import", tmp_path / "x.zip", "--runs-dir", tmp_path / "other")
    assert done.code == 0, done.err
    assert [facts.key for facts in RunIndex(tmp_path / "other").refresh()] == ["photos/1", "photos/2"]
    (row, _) = json.loads(cli("runs", "import", tmp_path / "x.zip", "--runs-dir", root, "--json").out)
    assert row == {"run": "photos/1", "path": str(root / "photos/1"), "known": True}


def test_what_cannot_be_passed_on(cli: Command, root, tmp_path):
    write_run(root, name="3", finished=False)
    for words in (("3", "-o", "x.zip"), ("9", "-o", "x.zip"), ("1", "-o", "x.tar")):
        assert cli("runs", "export", *words, "--runs-dir", root).code == 2
    (tmp_path / "x.zip").write_bytes(b"no zip")
    done = cli("runs", "import", tmp_path / "x.zip", "--runs-dir", root)
    assert done.code == 3
    assert done.err.count("\n") == 1
    assert cli("runs", "import", tmp_path / "none.zip", "--runs-dir", root).code == 1


@contextlib.contextmanager
def served(tmp_path: Path, token: str | None) -> Iterator[tuple[str, Site]]:
    site = dataclasses.replace(site_at(tmp_path / "server", num_images=0), desk=None, token=token)
    with running(site) as address:
        yield address, site
    site.database.close()


@pytest.mark.parametrize("token", [None, TOKEN])
def test_sync_sends_what_is_missing_and_only_once(cli: Command, root, tmp_path, monkeypatch, token):
    database = open_database(runs_dir=root)
    event = Decision(
        event_id="00000000-0000-4000-8000-000000000001", time=1.7e9, project="photos", reviewer="Ada", session="s",
        item="0" * 64, path="a.png", action="keep", given="ant",
    )  # fmt: skip
    Ledger(database, "photos").append([event])
    database.close()
    write_run(root, name="3", finished=False)
    with served(tmp_path, token) as (address, site):
        monkeypatch.setenv("REGRAFT_SERVER_URL", f"{address}/#token={token}" if token else address)
        write_run(site.runs_dir, name="1", macro_f1=0.1)  # the server's own run of that name stays
        first = json.loads(cli("runs", "sync", "--runs-dir", root, "--json").out)
        second = json.loads(cli("runs", "sync", "--runs-dir", root, "--json").out)
        assert set(first["sent"]) == {"photos/1", "photos/2"}
        assert first["skipped"] == {"photos/3": "not finished"}
        assert (second["sent"], set(second["known"])) == ({}, {"photos/1", "photos/2"})
        assert (first["num_decisions"], second["num_decisions"], second["num_known_decisions"]) == (1, 0, 1)
        assert len(RunIndex(site.runs_dir).refresh()) == 3
        assert Ledger(site.database, "photos").last_seq() == 1
        assert not (site.runs_dir / "photos" / "2" / "model").exists()


def test_a_wrong_token_is_said_and_never_repeated(cli: Command, root, tmp_path, monkeypatch):
    with served(tmp_path, TOKEN) as (address, _):
        monkeypatch.setenv("REGRAFT_SERVER_URL", address)
        monkeypatch.setenv("REGRAFT_TOKEN", "another-token-of-somebody-else")
        done = cli("runs", "sync", "--runs-dir", root)
        assert done.code == 1
        assert "REGRAFT_TOKEN" in done.err
        assert "another-token" not in done.err


@contextlib.contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """A server that says one thing to everybody, or nothing at all (a black hole)."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        stop = threading.Event()

        def serve() -> None:
            held = []
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = listening.accept()
                    held.append(connection)
                    if answer is not None:
                        connection.recv(65_536)
                        connection.sendall(answer)
                        connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        stop.set()


@pytest.mark.parametrize(
    "answer",
    [
        None, b"", b"garbage", b"HTTP/1.1 200 OK\r\n\r\n<html>", b"HTTP/1.1 500 No\r\n\r\n{}",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/steal\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n[",
    ],
)  # fmt: skip
def test_a_server_that_is_none_costs_a_fit_one_sentence(root, monkeypatch, answer):
    from regraft.store import push

    monkeypatch.setattr(push, "QUICK_SECONDS", 0.3)
    with answering(answer) as address:
        with pytest.raises(RegraftError) as told:
            push_runs(Server(address, "secret-token", 0.3), [root / "photos" / "1"])
        assert "secret-token" not in str(told.value)
        assert "\n" not in str(told.value)
        monkeypatch.setenv("REGRAFT_SERVER_URL", address)
        said: list[str] = []
        after_fit(root / "photos" / "1", said.append)
        assert len(said) == 1
        assert "kept here" in said[0]


def test_after_a_fit_nothing_is_sent_unasked(root, monkeypatch):
    monkeypatch.delenv("REGRAFT_SERVER_URL", raising=False)
    said: list[str] = []
    after_fit(root / "photos" / "1", said.append)
    assert said == []


def test_after_a_fit_the_run_is_sent(root, tmp_path, monkeypatch):
    with served(tmp_path, None) as (address, site):
        monkeypatch.setenv("REGRAFT_SERVER_URL", address)
        said: list[str] = []
        after_fit(root / "photos" / "1", said.append)
        after_fit(root / "photos" / "1", said.append)
        assert len(said) == 1
        assert [facts.key for facts in RunIndex(site.runs_dir).refresh()] == ["photos/1"]


@pytest.mark.parametrize(
    "url", ["ftp://host", "host:8765", "http://", "http://user:password@host", "file:///etc/passwd", "http://[::1"]
)
def test_addresses_that_are_none(url):
    with pytest.raises(UsageError) as told:
        server_of({"REGRAFT_SERVER_URL": url})
    assert "password" not in str(told.value)


def test_the_address_as_it_was_printed():
    server = server_of({"REGRAFT_SERVER_URL": "https://board:8765/#token=abc"})
    assert server is not None
    assert (server.url, server.token) == ("https://board:8765", "abc")
    assert "abc" not in repr(server)
    assert server_of({"REGRAFT_SERVER_URL": ""}) is None
