"""What the report shows of a training: its course, its settings, and how it did beside the frozen backbone's head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from regraft.evaluate import charts_training
from regraft.evaluate.charts_training import Course
from regraft.evaluate.report_facts import options
from regraft.evaluate.wording import (
    LOWER_IS_BETTER,
    MEASURES,
    clipped,
    count,
    duration,
    listed,
    number,
    percent,
    sentence,
)
from regraft.types import JSON, Interval


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Another classifier, on the very same images: the frozen backbone's head.

    Attributes:
        metrics: measure to its interval.
        difference: measure to this run's value minus that one, with a paired interval.
        seconds: what it takes to fit, and what this run took; None where not known.
    """

    metrics: Mapping[str, Interval]
    difference: Mapping[str, Interval]
    seconds: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training for the report.

    Attributes:
        history: rows as in `metrics.jsonl`, one an evaluation.
        metric: which of "accuracy", "balanced_accuracy", "macro_f1" decided.
        settings: (setting, value, reason).
        notes: sentences: which weights were taken, why it ended, ….
        beside: the linear probe on the same images, where it was fitted.
    """

    history: Sequence[Mapping[str, Any]]
    metric: str = "macro_f1"
    settings: Sequence[tuple[str, Any, str]] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    beside: Beside | None = None


def training(contents: Training | None) -> JSON | None:
    """The section, or None where nothing was trained by steps."""
    if contents is None:
        return None
    rows = [row for row in contents.history if number(row.get("epoch")) is not None]
    name, title = f"val/{contents.metric}", MEASURES.get(contents.metric, (contents.metric, ""))[0]
    best = _best(rows, name)
    shown = rows[best] if best is not None else None
    return {
        "lead": _lead(rows, shown, name, title),
        "notes": [sentence(clipped(note, 600)) for note in contents.notes if note.strip()],
        "chart": Markup(charts_training.training_curves(_course(rows, name, title, best))) if _is_drawn(rows) else "",
        "metric": title,
        "rows": [_row(row, name, is_best=number_ == best) for number_, row in enumerate(rows)],
        "validated": best is not None,
        "many": len(rows) > 12,
        "settings": options({name: {"value": value, "reason": reason} for name, value, reason in contents.settings}),
        "beside": _beside(contents.beside),
    }


def _is_drawn(rows: Sequence[Mapping[str, Any]]) -> bool:
    """One point is no curve: the table says it."""
    return len(rows) > 1 and any(number(row.get("train/loss")) is not None for row in rows)


def _best(rows: Sequence[Mapping[str, Any]], name: str) -> int | None:
    """The first row of the highest value, whose weights the loop keeps."""
    values = {i: value for i, row in enumerate(rows) if (value := number(row.get(name))) is not None}
    return max(values, key=lambda i: (values[i], -i)) if values else None


def _course(rows: Sequence[Mapping[str, Any]], name: str, title: str, best: int | None) -> Course:
    def column(key: str) -> list[float]:
        return [math.nan if (value := number(row.get(key))) is None else value for row in rows]

    return Course(
        epochs=[float(row["epoch"]) for row in rows], train_loss=column("train/loss"), val_loss=column("val/loss"),
        metric=column(name), lr=column("lr"), metric_name=title, best=best,
    )  # fmt: skip


def _lead(rows: Sequence[Mapping[str, Any]], best: Mapping[str, Any] | None, name: str, title: str) -> str:
    if not rows:
        return ""
    last = rows[-1]
    epochs = float(last["epoch"])
    passes = count(int(epochs), "pass", "passes") if epochs == int(epochs) else f"{epochs:.1f} passes"
    said = f"{passes} over the training images"
    if (steps := number(last.get("step"))) is not None:
        said += f" in {count(int(steps), 'step')}"
    if (seconds := number(last.get("seconds"))) is not None:
        said += f", {duration(seconds)}"
    rates = sorted(rate for row in rows if (rate := number(row.get("images_per_second"))) is not None)
    if rates:
        said += f" at {rates[len(rates) // 2]:,.0f} images a second"
    said += "."
    if best is not None:
        said += f" On the validation images {title} was best, {percent(number(best.get(name)))}, after epoch "
        said += f"{float(best['epoch']):g}."
    return said


def _row(row: Mapping[str, Any], name: str, *, is_best: bool) -> JSON:
    def loss(key: str) -> str:
        value = number(row.get(key))
        return "–" if value is None else f"{value:.4f}"

    lr = number(row.get("lr"))
    return {
        "epoch": f"{float(row['epoch']):g}" if float(row["epoch"]).is_integer() else f"{float(row['epoch']):.1f}",
        "train_loss": loss("train/loss"),
        "val_loss": loss("val/loss"),
        "metric": percent(number(row.get(name))),
        "lr": "–" if lr is None else f"{lr:.1e}" if lr else "0",
        "best": is_best,
    }


def _beside(beside: Beside | None) -> JSON | None:
    if beside is None:
        return None
    rows = []
    for name, (title, _) in MEASURES.items():
        probe, difference = beside.metrics.get(name), beside.difference.get(name)
        if probe is None or difference is None:
            continue
        here = probe.estimate + difference.estimate
        better = -1 if name in LOWER_IS_BETTER else 1
        ends = sorted((better * difference.low, better * difference.high))
        verdict = "better" if ends[0] > 0 else "worse" if ends[1] < 0 else "not resolved"
        rate = name != "log_loss"
        rows.append(
            {
                "title": title,
                "probe": percent(probe.estimate) if rate else f"{probe.estimate:.3f}",
                "here": percent(here) if rate else f"{here:.3f}",
                "difference": _signed(difference.estimate, rate),
                "range": f"{_signed(difference.low, rate)} to {_signed(difference.high, rate)}",
                "verdict": verdict,
            }
        )  # fmt: skip
    if not rows:
        return None
    took = ""
    if beside.seconds is not None:
        took = f"The head alone took {duration(beside.seconds[0])}, this training {duration(beside.seconds[1])}."
    return {"rows": rows, "told": f"{_verdict(rows)} {took}".strip()}


def _verdict(rows: Sequence[JSON]) -> str:
    better, worse, open_ = (
        [row["title"][:1].lower() + row["title"][1:] for row in rows if row["verdict"] == verdict]
        for verdict in ("better", "worse", "not resolved")
    )
    if not better and not worse:
        return (
            "Whether training paid is not resolved: on the same images every difference may be chance. More evaluated "
            "images would tell."
        )
    parts = [f"{word} in {listed(names, most=5)}" for word, names in (("better", better), ("worse", worse)) if names]
    rest = f"; the difference in {listed(open_, most=5)} may be chance" if open_ else ""
    return f"On the same images the trained model is {' and '.join(parts)}{rest}."


def _signed(value: float, rate: bool) -> str:
    """`+1.2`, `−0.3` points, or of a loss."""
    text = f"{100 * value:+.1f}" if rate else f"{value:+.3f}"
    text = text.replace("-", "−")
    return text.replace("+", "±").replace("−", "±") if not any(c in "123456789" for c in text) else text
