"""The process that keeps the board and TensorBoard up: `python -P -m regraft.board.supervisor FOLDER`.

It starts each part in a session of its own, asks after its health, and starts it again when it ends, with pauses that
grow. When it is killed itself the parts run on: the board starts another supervisor, which takes them over as they are
written down. It ends, and ends them, on SIGTERM, or when nothing is wanted up any more.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import Popen
from types import FrameType

from filelock import Timeout

from regraft.board.health import ailment, is_taken
from regraft.board.logs import rotate
from regraft.board.processes import detach, end, identify, lives
from regraft.board.state import PID, Asked, Part, Place, State
from regraft.errors import RegraftError
from regraft.files import write_text

FIRST_PORTS = {"board": 8765, "tensorboard": 6006}
STEADY = 60.0
"""Seconds up after which earlier ends no longer count."""

LONGEST_PAUSE = 300.0
"""A start costs 2 to 5 s of a core: at most 2 % of it for a part that never comes up."""

EVERY = 15.0
"""Seconds from one look at the health of a part that is up to the next."""

HUNG = 120.0
"""Seconds without an answer after which a part is ended and started again."""

Command = Callable[[Part], Sequence[str]]


def pause(ended: int) -> float:
    """Seconds before the next start of what ended `ended` times in a row: 1, 2, 4, … 300."""
    return float(min(2 ** max(ended - 1, 0), LONGEST_PAUSE))


def commands(place: Place, asked: Asked) -> dict[str, Command]:
    """How each part is started. -P: a file of the folder one is in must not stand in for a module."""
    python = [sys.executable, "-P", "-m"]
    found: dict[str, Command] = {}
    if asked.tensorboard:  # first: the board links to its port
        found["tensorboard"] = lambda part: [
            *python, "tensorboard.main", "--logdir", asked.runs_dir, "--host", part.host, "--port", str(part.port),
            "--reload_multifile", "true",
        ]  # fmt: skip
    found["board"] = lambda part: [*python, "regraft.board.serving", str(place.folder), str(part.port)]
    return found


class Supervisor:
    """Keeps the parts of one place up until `stop`.

    Args:
        place: where it is written down.
        asked: what was asked for.
        commands: part to what starts it; by default those of `commands`.
    """

    def __init__(self, place: Place, asked: Asked, commands: Mapping[str, Command]) -> None:
        me = identify(os.getpid())
        assert me is not None
        self._place, self._asked, self._commands = place, asked, commands
        self._state = State(supervisor=me)
        self._children: dict[str, Popen[bytes]] = {}
        self._well: dict[str, tuple[float, float]] = {}  # last look, last time it was well
        self._stopping, self._woken = False, threading.Event()
        self._written: object = None

    def stop(self, *_: object) -> None:
        """End the parts, then itself."""
        self._stopping = True
        self._woken.set()

    def wake(self, number: int, frame: FrameType | None) -> None:
        """Look now: a part has ended."""
        self._woken.set()

    def run(self) -> None:
        """Until it is stopped."""
        self._take_over()
        while not self._stopping and self._place.wanted:
            for part in self._state.parts.values():
                self._look_after(part)
            self._write()
            for name in (*self._commands, "supervisor"):
                rotate(self._place.log(name))
            starting = any(part.status == "starting" for part in self._state.parts.values())
            self._woken.wait(0.2 if starting else 1.0)
            self._woken.clear()
        for part in reversed(self._state.parts.values()):
            if part.process is not None and end(part.process, patience=10):
                _say(f"{part.name}: ended, as asked")
        self._place.clear()

    def _take_over(self) -> None:
        """The parts that a killed supervisor left running, and ports for the others."""
        known: dict[str, Part] = {}
        with contextlib.suppress(RegraftError):
            state = self._place.state()
            known = state.parts if state is not None else {}
        for name in self._commands:
            host = self._asked.host if name == "board" else self._asked.tensorboard_host
            part = known.get(name)
            if part is not None and lives(part.process):
                _say(f"{name}: taken over, process {part.process.pid if part.process else ''}")
            else:  # after a reboot the same ports again, where they are free
                again = part is not None and part.host == host and not is_taken(host, part.port)
                port = part.port if part is not None and again and self._asked.port is None else self._port(name, host)
                part = Part(name=name, host=host, port=port)
            self._state.parts[name] = part
            self._well[name] = (0.0, time.monotonic())

    def _port(self, name: str, host: str) -> int:
        if name == "board" and self._asked.port is not None:
            return self._asked.port
        mine = {part.port for part in self._state.parts.values()}
        first = FIRST_PORTS[name]
        return next((port for port in range(first, first + 1000) if port not in mine and not is_taken(host, port)), 0)

    def _look_after(self, part: Part) -> None:
        if part.status == "waiting":
            if time.time() >= part.next_start or part.next_start > time.time() + 2 * LONGEST_PAUSE:  # the clock was set
                self._start(part)
            return
        child = self._children.get(part.name)
        code = child.poll() if child is not None else None
        if not lives(part.process):
            self._ended(part, _how(code))
            return
        looked, well = self._well[part.name]
        now = time.monotonic()
        if part.status == "up" and now - looked < EVERY:
            return
        wrong = ailment(part, self._asked)
        self._well[part.name] = (now, now if not wrong else well)
        if not wrong:
            if part.status == "starting":
                _say(f"{part.name}: up at {part.host}:{part.port}")
            part.status = "up"
            if part.process is not None and time.time() - part.process.since > STEADY:
                part.ended = 0
        elif now - well > HUNG and part.process is not None:
            _say(f"{part.name}: {wrong} for {HUNG:.0f} s")
            end(part.process, patience=5)
            self._ended(part, f"ended because it did not answer for {HUNG:.0f} s")

    def _start(self, part: Part) -> None:
        try:
            child = detach(
                self._commands[part.name](part),
                self._place.log(part.name),
                environment={"TMPDIR": str(self._place.folder)} if part.name == "tensorboard" else {},
            )
        except OSError as error:
            self._ended(part, f"it could not be started ({error.strerror or error})")
            return
        self._children[part.name] = child
        part.process, part.status = identify(child.pid), "starting"
        self._well[part.name] = (0.0, time.monotonic())
        self._write()  # at once: whoever takes over must know of it

    def _ended(self, part: Part, how: str) -> None:
        was_starting = part.status == "starting"
        part.status, part.process, part.reason = "waiting", None, how
        chosen = part.name != "board" or self._asked.port is None
        if was_starting and chosen and is_taken(part.host, part.port):  # somebody was quicker
            part.port, part.next_start = self._port(part.name, part.host), 0.0
            _say(f"{part.name}: its port was taken; the next free one is {part.port}")
            return
        part.ended += 1
        part.next_start = time.time() + pause(part.ended)
        _say(f"{part.name}: {how}; started again in {pause(part.ended):.0f} s")

    def _write(self) -> None:
        """What has changed; a full disk is tried again at the next look."""
        now = repr(self._state)
        if now != self._written:
            with contextlib.suppress(OSError):
                self._place.keep(self._state)
                self._written = now


def main(words: Sequence[str]) -> int:
    """Run as a process of its own; returns the exit code."""
    place = Place(Path(words[0]))
    try:
        with place.supervising().acquire(timeout=5):  # somebody may only be asking whether it is held
            asked = place.asked()
            if asked is None:
                return 0
            with contextlib.suppress(OSError):
                write_text(place.folder / PID, f"{os.getpid()}\n")  # for systemd
            supervisor = Supervisor(place, asked, commands(place, asked))
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # inherited by the parts, as with nohup
            signal.signal(signal.SIGTERM, supervisor.stop)
            signal.signal(signal.SIGINT, supervisor.stop)
            signal.signal(signal.SIGCHLD, supervisor.wake)
            supervisor.run()
    except Timeout:
        _say("another supervisor is there already")
    except RegraftError as error:
        _say(str(error))
        return error.exit_code
    return 0


def _how(code: int | None) -> str:
    if code is None:
        return "it ended"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"it was ended by {signal.Signals(-code).name}"
    return f"it ended with exit code {code}"


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk
        print(time.strftime("%Y-%m-%d %H:%M:%S"), text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
