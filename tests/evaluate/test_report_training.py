from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from report_samples import HOSTILE, contents
from test_report import Page

from regraft.evaluate import report_training
from regraft.evaluate.charts_training import Course, training_curves
from regraft.evaluate.report import render
from regraft.evaluate.report_training import Beside, Training
from regraft.types import Interval


def history(num: int = 12, *, validated: bool = True) -> list[dict[str, Any]]:
    rows = []
    for epoch in range(1, num + 1):
        row: dict[str, Any] = {
            "step": 40 * epoch, "epoch": epoch, "train/loss": 0.2 + 1 / epoch, "lr": 1e-3 * (1 - epoch / (num + 1)),
            "images_per_second": 200.0 + epoch, "seconds": 12.5 * epoch,
        }  # fmt: skip
        if validated:
            row |= {"val/loss": 0.3 + 1 / epoch, "val/macro_f1": 0.8 - abs(epoch - 7) / 100, "val/accuracy": 0.9}
        rows.append(row)
    return rows


def interval(estimate: float, half: float) -> Interval:
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half)


def beside(**differences: tuple[float, float]) -> Beside:
    names = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "ece")
    return Beside(
        metrics={name: interval(0.5, 0.1) for name in names},
        difference={name: interval(*differences.get(name, (0.0, 0.1))) for name in names},
        seconds=(3.0, 212.0),
    )


def section(training: Training | None) -> dict[str, Any]:
    shown = report_training.training(training)
    assert shown is not None
    return shown


# ── the page ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_training_the_page_is_as_it_was() -> None:
    page = Page(render(contents()))
    assert "How it was trained" not in page.text
    assert "#training" not in [attrs.get("href") for attrs in page.all("a")]
    assert "How the head was chosen" in page.text


def test_a_training_has_its_section_and_a_way_to_it() -> None:
    settings = [("lr", 1e-3, "fastai's fine_tune"), ("flip", False, "off unless asked for")]
    full = Training(
        history=history(), settings=settings, notes=["12 epochs are done"], beside=beside(accuracy=(0.02, 0.01))
    )
    page = Page(render(contents(training=full)))
    for word in ("How it was trained", "12 passes over the training images in 480 steps, 2\xa0min 30\xa0s at 207",
                 "Macro-F1 was best, 80.0\xa0%, after epoch 7", "12 epochs are done.", "7 (best)",
                 "Beside the frozen backbone’s head", "fastai's fine_tune",
                 "How the first head was chosen"):  # fmt: skip
        assert word in page.text, word
    assert "#training" in [attrs.get("href") for attrs in page.all("a")]
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert "style" not in {name for _, attrs in page.tags for name in attrs}


def test_a_training_without_a_solved_head_has_no_section_on_it() -> None:
    page = Page(render(contents(training=Training(history=history()), path=(), choice="")))
    assert "head was chosen" not in page.text
    assert "#head" not in [attrs.get("href") for attrs in page.all("a")]


def test_what_strangers_wrote_is_text() -> None:
    settings = [(name, name, name) for name in HOSTILE]
    rows = [row | {"epoch": row["epoch"]} for row in history(3)]
    page = Page(render(contents(training=Training(history=rows, settings=settings, notes=HOSTILE))))
    assert len(page.all("script")) == 1
    assert HOSTILE[0] in page.text
    assert HOSTILE[2] in page.text


def test_rows_of_any_kind_make_a_page() -> None:
    nothing = {"step": 1, "epoch": 0.5, "train/loss": None, "val/loss": None, "val/macro_f1": None, "lr": 0.0}
    for rows in (
        [],
        [nothing],
        [nothing, nothing | {"epoch": 1}],
        history(1),
        history(200),
        history(4, validated=False),
    ):
        assert "How it was trained" in Page(render(contents(training=Training(history=rows)))).text


# ── what it says ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_best_is_the_first_of_the_highest_as_in_the_loop() -> None:
    rows = history(4)
    for row, value in zip(rows, (0.5, 0.7, 0.7, None), strict=True):
        row["val/macro_f1"] = value
    assert [row["best"] for row in section(Training(history=rows))["rows"]] == [False, True, False, False]
    assert [row["metric"] for row in section(Training(history=rows))["rows"]] == ["50.0\xa0%", *["70.0\xa0%"] * 2, "–"]


def test_a_measure_of_choice_and_an_epoch_that_was_not_finished() -> None:
    rows = history(2)
    rows[-1]["epoch"] = 1.35
    shown = section(Training(history=rows, metric="accuracy"))
    assert shown["metric"] == "Accuracy"
    assert shown["rows"][1]["epoch"] == "1.4"
    assert shown["lead"].startswith("1.4 passes")


