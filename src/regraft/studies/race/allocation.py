"""Which arm to train next, on what, within a budget: successive halving by the probability of being best.

    n/4, n/2      every arm that is still in trains twice; whoever is then hardly ever best is dropped, and whoever the
                  budget has no room for; the last one skips these sizes where the budget is enough for n alone
    n             two trainings each, where the budget has room for them; then whoever reduces the doubt about
                  the decision most per second, until it is settled or the budget is spent

The reference is not allocated: it is nearly free and goes ahead on every occasion. Successive halving is Jamieson &
Talwalkar's (2016); the last step is the greedy form of optimal computing budget allocation (Chen et al. 2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.studies.race.choose import MIN_TRAININGS
from regraft.studies.race.costs import Costs
from regraft.studies.race.evidence import ArmKey, Evidence
from regraft.studies.race.standing import Standing
from regraft.studies.race.subsets import Cell, Plan
from regraft.types import JSON

EARLY_TRAININGS = 2
"""At each of the smaller sizes: one could be bad luck."""

DROP_BELOW = 0.03
"""Probability of being best at n under which an arm is dropped after a size is through."""

CONTENDER = 0.03
"""Who is best with at least this probability must have been judged on every image before a race ends early."""

SETTLED = 0.95
"""Probability of being good enough at which a race ends early. More than the 0.9 that a choice needs, since a race that
stops at the first look that says 0.9 stops too often on a lucky one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """An arm that was given up.

    Attributes:
        arm: which.
        p_best: its probability of being best at that moment; None where it was never measured.
        num_train: training images of the largest size it was measured at; 0 where it was never measured.
        reason: in words.
        needs: seconds beyond those spent with which it could have stayed; None where it fell behind.
    """

    arm: ArmKey
    p_best: float | None
    num_train: int
    reason: str
    needs: float | None = None

    def as_dict(self) -> JSON:
        """A JSON object."""
        return {
            "strategy": self.arm.strategy, "backbone": self.arm.backbone,
            "p_best": None if self.p_best is None else round(self.p_best, 4), "num_train": self.num_train,
            "reason": self.reason,
        }  # fmt: skip


def next_cell(plan: Plan, evidence: Evidence, arm: ArmKey, halvings: int) -> Cell | None:
    """The arm's next occasion at a size; None where it took all."""
    return next((cell for cell in plan.cells(halvings) if evidence.get(arm, cell) is None), None)


def current_size(plan: Plan, evidence: Evidence, alive: Sequence[ArmKey], costs: Costs, left: float) -> int:
    """Halvings of the smallest size that is not through for every arm that is still in; 0 when all are.

    A last arm that can pay for its trainings on n, but not for the smaller sizes before, skips them.
    """
    for halvings in plan.halvings[:-1]:
        for arm in alive:
            done = len(evidence.of(arm, halvings))
            if done < EARLY_TRAININGS and next_cell(plan, evidence, arm, halvings) is not None:
                if len(alive) == 1 and left < _to_finish(plan, evidence, costs, alive, halvings):
                    return 0
                return halvings
    return 0


def weed(
    plan: Plan, evidence: Evidence, alive: Sequence[ArmKey], standing: Standing, costs: Costs, left: float,
    *, halvings: int, slack: float = 0.0,
) -> list[Dropped]:  # fmt: skip
    """Who is dropped now; by the evidence alone, so that a race that goes on decides as one that was never killed.

    Args:
        plan: folds and sizes.
        evidence: so far.
        alive: arms that are still in, without the reference.
        standing: where they stand.
        costs: of trainings.
        left: seconds of the budget that are left.
        slack: seconds by which it may be exceeded at worst.
        halvings: the size that is to be trained at now; whoever was through the one before and hardly ever is best, is
            out.
    """
    chances = {arm: float(p) for arm, p in zip(standing.arms, standing.p_best, strict=True)}
    dropped = []
    smaller = [h for h in plan.halvings if h > halvings]
    passed = min(smaller) if smaller else None
    for arm in alive:
        if passed is not None and evidence.of(arm, passed) and chances[arm] < DROP_BELOW and not evidence.of(arm, 0):
            where = plan.size_of(passed)
            dropped.append(
                Dropped(
                    arm=arm, p_best=chances[arm], num_train=where,
                    reason=f"best at {plan.sizes[-1]:,} images with probability {chances[arm]:.2f}, after {where:,}",
                )
            )  # fmt: skip
    gone = {one.arm for one in dropped}
    # Those that are least likely to be best, per second that they cost, make room for the others.
    size = plan.sizes[-1]
    waiting = [a for a in reversed(alive) if a not in gone and not evidence.of(a, 0)]
    waiting.sort(key=lambda a: chances.get(a, 1 / (1 + len(alive))) / max(costs.seconds(a, size), 1e-9))
    while waiting and left < _to_finish(plan, evidence, costs, waiting, halvings):
        if len(waiting) == 1 and (halvings or affords(costs, waiting[0], size, left, slack)):
            break  # it skips the smaller sizes, or is trained on n once, which is better than not at all
        need = _to_finish(plan, evidence, costs, waiting, halvings)
        arm = waiting.pop(0)
        reached = max((plan.size_of(h) for h in plan.halvings if evidence.of(arm, h)), default=0)
        dropped.append(
            Dropped(
                arm=arm, p_best=chances.get(arm), num_train=reached,
                reason=f"{need:,.0f} s would be needed with it, {max(left, 0.0):,.0f} s are left; one training of it "
                f"on {size:,} images takes some {costs.seconds(arm, size):,.0f} s",
                needs=need,
            )
        )  # fmt: skip
    return dropped


