"""Finished cells as markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Cell = dict[str, Any]
OURS = "regraft"


def accuracy_at(cell: Cell, seconds: float) -> float | None:
    """Of the last look within so much training time, or None before the first."""
    reached = [row["accuracy"] for row in cell["curve"] if row["seconds"] <= seconds]
    return reached[-1] if reached else None


def seconds_to(cell: Cell, accuracy: float) -> float | None:
    """Training time until the first look with at least that accuracy, or None where it was never reached."""
    return next((row["seconds"] for row in cell["curve"] if row["accuracy"] >= accuracy), None)


def spread(values: Iterable[float], form: Callable[[float], str]) -> str:
    """Mean (lowest to highest)."""
    known = list(values)
    if len(known) < 2:
        return form(known[0]) if known else "–"
    return f"{form(statistics.mean(known))} ({form(min(known))} to {form(max(known))})"


def tables(cells: dict[tuple[str, str, int], Cell], data: Sequence[str], arms: Sequence[str], seeds: int) -> str:
    """What each arm reached, then regraft against each other arm, seed by seed.

    The comparisons are those of one seed, same images: accuracies are subtracted, times divided; mean and range.
    """
    lines = ["| data | tool | accuracy | macro-F1 | s | s an epoch | s with imports | peak MiB |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name in data:
        for arm in arms:
            of = [cells[name, arm, seed] for seed in range(seeds)]
            lines.append(
                f"| {name} | {arm} | {spread((c['accuracy'] for c in of), _score)} "
                f"| {spread((c['macro_f1'] for c in of), _score)} | {spread((c['seconds'] for c in of), _seconds)} "
                f"| {_seconds(statistics.mean(map(epoch_seconds, of)))} "
                f"| {_seconds(statistics.mean(c['with_imports'] for c in of))} "
                f"| {max(c['peak_mib'] for c in of):,.0f} |"
            )
    if OURS in arms and len(arms) > 1:
        lines += ["", _COMPARED, "|---|---|---|---|---|---|---|"]
        for name in data:
            lines += [_compared(cells, name, arm, seeds) for arm in arms if arm != OURS]
        lines += ["", _READ]
    lines += ["", "Curves of the first seed: seconds → accuracy", ""]
    for name in data:
        for arm in arms:
            curve = cells[name, arm, 0]["curve"]
            points = ", ".join(f"{row['what']} {row['seconds']:.0f} → {_score(row['accuracy'])}" for row in curve)
            lines.append(f"- {name}, {arm}: {points}")
    return "\n".join(lines)


_COMPARED = (
    "| data | regraft against | accuracy, points | macro-F1, points | time, ratio | accuracy at its time, points "
    "| time to its accuracy, ratio |"
)
_READ = (
    "Points: regraft minus the peer. Ratios: the peer's seconds by regraft's, more than 1 is faster. At its time: "
    "regraft's last look within the peer's whole time. To its accuracy: until each first reached the accuracy that the "
    "peer ended with; in brackets the seeds in which regraft did."
)


def epoch_seconds(cell: Cell) -> float:
    """Between the looks of the last epochs: the mean over whole epochs with everything training."""
    ends = [row["seconds"] for row in cell["curve"] if row["what"].startswith("epoch")]
    return (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else cell["seconds"]


def _compared(cells: dict[tuple[str, str, int], Cell], name: str, arm: str, seeds: int) -> str:
    pairs = [(cells[name, OURS, seed], cells[name, arm, seed]) for seed in range(seeds)]
    at = [(accuracy_at(ours, theirs["seconds"]), theirs["accuracy"]) for ours, theirs in pairs]
    to = [(seconds_to(ours, theirs["accuracy"]), seconds_to(theirs, theirs["accuracy"])) for ours, theirs in pairs]
    reached = [theirs / ours for ours, theirs in to if ours is not None and theirs is not None]
    return (
        f"| {name} | {arm} | {spread((100 * (o['accuracy'] - t['accuracy']) for o, t in pairs), _points)} "
        f"| {spread((100 * (o['macro_f1'] - t['macro_f1']) for o, t in pairs), _points)} "
        f"| {spread((t['seconds'] / o['seconds'] for o, t in pairs), _ratio)} "
        f"| {spread((100 * (o - t) for o, t in at if o is not None), _points)} "
        f"| {spread(reached, _ratio)} [{len(reached)} of {seeds}] |"
    )


def _score(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _points(value: float) -> str:
    return f"{value:+.1f}"


def _ratio(value: float) -> str:
    return f"{value:.2f}"


def _seconds(value: float) -> str:
    return f"{value:.0f}"
