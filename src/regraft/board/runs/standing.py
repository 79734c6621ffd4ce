"""Who leads a group, who is tied with the leader, and who is clearly behind.

Where two runs say what they predicted for the same test images, their paired difference decides; until it is reckoned,
and where it cannot be, the intervals do: overlapping ones are a tie. Differences are reckoned on one thread in the
background and remembered, so a page never waits for them.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from regraft.errors import RegraftError
from regraft.evaluate.wording import LOWER_IS_BETTER
from regraft.store.run_index import RunFacts, RunIndex
from regraft.types import Interval

MAX_REMEMBERED = 20_000
MAX_WAITING = 500
STOP_SECONDS = 20.0

Pair = tuple[str, tuple[int, ...], str, tuple[int, ...]]
Kind = Literal["best", "tied", "behind"]

_logger = logging.getLogger("regraft.board")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a run stands to the leader of its group.

    Attributes:
        kind: best, tied (not clearly behind), or behind.
        paired: judged by the paired difference; else by whether the intervals overlap.
        difference: this run minus the leader, where it is paired.
        words: the same for a pointer that rests on it.
    """

    kind: Kind
    paired: bool
    difference: Interval | None
    words: str


_alive: weakref.WeakSet[Standings] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """An interpreter that ends while a thread is within pyarrow aborts."""
    for standings in tuple(_alive):
        standings.stop()


class Standings:
    """Judges groups of runs, and remembers the differences.

    Args:
        index: where the runs lie.
    """

    def __init__(self, index: RunIndex) -> None:
        self._index = index
        self._todo: deque[tuple[Pair, RunFacts, RunFacts]] = deque()
        self._thread: threading.Thread | None = None
        _alive.add(self)
        self._lock = threading.Lock()
        self._known: OrderedDict[Pair, dict[str, Interval] | None] = OrderedDict()
        self._waiting: set[Pair] = set()

    def judge(self, ranked: Sequence[RunFacts], metric: str) -> tuple[dict[str, Standing], int]:
        """Standings of runs, best first, and how many differences are still to come."""
        measured = [run for run in ranked if metric in run.metrics]
        if len(measured) < 2:  # a race of one has no winner
            return {}, 0
        leader, pending = measured[0], 0
        found = {leader.key: Standing(kind="best", paired=True, difference=None, words="the best estimate")}
        for run in measured[1:]:
            differences, is_waiting = self._differences(run, leader)
            pending += is_waiting
            difference = None if differences is None else differences.get(metric)
            found[run.key] = _standing(run, leader, metric, difference, is_waiting=is_waiting)
        return found, pending

    def _differences(self, run: RunFacts, leader: RunFacts) -> tuple[dict[str, Interval] | None, bool]:
        """Measure to run minus leader (None: unknown), and whether it is being reckoned."""
        if run.state != "finished" or leader.state != "finished":
            return None, False
        pair = (run.key, run.stamp, leader.key, leader.stamp)
        with self._lock:
            if pair in self._known:
                self._known.move_to_end(pair)
                return self._known[pair], False
            if pair in self._waiting:
                return None, True
            if len(self._waiting) >= MAX_WAITING:
                return None, False
            self._waiting.add(pair)
            self._todo.append((pair, run, leader))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="differences", daemon=True)
                self._thread.start()
        return None, True

    def stop(self) -> None:
        """Finish the difference in hand, and forget the others."""
        with self._lock:
            self._todo.clear()
            thread = self._thread
        if thread is not None:
            thread.join(STOP_SECONDS)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._todo:
                    self._thread = None
                    return
                todo = self._todo.popleft()
            self._reckon(*todo)

    def _reckon(self, pair: Pair, run: RunFacts, leader: RunFacts) -> None:
        found: dict[str, Interval] | None = None
        try:
            found = reckoned(self._index, run, leader)
        except Exception as error:  # a strange run must not stop the others
            _logger.warning("the difference of two runs cannot be reckoned (%s)", type(error).__name__)
        with self._lock:
            self._known[pair] = found
            self._waiting.discard(pair)
            while len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)


def reckoned(index: RunIndex, run: RunFacts, leader: RunFacts) -> dict[str, Interval] | None:
    """Measure to run minus leader on the test images that they share; None where these are not nearly all of them."""
    from regraft.evaluate.intervals import paired_difference
    from regraft.studies.compare_runs import share
    from regraft.studies.run_predictions import read_held_out

    try:
        ours = read_held_out(index.folder(run), run.split)
        theirs = read_held_out(index.folder(leader), leader.split)
        shared = share(theirs, ours)
    except RegraftError:
        return None
    if len(shared) < 0.9 * max(len(ours), len(theirs)):  # another seed, another test set: a pair of other runs
        return None
    return paired_difference(
        shared.labels, shared.pred_probs[1], shared.pred_probs[0], group_ids=shared.group_ids,
        predicted_a=shared.predicted[1], predicted_b=shared.predicted[0],
    )  # fmt: skip


def _standing(
    run: RunFacts, leader: RunFacts, metric: str, difference: Interval | None, *, is_waiting: bool
) -> Standing:
    lower = metric in LOWER_IS_BETTER
    if difference is not None:
        behind = difference.low > 0 if lower else difference.high < 0
        words = (
            f"{'behind' if behind else 'not clearly behind'} {leader.name} on the same test images: "
            f"{difference.estimate:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
        )
        return Standing(kind="behind" if behind else "tied", paired=True, difference=difference, words=words)
    (_, low, high), (_, best_low, best_high) = run.metrics[metric], leader.metrics[metric]
    behind = low > best_high if lower else high < best_low
    how = "until the paired difference is reckoned" if is_waiting else "no paired difference: other test images"
    words = f"{'intervals do not overlap' if behind else 'intervals overlap'} ({how})"
    return Standing(kind="behind" if behind else "tied", paired=False, difference=None, words=words)
