"""Splits: given ones respected, drawn ones stratified and grouped, leaks reported, content alone decides."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regraft.data import data_version, split
from regraft.data.split import group_numbers
from regraft.errors import DataError, UsageError
from regraft.types import Manifest


def manifest(labels, *, groups=None, splits=None, contents=None, seed=0) -> Manifest:
    labels = np.asarray(labels, np.int64)
    n = len(labels)
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 256, (n, 32)).astype(np.uint8)
    if contents is not None:
        hashes = hashes[np.asarray(contents)]
    return Manifest(
        root=Path("data"),
        images=np.array([f"{i:05d}.png" for i in range(n)], dtype=np.str_),
        labels=labels,
        class_names=tuple(f"class_{k}" for k in range(int(labels.max()) + 1)),
        hashes=hashes,
        given_splits=np.array([""] * n if splits is None else splits, dtype=np.str_),
        groups=np.array([""] * n if groups is None else groups, dtype=np.str_),
        sizes=np.ones((n, 2), np.int32),
        source="test",
    )


def renamed(data: Manifest, order) -> Manifest:
    names = np.array([f"other/{i}.jpg" for i in range(len(data))], dtype=np.str_)
    return replace(data.select(np.asarray(order)), images=names)


def test_small_data_get_no_test_set_and_are_told_why():
    result = split(manifest(np.arange(200) % 4))
    assert len(result.test) == 0
    assert len(result.development) == 200
    assert "cross-validation" in result.reason
    assert "500" in result.reason


def test_large_data_get_a_stratified_fifth():
    labels = np.repeat([0, 1, 2], [2000, 900, 100])
    result = split(manifest(labels))
    assert np.bincount(labels[result.test]).tolist() == [400, 180, 20]
    assert sorted([*result.development, *result.test]) == list(range(3000))
    assert "600 of 3,000" in result.reason


def test_auto_counts_groups_rather_than_images():
    labels = np.arange(4000) % 2
    assert len(split(manifest(labels)).test) == 800
    assert len(split(manifest(labels, groups=[f"g{i // 4}" for i in range(4000)])).test) == 0


def test_auto_wants_twenty_a_class():
    assert len(split(manifest(np.arange(4000) % 40)).test) == 800
    assert len(split(manifest(np.arange(4000) % 41)).test) == 0


@st.composite
def manifests(draw):
    n = draw(st.integers(4, 80))
    labels = [0, 0, 1, 1, *draw(st.lists(st.integers(0, 4), min_size=n - 4, max_size=n - 4))]
    _, labels = np.unique(labels, return_inverse=True)
    groups = draw(st.lists(st.sampled_from(["", "", "a", "b", "c", "d"]), min_size=n, max_size=n))
    contents = draw(st.lists(st.integers(0, n - 1), min_size=n, max_size=n))
    return manifest(labels, groups=groups, contents=contents, seed=draw(st.integers(0, 3)))


@given(manifests(), st.sampled_from([0.1, 0.3, 0.5]), st.integers(0, 3))
def test_no_group_straddles_and_no_class_is_in_the_test_alone(data, share, seed):
    result = split(data, test=share, seed=seed)
    development, test = result.development, result.test
    assert sorted([*development, *test]) == list(range(len(data)))
    assert not set(result.group_ids[development]) & set(result.group_ids[test])
    assert not {row.tobytes() for row in data.hashes[development]} & {row.tobytes() for row in data.hashes[test]}
    assert not (set(data.groups[development]) & set(data.groups[test])) - {""}
    assert set(data.labels[test]) <= set(data.labels[development])


@given(manifests(), st.randoms(use_true_random=False), st.integers(0, 3))
def test_names_and_order_do_not_matter(data, random, seed):
    order = random.sample(range(len(data)), len(data))
    one, other = split(data, test=0.3, seed=seed), split(renamed(data, order), test=0.3, seed=seed)
    # which copy of identical bytes with several labels comes first is a matter of row order; they share a group
    assert set(one.test) == {order[row] for row in other.test}
    assert data_version(data) == data_version(renamed(data, order))


def test_group_numbers_join_transitively():
    data = manifest([0, 0, 1, 1, 0, 1], groups=["a", "", "b", "b", "", ""], contents=[0, 0, 1, 0, 4, 5])
    numbers = group_numbers(data)  # a-row0 = row1 = row3 by bytes, row3 = b = row2
    assert len(set(numbers[:4])) == 1
    assert len(set(numbers)) == 3


def test_seeds_draw_different_tests_and_the_same_seed_the_same():
    data = manifest(np.arange(300) % 3)
    tests = [frozenset(split(data, test=0.2, seed=seed).test.tolist()) for seed in (0, 0, 1)]
    assert tests[0] == tests[1] != tests[2]


def test_given_test_split_is_respected_and_validation_joins_development():
    splits = ["train"] * 6 + ["val"] * 4 + ["test"] * 4
    result = split(manifest(np.arange(14) % 2, splits=splits))
    assert result.test.tolist() == [10, 11, 12, 13]
    assert result.development.tolist() == list(range(10))
    assert "validation split (4) joins development" in result.reason


def test_without_a_test_split_the_validation_split_is_locked_away():
    result = split(manifest(np.arange(10) % 2, splits=["train"] * 6 + ["val"] * 4))
    assert result.test.tolist() == [6, 7, 8, 9]
    assert "validation split (4 images) is locked away" in result.reason


def test_given_train_alone_is_no_split():
    assert len(split(manifest(np.arange(10) % 2, splits=["train"] * 10)).test) == 0


def test_leaks_of_a_given_split_are_reported_and_cost_training_alone():
    data = manifest(
        np.arange(10) % 2,
        splits=["train"] * 6 + ["test"] * 4,
        groups=["", "p1", "", "", "", "", "p1", "", "", ""],
        contents=[0, 1, 2, 3, 9, 5, 6, 7, 8, 9],
    )
    result = split(data)
    assert result.development.tolist() == [0, 2, 3, 5]
    assert result.test.tolist() == [6, 7, 8, 9]
    assert {(leak.image, leak.kind) for leak in result.leaks} == {
        ("00001.png", "group_leak"),
        ("00004.png", "duplicate_leak"),
    }
    assert all(leak.excluded for leak in result.leaks)
    assert "p1" in next(leak.reason for leak in result.leaks if leak.kind == "group_leak")


def test_a_class_that_is_in_the_given_test_alone_is_left_out_of_it():
    result = split(manifest([0, 1, 0, 1, 0, 1, 2], splits=["train"] * 4 + ["test"] * 3))
    assert result.test.tolist() == [4, 5]
    assert [leak.kind for leak in result.leaks] == ["test_only_class"]


def test_a_class_of_one_group_is_reported():
    result = split(manifest([0, 0, 0, 1, 1], groups=["a", "a", "a", "", ""]))
    assert [(leak.kind, leak.label) for leak in result.leaks] == [("one_group_class", "class_0")]
    assert not result.leaks[0].excluded


@pytest.mark.parametrize("share", [-0.1, 1.0, 2, "fifth"])
def test_impossible_shares_are_refused(share):
    with pytest.raises(UsageError, match="test must be"):
        split(manifest([0, 1, 0, 1]), test=share)


def test_one_class_cannot_be_split():
    with pytest.raises(DataError, match="two classes"):
        split(manifest([0, 0, 0]))


def test_data_that_are_all_test_cannot_be_learnt_from():
    with pytest.raises(DataError, match="learn from"):
        split(manifest([0, 1, 0, 1], splits=["test"] * 4))


def test_the_version_names_content_labels_splits_and_groups():
    data = manifest([0, 1, 0, 1])
    changed = [
        replace(data, labels=np.array([1, 1, 0, 1])),
        replace(data, class_names=("class_0", "other")),
        replace(data, given_splits=np.array(["test", "", "", ""])),
        replace(data, groups=np.array(["", "", "", "g"])),
        replace(data, hashes=data.hashes ^ np.uint8(1)),
        data.select(np.array([0, 1, 2])),
    ]
    versions = {data_version(one) for one in [data, *changed]}
    assert len(versions) == 7
    assert all(len(version) == 12 for version in versions)
