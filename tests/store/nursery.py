"""Processes that write to a database and can be killed: forked from one that has imported everything, in milliseconds.

with nursery() as nurse:
    pid = nurse.start("write", url, "Ada", 0, 5, 100)    # append events 0..99, five a call
    pid, line = nurse.read()                             # the id of an event that was acknowledged to `pid`
    nurse.kill(pid)                                      # -9; returns what it had said and nobody had read
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write(url: str, reviewer: str, first: int, size: int, count: int) -> None:
    """Append events, `size` a call, and say which were acknowledged."""
    ledger = _ledger(url)
    for start in range(first, first + count, size):
        done = ledger.append([event(n, reviewer=reviewer) for n in range(start, start + size)])
        for name in done.accepted:
            _say(name)


def die_within(url: str, first: int) -> None:
    """Insert events and die before the transaction commits."""
    ledger = _ledger(url)
    with ledger.database.begin() as connection:
        ledger._take_turn(connection)
        connection.execute(DECISIONS.insert(), ledger._rows(connection, [event(n) for n in range(first, first + 5)]))
        os.kill(os.getpid(), signal.SIGKILL)


def open_(url: str) -> None:
    """Open a database, making or migrating it."""
    open_database(url, runs_dir=Path()).close()
    _say("open")


def _ledger(url: str) -> Ledger:
    return Ledger(open_database(url, runs_dir=Path()), PROJECT)


def _say(word: str) -> None:
    os.write(1, f"{os.getpid()} {word}\n".encode())  # short: arrives whole


class Nurse:
    """The test's end of the process that forks the others."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._unread: list[tuple[int, str]] = []

    def start(self, function: str, *arguments: object) -> int:
        """Start a process that runs one of the functions above; returns its pid."""
        self._tell(["start", function, *arguments])
        pid, word = self._fresh()
        while word != "started":
            self._unread.append((pid, word))
            pid, word = self._fresh()
        return pid

    def read(self) -> tuple[int, str]:
        """The next line of any of them: who, and what."""
        return self._unread.pop(0) if self._unread else self._fresh()

    def wait(self, pid: int) -> list[str]:
        """Wait for its end; returns the lines of it that were not read. Its exit status is the last."""
        self._tell(["wait", pid])
        lines = [word for who, word in self._unread if who == pid]
        self._unread = [(who, word) for who, word in self._unread if who != pid]
        while True:
            who, word = self._fresh()
            if who != pid:
                self._unread.append((who, word))
                continue
            lines.append(word)
            if word.startswith("ended"):
                return lines

    def kill(self, pid: int) -> list[str]:
        """Kill it, -9; returns as `wait`."""
        os.kill(pid, signal.SIGKILL)
        return self.wait(pid)

    def _fresh(self) -> tuple[int, str]:
        line = self._process.stdout.readline()
        assert line, "the nursery ended"
        who, _, word = line.strip().partition(" ")
        return int(who), word

    def _tell(self, command: list[object]) -> None:
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()


@contextmanager
def nursery() -> Iterator[Nurse]:
    """Start the process that forks the others."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    try:
        yield Nurse(process)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(60)


def _serve() -> None:
    for line in sys.stdin:
        command, *words = json.loads(line)
        if command == "wait":
            _, status = os.waitpid(words[0], 0)
            os.write(1, f"{words[0]} ended {os.waitstatus_to_exitcode(status)}\n".encode())
        elif (child := os.fork()) == 0:
            try:
                globals()[words[0]](*words[1:])
            except BaseException as error:
                _say(f"failed {error!r}".replace("\n", " "))
                os._exit(1)
            os._exit(0)
        else:
            os.write(1, f"{child} started\n".encode())


if __name__ == "__main__":
    import alembic.command  # noqa: F401
    import psycopg  # noqa: F401
    from histories import PROJECT, event

    from regraft.store.db import open_database
    from regraft.store.decisions import DECISIONS, Ledger

    _serve()
