"""Charts as inline SVG: numbers in, a string out, nothing else.

Colours are CSS classes (`report.css` has them for light and dark paper), so a chart follows the page. What a colour
says, a shape, a dash or a number says too. Charts with axes are drawn on a canvas 440 units wide, so that their text
stays readable on a phone; bars carry no text and stretch to the width of their box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 440
"""Width of the charts with axes, in user units; text in them is 13 units high."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A measured value over x, with the ends of its interval (or the value itself where there is none).

    Attributes:
        x: where it lies on the horizontal axis.
        y: the value.
        low: lower end of the interval.
        high: upper end.
        label: what a pointer that rests on it is told.
        weight: 0..1, how large its marker is drawn.
    """

    x: float
    y: float
    low: float
    high: float
    label: str = ""
    weight: float = 0.5


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps values linearly from [low, high] to [start, end] in user units, and stops at the ends."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return round(self.start + min(max(share, 0.0), 1.0) * (self.end - self.start), 2)


def ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten apart) that lie in [low, high].

    >>> ticks(0.0, 1.0)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((s * power for s in (1, 2, 2.5, 5) if s * power >= rough * 0.999), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def bar(*shares: float) -> str:
    """A horizontal bar of one or two parts, each a share of the full width. Says nothing on its own: the number
    stands beside it, so readers of the screen are spared it."""
    parts, start = [], 0.0
    for number, share in enumerate(shares):
        width = round(100 * min(max(share, 0.0), 1.0 - start), 2)
        parts.append(f'<rect class="part{number}" x="{round(100 * start, 2)}" y="0" width="{width}" height="10"/>')
        start += width / 100
    return _strip("bar", "".join(parts), height=10)


def range_bar(estimate: float, low: float, high: float, *, top: float = 1.0, reference: float | None = None) -> str:
    """An interval as a band on a track from 0 to `top`, the estimate a line across it, a reference a dashed line.

    Says nothing on its own: the numbers stand beside it.
    """
    at = Scale(0.0, top, 0.0, 100.0)
    shapes = [
        '<rect class="track" x="0" y="7" width="100" height="2"/>',
        f'<rect class="band" x="{at(low)}" y="4" width="{round(max(at(high) - at(low), 0.4), 2)}" height="8"/>',
    ]
    if reference is not None and math.isfinite(reference):
        shapes.append(f'<line class="reference" x1="{at(reference)}" x2="{at(reference)}" y1="0" y2="16"/>')
    shapes.append(f'<line class="estimate" x1="{at(estimate)}" x2="{at(estimate)}" y1="1" y2="15"/>')
    return _strip("range", "".join(shapes), height=16)


def reliability(points: Sequence[Point], counts: Sequence[int], *, name: str = "reliability") -> str:
    """Share of right answers over the confidence that was claimed, with a histogram of the confidences below.

    Args:
        points: one per bin that holds images: x is the mean confidence, y the share of right answers, both in 0..1.
        counts: images in each of these bins.
        name: makes the ids in the page unique.
    """
    x, y = Scale(0, 1, 46, WIDTH - 22), Scale(0, 1, 312, 12)
    body = [_grid_x(x, y, ticks(0, 1))]
    body.append(_grid_y(x, y, [(t, f"{100 * t:.0f} %") for t in ticks(0, 1)]))
    body.append(f'<line class="ideal" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    body.append(f'<text class="note" x="{x(0.1)}" y="{y(0.13)}" text-anchor="end" dy="-6" dx="30">perfect</text>')
    body += [f'<line class="whisker" x1="{x(p.x)}" x2="{x(p.x)}" y1="{y(p.low)}" y2="{y(p.high)}"/>' for p in points]
    body.append(_line(points, x, y, "curve"))
    for p in points:
        radius = round(3 + 4 * math.sqrt(min(max(p.weight, 0.0), 1.0)), 2)
        body.append(
            f'<circle class="dot" cx="{x(p.x)}" cy="{y(p.y)}" r="{radius}"><title>{escape(p.label)}</title></circle>'
        )
    most = max(counts, default=0) or 1
    height = Scale(0, most, 0, 48)
    for p, count in zip(points, counts, strict=True):
        tall = max(height(count), 1.0 if count else 0.0)
        body.append(
            f'<rect class="count" x="{x(p.x) - 8:.2f}" y="{382 - tall:.2f}" width="16" height="{tall:.2f}">'
            f"<title>{escape(p.label)}</title></rect>"
        )
    body.append(f'<line class="axis" x1="{x(0)}" x2="{x(1)}" y1="382" y2="382"/>')
    body.append(f'<text class="tick" x="40" y="342" text-anchor="end">{most:,}</text>')
    body += [f'<text class="tick" x="{x(t)}" y="398" text-anchor="middle">{100 * t:.0f} %</text>' for t in ticks(0, 1)]
    body.append(f'<text class="axis-name" x="{x(0.5)}" y="418" text-anchor="middle">confidence</text>')
    body.append('<text class="axis-name" x="50" y="334">images</text>')
    body.append('<text class="axis-name" x="50" y="26">share that is right</text>')
    low = min((p.y - p.x for p in points), default=0.0)
    high = max((p.y - p.x for p in points), default=0.0)
    told = (
        f"{len(points)} bins. The share of right answers lies between {100 * abs(low):.0f} points "
        f"{'below' if low < 0 else 'above'} and {100 * abs(high):.0f} points "
        f"{'below' if high < 0 else 'above'} the confidence. The numbers are in the table below."
    )
    return _chart(name, "Share of right answers by confidence", told, "".join(body), height=426)


def regularisation_path(
    losses: Sequence[Point], rates: Sequence[tuple[str, Sequence[Point]]], chosen: int | None, *, name: str = "path"
) -> str:
    """Log loss over the strength of the regularisation (a logarithmic axis), and up to two rates in 0..1 below.

    Args:
        losses: x is the strength, y the cross-validated log loss with its interval; by rising strength.
        rates: names with points at the same strengths.
        chosen: which of them was chosen.
        name: makes the ids in the page unique.
    """
    xs = [p.x for p in losses]
    logarithmic = min(xs) > 0
    place = [math.log10(v) for v in xs] if logarithmic else [float(i) for i in range(len(xs))]
    pad = 0.04 * (max(place) - min(place)) or 0.5
    x = Scale(min(place) - pad, max(place) + pad, 46, WIDTH - 12)
    losses = [_moved(p, at) for p, at in zip(losses, place, strict=True)]
    body = []

    y = _fitted([v for p in losses for v in (p.y, p.low, p.high)], bottom=170, top=32)
    body.append(_grid_y(x, y, [(t, f"{t:g}") for t in ticks(y.low, y.high, about=4)]))
    body.append('<text class="axis-name" x="50" y="26">log loss</text>')
    panels = [(12, 170)]
    body += [f'<line class="whisker" x1="{x(p.x)}" x2="{x(p.x)}" y1="{y(p.low)}" y2="{y(p.high)}"/>' for p in losses]
    body.append(_line(losses, x, y, "curve"))
    body += [_mark(p, x, y, 0) for p in losses]

    values = [p.y for _, points in rates for p in points if math.isfinite(p.y)]
    if values:
        panels.append((218, 330))  # below the legend
        z = _fitted(values, bottom=330, top=222, ends=(0.0, 1.0))
        body.append(_grid_y(x, z, [(t, f"{100 * t:g} %") for t in ticks(z.low, z.high, about=4)]))
        legend = 50.0
        for number, (title, points) in enumerate(rates):
            moved = [_moved(p, at) for p, at in zip(points, place, strict=True) if math.isfinite(p.y)]
            body.append(_line(moved, x, z, f"curve rate{number}"))
            body += [_mark(p, x, z, number) for p in moved]
            body.append(_mark(Point(x=0, y=0, low=0, high=0), Scale(0, 1, legend + 4, 0), Scale(0, 1, 206, 0), number))
            body.append(f'<text class="axis-name" x="{legend + 14}" y="210">{escape(title)}</text>')
            legend += 30 + 7.5 * len(title)

    bottom = panels[-1][1]
    for at, text in _strength_ticks(xs, place, logarithmic):
        body.append(f'<text class="tick" x="{x(at)}" y="{bottom + 17}" text-anchor="middle">{text}</text>')
    middle = (x.start + x.end) / 2
    body.append(
        f'<text class="axis-name" x="{middle}" y="{bottom + 37}" text-anchor="middle">regularisation strength</text>'
    )
    told = "Cross-validated log loss"
    if chosen is not None and 0 <= chosen < len(losses):
        at = x(losses[chosen].x)
        body += [f'<line class="chosen" x1="{at}" x2="{at}" y1="{t}" y2="{b}"/>' for t, b in panels]
        side = "end" if at > middle else "start"
        shift = -6 if at > middle else 6
        body.append(f'<text class="chosen-name" x="{at + shift:.2f}" y="24" text-anchor="{side}">chosen</text>')
        told += f" is {losses[chosen].y:.3g} at the chosen strength {xs[chosen]:.2g}"
    told += f", and lowest ({min(p.y for p in losses):.3g}) among {len(losses)} strengths between "
    told += f"{min(xs):.2g} and {max(xs):.2g}."
    return _chart(name, "Cross-validated log loss by regularisation strength", told, "".join(body), height=bottom + 46)


def _strength_ticks(xs: Sequence[float], place: Sequence[float], logarithmic: bool) -> list[tuple[float, str]]:
    if not logarithmic or max(place) - min(place) < 1:
        every = max(1, math.ceil(len(xs) / 6))
        return [(place[i], f"{xs[i]:.2g}") for i in range(0, len(xs), every)]
    whole = range(math.ceil(min(place) - 1e-9), math.floor(max(place) + 1e-9) + 1)
    every = max(1, math.ceil(len(whole) / 6))
    superscript = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    return [(float(e), f"10{str(e).translate(superscript)}") for e in whole[::every]]


def _fitted(values: Sequence[float], *, bottom: float, top: float, ends: tuple[float, float] | None = None) -> Scale:
    """A vertical scale that holds the values with a little air, within `ends`."""
    finite = [v for v in values if math.isfinite(v)]
    low, high = min(finite), max(finite)
    air = 0.08 * (high - low) or 0.05 * max(abs(high), 0.1)
    low, high = low - air, high + air
    if ends is not None:
        low, high = max(low, ends[0]), min(high, ends[1])
    return Scale(low, high, bottom, top)


def _moved(p: Point, x: float) -> Point:
    return Point(x=x, y=p.y, low=p.low, high=p.high, label=p.label, weight=p.weight)


def _mark(p: Point, x: Scale, y: Scale, number: int) -> str:
    """A dot, or a square for the second series: shapes, so that colour is not all that tells them apart."""
    title = f"<title>{escape(p.label)}</title>" if p.label else ""
    if number == 0:
        return f'<circle class="dot" cx="{x(p.x)}" cy="{y(p.y)}" r="3.5">{title}</circle>'
    left, top = round(x(p.x) - 3.2, 2), round(y(p.y) - 3.2, 2)
    return f'<rect class="dot dot{number}" x="{left}" y="{top}" width="6.4" height="6.4">{title}</rect>'


def _line(points: Sequence[Point], x: Scale, y: Scale, kind: str) -> str:
    if len(points) < 2:
        return ""
    way = " ".join(f"{x(p.x)},{y(p.y)}" for p in points)
    return f'<polyline class="{kind}" points="{way}"/>'


def _grid_y(x: Scale, y: Scale, at: Sequence[tuple[float, str]]) -> str:
    return "".join(
        f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{y(t)}" y2="{y(t)}"/>'
        f'<text class="tick" x="{x.start - 6}" y="{y(t)}" dy="0.34em" text-anchor="end">{text}</text>'
        for t, text in at
    )


def _grid_x(x: Scale, y: Scale, at: Sequence[float]) -> str:
    return "".join(f'<line class="grid" x1="{x(t)}" x2="{x(t)}" y1="{y.start}" y2="{y.end}"/>' for t in at)


def _strip(kind: str, shapes: str, *, height: int) -> str:
    return (
        f'<svg class="strip {kind}" viewBox="0 0 100 {height}" preserveAspectRatio="none" aria-hidden="true" '
        f'focusable="false">{shapes}</svg>'
    )


def _chart(name: str, title: str, told: str, body: str, *, height: float) -> str:
    """The frame of a chart with axes: an image with a title and a description for those who cannot see it."""
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {height:g}" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(told)}</desc>{body}</svg>'
    )
