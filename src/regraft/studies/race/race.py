"""The race: strategies on the same folds, subsets and seeds, within a budget, until the choice is clear.

the probe on every occasion → n/4, n/2: all who are still in, then drop → n: whoever reduces the doubt most per second
→ curves, crossing, choice, what would help

Killed and started again on the same evidence, it goes on where it was: what is decided depends on the evidence alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from regraft.errors import UsageError
from regraft.progress import Listener
from regraft.studies.decide import Metric
from regraft.studies.race.allocation import Dropped, affords, current_size, next_cell, pick_next, settled, weed
from regraft.studies.race.arms import Arm, key_of
from regraft.studies.race.choose import within
from regraft.studies.race.costs import Costs
from regraft.studies.race.evidence import ArmKey, Evidence, Measurement
from regraft.studies.race.outcome import Outcome
from regraft.studies.race.standing import Standing, stand
from regraft.studies.race.subsets import Cell, Plan
from regraft.studies.race.summary import Ended, summarise
from regraft.studies.race.values import Resampled
from regraft.types import Interval

REFERENCE_SHARE = 0.2
"""Of the budget, for the probes' further repeats; their first one they always get."""

OVERRUN = 0.1
"""By how much the budget may be exceeded at worst."""


def race(
    plan: Plan,
    arms: Sequence[Arm],
    evidence: Evidence,
    *,
    budget_seconds: float,
    class_names: Sequence[str],
    metric: Metric = "macro_f1",
    delta: float = 0.01,
    clock: Callable[[], float] = time.monotonic,
    similarity: Interval | None = None,
    suspects: NDArray[np.bool_] | None = None,
    notes: Sequence[str] = (),
    listener: Listener | None = None,
) -> Outcome:
    """Run the arms and decide.

    Args:
        plan: folds, subsets and seeds, the same for all arms.
        arms: who takes part; the first `linear_probe` is the reference that the others are compared with.
        evidence: what was measured before; what is measured now is added at once.
        budget_seconds: for all trainings, those in the evidence included. The first repeat of the probes is always
            run, whatever the budget: without it there is nothing to say.
        class_names: K names.
        metric: accuracy, balanced_accuracy or macro_f1.
        delta: how far below the best is good enough (0.01 is a point).
        clock: seconds; for tests.
        similarity: of the images to the backbone's training data, for the card.
        suspects: bool (N,), likely label errors among the development images; None where no audit was made.
        notes: to be passed on to the card.
        listener: hears of progress.

    Raises:
        UsageError: no arm is a `linear_probe`, two arms are the same, or the budget is not above 0.
    """
    listener = listener if listener is not None else Listener()
    by_key = {key_of(arm): arm for arm in arms}
    probes = [key for key in by_key if key.strategy == "linear_probe"]
    if not probes or len(by_key) != len(arms):
        raise UsageError(f"a race needs a linear_probe and different arms: got {[str(key) for key in by_key]}")
    if not budget_seconds > 0 or not 0 <= delta < 1:
        raise UsageError(f"the budget is above 0 seconds and within lies in [0, 1): {budget_seconds=}, {delta=}")
    work = _Work(plan, by_key, evidence, budget_seconds, clock, listener)
    resampled = Resampled(plan.labels, plan.group_ids, plan.num_classes, metric, seed=plan.seed)
    reference = probes[0]
    work.run_probes(probes)

    alive = [key for key in by_key if key not in probes]
    dropped: list[Dropped] = []

    def standing() -> Standing:
        return stand(plan, evidence, list(by_key), reference, resampled, seed=plan.seed)

    now, ended = standing(), "every occasion was taken"
    while alive:
        halvings = current_size(plan, evidence, alive, work.costs, work.left())
        out = weed(plan, evidence, alive, now, work.costs, work.left(), halvings=halvings, slack=work.slack)
        for one in out:
            alive.remove(one.arm)
            dropped.append(one)
            listener.say(f"{one.arm} is dropped: {one.reason}")
        if out:
            continue
        if halvings == 0 and settled(plan, evidence, alive, now, within(now, delta)):
            ended = "the choice is settled"
            break
        picked = pick_next(plan, evidence, alive, now, work.costs, halvings)
        if picked is None:
            break
        if not work.affords(*picked):
            others = [key for key in alive if key != picked[0] and (c := next_cell(plan, evidence, key, halvings))
                      and work.affords(key, c)]  # fmt: skip
            if halvings or not others:
                ended = "the budget is spent"
                break
            cell = next_cell(plan, evidence, others[0], halvings)
            assert cell is not None
            picked = others[0], cell
        work.run(reference, picked[1])
        work.run(*picked)
        now = standing()
    if not alive and dropped:
        ended = "every arm but the probe was dropped"
    end = Ended(
        dropped=tuple(dropped), costs=work.costs, reason=ended, seconds=work.trained(), wall_seconds=work.elapsed(),
        budget_seconds=budget_seconds, notes=(*notes, *_notes(evidence)),
    )  # fmt: skip
    return summarise(
        plan, evidence, list(by_key), reference, resampled, end, class_names=class_names, delta=delta,
        similarity=similarity, suspects=suspects, probe=by_key[reference],
    )  # fmt: skip


