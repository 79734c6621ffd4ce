"""What a person at a terminal sees: progress on stderr, tables on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from regraft.progress import Listener
from regraft.types import JSON, Interval

PLAIN_EVERY_SECONDS = 10.0
"""How often a long stage says where it is when the output is not a terminal."""

_UNITS = {"scan": "files/s", "extract": "images/s", "fit": "problems/s", "predict": "images/s", "evaluate": "images/s"}


class TerminalListener(Listener):
    """Draws a progress bar for each stage on stderr; plain lines where stderr is not a terminal."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._began = self._last = 0.0

    def stage_began(self, name: str) -> None:
        self._stage, self._began = name, time.monotonic()
        self._last = self._began
        if self.console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description:<9}"),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._bars.start()
            self._task = self._bars.add_task(name, total=None, rate="")

    def progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not done:  # what came before was preparation
            self._began = self._last = now
        rate = f"{done / max(now - self._began, 1e-9):,.0f} {_UNITS.get(self._stage, '/s')}"
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=done, total=total, rate=rate)
        elif now - self._last >= PLAIN_EVERY_SECONDS:
            self._last = now
            left = (total - done) * (now - self._began) / max(done, 1)
            self._print(f"{self._stage}: {done:,} of {total:,}, {rate}, {left:,.0f} s left")

    def stage_ended(self, name: str, seconds: float) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = self._task = None
        self._print(f"{name:<9} {seconds:6.1f} s")

    def say(self, text: str) -> None:
        self._print(f"  {text}")

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table on stdout; numbers to the right."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(header):
        right = bool(rows) and all(isinstance(row[number], int | float) for row in rows)
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    width = None if sys.stdout.isatty() else 200
    Console(highlight=False, markup=False, emoji=False, width=width).print(table)


def print_metrics(result: JSON) -> None:
    """The five measures of a `result.json` beside the baseline."""
    how = "on the locked test set" if result["split"] == "test" else "by cross-validation"
    rows = []
    for name, interval in result["metrics"].items():
        value = Interval(**interval)
        span = f"{value.low:.3f}–{value.high:.3f}"
        rows.append((name.replace("_", " "), f"{value.estimate:.3f}", span, f"{result['baseline'][name]:.3f}"))
    count = result.get("num_evaluated", result["num_images"])
    print_table(f"{how}, {count:,} images", ("measure", "estimate", "95 % interval", "largest class"), rows)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
