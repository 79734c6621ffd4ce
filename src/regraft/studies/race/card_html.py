"""The decision card as a part of a page: a section in HTML with its picture as SVG, for `report.html`.

It uses the classes of `report.css`; colours that belong to arms are attributes of the shapes, in tones that can be seen
on light and on dark paper, so that the page's content security policy needs no exception. Names are escaped.
"""

from __future__ import annotations

import math
from html import escape
from pathlib import Path

import numpy as np

from regraft.evaluate import charts
from regraft.evaluate.charts import Scale, ticks
from regraft.studies.race.card_png import headline
from regraft.studies.race.outcome import Outcome, Raced
from regraft.studies.race.words import images, lines, near, paragraph, phrase

WIDTH, BOTTOM = 540, 300

TONES = {
    "linear_probe": "#3f83c8", "light": "#c8871b", "lp_ft": "#d1543f", "full": "#9467c2", "scratch": "#7b8696",
}  # fmt: skip
DASHES = {"light": "7 3", "lp_ft": "2 3", "full": "9 3 2 3", "scratch": "1 4"}


def html_fragment(outcome: Outcome) -> str:
    """A `<section>`: the decision, the curves, the arms, what else is to be known."""
    rows = "".join(_row(one, outcome) for one in outcome.arms)
    more = "".join(f"<li>{escape(line)}</li>" for line in lines(outcome))
    metric = escape(outcome.metric.replace("_", " "))
    picture = f"<figure>{chart(outcome)}</figure>" if any(one.curve is not None for one in outcome.arms) else ""
    title = headline(outcome)
    return f"""<section aria-labelledby="race"><h2 id="race">Which strategy: {escape(title[0].lower() + title[1:])}</h2>
<p class="lead">{escape(paragraph(outcome))}</p>
{picture}
<div class="scroll" role="region" aria-labelledby="race" tabindex="0"><table>
<thead><tr><th>Strategy</th><th>Backbone</th><th class="num">{metric}</th><th class="num">80 % interval</th>
<th class="num">Over the probe</th><th class="num">P(best)</th><th class="num">P(good enough)</th>
<th class="num">Seconds</th><th class="num">Trainings</th></tr></thead>
<tbody>{rows}</tbody></table></div>
<p class="note">Cross-validated on the {outcome.num_images:,} development images, each training on
{outcome.num_train:,} of them; the locked test set took no part. Good enough: within {near(outcome.delta)} of
the best. {_standing(outcome)}</p>
<ul class="sentences">{more}</ul>
</section>"""


def html_page(outcome: Outcome, *, title: str) -> str:
    """The section as a page of its own that loads nothing."""
    css = (Path(charts.__file__).parent / "report.css").read_text("utf-8")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<title>{escape(title)} · strategies raced by regraft</title><link rel="icon" href="data:,">
