"""Bringing the board and TensorBoard up, looking at them, and taking them down again."""

from __future__ import annotations

import dataclasses
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

from filelock import Timeout

from regraft.board.health import address_of, ailment, full_disks, is_taken, reachable
from regraft.board.logs import tail
from regraft.board.processes import Process, as_json, detach, end, lives, memory_bytes, signal_to
from regraft.board.serving import supervisor_command
from regraft.board.site import is_loopback
from regraft.board.state import Asked, Part, Place, State, place_of, places
from regraft.errors import RegraftError, UsageError
from regraft.types import JSON

LIMIT = 120.0
"""Seconds until both parts must answer. On two busy cores TensorBoard takes 10 to 20."""

TAIL = 12
"""Lines of a log that are shown when a part does not come up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartStatus:
    """How one part is.

    Attributes:
        name: board or tensorboard.
        address: for this machine, with the token where there is one.
        process: which one it is, or None.
        memory_bytes: resident, those it started included, or None.
        healthy: whether it answers.
        why: why not, "" where it does.
    """

    name: str
    address: str
    process: Process | None
    memory_bytes: int | None
    healthy: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a background board is.

    Attributes:
        runs_dir: whose runs.
        data: the images that it was started for, or None.
        review: whether their review is on the board.
        supervisor: the process that keeps the parts up, or None where it is gone.
        parts: the board, and TensorBoard where it was asked for.
        forward: what makes the addresses work on another machine, or "" where they do.
        notes: what else a person should know: full disks, a missing supervisor.
        folder: where logs and state are kept.
    """

    runs_dir: str
    data: str | None
    review: bool
    supervisor: Process | None
    parts: tuple[PartStatus, ...]
    forward: str
    notes: tuple[str, ...]
    folder: Path

    @property
    def healthy(self) -> bool:
        """Whether every part answers and is looked after."""
        return self.supervisor is not None and all(part.healthy for part in self.parts)

    def as_dict(self) -> JSON:
        """As `regraft status --json` prints it."""
        return {
            "runs_dir": self.runs_dir, "data": self.data, "review": self.review, "healthy": self.healthy,
            "supervisor": as_json(self.supervisor),
            "parts": [
                {
                    "part": part.name, "address": part.address, **as_json(part.process),
                    "memory_bytes": part.memory_bytes, "healthy": part.healthy, "why": part.why,
                }
                for part in self.parts
            ],
            "forward": self.forward, "notes": list(self.notes), "folder": str(self.folder),
        }  # fmt: skip


def ask(
    *,
    runs_dir: Path,
    cache_dir: Path,
    data: Path | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    tensorboard: bool | None = None,
    database: str | None = None,
    token: bool | None = None,
) -> Asked:
    """What `up` takes, checked.

    Args:
        runs_dir: folder of the run folders; it is made where it does not exist.
        cache_dir: features, audits, thumbnails.
        data: the images that belong to it.
        host: address to listen on.
        port: the board's, or None for the next free one from 8765.
        tensorboard: whether TensorBoard runs beside it, on the same address; None: yes, but as it knows no tokens never
            on an address that others reach.
        database: its URL, or None.
        token: whether visitors need one; None: on every address but loopback.

    Raises:
        UsageError: no such data, a port that is no port, or a board without a token that others reach.
    """
    if os.name != "posix":
        raise UsageError("regraft up needs Linux or macOS: this is neither")
    if data is not None and not data.exists():
        raise UsageError(f"the images must exist: {str(data)!r} does not")
    if port is not None and not 1 <= port <= 65_535:
        raise UsageError(f"a port is a number from 1 to 65535: {port} is not")
    if is_taken(host, 0):
        raise UsageError(f"a host is an address of this machine: {host!r} is not; 127.0.0.1 always is")
    open_to_others = not is_loopback(host)
    if open_to_others and token is False:
        raise UsageError(f"a board that others reach needs a token: --no-token with --host {host} is refused")
    runs_dir.mkdir(parents=True, exist_ok=True)
    return Asked(
        runs_dir=str(runs_dir.resolve()),
        cache_dir=str(cache_dir.resolve()),
        data=None if data is None else str(data.resolve()),
        host=host,
        port=port,
        tensorboard=tensorboard is not False,
        tensorboard_host=host if tensorboard or not open_to_others else "127.0.0.1",
        database=database,
        token=secrets.token_urlsafe(24) if token or open_to_others else None,
    )


