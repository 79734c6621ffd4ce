"""The course of a training as inline SVG, in the manner of `charts`: losses, the measure that decides, the rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from regraft.evaluate.charts import WIDTH, Point, Scale, _chart, _fitted, _grid_y, _line, _mark, ticks

_DOTTED = 30
"""More evaluations than this and their marks would touch: the lines alone are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is drawn, over epochs; NaN where nothing was measured.

    Attributes:
        epochs: E rising numbers, fractions where a fit ended within an epoch.
        train_loss: E.
        val_loss: E.
        metric: E, the measure that decides, in 0..1.
        lr: E.
        metric_name: for people.
        best: which of them is the best, or None.
    """

    epochs: Sequence[float]
    train_loss: Sequence[float]
    val_loss: Sequence[float] = field(default_factory=tuple)
    metric: Sequence[float] = field(default_factory=tuple)
    lr: Sequence[float] = field(default_factory=tuple)
    metric_name: str = ""
    best: int | None = None


def training_curves(course: Course, *, name: str = "course") -> str:
    """Three panels over the epochs, one below the other; the best epoch is a line through all."""
    first, last = min(course.epochs), max(course.epochs)
    pad = 0.03 * (last - first) or 0.5
    x = Scale(first - pad, last + pad, 46, WIDTH - 12)
    dots = len(course.epochs) <= _DOTTED
    body: list[str] = []
    panels: list[tuple[float, float]] = []

    series = [("training", "curve", _points(course, course.train_loss, "training loss", ".4f"))]
    if any(map(math.isfinite, course.val_loss)):
        series.append(("validation", "curve rate1", _points(course, course.val_loss, "validation loss", ".4f")))
    y = _fitted([p.y for _, _, points in series for p in points], bottom=170, top=38)
    body.append(_grid_y(x, y, [(t, f"{t:g}") for t in ticks(y.low, y.high, about=4)]))
    body.append('<text class="axis-name" x="50" y="26">loss</text>')
    panels.append((32, 170))
    place = 100.0
    for number, (title, kind, points) in enumerate(series):
        body.append(_line(points, x, y, kind))
        body += [_mark(p, x, y, number) for p in points] if dots else []
        body.append(_key(place, 22, number, kind))
        body.append(f'<text class="axis-name" x="{place + 28}" y="26">{title}</text>')
        place += 58 + 7.5 * len(title)

    bottom = 170.0
    if values := [v for v in course.metric if math.isfinite(v)]:
        points = _points(course, course.metric, course.metric_name, ".1%")
        z = _fitted(values, bottom=312, top=222, ends=(0.0, 1.0))
        body.append(_grid_y(x, z, [(t, f"{100 * t:g} %") for t in ticks(z.low, z.high, about=4)]))
        body.append(f'<text class="axis-name" x="50" y="210">{escape(course.metric_name)}, validation</text>')
        body.append(_line(points, x, z, "curve rate1"))
        body += [_mark(p, x, z, 1) for p in points] if dots else []
        bottom = 312.0
        panels.append((216, bottom))
    if any(v > 0 for v in course.lr if math.isfinite(v)):
        top = bottom + 58
        points = _points(course, course.lr, "learning rate", ".2e")
        highest = max(p.y for p in points)
        w = Scale(0.0, highest, top + 36, top)
        body.append(_grid_y(x, w, [(0.0, "0"), (highest, "")]))
        named = f"learning rate at the end of the epoch, up to {_short(highest)}"
        body.append(f'<text class="axis-name" x="50" y="{top - 12}">{named}</text>')
        body.append(_line(points, x, w, "curve quiet-curve"))
        body += [_quiet(p, x, w) for p in points] if dots else []
        bottom = top + 36
        panels.append((top, bottom))

    for at in ticks(first, last, about=6):
        if at == round(at):
            body.append(f'<text class="tick" x="{x(at)}" y="{bottom + 17}" text-anchor="middle">{at:g}</text>')
    middle = (x.start + x.end) / 2
    body.append(f'<text class="axis-name" x="{middle}" y="{bottom + 37}" text-anchor="middle">epoch</text>')
    if course.best is not None:
        at = x(course.epochs[course.best])
        body += [f'<line class="chosen" x1="{at}" x2="{at}" y1="{t}" y2="{b}"/>' for t, b in panels]
        name_ends = 50 + 7.5 * len(f"{course.metric_name}, validation" if values else "loss: training, validation…")
        above, below = panels[1 if values else 0]
        left_of = at - 42 > name_ends and at > middle
        height = (
            above - 6 if left_of or at + 6 > name_ends else below - 6
        )  # above the panel, or in it where its name stands
        side, shift = ("end", -6) if left_of else ("start", 6)
        body.append(f'<text class="chosen-name" x="{at + shift:.2f}" y="{height:g}" text-anchor="{side}">best</text>')
    return _chart(name, "Loss, measure and learning rate by epoch", _told(course), "".join(body), height=bottom + 46)


def _points(course: Course, values: Sequence[float], title: str, form: str) -> list[Point]:
    return [
        Point(x=epoch, y=value, low=value, high=value, label=f"epoch {epoch:g}: {title} {value:{form}}")
        for epoch, value in zip(course.epochs, values, strict=True)
        if math.isfinite(value)
    ]


def _key(x: float, y: float, number: int, kind: str) -> str:
    """A piece of a curve, with its mark, before its name."""
    line = f'<line class="{kind}" x1="{x}" x2="{x + 22}" y1="{y}" y2="{y}"/>'
    return line + _mark(Point(x=0, y=0, low=0, high=0), Scale(0, 1, x + 11, 0), Scale(0, 1, y, 0), number)


def _quiet(p: Point, x: Scale, y: Scale) -> str:
    """Too small to be seen: a place for the pointer to rest on."""
    return f'<circle class="nothing" cx="{x(p.x)}" cy="{y(p.y)}" r="6"><title>{escape(p.label)}</title></circle>'


def _short(value: float) -> str:
    """`0.001`, `7.5e-4`."""
    text = f"{value:.4g}"
    if len(text) <= 6 and "e" not in text:
        return text
    mantissa, _, power = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(power)}"


def _told(course: Course) -> str:
    losses = [v for v in course.train_loss if math.isfinite(v)]
    told = f"{len(course.epochs)} evaluations. "
    if losses:
        told += f"The training loss goes from {losses[0]:.3g} to {losses[-1]:.3g}. "
    if course.best is not None and course.metric and math.isfinite(course.metric[course.best]):
        told += f"{course.metric_name} is best, {course.metric[course.best]:.1%}, after epoch "
        told += f"{course.epochs[course.best]:g}. "
    return told + "The numbers are in the table."
