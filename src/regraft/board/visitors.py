"""Telling visitors apart: the token, the cookie that stands for it, and the name a visitor goes by."""

from __future__ import annotations

import getpass
import secrets
import time
import unicodedata
from dataclasses import dataclass
from urllib.parse import unquote

from starlette.datastructures import Headers

from regraft.board.keys import Keys, same
from regraft.errors import UsageError

MIN_TOKEN = 16
"""Letters of a token: 16 of hexadecimal are 64 bits, too many to be guessed through a network."""

SESSION_SECONDS = 30 * 86_400
MAX_NAME = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who asks.

    Attributes:
        inside: may see the board.
        reviewer: name, or "" where it was not said.
        csrf: what this visitor's changes must carry.
        bearer: came with the token in a header, which no browser adds by itself.
    """

    inside: bool
    reviewer: str
    csrf: str
    bearer: bool = False


ANONYMOUS = Visitor(inside=False, reviewer="", csrf="")


class Door:
    """Reads a request's headers, and makes the cookies that it will read next time.

    Args:
        keys: seals the cookies.
        token: what a visitor must present; None where everyone who can reach the board may use it.
        default_name: who a visitor is taken for who has not said it; "" where a name must be said.
    """

    def __init__(self, keys: Keys, *, token: str | None, default_name: str) -> None:
        self.keys, self.token, self.default_name = keys, token, default_name

    def visitor(self, headers: Headers) -> Visitor:
        """Who sent these headers."""
        cookies = _cookies(headers)
        said = self.keys.opened("reviewer", cookies.get(cookie_name("reviewer", headers), "")) or ""
        name = said or self.default_name
        if self.token is None:  # one key for all: whoever can connect could fetch it, and no foreign page can read it
            return Visitor(inside=True, reviewer=name, csrf=self.keys.mac("csrf", ""))
        scheme, _, presented = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.admits(presented.strip()):
            called = _name_or_nothing(unquote(headers.get("x-regraft-reviewer", "")))
            return Visitor(inside=True, reviewer=called or self.default_name or "token", csrf="", bearer=True)
        session = self.keys.opened("session", cookies.get(cookie_name("session", headers), ""))
        if session is None or not _is_current(session):
            return Visitor(inside=False, reviewer=said, csrf="")
        return Visitor(inside=True, reviewer=name, csrf=self.keys.mac("csrf", session))

    def admits(self, token: str) -> bool:
        """True for the board's token."""
        return self.token is not None and same(token, self.token)

    def new_session(self) -> str:
        """A sealed session that begins now."""
        return self.keys.seal("session", f"{secrets.token_hex(16)} {int(time.time()) + SESSION_SECONDS}")

    def sealed_name(self, name: str) -> str:
        """A name as its cookie keeps it."""
        return self.keys.seal("reviewer", name)


def cookie_name(what: str, headers: Headers) -> str:
    """`regraft_session_8765`: browsers share the cookies of a host among its ports, so the port is in the name."""
    port = headers.get("host", "").rpartition(":")[2]
    return f"regraft_{what}_{port if port.isascii() and port.isdigit() else 80}"


def checked_name(text: str) -> str:
    """A person's name as it is kept: one line, in composed Unicode.

    Raises:
        UsageError: it is empty, longer than 80 characters, or has characters that cannot be seen.
    """
    name = " ".join(unicodedata.normalize("NFC", text).split())
    seen = all(c.isprintable() or c in "\u200c\u200d" for c in name)
    if not 1 <= len(name) <= MAX_NAME or not seen or not any(c.isalnum() for c in name):
        raise UsageError(f"a name has 1 to {MAX_NAME} characters that can be seen, and a letter among them")
    return name


def os_user() -> str:
    """The name of who runs this process, or "" where it has none that can be shown."""
    try:
        return checked_name(getpass.getuser())
    except (OSError, KeyError, ImportError, UsageError):
        return ""


def _name_or_nothing(text: str) -> str:
    try:
        return checked_name(text)
    except UsageError:
        return ""


def _is_current(session: str) -> bool:
    until = session.rpartition(" ")[2]
    return until.isascii() and until.isdigit() and int(until) > time.time()


def _cookies(headers: Headers) -> dict[str, str]:
    found: dict[str, str] = {}
    for header in headers.getlist("cookie"):
        for pair in header.split(";"):
            name, _, value = pair.strip().partition("=")
            if name.startswith("regraft_"):
                found.setdefault(name, value)
    return found
