"""Who may ask what: one layer in front of every page, closed unless a rule opens it.

    Host          a name of this machine, so that no foreign domain can be pointed at the board (DNS rebinding)
    Origin        a change comes from the board's own pages, and nothing of it is embedded elsewhere
    token         where one is set: as `Authorization: Bearer`, or a signed cookie that POST /login gave for it
    CSRF          a change carries `X-Regraft-CSRF`, which only a page of the board knows
    size and time of what is sent are bounded; every answer says what a browser may do with it

Nothing of a request is logged: no address, no header, no cookie.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from regraft.board.keys import same
from regraft.board.site import is_loopback
from regraft.board.visitors import ANONYMOUS, Door, Visitor

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; font-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""The content security policy of the board's pages: its own files, nothing inline, nobody's frame."""

STRANGERS_PAGE_POLICY = (
    "sandbox allow-scripts allow-popups; default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""For an HTML file of a run folder, which may have come from anyone: an origin of its own, without cookies, that can
load and send nothing. A route sets it as its answer's `content-security-policy`."""

PICTURE_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
"""For the bytes of a user's image, in case a browser should take them for something else."""

HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "same-origin",  # nothing to others; `no-referrer` would hide the Origin of our own forms
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "cache-control": "no-store",
}
"""On every answer that does not say otherwise."""

MAX_BODY = 2_000_000
BODY_LIMITS = {"/api/sync/runs": 2 << 30, "/api/sync/": 16_000_000}
"""Bytes that a request may bring, by the beginning of its path (the first that fits); `MAX_BODY` elsewhere. Runs go to
the disk as they come."""

MAX_HEADERS = 100
MAX_HEADER_BYTES = 32_768
MAX_TARGET = 8_192
"""Bytes of path and query together."""

BODY_SECONDS = 30.0
"""The longest wait for the next piece of a body."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
SAFE = ("GET", "HEAD")
OPEN = ("/healthz", "/login", "/static/", "/api/session")
"""What is seen without the token."""

NAMELESS = (*OPEN, "/who", "/logout")
"""What is used before one has said one's name."""

OWN_PROOF = ("/login", "/who", "/logout")
"""Forms that work without a script: they carry the proof as a field, and check it themselves."""

_logger = logging.getLogger("regraft.board")

Refuse = Callable[[Request, int, str], Response]


@dataclass(frozen=True, slots=True)
class Refusal(Exception):
    """Why a request goes no further: HTTP status and one sentence."""

    status: int
    words: str


class Guard:
    """The layer: an ASGI application around another one.

    Args:
        app: what is guarded.
        door: tells visitors apart.
        names: host names by which the board may be called.
        addresses: True where any literal IP address will do as well (a board that is not on loopback); a page cannot
            pretend to come from one.
        refuse: makes the answer to a refused request.
    """

    def __init__(self, app: ASGIApp, *, door: Door, names: frozenset[str], addresses: bool, refuse: Refuse) -> None:
        self.app, self.door, self.names, self.addresses, self.refuse = app, door, names, addresses, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        https = scope["scheme"] == "https"

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _finish(MutableHeaders(scope=message), trusted=https or is_loopback(_host_name(scope)))
            await send(message)

        request = Request(scope)
        scope.setdefault("state", {})["visitor"] = ANONYMOUS
        try:
            self._admit(request)
            limit = next((most for path, most in BODY_LIMITS.items() if scope["path"].startswith(path)), MAX_BODY)
            if _length(request.headers) > limit:
                raise Refusal(413, f"a request may bring {limit:,} bytes")
            await self.app(scope, _bounded(receive, limit), answer)
            return
        except Refusal as refusal:
            response = self.refuse(request, refusal.status, refusal.words)
            if request.method not in SAFE:
                response.headers["connection"] = "close"  # its body stays unread
        except ClientDisconnect:
            return  # nobody is there to be answered
        except Exception as error:
            if started:
                raise
            _logger.error(
                "%s %s failed", scope["method"], scope["path"].encode("unicode_escape").decode(), exc_info=error
            )
            response = self.refuse(request, 500, "Something went wrong here; the log has the details.")
        await response(scope, receive, answer)

    def _admit(self, request: Request) -> None:
        """Let the request in with its visitor, or raise `Refusal`."""
        # the path that is routed; `request.url` is put together from the Host header and read again
        headers, path, method = request.headers, request.scope["path"], request.method
        if method not in METHODS:
            raise Refusal(405, f"a request is one of {', '.join(METHODS)}")
        if len(headers.raw) > MAX_HEADERS or sum(len(k) + len(v) for k, v in headers.raw) > MAX_HEADER_BYTES:
            raise Refusal(431, f"a request has at most {MAX_HEADERS} headers of {MAX_HEADER_BYTES:,} bytes together")
        if len(request.scope.get("raw_path") or b"") + len(request.scope["query_string"]) > MAX_TARGET:
            raise Refusal(414, f"an address has at most {MAX_TARGET:,} bytes")
        self._check_host(headers)
        _check_origin(headers, path, method)
        visitor = self.door.visitor(headers)
        request.scope["state"]["visitor"] = visitor
        if not visitor.inside and not _begins(path, OPEN):
            raise Refusal(401, "This board asks for its token.")
        proved = method in SAFE or path in OWN_PROOF or visitor.bearer
        if not proved and not same(headers.get("x-regraft-csrf", ""), visitor.csrf):
            raise Refusal(403, "The page is out of date: load it again.")
        if visitor.inside and not visitor.reviewer and not _begins(path, NAMELESS):
            raise Refusal(403 if method not in SAFE or not wants_page(request) else 303, "Say who you are first.")

    def _check_host(self, headers: Headers) -> None:
        given = headers.getlist("host")
        name = host_name(given[0]) if len(given) == 1 else ""
        if name in self.names or (name and is_loopback(name)) or (self.addresses and _is_address(name)):
            return
        raise Refusal(
            421,
            "The board does not know itself by this name. Use the address it printed, or name it in "
            "REGRAFT_ALLOWED_HOSTS.",
        )


