"""What the decisions say of a desk: what leaves the queue, what comes back and why, second opinions, conflicts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from review_samples import event, sample_desk, sample_site

from regraft.board.review.listing import Filters
from regraft.board.review.refit import Refits
from regraft.board.review.routes import Review
from regraft.store.decisions import Ledger


@pytest.fixture
def desk(tmp_path):
    return sample_desk(tmp_path)


@pytest.fixture
def ledger(tmp_path, desk):
    return Ledger(sample_site(tmp_path, desk).database, desk.project)


def review_of(desk, ledger, tmp_path=None):
    return Review(desk, ledger, Refits(desk, desk.root), clock=lambda: 1_800_000_000.0)


def decide(review, who, row, action, **values):
    sent = event(review.desk.hash_of(row), action, **values)
    answer = review.decide(who, {"events": [sent]})
    assert answer["rejected"] == []
    return sent


def rows(review, who, state, **filters):
    told = review.queue(who, state, Filters(**filters), -1, 200, False)
    return [review.desk.row_of(one["id"]) for one in told["items"]]


def suspect(desk, number=0):
    found = [row for row in desk.order.tolist() if desk.issues["label"][row]]
    return found[number]


def test_what_is_decided_leaves_everybodys_queue(desk, ledger):
    review = review_of(desk, ledger)
    row = suspect(desk)
    assert rows(review, "anna", "open") == desk.order.tolist()
    decide(review, "anna", row, "keep")
    for who in ("anna", "bo"):
        assert row not in rows(review, who, "open")
        assert rows(review, who, "done") == [row]


def test_what_is_skipped_leaves_ones_own_queue_only(desk, ledger):
    review = review_of(desk, ledger)
    row = suspect(desk)
    sent = decide(review, "anna", row, "skip")
    assert row not in rows(review, "anna", "open")
    assert rows(review, "anna", "skipped") == [row]
    assert row in rows(review, "bo", "open")
    decide(review, "anna", row, "undo", supersedes=sent["event_id"])
    assert row in rows(review, "anna", "open")
    assert rows(review, "anna", "skipped") == []
    decide(review, "anna", row, "skip")
    decide(review, "bo", row, "keep")
    assert rows(review, "anna", "skipped") == []


def test_a_batch_is_undone_as_one(desk, ledger):
    review = review_of(desk, ledger)
    batch = "0" * 8 + "-0000-4000-8000-" + "0" * 12
    chosen = [suspect(desk, number) for number in range(4)]
    for row in chosen[:3]:
        decide(review, "anna", row, "exclude", batch=batch)
    decide(review, "anna", chosen[3], "skip", batch=batch)
    decide(review, "bo", chosen[0], "exclude")
    decide(review, "anna", chosen[1], "undo", batch=batch)
    assert rows(review, "anna", "done") == [chosen[0]]
    assert set(chosen[1:]) <= set(rows(review, "anna", "open"))


def test_second_opinions_are_blind_to_the_first(desk, ledger):
    review = review_of(desk, ledger)
    first, second = suspect(desk), suspect(desk, 1)
    decide(review, "anna", first, "exclude", note="by anna")
    decide(review, "bo", second, "keep")
    assert rows(review, "bo", "second") == [first]
    assert rows(review, "anna", "second") == [second]
    shown = review.queue("bo", "second", Filters(), -1, 20, False)["items"][0]
    assert shown["others"] == []
    assert shown["suggested"]
    assert "anna" not in str(shown)
    decide(review, "bo", first, "exclude")
    assert rows(review, "bo", "second") == []
    assert rows(review, "chen", "second") == [second]  # two have agreed on the first


def test_who_disagrees_makes_a_conflict_and_who_settles_it_ends_it(desk, ledger):
    review = review_of(desk, ledger)
    row = suspect(desk)
    decide(review, "anna", row, "keep")
    decide(review, "bo", row, "exclude")
    assert rows(review, "anna", "conflict") == [row]
    assert rows(review, "anna", "done") == []
    assert row not in rows(review, "chen", "open")
    shown = review.item(row, "chen", False)
    assert shown["conflict"]
    assert {(one["reviewer"], one["action"]) for one in shown["others"]} == {("anna", "keep"), ("bo", "exclude")}
    assert review.progress("anna")["conflicts"] == 1
    decide(review, "chen", row, "relabel", label=desk.names[0], issue="conflict")
    assert rows(review, "anna", "conflict") == []
    assert rows(review, "anna", "done") == [row]


def changed(desk, row, **columns):
    """The same desk on which one image is another's."""
    fresh = {}
    for name, value in columns.items():
        if name == "label_score":
            scores = np.array(desk.scores["label"])
            scores[row] = value
            fresh["scores"] = {**desk.scores, "label": scores}
        elif name == "issue":
            column = np.array(desk.issues[value])
            column[row] = True
            fresh["issues"] = {**desk.issues, value: column}
        else:
            column = np.array(getattr(desk, name))
            column[row] = value
            fresh[name] = column
    return dataclasses.replace(desk, **fresh)


