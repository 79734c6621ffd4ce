"""A board that can be killed: a process of its own, forked from one that has imported everything, in 0.1 s and not 2.

with mortal_board(folder, 300) as board:      # a desk of 300 drawn images; nobody serves it yet
    board.start()                             # accepts connections on board.port, the same each time
    board.kill()                              # -9, at any moment, from any thread
    board.start("written", 3)                 # kills itself in the third append from now: see `mortally`
    board.buried()                            # waits for its end
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOMENTS = ("asked", "written", "committed")
"""Of an append, at which a board kills itself: nothing is written; all but the commit; only the answer lacks."""


class Mortal:
    """The test's end.

    Attributes:
        port: that it is served on.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process, self.port, self._pid = process, port, 0

    def start(self, moment: str = "", append: int = 0) -> None:
        """Serve; returns once connections are accepted. With a moment it dies there, in that append, counted from 1."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{moment or '-'} {append}\n".encode())
        word, number = self._line()
        assert word == b"ready"
        self._pid = int(number)

    def kill(self) -> None:
        """As a power cut would, whatever it was just writing."""
        os.kill(self._pid, signal.SIGKILL)

    @property
    def dead(self) -> bool:
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def buried(self) -> None:
        """Wait until it has ended by -9; the next may start."""
        assert self._line() == [b"ended", b"-9"]

    def _line(self) -> list[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout.readline().split()


@contextlib.contextmanager
def mortal_board(folder: Path, num_images: int) -> Iterator[Mortal]:
    """Draw a desk and wait for `start`; nothing is left running."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder), str(port), str(num_images)], bufsize=0,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Mortal(process, port)
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


def mortally(database: Any, moment: str, append: int) -> None:
    """Let this process die at this moment of an append, before anybody is told of it."""
    import sqlalchemy as sa

    from regraft.store.decisions import Ledger

    calls, commits, whole = itertools.count(1), itertools.count(1), Ledger.append

    def die(at: str, number: int) -> None:
        if (at, number) == (moment, append):
            os.kill(os.getpid(), signal.SIGKILL)

    def appending(self: Any, *events: Any, **options: Any) -> Any:
        number = next(calls)
        die("asked", number)
        done = whole(self, *events, **options)
        die("committed", number)
        return done

    Ledger.append = appending  # type: ignore[method-assign]
    sa.event.listen(database.engine, "commit", lambda _: die("written", next(commits)))  # called before the COMMIT


def _serve(site: Any, moment: str, append: int) -> None:
    from regraft.board.server import serve

    threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()  # the test has ended
    mortally(site.database, moment, append)
    serve(site, on_ready=lambda: os.write(1, b"ready %d\n" % os.getpid()))


def _main(folder: Path, port: int, num_images: int) -> None:
    from review_samples import sample_desk, sample_site

    from regraft.board.app import create_app

    desk = sample_desk(folder, num_images, size=(36, 48), share=0.9)
    first = sample_site(folder, desk, port=port)
    create_app(first)  # all that a board imports is there
    first.database.close()
    while line := os.read(0, 100).decode().split():  # the test writes a line and waits
        if (child := os.fork()) == 0:
            try:
                _serve(sample_site(folder, desk, port=port), line[0], int(line[1]))
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        _, status = os.waitpid(child, 0)
        os.write(1, b"ended %d\n" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
