"""The race: who is trained, who is dropped, and what it costs."""

import numpy as np
import pytest
from race_fake import Clock, Learner, data, run

from regraft.errors import UsageError
from regraft.studies.race.costs import Costs
from regraft.studies.race.evidence import ArmKey, Evidence, Measurement
from regraft.studies.race.race import race
from regraft.studies.race.subsets import Cell, plan

GOOD = {
    "linear_probe": lambda m: 0.15 + 0.9 * m**-0.5,
    "lp_ft": lambda m: 0.02 + 1.5 * m**-0.5,
    "full": lambda m: 0.05 + 4 * m**-0.5,
    "scratch": lambda m: 0.4 + 3 * m**-0.5,
}


def test_a_clear_winner_wins_and_the_hopeless_are_dropped_early():
    learners = []
    found = run(GOOD, learners=learners)
    assert found.resolved
    assert found.chosen.strategy == "lp_ft"
    by_name = {one.name: one for one in learners}
    assert "scratch" in {one.arm.strategy for one in found.dropped}
    assert max(size for size, _ in by_name["scratch"].trained) < 0.6 * found.num_train
    assert all(one.p_best is not None and one.p_best < 0.03 for one in found.dropped)
    assert found[found.chosen].gain.low > 0.05
    assert "settled" in found.ended


def test_all_arms_meet_the_same_occasions():
    learners = []
    run(GOOD, learners=learners)
    probe = set(learners[0].trained)
    assert all(set(one.trained) <= probe for one in learners[1:])
    for one in learners:
        assert len(one.trained) == len(set(one.trained))


@pytest.mark.parametrize("wrong", [0.4, 1.0, 3.0])
@pytest.mark.parametrize("budget", [20.0, 60.0])
def test_the_budget_is_kept_to_a_tenth(wrong, budget):
    """Also where the arms' own estimates are three times too low or too high."""
    labels, ids, hashes = data(150)
    made = plan(labels, ids, hashes, num_classes=3)
    clock = Clock()
    arms = [
        Learner(name, error, labels, 3, clock, 1e-4 if name == "linear_probe" else 0.02, wrong_estimate=wrong)
        for name, error in GOOD.items()
    ]
    found = race(
        made, arms, Evidence(), budget_seconds=budget, class_names=["a", "b", "c"], clock=clock, delta=0.0005
    )  # fmt: skip
    assert clock.now <= 1.1 * budget
    assert found.wall_seconds == pytest.approx(clock.now)
    assert len(found.arms) + len([one for one in found.dropped if one.p_best is None]) == 4


def test_without_budget_the_probe_alone_is_measured():
    found = run(GOOD, budget=0.5)
    assert [one.arm.strategy for one in found.arms] == ["linear_probe"]
    assert {one.arm.strategy for one in found.dropped} == {"lp_ft", "full", "scratch"}
    assert all(one.p_best is None and one.num_train == 0 for one in found.dropped)
    assert found.crossing.as_dict() is None


def test_what_is_too_dear_at_full_size_is_carried_over():
    labels, ids, hashes = data(100)
    made = plan(labels, ids, hashes, num_classes=3)
    clock = Clock()
    arms = [
        Learner("linear_probe", GOOD["linear_probe"], labels, 3, clock, 1e-4),
        Learner("lp_ft", GOOD["lp_ft"], labels, 3, clock, 0.02),
        Learner("full", lambda m: 0.021 + 1.5 * m**-0.5, labels, 3, clock, 0.2),
    ]
    found = race(made, arms, Evidence(), budget_seconds=60.0, class_names=["a", "b", "c"], clock=clock)
    full = next(one for one in found.dropped if one.arm.strategy == "full")
    assert "are left" in full.reason
    raced = {one.arm.strategy: one for one in found.arms}
    if "full" in raced:
        assert raced["full"].extrapolated
        assert raced["full"].value.high - raced["full"].value.low > 0.04
    assert not raced["lp_ft"].extrapolated


def test_the_last_arm_skips_the_smaller_sizes_where_the_budget_is_enough_for_n_alone():
    """One training of lp_ft on n takes 7.2 s, on n/4 1.8 s: with 17 s two on n are to be had, with two on n/4 not."""
    labels, ids, hashes = data(150)
    made = plan(labels, ids, hashes, num_classes=3)
    clock = Clock()
    arms = [
        Learner(name, error, labels, 3, clock, 1e-4 if name == "linear_probe" else 0.02) for name, error in GOOD.items()
    ]
    found = race(made, arms, Evidence(), budget_seconds=17.0, class_names=["a", "b", "c"], clock=clock)
    assert [size for size, _ in arms[1].trained] == [360, 360]
    assert [one.trained for one in arms[2:]] == [[], []]  # of those that cost the same the first one named stays
    assert found.resolved
    assert found.chosen.strategy == "lp_ft"
    assert 14 < clock.now <= 1.1 * 17


def test_costs_learn_at_the_nearest_size():
    key = ArmKey(strategy="light", backbone="b")
    costs = Costs({key: lambda n: n * 1.0})
    cell = Cell(halvings=0, repeat=0, fold=0, seed=0)
    rows, said = np.arange(2), np.zeros(2, np.int32)
    for size, seconds in ((100, 300.0), (400, 480.0)):
        costs.learn(Measurement(arm=key, cell=cell, num_train=size, rows=rows, predicted=said, seconds=seconds))
    assert costs.seconds(key, 110) == pytest.approx(330)
    assert costs.seconds(key, 800) == pytest.approx(960)


def test_a_quick_probe_says_nothing_of_trainings():
    probe, tuned = (ArmKey(strategy=name, backbone="b") for name in ("linear_probe", "light"))
    costs = Costs({probe: lambda n: n * 1.0, tuned: lambda n: n * 2.0})
    cell = Cell(halvings=0, repeat=0, fold=0, seed=0)
    rows, said = np.arange(2), np.zeros(2, np.int32)
    costs.learn(Measurement(arm=probe, cell=cell, num_train=10, rows=rows, predicted=said, seconds=1.0))
    assert costs.seconds(tuned, 10) == 20


def test_costs_learn():
    key, other = (ArmKey(strategy=name, backbone="b") for name in ("light", "full"))
    costs = Costs({key: lambda n: n * 1.0, other: lambda n: n * 2.0})
    assert costs.seconds(key, 10) == 10
    cell = Cell(halvings=0, repeat=0, fold=0, seed=0)
    rows, said = np.arange(2), np.zeros(2, np.int32)
    for _ in range(3):
        costs.learn(Measurement(arm=key, cell=cell, num_train=10, rows=rows, predicted=said, seconds=40.0))
    assert costs.seconds(key, 100) == pytest.approx(400)
    assert 200 < costs.seconds(other, 100) < 800
    assert costs.cautious(other, 100) / costs.seconds(other, 100) > costs.cautious(key, 1) / costs.seconds(key, 1)


def test_wrong_words():
    labels, ids, hashes = data(10)
    made = plan(labels, ids, hashes, num_classes=3)
    probe = Learner("linear_probe", GOOD["linear_probe"], labels, 3, Clock())
    tuned = Learner("lp_ft", GOOD["lp_ft"], labels, 3, Clock())
    for arms in ([tuned], [probe, tuned, tuned], []):
        with pytest.raises(UsageError, match="linear_probe and different arms"):
            race(made, arms, Evidence(), budget_seconds=1.0, class_names=list("abc"))
    with pytest.raises(UsageError, match="budget"):
        race(made, [probe], Evidence(), budget_seconds=0.0, class_names=list("abc"))