def test_nothing_comes_back_when_nothing_changed(desk, ledger):
    review = review_of(desk, ledger)
    for row in desk.order.tolist():
        decide(review, "anna", row, "keep")
    again = review_of(dataclasses.replace(desk, version="another"), ledger)
    assert rows(again, "anna", "open") == []
    assert again.progress("anna")["reviewed"] == len(desk.order)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"given": 0}, "its label is 'Straßenbahn' now"),
        ({"suggested": 0}, "it looks like 'Straßenbahn' now"),
        ({"issue": "outlier"}, "for another reason now (outlier)"),
        ({"label_score": 0.0}, "right with probability 0.00 now"),
    ],
)
def test_what_changed_brings_an_image_back_and_says_why(desk, ledger, change, words):
    row = next(
        row for row in desk.order.tolist()
        if desk.issues["label"][row] and desk.given[row] != 0 and desk.suggested[row] != 0
    )  # fmt: skip
    before = changed(desk, row, label_score=0.6)
    decide(review_of(before, ledger), "anna", row, "keep")
    assert row not in rows(review_of(before, ledger), "bo", "open")
    review = review_of(changed(before, row, **change), ledger)
    assert row in rows(review, "bo", "open")
    assert row not in rows(review, "bo", "done")
    shown = review.item(row, "bo", False)
    assert words in shown["returned"]
    assert "anna" in shown["returned"]
    assert not any(name in review.item(row, "bo", True)["returned"] for name in desk.names)
    decide(review, "bo", row, "keep")  # looked at as it is now: it rests
    assert row not in rows(review, "bo", "open")
    assert review.item(row, "bo", False)["returned"] is None


def test_small_changes_of_a_score_bring_nothing_back(desk, ledger):
    row = suspect(desk)
    before = changed(desk, row, label_score=0.3)
    decide(review_of(before, ledger), "anna", row, "keep")
    assert row not in rows(review_of(changed(before, row, label_score=0.1), ledger), "anna", "open")


def test_a_label_that_was_changed_as_decided_rests(desk, ledger):
    row = suspect(desk)
    better = int(desk.suggested[row])
    decide(review_of(desk, ledger), "anna", row, "relabel", label=desk.names[better])
    after = review_of(changed(desk, row, given=better), ledger)
    assert row not in rows(after, "anna", "open")


def test_another_image_in_the_same_file_says_so(desk, ledger):
    row = suspect(desk)
    decide(review_of(desk, ledger), "anna", row, "keep")
    hashes = np.array(desk.hashes)
    hashes[row] = 77
    review = review_of(dataclasses.replace(desk, hashes=hashes), ledger)
    assert row in rows(review, "anna", "open")
    assert "holds another image" in review.item(row, "anna", False)["returned"]


def test_filters_find_what_a_loop_finds(desk, ledger):
    review = review_of(desk, ledger)
    cards = review.queue("anna", "all", Filters(), -1, 200, False)["items"]
    assert len(cards) == len(desk)
    for one in cards:
        row = desk.row_of(one["id"])
        pair = f"{one['given']}>{one['suggested']}"
        checks = {"label": one["given"], "split": one["split"] or "none", "words": one["path"][-9:], "pair": pair}
        for name, value in checks.items():
            if value.endswith("None"):
                continue
            assert row in rows(review, "anna", "all", **{name: value}), (name, value)
    for name, of in (("label", "given"), ("split", "split"), ("group", "group")):
        for value in {one[of] for one in cards if one[of]}:
            expected = [desk.row_of(one["id"]) for one in cards if one[of] == value]
            assert rows(review, "anna", "all", **{name: value}) == expected


def test_controls_are_in_the_list_of_labels(desk, ledger):
    found = rows(review_of(desk, ledger), "anna", "open", issue="label")
    assert set(np.flatnonzero(desk.controls)) <= set(found)


def test_pages_of_a_queue_put_together_are_the_queue(desk, ledger):
    review = review_of(desk, ledger)
    whole, after = [], -1
    while after is not None:
        told = review.queue("anna", "open", Filters(), after, 5, False)
        whole += [desk.row_of(one["id"]) for one in told["items"]]
        assert [one["position"] for one in told["items"]] == [int(desk.positions[row]) for row in whole[-5:]][
            -len(told["items"]) :
        ]
        after = told["next"]
    assert whole == desk.order.tolist()


def test_pairs_are_decided_whichever_survives(desk, ledger):
    review = review_of(desk, ledger)
    pairs = review.pairs("anna", "open", -1, 20, False)
    assert pairs["left"] == len(desk.pairs) == len(pairs["items"])
    a, b = (desk.row_of(pairs["items"][0][side]["id"]) for side in "ab")
    decide(review, "anna", b, "duplicate", other=desk.hash_of(a))
    shown = review.pairs("anna", "done", -1, 20, False)["items"]
    assert [one["position"] for one in shown] == [0]
    assert shown[0]["mine"]["survivor"] == desk.hash_of(b)
    assert review.progress("anna")["reviewed"] == 0  # a pair is no image
    decide(review, "bo", a, "distinct", other=desk.hash_of(b))
    told = review.pairs("bo", "conflict", -1, 20, False)["items"][0]
    assert told["conflict"]
    assert [one["action"] for one in told["others"]] == ["duplicate"]
    assert len(review.pairs("bo", "open", -1, 20, False)["items"]) == len(desk.pairs) - 1
