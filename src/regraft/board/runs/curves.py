"""A run's curves while it trains: `metrics.jsonl` read once, as it grows, and drawn at the width of a screen.

Rows are kept as columns of numbers: 8 bytes a point instead of the 150 of a row's JSON. What is sent to the page has at
most two points a pixel column, its lowest and its highest, so a spike of one step in a million stays visible.
"""

from __future__ import annotations

import json
import math
import os
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.store import runs
from regraft.store.run_files import opened
from regraft.types import JSON

MAX_COLUMNS = 200
MAX_NAME = 120
MAX_LINE = 1 << 20
MAX_CACHED_BYTES = 256 << 20
MAX_ROWS = 20_000_000
_BLOCK = 8 << 20
_NOT_DRAWN = ("step", "epoch", "time", "chosen", "converged")
_FIRST = ("loss", "macro_f1", "accuracy", "balanced_accuracy", "log_loss")
_NAN = float("nan")


@dataclass(slots=True)
class Columns:
    """A metrics file as columns.

    Attributes:
        identity: of the file: another one begins anew.
        offset: bytes that were read: all whole lines.
        steps: one a row.
        values: name to a number a row, NaN where it has none.
        num_bad: lines that are no row.
    """

    identity: tuple[int, int] = (0, 0)
    offset: int = 0
    steps: array[float] = field(default_factory=lambda: array("d"))
    values: dict[str, array[float]] = field(default_factory=dict)
    num_bad: int = 0

    @property
    def num_bytes(self) -> int:
        return 8 * len(self.steps) * (1 + len(self.values))

    def take(self, lines: Sequence[bytes]) -> None:
        """Add rows, one a line; what is no JSON object is counted."""
        lines = [line for line in lines if line.strip()]
        rows = _rows(lines)[: max(0, MAX_ROWS - len(self.steps))]
        self.num_bad += len(lines) - len(rows)
        begin = len(self.steps)
        self.steps.extend(_number(row.get("step"), float(begin + i)) for i, row in enumerate(rows))
        for name in dict.fromkeys(chain(self.values, chain.from_iterable(rows))):
            column = self.values.get(name)
            if column is None and (name in _NOT_DRAWN or len(name) > MAX_NAME or len(self.values) >= MAX_COLUMNS):
                continue
            numbers = _numbers([row.get(name) for row in rows])
            if column is None:
                if np.isnan(numbers).all():
                    continue
                column = self.values[name] = array("d", [_NAN]) * begin
            column.frombytes(numbers.tobytes())


class Curves:
    """The metrics of many runs, the least recently drawn forgotten beyond 256 MiB; safe to share between threads."""

    def __init__(self, max_bytes: int = MAX_CACHED_BYTES) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._known: OrderedDict[Path, tuple[Columns, threading.Lock]] = OrderedDict()

    def charts(self, folder: Path, *, width: int) -> JSON:
        """What the page draws: `{"rows", "bad", "charts": [{"name", "x", "series": [{"name", "y"}]}]}`."""
        with self._lock:
            columns, lock = self._known.setdefault(folder, (Columns(), threading.Lock()))
            self._known.move_to_end(folder)
        with lock:
            if not read_more(folder, columns):
                with self._lock:
                    self._known[folder] = (Columns(), lock)
                columns = self._known[folder][0]
                read_more(folder, columns)
            found = {"rows": len(columns.steps), "bad": columns.num_bad, "charts": charts(columns, width)}
        self._forget(folder)
        return found

    def latest(self, folder: Path) -> dict[str, float]:
        """The last finite number of each column, of what was read so far."""
        with self._lock:
            known = self._known.get(folder)
        if known is None:
            return {}
        return {
            name: last for name, column in known[0].values.items()
            if (last := next((v for v in reversed(column[-1000:]) if math.isfinite(v)), None)) is not None
        }  # fmt: skip

    def num_bytes(self) -> int:
        """What is kept."""
        with self._lock:
            return sum(columns.num_bytes for columns, _ in self._known.values())

    def _forget(self, kept: Path) -> None:
        while self.num_bytes() > self._max_bytes:
            with self._lock:
                oldest = next(iter(self._known))
                if oldest == kept and len(self._known) == 1:
                    return
                if oldest == kept:
                    self._known.move_to_end(oldest)
                    continue
                del self._known[oldest]


