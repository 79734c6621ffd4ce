from __future__ import annotations

import numpy as np
import pytest

from regraft.errors import DataError, UsageError
from regraft.evaluate.groups import Groups
from regraft.evaluate.intervals import affordable_resamples, group_bootstrap, paired_difference, selection_bootstrap
from regraft.evaluate.metrics import evaluate_predictions
from regraft.evaluate.sums import NAMES, Rows, Sums


def simulate(rng, n, k=3, *, skill=1.8, scale=2.0, group_size=1, group_effect=0.0):
    """Labels, probabilities and groups; `scale` 1 is not calibrated either, so the ECE is never 0."""
    num_groups = -(-n // group_size)
    labels = np.repeat(rng.integers(k, size=num_groups), group_size)[:n]
    groups = np.repeat(np.arange(num_groups), group_size)[:n]
    logits = rng.normal(size=(n, k)) + group_effect * rng.normal(size=(num_groups, k))[groups]
    logits[np.arange(n), labels] += skill
    return labels, softmax(scale * logits), groups


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def inside(interval, truth):
    return interval.low <= truth <= interval.high


@pytest.mark.parametrize("group_size", [1, 3])
def test_sums_give_what_the_metric_gives_on_the_resampled_rows(group_size):
    labels, probs, ids = simulate(np.random.default_rng(0), 40, 6, group_size=group_size)
    rows, groups = Rows.of(labels, probs), Groups.of(ids, 40)
    counts = list(groups.resample(25, seed=3))
    fast = Sums.stack([Sums.over(rows, c[groups.index]) for c in counts]).overall()
    for r, c in enumerate(counts):
        picked = np.concatenate([np.tile(np.flatnonzero(groups.index == g), int(c[g])) for g in range(groups.number)])
        slow = evaluate_predictions(labels[picked], probs[picked]).as_dict()
        assert {name: fast[name][r] for name in NAMES} == pytest.approx(slow)


def test_estimates_are_the_measures_and_lie_inside():
    labels, probs, ids = simulate(np.random.default_rng(0), 120, 4, group_size=2)
    found, measures = group_bootstrap(labels, probs, group_ids=ids), evaluate_predictions(labels, probs)
    assert {n: found[n].estimate for n in NAMES} == pytest.approx(measures.as_dict())
    for kind in ("precision", "recall", "f1"):
        assert [found[f"{kind}/{k}"].estimate for k in range(4)] == pytest.approx(list(measures.per_class[kind]))
    assert all(0 <= i.low <= i.estimate <= i.high for i in found.values())


def test_same_seed_same_intervals():
    labels, probs, ids = simulate(np.random.default_rng(0), 60)
    first = group_bootstrap(labels, probs, group_ids=ids, seed=1)
    assert first == group_bootstrap(labels, probs, group_ids=ids + 1000, seed=1)
    assert first["log_loss"] != group_bootstrap(labels, probs, group_ids=ids, seed=2)["log_loss"]


@pytest.mark.parametrize(
    ("n", "k", "group_size"), [(60, 3, 1), (300, 10, 1), (200, 4, 5)], ids=["few", "ten classes", "groups"]
)
def test_95_percent_intervals_hold_the_truth_about_that_often(n, k, group_size):
    how = {"group_size": group_size, "group_effect": 1.5 if group_size > 1 else 0.0}
    rng = np.random.default_rng(5)
    labels, probs, _ = simulate(rng, 200_000, k, **how)
    truth = evaluate_predictions(labels, probs)
    hits: dict[str, list[bool]] = {}
    for seed in range(150):
        labels, probs, ids = simulate(rng, n, k, **how)
        found = group_bootstrap(labels, probs, group_ids=ids, num_resamples=200, seed=seed)
        for name, value in truth.as_dict().items():
            hits.setdefault(name, []).append(inside(found[name], value))
        for kind in ("precision", "recall", "f1"):
            for c in range(k):
                hits.setdefault(kind, []).append(inside(found[f"{kind}/{c}"], truth.per_class[kind][c]))
    coverage = {name: np.mean(values) for name, values in hits.items()}
    # two standard errors of 150 draws at 0.95 are 0.036; the ECE's own coverage is 0.89-0.98
    assert all(0.89 <= c <= 0.995 for name, c in coverage.items() if name != "ece"), coverage
    assert coverage["ece"] >= 0.85, coverage


def test_correlated_groups_widen_the_interval():
    labels, probs, ids = simulate(np.random.default_rng(0), 400, group_size=10, group_effect=2.0)
    grouped = group_bootstrap(labels, probs, group_ids=ids)
    alone = group_bootstrap(labels, probs, group_ids=np.arange(400))
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "log_loss"):
        assert grouped[name].high - grouped[name].low > 1.4 * (alone[name].high - alone[name].low)