def visitor_of(request: Request) -> Visitor:
    """Who asks."""
    visitor: Visitor = request.scope["state"]["visitor"]
    return visitor


def reviewer_of(request: Request) -> str:
    """The name that stands beside what this visitor decides: 1 to 80 printable characters.

    Raises:
        HTTPException: 403, where the visitor has not said it.
    """
    name = visitor_of(request).reviewer
    if not name:
        raise HTTPException(403, "say who you are first")
    return name


def wants_page(request: Request) -> bool:
    """True where a person waits for a page, not a script for data or a part of a page."""
    return (
        "text/html" in request.headers.get("accept", "")
        and not request.scope["path"].startswith("/api/")
        and "hx-request" not in request.headers
    )


def allowed_names(host: str, environ: Mapping[str, str] = os.environ) -> frozenset[str]:
    """Host names (without a port, in lower case) by which a board that listens on `host` may be called."""
    extra = {word.strip().lower() for word in environ.get("REGRAFT_ALLOWED_HOSTS", "").split(",")}
    names = {"localhost", host.lower(), *extra}
    if not is_loopback(host):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return frozenset(names - {""})


def host_name(header: str) -> str:
    """The name of a Host header or an origin, in lower case and without port and brackets; "" where it is none."""
    name, _, port = header.rpartition(":") if not header.endswith("]") and ":" in header else (header, "", "")
    if port and not (port.isascii() and port.isdigit()):
        return ""
    name = name.lower()
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
        return name if _is_address(name) else ""
    return name if name and all(c.isalnum() or c in "-._" for c in name) else ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _host_name(scope: Scope) -> str:
    return host_name(Headers(scope=scope).get("host", ""))


def _check_origin(headers: Headers, path: str, method: str) -> None:
    """A change comes from our own pages; a read comes from there too, or is a person following a link."""
    fetch_site = headers.get("sec-fetch-site", "same-origin")
    if fetch_site not in ("same-origin", "none"):
        following = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if method not in SAFE or not following or path.startswith(("/api/", "/pictures/")):
            raise Refusal(403, "Other sites' pages cannot use the board.")
    if method in SAFE:
        return
    for origin in headers.getlist("origin"):
        parts = urlsplit(origin) if "://" in origin else None
        if parts is None or parts.scheme not in ("http", "https"):
            raise Refusal(403, "Other sites' pages cannot use the board.")
        port = ":443" if parts.scheme == "https" else ":80"
        if parts.netloc.lower().removesuffix(port) != headers.get("host", "").lower().removesuffix(port):
            raise Refusal(403, "Other sites' pages cannot use the board.")


def _length(headers: Headers) -> int:
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit()):
        raise Refusal(400, "Content-Length is a number")
    return int(text) if len(text) < 20 else 10**20


def _begins(path: str, beginnings: tuple[str, ...]) -> bool:
    return any(path == one or (one.endswith("/") and path.startswith(one)) for one in beginnings)


def _bounded(receive: Receive, limit: int) -> Receive:
    """`receive` that counts what comes, whatever Content-Length said, and does not wait for ever."""
    seen, more = 0, True

    async def bounded() -> Message:
        nonlocal seen, more
        if not more:  # only the end of the connection is left to come, and that may take as long as it likes
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), BODY_SECONDS)
        except TimeoutError:
            raise HTTPException(408, "the request came too slowly", headers={"connection": "close"}) from None
        seen += len(message.get("body", b""))
        more = bool(message.get("more_body", False))
        if seen > limit:
            raise HTTPException(413, f"a request may bring {limit:,} bytes", headers={"connection": "close"})
        return message

    return bounded


def _finish(headers: MutableHeaders, *, trusted: bool) -> None:
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    if trusted:  # browsers complain about it on plain http of another machine
        headers.setdefault("cross-origin-opener-policy", "same-origin")
