"""The images under review, in arrays: what is known of each, in which order they are shown, and where they lie.

Plain columns over N images, so that 100,000 of them are 30 MB and not 100,000 objects. A desk never changes; what
people decide is history.py's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.board.review.texts import Texts
from regraft.types import printable

_HASH = re.compile("[0-9a-f]{64}")
SPLITS = ("", "train", "val", "test")
TEST = SPLITS.index("test")


@dataclass(frozen=True, kw_only=True, eq=False)
class Desk:
    """What is under review: N images, K classes, P pairs of near-duplicates.

    Attributes:
        project: name of the data, as of run folders.
        version: of the data: `data_version` of the manifest.
        root: folder that the paths are relative to.
        hashes: uint8 (N, 32); an image is known by it.
        paths: N paths, as in `Manifest.images`.
        class_names: K names, as in the manifest; `names` are for showing and for decisions.
        given: int32 (N,), the given class.
        suggested: int32 (N,), -1 where there is no better class.
        issues: check to bool (N,), True where a person should look.
        scores: check to float32 (N,): 1 is clean, 0 is worst; of `label`, the probability that the label is right.
        reasons: check to N sentences, for the checks other than `label`, whose sentence is made of its numbers.
        top_labels: int32 (N, 5) or fewer columns, the most probable classes out of fold, -1 where they are not known.
        top_probs: float32, of the same shape.
        neighbours: int32 (N, M), rows of the most similar images, -1 where there are no more.
        similarity: float32 (N, M).
        prototypes: int32 (K, 4), rows of images that are typical of each class, -1 where there are no more.
        splits: int8 (N,), number in `SPLITS`.
        groups: int32 (N,), number in `group_names`; the first is "".
        group_names: names of the given groups.
        sizes: int32 (N, 2), height and width.
        order: int64 (Q,), rows in the order of looking: suspects, with controls among them.
        controls: bool (N,), True where an image was put into the order by chance.
        pairs: int64 (P, 2), near-duplicates.
        pair_similarity: float32 (P,).
        pair_reasons: P sentences.
        backbone: whose features it rests on.
    """

    project: str
    version: str
    root: Path
    hashes: NDArray[np.uint8]
    paths: Texts
    class_names: tuple[str, ...]
    given: NDArray[np.int32]
    suggested: NDArray[np.int32]
    issues: Mapping[str, NDArray[np.bool_]]
    scores: Mapping[str, NDArray[np.float32]]
    reasons: Mapping[str, Texts]
    top_labels: NDArray[np.int32]
    top_probs: NDArray[np.float32]
    neighbours: NDArray[np.int32]
    similarity: NDArray[np.float32]
    prototypes: NDArray[np.int32]
    splits: NDArray[np.int8]
    groups: NDArray[np.int32]
    group_names: Texts
    sizes: NDArray[np.int32]
    order: NDArray[np.int64]
    controls: NDArray[np.bool_]
    pairs: NDArray[np.int64]
    pair_similarity: NDArray[np.float32]
    pair_reasons: Texts
    backbone: str = "tf_efficientnet_lite0"
    _numbers: dict[str, int] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._numbers.update({name: number for number, name in enumerate(self.names)})

    def __len__(self) -> int:
        return len(self.hashes)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """K class names as they are shown, and as decisions hold them."""
        return tuple(printable(name) for name in self.class_names)

    @cached_property
    def queued(self) -> NDArray[np.bool_]:
        """bool (N,): in the order of looking, controls included."""
        found = np.zeros(len(self), np.bool_)
        found[self.order] = True
        return found

    @cached_property
    def positions(self) -> NDArray[np.int64]:
        """int64 (N,): place of each image, those of the order first, then all others as the manifest has them."""
        found = np.empty(len(self), np.int64)
        found[self.by_position] = np.arange(len(self))
        return found

    @cached_property
    def by_position(self) -> NDArray[np.int64]:
        """int64 (N,): the rows in the order of their positions."""
        return np.concatenate([self.order, np.flatnonzero(~self.queued)]).astype(np.int64)

    @cached_property
    def guesses(self) -> NDArray[np.int32]:
        """int32 (N,): the class that is shown as the suggestion.

        A control has the most probable other class, as a suspect has: its card must not differ.
        """
        found = self.suggested.copy()
        if self.top_labels.shape[1]:
            other = np.where(self.top_labels[:, 0] != self.given, self.top_labels[:, 0], self._second)
            rows = self.controls & (found < 0)
            found[rows] = other[rows]
        return found

    @property
    def _second(self) -> NDArray[np.int32]:
        return self.top_labels[:, min(1, self.top_labels.shape[1] - 1)]

    def label_number(self, name: str) -> int | None:
        """The number of a class by the name that is shown, or None."""
        return self._numbers.get(name)

    def hash_of(self, row: int) -> str:
        """64 hex digits."""
        return bytes(self.hashes[row]).hex()

    def row_of(self, hash: str) -> int | None:
        """The row of an image, or None where it is not among these."""
        if not _HASH.fullmatch(hash):
            return None
        key = np.frombuffer(bytes.fromhex(hash), np.uint8)
        keys, rows = self._index
        wanted = int.from_bytes(key[:8].tobytes(), "big")
        at = int(np.searchsorted(keys, np.uint64(wanted)))
        while at < len(keys) and int(keys[at]) == wanted:
            if np.array_equal(self.hashes[rows[at]], key):
                return int(rows[at])
            at += 1
        return None

    def rows_of(self, hashes: Sequence[str]) -> dict[str, int | None]:
        """`row_of` of many at once: alone, one takes 10 µs, and a history can hold 100,000."""
        keys, rows = self._index
        known = [name for name in hashes if _HASH.fullmatch(name)] if len(rows) else []
        wanted = np.frombuffer(bytes.fromhex("".join(known)), np.uint8).reshape(-1, 32)
        at = np.searchsorted(keys, np.ascontiguousarray(wanted[:, :8]).view(">u8").reshape(-1).astype(np.uint64))
        at = np.minimum(at, len(rows) - 1)
        equal = (self.hashes[rows[at]] == wanted).all(axis=1)
        found: dict[str, int | None] = dict(zip(known, rows[at].tolist(), strict=True))
        return found | {known[n]: self.row_of(known[n]) for n in np.flatnonzero(~equal).tolist()}

    @cached_property
    def _index(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """The first eight bytes of every hash, sorted, and their rows: 1.6 MB of 100,000, where a dict takes 15."""
        keys = np.ascontiguousarray(self.hashes[:, :8]).view(">u8").reshape(-1).astype(np.uint64)
        rows = np.argsort(keys, kind="stable")
        return keys[rows], rows.astype(np.int64)

    def path_of(self, hash: str) -> Path | None:
        """Where an image lies, or None where it is not among these."""
        row = self.row_of(hash)
        return None if row is None else self.root / self.paths[row]

    def path(self, row: int) -> str:
        """An image's path as it can be shown."""
        return printable(self.paths[row])

    def kinds(self, row: int) -> list[str]:
        """Why an image is looked at. A control says `label`, as most do."""
        found = [kind for kind, column in self.issues.items() if column[row]]
        return found or (["label"] if self.controls[row] else [])

    def reason(self, row: int, kind: str) -> str:
        """Why, in one sentence."""
        if kind != "label":
            return self.reasons[kind][row] if kind in self.reasons else ""
        given, guess = self.names[self.given[row]], int(self.guesses[row])
        likely = f"labelled {given!r}"
        if guess >= 0:
            likely += f"; the most probable other class is {self.names[guess]!r}"
        if "label" in self.scores:
            likely += f"; the label is right with probability {float(self.scores['label'][row]):.2f}"
        return likely

    def shown_scores(self, row: int) -> dict[str, float]:
        """Check to score, of the checks for which it is looked at."""
        return {
            kind: round(float(self.scores[kind][row]), 6) for kind in self.kinds(row) if kind in self.scores
        }  # fmt: skip
