"""What is remembered of a background board: a private folder for each runs folder, user and machine.

    <the user's state folder>/regraft/up/<machine>/<hash of the runs folder>/
        lock              held by whoever starts or stops
        supervising.lock  held by the one supervisor while it lives
        asked.json        what `up` was asked for; as long as it is there, the parts are wanted
        state.json        which processes run; written by the supervisor alone
        token             what visitors must present, kept so that bookmarks stay good; deleted, there is another
        board.log, tensorboard.log, supervisor.log, and one older piece of each (.1)

The machine is part of the path because home folders are shared over networks, and a process number says nothing on
another machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from regraft.board.processes import Process
from regraft.errors import RegraftError
from regraft.files import replacing
from regraft.types import JSON

Kept = TypeVar("Kept")

ASKED, STATE, PID, TOKEN = "asked.json", "state.json", "supervisor.pid", "token"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What `regraft up` was asked for; paths are absolute.

    Attributes:
        runs_dir: folder of the run folders.
        data: the images that belong to it, or None.
        desk: the file of what an audit of them prepared for review, or None.
        host: address to listen on.
        port: the board's port, or None for the next free one.
        tensorboard: whether TensorBoard runs beside it.
        tensorboard_host: address that TensorBoard listens on; it knows no tokens.
        database: its URL, with the password, or None for the file in the runs folder.
        cache_dir: features, audits, thumbnails.
        token: what visitors of the board must present, or None.
    """

    runs_dir: str
    cache_dir: str
    data: str | None = None
    desk: str | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    tensorboard: bool = True
    tensorboard_host: str = "127.0.0.1"
    database: str | None = None
    token: str | None = None


@dataclass(slots=True, kw_only=True)
class Part:
    """One of the two servers, as its supervisor sees it.

    Attributes:
        name: board or tensorboard.
        host: address it listens on.
        port: its port.
        status: starting, up, or waiting (it ended, and is started again later).
        process: which one it is, None while waiting.
        ended: how often in a row it ended before it had been up for a minute.
        reason: how it ended the last time, "" if it did not.
        next_start: POSIX time of the next start while waiting.
    """

    name: str
    host: str
    port: int
    status: str = "waiting"
    process: Process | None = None
    ended: int = 0
    reason: str = ""
    next_start: float = 0.0


@dataclass(slots=True, kw_only=True)
class State:
    """Which processes run."""

    supervisor: Process
    parts: dict[str, Part] = field(default_factory=dict)


class Place:
    """The folder of one background board.

    Args:
        folder: as `place_of` or `places` give it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self) -> None:
        """Create it, for this user only.

        Raises:
            RegraftError: it belongs to somebody else.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = self.folder.stat().st_uid
        if owner != os.geteuid():
            raise RegraftError(
                f"what is up is remembered in a folder of one's own: {self.folder} belongs to user {owner}, and this "
                f"is user {os.geteuid()}; set XDG_STATE_HOME to a folder of yours"
            )
        self.folder.chmod(0o700)

    def lock(self) -> FileLock:
        """Held while starting or stopping; waits two minutes for another who does."""
        return FileLock(self.folder / "lock", timeout=120, mode=0o600)

    def supervising(self) -> FileLock:
        """Held by the supervisor while it lives: there is never a second one."""
        return FileLock(self.folder / "supervising.lock", timeout=0, mode=0o600)

    def token(self, fresh: str) -> str:
        """The token that visitors of this runs folder know, else `fresh`, which is kept for the next time."""
        path = self.folder / TOKEN
        with contextlib.suppress(OSError, ValueError):
            kept = path.read_text("ascii").strip()
            if len(kept) >= len(fresh):
                return kept
        with private(path) as aside:
            aside.write_text(fresh + "\n", "ascii")
        return fresh

    @property
    def is_supervised(self) -> bool:
        """Whether a supervisor lives, whatever is written down; asked by whoever holds `lock`, or now and then."""
        try:
            with self.supervising():
                return False
        except (Timeout, OSError):
            return True

    def log(self, part: str) -> Path:
        """The log of a part, or of the supervisor."""
        return self.folder / f"{part}.log"

    def asked(self) -> Asked | None:
        """What is wanted up, or None."""
        return _read(self.folder / ASKED, lambda value: Asked(**value))

    def ask(self, asked: Asked) -> None:
        """Say what is wanted up."""
        _write(self.folder / ASKED, dataclasses.asdict(asked))

    @property
    def wanted(self) -> bool:
        """Whether anything is wanted up."""
        return (self.folder / ASKED).exists()

    def forget(self) -> None:
        """Nothing is wanted up any more; needs no room on the disk."""
        (self.folder / ASKED).unlink(missing_ok=True)

    def state(self) -> State | None:
        """Which processes run, as last written, or None."""
        return _read(self.folder / STATE, _state)

    def keep(self, state: State) -> None:
        """Write it, or raise OSError."""
        _write(self.folder / STATE, dataclasses.asdict(state))

    def clear(self) -> None:
        """Everything has ended; the logs stay."""
        for name in (STATE, PID):
            (self.folder / name).unlink(missing_ok=True)


def state_dir() -> Path:
    """Of this user on this machine; `$XDG_STATE_HOME` moves it on Linux."""
    from platformdirs import user_state_path

    return user_state_path("regraft") / "up" / (re.sub(r"[^\w.-]", "_", platform.node()).strip(".") or "machine")


def place_of(runs_dir: Path) -> Place:
    """The place of a runs folder, whether anything is there or not."""
    return Place(state_dir() / hashlib.sha256(os.fsencode(runs_dir.resolve())).hexdigest()[:16])


def places() -> list[Place]:
    """Those of this user, on this machine, where something is wanted up or runs."""
    with contextlib.suppress(OSError):
        folders = sorted(state_dir().iterdir())
        return [Place(folder) for folder in folders if (folder / ASKED).exists() or (folder / STATE).exists()]
    return []


@contextlib.contextmanager
def private(path: Path) -> Iterator[Path]:
    """As `files.replacing`, for a file that only its owner may read from its first byte on."""
    with replacing(path) as aside:
        os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield aside


def _write(path: Path, value: JSON) -> None:
    with private(path) as aside:
        aside.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def _read(path: Path, build: Callable[[Any], Kept]) -> Kept | None:
    try:
        return build(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RegraftError(
            f"{path} must be as regraft up wrote it, and is not ({error or type(error).__name__}); regraft down stops "
            "what belongs to it, then up again"
        ) from None


def _state(value: JSON) -> State:
    def process(found: JSON | None) -> Process | None:
        return None if found is None else Process(**found)

    parts = {name: Part(**{**part, "process": process(part["process"])}) for name, part in value["parts"].items()}
    return State(supervisor=Process(**value["supervisor"]), parts=parts)
