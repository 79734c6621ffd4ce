"""Folds and nested subsets: the same occasions for all arms, and no class missing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from race_fake import data

from regraft.errors import DataError
from regraft.studies.race.subsets import plan, prefix


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60), groups=st.integers(1, 20), seed=st.integers(0, 99),
    shares=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_subsets_are_nested_hold_whole_groups_and_every_class(labels, groups, seed, shares):
    rng = np.random.default_rng(seed)
    labels = np.array(labels)
    ids = rng.integers(0, groups, len(labels))
    pool = rng.random(len(labels)) < 0.8
    ranks = rng.random(len(labels))
    small, large = (prefix(labels, ids, ranks, pool, share) for share in sorted(shares))
    assert set(small) <= set(large) <= set(np.flatnonzero(pool))
    for rows in (small, large):
        assert set(labels[rows]) == set(labels[pool])
        assert set(np.flatnonzero(pool & np.isin(ids, ids[rows]))) == set(rows)


def test_subsets_are_stratified():
    labels, ids, hashes = data([200, 40, 8])
    made = plan(labels, ids, hashes, num_classes=3)
    for halvings, size in zip(made.halvings, made.sizes, strict=True):
        for cell in made.cells(halvings):
            train, judged = made.rows(cell)
            assert not set(train) & set(judged)
            assert abs(len(train) - size) <= 3
            expected = np.array([160, 32, 6.4]) / 2**halvings
            assert (np.abs(np.bincount(labels[train]) - expected) <= 2).all()


def test_every_image_is_judged_once_a_repeat_and_seeds_differ():
    labels, ids, hashes = data(30, groups=3)
    made = plan(labels, ids, hashes, num_classes=3)
    cells = list(made.cells(0))
    assert len({cell.seed for cell in cells}) == len(cells)
    for repeat in range(len(made.folds)):
        judged = np.concatenate([made.rows(cell)[1] for cell in cells if cell.repeat == repeat])
        assert sorted(judged) == list(range(90))
    for cell in cells:
        train, judged = made.rows(cell)
        assert not set(ids[train]) & set(ids[judged])


def test_another_order_of_rows_gives_the_same_subsets():
    labels, ids, hashes = data([30, 20, 10])
    order = np.random.default_rng(5).permutation(60)
    a = plan(labels, ids, hashes, num_classes=3)
    b = plan(labels[order], ids[order], hashes[order], num_classes=3)
    for cell in a.cells(1):
        assert {hashes[row].tobytes() for row in a.rows(cell)[0]} == {
            hashes[order][row].tobytes() for row in b.rows(cell)[0]
        }


def test_sizes_that_say_the_same_are_left_out():
    labels, ids, hashes = data(3, num_classes=4)
    made = plan(labels, ids, hashes, num_classes=4)
    assert made.num_folds == 3
    assert made.sizes[-1] == 8
    assert list(made.sizes) == sorted(set(made.sizes))
    assert made.halvings[-1] == 0
    single = plan(*data(2, num_classes=5), num_classes=5)
    assert single.halvings == (0,)


@pytest.mark.parametrize("counts", [[10, 1], [1, 1, 1], [10]])
def test_what_cannot_be_judged_is_refused(counts):
    labels, ids, hashes = data(counts)
    with pytest.raises(DataError, match="two classes with two images each"):
        plan(labels, ids, hashes, num_classes=len(counts))


def test_one_group_a_class_is_refused():
    labels, _, hashes = data(10, num_classes=3)
    with pytest.raises(DataError, match="do not belong together"):
        plan(labels, labels, hashes, num_classes=3)
