"""A race in plain words: the reason in a sentence, the paragraph of the card, the lines beneath."""

from __future__ import annotations

import math

from regraft.studies.race.outcome import Outcome
from regraft.types import Interval

PHRASES = {
    "linear_probe": "feature extraction", "light": "light fine-tuning", "lp_ft": "fine-tuning (LP-FT)",
    "full": "full fine-tuning", "scratch": "training from scratch",
}  # fmt: skip

MOST_CLASSES = 3


def phrase(outcome: Outcome, strategy: str, backbone: str) -> str:
    """An arm as people call it; the backbone is named where the race had several."""
    said = PHRASES.get(strategy, strategy)
    several = len({one.arm.backbone for one in outcome.arms}) > 1
    return f"{said} on {backbone}" if several else said


def points(interval: Interval) -> str:
    """A difference as "+0.4 ± 0.9 points": half the width of its interval, rounded outward where it is skewed."""
    half = max(interval.high - interval.estimate, interval.estimate - interval.low)
    return f"{100 * interval.estimate:+.1f} ± {100 * half:.1f} points".replace("-", "−")


def near(delta: float) -> str:
    """How far below the best is good enough: "1 point", "0.5 points"."""
    return f"{100 * delta:g} {'point' if round(100 * delta, 9) == 1 else 'points'}"


def times(ratio: float) -> str:
    """How often as much: "11×", "1.4×"."""
    return f"{ratio:,.0f}×" if ratio >= 9.5 else f"{ratio:.1f}×"


def images(number: float) -> str:
    """A size to two figures: a crossing is not known better."""
    if number < 100:
        return f"{number:,.0f}"
    digits = len(str(int(number))) - 2
    return f"{round(number, -digits):,.0f}"


def reason(outcome: Outcome) -> str:
    """Why this choice, in one sentence."""
    chosen = outcome[outcome.chosen]
    name = phrase(outcome, outcome.chosen.strategy, outcome.chosen.backbone)
    metric = outcome.metric.replace("_", " ")
    good = f"within {near(outcome.delta)} of the best {metric}"
    if outcome.unmeasured is not None:
        return f"nothing but {name} could be measured in {outcome.budget_seconds:,.0f} s"
    if outcome.resolved:
        return f"{name} is the cheapest that is {good} (probability {chosen.p_within:.2f})"
    return (
        f"no arm is {good} with probability 0.90; {name} is the cheapest that is by the estimates "
        f"({chosen.p_within:.2f})"
    )


def paragraph(outcome: Outcome) -> str:
    """What the card says in plain words."""
    return " ".join(filter(None, [_verdict(outcome), _comparison(outcome), _crossing(outcome), _help(outcome)]))


def lines(outcome: Outcome) -> list[str]:
    """What stands beneath: classes, cleaning, dropped arms, budget, notes."""
    said = []
    best = [one for one in outcome.classes if one.gain.estimate > 0][:MOST_CLASSES]
    if best:
        first, *rest = best
        gain = first.gain
        more = f", then {' and '.join(one.class_name for one in rest)}" if rest else ""
        sure = (
            "" if len(outcome.classes) < 2 or gain.low > outcome.classes[1].gain.estimate else "; the order is not sure"
        )
        said.append(
            f"The next 50 images would help most in {first.class_name} ({first.num_images:,} images now): "
            f"{100 * gain.estimate:+.2f} points ({100 * gain.low:.2f} to {100 * gain.high:.2f}){more}{sure}."
        )
    if outcome.cleaning is not None:
        said.append(
            f"Without the {outcome.num_suspects:,} likely label errors the probe changes by "
            f"{points(outcome.cleaning)}: regraft audit lists them."
        )
    for one in outcome.dropped:
        chance = "not measured" if one.p_best is None else f"P(best) {one.p_best:.2f}"
        said.append(f"Dropped: {one.arm} ({chance}): {one.reason}.")
    said += [
        f"{raced.arm} does not get better with more images; nothing is extrapolated for it."
        for raced in outcome.arms
        if raced.curve is not None and not raced.curve.well_behaved
    ]
    said.append(
        f"Trained {outcome.seconds:,.0f} s of {outcome.budget_seconds:,.0f} s allowed; it ended because "
        f"{outcome.ended}."
    )
    return [*said, *outcome.notes]


def _verdict(outcome: Outcome) -> str:
    name = phrase(outcome, outcome.chosen.strategy, outcome.chosen.backbone)
    if outcome.unmeasured is not None:
        return (
            f"With your {outcome.num_images:,} images it is open: nothing but {name} could be measured in "
            f"{outcome.budget_seconds:,.0f} s; meanwhile take that."
        )
    if not outcome.resolved:
        return f"With your {outcome.num_images:,} images it is unresolved; meanwhile take {name}."
    if outcome.chosen == outcome.reference:
        return f"With your {outcome.num_images:,} images, {name} is enough."
    return f"With your {outcome.num_images:,} images, take {name}."


def _comparison(outcome: Outcome) -> str:
    """The chosen arm against the probe, or the probe against what comes nearest to it."""
    probe = outcome[outcome.reference]
    other_key = outcome.chosen if outcome.chosen != outcome.reference else (outcome.rival or outcome.crossing_arm)
    missing = outcome.unmeasured
    if missing is not None and missing.needs is not None:
        minutes = math.ceil((outcome.seconds + missing.needs) / 60)
        return f"--budget {minutes}m measures {phrase(outcome, missing.arm.strategy, missing.arm.backbone)} too."
    if other_key is None or other_key == outcome.reference:
        return "No other arm was measured."
    other = outcome[other_key]
    name = phrase(outcome, other_key.strategy, other_key.backbone)
    name = name[0].upper() + name[1:]
    word = "gains" if other.gain.estimate >= 0 else "changes it by"
    carried = " (carried over from fewer images)" if other.extrapolated else ""
    return (
        f"{name} {word} {points(other.gain)}{carried} for {times(other.seconds / max(probe.seconds, 1e-9))} the time."
    )


def _crossing(outcome: Outcome) -> str:
    if outcome.crossing_arm is None:
        return ""
    found = outcome.crossing
    name = phrase(outcome, outcome.crossing_arm.strategy, outcome.crossing_arm.backbone)
    compared = outcome.chosen if outcome.chosen != outcome.reference else (outcome.rival or outcome.crossing_arm)
    if found.median is None or found.low is None:
        return f"Where {name} would overtake the probe: {found.reason}."
    top = images(found.high) if found.high is not None else f"beyond {4 * outcome.num_train:,}"
    who = "It" if compared == outcome.crossing_arm else name[0].upper() + name[1:]
    span = f"({images(found.low)}–{top})"
    if found.median <= outcome.num_train:
        return f"{who} pays from about {images(found.median)} images on {span}."
    return f"{who} would start to pay at about {images(found.median)} images {span}."


def _help(outcome: Outcome) -> str:
    actions = outcome.choice.actions
    if outcome.resolved or not actions:
        return ""
    first, *rest = actions
    said = (
        f"What would make it clearer: {first.words} (± {100 * first.before:.1f} points becomes "
        f"± {100 * first.half_width:.1f})"
    )
    if rest:
        said += "; or " + "; ".join(f"{one.words} (± {100 * one.half_width:.1f})" for one in rest)
    return said + "."
