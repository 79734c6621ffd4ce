"""From evidence to outcome: everything that the card says, computed anew from the measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from regraft.studies.race.allocation import Dropped
from regraft.studies.race.arms import Arm
from regraft.studies.race.choose import Circumstances, choose
from regraft.studies.race.classes import next_images
from regraft.studies.race.costs import Costs
from regraft.studies.race.crossing import find_crossing
from regraft.studies.race.curves import Curve, fit_curve
from regraft.studies.race.evidence import ArmKey, Evidence, Measurement
from regraft.studies.race.outcome import Outcome, Raced
from regraft.studies.race.standing import Standing, curve_draws, noisy, spread, stand
from regraft.studies.race.subsets import Plan
from regraft.studies.race.values import Difference, Resampled, images_variance, training_variance
from regraft.types import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a race ended.

    Attributes:
        dropped: who was given up.
        costs: what trainings take.
        reason: in words.
        seconds: of all trainings.
        wall_seconds: of this session.
        budget_seconds: what was allowed.
        notes: to be passed on.
    """

    dropped: tuple[Dropped, ...]
    costs: Costs
    reason: str
    seconds: float
    wall_seconds: float
    budget_seconds: float
    notes: tuple[str, ...]


def summarise(
    plan: Plan,
    evidence: Evidence,
    arms: Sequence[ArmKey],
    reference: ArmKey,
    resampled: Resampled,
    end: Ended,
    *,
    class_names: Sequence[str],
    delta: float,
    similarity: Interval | None,
    suspects: NDArray[np.bool_] | None,
    probe: Arm,
) -> Outcome:
    """The outcome of a race; arguments as in `race`."""
    standing = stand(plan, evidence, arms, reference, resampled, seed=plan.seed)
    size = plan.sizes[-1]
    seconds = [end.costs.seconds(arm, size) for arm in standing.arms]
    largest = [_largest(plan, evidence, arm) for arm in standing.arms]
    wrong = suspects if suspects is not None and suspects.any() else None
    circumstances = Circumstances(
        num_images=plan.num_images,
        num_groups=len(np.unique(plan.group_ids)),
        judged_groups=[resampled.num_groups(found) for found in largest],
        seconds=seconds,
        cleaned_variance=[
            None if wrong is None or arm == reference else _without(evidence, found, reference, resampled, wrong)
            for arm, found in zip(standing.arms, largest, strict=True)
        ],
        num_suspects=0 if wrong is None else int(wrong.sum()),
    )
    choice = choose(standing, circumstances, delta=delta)
    p_best, p_within = standing.p_best, choice.p_within
    if end.dropped and all(arm.strategy == reference.strategy for arm in standing.arms):
        # nothing is known of the others, so nothing is decided: any of them may be the best
        choice = replace(choice, resolved=False)
        p_best, p_within = (len(p) / (len(p) + len(end.dropped)) * p for p in (p_best, p_within))
    curves = {arm: _curve(plan, evidence, arm, reference, resampled, i) for i, arm in enumerate(standing.arms)}
    raced = [
        Raced(
            arm=arm, value=standing.interval(i), gain=standing.gain(i, standing.reference),
            p_best=float(p_best[i]), p_within=float(p_within[i]), seconds=seconds[i],
            num_trainings=len(evidence.of(arm, 0)), extrapolated=bool(standing.extrapolated[i]), curve=curves[arm],
        )
        for i, arm in enumerate(standing.arms)
    ]  # fmt: skip
    other = _challenger(standing)
    return Outcome(
        arms=tuple(sorted(raced, key=lambda one: -one.value.estimate)),
        choice=choice,
        chosen=standing.arms[choice.number],
        rival=None if choice.rival is None else standing.arms[choice.rival],
        reference=reference,
        crossing=find_crossing(curves[reference], None if other is None else curves[other]),
        crossing_arm=other,
        dropped=end.dropped,
        classes=tuple(next_images(plan, evidence, reference, resampled, class_names)),
        cleaning=None if wrong is None else _cleaning(plan, evidence, reference, resampled, wrong, probe),
        num_suspects=circumstances.num_suspects,
        similarity=similarity,
        metric=resampled.metric,
        delta=delta,
        num_images=plan.num_images,
        num_train=size,
        num_classes=plan.num_classes,
        sizes=plan.sizes,
        seconds=end.seconds,
        wall_seconds=end.wall_seconds,
        budget_seconds=end.budget_seconds,
        ended=end.reason,
        notes=end.notes,
    )