def test_without_validation_there_is_no_best_and_no_measure() -> None:
    shown = section(Training(history=history(5, validated=False)))
    assert not shown["validated"]
    assert not any(row["best"] for row in shown["rows"])
    assert "best" not in shown["lead"]
    assert "validation" not in re.sub(r"<desc.*?</desc>", "", shown["chart"])


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ({}, "Whether training paid is not resolved"),
        ({"accuracy": (0.2, 0.1)}, "the trained model is better in accuracy; the difference in balanced accuracy"),
        ({"accuracy": (-0.2, 0.1), "log_loss": (-0.2, 0.1)}, "better in log loss and worse in accuracy; the"),
        ({"log_loss": (0.2, 0.1), "ece": (0.2, 0.1)}, "trained model is worse in log loss and calibration error;"),
    ],
)  # fmt: skip
def test_whether_it_paid_is_read_from_the_paired_intervals(
    differences: dict[str, tuple[float, float]], said: str
) -> None:
    shown = section(Training(history=[], beside=beside(**differences)))["beside"]
    assert said in shown["told"]
    assert shown["told"].endswith("The head alone took 3.0\xa0s, this training 3\xa0min 32\xa0s.")


def test_the_rows_beside_have_signs_points_and_the_sum() -> None:
    rows = section(Training(history=[], beside=beside(accuracy=(0.024, 0.03), log_loss=(-0.06, 0.01))))["beside"][
        "rows"
    ]
    accuracy, loss = rows[0], rows[3]
    assert accuracy == {
        "title": "Accuracy", "probe": "50.0\xa0%", "here": "52.4\xa0%", "difference": "+2.4", "range": "−0.6 to +5.4",
        "verdict": "not resolved",
    }  # fmt: skip
    assert (loss["here"], loss["difference"], loss["range"], loss["verdict"]) == (
        "0.440", "−0.060", "−0.070 to −0.050", "better"
    )  # fmt: skip
    assert report_training._signed(0.0, True) == "±0.0"


def test_measures_that_are_not_known_are_left_out() -> None:
    only = Beside(metrics={"accuracy": interval(0.5, 0.1)}, difference={})
    assert section(Training(history=[], beside=only))["beside"] is None


# ── the chart ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def drawn(num: int, **changes: Any) -> ElementTree.Element:
    words: dict[str, Any] = {
        "epochs": list(range(1, num + 1)), "train_loss": [1 / e for e in range(1, num + 1)],
        "val_loss": [0.1 + 1 / e for e in range(1, num + 1)], "metric": [1 - 1 / (e + 1) for e in range(1, num + 1)],
        "lr": [1e-3] * num, "metric_name": "Macro-F1", "best": num - 1,
    }  # fmt: skip
    return ElementTree.fromstring(training_curves(Course(**(words | changes))))


def curves(svg: ElementTree.Element) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]  # type: ignore[misc]
        for line in svg.iter("polyline")
    ]


def test_every_evaluation_is_a_point_within_the_frame() -> None:
    svg = drawn(12)
    width, height = map(float, svg.attrib["viewBox"].split()[2:])
    assert [len(points) for points in curves(svg)] == [12, 12, 12, 12]
    for points in curves(svg):
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
        assert [x for x, _ in points] == sorted(x for x, _ in points)
    ys = [y for _, y in curves(svg)[0]]
    assert ys == sorted(ys)  # a falling loss goes down the page
    for text in svg.iter("text"):
        assert float(text.attrib["y"]) <= height


def test_the_best_epoch_is_a_line_through_every_panel_at_its_place() -> None:
    svg = drawn(12, best=3)
    at = {line.attrib["x1"] for line in svg.iter("line") if line.attrib["class"] == "chosen"}
    assert at == {str(curves(svg)[0][3][0])}
    assert sum(line.attrib["class"] == "chosen" for line in svg.iter("line")) == 3


@pytest.mark.parametrize("best", range(12))
def test_the_word_best_stands_clear_of_the_name_of_its_panel(best: int) -> None:
    svg = drawn(12, best=best, metric_name="Balanced accuracy")
    (word,) = [text for text in svg.iter("text") if text.text == "best"]
    (name,) = [text for text in svg.iter("text") if (text.text or "").startswith("Balanced")]
    x = float(word.attrib["x"])
    left, right = (x - 30, x) if word.attrib["text-anchor"] == "end" else (x, x + 30)
    assert right <= 440
    beside_it = abs(float(word.attrib["y"]) - float(name.attrib["y"])) > 14
    assert beside_it or left > 50 + 7.2 * len(name.text or "")


def test_many_epochs_have_no_marks_and_missing_values_no_points() -> None:
    marked = [c for c in drawn(31).iter("circle") if c.attrib["class"] == "dot"]
    assert len(marked) <= 1  # the key's
    gaps = [math.nan, *([0.5] * 11)]
    assert [len(points) for points in curves(drawn(12, val_loss=gaps, metric=[math.nan] * 12, best=None))] == [
        12,
        11,
        12,
    ]


def test_marks_have_titles_and_the_picture_a_description() -> None:
    svg = drawn(3)
    titles = [title.text for title in svg.iter("title")]
    assert "epoch 2: training loss 0.5000" in titles
    assert "epoch 2: Macro-F1 66.7%" in titles
    assert "Macro-F1 is best, 75.0%, after epoch 3" in (svg.findtext("desc") or "")


def test_every_class_of_the_chart_has_a_style() -> None:
    css = (Path(report_training.__file__).parent / "report.css").read_text("utf-8")
    classes = {name for element in drawn(4).iter() for name in element.attrib.get("class", "").split()}
    unstyled = {name for name in classes if f".{name} " not in css and f".{name}{{" not in css}
    assert unstyled <= {"tick"}
