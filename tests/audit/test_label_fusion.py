"""Votes and fused ranks against slow references."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.audit.confident_learning import confidently_wrong
from regraft.audit.neighbour_votes import neighbour_votes, num_voters
from regraft.audit.rank_fusion import fuse_by_class, ranks


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 4), st.integers(1, 4))
def test_each_class_gets_its_budget_in_the_order_of_the_mean_rank(seed, num, num_classes, num_signals):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num)
    signals = [rng.permutation(num).astype(float) for _ in range(num_signals)]
    fused = fuse_by_class(signals, labels, comparable=signals[:1])
    assert ((fused > 0) & (fused < 1)).all()
    for label in set(labels.tolist()):
        rows = np.flatnonzero(labels == label)
        curve = sorted((np.sum(signals[0] < signals[0][row]) + 0.5) / num for row in rows)
        np.testing.assert_allclose(np.sort(fused[rows]), curve)
        mean = [np.mean([np.sum(s[rows] < s[row]) for s in signals]) for row in rows]
        assert (np.diff(np.array(mean)[np.argsort(fused[rows])]) >= 0).all()


def test_one_signal_keeps_its_order():
    signal = np.random.default_rng(0).standard_normal(100)
    fused = fuse_by_class([signal], np.arange(100) % 3, comparable=[signal])
    np.testing.assert_allclose(fused, ranks(signal))


def test_what_a_signal_does_not_know_is_left_to_the_others():
    known = np.array([3.0, 1.0, 2.0, 4.0])
    half = np.array([np.nan, 9.0, 1.0, np.nan])
    fused = fuse_by_class([known, half], np.zeros(4, np.int64), comparable=[known])
    assert np.argsort(fused)[-1] == 3
    assert ranks(half)[1] > ranks(half)[2]
    assert np.isnan(ranks(half)[0])


def test_a_rare_class_is_neither_flooded_nor_forgotten():
    labels = np.repeat([0, 1], [90, 10])
    suspicion = np.concatenate([np.linspace(0.2, 1, 90), np.linspace(0.1, 1, 10)])
    votes = np.concatenate([np.linspace(0.9, 1, 90), np.linspace(0.0, 0.1, 10)])  # of others, as neighbours are rare
    first = np.argsort(fuse_by_class([suspicion, votes], labels, comparable=[suspicion]))[:10]
    assert 1 <= (labels[first] == 1).sum() <= 3


def test_votes_against_a_loop():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 30)
    indices = rng.integers(-1, 30, (30, 4))
    similarity = rng.uniform(-0.5, 1, (30, 4)).astype(np.float32)
    found = neighbour_votes(indices, similarity, labels, 3)
    for row in range(30):
        votes = (np.bincount(labels, minlength=3) + 1) / 33
        for other, close in zip(indices[row], similarity[row], strict=True):
            if other >= 0 and close > 0:
                votes[labels[other]] += close
        np.testing.assert_allclose(found[row], votes / votes.sum(), rtol=1e-5)


def test_small_classes_are_asked_fewer_neighbours():
    assert num_voters(np.arange(400) % 4) == 20
    assert num_voters(np.arange(80) % 4) == 10
    assert num_voters(np.arange(8) % 4) == 5


def test_confident_learning_knows_classes_without_images():
    labels = np.array([0, 0, 0, 0, 2, 2, 2, 2])
    probs = np.full((8, 4), 0.02)
    probs[np.arange(8), labels] = 0.94
    probs[0] = [0.02, 0.02, 0.94, 0.02]
    assert confidently_wrong(labels, probs).tolist() == [True] + [False] * 7
    assert not confidently_wrong(np.zeros(3, np.int64), probs[:3]).any()
