import numpy as np
import pytest

from regraft.evaluate.intervals import paired_difference, selection_bootstrap
from regraft.studies.decide import Entry, decide

K = 4


def answers(labels, rate, seed):
    """Predictions that are right with this probability."""
    rng = np.random.default_rng(seed)
    wrong = (labels + rng.integers(1, K, len(labels))) % K
    return np.where(rng.random(len(labels)) < rate, labels, wrong)


def entries(labels, rates, speeds, static=None, probes=None):
    static = static or [None] * len(rates)
    probes = probes or [True] * len(rates)
    return [
        Entry(
            ridge=answers(labels, rate, seed),
            probe=answers(labels, rate, seed) if solved else None,
            images_per_second=speed,
            static_score=score,
        )
        for seed, (rate, speed, score, solved) in enumerate(zip(rates, speeds, static, probes, strict=True))
    ]


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(99).integers(0, K, 400)


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1"])
def test_differences_are_those_of_paired_difference(labels, metric):
    groups = np.arange(400) // 3
    both = entries(labels, [0.8, 0.7], [1, 2])
    found = decide(both, labels, num_classes=K, group_ids=groups, metric=metric, seed=5)
    slow = paired_difference(
        labels, np.eye(K)[both[1].probe], np.eye(K)[both[0].probe], group_ids=groups, seed=5
    )[metric]  # fmt: skip
    assert found.best == 0
    assert found.differences[1].estimate == pytest.approx(slow.estimate)
    assert (found.differences[1].low, found.differences[1].high) == pytest.approx((slow.low, slow.high))


def test_pairing_narrows(labels):
    """Two that nearly always agree differ little, whatever each one's own interval is."""
    first = answers(labels, 0.7, 0)
    second = first.copy()
    second[:8] = (labels[:8] + 1) % K
    found = decide(
        [Entry(ridge=p, probe=p, images_per_second=1) for p in (first, second)],
        labels, num_classes=K, group_ids=np.arange(400),
    )  # fmt: skip
    assert found.differences[1].high - found.differences[1].low < 0.03


def test_the_cheapest_of_the_tied_is_picked(labels):
    many = entries(labels, [0.80, 0.79, 0.78, 0.40], [10, 50, 20, 1000])
    found = decide(many, labels, num_classes=K, group_ids=np.arange(400), tolerance=1.0)
    assert found.tied.tolist() == [True, True, True, False]
    assert found.pick == 1
    assert decide(many, labels, num_classes=K, group_ids=np.arange(400), prefer="best").pick == found.best
    assert found.order[-1] == 3


def test_speed_does_not_buy_more_than_the_tolerance(labels):
    """Tied, but two points behind."""
    right = np.arange(400)
    best = np.where(right < 320, labels, (labels + 1) % K)
    near = np.where((right < 316) | (right >= 399), labels, (labels + 1) % K)
    far = np.where((right < 290) | (right >= 378), labels, (labels + 1) % K)
    some = [Entry(ridge=p, probe=p, images_per_second=s) for p, s in ((best, 1), (near, 2), (far, 3))]
    found = decide(some, labels, num_classes=K, group_ids=right)
    assert found.tied.all()
    assert found.pick == 1


def test_the_static_list_can_lose(labels):
    many = entries(labels, [0.9, 0.5], [1, 1], static=[(70.0, 0.0), (80.0, 0.0)])
    found = decide(many, labels, num_classes=K, group_ids=np.arange(400))
    assert (found.pick, found.static_pick) == (0, 1)
    assert found.gain.low > 0.2
    none = decide(entries(labels, [0.9, 0.5], [1, 1]), labels, num_classes=K, group_ids=np.arange(400))
    assert none.static_pick is None
    assert none.gain is None


def test_off_the_shortlist_the_same_head_is_compared(labels):
    """A solved head that gains 10 points on the leader must not look like 10 points over the others."""
    ridge, better = answers(labels, 0.8, 0), labels.copy()
    better[:40] = (labels[:40] + 1) % K
    other = answers(labels, 0.75, 1)
    found = decide(
        [
            Entry(ridge=ridge, probe=better, images_per_second=1),
            Entry(ridge=other, probe=None, images_per_second=2),
        ],
        labels, num_classes=K, group_ids=np.arange(400),
    )  # fmt: skip
    assert found.differences[1].estimate == pytest.approx((other == labels).mean() - (ridge == labels).mean())


def test_optimism_is_that_of_selection_bootstrap():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 100)
    useless = [rng.integers(0, 2, 100) for _ in range(30)]
    found = decide(
        [Entry(ridge=p, probe=p, images_per_second=1) for p in useless],
        labels, num_classes=2, group_ids=np.arange(100), prefer="best", seed=1,
    )  # fmt: skip
    right = np.stack([p == labels for p in useless])
    slow = selection_bootstrap(
        labels,
        choose=lambda w: (int(np.argmax(right @ w)), 0),
        probabilities=lambda i, _: np.eye(2)[useless[i]],
        group_ids=np.arange(100),
        seed=1,
    )["accuracy"]
    naive = right.mean(axis=1).max()
    assert naive - found.optimism == pytest.approx(slow.estimate, abs=1e-9)
    assert naive > 0.58
    assert naive - found.optimism == pytest.approx(0.5, abs=0.06)


def test_one_group_knows_nothing():
    labels = np.array([0, 1, 0, 1])
    found = decide(
        entries(labels, [1.0, 0.0], [1, 2]), labels, num_classes=K, group_ids=np.zeros(4, int)
    )  # fmt: skip
    assert found.tied.all()
    assert found.pick == 0
