"""Leaks across given splits, and what they are worth."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.audit.leakage import find_leaks
from regraft.errors import DataError
from regraft.studies.leak_price import join_groups, leak_price

SPLITS = np.array(["train", "test", "train", "val", "", "test"])


def test_pairs_across_splits_are_named_on_both_sides():
    pairs = np.array([[0, 1], [0, 2], [1, 3], [2, 4]])
    leaks = find_leaks(SPLITS, pairs, np.array([0.8, 0.9, 1.0, 1.0]), images=list("abcdef"))
    assert leaks.column.is_issue.tolist() == [True, True, False, True, False, False]
    assert leaks.pairs.tolist() == [0, 2]
    np.testing.assert_allclose(leaks.column.score, [0.2, 0, 1, 0, 1, 1])
    assert leaks.column.reasons[0] == "nearly the same as 'b' in test, and this image is in train"
    assert leaks.column.reasons[1] == "identical to 'd' in val, and this image is in test"
    assert leaks.leaked == {("test", "train"): 1, ("test", "val"): 1, ("train", "test"): 1, ("val", "test"): 1}


def test_groups_and_sets_leak_too():
    none = np.empty((0, 2), np.int64)
    groups = np.array(["ann", "ann", "bob", "", "bob", ""])
    leaks = find_leaks(SPLITS, none, np.empty(0), groups=groups)
    assert np.flatnonzero(leaks.column.is_issue).tolist() == [0, 1]
    assert leaks.column.score[0] == 0
    sets = np.array([-1, 0, -1, 0, 0, -1])
    leaks = find_leaks(SPLITS, none, np.empty(0), sets=sets)
    assert np.flatnonzero(leaks.column.is_issue).tolist() == [1, 3]
    assert leaks.column.score[1] == 0.5


def test_without_given_splits_nothing_leaks():
    leaks = find_leaks(np.full(3, ""), np.array([[0, 1]]), np.array([1.0]), groups=np.array(["a", "a", "a"]))
    assert not leaks.column.is_issue.any()
    assert leaks.leaked == {}


def test_wrong_columns_are_named():
    with pytest.raises(DataError, match="2 groups"):
        find_leaks(SPLITS, np.empty((0, 2), np.int64), np.empty(0), groups=np.array(["a", "b"]))
    with pytest.raises(DataError, match="two of the 6"):
        find_leaks(SPLITS, np.array([[0, 9]]), np.ones(1))


def test_groups_are_joined_by_sets():
    joined = join_groups(np.array([5, 5, 7, 8, 9]), np.array([-1, 0, 0, 1, 1]))
    assert joined.tolist() == [0, 0, 0, 1, 1]
    assert join_groups(np.array([3, 1]), np.array([-1, -1])).tolist() == [1, 0]


def leaky_data(num=200, copies=200, seed=0):
    """Two classes that hardly differ, some images twice: only memory tells them apart."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], num // 2)
    features = rng.standard_normal((num, 150)) + 0.1 * labels[:, None]
    chosen = rng.permutation(num)[:copies]
    features = np.concatenate([features, features[chosen] + 0.01 * rng.standard_normal((copies, 150))])
    sets = np.full(num + copies, -1)
    sets[chosen] = sets[num:] = np.arange(copies)
    hashes = rng.integers(0, 256, (num + copies, 32)).astype(np.uint8)
    return features.astype(np.float32), np.concatenate([labels, labels[chosen]]), sets, hashes


def test_the_price_of_leaks_is_seen_and_the_corrected_score_is_that_of_clean_data():
    features, labels, sets, hashes = leaky_data()
    num = len(labels)
    options = {"num_classes": 2, "num_resamples": 300, "metric": "accuracy"}
    price = leak_price(features, labels, group_ids=np.arange(num), near_duplicate_sets=sets, hashes=hashes, **options)
    assert (price.num_sets, price.num_images, price.num_groups) == (200, 400, 200)
    assert price.price["accuracy"].low > 0
    assert "leaks make it look better" in price.reason
    clean = leak_price(
        features[:200],
        labels[:200],
        group_ids=np.arange(200),
        near_duplicate_sets=np.full(200, -1),
        hashes=hashes[:200],
        **options,
    )
    assert clean.corrected["accuracy"].low <= price.corrected["accuracy"].estimate <= clean.corrected["accuracy"].high
    assert clean.price["accuracy"].estimate == 0
    assert "nothing leaks" in clean.reason


def test_the_price_needs_columns_that_fit():
    features, labels, sets, hashes = leaky_data(num=20, copies=4)
    with pytest.raises(DataError, match="24 labels"):
        leak_price(features, labels, num_classes=2, group_ids=np.arange(3), near_duplicate_sets=sets, hashes=hashes)
    with pytest.raises(DataError, match="1 groups"):
        leak_price(features, labels, num_classes=2, group_ids=np.zeros(24), near_duplicate_sets=sets, hashes=hashes)
