"""The fold against an obvious slow reference, and each rule by itself."""

from __future__ import annotations

from itertools import pairwise

from histories import event, item_of, name_of
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.store.fold import Folding, fold, stand
from regraft.types import Decision

A, B = item_of(1), item_of(2)


def slow(history: list[Decision]) -> dict:
    """What the rules say, word for word: for every image or pair, every reviewer, look through everything."""
    undone = set()
    for n, undo in enumerate(history):
        if undo.action == "undo":
            for event_ in history[:n]:
                hit = event_.event_id == undo.supersedes if undo.supersedes else event_.batch == undo.batch
                if hit and event_.reviewer == undo.reviewer and event_.action != "undo":
                    undone.add(event_.event_id)
    left = [e for e in history if e.action not in ("undo", "skip") and e.event_id not in undone]
    verdicts = {}
    for key in {tuple(sorted((e.item, e.other))) if e.other else (e.item, "") for e in left}:
        about = [e for e in left if {e.item, e.other} == set(key)]
        settling = [n for n, e in enumerate(about) if e.issue == "conflict"]
        about = about[settling[-1] :] if settling else about
        latest = [e for n, e in enumerate(about) if all(later.reviewer != e.reviewer for later in about[n + 1 :])]
        agree = [e for e in latest if stand(e) == stand(latest[-1])]
        verdicts[key] = (
            latest[-1].item, latest[-1].action, latest[-1].label, tuple(sorted(e.reviewer for e in agree)),
            len(agree) < len(latest), tuple(latest),
        )  # fmt: skip
    return verdicts


def short(verdicts: dict) -> dict:
    return {key: (v.item, v.action, v.label, v.reviewers, v.conflict, v.events) for key, v in verdicts.items()}


@st.composite
def histories(draw: st.DrawFn) -> list[Decision]:
    events: list[Decision] = []
    batches = ["", *(name_of(1000 + n) for n in range(2))]
    for n in range(draw(st.integers(0, 25))):
        action = draw(st.sampled_from(["keep", "relabel", "exclude", "skip", "undo", "distinct", "duplicate"]))
        fields = {"reviewer": draw(st.sampled_from("ABC")), "action": action, "batch": draw(st.sampled_from(batches))}
        first, second = draw(st.permutations(range(3)))[:2]
        if action == "relabel":
            fields["label"] = draw(st.sampled_from(["cat", "dog", "emu"]))
        if action in ("distinct", "duplicate"):
            fields["other"] = second
        if action == "undo" and not fields["batch"]:
            fields["supersedes"] = name_of(draw(st.integers(0, n + 1)))
        fields["given"] = draw(st.sampled_from(["cat", "dog"]))
        fields["issue"] = draw(st.sampled_from(["label", "label", "conflict"]))
        events.append(event(n, item=first, **fields))
    return events


@given(histories())
@settings(deadline=None, max_examples=150)
def test_says_what_the_slow_reference_says(history):
    assert short(fold(history)) == slow(history)


@given(histories(), st.lists(st.integers(0, 25)))
@settings(deadline=None, max_examples=80)
def test_in_pieces_as_at_once(history, cuts):
    folding = Folding()
    marks = sorted({0, len(history), *(cut for cut in cuts if cut <= len(history))})
    for start, end in pairwise(marks):
        before = dict(folding.verdicts)
        touched = folding.add(history[start:end])
        changed = {k for k in before.keys() | folding.verdicts.keys() if before.get(k) != folding.verdicts.get(k)}
        assert changed <= touched
    assert folding.verdicts == fold(history)


def test_the_latest_decision_of_a_reviewer_counts():
    verdict = fold([event(1), event(2, item=1, action="relabel", label="dog")])[A, ""]
    assert (verdict.action, verdict.label, verdict.reviewers, verdict.conflict) == ("relabel", "dog", ("Ada",), False)
    assert [e.event_id for e in verdict.events] == [name_of(2)]


def test_skip_decides_nothing_and_takes_nothing_back():
    assert fold([event(1, action="skip")]) == {}
    assert fold([event(1), event(2, item=1, action="skip")])[A, ""].action == "keep"


def test_undo_brings_back_what_was_before():
    history = [event(1), event(2, item=1, action="exclude"), event(3, action="undo", supersedes=name_of(2))]
    assert fold(history)[A, ""].action == "keep"
    assert fold([*history, event(4, action="undo", supersedes=name_of(1))]) == {}


def test_undo_of_a_batch_takes_back_what_was_sent_before_it_by_the_same_reviewer():
    batch = name_of(99)
    history = [
        event(1, batch=batch), event(2, batch=batch, reviewer="Bo"), event(3, batch=batch, action="exclude"),
        event(4, item=1, action="undo", batch=batch), event(5, batch=batch),
    ]  # fmt: skip
    assert {key for key, _ in fold(history)} == {item_of(2), item_of(5)}


def test_nobody_undoes_the_decision_of_another():
    assert fold([event(1), event(2, action="undo", supersedes=name_of(1), reviewer="Bo")])[A, ""].reviewers == ("Ada",)


def test_reviewers_who_disagree_make_a_conflict_until_it_is_settled():
    history = [event(1), event(2, item=1, reviewer="Bo", action="exclude")]
    verdict = fold(history)[A, ""]
    assert verdict.conflict
    assert (verdict.action, verdict.reviewers) == ("exclude", ("Bo",))
    assert len(verdict.events) == 2

    settled = [*history, event(3, item=1, reviewer="Cy", issue="conflict", action="relabel", label="dog")]
    verdict = fold(settled)[A, ""]
    assert (verdict.conflict, verdict.label, verdict.reviewers) == (False, "dog", ("Cy",))

    assert fold([*settled, event(4, item=1, reviewer="Bo", action="exclude")])[A, ""].conflict
    undone = fold([*settled, event(4, action="undo", reviewer="Cy", supersedes=name_of(3))])
    assert undone[A, ""].conflict


def test_agreement_is_about_what_follows():
    same = fold([event(1, given="cat"), event(2, item=1, reviewer="Bo", action="relabel", label="cat", given="dog")])
    assert not same[A, ""].conflict
    assert same[A, ""].reviewers == ("Ada", "Bo")
    assert fold([event(1, given="cat"), event(2, item=1, reviewer="Bo", given="dog")])[A, ""].conflict


def test_a_pair_is_one_thing_whichever_way_round():
    history = [event(1, item=2, other=1, action="duplicate"), event(2, item=1, other=2, action="duplicate")]
    found = fold(history)
    assert list(found) == [(A, B)]
    assert (found[A, B].item, found[A, B].other) == (A, B)
    of_two = fold([history[0], event(2, item=1, other=2, action="duplicate", reviewer="Bo")])
    assert of_two[A, B].conflict
    agreed = fold(
        [event(1, item=2, other=1, action="distinct"), event(2, item=1, other=2, action="distinct", reviewer="Bo")]
    )
    assert not agreed[A, B].conflict
