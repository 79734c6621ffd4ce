"""A ranking as one self-contained page: what to take and why, accuracy against cost, the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from regraft.evaluate import charts
from regraft.evaluate.charts import Scale, ticks
from regraft.files import write_text
from regraft.studies.ranking import Ranked, Ranking

CANVAS, FLOOR = 540, 310
"""Width of the chart and height of its plot's lower edge, in user units."""

MOST_NUMBERS = 14
"""Up to so many candidates all are numbered; of more, those that matter: tied, on the front, the fixed list's."""

DEPTH = 0.2
"""Candidates that are this far below the best are in the table alone: they would press the others together."""

_STYLE = """
@media (min-width: 1px) { .page { display: block; max-width: 1080px; } }
h1 strong { white-space: normal; overflow-wrap: anywhere; }
.lead, section p { overflow-wrap: anywhere; }
.front { fill: none; stroke: var(--second); stroke-width: 1.5; stroke-dasharray: 6 3; }
.off { fill: var(--card); stroke: var(--accent); stroke-width: 1.5; }
.tie { fill: var(--accent); }
.pick { fill: var(--second); stroke: var(--card); stroke-width: 1; }
.chart .number { fill: var(--ink); font-size: 11px; }
.wide { max-width: 760px; }
td.num, th.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
table.ranking { border-collapse: collapse; width: 100%; font-size: 14px; }
.ranking th, .ranking td { padding: 5px 10px 5px 0; border-bottom: 1px solid var(--hair); text-align: left; vertical-align: top; }
.ranking th.num, .ranking td.num { text-align: right; }
.ranking td.file { overflow-wrap: anywhere; min-width: 14ch; }
.scroll { overflow-x: auto; }
"""  # noqa: E501


def write_rank_card(path: Path, ranking: Ranking, *, title: str) -> None:
    """Write the page, atomically."""
    write_text(path, render(ranking, title=title))


def render(ranking: Ranking, *, title: str) -> str:
    """The page as one HTML text; it loads nothing. Names are strangers' input and are escaped."""
    css = (Path(charts.__file__).parent / "report.css").read_text("utf-8") + _STYLE
    metric = ranking.metric.replace("_", " ")
    picked = ranking[ranking.pick]
    value = getattr(picked, ranking.metric)
    lead, *rest = ranking.sentences()
    rows = "".join(_row(number, row, ranking) for number, row in enumerate(ranking.rows, 1))
    notes = "".join(f"<li>{escape(note)}</li>" for note in ranking.notes)
    more = "".join(f"<p>{escape(sentence)}</p>" for sentence in rest)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)} · backbones ranked by regraft</title>
<link rel="icon" href="data:,">
<style>{css}</style>
</head>
<body>
<div class="page"><main>
<header>
  <p class="kicker"><bdi>{escape(title)}</bdi></p>
  <h1>Take <strong>{escape(ranking.pick)}</strong>: {escape(metric)} {100 * value.estimate:.1f} %,
  {picked.images_per_second:,.0f} images/s</h1>
  <p class="lead">{escape(lead)}</p>
