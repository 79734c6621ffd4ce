"""What a tracker hears. The base does nothing, so that nobody asks whether there is one; a fan-out tells several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Status = Literal["finished", "failed", "killed"]
"""How a run ended: as it should, by an error, or by Ctrl-C."""


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A step of a model's computation.

    Attributes:
        name: unique, its module's path with `/` between the parts: `backbone/blocks/0/conv`.
        op: what it does: `Conv2d`, `add`.
        inputs: names of the nodes whose outputs it takes.
        about: more, in words.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    about: str = ""


class Tracker:
    """Hears a run's numbers, settings, pictures and files; does nothing with them. May raise: `Trackers` stands it.

    What is handed over stays as it is: no caller changes a mapping, an array or a file after it was told.
    """

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers by name (`split/metric`) at a step; NaN and infinity are numbers too."""

    def log_settings(self, settings: Mapping[str, tuple[Any, str]]) -> None:
        """Setting to (value, why it has it); may be told again, with more."""

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Words that a run is found by; a name told again has its last value."""

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, step: int) -> None:
        """Rows of plain values (text, numbers, None), one a column."""

    def log_image(self, name: str, picture: bytes, *, width: int, height: int, step: int) -> None:
        """A PNG or JPEG."""

    def log_histogram(self, name: str, counts: NDArray[np.int64], edges: NDArray[np.float64], *, step: int) -> None:
        """How often values lie between the B + 1 rising edges: counts (B,)."""

    def log_graph(self, nodes: Sequence[GraphNode]) -> None:
        """The model that is trained, in the order of its computation."""

    def log_artifact(self, name: str, path: Path) -> None:
        """A file, or a folder with all that is in it, that came of the run: `report`, `model`."""

    def rewind(self, step: int) -> None:
        """The run was interrupted and goes on behind this step: what was told of later ones will be told again."""

    def flush(self) -> None:
        """Send what was held back."""

    def close(self, status: Status = "finished") -> None:
        """Nothing more will come."""


class Trackers(Tracker):
    """Tells several trackers. One that fails is told nothing more, which is said once: it never stops the work.

    Args:
        trackers: told in order.
        warn: told in one line which one failed, and why.
    """

    def __init__(self, trackers: Sequence[Tracker], warn: Callable[[str], None]) -> None:
        self._trackers, self._warn = list(trackers), warn

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._tell(lambda tracker: tracker.log_metrics(metrics, step))

    def log_settings(self, settings: Mapping[str, tuple[Any, str]]) -> None:
        self._tell(lambda tracker: tracker.log_settings(settings))

    def log_tags(self, tags: Mapping[str, str]) -> None:
        self._tell(lambda tracker: tracker.log_tags(tags))

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, step: int) -> None:
        self._tell(lambda tracker: tracker.log_table(name, columns, rows, step=step))

    def log_image(self, name: str, picture: bytes, *, width: int, height: int, step: int) -> None:
        self._tell(lambda tracker: tracker.log_image(name, picture, width=width, height=height, step=step))

    def log_histogram(self, name: str, counts: NDArray[np.int64], edges: NDArray[np.float64], *, step: int) -> None:
        self._tell(lambda tracker: tracker.log_histogram(name, counts, edges, step=step))

    def log_graph(self, nodes: Sequence[GraphNode]) -> None:
        self._tell(lambda tracker: tracker.log_graph(nodes))

    def log_artifact(self, name: str, path: Path) -> None:
        self._tell(lambda tracker: tracker.log_artifact(name, path))

    def rewind(self, step: int) -> None:
        self._tell(lambda tracker: tracker.rewind(step))

    def flush(self) -> None:
        self._tell(lambda tracker: tracker.flush())

    def close(self, status: Status = "finished") -> None:
        self._tell(lambda tracker: tracker.close(status))
        self._trackers.clear()

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for tracker in tuple(self._trackers):
            try:
                what(tracker)
            except Exception as error:  # whatever it is: a broken tracker must not cost a fit
                self._trackers.remove(tracker)
                self._warn(
                    f"{type(tracker).__name__} failed and is told nothing more; the run goes on ({reason(error)})"
                )


def reason(error: BaseException) -> str:
    """An error in one short line."""
    return (f"{type(error).__name__}: {error}".splitlines() or [""])[0][:300]
