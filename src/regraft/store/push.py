"""Sending runs and decisions to the team's board: what it does not have yet, and again whenever in doubt.

`REGRAFT_SERVER_URL` is the address of a board, `REGRAFT_TOKEN` its token. Nothing is remembered here: the board says
which runs it has, and takes a decision twice as once. So a laptop that was offline for a week sends a week's runs.
"""

from __future__ import annotations

import json
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from regraft.errors import DataError, RegraftError, UsageError
from regraft.store import runs
from regraft.store.run_archive import PackedRun, export_runs, pack
from regraft.store.run_files import text
from regraft.types import JSON

URL, TOKEN = "REGRAFT_SERVER_URL", "REGRAFT_TOKEN"
TIMEOUT_SECONDS = 30.0
QUICK_SECONDS = 5.0
"""After a fit: a server that is down must not keep anybody waiting."""
MAX_UPLOAD = 60 << 20
MAX_ANSWER = 32 << 20
EVENTS_A_CALL = 1000


@dataclass(frozen=True, slots=True)
class Server:
    """A board somewhere, and how to talk to it.

    Attributes:
        url: `http(s)://host:port`, without a slash at the end.
        token: what it asks for, "" where it asks for nothing (a board on this machine).
        timeout: seconds without an answer after which it counts as down.
    """

    url: str
    token: str = field(default="", repr=False)
    timeout: float = TIMEOUT_SECONDS

    def post(self, path: str, body: bytes | IO[bytes], *, length: int, kind: str = "application/json") -> JSON:
        """Send, and read the answer as a JSON object.

        Raises:
            RegraftError: it is down, refuses, or answers something else. The message never holds the token.
        """
        session = self._answer(urllib.request.Request(self.url + "/api/session", headers=self._headers()))
        if session.get("inside") is not True:
            raise RegraftError(f"a board asks for its token: {TOKEN} is not that of {self.url}")
        headers = self._headers() | {"Content-Type": kind, "Content-Length": str(length)}
        if proof := session.get("csrf"):  # a board of this machine, without a token
            headers["X-Regraft-CSRF"] = str(proof)
        return self._answer(urllib.request.Request(self.url + path, data=body, headers=headers, method="POST"))

    def _headers(self) -> dict[str, str]:
        return {"Accept": "application/json"} | ({"Authorization": f"Bearer {self.token}"} if self.token else {})

    def _answer(self, request: urllib.request.Request) -> JSON:
        try:
            with _opener.open(request, timeout=self.timeout) as answer:
                found = json.loads(answer.read(MAX_ANSWER))
        except urllib.error.HTTPError as error:
            with error:
                raise RegraftError(f"the board must take it: {self.url} said {error.code} ({_reason(error)})") from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            why = " ".join(str(reason).split())[:120] or type(error).__name__
            raise RegraftError(
                f"the board must be up: {self.url} does not answer ({why}); regraft runs sync sends what it missed"
            ) from None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise RegraftError(f"{URL} must be a regraft board: {self.url} answers something else")
        return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token to somebody else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirect)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What a sync did.

    Attributes:
        sent: runs that the board did not have, as "project/name" here to "project/name" there.
        known: runs that it had.
        skipped: runs that were not sent, with the reason.
        num_decisions: that were new to it.
        num_known_decisions: that it had.
        refused: decisions that it did not take, with the reason.
    """

    sent: dict[str, str]
    known: tuple[str, ...]
    skipped: dict[str, str]
    num_decisions: int = 0
    num_known_decisions: int = 0
    refused: tuple[str, ...] = ()


def server_of(environ: dict[str, str] | None = None, *, timeout: float = TIMEOUT_SECONDS) -> Server | None:
    """The team's board by the environment, or None where none is named.

    Raises:
        UsageError: the address is none of a board.
    """
    values = dict(os.environ) if environ is None else environ
    url = values.get(URL, "").strip()
    if not url:
        return None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        usable = False
    if not usable:  # it may hold a password: it is not repeated
        raise UsageError(f"{URL} must read http://HOST:PORT or https://HOST: this one does not")
    token = values.get(TOKEN, "").strip()
    if parts.fragment.startswith("token="):  # the address that `regraft up` prints, pasted whole
        token = token or parts.fragment.removeprefix("token=")
    if not token.isascii() or not token.isprintable():
        raise UsageError(f"{TOKEN} must be the board's token: it holds characters that no token has")
    return Server(f"{parts.scheme}://{parts.netloc}", token, timeout)


def push_runs(server: Server, folders: Sequence[Path], *, models: bool = False, who: str = "") -> Pushed:
    """Send finished runs that the board does not have yet, one archive each.

    Args:
        server: where to.
        folders: of runs; unfinished ones are skipped.
        models: also their weights.
        who: who made them, where an imported run does not say.

    Raises:
        RegraftError: the board is down or refuses.
    """
    skipped, packed = {}, {}
    for folder in folders:
        key = f"{folder.resolve().parent.name}/{folder.resolve().name}"
        try:
            if (folder / runs.RESULT).is_file():
                packed[key] = (folder, pack(folder, models=False, who=who))
            else:
                skipped[key] = "not finished"
        except (OSError, RegraftError) as error:
            skipped[key] = text(error, 200)
    known: set[str] = set()
    ids = [run.id for _, run in packed.values()]
    for part in _parts(ids, 5000):
        body = json.dumps({"ids": part}).encode()
        known |= set(map(str, server.post("/api/sync/known", body, length=len(body)).get("known", ())))
    sent = {}
    for key, (folder, run) in packed.items():
        if run.id not in known:
            try:
                sent[key] = _send(server, folder, run, models=models, who=who)
            except DataError as error:
                skipped[key] = text(error, 200)
    had = tuple(key for key, (_, run) in packed.items() if run.id in known)
    return Pushed(sent=sent, known=had, skipped=skipped)


def _send(server: Server, folder: Path, run: PackedRun, *, models: bool, who: str) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch) / "run.zip"
        export_runs([folder], archive, models=models, who=who)
        size = archive.stat().st_size
        if size > MAX_UPLOAD:
            hint = "leave out --models" if models else "regraft runs export makes a file of any size"
            raise DataError(f"a run is sent in at most {MAX_UPLOAD >> 20} MiB: this one has {size >> 20}; {hint}")
        with archive.open("rb") as stream:
            answer = server.post("/api/sync/runs", stream, length=size, kind="application/zip")
    rows = answer.get("runs")
    row = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    return f"{run.project}/{text(row.get('as'), 200) or run.name}"


def push_decisions(server: Server, project: str, events: Sequence[JSON]) -> tuple[int, int, tuple[str, ...]]:
    """Send decisions, a thousand at a time; returns how many were new there, how many known, and what was refused.

    Raises:
        RegraftError: the board is down or refuses; what was sent before stays sent.
    """
    accepted, known, refused = 0, 0, []
    for part in _parts(events, EVENTS_A_CALL):
        body = json.dumps({"project": project, "events": part}).encode()
        answer = server.post("/api/sync/decisions", body, length=len(body))
        accepted += len(answer.get("accepted", ()))
        known += len(answer.get("known", ()))
        refused += [
            f"{text(row.get('event_id'), 40)}: {text(row.get('reason'), 200)}" for row in answer.get("refused", ())
        ]
    return accepted, known, tuple(refused)


def after_fit(folder: Path, warn: Callable[[str], None]) -> None:
    """Send a run that just finished, where the environment names a board; said once where that does not work.

    Never raises: a fit is not lost because somebody else's machine is down.
    """
    try:
        server = server_of(timeout=QUICK_SECONDS)
        if server is None:
            return
        done = push_runs(server, [folder], who=whoami())
        for key, there in done.sent.items():
            warn(f"{key} sent to {server.url} as {there}")
        for key, why in done.skipped.items():
            warn(f"{key} was not sent to {server.url}: {why}")
    except (RegraftError, OSError) as error:
        warn(f"the run is kept here and was not sent: {error}")


def whoami() -> str:
    """The name under which runs are sent: `REGRAFT_REVIEWER`, or the user of this machine."""
    import getpass

    try:
        return text(os.environ.get("REGRAFT_REVIEWER") or getpass.getuser(), 80)
    except (OSError, KeyError, ImportError):
        return ""


def _reason(error: urllib.error.HTTPError) -> str:
    try:
        said = json.loads(error.read(10_000)).get("error")
    except (OSError, ValueError, AttributeError, RecursionError):
        said = None
    return text(said, 200) or text(error.reason, 80)


def _parts(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