def _largest(plan: Plan, evidence: Evidence, arm: ArmKey) -> list[Measurement]:
    return next(found for h in reversed(plan.halvings) if (found := evidence.of(arm, h)))


def _curve(
    plan: Plan, evidence: Evidence, arm: ArmKey, reference: ArmKey, resampled: Resampled, number: int
) -> Curve | None:
    found = curve_draws(plan, evidence, arm, reference, resampled, seed=plan.seed)
    sizes = dict(zip(plan.halvings, plan.sizes, strict=True))
    return fit_curve(found, sizes, last=plan.sizes[-1], seed=plan.seed * 100 + number)


def _challenger(standing: Standing) -> ArmKey | None:
    """The best arm of another strategy, on the reference's backbone where there is one."""
    own = standing.arms[standing.reference]
    others = [i for i, arm in enumerate(standing.arms) if arm.strategy != own.strategy]
    same = [i for i in others if standing.arms[i].backbone == own.backbone]
    if not others:
        return None
    return standing.arms[max(same or others, key=lambda i: float(standing.estimates[i]))]


def _kept(measurement: Measurement, suspects: NDArray[np.bool_]) -> Measurement:
    keep = ~suspects[measurement.rows]
    return replace(measurement, rows=measurement.rows[keep], predicted=measurement.predicted[keep])


def _without(
    evidence: Evidence, found: Sequence[Measurement], reference: ArmKey, resampled: Resampled,
    suspects: NDArray[np.bool_],
) -> float | None:  # fmt: skip
    """The images' variance of an arm's difference to the reference where likely label errors are not judged."""
    pairs = [(_kept(m, suspects), _kept(r, suspects)) for m in found if (r := evidence.get(reference, m.cell))]
    pairs = [(a, b) for a, b in pairs if len(a.rows)]
    if not pairs:
        return None
    ours = [a for a, _ in pairs]
    values = resampled.value(ours) - resampled.value([b for _, b in pairs])
    return images_variance(values, resampled.num_groups(ours))


def _cleaning(
    plan: Plan, evidence: Evidence, reference: ArmKey, resampled: Resampled, suspects: NDArray[np.bool_], probe: Arm
) -> Interval:
    """What the probe gains when it learns without the likely label errors; both are judged without them."""
    which = blake3(np.packbits(suspects).tobytes()).hexdigest()[:8]
    key = ArmKey(
        strategy=reference.strategy, backbone=reference.backbone, version=f"{reference.version} without {which}"
    )
    pairs = []
    for cell in plan.cells(0):
        before = evidence.get(reference, cell)
        if cell.repeat or before is None:
            continue
        after = evidence.get(key, cell)
        if after is None:
            train, judged = plan.rows(cell)
            train = train[~suspects[train]]
            answers = probe.measure(train, judged, cell.seed)
            after = Measurement(
                arm=key, cell=cell, num_train=len(train), rows=judged,
                predicted=np.asarray(answers.predicted, np.int32), seconds=answers.seconds,
            )  # fmt: skip
            evidence.add(after)
        pairs.append((_kept(after, suspects), _kept(before, suspects)))
    pairs = [(a, b) for a, b in pairs if len(a.rows)]
    if not pairs:
        return Interval(estimate=0.0, low=-1.0, high=1.0, level=0.8)
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    values = resampled.value(ours) - resampled.value(theirs)
    difference = Difference(
        values=values,
        images_variance=images_variance(values, resampled.num_groups(ours)),
        training_variance=training_variance([resampled.each(ours) - resampled.each(theirs)], [1], 1),
        num_trainings=len(ours),
    )
    return spread(float(values[0]), noisy(difference, np.random.default_rng([plan.seed, 19]))[1:], 0.8, lowest=-1.0)
