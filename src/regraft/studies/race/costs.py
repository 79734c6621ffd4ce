"""What a training will cost: the arm's own estimate, corrected by what its trainings really took."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from regraft.studies.race.evidence import ArmKey, Measurement

UNSEEN_MARGIN = 0.5
"""An estimate that was never checked may be this much too low before the race minds."""

SEEN_MARGIN = 0.15
"""Of an arm that was measured: two runs of the same work differ by up to 40 % on a shared machine, mostly by less."""


@dataclass
class Costs:
    """Seconds by arm and number of training images.

    Attributes:
        estimates: arm to its own estimate, a function of the number of training images.
    """

    estimates: Mapping[ArmKey, Callable[[int], float]]
    _logs: dict[ArmKey, list[tuple[int, float]]] = field(default_factory=dict)

    def learn(self, measurement: Measurement) -> None:
        """Take note of what a training took."""
        estimate = self.estimates[measurement.arm](measurement.num_train)
        if estimate > 0 and measurement.seconds > 0:
            ratio = math.log(measurement.seconds / estimate)
            self._logs.setdefault(measurement.arm, []).append((measurement.num_train, ratio))

    def seconds(self, arm: ArmKey, num_train: int) -> float:
        """What one training is expected to take.

        The correction is the geometric mean of the last three ratios at the nearest size that was measured: at small
        sizes what does not grow with them counts more. An arm that was never measured gets half of what the others'
        estimates were wrong by: the machine is the same. That a probe was quicker than told says nothing of trainings.
        """
        own = self._logs.get(arm)
        if own:
            nearest = min((size for size, _ in own), key=lambda size: abs(math.log(size / max(num_train, 1))))
            found = [ratio for size, ratio in own if size == nearest][-3:]
            return self.estimates[arm](num_train) * math.exp(sum(found) / len(found))
        others = [logs[-1][1] for other, logs in self._logs.items() if other.strategy != "linear_probe"]
        others = others or [max(logs[-1][1], 0.0) for logs in self._logs.values()]
        shared = sum(others) / len(others) / 2 if others else 0.0
        return self.estimates[arm](num_train) * math.exp(min(max(shared, -1.0), 1.0))

    def cautious(self, arm: ArmKey, num_train: int) -> float:
        """What it may take at worst."""
        margin = SEEN_MARGIN if self._logs.get(arm) else UNSEEN_MARGIN
        return self.seconds(arm, num_train) * (1 + margin)