def test_three_right_answers_a_class_are_no_certainty():
    labels = np.repeat([0, 1], 3)
    probs = np.eye(2)[labels] * 0.98 + 0.01
    found = group_bootstrap(labels, probs, group_ids=np.arange(6))
    assert found["recall/0"].low == pytest.approx(0.4385, abs=1e-3)
    assert found["recall/0"].high == 1
    assert 0.5 < found["accuracy"].low < 0.75
    assert 0.4 < found["macro_f1"].low < 0.8


def test_one_group_knows_nothing_about_others():
    labels, probs, _ = simulate(np.random.default_rng(0), 30)
    found = group_bootstrap(labels, probs, group_ids=np.zeros(30))
    assert (found["accuracy"].low, found["accuracy"].high) == (0, 1)
    assert (found["recall/0"].low, found["recall/0"].high) == (0, 1)
    assert found["log_loss"].high > 36


def test_a_class_of_one_group_does_not_spoil_the_mean():
    labels = np.repeat(np.arange(10), 20)
    ids = np.where(labels == 3, 3000, np.arange(200))
    probs = np.full((200, 10), 0.02)
    probs[np.arange(200), np.where(np.arange(200) % 7 == 0, (labels + 1) % 10, labels)] = 0.82
    found = group_bootstrap(labels, probs, group_ids=ids)
    assert (found["recall/3"].low, found["recall/3"].high) == (0, 1)
    assert 0.05 < found["balanced_accuracy"].high - found["balanced_accuracy"].low < 0.2
    assert 0.05 < found["macro_f1"].high - found["macro_f1"].low < 0.25


def test_equal_losses_still_leave_doubt_that_shrinks():
    widths = []
    for n in (5, 500):
        found = group_bootstrap(np.zeros(n, int), np.tile([0.9, 0.1], (n, 1)), group_ids=np.arange(n))
        widths.append(found["log_loss"].high - found["log_loss"].low)
    assert 0 < 10 * widths[1] < widths[0]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_hardly_any_rows(n):
    probs = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [1.0, 0.0, 0.0]])[:n]
    found = group_bootstrap([0, 1, 0][:n], probs, group_ids=np.arange(n))
    assert all(np.isfinite([i.estimate, i.low, i.high]).all() for i in found.values())
    assert (found["recall/2"].estimate, found["recall/2"].low, found["recall/2"].high) == (0, 0, 1)


def test_many_rows_get_fewer_resamples():
    assert affordable_resamples(10_000) == 1000
    assert affordable_resamples(40_000) == 500
    assert affordable_resamples(10**7) == 200
    assert affordable_resamples(10**7, 50) == 50


def best_of(configurations, labels):
    right = np.stack([p.argmax(axis=1) == labels for p in configurations]).astype(float)
    return lambda weights: (int(np.argmax(right @ weights)), 0)


def test_selection_takes_back_the_optimism_of_a_hundred_useless_configurations():
    rng = np.random.default_rng(0)
    naive, corrected, covered = [], [], []
    for seed in range(40):
        labels = rng.integers(2, size=100)
        each = [softmax(rng.normal(size=(100, 2))) for _ in range(100)]
        choose = best_of(each, labels)
        found = selection_bootstrap(
            labels,
            choose=choose,
            probabilities=lambda i, j, each=each: each[i],
            group_ids=np.arange(100),
            num_resamples=100,
            seed=seed,
        )
        naive.append(evaluate_predictions(labels, each[choose(np.ones(100))[0]]).accuracy)
        corrected.append(found["accuracy"].estimate)
        covered.append(inside(found["accuracy"], 0.5))
    assert np.mean(naive) > 0.6
    assert np.mean(corrected) == pytest.approx(0.5, abs=0.02)
    assert np.mean(covered) >= 0.9


def test_coverage_after_choosing_along_a_path():
    """20 similar configurations, as along a regularisation path; the truth is that of the one that was chosen."""
    rng = np.random.default_rng(2)
    skills = np.linspace(0.5, 1.5, 20)

    def path(n):
        labels, shared = rng.integers(3, size=n), rng.normal(size=(n, 3))
        noise = np.sqrt(0.9) * shared + np.sqrt(0.1) * rng.normal(size=(20, n, 3))
        noise[:, np.arange(n), labels] += skills[:, None]
        return labels, [softmax(z) for z in noise]

    labels, each = path(30_000)
    truth = [evaluate_predictions(labels, p).as_dict() for p in each]
    hits: dict[str, list[bool]] = {}
    for seed in range(120):
        labels, each = path(100)
        choose = best_of(each, labels)
        found = selection_bootstrap(
            labels,
            choose=choose,
            probabilities=lambda i, j, each=each: each[i],
            group_ids=np.arange(100),
            num_resamples=100,
            seed=seed,
        )
        for name, value in truth[choose(np.ones(100))[0]].items():
            hits.setdefault(name, []).append(inside(found[name], value))
    coverage = {name: np.mean(values) for name, values in hits.items()}
    assert all(0.89 <= c <= 0.995 for name, c in coverage.items() if name != "ece"), coverage
    assert coverage["ece"] >= 0.85, coverage