<style>{css}
@media (min-width: 1px) {{ .page {{ display: block; max-width: 980px; }} }}</style></head>
<body><div class="page"><main>
<p class="kicker"><bdi>{escape(title)}</bdi></p>
{html_fragment(outcome)}
</main></div></body></html>
"""


def chart(outcome: Outcome) -> str:
    """Value over training images (logarithmic), with 80 % bands; dashed vertical: n; below: the crossing."""
    shown = [one for one in outcome.arms if one.curve is not None]
    values = [v for one in shown if one.curve for v in (*one.curve.line, *(p.low for p in one.curve.values))]
    values += [p.high for one in shown if one.curve for p in one.curve.values]
    air = 0.06 * (max(values) - min(values)) or 0.02
    y = Scale(max(min(values) - air, 0.0), min(max(values) + air, 1.0), BOTTOM, 26)
    x = Scale(math.log(outcome.sizes[0] / 1.1), math.log(4.1 * outcome.num_train), 50, WIDTH - 92)
    body = []
    for tick in ticks(y.low, y.high, about=5):
        body.append(f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{y(tick)}" y2="{y(tick)}"/>')
        body.append(f'<text class="tick" x="44" y="{y(tick)}" dy="0.34em" text-anchor="end">{100 * tick:.4g} %</text>')
    for size in sorted({*outcome.sizes, 2 * outcome.num_train, 4 * outcome.num_train}):
        at = x(math.log(size))
        body.append(f'<text class="tick" x="{at}" y="{BOTTOM + 18}" text-anchor="middle">{size:,}</text>')
    now = x(math.log(outcome.num_train))
    body.append(f'<line class="axis" x1="{now}" x2="{now}" y1="{y.start}" y2="{y.end}"/>')
    body.append(f'<text class="tick" x="{now + 5}" y="22">predicted →</text>')
    taken: list[float] = []
    for one in reversed(shown):
        body += _curve(one, x, y)
    for one in sorted(shown, key=lambda one: -float(one.curve.line[-1]) if one.curve else 0.0):
        assert one.curve is not None
        place = max(y(float(one.curve.line[-1])), taken[-1] + 15 if taken else 0.0)
        taken.append(place)
        tone = TONES.get(one.arm.strategy, "#3a9d6d")
        body.append(
            f'<text x="{x.end + 6}" y="{place:.1f}" dy="0.34em" font-size="12" fill="{tone}">'
            f"{escape(one.arm.strategy.replace('_', ' '))}</text>"
        )
    found = outcome.crossing
    if found.median is not None and found.low is not None:
        high = found.high if found.high is not None else 4 * outcome.num_train
        ends = [x(math.log(v)) for v in (found.low, high, found.median)]
        level = BOTTOM - 9
        body.append(f'<line class="whisker" x1="{ends[0]}" x2="{ends[1]}" y1="{level}" y2="{level}"/>')
        body.append(f'<circle class="dot" cx="{ends[2]}" cy="{level}" r="4"/>')
        side = "end" if ends[2] > (x.start + x.end) / 2 else "start"
        body.append(
            f'<text class="axis-name" x="{ends[2]}" y="{level - 8}" text-anchor="{side}">cross at '
            f"{images(found.median)}</text>"
        )
    middle = (x.start + x.end) / 2
    body.append(f'<text class="axis-name" x="{middle}" y="{BOTTOM + 38}" text-anchor="middle">training images</text>')
    told = escape(paragraph(outcome))
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {BOTTOM + 46}" aria-labelledby="race-title race-desc">'
        f'<title id="race-title">{escape(outcome.metric.replace("_", " "))} by training images</title>'
        f'<desc id="race-desc">{told}</desc>{"".join(body)}</svg>'
    )


def _curve(one: Raced, x: Scale, y: Scale) -> list[str]:
    curve = one.curve
    assert curve is not None
    tone = TONES.get(one.arm.strategy, "#3a9d6d")
    keep = curve.grid >= curve.sizes[0] * 0.999
    low, high = np.quantile(curve.draws[:, keep], [0.1, 0.9], axis=0)
    across = [x(math.log(v)) for v in curve.grid[keep]]
    outline = [f"{a},{y(float(v))}" for a, v in zip(across, high, strict=True)]
    outline += [f"{a},{y(float(v))}" for a, v in zip(across[::-1], low[::-1], strict=True)]
    way = " ".join(f"{a},{y(float(v))}" for a, v in zip(across, curve.line[keep], strict=True))
    dash = f' stroke-dasharray="{DASHES[one.arm.strategy]}"' if one.arm.strategy in DASHES else ""
    body = [
        f'<polygon points="{" ".join(outline)}" fill="{tone}" fill-opacity="0.13"/>',
        f'<polyline points="{way}" fill="none" stroke="{tone}" stroke-width="2"{dash}/>',
    ]
    for size, value in zip(curve.sizes.tolist(), curve.values, strict=True):
        at = x(math.log(size))
        told = escape(f"{one.arm.strategy}, {size:,} images: {value}")
        body.append(f'<line x1="{at}" x2="{at}" y1="{y(value.low)}" y2="{y(value.high)}" stroke="{tone}"/>')
        body.append(f'<circle cx="{at}" cy="{y(value.estimate)}" r="3.6" fill="{tone}"><title>{told}</title></circle>')
    return body


def _row(one: Raced, outcome: Outcome) -> str:
    gain = one.gain
    over = "–" if one.arm == outcome.reference else (
        f"{100 * gain.estimate:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
    )  # fmt: skip
    name = phrase(outcome, one.arm.strategy, "").removesuffix(" on ")
    carried = " (carried over from fewer images)" if one.extrapolated else ""
    strong = ' class="strong"' if one.arm == outcome.chosen else ""
    return (
        f"<tr{strong}><td>{escape(name + carried)}</td><td><bdi>{escape(one.arm.backbone)}</bdi></td>"
        f'<td class="num">{100 * one.value.estimate:.1f} %</td>'
        f'<td class="num">{100 * one.value.low:.1f}–{100 * one.value.high:.1f}</td><td class="num">{over}</td>'
        f'<td class="num">{one.p_best:.2f}</td><td class="num">{one.p_within:.2f}</td>'
        f'<td class="num">{one.seconds:,.1f}</td><td class="num">{one.num_trainings}</td></tr>'
    )


def _standing(outcome: Outcome) -> str:
    if outcome.similarity is None:
        return ""
    at = outcome.similarity
    return (
        f"On the way from pixel noise (0) to ordinary photographs (1) the images stand at {at.estimate:.2f} "
        f"({at.low:.2f}–{at.high:.2f}), with {outcome.num_images / outcome.num_classes:,.0f} images a class."
    )
