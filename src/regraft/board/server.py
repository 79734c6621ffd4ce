"""The board on a port: uvicorn, with limits on what a connection may cost, and without a log of who asked what."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from regraft.board.security import MAX_HEADER_BYTES
from regraft.errors import UsageError

if TYPE_CHECKING:
    from regraft.board.site import Site

HEADER_SECONDS = 10.0
"""A request's headers are here within this time, or the connection ends; slow ones would hold it for ever."""

MAX_CONNECTIONS = 512
IDLE_SECONDS = 20
GRACE_SECONDS = 3
"""After SIGTERM, answers that are on their way get this long."""

NUM_PORTS = 100


def serve(site: Site, *, on_ready: Callable[[], None] = lambda: None) -> None:
    """Serve a site until SIGTERM or SIGINT, then return.

    Args:
        site: what is served, and where.
        on_ready: called once connections are accepted.

    Raises:
        UsageError: the port is taken or the address is not of this machine; or as `create_app`.
    """
    from regraft.board.app import create_app

    app = create_app(site)
    with contextlib.closing(bound(site.host, site.port)) as listening:
        made = server(app, on_ready=on_ready)
        asyncio.run(made.serve(sockets=[listening]))


def address(site: Site) -> str:
    """What a person opens: `http://127.0.0.1:8765/`, with `#token=…` where one is needed.

    What follows `#` stays in the browser: it is in no log and in no referrer.
    """
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(site.host, site.host)
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{site.port}/" + (f"#token={site.token}" if site.token else "")


def free_port(host: str, first: int) -> int:
    """The first port from `first` on that nobody listens on.

    Raises:
        UsageError: none of 100 is free, or the address is not of this machine.
    """
    for port in range(first, min(first + NUM_PORTS, 65_536)):
        try:
            bound(host, port).close()
        except _TakenError:
            continue
        return port
    raise UsageError(f"one of {NUM_PORTS} ports must be free, and none is from {first} on: give another --port")


class _TakenError(UsageError):
    """Somebody listens on the port."""


def bound(host: str, port: int) -> socket.socket:
    """A socket on this address and port (0: any); nobody else can take the port from then on.

    The protocol is named, for asyncio turns Nagle's algorithm off only then: without, every answer waits 40 ms for the
    browser's delayed acknowledgement.

    Raises:
        UsageError: the port is taken, or the address is not of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise UsageError(f"a host is an address of this machine: {host!r} is not ({error.strerror})") from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)  # two may bind where nobody listens yet
    except OSError as error:
        listening.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise _TakenError(
                f"a port must be free: {host}:{port} is not ({error.strerror}); give another --port"
            ) from None
        raise UsageError(f"a host is an address of this machine: {host!r} is not ({error.strerror})") from None
    return listening


class _Patience(H11Protocol):
    """uvicorn's HTTP, and an end to connections that do not finish a request's headers."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:  # the headers are complete
            self._stop_waiting()
        elif self.conn.trailing_data[0]:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._waiting is None:
            self._waiting = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


class _Server(uvicorn.Server):
    """uvicorn's server: says when it is ready, and returns on SIGTERM so that its caller can tidy up."""

    on_ready: Callable[[], None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self.on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def server(app: Any, *, on_ready: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """The server of an application, not yet started; `run(sockets=…)` starts it and `should_exit = True` ends it."""
    config = uvicorn.Config(
        app, http=_Patience, ws="none", lifespan="off", loop="asyncio", log_config=None, access_log=False,
        server_header=False, proxy_headers=False, limit_concurrency=MAX_CONNECTIONS, backlog=128,
        timeout_keep_alive=IDLE_SECONDS, timeout_graceful_shutdown=GRACE_SECONDS,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )  # fmt: skip
    made = _Server(config)
    made.on_ready = on_ready
    return made
