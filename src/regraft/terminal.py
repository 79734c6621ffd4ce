"""What a person at a terminal sees: progress on stderr, tables on stdout."""

from __future__ import annotations

import atexit
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from regraft.evaluate.wording import duration
from regraft.progress import Listener
from regraft.types import JSON, Interval

PLAIN_EVERY_SECONDS = 10.0
"""How often a long stage says where it is when the output is not a terminal."""

PLAIN_TRAINING_SECONDS = 300.0
"""The same within an epoch of training, which has a line of its own at its end."""

_UNITS = {
    "scan": "files/s", "extract": "images/s", "resize": "images/s", "prefix": "images/s", "fit": "problems/s",
    "predict": "images/s", "evaluate": "images/s", "lr-find": "steps/s",
}  # fmt: skip
_BAR = 20
_REDRAWN_SECONDS = 0.1


@dataclass(slots=True)
class _Stage:
    name: str
    began: float
    told: float
    drawn: float = 0.0
    trains: bool = False


@dataclass(slots=True)
class _Training:
    """Where a training stands; time left is that of all steps at the pace so far, evaluations included."""

    first: int
    began: float
    epoch_began: float
    step: int = 0
    steps: int | None = None
    loss: float = math.nan
    images_per_second: float = 0.0
    measured: str = ""

    def left(self) -> str:
        done = self.step - self.first
        if self.steps is None or done < 1:
            return ""
        return _left((self.steps - self.step) * (time.monotonic() - self.began) / done)


class TerminalListener(Listener):
    """Draws a progress bar for the present stage on stderr; plain lines where stderr is not a terminal.

    Training is one bar over the steps of the epoch, with loss, last evaluation, images/s and the time left for the
    whole fit, and one line an epoch.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
        self._stages: list[_Stage] = []
        self._training: _Training | None = None
        self._bars: Progress | None = None
        self._task = TaskID(0)

    def stage_began(self, name: str) -> None:
        now = time.monotonic()
        self._stages.append(_Stage(name, began=now, told=now))
        self._close()
        self._draw(name)

    def progress(self, done: int, total: int) -> None:
        now = time.monotonic()
        stage = self._stages[-1] if self._stages else _Stage("", began=now, told=now)
        if not done:  # what came before was preparation
            stage.began = stage.told = now
        if self.console.is_terminal:
            if now - stage.drawn < _REDRAWN_SECONDS and done != total:
                return
            stage.drawn = now
        elif done == total or now - stage.told < (PLAIN_TRAINING_SECONDS if stage.trains else PLAIN_EVERY_SECONDS):
            return
        if stage.trains:
            details = self._training_details()
        else:
            pace = done / max(now - stage.began, 1e-9)
            rate = f"{pace:,.{int(0 < pace < 10)}f} {_UNITS.get(stage.name, '/s')}"
            details = [rate, _left((total - done) * (now - stage.began) / done) if done else ""]
        count = f"{done:,} of {total:,}"
        if self.console.is_terminal:
            self._draw(stage.name, done, total, [count, *details])
        else:
            stage.told = now
            self._print(", ".join(filter(None, [f"{stage.name}: {count}", *details])))

    def stage_ended(self, name: str, seconds: float) -> None:
        trained = bool(self._stages) and self._stages.pop().trains
        self._close()
        if trained:  # its line comes with what is measured now
            self._draw(name, details=["evaluating"])
        else:
            self._print(f"{name:<9} {seconds:6.1f} s")

    def stepped(self, step: int, steps: int | None, loss: float, images_per_second: float) -> None:
        at = self._training
        if at is None or step <= at.step:  # the first step, of a resumed fit too, may be the slowest
            now = time.monotonic()
            at = self._training = _Training(step, now, epoch_began=self._stages[-1].began if self._stages else now)
        at.step, at.steps, at.loss, at.images_per_second = step, steps, loss, images_per_second
        if self._stages:
            self._stages[-1].trains = True

    def epoch(self, row: Mapping[str, Any], epochs: int, *, metric: str, is_best: bool) -> None:
        self._close()
        now = time.monotonic()
        at = self._training or _Training(0, now, epoch_began=now)
        width = len(str(epochs))
        words = [f"epoch {row['epoch']:>{width}.{0 if row['epoch'] == int(row['epoch']) else 1}f}/{epochs}"]
        names = dict.fromkeys(("train/loss", "val/loss", metric))
        words += [f"{name} {_number(row[name])}" for name in names if name in row]
        words += [f"lr {row['lr']:.1e}", f"{row['images_per_second'] or 0:,.0f} images/s"]
        words.append(_seconds(now - at.epoch_began))
        words += [at.left()] if at.steps is not None and at.step < at.steps else []
        words += ["best"] if is_best else []
        self._print("  ".join(filter(None, words)))
        at.measured = f"{metric} {_number(row[metric])}" if metric in row else ""
        at.epoch_began = now

    def say(self, text: str) -> None:
        self._print(f"  {text}")

    def _training_details(self) -> list[str]:
        """The most important first; what the width has no room for is left out."""
        at = self._training
        assert at is not None
        return [f"loss {_number(at.loss)}", at.left(), at.measured, f"{at.images_per_second:,.0f} images/s"]

    def _draw(self, name: str, done: int = 0, total: int | None = None, details: Sequence[str] = ()) -> None:
        if not self.console.is_terminal:
            return
        if self._bars is None:
            columns = TextColumn("{task.description:<9}"), BarColumn(_BAR), TextColumn("{task.fields[details]}")
            self._bars = Progress(*columns, console=self.console, transient=True)
            self._task = self._bars.add_task(name, total=total, details="")
            self._bars.start()
            atexit.register(self._close)  # a terminal whose program ends in the middle gets its cursor back
        room = self.console.width - max(len(name), 9) - _BAR - 3
        shown: list[str] = []
        for word in filter(None, details):
            if len("  ".join([*shown, word])) <= room:
                shown.append(word)
        self._bars.update(self._task, completed=done, total=total, details="  ".join(shown))

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            atexit.unregister(self._close)

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def _left(seconds: float) -> str:
    whole = max(round(seconds), 1)
    return f"{whole if whole < 60 else _seconds(whole)}{' s' if whole < 60 else ''} left"


def _seconds(seconds: float) -> str:
    return duration(seconds).replace("\u00a0", " ")


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
