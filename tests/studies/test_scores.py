import threading

import numpy as np
import pytest

from regraft.studies import scores as scoring
from regraft.studies.scores import Targets, averaged, each, screen, solve


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    features = rng.normal(size=(120, 10)).astype(np.float32) + 1.2 * np.eye(10, dtype=np.float32)[labels]
    targets = Targets(
        labels=labels, num_classes=3, group_ids=np.arange(120), folds=np.arange(120).reshape(1, -1) % 5
    )  # fmt: skip
    return features, targets


def test_each_keeps_the_order_and_runs_side_by_side(monkeypatch):
    monkeypatch.setattr(scoring, "num_cores", lambda: 2)
    both = threading.Barrier(2, timeout=20)

    def work(i):
        both.wait()  # passes only where two are at work
        return 10 * i

    assert each(work, [3, 1, 2, 0]) == [30, 10, 20, 0]
    assert each(work, []) == []
    with pytest.raises(ZeroDivisionError):
        each(lambda i: 1 // i, [1, 0])


def test_screen_and_solve_give_probabilities_of_the_same_rows(task):
    features, targets = task
    found = solve(features, targets, screen(features, targets))
    for probs in (found.ridge_probs, found.probe_probs):
        assert probs.shape == (120, 3)
        np.testing.assert_allclose(probs.sum(axis=1), 1)
        assert (probs.argmax(axis=1) == targets.labels).mean() > 0.6
    assert set(found.columns) == {"log_me", "h_score", "gbc"}
    assert found.pred_probs is found.probe_probs


def test_the_labels_of_a_group_are_not_seen(task):
    """Labels that only a duplicate could know."""
    features, _ = task
    labels = np.random.default_rng(1).integers(0, 3, 60)
    twice = Targets(
        labels=np.repeat(labels, 2), num_classes=3, group_ids=np.repeat(np.arange(60), 2),
        folds=np.repeat(np.arange(60) % 5, 2).reshape(1, -1),
    )  # fmt: skip
    copies = np.repeat(features[:60], 2, axis=0)
    found = solve(copies, twice, screen(copies, twice))
    assert found.ridge_accuracy < 0.6
    assert (found.probe_probs.argmax(axis=1) == twice.labels).mean() < 0.6
    assert found.neighbours[1] < 0.6


def test_an_average_is_of_the_same_head(task):
    features, targets = task
    a = solve(features, targets, screen(features, targets))
    b = screen(features[:, :5], targets)
    assert averaged([a, b], targets.labels).probe_probs is None
    both = averaged([a, solve(features[:, :5], targets, b)], targets.labels)
    np.testing.assert_allclose(both.ridge_probs, (a.ridge_probs + b.ridge_probs) / 2)
    assert both.probe_probs is not None
