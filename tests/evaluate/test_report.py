from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report_samples import HOSTILE, contents

from regraft.evaluate import report_facts, report_results
from regraft.evaluate.report import MAX_EXAMPLES, MAX_MISTAKES, render, write_report
from regraft.types import Finding, Predictions


class Page(HTMLParser):
    """Elements, attributes and text of a page; complains about tags that do not match."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def test_the_file_is_written_whole_and_alone(tmp_path: Path) -> None:
    write_report(tmp_path / "run" / "report.html", contents())
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["report.html"]
    assert (tmp_path / "run" / "report.html").read_text("utf-8").rstrip().endswith("</html>")


def test_every_section_is_there_and_its_tags_match() -> None:
    page = Page(render(contents()))
    for word in ("Right in ", "How good it is", "What was understood", "left out", "What is taken for what",
                 "Class by class", "worst mistakes", "confidence be believed", "How the head was chosen",
                 "regraft fit photos/", "AVX512_BF16 found", "cpu.model"):  # fmt: skip
        assert word in page.text, word
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_the_page_names_nothing_outside_itself() -> None:
    page = Page(render(contents(names=HOSTILE)))
    for tag, attrs in page.tags:
        for name in ("src", "href", "action", "srcset", "data", "poster"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
        assert not [name for name in attrs if name.startswith("on")]
        assert "style" not in attrs
    policy = next(a["content"] or "" for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_hostile_names_are_text() -> None:
    page = Page(render(contents(names=HOSTILE, title=HOSTILE[0], command=f"regraft fit '{HOSTILE[1]}'")))
    assert len(page.all("script")) == 1
    assert HOSTILE[0] in page.text
    assert HOSTILE[2] in page.text  # a template's words in a name are not evaluated
    assert HOSTILE[3] in page.text
    assert not [a for a in page.all("img") if not (a["src"] or "").startswith("data:image/jpeg;base64,")]


@pytest.mark.parametrize("num_classes", [2, 26, 200])
def test_any_number_of_classes(num_classes: int) -> None:
    page = Page(render(contents(names=tuple(f"class {i}" for i in range(num_classes)), num_images=900)))
    assert "Right in " in page.text


def test_empty_states_are_said() -> None:
    empty = contents(
        num_images=0, num_findings=0, path=(), choice="", understood=[], config={}, env={}, image_examples={}
    )
    text = Page(render(empty)).text
    for words in ("not known", "Nothing: every image that was found could be used.", "No image was evaluated.",
                  "No labelled image was evaluated.", "There was nothing to choose from."):  # fmt: skip
        assert words in text, words
    assert "None: every evaluated image was given its label." in Page(render(contents(error_rate=0.0))).text


def test_thumbnails_and_lists_are_bounded() -> None:
    asked: list[int] = []

    def large(_path: str, pixels: int) -> bytes:
        asked.append(pixels)
        return os.urandom(30_000)

    names = tuple(f"a class with quite a long name, number {i}" for i in range(1000))
    html = render(contents(names=names, num_images=20_000, num_findings=10_000, thumbnail=large))
    assert len(asked) <= MAX_EXAMPLES + MAX_MISTAKES == 60
    assert set(asked) == {160}
    assert len(html) < 3_000_000


def test_a_picture_that_cannot_be_shown_is_said() -> None:
    assert "cannot be shown" in Page(render(contents(thumbnail=lambda _path, _pixels: None))).text


def test_findings_are_grouped_by_kind_counted_and_capped() -> None:
    found = [Finding(image=f"{i}.jpg", label=None, kind="zero_byte", reason="empty", excluded=True) for i in range(70)]
    found.append(Finding(image="x.gif", label="a", kind="animated", reason="12 frames", excluded=False))
    (group,) = report_facts.findings(found, excluded=True)
    assert (group["kind"], group["count"], len(group["listed"])) == ("zero byte", "70 images", 50)
    assert group["rest"] == "… and 20 more"
    assert "regraft scan DATA --issues issues.csv" in Page(render(contents(findings=found))).text


def test_the_worst_mistakes_are_the_most_confident_wrong_ones() -> None:
    predictions = Predictions(
        images=["right", "sure", "unsure", "unlabelled"],
        pred_probs=np.array([[0.9, 0.1], [0.02, 0.98], [0.45, 0.55], [0.0, 1.0]]),
        class_names=("a", "b"),
        labels=np.array([0, 0, 0, -1]),
    )
    shown = report_results.worst_mistakes(predictions, most=5)
    assert [item["image"] for item in shown["items"]] == ["sure", "unsure"]
    assert (shown["items"][0]["given"], shown["items"][0]["predicted"]) == ("a", "b")
    assert shown["items"][0]["confidence"] == "98.0\xa0%"
    cut = report_results.worst_mistakes(predictions, most=1)
    assert cut["told"] == "The 1 most confident of 2 mistakes"


def test_the_confusion_matrix_is_shown_in_shares_of_its_rows() -> None:
    shown = report_results.confusion(np.array([[199, 1, 0], [0, 1, 1], [0, 0, 0]]), ("a", "b", "c"))
    cells = [[cell["share"] for cell in row["cells"]] for row in shown["rows"]]
    assert cells == [["99", "<1", ""], ["", "50", "50"], ["", "", ""]]
    assert shown["pairs"][0] == {"given": "a", "predicted": "b", "count": "1", "share": "0.5\xa0%"}
    assert not shown["limited"]


def test_for_many_classes_the_matrix_keeps_those_that_are_mixed_up_and_every_row_adds_up() -> None:
    k = 40
    matrix = np.diag(np.full(k, 90))
    matrix[7, 31] = 9
    matrix[30, 2] = 5
    shown = report_results.confusion(matrix, [f"c{i}" for i in range(k)])
    assert shown["limited"]
    assert [row["name"] for row in shown["rows"]] == ["c2", "c7", "c30", "c31"]
    assert [p["given"] for p in shown["pairs"]] == ["c7", "c30"]
    for row in shown["rows"]:
        assert sum(int(cell["count"] or 0) for cell in row["cells"]) == int(row["total"])


def test_every_shade_that_a_cell_can_have_has_a_style() -> None:
    css = (Path(report_results.__file__).parent / "report.css").read_text("utf-8")
    for share in np.linspace(0, 1, 101):
        for right in (True, False):
            shade = report_results._cell(int(1000 * share), 1000, right=right)["shade"]
            assert shade.endswith("0") or re.search(rf"td\.{shade} \{{", css)


def test_class_counts_show_both_ends_of_many_classes() -> None:
    counts = {f"c{i}": {"development": 1000 - i, "test": 0} for i in range(100)}
    shown = report_facts.class_counts({"class_counts": counts})
    assert (len(shown["head"]), len(shown["tail"])) == (20, 20)
    assert shown["gap"] == "60 classes with 980 down to 921 images each"
    assert not shown["has_test"]


def test_classes_stand_lowest_first_and_too_few_images_are_marked() -> None:
    rows = report_results.per_class({"per_class": {
        "good": {"precision": 1.0, "recall": 0.9, "f1": 0.95, "support": 40},
        "poor": {"precision": 0.5, "recall": 0.4, "f1": 0.44, "support": 5},
        "unseen": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0},
    }})  # fmt: skip
    assert [(row["name"], row["few"]) for row in rows] == [("unseen", True), ("poor", True), ("good", False)]
    assert rows[0]["recall_text"] == "–"


def test_a_path_keeps_its_choice_when_it_is_put_in_order() -> None:
    points = [{"strength": s, "log_loss": 1.0 + s} for s in (1.0, 0.1, 0.01)] + [
        {"strength": 9.0, "log_loss": float("nan")}
    ]
    shown = report_results.path(points, 1)
    assert shown is not None
    assert [(row["strength"], row["chosen"]) for row in shown["rows"]] == [("0.01", False), ("0.1", True), ("1", False)]
    assert report_results.path([], None) is None
