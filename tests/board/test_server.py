"""The board on a real port: slow and endless requests, ports, and the end of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from board_samples import TOKEN, running, site_at

from regraft.board import security, server
from regraft.errors import UsageError


@contextlib.contextmanager
def wire(address: str):
    """A connection that says what it is told, byte by byte."""
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        yield connection


def told(connection: socket.socket) -> bytes:
    """All that comes until the other end closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            parts.append(part)
    return b"".join(parts)


def heard(connection: socket.socket) -> bytes:
    """One answer with a Content-Length; the connection stays."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65_536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))[15:])
    while len(body) < length:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


def proof(address: str) -> str:
    with urllib.request.urlopen(f"{address}/api/session") as answer:
        return json.load(answer)["csrf"]


GET = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def test_headers_that_never_end_do_not_hold_a_connection(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "HEADER_SECONDS", 0.3)
    with running(site_at(tmp_path)) as address:
        for first in (b"", b"GET /healthz HTTP/1.1\r\nHost: 127", GET[:-2] + b"X-A: 1\r\n"):
            with wire(address) as connection:
                connection.sendall(first)
                assert told(connection) == b""
        with wire(address) as connection:  # also not after a good request
            connection.sendall(GET)
            assert b"200 OK" in heard(connection)
            connection.sendall(GET[:20])
            assert told(connection) == b""
        with wire(address) as connection:  # nor behind one that came with it
            connection.sendall(GET + GET[:20])
            assert b"200 OK" in heard(connection)
            connection.sendall(GET[20:22])
            assert told(connection) == b""


def test_requests_one_after_the_other_share_a_connection(tmp_path):
    with running(site_at(tmp_path)) as address, wire(address) as connection:
        for _ in range(3):
            for byte in (GET[:9], GET[9:30], GET[30:]):
                connection.sendall(byte)
            assert b"200 OK" in heard(connection)
        connection.sendall(GET + GET[:-2] + b"Connection: close\r\n\r\n")
        assert told(connection).count(b"200 OK") == 2


def test_a_body_that_never_ends_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(security, "MAX_BODY", 10_000)
    with running(site_at(tmp_path)) as address:
        head = f"POST /who HTTP/1.1\r\nHost: {address[7:]}\r\nX-Regraft-CSRF: {proof(address)}\r\n".encode()
        with wire(address) as connection:
            connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
            with contextlib.suppress(OSError):
                for _ in range(200):
                    connection.sendall(b"400\r\n" + bytes(1024) + b"\r\n")
            assert b" 413 " in told(connection)
        with wire(address) as connection:
            connection.sendall(head + b"Content-Length: 99999999999\r\n\r\n")
            assert b" 413 " in told(connection)
        with wire(address) as connection:
            connection.sendall(head + b"Content-Length: 10\r\nContent-Length: 20\r\n\r\n")
            assert b" 400 " in told(connection)


def test_a_body_that_does_not_come_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(security, "BODY_SECONDS", 0.3)
    with running(site_at(tmp_path)) as address, wire(address) as connection:
        head = f"POST /who HTTP/1.1\r\nHost: {address[7:]}\r\nX-Regraft-CSRF: {proof(address)}\r\n"
        connection.sendall(head.encode() + b"Content-Length: 10\r\n\r\nab")
        assert b" 408 " in told(connection)


def test_one_who_leaves_in_the_middle_is_no_failure_of_the_board(tmp_path, caplog):
    with running(site_at(tmp_path)) as address:
        head = f"POST /who HTTP/1.1\r\nHost: {address[7:]}\r\nX-Regraft-CSRF: {proof(address)}\r\n".encode()
        with wire(address) as connection:
            connection.sendall(head + b"Content-Length: 10\r\n\r\nab")
        assert proof(address)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    "lines",
    [b"X-Big: " + b"x" * 70_000 + b"\r\n", b"X: 1\r\n" * 8_000, b"Host: evil.example\r\n", b"\x00\r\n", b" folded\r\n"],
)
def test_headers_that_are_too_much_or_none_are_refused(tmp_path, lines):
    with running(site_at(tmp_path)) as address, wire(address) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(GET[:-2] + lines + b"Connection: close\r\n\r\n")
        answer = told(connection)
        assert answer.startswith(b"HTTP/1.1 4") or answer == b""  # a reset may overtake the answer
        assert b"server:" not in answer.lower()


@pytest.mark.parametrize(
    "target",
    [b"/static/x/../../app.py", b"/static/x/%2e%2e/%2e%2e/app.py", b"/../../../../etc/passwd", b"//etc/passwd",
     b"/pictures/../../etc/passwd/original", b"/pictures/..%2f..%2fetc%2fpasswd/original", b"http://evil.example/who",
     b"/static/x/..\\..\\app.py", b"/%00"],
)  # fmt: skip
def test_no_path_leads_to_a_file(tmp_path, target):
    with running(site_at(tmp_path)) as address, wire(address) as connection:
        connection.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answer = told(connection)
        assert b" 404 " in answer.partition(b"\r\n")[0] or b" 400 " in answer
        assert b"root:" not in answer
        assert b"create_app" not in answer


def test_a_web_socket_is_refused(tmp_path):
    with running(site_at(tmp_path)) as address, wire(address) as connection:
        connection.sendall(
            b"GET /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert b" 404 " in told(connection)


def test_small_answers_leave_at_once(tmp_path, monkeypatch):
    seen = []
    made = server._Patience.connection_made

    def connection_made(self, transport):
        made(self, transport)
        taken = transport.get_extra_info("socket")
        seen.append(taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(server._Patience, "connection_made", connection_made)
    with running(site_at(tmp_path)) as address, wire(address) as connection:
        connection.sendall(GET)
        heard(connection)
    assert seen
    assert all(seen)


def test_a_free_port_is_one_that_nobody_listens_on():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        found = server.free_port("127.0.0.1", port)
        assert found > port
        socket.create_server(("127.0.0.1", found)).close()


def test_no_port_and_no_such_address_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "NUM_PORTS", 1)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match="must be free"):
            server.free_port("127.0.0.1", port)
        with pytest.raises(UsageError, match=f"127.0.0.1:{port} is not"):
            server.serve(site_at(tmp_path, port=port, desk=None))
    with pytest.raises(UsageError, match="address of this machine"):
        server.free_port("192.0.2.7", 8765)
    with pytest.raises(UsageError, match="address of this machine"):
        server.free_port("no-such-name.invalid", 8765)


PROGRAM = """
import logging
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from board_samples import TOKEN, site_at
from regraft.board.server import free_port, serve
logging.basicConfig(level=logging.DEBUG)
port = free_port("127.0.0.1", 20_000 + __import__("os").getpid() % 20_000)
site = site_at(Path(sys.argv[1]), port=port, token=TOKEN, desk=None)
serve(site, on_ready=lambda: print(port, flush=True))
print("tidied up", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order_and_keeps_no_word_of_what_was_asked(tmp_path, number):
    program = PROGRAM.format(tests=str(Path(__file__).parent))
    started = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    port = int(started.stdout.readline())
    with wire(f"http://127.0.0.1:{port}") as idle:  # a connection that stays open holds nothing up
        idle.sendall(GET[:10])
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/session?secret=1", headers={"Authorization": f"Bearer {TOKEN}"}
        )
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["inside"] is True
        os.kill(started.pid, number)
        out, err = started.communicate(timeout=30)
    assert started.returncode == 0
    assert out == "tidied up\n"
    assert TOKEN not in err
    assert "secret" not in err
