"""Properties of folds: groups stay together, classes are spread, content and seed decide and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.data.folds import assign_folds, deal, one_group_classes


def hashes_of(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 32)).astype(np.uint8)


@st.composite
def data_sets(draw, mixed_groups: bool = True):
    n = draw(st.integers(1, 120))
    num_classes = draw(st.integers(1, 6))
    labels = np.array(draw(st.lists(st.integers(0, num_classes - 1), min_size=n, max_size=n)))
    groups = np.array(draw(st.lists(st.integers(0, draw(st.integers(0, n))), min_size=n, max_size=n)))
    if not mixed_groups:
        groups = groups * num_classes + labels
    return labels, groups, hashes_of(n, draw(st.integers(0, 5)))


@given(data_sets(), st.integers(2, 8), st.integers(0, 3))
def test_a_group_never_straddles(data, num_folds, seed):
    labels, groups, hashes = data
    folds = assign_folds(labels, groups, hashes, num_folds=num_folds, num_repeats=2, seed=seed)
    assert folds.shape == (2, len(labels))
    assert folds.dtype == np.int8
    assert folds.min() >= 0
    assert folds.max() < num_folds
    for repeat in folds:
        for group in np.unique(groups):
            assert len(np.unique(repeat[groups == group])) == 1


@given(data_sets(), st.integers(2, 6), st.integers(0, 3), st.randoms(use_true_random=False))
def test_row_order_and_numbering_do_not_matter(data, num_folds, seed, random):
    labels, groups, hashes = data
    n = len(labels)
    order = np.array(random.sample(range(n), n))
    names = np.array(random.sample(range(1000), int(groups.max()) + 1))
    folds = assign_folds(labels, groups, hashes, num_folds=num_folds, seed=seed)
    moved = assign_folds(labels[order], names[groups[order]], hashes[order], num_folds=num_folds, seed=seed)
    assert np.array_equal(folds[:, order], moved)


@given(data_sets(mixed_groups=False), st.integers(2, 6), st.integers(0, 3))
def test_every_class_of_two_groups_is_in_every_training_part(data, num_folds, seed):
    labels, groups, hashes = data
    (folds,) = assign_folds(labels, groups, hashes, num_folds=num_folds, seed=seed)
    alone = set(one_group_classes(labels, groups).tolist())
    for label in np.unique(labels):
        in_one_fold = len(np.unique(folds[labels == label])) == 1
        assert in_one_fold == (label in alone)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=300), st.integers(2, 10), st.integers(0, 3))
def test_single_images_are_spread_to_within_one(labels, num_folds, seed):
    labels = np.array(labels)
    (folds,) = assign_folds(labels, np.arange(len(labels)), hashes_of(len(labels)), num_folds=num_folds, seed=seed)
    for label in np.unique(labels):
        counts = np.bincount(folds[labels == label], minlength=num_folds)
        assert counts.max() - counts.min() <= 1
    sizes = np.bincount(folds, minlength=num_folds)
    assert sizes.max() - sizes.min() <= max(1, len(np.unique(labels)) // 2)


def test_rare_classes_do_not_all_go_to_the_first_folds():
    labels = np.repeat(np.arange(50), 3)  # three images each, five folds
    (folds,) = assign_folds(labels, np.arange(150), hashes_of(150))
    sizes = np.bincount(folds, minlength=5)
    assert sizes.max() - sizes.min() <= 1


def test_groups_are_balanced_about_as_well_as_by_scikit_learn():
    from sklearn.model_selection import StratifiedGroupKFold

    rng = np.random.default_rng(3)
    groups = rng.integers(0, 300, 3000)
    labels = (rng.random(3000) ** 2 * 6).astype(np.int64)

    def spread(folds):
        shares = np.stack([np.bincount(labels[folds == fold], minlength=6) for fold in range(5)])
        return float((shares / shares.sum(axis=0)).std())

    (ours,) = assign_folds(labels, groups, hashes_of(3000))
    theirs = np.empty(3000, np.int64)
    for fold, (_, held_out) in enumerate(StratifiedGroupKFold(5).split(labels, labels, groups)):
        theirs[held_out] = fold
    assert spread(ours) <= 1.25 * spread(theirs)


def test_repeats_and_seeds_deal_differently():
    labels, hashes = np.arange(200) % 4, hashes_of(200)
    folds = assign_folds(labels, np.arange(200), hashes, num_repeats=3)
    again = assign_folds(labels, np.arange(200), hashes, num_repeats=1, seed=1)
    rows = [*folds, *again]
    for i, one in enumerate(rows):
        for other in rows[:i]:
            assert 0.1 < (one == other).mean() < 0.35  # two independent assignments agree by 1/5
    assert np.array_equal(folds, assign_folds(labels, np.arange(200), hashes, num_repeats=3))


def test_folds_know_nothing_of_names_but_all_of_content():
    labels, groups = np.arange(60) % 3, np.arange(60)
    one, other = (assign_folds(labels, groups, hashes_of(60, seed)) for seed in (1, 2))
    assert not np.array_equal(one, other)


@given(data_sets(), st.sampled_from([0.1, 0.2, 0.35, 0.5]))
@settings(max_examples=50)
def test_unequal_shares_are_kept_for_single_images(data, share):
    labels, _, hashes = data
    bins = deal(labels, np.arange(len(labels)), hashes, np.array([1 - share, share]), seed=0)
    for label in np.unique(labels):
        rows = labels == label
        assert abs(int((bins[rows] == 1).sum()) - share * rows.sum()) < 1


def test_one_group_classes_are_named():
    labels, groups = np.array([0, 0, 1, 1, 2]), np.array([5, 5, 5, 6, 7])
    assert one_group_classes(labels, groups).tolist() == [0, 2]


@pytest.mark.parametrize("num_folds", [0, 1, 128])
def test_impossible_numbers_of_folds_are_refused(num_folds):
    with pytest.raises(ValueError, match="2 to 127"):
        assign_folds(np.zeros(4, np.int64), np.arange(4), hashes_of(4), num_folds=num_folds)


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match="one group"):
        assign_folds(np.zeros(4, np.int64), np.arange(3), hashes_of(4))
