"""The audit of labels as a whole: what it finds, what it leaves alone, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_samples import held_out_probs, sample

from regraft.audit.label_noise import SURE, SUSPECT, audit_labels, margin
from regraft.errors import DataError, UsageError


@pytest.fixture(scope="module")
def noisy():
    data = sample(rate=0.1)
    ridge = np.log(held_out_probs(data.features, data.given, data.folds[:1], 3, sharpness=0.3)[0])
    return data, audit_labels(
        data.given, data.pred_probs, folds=data.folds, features=data.features, scores={"ridge": ridge},
        class_names=["ant", "bee", "cat"],
    )  # fmt: skip


def test_the_queue_begins_with_the_planted_errors(noisy):
    data, audit = noisy
    assert sorted(audit.queue.tolist()) == list(range(len(data.given)))
    assert data.wrong[audit.queue[: data.wrong.sum()]].mean() > 0.9
    assert (np.diff(audit.column.score[audit.queue]) >= 0).all()
    assert audit.judges == ("head", "ridge", "neighbours")


def test_issues_are_as_many_as_are_wrong_and_name_the_right_class(noisy):
    data, audit = noisy
    flagged = audit.column.is_issue
    assert data.wrong[flagged].mean() > 0.85
    assert flagged[data.wrong].mean() > 0.85
    assert (audit.suggested_labels == data.right)[flagged & data.wrong].mean() > 0.95
    assert (audit.suggested_labels[flagged] != data.given[flagged]).all()
    first = int(np.flatnonzero(flagged & data.wrong)[0])
    names = ["ant", "bee", "cat"]
    assert (
        f"labelled {names[data.given[first]]!r}, looks like {names[data.right[first]]!r}" in audit.column.reasons[first]
    )


def test_the_sure_tier_is_a_part_of_the_issues(noisy):
    data, audit = noisy
    assert ((audit.tier >= SUSPECT) == audit.column.is_issue).all()
    sure = audit.tier == SURE
    assert sure.sum() > 10
    assert data.wrong[sure].mean() >= data.wrong[audit.column.is_issue].mean()


def test_the_estimate_covers_what_was_planted(noisy):
    data, audit = noisy
    noise = audit.noise
    assert noise.num_wrong.low <= data.wrong.sum() <= noise.num_wrong.high
    assert (1 - audit.column.score).sum() == pytest.approx(noise.num_wrong.estimate, rel=1e-4)
    assert sum(wrong.estimate for wrong in noise.per_class) == pytest.approx(noise.num_wrong.estimate, rel=1e-4)
    np.testing.assert_allclose(noise.matrix.sum(axis=1), 1)
    assert noise.matrix[0, 1] > 3 * noise.matrix[0, 2]
    assert ((noise.low <= noise.matrix) & (noise.matrix <= noise.high)).all()


def test_clean_labels_are_left_alone():
    data = sample(rate=0.0, sizes=(150, 150, 150))
    audit = audit_labels(data.given, data.pred_probs, folds=data.folds, features=data.features)
    assert audit.column.is_issue.mean() < 0.01
    assert audit.noise.num_wrong.estimate < 0.02 * len(data.given)


def test_the_same_input_gives_the_same_audit(noisy):
    data, _ = noisy
    first, second = (
        audit_labels(data.given, data.pred_probs, folds=data.folds, features=data.features, seed=3) for _ in range(2)
    )
    assert first.queue.tolist() == second.queue.tolist()
    assert first.noise.num_wrong == second.noise.num_wrong


def test_duplicates_do_not_vouch_for_each_other():
    data = sample(rate=0.08, copies=6, sizes=(60, 60, 60))
    named = audit_labels(data.given, data.pred_probs, folds=data.folds, features=data.features, group_ids=data.groups)
    assert (named.tier == SURE)[data.wrong].mean() > 0.5
    wrong = named.noise.num_wrong
    assert wrong.low <= data.wrong.sum() <= wrong.high
    # unnamed, five of five neighbours are copies with the same wrong label
    unnamed = audit_labels(data.given, data.pred_probs, folds=data.folds, features=data.features)
    assert (unnamed.tier == SURE)[data.wrong].mean() < (named.tier == SURE)[data.wrong].mean()


def test_a_class_too_small_to_judge_is_named_and_never_flagged():
    data = sample(sizes=(100, 100, 4), rate=0.0)
    data.given[-1] = 0
    audit = audit_labels(data.given, data.pred_probs, folds=data.folds, features=data.features)
    assert audit.too_small == (2,)
    assert not audit.column.is_issue[data.given == 2].any()
    assert "too few images" in audit.column.reasons[int(np.flatnonzero(data.given == 2)[0])]


def test_a_second_head_and_margins_during_training_are_heard():
    data = sample(rate=0.1, distance=1.2)
    oracle = np.where(data.wrong, 0.0, 5.0)
    plain = audit_labels(data.given, data.pred_probs, folds=data.folds)
    margins = audit_labels(data.given, data.pred_probs, folds=data.folds, aum=np.where(data.given == 0, np.nan, oracle))
    better = np.clip(np.eye(3)[data.right], 0.05, 0.9)
    second = audit_labels(data.given, data.pred_probs, folds=data.folds, second_pred_probs=better)
    count = int(data.wrong.sum())
    found = [data.wrong[audit.queue[:count]].sum() for audit in (plain, margins, second)]
    assert found[1] > found[0]
    assert found[2] > found[0]
    assert "margins during training" in margins.judges
    assert "second head" in second.judges


def test_probabilities_that_cannot_be_out_of_fold_are_refused():
    data = sample(rate=0.1)
    with pytest.raises(UsageError, match="2 repeats are equal"):
        audit_labels(data.given, np.stack([data.pred_probs[0]] * 2), folds=data.folds)
    with pytest.raises(UsageError, match="one fold holds all"):
        audit_labels(data.given, data.pred_probs[0], folds=np.zeros(len(data.given), int))
    with pytest.raises(UsageError, match="do not fit 2 repeats"):
        audit_labels(data.given, data.pred_probs, folds=data.folds[0])
    folds, groups = data.folds.copy(), np.arange(len(data.given))
    groups[8], folds[:, 7], folds[:, 8] = 7, 0, 1
    with pytest.raises(UsageError, match="group 7 is torn"):
        audit_labels(data.given, data.pred_probs, folds=folds, group_ids=groups)
    with pytest.raises(UsageError, match="every label has probability 1"):
        audit_labels(data.given, np.eye(3)[data.given], folds=data.folds, features=data.features)


def test_bad_columns_are_named():
    data = sample()
    with pytest.raises(DataError, match="-1 to 2"):
        audit_labels(np.where(data.given == 0, -1, data.given), data.pred_probs, folds=data.folds)
    with pytest.raises(DataError, match="at least 2 classes"):
        audit_labels(np.zeros_like(data.given), data.pred_probs, folds=data.folds)
    with pytest.raises(DataError, match="sum to 1"):
        audit_labels(data.given, np.log(data.pred_probs), folds=data.folds)
    with pytest.raises(DataError, match="one row of features"):
        audit_labels(data.given, data.pred_probs, folds=data.folds, features=data.features[:-1])
    with pytest.raises(DataError, match="'ridge'"):
        audit_labels(data.given, data.pred_probs, folds=data.folds, scores={"ridge": np.zeros((3, 3))})


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(2, 5))
def test_any_small_data_gets_an_audit(seed, num, num_classes):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num)
    labels[:2] = [0, 1]
    probs = rng.dirichlet(np.full(num_classes, 0.3), num)
    folds = np.arange(num) % 2
    audit = audit_labels(labels, probs, folds=folds, features=rng.standard_normal((num, 3)).astype(np.float16))
    score = audit.column.score
    assert np.isfinite(score).all()
    assert ((score >= 0) & (score <= 1)).all()
    assert sorted(audit.queue.tolist()) == list(range(num))
    assert not audit.column.is_issue[np.isin(labels, audit.too_small)].any()
    assert (audit.suggested_labels != labels).all()
    assert ((audit.suggested_labels >= 0) | ~audit.column.is_issue).all()
    assert 0 <= audit.noise.num_wrong.low <= audit.noise.num_wrong.estimate <= audit.noise.num_wrong.high <= num


def test_margin_is_the_lead_over_the_best_other_class():
    scores = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    assert margin(scores, np.array([0, 1])).tolist() == [1.0, -2.0]
