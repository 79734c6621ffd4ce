"""What goes wrong during training, and is answered: no memory, a loss that is not finite, Ctrl-C."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch
from torch import nn

from regraft.errors import TrainingError
from regraft.fit.kept import Kept, are_finite

MAX_NON_FINITE = 5
"""Consecutive steps whose loss is not finite before a fit stops."""

_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: on a GPU, or in torch's allocator on a CPU (a RuntimeError)."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)


class NonFinite:
    """Watches for losses that are infinite or NaN: a few are skipped, many in a row end the fit.

    Attributes:
        in_a_row: such steps up to now.
    """

    def __init__(self, model: nn.Module, kept: Kept) -> None:
        self.model, self.kept, self.in_a_row = model, kept, 0

    def saw(self, loss: float, *, taken: bool, step: int, lr: float) -> None:
        """A step had this loss, and was taken or skipped.

        Raises:
            TrainingError: it was the last of too many; the last good weights are restored.
        """
        self.in_a_row = 0 if taken else self.in_a_row + 1
        if self.in_a_row == MAX_NON_FINITE:
            self.kept.restore_good(self.model)
            raise TrainingError(
                f"the loss must be finite: it was {loss} for {MAX_NON_FINITE} steps in a row, up to step {step:,}, "
                f"with lr {lr:.3g}; the last good weights are restored. Try a smaller lr, clip_grad, or precision fp32"
            )
        if not taken and not are_finite(self.model.buffers()):  # batch norm has seen it, and would never forget
            self.kept.restore_good(self.model, only_buffers=True)


class BrokenOffError(Exception):
    """An evaluation was left, because a signal came; never leaves the loop."""


class Interruption:
    """Ctrl-C and SIGTERM wait until the present step is done; a second Ctrl-C does not wait.

    Only the main thread can hear signals; elsewhere this does nothing.

    Attributes:
        signal: which one came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            before = self._before.get(number)
            if callable(before):  # for it, this is the first
                before(number, frame)
                return
            raise KeyboardInterrupt
        self.signal = number

    def end(self) -> BaseException:
        """What to raise once everything is safe: exit code 130 for Ctrl-C, 143 for SIGTERM."""
        return SystemExit(128 + signal.SIGTERM) if self.signal == signal.SIGTERM else KeyboardInterrupt()