def test_selection_equals_the_mean_out_of_bag_score_of_the_paper():
    rng = np.random.default_rng(4)
    labels = rng.integers(3, size=80)
    each = [softmax(rng.normal(size=(80, 3))) for _ in range(10)]
    choose, groups = best_of(each, labels), Groups.of(np.arange(80) // 2, 80)
    scores = []
    for counts in groups.resample(4000, seed=9):
        weights = counts[groups.index]
        out = weights == 0
        scores.append(evaluate_predictions(labels[out], each[choose(weights)[0]][out]).accuracy)
    found = selection_bootstrap(
        labels, choose=choose, probabilities=lambda i, j: each[i], group_ids=groups.index, num_resamples=1000
    )
    assert found["accuracy"].estimate == pytest.approx(np.mean(scores), abs=0.01)


def test_without_a_choice_selection_is_the_group_bootstrap():
    labels, probs, ids = simulate(np.random.default_rng(0), 50, group_size=2)
    asked = []
    found = selection_bootstrap(
        labels, choose=lambda w: (3, 1), probabilities=lambda i, j: asked.append((i, j)) or probs, group_ids=ids
    )
    assert found == group_bootstrap(labels, probs, group_ids=ids)
    assert asked == [(3, 1)]


@pytest.mark.parametrize("num_groups", [1, 2, 9])
def test_selection_on_hardly_any_groups(num_groups):
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    each = [softmax(rng.normal(size=(9, 3))) for _ in range(5)]
    found = selection_bootstrap(
        labels,
        choose=best_of(each, labels),
        probabilities=lambda i, j: each[i],
        group_ids=np.arange(9) % num_groups,
        num_resamples=200,
    )
    assert all(0 <= i.low <= i.estimate <= i.high < 37 for i in found.values())


def test_paired_difference_is_sharper_than_two_intervals():
    rng = np.random.default_rng(0)
    labels, probs, ids = simulate(rng, 300, group_size=3, group_effect=1.0)
    other = softmax(np.log(probs) + 0.2 * rng.normal(size=probs.shape))
    found = paired_difference(labels, probs, other, group_ids=ids)
    alone = group_bootstrap(labels, probs, group_ids=ids)
    measures = evaluate_predictions(labels, probs).as_dict(), evaluate_predictions(labels, other).as_dict()
    for name in NAMES:
        assert found[name].estimate == pytest.approx(measures[0][name] - measures[1][name])
    assert found["accuracy"].high - found["accuracy"].low < 0.5 * (alone["accuracy"].high - alone["accuracy"].low)
    back = paired_difference(labels, other, probs, group_ids=ids)
    assert back["macro_f1"].low == pytest.approx(-found["macro_f1"].high)


def test_paired_difference_covers():
    rng = np.random.default_rng(7)

    def pair(n):
        labels, shared = rng.integers(3, size=n), rng.normal(size=(n, 3))
        found = []
        for skill in (1.5, 1.2):
            z = shared + 0.5 * rng.normal(size=(n, 3))
            z[np.arange(n), labels] += skill
            found.append(softmax(z))
        return labels, *found

    labels, a, b = pair(200_000)
    first, second = evaluate_predictions(labels, a).as_dict(), evaluate_predictions(labels, b).as_dict()
    hits: dict[str, list[bool]] = {name: [] for name in NAMES}
    for seed in range(120):
        labels, a, b = pair(150)
        found = paired_difference(labels, a, b, group_ids=np.arange(150), num_resamples=200, seed=seed)
        for name in NAMES:
            hits[name].append(inside(found[name], first[name] - second[name]))
    assert all(0.89 <= np.mean(hits[name]) <= 0.995 for name in NAMES[:4]), hits


def test_equal_answers_on_few_images_do_not_prove_equality():
    labels, probs, _ = simulate(np.random.default_rng(0), 5)
    found = paired_difference(labels, probs, probs, group_ids=np.arange(5))
    assert found["accuracy"].low < -0.3
    assert found["accuracy"].high > 0.3


def test_bad_input():
    with pytest.raises(DataError, match="group id"):
        group_bootstrap([0], [[1.0, 0.0]], group_ids=[0, 1])
    with pytest.raises(UsageError, match="level"):
        group_bootstrap([0], [[1.0, 0.0]], group_ids=[0], level=1.0)
