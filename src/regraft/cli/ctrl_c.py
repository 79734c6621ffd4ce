"""Ctrl-C, pressed once or many times: one line, code 130, and never a traceback."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType

INTERRUPTED = "interrupted; what was computed is kept"
CODE = 130
PATIENCE = 1.0
"""Seconds after the first Ctrl-C in which further ones are taken for the same: a key that bounces, a wrapper that
passes it on. Whoever presses after that does not want to wait for an orderly end."""


class CtrlC:
    """While it is entered, the first Ctrl-C raises KeyboardInterrupt, and none after it interrupts the clearing up.

    One that comes later than PATIENCE ends the process at once, with the same line and code; as after kill -9, nothing
    on the disk is half-written. Once a Ctrl-C came, this stays in force until the process has ended.

    Where Ctrl-C is ignored or somebody else's (a program that calls `main`), and outside the main thread, this does
    nothing.
    """

    def __init__(self) -> None:
        self.first: float | None = None
        self._entered = False

    def __enter__(self) -> CtrlC:
        ours = threading.current_thread() is threading.main_thread()
        if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._heard)
            self._entered = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._entered and self.first is None:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def came(self) -> None:
        """It came by another way, such as a training that waited for its step: from here on it is the first."""
        if self.first is None:
            self.first = time.monotonic()

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.first is None:
            self.came()
            raise KeyboardInterrupt
        if time.monotonic() - self.first > PATIENCE:
            os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\nregraft: {INTERRUPTED}\n".encode())
            os._exit(CODE)
