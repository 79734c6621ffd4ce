import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regraft.audit.imbalance import describe_imbalance, effective_number


def test_counts_by_class_split_and_group():
    labels = np.array([0] * 12 + [1] * 30 + [2] * 3 + [-1])
    groups = np.concatenate([np.arange(12), 100 + np.arange(30) // 10, np.arange(200, 203), [300]])
    splits = np.array(["development"] * 20 + ["test"] * 26)
    found = describe_imbalance(labels, ["a", "b", "c", "none"], group_ids=groups, splits=splits)
    by_name = {one.name: one for one in found.classes}
    assert [one.name for one in found.classes] == ["b", "a", "c", "none"]
    assert (by_name["b"].num_images, by_name["b"].num_groups) == (30, 3)
    assert by_name["b"].by_split == {"development": 8, "test": 22}
    assert found.ratio == 10
    assert found.group_ratio == 4
    assert found.too_small == ("b", "c", "none")
    assert found.largest_share == 30 / 45
    said = " ".join(found.sentences())
    assert "b (3)" in said
    assert "do not belong together" in said
    json.dumps(found.as_dict())


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.floats(0.0, 0.999))
def test_effective_number_is_the_sum_of_a_geometric_series(counts, beta):
    slow = [sum(beta**i for i in range(n)) for n in counts]
    np.testing.assert_allclose(effective_number(np.array(counts), beta), slow, rtol=1e-6, atol=1e-9)


def test_effective_number_of_distinct_draws():
    """Cui et al. 2019: the expected number of distinct prototypes of N that n draws see, N = 1 / (1 - beta)."""
    rng = np.random.default_rng(0)
    seen = [len(set(rng.integers(20, size=30).tolist())) for _ in range(4000)]
    assert effective_number(np.array([30]), 0.95)[0] == pytest.approx(np.mean(seen), abs=0.1)


def test_balanced_classes_and_no_images():
    even = describe_imbalance(np.arange(40) % 4, list("abcd"))
    assert even.ratio == 1
    assert even.effective_classes == pytest.approx(4)
    assert even.too_small == ()
    assert describe_imbalance(np.empty(0, np.int64), ["a"]).ratio == 1