class _Work:
    """Trainings, what they cost, and what is left of the budget."""

    def __init__(
        self, plan: Plan, arms: dict[ArmKey, Arm], evidence: Evidence, budget: float, clock: Callable[[], float],
        listener: Listener,
    ) -> None:  # fmt: skip
        self.plan, self.arms, self.evidence, self.budget, self.clock = plan, arms, evidence, budget, clock
        self.listener = listener
        self.costs = Costs({key: arm.estimate_seconds for key, arm in arms.items()})
        for measurement in evidence:
            if measurement.arm in arms:
                self.costs.learn(measurement)
        self.before = self.trained()
        self.began = clock()

    def trained(self) -> float:
        """Seconds of all trainings of these arms, in this session and before."""
        return sum(m.seconds for m in self.evidence if m.arm in self.arms)

    def elapsed(self) -> float:
        """Wall seconds of this session."""
        return self.clock() - self.began

    def left(self) -> float:
        """Seconds of the budget that are left: what earlier sessions trained for and all of this one are spent."""
        return self.budget - self.before - self.elapsed()

    def affords(self, arm: ArmKey, cell: Cell) -> bool:
        """Whether a training is expected to end within the budget, and at worst within a tenth more."""
        return affords(self.costs, arm, self.plan.size_of(cell.halvings), self.left(), self.slack)

    @property
    def slack(self) -> float:
        """Seconds by which the budget may be exceeded at worst."""
        return OVERRUN * self.budget

    def run(self, key: ArmKey, cell: Cell) -> None:
        """Train an arm on an occasion, unless that was done before."""
        if self.evidence.get(key, cell) is not None:
            return
        train, judged = self.plan.rows(cell)
        answers = self.arms[key].measure(train, judged, cell.seed)
        measurement = Measurement(
            arm=key, cell=cell, num_train=len(train), rows=judged, predicted=np.asarray(answers.predicted, np.int32),
            seconds=float(answers.seconds),
        )  # fmt: skip
        self.evidence.add(measurement)
        self.costs.learn(measurement)
        spent = self.before + self.elapsed()
        self.listener.progress(round(min(spent, self.budget)), round(self.budget))

    def run_probes(self, probes: Sequence[ArmKey]) -> None:
        """The first repeat of every probe at every size, and more of them while they take a fifth of the budget."""
        for key in probes:
            for halvings in reversed(self.plan.halvings):
                for cell in self.plan.cells(halvings):
                    if cell.repeat == 0:
                        self.run(key, cell)
        for repeat in range(1, len(self.plan.folds)):
            for halvings in reversed(self.plan.halvings):
                for cell in self.plan.cells(halvings):
                    if cell.repeat != repeat:
                        continue
                    for key in probes:
                        spent = sum(m.seconds for m in self.evidence if m.arm in probes)
                        cost = self.costs.seconds(key, self.plan.size_of(halvings))
                        if self.evidence.get(key, cell) is None and spent + cost > REFERENCE_SHARE * self.budget:
                            return
                        self.run(key, cell)


def _notes(evidence: Evidence) -> list[str]:
    count = len(evidence.unreadable)
    return [f"{count} damaged files of evidence were left aside and measured anew"] if count else []
