"""Boards in the background for tests: real processes, a state folder of their own, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from regraft.board.daemon import down, status
from regraft.board.state import Place

REGRAFT = (sys.executable, "-c", "import sys; from regraft.cli import main; sys.exit(main())")
WAIT = 90.0
"""Generous: the machine may be busy. Nothing waits this long unless it fails."""


@dataclass
class User:
    """Somebody with a state folder and a runs folder.

    Attributes:
        home: of this user's files.
    """

    home: Path
    runs: Path = field(init=False)

    def __post_init__(self) -> None:
        self.runs = self.home / "runs"
        (self.home / "state").mkdir(parents=True, exist_ok=True)

    @property
    def env(self) -> dict[str, str]:
        gone = ("SSH_CONNECTION", "REGRAFT_DATABASE_URL")
        plain = {name: value for name, value in os.environ.items() if name not in gone}
        return plain | {
            "XDG_STATE_HOME": str(self.home / "state"), "XDG_CONFIG_HOME": str(self.home / "config"),
            "REGRAFT_CACHE_DIR": str(self.home / "cache"), "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def call(self, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`regraft WORDS`, as this user."""
        done = subprocess.run(
            [*REGRAFT, *map(str, words)], env=self.env, cwd=self.home, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=200, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, (done.stdout, done.stderr, self.logs())
        return done

    def up(self, *words: object) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.call("up", "--runs-dir", self.runs, *words, "--json").stdout)
        return found

    def status(self) -> dict[str, Any]:
        """What `regraft status --json` says, without a process of its own."""
        return status(Place(self.folder)).as_dict()

    def tidy(self) -> None:
        """Leave nothing behind."""
        for folder in (self.home / "state").glob("regraft/up/*/*"):
            down(Place(folder))

    @property
    def folder(self) -> Path:
        """Where its state is kept."""
        return next((self.home / "state").glob("regraft/up/*/*"))

    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "state.json").read_text()))

    def logs(self) -> str:
        return "\n".join(path.read_text("utf-8", "replace") for path in (self.home / "state").rglob("*.log"))

    def wait(self, good: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask for the status until it is good."""
        limit = time.monotonic() + WAIT
        while True:
            found = self.status()
            if good(found):
                return found
            assert time.monotonic() < limit, (found, self.logs())


def part(status: dict[str, Any], name: str = "board") -> dict[str, Any]:
    """One part of a status."""
    return next(dict(one) for one in status["parts"] if one["part"] == name)


def until(good: Callable[[], Any], what: str) -> Any:
    """The first true value of `good()`."""
    limit = time.monotonic() + WAIT
    while True:
        if found := good():
            return found
        assert time.monotonic() < limit, what
        time.sleep(0.02)
