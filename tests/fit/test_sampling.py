"""Samplers: shares per class, exact resume, disjoint shares over processes; properties by Hypothesis."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from regraft.errors import DataError, RegraftError, UsageError
from regraft.fit.sampling import EpochBatches, Sampling, class_shares, epoch_order

WORDS = get_args(Sampling)
label_lists = st.lists(st.integers(0, 5), min_size=1, max_size=80).map(lambda v: np.array(v, np.int64))
words = st.sampled_from(WORDS)


@settings(max_examples=100, deadline=None)
@given(label_lists, words, st.integers(0, 2**32 - 1), st.integers(0, 9), st.data())
def test_an_epoch(labels: NDArray[np.int64], sampling: Any, seed: int, epoch: int, data: st.DataObject) -> None:
    weight = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=len(labels), max_size=len(labels))))
    if not weight.any():
        weight[0] = 1.0
    settings_ = {"seed": seed, "sampling": sampling, "num_epochs": 10, "sample_weight": weight}
    order = epoch_order(labels, epoch=epoch, **settings_)
    np.testing.assert_array_equal(order, epoch_order(labels, epoch=epoch, **settings_))
    kept = np.flatnonzero(weight > 0)
    assert len(order) == len(kept)
    assert (weight[order] > 0).all()
    counts = np.bincount(labels[kept], minlength=6)
    drawn = np.bincount(labels[order], minlength=6)
    shares = class_shares(counts, sampling, progress=epoch / 9)
    assert (np.abs(drawn - shares * len(kept)) < 1 + 1e-9).all()
    times = np.bincount(order, minlength=len(labels))
    for k in np.flatnonzero(counts):
        mine = times[kept[labels[kept] == k]]
        assert mine.max() - mine.min() <= 1
    if sampling == "uniform":
        assert sorted(order.tolist()) == kept.tolist()


@settings(max_examples=60, deadline=None)
@given(label_lists, words, st.integers(1, 20), st.integers(1, 4), st.integers(0, 3), st.data())
def test_processes_share_the_batches_of_one(
    labels: NDArray[np.int64], sampling: Any, batch_size: int, world_size: int, epoch: int, data: st.DataObject
) -> None:
    settings_: dict[str, Any] = {"batch_size": batch_size, "seed": 3, "sampling": sampling, "num_epochs": 4}
    one = EpochBatches(labels, **settings_)
    one.set_epoch(epoch)
    whole = list(one)
    assert len(whole) == len(one) == -(-len(labels) // batch_size)
    sizes = [len(batch) for batch in whole]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    try:
        ranks = [EpochBatches(labels, **settings_, rank=r, world_size=world_size) for r in range(world_size)]
    except RegraftError:
        assert min(sizes) < world_size
        return
    start = data.draw(st.integers(0, len(whole)))
    for rank in ranks:
        rank.set_epoch(epoch, start)
        assert len(rank) == len(whole) - start
    parts = [list(rank) for rank in ranks]
    for number, batch in enumerate(whole[start:]):
        shares = [part[number] for part in parts]
        assert all(shares)
        assert sorted(item for share in shares for item in share) == sorted(batch)


def test_a_resume_in_the_middle_goes_on_where_it_stopped() -> None:
    labels = np.arange(50, dtype=np.int64) % 3
    batches = EpochBatches(labels, batch_size=8, seed=5)
    batches.set_epoch(2)
    all_of_them = list(batches)
    again = EpochBatches(labels, batch_size=8, seed=5)
    again.set_epoch(2, start=4)
    assert list(again) == all_of_them[4:]
    assert list(again) == all_of_them[4:]  # iterating changes nothing


def test_epochs_and_seeds_differ() -> None:
    labels = np.zeros(40, np.int64)
    orders = {tuple(epoch_order(labels, seed=s, epoch=e).tolist()) for s in range(3) for e in range(3)}
    assert len(orders) == 9


def test_shares_by_hand() -> None:
    counts = [90, 10, 0]
    np.testing.assert_allclose(class_shares(counts, "uniform"), [0.9, 0.1, 0])
    np.testing.assert_allclose(class_shares(counts, "balanced"), [0.5, 0.5, 0])
    np.testing.assert_allclose(class_shares([90, 10], "sqrt"), [0.75, 0.25])
    np.testing.assert_allclose(class_shares(counts, "progressive", progress=0.25), [0.8, 0.2, 0])


def test_progressive_ends_balanced() -> None:
    labels = np.repeat([0, 1], [90, 10]).astype(np.int64)
    rare = [
        int(labels[epoch_order(labels, seed=0, epoch=e, sampling="progressive", num_epochs=5)].sum()) for e in range(5)
    ]
    assert rare == [10, 20, 30, 40, 50]


def test_every_item_gets_its_turn_of_the_extra_draws() -> None:
    labels = np.repeat([0, 1], [30, 20]).astype(np.int64)  # balanced: class 1 draws 25 of its 20
    times = sum(
        np.bincount(epoch_order(labels, seed=0, epoch=e, sampling="balanced"), minlength=50) for e in range(200)
    )
    mean = np.asarray(times) / 200
    assert np.abs(mean[:30] - 25 / 30).max() < 0.15  # 5 standard errors
    assert np.abs(mean[30:] - 25 / 20).max() < 0.17


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"sampling": "balance"}, UsageError, "did you mean 'balanced'"),
        ({"sampling": "progressive"}, UsageError, "num_epochs"),
        ({"batch_size": 0}, UsageError, "batch_size"),
        ({"batch_size": 2, "world_size": 3}, UsageError, "batch_size"),
        ({"rank": 1}, UsageError, "rank"),
        ({"world_size": 7}, DataError, "fewer processes"),
        ({"sample_weight": np.zeros(6)}, DataError, "0 of 6"),
        ({"sample_weight": np.ones(5)}, UsageError, "sample_weight"),
        ({"sample_weight": np.full(6, np.nan)}, UsageError, "sample_weight"),
        ({"labels": np.empty(0, np.int64)}, DataError, "0 of 0"),
    ],
)
def test_wrong_arguments(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"labels": np.zeros(6, np.int64), "batch_size": 8, **changes}
    with pytest.raises(kind, match=message):
        EpochBatches(**arguments)


def test_a_start_beyond_the_epoch_is_refused() -> None:
    with pytest.raises(UsageError, match=r"start is in 0\.\.2"):
        EpochBatches(np.zeros(10, np.int64), batch_size=5).set_epoch(0, 3)
