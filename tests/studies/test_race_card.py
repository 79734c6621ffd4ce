"""The decision card: JSON, words, picture, page part."""

import dataclasses
import io
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from race_fake import run

from regraft.studies.race.card_html import chart, html_fragment
from regraft.studies.race.card_png import card_png, write_card
from regraft.studies.race.crossing import Crossing
from regraft.studies.race.evidence import ArmKey
from regraft.studies.race.words import images, lines, paragraph, reason
from regraft.types import Interval

CURVES = {
    "linear_probe": lambda m: 0.15 + 0.9 * m**-0.5,
    "lp_ft": lambda m: 0.02 + 3.2 * m**-0.5,
    "scratch": lambda m: 0.4 + 3 * m**-0.5,
}


@pytest.fixture(scope="module")
def outcome():
    suspects = np.zeros(600, bool)
    suspects[::40] = True
    found = run(CURVES, per_class=200, seed=1, budget=1e4, suspects=suspects)
    return dataclasses.replace(found, similarity=Interval(estimate=0.6, low=0.5, high=0.7))


def test_json_is_as_promised(outcome):
    found = json.loads(json.dumps(outcome.as_dict(), allow_nan=False))
    assert {"choice", "resolved", "reason", "arms", "crossing", "similarity"} <= set(found)
    assert found["choice"] in CURVES
    for row in found["arms"]:
        assert {"strategy", "estimate", "low", "high", "p_best", "seconds"} <= set(row)
        assert 0 <= row["low"] <= row["estimate"] <= row["high"] <= 1
    assert sum(row["p_best"] for row in found["arms"]) == pytest.approx(1, abs=1e-3)
    assert found["crossing"] is None or set(found["crossing"]) == {"median", "low", "high"}
    assert {"estimate", "low", "high", "level"} == set(found["similarity"])
    assert found["dropped"][0]["p_best"] is not None
    assert {row["class"] for row in found["next_images"]} == {"class 0", "class 1", "class 2"}
    assert found["cleaning"]["low"] <= found["cleaning"]["estimate"] <= found["cleaning"]["high"]


def test_words_say_the_numbers(outcome):
    said = paragraph(outcome)
    assert "600 images" in said
    assert "the time" in said
    assert re.search(r"[+−]\d+\.\d ± \d+\.\d points", said)
    told = "\n".join(lines(outcome))
    assert "next 50 images would help most in class" in told
    assert "Dropped: scratch" in told
    assert "15 likely label errors" in told
    assert "probability" in reason(outcome)


@pytest.mark.parametrize(
    ("median", "high", "words"),
    [(300.0, 420.0, "pays from about 300 images on (210–420)"), (2312.0, 4083.0, "would start to pay at about 2,300"),
     (1400.0, None, "(210–beyond 1,920)")],
)  # fmt: skip
def test_words_of_the_crossing(outcome, median, high, words):
    crossing = Crossing(median=median, low=210.0, high=high, leads_small=0.1, leads_large=0.9, reason="")
    assert words in paragraph(dataclasses.replace(outcome, crossing=crossing))


def test_unknown_is_said(outcome):
    nothing = Crossing(median=None, low=None, high=None, leads_small=0.5, leads_large=0.5, reason="not known")
    other = dataclasses.replace(outcome, crossing=nothing, choice=dataclasses.replace(outcome.choice, resolved=False))
    assert other.as_dict()["crossing"] is None
    assert "not known" in paragraph(other)
    assert "unresolved" in paragraph(other)
    assert "no arm is within 1 point" in reason(other)


def test_sizes_are_rounded_to_what_is_known():
    assert [images(v) for v in (8.4, 96, 234, 2312, 48_811)] == ["8", "96", "230", "2,300", "49,000"]


def test_picture(outcome, tmp_path):
    write_card(tmp_path / "card.png", outcome, title="photos $x^2$ <b>")
    with Image.open(tmp_path / "card.png") as picture:
        assert picture.size == (1760, 1180)
        pixels = np.asarray(picture.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200
    again = Image.open(io.BytesIO(card_png(outcome, title="photos $x^2$ <b>")))
    np.testing.assert_array_equal(np.asarray(again.convert("RGB")), pixels)


def test_page_part_is_escaped_and_whole(outcome):
    wild = ArmKey(strategy="linear_probe", backbone="<script>alert(1)</script>")
    arms = tuple(dataclasses.replace(one, arm=wild) if one.arm == outcome.reference else one for one in outcome.arms)
    chosen = wild if outcome.chosen == outcome.reference else outcome.chosen
    page = html_fragment(dataclasses.replace(outcome, arms=arms, reference=wild, chosen=chosen, rival=None))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "style=" not in page
    ElementTree.fromstring(page)
    ElementTree.fromstring(chart(outcome))
    assert 'role="img"' in page