def affords(costs: Costs, arm: ArmKey, num_train: int, left: float, slack: float) -> bool:
    """Whether a training is expected to end within what is left, and at worst within `slack` more."""
    return costs.seconds(arm, num_train) <= left and costs.cautious(arm, num_train) <= left + slack


def _to_finish(plan: Plan, evidence: Evidence, costs: Costs, arms: Sequence[ArmKey], halvings: int) -> float:
    """Seconds for what is next: the current size of all, and what a choice needs on n of the cheapest (at n: of all).

    Sizes between are not counted: whether they are affordable is asked again when it is their turn.
    """
    full = [MIN_TRAININGS * costs.seconds(arm, plan.sizes[-1]) for arm in arms]
    if halvings == 0:
        return sum(full)
    early = sum(
        max(0, EARLY_TRAININGS - len(evidence.of(arm, halvings))) * costs.seconds(arm, plan.size_of(halvings))
        for arm in arms
    )
    return early + min(full)


def pick_next(
    plan: Plan, evidence: Evidence, alive: Sequence[ArmKey], standing: Standing, costs: Costs, halvings: int
) -> tuple[ArmKey, Cell] | None:
    """Who trains next, and on what; None where every occasion was taken.

    At the smaller sizes and for the first training at n: whoever trained least, cheapest first. After that: whoever
    takes most off the variance of the contested difference per second, weighted by how undecided it is whether the arm
    is best.
    """
    open_cells = {arm: cell for arm in alive if (cell := next_cell(plan, evidence, arm, halvings)) is not None}
    if halvings:
        open_cells = {a: c for a, c in open_cells.items() if len(evidence.of(a, halvings)) < EARLY_TRAININGS}
    if not open_cells:
        return None
    size = plan.size_of(halvings)
    fewest = min(open_cells, key=lambda a: (len(evidence.of(a, halvings)), costs.seconds(a, size)))
    if halvings or not evidence.of(fewest, 0):
        return fewest, open_cells[fewest]
    numbers = {arm: i for i, arm in enumerate(standing.arms)}

    def gain(arm: ArmKey) -> float:
        number = numbers[arm]
        difference = standing.differences[number]
        assert difference is not None
        k, p = difference.num_trainings, float(standing.p_best[number])
        # an untouched fold brings its images as well as a training, so both parts of the variance fall like 1 / k
        undecided = max(p * (1 - p), 0.01)
        return difference.variance / (k + 1) * undecided / max(costs.seconds(arm, size), 1e-9)

    best = max(open_cells, key=gain)
    return best, open_cells[best]


def settled(
    plan: Plan, evidence: Evidence, alive: Sequence[ArmKey], standing: Standing, p_within: NDArray[np.float64]
) -> bool:
    """Whether an arm is good enough beyond doubt, and every contender was judged on every image."""
    chances = {arm: float(p) for arm, p in zip(standing.arms, standing.p_best, strict=True)}
    waiting = [a for a in alive if chances.get(a, 1.0) >= CONTENDER and len(evidence.of(a, 0)) < plan.num_folds]
    return not waiting and all(evidence.of(a, 0) for a in alive) and bool((p_within >= SETTLED).any())