def read_more(folder: Path, columns: Columns) -> bool:
    """Read the lines that came since; False where it is another file by now, and must be read from its start."""
    try:
        with opened(folder, runs.METRICS) as stream:
            status = os.fstat(stream.fileno())
            identity = (status.st_dev, status.st_ino)
            if columns.offset and (columns.identity != identity or status.st_size < columns.offset):
                return False
            columns.identity = identity
            stream.seek(columns.offset)
            rest = b""
            while block := stream.read(_BLOCK):
                whole, newline, rest = (rest + block).rpartition(b"\n")
                if newline:
                    columns.take(whole.split(b"\n"))
                    columns.offset += len(whole) + 1
                elif len(rest) > MAX_LINE + _BLOCK:  # no line of ours: nothing to wait for
                    columns.num_bad += 1
                    break
    except OSError:
        return True
    return True


def charts(columns: Columns, width: int) -> list[JSON]:
    """One chart a measure, `train/loss` and `val/loss` in one; losses first."""
    steps = np.frombuffer(columns.steps, np.float64) if len(columns.steps) else np.empty(0)
    groups: dict[str, list[str]] = {}
    for name in columns.values:
        groups.setdefault(name.rpartition("/")[2], []).append(name)
    order = sorted(groups, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    drawn = []
    for group in order:
        names = groups[group]
        series = [np.frombuffer(columns.values[name], np.float64) for name in names]
        if not any(np.isfinite(values).any() for values in series):
            continue
        x, ys = thinned(steps, series, width)
        drawn.append(
            {
                "name": group,
                "x": _plain(x),
                "series": [{"name": name, "y": _plain(y)} for name, y in zip(names, ys, strict=True)],
            }
        )
    return drawn


def thinned(
    steps: NDArray[np.float64], series: Sequence[NDArray[np.float64]], width: int
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """At most two points a pixel column: its lowest and its highest value, in the order in which they came.

    Args:
        steps: float64 (n,).
        series: of float64 (n,), NaN where there is no value.
        width: pixel columns.

    Returns:
        x (m,) and each series (m,), m <= max(2 * width, 2); everything where there are no more points than that. Rising
        steps are assumed; where they are not (a resumed run), rows are taken in their order.
    """
    n = len(steps)
    if n <= 2 * width:
        return steps, list(series)
    edges = np.linspace(0, n, width + 1).astype(np.int64)
    starts = edges[:-1]
    x = np.empty(2 * width)
    x[0::2], x[1::2] = steps[starts], steps[edges[1:] - 1]
    found = []
    for values in series:
        finite = np.isfinite(values)
        low = np.minimum.reduceat(np.where(finite, values, np.inf), starts)
        high = np.maximum.reduceat(np.where(finite, values, -np.inf), starts)
        # which came first, from where each stands in its column
        column = np.repeat(np.arange(width), np.diff(edges))
        at = np.arange(n)
        first_low = np.full(width, n)
        np.minimum.at(first_low, column[values == low[column]], at[values == low[column]])
        first_high = np.full(width, n)
        np.minimum.at(first_high, column[values == high[column]], at[values == high[column]])
        rising = first_low <= first_high
        y = np.empty(2 * width)
        y[0::2], y[1::2] = np.where(rising, low, high), np.where(rising, high, low)
        found.append(np.where(np.isfinite(y), y, _NAN))
    return x, found


def _rows(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    """The JSON objects among the lines: all in one go (three times as fast), or one by one where that fails."""
    if max(map(len, lines), default=0) <= MAX_LINE:
        try:
            found = json.loads(b"[" + b",".join(lines) + b"]")
            if len(found) == len(lines) and all(type(row) is dict for row in found):
                return list(found)
        except (ValueError, RecursionError):
            pass
    return [row for line in lines if (row := _row(line)) is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    if len(line) > MAX_LINE:
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _numbers(values: list[Any]) -> NDArray[np.float64]:
    """Values as float64, NaN for what is no finite number."""
    if {*map(type, values)} <= {float, type(None)}:
        found = np.array(values, np.float64)  # None becomes NaN
    else:
        found = np.array([_number(value, _NAN) for value in values], np.float64)
    return np.where(np.isfinite(found), found, _NAN)


def _number(value: Any, otherwise: float) -> float:
    if type(value) is float:
        return value if math.isfinite(value) else otherwise
    if type(value) is int:
        return float(value) if abs(value) < 1 << 63 else otherwise
    return otherwise


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    """As JSON: no NaN; seven digits are more than a screen shows."""
    return [None if value != value else float(f"{value:.7g}") for value in values.tolist()]
