"""The loader: order, resume in the middle of an epoch, files that cannot be read, shares of several processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from regraft.errors import DataError
from regraft.fit.batches import Batches
from regraft.fit.loader import ImageBatches
from regraft.fit.sampling import EpochBatches

LABELS = np.arange(23) % 3


def pixels(epoch: int, item: int) -> np.ndarray:
    """A view that tells which epoch and item it is."""
    return np.array([epoch, item], np.uint8)


def loader(**options):
    return ImageBatches(pixels, LABELS, EpochBatches(LABELS, batch_size=5, seed=3), **options)


def test_each_item_once_an_epoch_with_its_label_and_view():
    for epoch in (0, 4):
        batches = list(Batches(loader(), seed=0).epoch(epoch))
        items = torch.cat([batch.indices for batch in batches])
        assert sorted(items.tolist()) == list(range(23))
        assert all(batch.inputs[:, 0].eq(epoch).all() for batch in batches)
        assert all(torch.equal(batch.inputs[:, 1].long(), batch.indices) for batch in batches)
        assert all(np.array_equal(batch.targets.numpy(), LABELS[batch.indices.numpy()]) for batch in batches)


def test_an_epoch_is_entered_in_its_middle_without_loading_what_is_done():
    seen: list[int] = []

    def counted(epoch: int, item: int) -> np.ndarray:
        seen.append(item)
        return pixels(epoch, item)

    whole = [batch.indices.tolist() for batch in Batches(loader(), seed=0).epoch(1)]
    made = ImageBatches(counted, LABELS, EpochBatches(LABELS, batch_size=5, seed=3))
    rest = [batch.indices.tolist() for batch in Batches(made, seed=0).epoch(1, start=3)]
    assert rest == whole[3:]
    assert sorted(seen) == sorted(item for items in rest for item in items)


def test_processes_share_a_batch_and_load_only_their_own():
    whole = [batch.indices.tolist() for batch in Batches(loader(), seed=0).epoch(0)]
    shares = [[b.indices.tolist() for b in Batches(loader(), seed=0, rank=r, world=2).epoch(0)] for r in (0, 1)]
    assert [items[0::2] for items in whole] == shares[0]
    assert [items[1::2] for items in whole] == shares[1]


def test_an_unreadable_image_leaves_its_batch_and_is_told_once():
    told = []

    def load(epoch: int, item: int) -> np.ndarray:
        if item == 7:
            raise OSError("gone")
        return pixels(epoch, item)

    made = ImageBatches(load, LABELS, batch_size=5, on_failure=lambda item, why: told.append((item, why)))
    for epoch in (0, 1):
        items = [item for batch in Batches(made, seed=0).epoch(epoch) for item in batch.indices.tolist()]
        assert items == [i for i in range(23) if i != 7]
    assert told == [(7, "gone")]


def test_a_batch_without_any_readable_image_is_an_error():
    def load(epoch: int, item: int) -> np.ndarray:
        raise OSError("the disk is gone")

    with pytest.raises(DataError, match=r"all 5 of one cannot .the disk is gone."):
        list(ImageBatches(load, LABELS, batch_size=5))


def test_weights_come_with_their_items_and_kept_inputs_are_made_once():
    calls = []

    def load(epoch: int, item: int) -> np.ndarray:
        calls.append(item)
        return pixels(0, item)

    weights = np.linspace(0.5, 2, 23)
    made = ImageBatches(load, LABELS, batch_size=4, sample_weight=weights, keep=True)
    for epoch in range(3):
        for batch in Batches(made, seed=0).epoch(epoch):
            np.testing.assert_allclose(batch.sample_weight.numpy(), weights[batch.indices.numpy()], rtol=1e-6)
    assert sorted(calls) == list(range(23))
