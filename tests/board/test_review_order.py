"""The order of looking: suspects stay in their order, controls are drawn fairly and lie anywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regraft.board.review.order import suspects, with_controls


def test_labels_come_as_queued_then_other_kinds_worst_first():
    issues = {
        "label": np.array([1, 0, 1, 0, 0, 0, 1], bool), "near_duplicate": np.ones(7, bool),
        "outlier": np.array([1, 1, 0, 1, 0, 0, 0], bool), "odd_image": np.array([0, 1, 0, 0, 0, 1, 0], bool),
    }  # fmt: skip
    scores = {"outlier": np.array([0, 0.4, 1, 0.1, 1, 1, 1]), "odd_image": np.array([1, 0.0, 1, 1, 1, 0.2, 1])}
    queue = np.array([6, 5, 0, 1, 2, 3, 4])
    assert suspects(queue, issues, scores).tolist() == [6, 0, 2, 3, 1, 5]


def test_without_judged_labels_there_are_the_other_kinds():
    issues = {"outlier": np.array([0, 1, 1], bool)}
    assert suspects(np.empty(0, np.int64), issues, {"outlier": np.array([1, 0.3, 0.2])}).tolist() == [2, 1]


@given(num=st.integers(0, 300), share=st.floats(0, 1), seed=st.integers(0, 1000))
def test_controls_are_mixed_in_and_nothing_is_lost(num, share, seed):
    chosen = np.random.default_rng(seed).permutation(num)[: round(share * num)].astype(np.int64)
    order, controls = with_controls(chosen, num, seed=seed)
    assert order[~controls[order]].tolist() == chosen.tolist()
    assert len(set(order.tolist())) == len(order)
    assert set(np.flatnonzero(controls)) == set(order.tolist()) - set(chosen.tolist())
    wanted = -(-len(chosen) // 19)
    assert controls.sum() == min(wanted, num - len(chosen))


def test_who_stops_early_has_met_as_many_controls_per_look():
    order, controls = with_controls(np.arange(950), 10_000, seed=3)
    assert controls.sum() == 50
    for block in order.reshape(50, 20):
        assert controls[block].sum() == 1
    assert len({int(np.flatnonzero(controls[block])[0]) for block in order.reshape(50, 20)}) > 10


def test_the_seed_decides():
    first, second = (with_controls(np.arange(100), 1000, seed=[0, 7])[0] for _ in range(2))
    assert first.tolist() == second.tolist()
    assert first.tolist() != with_controls(np.arange(100), 1000, seed=[0, 8])[0].tolist()


def test_every_image_that_passed_is_a_control_equally_often():
    counts = np.zeros(40)
    for seed in range(3000):
        counts += with_controls(np.arange(19), 40, seed=seed)[1]
    assert (counts[:19] == 0).all()
    assert counts[19:].sum() == 3000
    expected = 3000 / 21
    assert ((counts[19:] - expected) ** 2 / expected).sum() < 45.3  # chi-square, 20 degrees of freedom, p = 0.001


def test_a_control_may_lie_at_every_place():
    places = set()
    for seed in range(400):
        order, controls = with_controls(np.arange(19), 40, seed=seed)
        places.add(int(np.flatnonzero(controls[order])[0]))
    assert places == set(range(20))


@pytest.mark.parametrize("num", [0, 5])
def test_nothing_suspicious_nothing_to_look_at(num):
    order, controls = with_controls(np.empty(0, np.int64), num, seed=0)
    assert len(order) == 0
    assert not controls.any()
