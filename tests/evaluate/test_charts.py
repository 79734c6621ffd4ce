from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regraft.evaluate import charts
from regraft.evaluate.charts import Point

finite = st.floats(-1e6, 1e6, allow_nan=False)


def elements(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def coordinates(root: ET.Element) -> list[float]:
    names = ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height", "r")
    values = [float(e.attrib[n]) for e in root.iter() for n in names if n in e.attrib]
    for line in root.iter("polyline"):
        values += [float(v) for pair in line.attrib["points"].split() for v in pair.split(",")]
    return values


@given(low=finite, span=st.floats(1e-6, 1e6), about=st.integers(2, 8))
def test_ticks_are_few_equally_spaced_and_inside(low: float, span: float, about: int) -> None:
    found = charts.ticks(low, low + span, about=about)
    air = 1e-6 * span + 1e-9 * abs(low)
    assert len(found) <= about + 1
    assert all(low - air <= t <= low + span + air for t in found)
    gaps = [b - a for a, b in itertools.pairwise(found)]
    assert all(math.isclose(g, gaps[0], rel_tol=1e-3, abs_tol=air) for g in gaps)


def test_ticks_of_the_unit_interval() -> None:
    assert charts.ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def test_the_parts_of_a_bar_lie_end_to_end_and_never_leave_it() -> None:
    first, second = elements(charts.bar(0.7, 0.6)).iter("rect")
    assert float(first.attrib["width"]) == 70
    assert float(second.attrib["x"]) == 70
    assert float(second.attrib["width"]) == 30


def test_a_range_bar_puts_estimate_interval_and_reference_on_one_scale() -> None:
    root = elements(charts.range_bar(0.5, 0.4, 0.7, top=2.0, reference=1.0))
    band = next(e for e in root.iter("rect") if e.attrib["class"] == "band")
    assert (float(band.attrib["x"]), float(band.attrib["width"])) == (20, 15)
    at = {e.attrib["class"]: float(e.attrib["x1"]) for e in root.iter("line")}
    assert at == {"reference": 50, "estimate": 25}


def test_a_range_bar_without_a_reference_draws_none() -> None:
    assert 'class="reference"' not in charts.range_bar(0.5, 0.4, 0.7, reference=math.nan)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(0, 10**6)), min_size=1, max_size=15))
def test_the_reliability_chart_stays_on_its_canvas(rows: list[tuple[float, float, int]]) -> None:
    points = [Point(x=x, y=y, low=y / 2, high=(1 + y) / 2, label="<b> & 'x'") for x, y, _ in rows]
    root = elements(charts.reliability(points, [n for _, _, n in rows]))
    assert all(math.isfinite(v) and 0 <= v <= charts.WIDTH for v in coordinates(root))
    assert len(list(root.iter("circle"))) == len(rows)


@given(
    strengths=st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=25, unique=True),
    losses=st.lists(st.floats(0, 1e3), min_size=25, max_size=25),
    chosen=st.none() | st.integers(0, 30),
)
def test_the_path_stays_on_its_canvas(strengths: list[float], losses: list[float], chosen: int | None) -> None:
    points = [Point(x=s, y=v, low=v - 0.1, high=v + 0.1) for s, v in zip(sorted(strengths), losses, strict=False)]
    rates = [("accuracy", [Point(x=p.x, y=min(p.y, 1.0), low=0, high=0) for p in points])]
    root = elements(charts.regularisation_path(points, rates, chosen))
    assert all(math.isfinite(v) and 0 <= v <= charts.WIDTH for v in coordinates(root))
    drawn = [e for e in root.iter("line") if e.attrib["class"] == "chosen"]
    assert len(drawn) == (2 if chosen is not None and chosen < len(points) else 0)


@pytest.mark.parametrize("strengths", [[0.0, 1.0, 2.0], [3.0], [1.0, 1.5]])
def test_a_path_that_has_no_decades_names_its_strengths(strengths: list[float]) -> None:
    points = [Point(x=s, y=1.0, low=1.0, high=1.0) for s in strengths]
    svg = charts.regularisation_path(points, [], 0)
    assert all(f">{s:.2g}</text>" in svg for s in strengths)


def test_a_chart_tells_its_title_and_its_numbers_to_those_who_cannot_see_it() -> None:
    points = [Point(x=0.9, y=0.7, low=0.6, high=0.8)]
    root = elements(charts.reliability(points, [10], name="here"))
    assert root.attrib["role"] == "img"
    named = root.attrib["aria-labelledby"].split()
    texts = [e.text or "" for e in root.iter() if e.attrib.get("id") in named]
    assert len(texts) == 2
    assert "20 points below" in texts[1]