def up(
    asked: Asked, *, find_desk: Callable[[], Path | None] = lambda: None, limit: float = LIMIT
) -> tuple[Status, bool]:
    """Bring the parts up and wait until they answer, or find that they are.

    Args:
        asked: as `ask` gives it.
        find_desk: looks for what an audit prepared for review; only where nothing is up yet, as it reads the images.
        limit: seconds until every part must answer.

    Returns:
        How they are, and whether they were up before.

    Raises:
        UsageError: the port that was asked for is taken.
        RegraftError: the board did not come up; the message ends with the last lines of its log, and nothing is left
            running.
    """
    place = place_of(Path(asked.runs_dir))
    place.make()
    with place.lock():
        before = _running(place)
        if before is not None:
            return status(place), True
        if asked.port is not None and is_taken(asked.host, asked.port):
            raise UsageError(f"a port must be free: {asked.port} of {asked.host} is taken; leave --port out")
        desk = find_desk()
        token = None if asked.token is None else place.token(asked.token)
        place.ask(dataclasses.replace(asked, desk=None if desk is None else str(desk), token=token))
        supervisor = detach(supervisor_command(place), place.log("supervisor"), environment={})
        try:
            failed = _wait(place, asked, lambda: supervisor.poll() is None, limit)
            if failed == "board":
                raise RegraftError(_why_not(place, "board"))
        except BaseException:
            _down(place)
            raise
        return status(place), False


def status(place: Place) -> Status:
    """How the parts are now: each is asked."""
    asked, state = place.asked(), place.state()
    assert asked is not None or state is not None, "places() finds only those where something is"
    asked = asked or Asked(runs_dir="", cache_dir="")
    supervisor = state.supervisor if state is not None and lives(state.supervisor) else None
    parts = [_status_of(part, asked, supervisor) for part in (state.parts.values() if state is not None else ())]
    parts.sort(key=lambda part: part.name)
    notes = full_disks(place.folder, asked)
    if supervisor is None:
        notes.append(_unsupervised(place, parts))
    return Status(
        runs_dir=asked.runs_dir, data=asked.data, review=asked.desk is not None, supervisor=supervisor,
        parts=tuple(parts),
        forward=forward_line(list(state.parts.values()) if state is not None else []), notes=tuple(notes),
        folder=place.folder,
    )  # fmt: skip


def down(place: Place) -> list[Process]:
    """End exactly what `up` started; a process that has got the number of one of them is left alone.

    Returns:
        The processes that were ended.
    """
    with place.lock():
        return _down(place)


def chosen(runs_dir: Path | None) -> Place:
    """The background board that is meant: of this runs folder, else of ./runs, else the only one.

    Raises:
        RegraftError: there is none.
        UsageError: there are several.
    """
    found = places()
    if runs_dir is not None or place_of(Path("runs")).folder in [place.folder for place in found]:
        place = place_of(runs_dir or Path("runs"))
        if place.folder not in [one.folder for one in found]:
            raise RegraftError(f"nothing is up for {str(runs_dir)!r}; regraft up --runs-dir {runs_dir} starts it")
        return place
    if not found:
        raise RegraftError("nothing is up; regraft up DATA starts the board and TensorBoard")
    if len(found) > 1:
        names = ", ".join(sorted(asked.runs_dir for place in found if (asked := place.asked())))
        raise UsageError(f"several boards are up: say which with --runs-dir: {names}")
    return found[0]


