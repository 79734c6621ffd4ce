"""The report's numbers and sentences: a result in, plain words out.

A reservation is a sentence that keeps a reader from trusting the headline further than the data carry it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from regraft.types import JSON

FEW = 10
"""Below this many evaluated images a class cannot be judged: with 9 of 10 right, Wilson's interval is 60–98 %."""

WIDE = 0.10
"""An accuracy whose 95 % interval spans more than this is called uncertain."""

MEASURES = {
    "accuracy": ("Accuracy", "share of images whose class is named right"),
    "balanced_accuracy": ("Balanced accuracy", "the same, every class counting alike"),
    "macro_f1": ("Macro-F1", "mean over the classes of F1 (both misses and false alarms cost)"),
    "log_loss": ("Log loss", "lower is better; punishes confident mistakes"),
    "ece": ("Calibration error", "lower is better; how far confidence and truth lie apart on average"),
}
"""Name in `result.json` → heading and explanation. The order of the report."""

LOWER_IS_BETTER = ("log_loss", "ece")


def number(value: Any) -> float | None:
    """A finite float, from a number or from an interval's estimate; None for anything else."""
    if isinstance(value, Mapping):
        value = value.get("estimate")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def percent(share: float | None, *, unit: bool = True) -> str:
    """`93.4 %`; never rounds up to a certainty that is not there.

    >>> percent(0.99996)
    '>99.9\\xa0%'
    """
    if share is None or not math.isfinite(share):
        return "–"
    text = f"{100 * share:.1f}"
    if text == "100.0":
        text = "100" if share == 1 else ">99.9"
    elif text in ("0.0", "-0.0"):
        text = "0" if share == 0 else "<0.1"
    return f"{text}\u00a0%" if unit else text


