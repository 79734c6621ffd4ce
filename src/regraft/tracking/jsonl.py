"""Everything that a run tells, one JSON object a line: `events.jsonl` in its folder.

What a service did not get is still here. Each line has "time" (POSIX seconds) and "event":

    {"event": "settings", "settings": {name: {"value", "reason"}}}
    {"event": "tags", "tags": {name: text}}
    {"event": "metrics", "step", "metrics": {"train/step_loss": …}}     null where a number is not finite
    {"event": "table", "name", "step", "columns": […], "rows": [[…]]}
    {"event": "histogram", "name", "step", "counts": […], "edges": […]}
    {"event": "image", "name", "step", "width", "height", "bytes"}      the picture itself is TensorBoard's
    {"event": "artifact", "name", "path"}                               relative to the folder of the run
    {"event": "end", "status": "finished" | "failed" | "killed"}
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.files import write_bytes
from regraft.tracking.base import Status, Tracker
from regraft.tracking.heard import Heard, last_steps
from regraft.tracking.whole import Whole
from regraft.types import JSON

EVENTS = "events.jsonl"


class Jsonl(Tracker):
    """Appends to a file, a line a record: 30 to 60 µs, nothing is held back.

    Args:
        path: of the file; what is in it stays.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, Whole(path)
        self._heard = Heard(self._last_steps)
        path.parent.mkdir(parents=True, exist_ok=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        if metrics := self._heard.new(metrics, step):
            self._write("metrics", step=int(step), metrics={name: _plain(value) for name, value in metrics.items()})

    def log_settings(self, settings: Mapping[str, tuple[Any, str]]) -> None:
        told = {name: {"value": _plain(value), "reason": reason} for name, (value, reason) in settings.items()}
        self._write("settings", settings=told)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        self._write("tags", tags=dict(tags))

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, step: int) -> None:
        plain = [[_plain(value) for value in row] for row in rows]
        self._write("table", name=name, step=int(step), columns=list(columns), rows=plain)

    def log_image(self, name: str, picture: bytes, *, width: int, height: int, step: int) -> None:
        self._write("image", name=name, step=int(step), width=width, height=height, bytes=len(picture))

    def log_histogram(self, name: str, counts: NDArray[np.int64], edges: NDArray[np.float64], *, step: int) -> None:
        self._write("histogram", name=name, step=int(step), counts=counts.tolist(), edges=edges.tolist())

    def log_artifact(self, name: str, path: Path) -> None:
        inside = path.relative_to(self.path.parent) if path.is_relative_to(self.path.parent) else path
        self._write("artifact", name=name, path=str(inside))

    def rewind(self, step: int) -> None:
        """The file is written anew without the metrics of later steps, and without a line that a kill cut off."""
        kept = [row for row in read_events(self.path) if row["event"] != "metrics" or row["step"] <= step]
        write_bytes(self.path, b"".join(_line(row) for row in kept))
        self._heard.rewind()

    def close(self, status: Status = "finished") -> None:
        self._write("end", status=status)

    def _last_steps(self) -> dict[str, int]:
        rows = (row for row in read_events(self.path) if row["event"] == "metrics")
        return last_steps((name, row["step"]) for row in rows for name in row["metrics"])

    def _write(self, event: str, **fields: Any) -> None:
        self._file.write(_line({"time": round(time.time(), 3), "event": event, **fields}))


def read_events(path: Path) -> Iterator[JSON]:
    """The lines of a file that are whole; none where there is no file."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "event" in row:
            yield row


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"


def _plain(value: Any) -> Any:
    """What JSON has a word for; else as text, and numbers that are not finite as null."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else str(value)
