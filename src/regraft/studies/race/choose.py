"""Which arm to take: the cheapest within δ of the best with probability 0.9, or unresolved and what would help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate.proportions import normal_quantile
from regraft.studies.race.standing import Standing
from regraft.types import JSON

ENOUGH = 0.9
LEVEL = 0.8
MIN_TRAININGS = 2
"""One training on one fold decides nothing: on 120 images an arm that had led by 8 points there, with a probability of
0.94 of being good enough, came out 0.4 points ahead on the test set."""

MORE_LABELS = 0.5
"""Labels are weighed in steps of half the data set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """Something that would make the decision clearer.

    Attributes:
        kind: seeds, labels, cleaning or full_size.
        words: what to do.
        half_width: of the 80 % interval of the contested difference afterwards.
        before: now.
        seconds: what it costs the machine; None where a person does it.
    """

    kind: str
    words: str
    half_width: float
    before: float
    seconds: float | None = None

    def as_dict(self) -> JSON:
        """A JSON object."""
        return {
            "kind": self.kind, "words": self.words, "half_width": round(self.half_width, 5),
            "before": round(self.before, 5), "seconds": None if self.seconds is None else round(self.seconds, 1),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choice:
    """What to take.

    Attributes:
        number: of the arm; where unresolved, the cheapest that is good enough by the estimates alone. Not the one that
            is most probably good enough: an arm that was hardly trained has a wide interval, which is no merit.
        resolved: it is good enough with probability 0.9.
        p_within: float64 (A,): probability that an arm is within δ of the best.
        rival: number of the arm that is most likely to be better by more than δ; None where there is one arm.
        actions: what would help, best first; empty where resolved.
    """

    number: int
    resolved: bool
    p_within: NDArray[np.float64]
    rival: int | None
    actions: tuple[Action, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What actions would meet.

    Attributes:
        num_images: development images.
        num_groups: groups among them.
        judged_groups: for each arm how many groups it was judged on.
        seconds: for each arm, one training on n images.
        cleaned_variance: for each arm the images' variance of its difference without the label issues, or None.
        num_suspects: label issues; 0 where none are known.
    """

    num_images: int
    num_groups: int
    judged_groups: Sequence[int]
    seconds: Sequence[float]
    cleaned_variance: Sequence[float | None]
    num_suspects: int


def within(standing: Standing, delta: float) -> NDArray[np.float64]:
    """float64 (A,): share of draws in which each arm is at most δ below the highest."""
    return np.asarray((standing.draws.max(axis=1, keepdims=True) - standing.draws <= delta + 1e-12).mean(axis=0))


def choose(standing: Standing, circumstances: Circumstances, *, delta: float, enough: float = ENOUGH) -> Choice:
    """The choice, and where it is unresolved what would shrink the doubt.

    Args:
        standing: where the arms stand.
        circumstances: costs, and what actions would meet.
        delta: how far below the best is good enough, as a share (0.01 is a point).
        enough: probability at which it is resolved.
    """
    p_within = within(standing, delta)
    costs = np.asarray(circumstances.seconds, np.float64)
    fit = [i for i in np.argsort(costs, kind="stable").tolist() if p_within[i] >= enough and _known(standing, i)]
    near = np.flatnonzero(standing.estimates >= standing.estimates.max() - delta - 1e-12)
    number = fit[0] if fit else int(min(near, key=lambda i: (costs[i], -standing.estimates[i])))
    rivals = [i for i in range(len(costs)) if i != number]
    ahead = [float((standing.draws[:, i] - standing.draws[:, number] > delta).mean()) for i in rivals]
    rival = rivals[int(np.argmax(ahead))] if rivals else None
    actions: tuple[Action, ...] = ()
    if not fit and rival is not None:
        actions = tuple(sorted(_actions(standing, circumstances, number, rival), key=lambda a: a.half_width))
    return Choice(number=number, resolved=bool(fit), p_within=p_within, rival=rival, actions=actions)


def _known(standing: Standing, arm: int) -> bool:
    """Whether an arm was trained often enough, at this size, for a decision to rest on it."""
    difference = standing.differences[arm]
    return difference is None or (difference.num_trainings >= MIN_TRAININGS and not standing.extrapolated[arm])


def _actions(standing: Standing, met: Circumstances, ours: int, rival: int) -> list[Action]:
    """What each action would make of the interval of the contested difference."""
    pair = [i for i in (ours, rival) if standing.differences[i] is not None]
    images = training = drift = cleaned = 0.0
    for i in pair:
        difference = standing.differences[i]
        assert difference is not None
        images += difference.images_variance
        training += difference.training_variance / difference.num_trainings
        drift += float(standing.drift_variance[i])
        known = met.cleaned_variance[i]
        cleaned += difference.images_variance if known is None else known

    def half(variance: float) -> float:
        return normal_quantile(LEVEL) * float(np.sqrt(variance))

    before = half(images + training + drift)
    names = " and ".join(dict.fromkeys(str(standing.arms[i]) for i in pair))
    found = []
    behind = [i for i in pair if standing.extrapolated[i]]
    if behind:
        cost = sum(met.seconds[i] for i in behind)
        who = " and ".join(str(standing.arms[i]) for i in behind)
        found.append(
            Action(
                kind="full_size", words=f"train {who} once on all images, {_duration(cost)}",
                half_width=half(images + training), before=before, seconds=cost,
            )
        )  # fmt: skip
    trainings = [d.num_trainings for i in pair if (d := standing.differences[i]) is not None]
    more = max(trainings, default=0)
    if more and not behind:
        # untouched folds bring images as well
        covered = min(met.judged_groups[i] for i in pair) / max(met.num_groups, 1)
        cost = sum(n * met.seconds[i] for n, i in zip(trainings, pair, strict=True))
        found.append(
            Action(
                kind="seeds",
                words=f"{more} more training{'s' if more > 1 else ''} of {names}, other seeds, {_duration(cost)}",
                half_width=half(images * covered / min(1.0, 2 * covered) + training / 2 + drift), before=before,
                seconds=cost,
            )
        )  # fmt: skip
    labels = max(10, round(MORE_LABELS * met.num_images, -1 if met.num_images < 1000 else -2))
    found.append(
        Action(
            kind="labels", words=f"label {labels:,.0f} more images",
            half_width=half(images * met.num_images / (met.num_images + labels) + training + drift), before=before,
        )
    )  # fmt: skip
    if met.num_suspects:
        found.append(
            Action(
                kind="cleaning", words=f"settle the {met.num_suspects:,} likely label errors",
                half_width=half(cleaned + training + drift), before=before,
            )
        )  # fmt: skip
    return found


def _duration(seconds: float) -> str:
    return f"about {seconds:,.0f} s" if seconds < 120 else f"about {seconds / 60:,.0f} min"
