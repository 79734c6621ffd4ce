"""Logs of bounded size, and their last lines.

The parts append to their files by themselves, so that they do not depend on a reader; a file that has grown is copied
aside and emptied under them (an appending writer goes on at the new end).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

MOST = 4 << 20
"""Bytes of a log before its content moves to the older piece, which it replaces: at most twice this is kept."""


def rotate(log: Path, *, most: int = MOST) -> None:
    """Move what has been written aside where it is more than `most` bytes; on a full disk it is dropped."""
    try:
        if log.stat().st_size <= most:
            return
        older = log.with_name(f"{log.name}.1")
        with contextlib.suppress(OSError):
            with log.open("rb") as source:
                source.seek(-most, os.SEEK_END)
                kept = source.read(most)
            older.unlink(missing_ok=True)
            older.touch(0o600)
            older.write_bytes(kept)
        os.truncate(log, 0)
    except OSError:
        return


def tail(log: Path, lines: int) -> list[str]:
    """The last lines of a log, of its older piece too where it was just emptied; [] where there is none."""
    text = b""
    for path in (log.with_name(f"{log.name}.1"), log):
        with contextlib.suppress(OSError), path.open("rb") as source:
            size = source.seek(0, os.SEEK_END)
            source.seek(max(size - (1 << 20), 0))
            text += source.read(1 << 20)
    return text.decode("utf-8", "replace").splitlines()[-lines:] if lines else []


def follow(
    logs: Mapping[str, Path], *, stop: Callable[[], bool] = lambda: False, pause: float = 0.25
) -> Iterator[tuple[str, str]]:
    """(name, line) of whole lines that are appended to any of them from this call on, until `stop()`."""
    return _appended(logs, {name: log.stat().st_size if log.exists() else 0 for name, log in logs.items()}, stop, pause)


def _appended(
    logs: Mapping[str, Path], positions: dict[str, int], stop: Callable[[], bool], pause: float
) -> Iterator[tuple[str, str]]:
    rest = dict.fromkeys(logs, b"")
    while True:
        ends = stop()  # asked before reading, so that the last lines are read
        for name, log in logs.items():
            with contextlib.suppress(OSError), log.open("rb") as source:
                if source.seek(0, os.SEEK_END) < positions[name]:  # it was emptied
                    positions[name] = 0
                source.seek(positions[name])
                new = source.read()
                positions[name] += len(new)
                *whole, rest[name] = (rest[name] + new).split(b"\n")
                for line in whole:
                    yield name, line.decode("utf-8", "replace")
        if ends:
            return
        time.sleep(pause)
