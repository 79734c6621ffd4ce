import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.studies.neighbours import neighbour_accuracy


def one_by_one(features, labels, groups, num_classes, k):
    """The same in plain loops."""
    right = 0
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for i in range(len(labels)):
        others = [j for j in range(len(labels)) if groups[j] != groups[i]]
        others.sort(key=lambda j: -float(unit[i] @ unit[j]))
        ballot = np.zeros(num_classes)
        for j in others[:k]:
            ballot[labels[j]] += 1 + unit[i] @ unit[j]
        right += bool(others) and int(ballot.argmax()) == labels[i]
    return right / len(labels)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6), num=st.integers(3, 40), num_groups=st.integers(2, 40), k=st.sampled_from([1, 3, 5, 20])
)
def test_neighbours_are_those_of_other_groups(seed, num, num_groups, k):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num, 6))
    labels, groups = rng.integers(0, 3, num), rng.integers(0, num_groups, num)
    found = neighbour_accuracy(features, labels, group_ids=groups, num_classes=3, ks=(k,))
    assert found[k] == pytest.approx(one_by_one(features, labels, groups, 3, k))


def test_duplicates_of_the_own_group_do_not_vote():
    rng = np.random.default_rng(0)
    once = rng.normal(size=(50, 8))
    labels = rng.integers(0, 2, 50)  # nothing to learn
    features, labels, groups = np.repeat(once, 2, axis=0), np.repeat(labels, 2), np.repeat(np.arange(50), 2)
    assert neighbour_accuracy(features, labels, group_ids=np.arange(100), num_classes=2)[1] == 1.0
    assert neighbour_accuracy(features, labels, group_ids=groups, num_classes=2)[1] < 0.8


def test_an_image_without_neighbours_is_wrong():
    found = neighbour_accuracy(np.eye(3), np.zeros(3, int), group_ids=np.zeros(3, int), num_classes=1)
    assert found == {1: 0.0, 5: 0.0, 20: 0.0}


def test_a_draw_of_queries_is_near_the_whole():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 3000)
    features = rng.normal(size=(3000, 5)) + 1.5 * np.eye(5)[labels]
    whole = neighbour_accuracy(features, labels, group_ids=np.arange(3000), num_classes=3, max_queries=3000)
    some = neighbour_accuracy(features, labels, group_ids=np.arange(3000), num_classes=3, max_queries=1000)
    assert some[5] == pytest.approx(whole[5], abs=0.05)
