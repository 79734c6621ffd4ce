"""Signed cookies and the token against forged requests: HMAC-SHA-256 under one secret that outlives a restart."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Keys:
    """Seals what a browser keeps for the board, so that nobody else can make it up.

    Attributes:
        secret: never leaves this process.
    """

    secret: bytes

    def mac(self, purpose: str, text: str) -> str:
        """43 characters that only a holder of the secret can make; another purpose gives others."""
        message = purpose.encode() + b"\0" + text.encode("utf-8", "surrogatepass")
        return _b64(hmac.digest(self.secret, message, hashlib.sha256))

    def seal(self, purpose: str, text: str) -> str:
        """`text` with its code, in the letters of a cookie; it can be read by anyone and changed by nobody."""
        return f"{_b64(text.encode())}.{self.mac(purpose, text)}"

    def opened(self, purpose: str, sealed: str) -> str | None:
        """What was sealed for this purpose, or None where one byte is not ours."""
        body, _, code = sealed.partition(".")
        try:
            text = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)).decode()
        except (ValueError, binascii.Error):
            return None
        return text if same(code, self.mac(purpose, text)) else None


def same(one: str, other: str) -> bool:
    """Equality that takes as long for a near miss as for a far one."""
    return hmac.compare_digest(one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass"))


def open_keys(folder: Path, token: str | None) -> Keys:
    """The board's keys: kept in `folder/board.key`, readable by its owner alone, and changed by another token.

    A secret that lasts keeps people signed in when the board is started again. Where the file cannot be kept, or could
    be read by others, a new secret is drawn for this process.
    """
    kept = _kept_secret(folder / "board.key") or secrets.token_bytes(SECRET_BYTES)
    return Keys(hmac.digest(kept, (token or "").encode("utf-8", "surrogatepass"), hashlib.sha256))


def _kept_secret(path: Path) -> bytes | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return _read_secret(path)
        with os.fdopen(handle, "wb") as file:
            drawn = secrets.token_bytes(SECRET_BYTES)
            file.write(drawn)
        return drawn
    except OSError:
        return None


def _read_secret(path: Path) -> bytes | None:
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        ours = stat.S_ISREG(found.st_mode) and not found.st_mode & 0o077 and found.st_uid == os.geteuid()
        secret = file.read(SECRET_BYTES + 1)
    return secret if ours and len(secret) == SECRET_BYTES else None


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
