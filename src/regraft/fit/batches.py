"""The batches of any loader: in an order that (seed, epoch) settles, from any position, shared among processes.

A resume is exact only where the order of the images, and the random numbers of their augmentation, do not depend on
what happened before. So the order of an epoch is drawn at once from (seed, epoch), and each batch is loaded under
random numbers of its own, in whichever worker that happens; batches that are already done are never read again.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from regraft.errors import UsageError
from regraft.fit.loader import ImageBatches

INPUTS = ("inputs", "images", "image", "pixel_values", "x")
TARGETS = ("targets", "labels", "label", "target", "y")
"""Names under which batches that are dicts are known to hold images and labels."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch as the loop sees it.

    Attributes:
        inputs: what the model is called with: a tensor (N, ...), or a list, tuple or dict of them.
        targets: (N,) labels or whatever the loss takes.
        sample_weight: float32 (N,), or None.
        indices: int (N,), the number of each item in the training set, or None.
        is_copy: it counts for nothing: this process got nothing of the batch, but all must take part in a step.
    """

    inputs: Any
    targets: Any
    sample_weight: Tensor | None = None
    indices: Tensor | None = None
    is_copy: bool = False

    @classmethod
    def of(cls, values: Any) -> Batch:
        """From `(inputs, targets)`, `(inputs, targets, indices and/or weights)` or a dict with such names.

        Of what follows the targets, floating tensors are weights and whole numbers are indices.

        Raises:
            UsageError: anything else.
        """
        if isinstance(values, Batch):
            return values
        if isinstance(values, dict):
            inputs = next((values[name] for name in INPUTS if name in values), None)
            targets = next((values[name] for name in TARGETS if name in values), None)
            if inputs is None or targets is None:
                raise UsageError(f"a batch that is a dict has 'images' and 'labels', not {sorted(map(str, values))}")
            weight = values.get("sample_weight")
            return cls(inputs, targets, None if weight is None else weight.float(), values.get("indices"))
        if not isinstance(values, list | tuple) or len(values) < 2:
            raise UsageError(f"a batch is (inputs, targets, ...) or a dict, not {type(values).__name__}")
        weight = indices = None
        for extra in values[2:]:
            if isinstance(extra, Tensor):
                if extra.is_floating_point():
                    weight = extra.float()  # float64, where the dataset gave Python's numbers
                else:
                    indices = extra
        return cls(values[0], values[1], weight, indices)

    def __len__(self) -> int:
        return len(next(leaves(self.targets)))

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with every tensor changed."""
        inputs, targets, weight, indices = (
            each_tensor(value, change) for value in (self.inputs, self.targets, self.sample_weight, self.indices)
        )
        return Batch(inputs, targets, weight, indices, self.is_copy)

    def parts(self, num_parts: int) -> list[Batch]:
        """Cut into at most `num_parts` pieces of equal size (the last may be smaller)."""
        size = -(-len(self) // num_parts)
        if num_parts == 1 or size == len(self):
            return [self]
        cuts = (slice(begin, begin + size) for begin in range(0, len(self), size))
        return [self.map(lambda tensor, cut=cut: tensor[cut]) for cut in cuts]  # type: ignore[misc]


def each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Apply `change` to every tensor within lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: each_tensor(item, change) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(each_tensor(item, change) for item in value)
    return value


def leaves(value: Any) -> Iterator[Any]:
    """Every tensor (or other sized thing) within lists, tuples and dicts."""
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield value


class Batches:
    """A loader whose epochs can be entered at any batch.

    `ImageBatches` is entered where it is asked to, and a process loads its share alone. A plain `DataLoader` over a
    map-style dataset is rebuilt around its own batch sampler. What is iterated otherwise
    (iterable datasets, other loaders, lists of batches) is read from the start and what is done is thrown away.
    Samplers, datasets and loaders that have `set_epoch(epoch)` are told the epoch.

    With several processes, the batch of the loader is the batch of all of them together: process r of w takes items
    r, r + w, …, unless the sampler says that it has divided them already (`world_size` or `num_replicas`).

    Args:
        loader: of batches that `Batch.of` understands.
        seed: of the order and of the random numbers in the dataset.
        rank: number of this process.
        world: number of processes.
        training: give a process that gets nothing of a batch a copy of its first item.
    """

    def __init__(
        self, loader: Iterable[Any], *, seed: int, rank: int = 0, world: int = 1, training: bool = True
    ) -> None:
        self.loader, self.seed, self.rank, self.world, self.training = loader, seed, rank, world, training
        self._numbered: list[tuple[int, list[Any]]] = []
        self._inner: DataLoader[Any] | None = None
        samplers = [getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)]
        self._told: list[Any] = [
            t for t in (*samplers, getattr(loader, "dataset", None), loader) if hasattr(t, "set_epoch")
        ]
        self._divided = any(
            getattr(s, "world_size", None) == world or getattr(s, "num_replicas", None) == world for s in samplers
        )
        nested = [getattr(samplers[0], "sampler", None), loader]
        found = [g for s in (*samplers, *nested) if isinstance(g := getattr(s, "generator", None), torch.Generator)]
        self._generators = [(g, g.initial_seed()) for g in {id(g): g for g in found}.values()]
        plain = type(loader) is DataLoader and loader.batch_sampler is not None
        if plain and not isinstance(loader.dataset, IterableDataset):  # type: ignore[attr-defined]
            self._inner = self._rebuilt(loader)  # type: ignore[arg-type]

    def __len__(self) -> int:
        """Batches of a whole epoch.

        Raises:
            TypeError: the loader does not know.
        """
        return len(self.loader)  # type: ignore[arg-type]

    def epoch(self, epoch: int, start: int = 0, ready: Callable[[], None] = lambda: None) -> Iterator[Batch]:
        """The batches of an epoch, without the first `start`.

        Args:
            epoch: from 0.
            start: how many batches are done already.
            ready: called before the first batch is loaded, when the random numbers of this process can be set. Not
                for loaders that are iterated as they are and from their start: they may need them to be the same in
                all processes.
        """
        for told in self._told:
            told.set_epoch(epoch)
        for generator, initial in self._generators:
            generator.manual_seed(entropy(initial, epoch))
        if self._inner is not None:
            with seeded(entropy(self.seed, epoch)):
                order = list(self.loader.batch_sampler)  # type: ignore[attr-defined]
            seeds = np.random.SeedSequence([self.seed, epoch, self.rank]).generate_state(max(len(order), 1), np.uint64)
            shares = zip(seeds.tolist(), (self._share(list(items)) for items in order), strict=False)
            self._numbered[:] = [(seed, share) for seed, share in shares if share][start:]
            ready()
            copies = (
                [self._is_copy(len(items)) for items in order][start:] if self.training else itertools.repeat(False)
            )
            for values, is_copy in zip(self._inner, copies, strict=False):
                yield replace(Batch.of(values), is_copy=is_copy)
            return
        if isinstance(self.loader, ImageBatches):
            left = [items for items in self.loader.order(epoch)[start:] if self._share(items)]
            ready()
            loaded = self.loader.load(epoch, [self._share(items) for items in left])
            for items, values in zip(left, loaded, strict=True):
                is_copy = self._is_copy(len(items))
                yield replace(Batch.of(values), is_copy=is_copy)
            return
        with seeded(entropy(self.seed, epoch), keep=False):
            batches = iter(self.loader)
        if start:
            for _ in zip(range(start), batches, strict=False):
                pass
            ready()
        for values in batches:
            if len(batch := self._part(Batch.of(values))):
                yield batch

    def _share(self, items: list[Any]) -> list[Any]:
        if self.world == 1 or self._divided:
            return items
        return items[:1] if self._is_copy(len(items)) else items[self.rank :: self.world]

    def _is_copy(self, size: int) -> bool:
        return self.training and not self._divided and self.rank >= size

    def _part(self, batch: Batch) -> Batch:
        if self.world == 1 or self._divided:
            return batch
        is_copy = self._is_copy(len(batch))
        mine = slice(0, 1) if is_copy else slice(self.rank, None, self.world)
        return replace(batch.map(lambda tensor: tensor[mine]), is_copy=is_copy)

    def _rebuilt(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        return DataLoader(
            _Seeded(loader.dataset),
            batch_sampler=_SeedFirst(self._numbered),
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
            prefetch_factor=loader.prefetch_factor,
            persistent_workers=loader.persistent_workers,
            generator=torch.Generator(),  # else opening an epoch would draw from the model's random numbers
        )


class _SeedFirst:
    """A batch sampler that puts each batch's seed before its items."""

    def __init__(self, numbered: list[tuple[int, list[Any]]]) -> None:
        self.numbered = numbered

    def __len__(self) -> int:
        return len(self.numbered)

    def __iter__(self) -> Iterator[list[Any]]:
        for seed, items in self.numbered:
            yield [seed, *items]


class _Seeded(Dataset[Any]):
    """A dataset whose batches are loaded under their own random numbers."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, seed_and_items: list[Any]) -> list[Any]:
        seed, *items = seed_and_items
        with seeded(seed, keep=get_worker_info() is None):
            many = getattr(self.dataset, "__getitems__", None)
            return list(many(items)) if many is not None else [self.dataset[item] for item in items]

    def __getattr__(self, name: str) -> Any:  # what a worker_init_fn may look for
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)


def length_of(batches: Any) -> int | None:
    """How many batches, or None where nobody knows."""
    try:
        return len(batches)
    except TypeError:
        return None


def entropy(*numbers: int) -> int:
    """One seed of 64 bits from several whole numbers >= 0."""
    return int(np.random.SeedSequence([n & (2**64 - 1) for n in numbers]).generate_state(1, np.uint64)[0])


@contextlib.contextmanager
def seeded(seed: int, *, keep: bool = True) -> Iterator[None]:
    """Python's, NumPy's and torch's (CPU) random numbers from a seed; afterwards as they were, with `keep`."""
    states = (random.getstate(), np.random.get_state(), torch.get_rng_state()) if keep else None  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed & (2**32 - 1))  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        if states is not None:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            torch.set_rng_state(states[2])
