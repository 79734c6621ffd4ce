"""Nearest neighbours against the whole similarity matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.audit.neighbours import nearest
from regraft.errors import DataError, UsageError


def reference(features, k, group_ids):
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    similar = unit @ unit.T
    similar[group_ids[:, None] == group_ids[None, :]] = -np.inf
    order = np.argsort(-similar, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similar, order, axis=1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 12), st.integers(1, 30), st.integers(1, 70))
def test_is_the_brute_force_search_whatever_the_blocks(seed, num, k, num_groups, chunk):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((num, 5)).astype(np.float32)
    groups = rng.integers(0, num_groups, num)
    indices, similarity = nearest(features, k, group_ids=groups, chunk=chunk)
    _, wanted = reference(features.astype(np.float64), k, groups)
    assert indices.shape == similarity.shape == (num, k)
    assert (indices.dtype, similarity.dtype) == (np.int64, np.float32)
    for row in range(num):
        others = int((groups != groups[row]).sum())
        found = indices[row][indices[row] >= 0]
        assert len(found) == len(set(found.tolist())) == min(k, others)
        assert (groups[found] != groups[row]).all()
        np.testing.assert_allclose(similarity[row, : len(found)], wanted[row, : len(found)], atol=1e-6)
        assert (similarity[row, len(found) :] == -1).all()


def test_without_groups_only_the_image_itself_is_left_out():
    features = np.repeat(np.eye(3, 8, dtype=np.float16), 2, axis=0)
    indices, similarity = nearest(features, 1)
    assert indices[:, 0].tolist() == [1, 0, 3, 2, 5, 4]
    assert similarity[:, 0].tolist() == [1.0] * 6


def test_images_of_equal_similarity_come_in_their_own_order():
    features = np.ones((9, 4), np.float32)
    indices, _ = nearest(features, 3, chunk=2)
    assert indices[0].tolist() == [1, 2, 3]
    assert indices[8].tolist() == [0, 1, 2]


def test_a_row_of_zeros_is_similar_to_nothing():
    features = np.vstack([np.zeros(4), np.eye(4)]).astype(np.float32)
    _, similarity = nearest(features, 2)
    assert similarity[0].tolist() == [0.0, 0.0]


def test_centred_is_the_search_among_differences_from_the_mean():
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((50, 6)) + 9).astype(np.float16)
    indices, _ = nearest(features, 4, centre=True, chunk=7)
    wanted, _ = reference(features - features.mean(axis=0, dtype=np.float64), 4, np.arange(50))
    assert indices.tolist() == wanted.tolist()


def test_wrong_arguments_are_named():
    features = np.ones((3, 2), np.float32)
    with pytest.raises(UsageError, match="k=0"):
        nearest(features, 0)
    with pytest.raises(DataError, match="2 for 3"):
        nearest(features, 1, group_ids=np.zeros(2, np.int64))
