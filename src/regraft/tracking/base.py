"""What a tracker hears. The base does nothing, so that nobody asks whether there is one; a fan-out tells several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Tracker:
    """Hears a run's numbers, settings and pictures; does nothing with them. May raise: `Trackers` stands it."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers by name (`split/metric`) at a step; NaN and infinity are numbers too."""

    def log_settings(self, settings: Mapping[str, tuple[Any, str]]) -> None:
        """Once: setting to (value, why it has it)."""

    def log_image(self, name: str, picture: bytes, *, width: int, height: int, step: int) -> None:
        """A PNG or JPEG."""

    def log_histogram(self, name: str, counts: NDArray[np.int64], edges: NDArray[np.float64], *, step: int) -> None:
        """How often values lie between the B + 1 rising edges: counts (B,)."""

    def close(self) -> None:
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

    def log_image(self, name: str, picture: bytes, *, width: int, height: int, step: int) -> None:
        self._tell(lambda tracker: tracker.log_image(name, picture, width=width, height=height, step=step))

    def log_histogram(self, name: str, counts: NDArray[np.int64], edges: NDArray[np.float64], *, step: int) -> None:
        self._tell(lambda tracker: tracker.log_histogram(name, counts, edges, step=step))

    def close(self) -> None:
        self._tell(lambda tracker: tracker.close())
        self._trackers.clear()

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for tracker in tuple(self._trackers):
            try:
                what(tracker)
            except Exception as error:  # whatever it is: a broken tracker must not cost a fit
                self._trackers.remove(tracker)
                reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
                self._warn(f"{type(tracker).__name__} failed and is told nothing more; the run goes on ({reason})")
