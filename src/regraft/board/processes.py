"""Exactly that process: one is known by its number and its birth, for numbers are used again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from regraft.types import JSON

_detached: list[subprocess.Popen[bytes]] = []
"""Kept, because a forgotten Popen complains that its process still runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that is, or was.

    Attributes:
        pid: its number.
        birth: on Linux the boot and the clock tick at which it began; elsewhere its `create_time`.
        since: POSIX time at which it began.
    """

    pid: int
    birth: str
    since: float


def identify(pid: int) -> Process | None:
    """The process that has this number now; None where there is none, or only one that nobody has waited for.

    psutil's `create_time` alone would not do on Linux: it moves when somebody sets the clock, as after a suspend.
    """
    import psutil

    try:
        found = psutil.Process(pid)
        since, dead = found.create_time(), found.status() == psutil.STATUS_ZOMBIE
        birth = _tick(pid) or f"{since:.2f}"
    except (psutil.Error, ValueError, OSError):
        return None
    return None if dead else Process(pid=pid, birth=birth, since=round(since, 2))


def lives(process: Process | None) -> bool:
    """Whether exactly this process still runs."""
    if process is None:
        return False
    found = identify(process.pid)
    return found is not None and found.birth == process.birth


def signal_to(process: Process, number: int, *, group: bool = False) -> bool:
    """Send a signal to exactly this process, with `group` to those it started as well; False where it has gone.

    On Linux the process is held by a descriptor while its birth is compared, so that its number cannot change hands.
    """
    handle = None
    with contextlib.suppress(OSError, AttributeError):  # macOS has none
        handle = os.pidfd_open(process.pid)
    try:
        if not lives(process):
            return False
        if group and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
        elif handle is not None:
            signal.pidfd_send_signal(handle, number)
        else:
            os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    finally:
        if handle is not None:
            os.close(handle)
    return True


def end(process: Process, *, patience: float) -> bool:
    """Ask a process to end, and after `patience` seconds end it and those it started; False where it had gone."""
    if not signal_to(process, signal.SIGTERM):
        return False
    if not wait_gone(process, patience):
        signal_to(process, signal.SIGKILL, group=True)
        wait_gone(process, patience)
    return True


def wait_gone(process: Process, seconds: float) -> bool:
    """Whether it is gone within this time."""
    limit = time.monotonic() + seconds
    while lives(process):
        if time.monotonic() > limit:
            return False
        for child in _detached:  # one's own children are not gone before somebody waits for them
            child.poll()
        time.sleep(0.05)
    return True


def detach(command: Sequence[str], log: Path, *, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a process that no terminal reaches: a session of its own, nothing to read, its words appended to `log`."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
        )  # fmt: skip
    finally:
        os.close(output)
    _detached.append(child)
    return child


def memory_bytes(process: Process) -> int | None:
    """What it and those it started hold in memory (resident), or None where it has gone."""
    import psutil

    if not lives(process):
        return None
    total = 0
    with contextlib.suppress(psutil.Error):
        found = psutil.Process(process.pid)
        for one in (found, *found.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += one.memory_info().rss
    return total


def as_json(process: Process | None) -> JSON:
    """Its number and since when, for people and scripts."""
    return {"pid": None, "since": None} if process is None else {"pid": process.pid, "since": process.since}


def _tick(pid: int) -> str | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return None
    return f"{boot}:{fields[19]}"  # field 22 of the line: `starttime`