def percent_range(low: float, high: float) -> str:
    """`92.0–94.6 %`."""
    return f"{percent(low, unit=False)}–{percent(high)}"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `1 h 05 min`."""
    if seconds < 0.95:
        return f"{seconds:.2f}\u00a0s"
    if seconds < 9.95:
        return f"{seconds:.1f}\u00a0s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}\u00a0s"
    if whole < 3600:
        return f"{whole // 60}\u00a0min {whole % 60}\u00a0s"
    return f"{whole // 3600}\u00a0h {whole % 3600 // 60:02d}\u00a0min"


def count(value: int, noun: str, plural: str = "") -> str:
    """`1 image`, `1,200 images`."""
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def listed(names: Sequence[str], *, most: int = 4) -> str:
    """`a, b and 3 more`."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most:,} more"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def sentence(text: str) -> str:
    """With a capital letter in front and a full stop at the end."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if not text or text[-1] in ".!?…" else ".")


def isolated(name: str) -> str:
    """A class name in quotes, fenced off so that right-to-left letters in it do not turn the sentence around."""
    return f"‘\u2068{name}\u2069’"


def headline(result: JSON, evaluated: int) -> dict[str, str]:
    """The answer in three pieces: `lead`, `figure`, `tail`, and the sentence `more` below it.

    Args:
        result: as `result.json`.
        evaluated: images that the estimate rests on.
    """
    accuracy = result.get("metrics", {}).get("accuracy")
    estimate = number(accuracy)
    if estimate is None or not evaluated:
        return {
            "lead": "How often the classifier is right is ",
            "figure": "not known",
            "tail": ": no image could be evaluated.",
            "more": "",
        }
    cross_validated = result.get("split") == "cv"
    tail = f" of cases, on {count(evaluated, 'image')} it never saw"
    if cross_validated:
        tail = f" of cases, by cross-validation over {count(evaluated, 'image')}"
    more = []
    if isinstance(accuracy, Mapping) and (low := number(accuracy.get("low"))) is not None:
        high = number(accuracy.get("high"))
        level = number(accuracy.get("level")) or 0.95
        if high is not None:
            more.append(
                f"The true share very likely lies between {percent(low, unit=False)} and {percent(high)} "
                f"({100 * level:g}\u00a0% interval)."
            )
    base = number(result.get("baseline", {}).get("accuracy"))
    if base is not None:
        more.append(f"Always guessing the largest class would be right in {percent(base)}.")
    if cross_validated:
        more.append("Each image was judged by a model that had not seen it.")
    return {"lead": "Right in ", "figure": percent(estimate), "tail": tail, "more": " ".join(more)}


def reservations(result: JSON, evaluated: int) -> list[tuple[str, str]]:
    """What keeps the headline from being taken at its word: (in short, in full), the gravest first."""
    metrics, baseline = result.get("metrics", {}), result.get("baseline", {})
    found: list[tuple[str, str]] = []
    accuracy = metrics.get("accuracy")
    estimate, base = number(accuracy), number(baseline.get("accuracy"))
    low = number(accuracy.get("low")) if isinstance(accuracy, Mapping) else None
    high = number(accuracy.get("high")) if isinstance(accuracy, Mapping) else None
    if estimate is None or not evaluated:
        found.append(("Nothing was measured", "without evaluated images nothing can be said about the classifier."))
    if low is not None and base is not None and low <= base:
        found.append(
            (
                "Not shown to beat guessing",
                f"the interval reaches down to {percent(low)}; guessing the largest class gives {percent(base)}.",
            )
        )
    if low is not None and high is not None and high - low > WIDE:
        found.append(
            (
                "Uncertain",
                f"with {count(evaluated, 'evaluated image')} the interval spans {100 * (high - low):.0f} points; "
                "more labelled images would narrow it.",
            )
        )
    found += _class_reservations(result.get("per_class", {}))
    balanced = number(metrics.get("balanced_accuracy"))
    if estimate is not None and balanced is not None and estimate - balanced > 0.05:
        found.append(
            (
                "Common classes flatter the figure",
                f"with every class counting alike it is right in {percent(balanced)}, not {percent(estimate)}.",
            )
        )
    ece = number(metrics.get("ece"))
    if ece is not None and ece > 0.1:
        found.append(
            (
                "Confidences mislead",
                f"on average they lie {100 * ece:.0f} points away from the truth; do not read them as probabilities.",
            )
        )
    if result.get("split") == "cv":
        found.append(
            (
                "No separate test set",
                "the data are too few to lock some away, so this is cross-validation; a fresh set of images would be "
                "the better judge.",
            )
        )
    out, used = int(result.get("num_excluded") or 0), int(result.get("num_images") or 0)
    if out and out / (out + used) > 0.05:
        found.append(
            (
                "Many images left out",
                f"{percent(out / (out + used))} of the images could not be used; the figure says nothing about those.",
            )
        )
    found += [("Warning", str(text)) for text in result.get("warnings") or []]
    return found


def _class_reservations(per_class: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    supports = {name: int(number(row.get("support")) or 0) for name, row in per_class.items()}
    missing = [shown(name) for name, n in supports.items() if n == 0]
    few = [(name, n) for name, n in supports.items() if 0 < n < FEW]
    weak = [
        shown(name)
        for name, row in per_class.items()
        if supports[name] >= FEW and (number(row.get("recall")) or 0.0) < 0.5
    ]
    found = []
    if weak:
        found.append(("Often missed", f"fewer than half of the images of {listed(weak)} are recognised."))
    if missing:
        found.append(
            (
                "Not evaluated",
                f"no evaluated image shows {listed(missing)}, so nothing is known there.",
            )
        )
    if few:
        few.sort(key=lambda item: item[1])
        names = [f"{shown(name)} ({n})" for name, n in few]
        found.append(("Too few to judge", f"fewer than {FEW} evaluated images show {listed(names)}."))
    return found


def clipped(text: str, most: int = 80) -> str:
    """One line of at most `most` characters: the middle of a longer one is left out, control characters are shown
    as a box."""
    line = "".join(c if c.isprintable() or c in "\u200c\u200d" else "\ufffd" for c in text)
    if len(line) <= most:
        return line
    tail = most // 3
    return f"{line[: most - tail - 1]}…{line[-tail:]}"


def shown(name: str) -> str:
    """A class name within a sentence."""
    return isolated(clipped(name, 40))
