"""A clock of training alone, and the curve of scores over it. Needs NumPy only: every tool's interpreter has that."""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


def arguments() -> argparse.Namespace:
    """What each tool is called with; `--option NAME=VALUE` is for trying a tool's own settings."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and valid/ of class folders")
    parser.add_argument("--weights", type=Path, required=True, help="of the backbone, as timm names them")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--architecture", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    args.option = {name: json.loads(value) for name, _, value in (text.partition("=") for text in args.option)}
    return args


class Clock:
    """Runs from its creation (after the imports) on, except within `aside`.

    Attributes:
        aside_seconds: spent on looking at the test images, which no user would do here.
        curve: a row for each look: what, training seconds until then, accuracy, macro_f1.
    """

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._left: float | None = None
        self.aside_seconds = 0.0
        self.curve: list[dict[str, Any]] = []

    @property
    def seconds(self) -> float:
        """Of training so far."""
        now = self._left if self._left is not None else time.perf_counter()
        return now - self._began - self.aside_seconds

    def stop(self) -> None:
        self._left = time.perf_counter()

    def go_on(self) -> None:
        assert self._left is not None
        self.aside_seconds += time.perf_counter() - self._left
        self._left = None

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """The clock stands still."""
        self.stop()
        yield
        self.go_on()

    def look(self, what: str, labels: Any, predicted: Any) -> None:
        """Note the scores on the test images, labels and predictions being class numbers (N,)."""
        row = {"seconds": self.seconds, **scores(np.asarray(labels), np.asarray(predicted))}
        self.curve.append({"what": what, **row})
        print(f"  {what:<12}" + "  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)

    def write(self, path: Path, **facts: Any) -> None:
        """The cell's JSON. `seconds` ends here; scores are those of the last look."""
        seconds = self.seconds
        last = {name: self.curve[-1][name] for name in ("accuracy", "macro_f1")}
        found = {**last, "seconds": seconds, "aside_seconds": self.aside_seconds, "curve": self.curve, **facts}
        path.write_text(json.dumps(found))


def scores(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Accuracy, and macro-F1 over the classes that the labels hold."""
    f1 = []
    for k in np.unique(labels):
        hits = ((labels == k) & (predicted == k)).sum()
        f1.append(2 * hits / ((labels == k).sum() + (predicted == k).sum()))
    return {"accuracy": float((labels == predicted).mean()), "macro_f1": float(np.mean(f1))}
