from __future__ import annotations

import pytest

from regraft.evaluate import wording


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.934, "93.4\xa0%"),
        (1.0, "100\xa0%"),
        (0.99996, ">99.9\xa0%"),
        (0.0, "0\xa0%"),
        (0.0001, "<0.1\xa0%"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_a_percentage_is_never_rounded_to_a_certainty(share: float | None, text: str) -> None:
    assert wording.percent(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0.40\xa0s"),
        (9.97, "10\xa0s"),
        (59.6, "1\xa0min 0\xa0s"),
        (200, "3\xa0min 20\xa0s"),
        (3900, "1\xa0h 05\xa0min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


def result(**changes: object) -> dict[str, object]:
    return {
        "split": "test",
        "metrics": {"accuracy": {"estimate": 0.934, "low": 0.92, "high": 0.946, "level": 0.95}},
        "baseline": {"accuracy": 0.12},
        "per_class": {"a": {"recall": 0.9, "support": 600}, "b": {"recall": 0.9, "support": 600}},
        "num_images": 6000,
        "num_excluded": 0,
        "warnings": [],
    } | changes


def said(record: dict[str, object], evaluated: int = 1200) -> dict[str, str]:
    return dict(wording.reservations(record, evaluated))


def test_the_headline_says_what_was_measured_on_what_and_against_what() -> None:
    words = wording.headline(result(), 1200)
    text = "".join(words[key] for key in ("lead", "figure", "tail"))
    assert text.replace("\xa0", " ") == "Right in 93.4 % of cases, on 1,200 images it never saw"
    more = words["more"].replace("\xa0", " ")
    assert "between 92.0 and 94.6 % (95 % interval)" in more
    assert "largest class would be right in 12.0 %" in more


def test_a_cross_validated_figure_is_called_so_and_reserved() -> None:
    assert "cross-validation over 155 images" in wording.headline(result(split="cv"), 155)["tail"]
    assert "No separate test set" in said(result(split="cv"))


def test_a_good_result_needs_no_reservation() -> None:
    assert said(result()) == {}


def test_without_images_nothing_is_claimed() -> None:
    assert "not known" in wording.headline(result(), 0)["figure"]
    assert "Nothing was measured" in said(result(metrics={}), 0)


@pytest.mark.parametrize(
    ("change", "short", "word"),
    [
        ({"metrics": {"accuracy": {"estimate": 0.6, "low": 0.5, "high": 0.7}}}, "Uncertain", "20 points"),
        ({"baseline": {"accuracy": 0.93}}, "Not shown to beat guessing", "92.0"),
        ({"per_class": {"owl": {"recall": 1.0, "support": 4}}}, "Too few to judge", "owl\u2069’ (4)"),
        ({"per_class": {"owl": {"recall": 0.0, "support": 0}}}, "Not evaluated", "owl"),
        ({"per_class": {"owl": {"recall": 0.3, "support": 40}}}, "Often missed", "owl"),
        ({"num_excluded": 600}, "Many images left out", "9.1"),
        ({"warnings": ["the test set leaks"]}, "Warning", "leaks"),
    ],
)
def test_reservations(change: dict[str, object], short: str, word: str) -> None:
    assert word in said(result(**change))[short]


def test_an_accuracy_that_common_classes_flatter_and_confidences_that_mislead_are_named() -> None:
    metrics = {**result()["metrics"], "balanced_accuracy": {"estimate": 0.7}, "ece": {"estimate": 0.2}}  # type: ignore[dict-item]
    assert {"Common classes flatter the figure", "Confidences mislead"} <= set(said(result(metrics=metrics)))


def test_lists_are_cut_and_the_rest_is_counted() -> None:
    assert wording.listed(["a", "b", "c"]) == "a, b and c"
    assert wording.listed([str(i) for i in range(9)], most=2) == "0, 1 and 7 more"


def test_clipping_keeps_both_ends_and_shows_control_characters() -> None:
    assert wording.clipped("abc" * 100 + "end", 20).endswith("end")
    assert len(wording.clipped("abc" * 100, 20)) == 20
    assert wording.clipped("a\u202eb\x00\ud800\n") == "a\ufffdb\ufffd\ufffd\ufffd"


@pytest.mark.parametrize(("text", "made"), [("as is", "As is."), ("Done.", "Done."), ("", "")])
def test_a_reason_becomes_a_sentence(text: str, made: str) -> None:
    assert wording.sentence(text) == made