def forward_line(parts: Sequence[Part]) -> str:
    """`ssh -L …` for a reader on another machine, for the parts that only this machine reaches."""
    local = [part for part in parts if is_loopback(part.host)]
    if not local:
        return ""
    tunnels = " ".join(f"-L {part.port}:{reachable(part.host)}:{part.port}" for part in local)
    machine, port = socket.gethostname(), ""
    session = os.environ.get("SSH_CONNECTION", "").split()  # where the reader came from: client, port, server, port
    if len(session) == 4:
        machine, port = session[2], "" if session[3] == "22" else f"-p {session[3]} "
    return f"ssh {port}{tunnels} {getuser()}@{machine}"


def _running(place: Place) -> State | None:
    """What is up; where the supervisor was killed another one takes the parts over."""
    if not place.wanted:
        return None
    state = place.state()
    if state is None:
        return None
    if lives(state.supervisor):
        return state
    if any(lives(part.process) for part in state.parts.values()):
        detach(supervisor_command(place), place.log("supervisor"), environment={})
        limit = time.monotonic() + 20
        while time.monotonic() < limit:
            now = place.state()
            if now is not None and lives(now.supervisor):
                return now
            time.sleep(0.05)
    return None


def _wait(place: Place, asked: Asked, alive: Callable[[], bool], limit: float) -> str:
    """Wait for every part; "" or the name of one that failed."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        state = place.state()
        parts = state.parts if state is not None and lives(state.supervisor) else {}
        if parts and all(part.status == "up" for part in parts.values()):
            return ""
        failed = [name for name, part in parts.items() if part.ended]
        if "board" in failed or not alive():
            return "board"
        if failed and parts["board"].status == "up":
            return failed[0]
        time.sleep(0.05)
    state = place.state()
    board = state.parts.get("board") if state is not None else None
    return "board" if board is None or board.status != "up" else "tensorboard"


def _why_not(place: Place, part: str) -> str:
    state = place.state()
    found = state.parts.get(part) if state is not None else None
    log = part if found is not None else "supervisor"
    why = found.reason if found is not None else "it was not started"
    lines = "\n  ".join(["", *tail(place.log(log), TAIL)])
    end = f"nothing was left running. {place.log(log)}:{lines}"
    return f"the {part} must come up and did not ({why or 'no answer'}); {end}"


def _status_of(part: Part, asked: Asked, supervisor: Process | None) -> PartStatus:
    why = ailment(part, asked)
    process = part.process if lives(part.process) else None
    if part.status == "waiting" and supervisor is not None and why:
        why += f"; started again in {max(part.next_start - time.time(), 0):.0f} s"
    token = f"#token={asked.token}" if part.name == "board" and asked.token else ""
    return PartStatus(
        name=part.name, address=address_of(part) + token, process=process,
        memory_bytes=None if process is None else memory_bytes(process), healthy=not why, why=why,
    )  # fmt: skip


def _unsupervised(place: Place, parts: Sequence[PartStatus]) -> str:
    if place.is_supervised:
        return "the process that looks after the parts is there, and cannot write down what it does"
    gone = "the process that looks after the parts is gone"
    if any(part.name == "board" and part.process for part in parts):
        return f"{gone}; the board starts another one"
    return f"{gone}, and with it the board: regraft up again"


def _down(place: Place) -> list[Process]:
    place.forget()  # first: from now on nobody starts anything again
    try:
        state = place.state()
    except RegraftError:  # damaged: nobody is known by number, and the supervisor sees that nothing is wanted
        state = None
    parts = [] if state is None else [part.process for part in state.parts.values() if part.process is not None]
    known = [process for process in (*parts, state.supervisor if state is not None else None) if lives(process)]
    if state is not None:
        signal_to(state.supervisor, signal.SIGTERM)
    try:
        place.supervising().acquire(timeout=60).lock.release()  # free when the supervisor has ended, with its parts
    except Timeout:
        if state is not None:
            end(state.supervisor, patience=5)
    for process in parts:  # where the supervisor was killed
        end(process, patience=10)
    place.clear()
    return [process for process in known if process is not None]
