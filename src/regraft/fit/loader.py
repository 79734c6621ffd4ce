"""Batches of images, loaded by threads while the model computes: the order of an epoch, entered at any batch.

Decoding lets go of Python's lock, so that threads do what worker processes do, without a copy of every image through a
pipe and without starting anew each epoch. A view depends on (seed, epoch, item) alone, never on which thread made it.
"""

from __future__ import annotations

import collections
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regraft.errors import DataError, ImageError
from regraft.fit.sampling import EpochBatches

Load = Callable[[int, int], NDArray[Any]]
"""(epoch, item) → one input: uint8 (S, S, 3) pixels, or float16 activations; all of one shape."""

KEEP_BYTES = 2**30
"""Inputs that are the same in every epoch are kept in memory up to here."""


class ImageBatches:
    """A loader for `Trainer`: batches `(inputs, labels, items[, weights])`.

    Args:
        load: makes one input; called on several threads. OSError and ImageError leave the item out of its batch.
        labels: int64 (N,).
        sampler: the order of each epoch; None is 0..N-1 in batches of `batch_size`.
        batch_size: where there is no sampler.
        sample_weight: (N,), or None.
        keep: remember what `load` made (it does not depend on the epoch), up to a gibibyte.
        num_threads: that load at once.
        on_failure: told each item that could not be loaded, and why, once.

    Attributes:
        waited: seconds that the loop waited for inputs.
        failed: items that could not be loaded.
    """

    def __init__(
        self,
        load: Load,
        labels: NDArray[np.int64],
        sampler: EpochBatches | None = None,
        *,
        batch_size: int = 32,
        sample_weight: NDArray[np.floating] | None = None,
        keep: bool = False,
        num_threads: int | None = None,
        on_failure: Callable[[int, str], None] | None = None,
    ) -> None:
        self._load, self._sampler, self._batch_size = load, sampler, batch_size
        self.labels = np.asarray(labels, np.int64)
        self._targets = torch.from_numpy(self.labels)
        self._weights = None if sample_weight is None else torch.as_tensor(np.asarray(sample_weight, np.float32))
        self._keep, self._kept, self._kept_bytes = keep, dict[int, NDArray[Any]](), 0
        self._num_threads = num_threads if num_threads is not None else max(1, len(os.sched_getaffinity(0)))
        self._on_failure, self._lock = on_failure, threading.Lock()
        self.waited = 0.0
        self.failed: dict[int, str] = {}

    def __len__(self) -> int:
        if self._sampler is not None:
            return self._sampler.num_batches
        return -(-len(self.labels) // self._batch_size)

    def __iter__(self) -> Iterator[list[Tensor]]:
        return self.load(0, self.order(0))

    def order(self, epoch: int) -> list[list[int]]:
        """The items of each batch of an epoch."""
        if self._sampler is not None:
            self._sampler.set_epoch(epoch)
            return list(self._sampler)
        items = list(range(len(self.labels)))
        return [items[start : start + self._batch_size] for start in range(0, len(items), self._batch_size)]

    def load(self, epoch: int, batches: Sequence[list[int]]) -> Iterator[list[Tensor]]:
        """Load these batches in their order, two ahead of the one that is asked for.

        Raises:
            DataError: not one image of a batch could be loaded.
        """
        left = iter(batches)
        waiting: collections.deque[tuple[list[int], list[Future[NDArray[Any] | None]]]] = collections.deque()
        pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="load")

        def ask(items: list[int]) -> None:
            waiting.append((items, [pool.submit(self._one, epoch, item) for item in items]))

        try:
            for items in itertools.islice(left, 3):
                ask(items)
            while waiting:
                items, asked = waiting.popleft()
                began = time.perf_counter()
                arrays = [future.result() for future in asked]
                self.waited += time.perf_counter() - began
                if (following := next(left, None)) is not None:
                    ask(following)
                yield self._batch(items, arrays)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _one(self, epoch: int, item: int) -> NDArray[Any] | None:
        if item in self._kept:
            return self._kept[item]
        if item in self.failed:
            return None
        try:
            value = self._load(epoch, item)
        except (OSError, ImageError) as error:
            with self._lock:
                is_new = item not in self.failed
                self.failed[item] = str(error)
            if is_new and self._on_failure is not None:
                self._on_failure(item, str(error))
            return None
        if self._keep and self._kept_bytes + value.nbytes <= KEEP_BYTES:
            with self._lock:
                self._kept[item] = value
                self._kept_bytes += value.nbytes
        return value

    def _batch(self, items: list[int], arrays: list[NDArray[Any] | None]) -> list[Tensor]:
        good = [(item, array) for item, array in zip(items, arrays, strict=True) if array is not None]
        if not good:
            why = self.failed.get(items[0], "")
            raise DataError(
                f"a batch needs an image that can still be read: all {len(items)} of one cannot ({why}); run it again "
                "when the files are at rest"
            )
        numbers = torch.tensor([item for item, _ in good])
        values = [torch.from_numpy(np.stack([array for _, array in good])), self._targets[numbers], numbers]
        return values if self._weights is None else [*values, self._weights[numbers]]
