"""Which numbers a service had of a run before an interruption, so that none is told twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping


class Heard:
    """Leaves out of a resumed run what was told before. Of a new run it leaves out nothing.

    A resumed fit repeats the steps behind its checkpoint to the same numbers, so that what a service has stays right.

    Args:
        last_steps: asked once, where the run is resumed: metric to the last step at which it was told.
    """

    def __init__(self, last_steps: Callable[[], Mapping[str, int]]) -> None:
        self._ask, self._last = last_steps, dict[str, int]()

    def rewind(self) -> None:
        """The run was resumed."""
        self._last = dict(self._ask())

    def new(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """What of these has not been told."""
        return {name: value for name, value in metrics.items() if step > self._last.get(name, -1)}


def last_steps(points: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The last step of each name."""
    found: dict[str, int] = {}
    for name, step in points:
        found[name] = max(step, found.get(name, -1))
    return found
