from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from regraft.errors import DataError
from regraft.evaluate.metrics import baseline, evaluate_predictions, reliability_bins
from regraft.evaluate.proportions import wilson


@st.composite
def cases(draw):
    n, k = draw(st.integers(1, 40)), draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    present = rng.choice(k, size=draw(st.integers(1, k)), replace=False)  # often some class has no row at all
    labels = rng.choice(present, size=n)
    probs = rng.dirichlet(np.full(k, draw(st.sampled_from([0.05, 1.0, 20.0]))), size=n)
    weights = rng.integers(0, 4, size=n).astype(float)
    weights[0] = 1
    return labels, probs, draw(st.sampled_from([None, weights]))


@settings(max_examples=150, deadline=None)
@given(cases())
def test_agrees_with_scikit_learn(case):
    labels, probs, weights = case
    k, predicted = probs.shape[1], probs.argmax(axis=1)
    found = evaluate_predictions(labels, probs, weights=weights)
    kept = slice(None) if weights is None else weights > 0
    y, p, w = labels[kept], predicted[kept], None if weights is None else weights[kept]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert found.accuracy == pytest.approx(sk.accuracy_score(y, p, sample_weight=w))
        assert found.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(y, p, sample_weight=w))
        macro = sk.f1_score(y, p, average="macro", sample_weight=w, zero_division=0)
        assert found.macro_f1 == pytest.approx(macro)
        loss = sk.log_loss(y, probs[kept], labels=range(k), sample_weight=w)
        assert found.log_loss == pytest.approx(loss)
        table = sk.precision_recall_fscore_support(y, p, labels=range(k), sample_weight=w, zero_division=0)
    for name, column in zip(("precision", "recall", "f1"), table, strict=False):
        np.testing.assert_allclose(found.per_class[name], column, atol=1e-12)
    np.testing.assert_array_equal(found.confusion, sk.confusion_matrix(labels, predicted, labels=range(k)))
    np.testing.assert_array_equal(found.per_class["support"], np.bincount(labels, minlength=k))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_ece_is_guos_definition(case):
    labels, probs, _ = case
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    expected = 0.0
    for m in range(15):
        inside = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert evaluate_predictions(labels, probs).ece == pytest.approx(expected)


def test_a_weight_of_two_is_the_row_twice():
    rng = np.random.default_rng(0)
    labels, probs = rng.integers(3, size=20), rng.dirichlet(np.ones(3), size=20)
    weights = rng.integers(0, 3, size=20)
    once = evaluate_predictions(labels, probs, weights=weights).as_dict()
    twice = evaluate_predictions(np.repeat(labels, weights), np.repeat(probs, weights, axis=0)).as_dict()
    assert once == pytest.approx(twice)


def test_a_given_answer_takes_its_own_probability_as_confidence():
    found = evaluate_predictions(np.array([1]), np.array([[0.7, 0.3]]), predicted=np.array([1]))
    assert found.accuracy == 1
    assert found.ece == pytest.approx(0.7)


def test_certain_and_wrong_costs_36_nats():
    assert evaluate_predictions([0], [[0.0, 1.0]]).log_loss == pytest.approx(36.04, abs=0.01)


def test_baseline_answers_the_most_frequent_development_class():
    found = baseline(np.array([0, 1, 1, 2]), np.array([1, 1, 1, 0]), num_classes=3)
    assert found.accuracy == 0.5
    assert found.balanced_accuracy == pytest.approx(1 / 3)
    np.testing.assert_array_equal(found.confusion[:, 1], [1, 2, 1])
    even = baseline(np.array([0, 1]), np.array([0, 1]))
    assert even.log_loss == pytest.approx(np.log(2))
    assert even.ece == 0


def test_reliability_bins_add_up_to_the_ece():
    rng = np.random.default_rng(1)
    labels, probs = rng.integers(4, size=300), rng.dirichlet(np.full(4, 0.5), size=300)
    bins = reliability_bins(labels, probs)
    assert sum(b.count for b in bins) == 300
    assert all(b.low < b.confidence <= b.high + 1e-9 for b in bins)
    assert all(b.accuracy.low <= b.accuracy.estimate <= b.accuracy.high for b in bins)
    ece = sum(b.count * abs(b.accuracy.estimate - b.confidence) for b in bins) / 300
    assert ece == pytest.approx(evaluate_predictions(labels, probs).ece)


def test_wilson():
    assert wilson(1.0, 3) == pytest.approx((0.4385, 1.0), abs=1e-4)
    assert wilson(0.5, 0) == (0.0, 1.0)
    low, high = wilson(0.5, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-4)


@pytest.mark.parametrize(
    ("labels", "probs", "word"),
    [
        ([], np.empty((0, 2)), "at least one"),
        ([0, -1], [[0.5, 0.5], [0.5, 0.5]], "unlabelled"),
        ([2], [[0.5, 0.5]], r"0\.\.1"),
        ([0], [[3.0, -2.0]], "softmax"),
        ([0], [[np.nan, 1.0]], "softmax"),
        ([0, 1], [[0.5, 0.5]], "go together"),
    ],
)
def test_bad_input_is_one_line(labels, probs, word):
    with pytest.raises(DataError, match=word) as caught:
        evaluate_predictions(np.array(labels, int), np.array(probs))
    assert "\n" not in str(caught.value)


def test_weights_must_weigh_something():
    with pytest.raises(DataError, match="weights"):
        evaluate_predictions([0], [[0.5, 0.5]], weights=[0.0])
