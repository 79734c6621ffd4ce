"""What a race found, as values and as the JSON that scripts rely on."""

from __future__ import annotations

from dataclasses import dataclass, field

from regraft.studies.race.allocation import Dropped
from regraft.studies.race.choose import Choice
from regraft.studies.race.classes import ClassGain
from regraft.studies.race.crossing import Crossing
from regraft.studies.race.curves import Curve
from regraft.studies.race.evidence import ArmKey
from regraft.types import JSON, Interval


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Raced:
    """One arm.

    Attributes:
        arm: which.
        value: of the metric at n training images, level 0.8.
        gain: over the reference, level 0.8.
        p_best: probability of being the best.
        p_within: probability of being within δ of the best.
        seconds: one training on n images.
        num_trainings: at n.
        extrapolated: n itself was not reached; the value is carried over from a smaller size.
        curve: its learning curve; None where one size alone was measured.
    """

    arm: ArmKey
    value: Interval
    gain: Interval
    p_best: float
    p_within: float
    seconds: float
    num_trainings: int
    extrapolated: bool
    curve: Curve | None

    def as_dict(self) -> JSON:
        """A row of `race --json`."""
        ahead = {}
        if self.curve is not None:
            ahead = {f"{times}n": self.curve.at(times * self.curve.last).as_dict() for times in (2, 4)}
        return {
            "strategy": self.arm.strategy, "backbone": self.arm.backbone, "estimate": self.value.estimate,
            "low": self.value.low, "high": self.value.high, "level": self.value.level, "p_best": round(self.p_best, 4),
            "p_within": round(self.p_within, 4), "seconds": round(self.seconds, 3), "gain": self.gain.as_dict(),
            "num_trainings": self.num_trainings, "extrapolated": self.extrapolated, "predicted": ahead,
            "well_behaved": None if self.curve is None else self.curve.well_behaved,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """A finished race.

    Attributes:
        arms: those that were measured, best estimate first.
        choice: the decision; its numbers are positions in `order`.
        chosen: the arm to take; where unresolved, meanwhile.
        rival: what could be better, or the runner-up.
        crossing: of the reference and the best other arm on its backbone.
        crossing_arm: that other arm; None without one.
        dropped: who was given up, with the probability of being best at that moment.
        classes: by what their next 50 images would give, most first.
        cleaning: what the probe gains without the likely label errors; None where none are known.
        num_suspects: likely label errors.
        similarity: 1 like the backbone's training images, 0 like noise; None where it was not measured.
        tested: arm to its value on the locked test set, for the winner and the probe; empty without a test set.
        metric: what was raced for.
        delta: how far below the best is good enough.
        num_images: development images.
        num_train: n, of the largest subsets: what the values are of.
        num_classes: K.
        sizes: training images of the subsets.
        seconds: spent on trainings, of this race and those that it resumes.
        wall_seconds: of this session, all included.
        budget_seconds: what was allowed.
        ended: why it ended, in words.
        notes: what else people should know.
    """

    arms: tuple[Raced, ...]
    choice: Choice
    chosen: ArmKey
    rival: ArmKey | None
    reference: ArmKey
    crossing: Crossing
    crossing_arm: ArmKey | None
    dropped: tuple[Dropped, ...]
    classes: tuple[ClassGain, ...]
    cleaning: Interval | None
    num_suspects: int
    similarity: Interval | None
    metric: str
    delta: float
    num_images: int
    num_train: int
    num_classes: int
    sizes: tuple[int, ...]
    seconds: float
    wall_seconds: float
    budget_seconds: float
    ended: str
    tested: dict[ArmKey, Interval] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __getitem__(self, arm: ArmKey) -> Raced:
        return next(one for one in self.arms if one.arm == arm)

    @property
    def unmeasured(self) -> Dropped | None:
        """Where nothing but the reference could be measured in the time allowed, the arm that came nearest to it."""
        alone = all(one.arm.strategy == self.reference.strategy for one in self.arms)
        return min(self.dropped, key=lambda one: one.needs or float("inf")) if alone and self.dropped else None

    @property
    def resolved(self) -> bool:
        return self.choice.resolved

    def as_dict(self) -> JSON:
        """`race --json`."""
        from regraft.studies.race.words import reason

        return {
            "choice": self.chosen.strategy, "backbone": self.chosen.backbone, "resolved": self.resolved,
            "reason": reason(self), "metric": self.metric, "within": self.delta,
            "arms": [one.as_dict() for one in self.arms], "crossing": self.crossing.as_dict(),
            "crossing_reason": self.crossing.reason,
            "similarity": None if self.similarity is None else self.similarity.as_dict(),
            "dropped": [one.as_dict() for one in self.dropped],
            "actions": [one.as_dict() for one in self.choice.actions],
            "next_images": [one.as_dict() for one in self.classes],
            "cleaning": None if self.cleaning is None else self.cleaning.as_dict(),
            "test": {str(arm): value.as_dict() for arm, value in self.tested.items()},
            "num_images": self.num_images, "num_train": self.num_train, "num_classes": self.num_classes,
            "sizes": list(self.sizes), "seconds": round(self.seconds, 2), "wall_seconds": round(self.wall_seconds, 2),
            "budget_seconds": round(self.budget_seconds, 2), "ended": self.ended, "notes": list(self.notes),
        }  # fmt: skip
