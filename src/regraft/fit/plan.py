"""Where the schedule stands, and where it must end: all epochs, a number of steps, or a time limit.

A schedule is made for all steps of all epochs. When fewer are left, because of `max_steps` or because the measured
speed says so, what is left of the schedule is squeezed into them: the learning rate still arrives where it should.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

clock = time.perf_counter

_UNTIMED_STEPS = 2
"""The first steps compile, tune and fill caches; they say nothing about the others."""
_REPLAN_AFTER_STEPS = 8
"""The plan is made anew after so many steps, twice as many, four times …, and after each evaluation."""


@dataclass
class Plan:
    """From step to place in the schedule: a line that can be bent, at the present step, to end elsewhere.

    Attributes:
        length: steps that the schedule was made for; None where the loader does not know its length.
        total: steps that will be done; None while unknown.
        bend_step: the step at which it was last bent.
        bend_place: the place in the schedule there.
    """

    length: int | None = None
    total: int | None = None
    bend_step: int = 0
    bend_place: float = 0.0

    def place(self, step: int) -> int:
        """The place in the schedule of a step."""
        if self.length is None or self.total is None:
            return step
        slope = (self.length - self.bend_place) / max(self.total - self.bend_step, 1)
        return min(int(self.bend_place + (step - self.bend_step) * slope + 1e-6), max(self.length - 1, 0))

    def end_at(self, total: int, *, step: int) -> None:
        """From `step` on, go to the end of the schedule in the `total - step` steps that are left."""
        if self.length is not None and self.total is not None:
            slope = (self.length - self.bend_place) / max(self.total - self.bend_step, 1)
            self.bend_place = min(self.bend_place + (step - self.bend_step) * slope, float(self.length))
            self.bend_step = step
        self.total = total


class Pace:
    """How long steps and evaluations take here.

    Args:
        limit: seconds that the whole fit may take, or None.
        seconds_before: what it took before a resume.
        evaluation_steps: what an evaluation costs, in steps, before there was one.
    """

    def __init__(self, limit: float | None, *, seconds_before: float = 0.0, evaluation_steps: float = 0.0) -> None:
        self.limit, self._before, self._evaluation_steps = limit, seconds_before, evaluation_steps
        self._began = clock()
        self._steps = 0
        self._seconds = 0.0
        self._evaluation: float | None = None
        self._next = _REPLAN_AFTER_STEPS

    def elapsed(self) -> float:
        """Seconds of this fit, those before a resume included."""
        return self._before + clock() - self._began

    def stepped(self, seconds: float) -> None:
        """A step took so long, its loading included."""
        self._steps += 1
        if self._steps == _UNTIMED_STEPS + 1:
            self._seconds = 0.0
        self._seconds += seconds

    def evaluated(self, seconds: float) -> None:
        """An evaluation, with the writing of checkpoints, took so long."""
        self._evaluation = max(seconds, 0.5 * (self._evaluation or 0.0))
        self._next = min(self._next, self._steps)

    @property
    def step_seconds(self) -> float:
        """Mean seconds of a step so far; the first two count only while there are no others."""
        timed = self._steps - _UNTIMED_STEPS if self._steps > _UNTIMED_STEPS else self._steps
        return self._seconds / timed if timed else 0.0

    def is_time_to_plan(self) -> bool:
        """Whether enough was measured since the last plan."""
        if self.limit is None or self._steps < self._next or not self._steps:
            return False
        self._next = 2 * max(self._steps, _REPLAN_AFTER_STEPS)
        return True

    @property
    def evaluation_seconds(self) -> float:
        """Seconds of the last evaluation, or a guess."""
        return self._evaluation_steps * self.step_seconds if self._evaluation is None else self._evaluation

    def affordable(self, steps_per_epoch: int | None) -> int:
        """Further steps that fit into what is left, with an evaluation per epoch and at the end."""
        assert self.limit is not None
        left = self.limit - self.elapsed() - self.evaluation_seconds
        per_step = self.step_seconds + (self.evaluation_seconds / steps_per_epoch if steps_per_epoch else 0.0)
        return max(0, math.floor(left / per_step)) if per_step > 0 else 2**31

    def is_out_of_time(self) -> bool:
        """Whether one more step, and the evaluation that must follow, would go past the limit."""
        return self.limit is not None and self.elapsed() + self.step_seconds + self.evaluation_seconds > self.limit