</header>
<section aria-labelledby="cost"><h2 id="cost">{escape(metric.capitalize())} against cost</h2>
<figure class="wide">{chart(ranking)}</figure>
<p class="note">Bars are 95 % intervals. The dashed line is the front: nothing measured is both faster and better.
Filled dots are tied with the best (the interval of the paired difference includes 0); the diamond is the one to take.
The numbers are those of the table; what lies {100 * DEPTH:.0f} points or more below the best is in the table alone.</p>
{more}
</section>
<section aria-labelledby="table"><h2 id="table">All {len(ranking.rows)}</h2>
<div class="scroll" role="region" aria-labelledby="table" tabindex="0"><table class="ranking">
<thead><tr><th class="num">#</th><th>Backbone</th><th class="num">{escape(metric.capitalize())}</th>
<th class="num">95 % interval</th><th class="num">To the best</th><th>Tied</th><th class="num">Images/s</th>
<th class="num">Parameters</th><th>Head</th><th class="num">Ridge</th><th class="num">kNN 1 · 5 · 20</th>
<th class="num">LogME</th><th class="num">H-score</th><th class="num">LEEP</th><th class="num">GBC</th></tr></thead>
<tbody>{rows}</tbody></table></div>
<p class="note">{ranking.num_images:,} development images, {ranking.num_classes} classes, the same folds for all; the
locked test set took no part. LogME, H-score, LEEP and GBC are shown and never decide.</p>
{f"<ul>{notes}</ul>" if notes else ""}
</section>
</main></div>
</body>
</html>
"""


def front(rows: Sequence[Ranked], metric: str) -> list[int]:
    """Numbers of the candidates that nothing measured beats in both speed and value, fastest first."""
    order = sorted(range(len(rows)), key=lambda i: (-rows[i].images_per_second, -getattr(rows[i], metric).estimate))
    kept: list[int] = []
    for i in order:
        if not kept or getattr(rows[i], metric).estimate > getattr(rows[kept[-1]], metric).estimate:
            kept.append(i)
    return kept


def chart(ranking: Ranking) -> str:
    """Value over images a second (a logarithmic axis), with intervals and the front, as SVG."""
    metric = ranking.metric
    top = max(getattr(row, metric).estimate for row in ranking.rows)
    numbered = [
        (number, row)
        for number, row in enumerate(ranking.rows, 1)
        if getattr(row, metric).estimate >= top - DEPTH or row.name == ranking.pick
    ]
    rows = [row for _, row in numbered]
    values = [getattr(row, metric) for row in rows]
    rates = [math.log10(max(row.images_per_second, 1e-3)) for row in rows]
    pad = 0.06 * (max(rates) - min(rates)) or 0.15
    x = Scale(min(rates) - pad, max(rates) + pad, 50, CANVAS - 20)
    low, high = min(v.low for v in values), max(v.high for v in values)
    air = 0.05 * (high - low) or 0.05
    y = Scale(max(low - air, 0.0), min(high + air, 1.0), FLOOR, 30)
    body = []
    for tick in ticks(y.low, y.high, about=5):
        body.append(f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{y(tick)}" y2="{y(tick)}"/>')
        body.append(f'<text class="tick" x="44" y="{y(tick)}" dy="0.34em" text-anchor="end">{100 * tick:.4g} %</text>')
    for rate in _rate_ticks(10**x.low, 10**x.high):
        at = x(math.log10(rate))
        body.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{y.start}" y2="{y.end}"/>')
        body.append(f'<text class="tick" x="{at}" y="{FLOOR + 18}" text-anchor="middle">{rate:,.6g}</text>')
    best = front(rows, metric)
    way = " ".join(f"{x(rates[i])},{y(values[i].estimate)}" for i in best)
    body.append(f'<polyline class="front" points="{way}"/>')
    marks = []
    for i, row in enumerate(rows):
        at, middle = x(rates[i]), y(values[i].estimate)
        told = escape(f"{numbered[i][0]}. {row.name}: {values[i]}, {row.images_per_second:,.0f} images/s")
        body.append(f'<line class="whisker" x1="{at}" x2="{at}" y1="{y(values[i].low)}" y2="{y(values[i].high)}"/>')
        if row.name == ranking.pick:
            points = f"{at},{middle - 7:.2f} {at + 7:.2f},{middle} {at},{middle + 7:.2f} {at - 7:.2f},{middle}"
            marks.append(f'<polygon class="pick" points="{points}"><title>{told}</title></polygon>')
        else:
            kind = "tie" if row.tied else "off"
            marks.append(f'<circle class="{kind}" cx="{at}" cy="{middle}" r="4.5"><title>{told}</title></circle>')
    body += marks
    matter = [
        i
        for i, row in enumerate(rows)
        if len(rows) <= MOST_NUMBERS or row.tied or i in best or row.name in (ranking.pick, ranking.static_pick)
    ]
    places = _clear([(x(rates[i]), y(values[i].estimate)) for i in matter])
    body += [
        f'<text class="number" x="{left}" y="{above}">{numbered[i][0]}</text>'
        for i, (left, above) in zip(matter, places, strict=True)
    ]
    middle = (x.start + x.end) / 2
    body.append(f'<text class="axis-name" x="{middle}" y="{FLOOR + 38}" text-anchor="middle">images/s</text>')
    body.append(f'<text class="axis-name" x="50" y="18">{escape(metric.replace("_", " "))}</text>')
    told = escape(f"{len(rows)} candidates; the numbers are in the table. To take: {ranking.pick}.")
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {CANVAS} {FLOOR + 46}" aria-labelledby="rank-title rank-desc">'
        f'<title id="rank-title">{escape(metric)} against images per second</title>'
        f'<desc id="rank-desc">{told}</desc>{"".join(body)}</svg>'
    )


def _clear(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """A place for each number beside its mark, where it covers no other number or mark; right above, if none is."""
    placed: list[tuple[float, float]] = []
    for at, top in points:
        tries = [(at + dx, top + dy) for dx, dy in ((8, -5), (8, 12), (-17, -5), (-17, 12), (8, -16), (-17, -16))]

        def crowd(place: tuple[float, float]) -> float:
            numbers = sum(abs(place[0] - p[0]) < 14 and abs(place[1] - p[1]) < 10 for p in placed)
            marks = sum(-9 < p[0] - place[0] < 18 and -14 < p[1] - place[1] < 5 for p in points)
            return 2.0 * numbers + marks

        placed.append(min(tries, key=crowd))
    return [(round(left, 1), round(top, 1)) for left, top in placed]


def _rate_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    few = [m * 10.0**p for p in powers for m in (1, 2, 5) if low <= m * 10.0**p <= high]
    if len(few) >= 2:
        return few if len(few) <= 8 else few[:: math.ceil(len(few) / 8)]
    return ticks(low, high, about=4)


def _row(number: int, row: Ranked, ranking: Ranking) -> str:
    value, gap = getattr(row, ranking.metric), row.difference_to_best
    exact = gap.low == gap.high == 0
    behind = "best" if exact else f"{100 * gap.estimate:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
    near = [row.columns.get(f"knn_{k}") for k in (1, 5, 20)]
    neighbours = " · ".join("–" if v is None else f"{100 * v:.0f}" for v in near)
    rest = [row.columns.get(name) for name in ("log_me", "h_score", "leep", "gbc")]
    ridge = row.columns.get("ridge_accuracy")
    cells = [
        ("num", str(number)),
        ("file", f"<bdi>{escape(row.name)}</bdi>"),
        ("num", f"{100 * value.estimate:.1f} %"),
        ("num", f"{100 * value.low:.1f}–{100 * value.high:.1f}"),
        ("num", behind),
        ("", "tied" if row.tied else ""),
        ("num", f"{row.images_per_second:,.0f}"),
        ("num", f"{row.num_parameters / 1e6:,.1f} M"),
        ("", row.head),
        ("num", "" if ridge is None else f"{100 * ridge:.1f}"),
        ("num", neighbours),
        *(("num", "" if v is None else f"{v:.2f}") for v in rest),
    ]
    mark = ' class="is-chosen"' if row.name == ranking.pick else ""
    return f"<tr{mark}>" + "".join(f'<td class="{kind}">{text}</td>' for kind, text in cells) + "</tr>"
