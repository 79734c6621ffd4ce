import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from regraft.studies.rank_card import chart, front, render, write_rank_card
from regraft.studies.ranking import Ranked, Ranking
from regraft.types import Interval


def row(name, value, rate, tied=False, best=False):
    zero = Interval(estimate=0.0, low=0.0, high=0.0)
    gap = zero if best else Interval(estimate=-0.1, low=-0.2, high=0.01 if tied else -0.05)
    span = Interval(estimate=value, low=max(value - 0.05, 0), high=min(value + 0.05, 1))
    return Ranked(
        name=name, backbone=name, kind="alone", accuracy=span, balanced_accuracy=span, macro_f1=span,
        difference_to_best=gap, tied=tied or best, head="ridge", images_per_second=rate, num_parameters=10**6,
        image_size=224, columns={"ridge_accuracy": value, "leep": None}, num_forwarded=0,
    )  # fmt: skip


def ranking(rows, pick, static=None, gain=None):
    return Ranking(
        rows=tuple(rows), pick=pick, corrected=Interval(estimate=0.8, low=0.7, high=0.9), static_pick=static,
        gain=gain, metric="accuracy", reason=f"{pick}: why", notes=("a < b",), num_images=100, num_classes=3,
        seconds={},
    )  # fmt: skip


ROWS = [row("a", 0.9, 100, best=True), row("<b>&", 0.88, 300, tied=True), row("c", 0.6, 250), row("d", 0.5, 400)]


def test_the_front_holds_what_nothing_beats():
    assert front(ROWS, "accuracy") == [3, 1, 0]


@pytest.mark.parametrize("number", [1, 4, 40])
def test_the_chart_is_well_formed(number):
    rows = [row(f"n{i}", 0.9 - 0.004 * i, 50 + 10 * i) for i in range(number)]
    svg = ET.fromstring(chart(ranking(rows, "n0")))
    marks = [e for e in svg.iter() if e.tag in ("circle", "polygon")]
    assert len(marks) == number
    numbers = [e.text for e in svg.iter("text") if e.get("class") == "number"]
    assert "1" in numbers
    assert len(numbers) <= max(number, 14)


def test_names_are_escaped_and_nothing_is_loaded(tmp_path):
    found = ranking(ROWS, "<b>&", static="a", gain=Interval(estimate=-0.02, low=-0.05, high=0.01))
    page = render(found, title="<script>x</script>")
    assert "<b>" not in page
    assert "<script>" not in page
    assert "a &lt; b" in page
    assert "http:" not in page
    assert "https:" not in page
    HTMLParser().feed(page)
    write_rank_card(tmp_path / "page.html", found, title="photos")
    assert (tmp_path / "page.html").read_text("utf-8").startswith("<!doctype html>")


def test_what_is_far_below_is_in_the_table_alone():
    svg = ET.fromstring(chart(ranking(ROWS, "a")))
    assert len([e for e in svg.iter() if e.tag in ("circle", "polygon")]) == 2
    assert "d</bdi>" in render(ranking(ROWS, "a"), title="t")


def test_sentences_say_what_measuring_gained():
    gain = Interval(estimate=0.05, low=0.01, high=0.09)
    said = " ".join(ranking(ROWS, "a", static="c", gain=gain).sentences())
    assert "would take c" in said
    assert "+5.0 points (+1.0 to +9.0)" in said
    assert "confirmed" in " ".join(ranking(ROWS, "a", static="a", gain=gain).sentences())
    assert "unknown" in " ".join(ranking(ROWS, "a").sentences())
