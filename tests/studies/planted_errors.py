"""Drawn features of three classes with planted label errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from regraft.types import Manifest, Verdict

K = 3


def key(row: int) -> str:
    return f"{row:08x}" * 8


@dataclasses.dataclass(frozen=True)
class Planted:
    features: np.ndarray
    truth: np.ndarray
    manifest: Manifest

    @property
    def wrong(self) -> list[int]:
        return np.flatnonzero(self.manifest.labels != self.truth).tolist()

    def right(self, rows: list[int]) -> dict[tuple[str, str], Verdict]:
        return {(key(row), ""): Verdict(item=key(row), action="relabel", label="abc"[self.truth[row]]) for row in rows}


def planted(n: int = 240, *, share: float = 0.3, seed: int = 0, given_test: int = 0) -> Planted:
    """Classes a, b, c; of each, `share` of the labels say the next class: a one-sided error, which a head learns."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % K
    features = (rng.normal(size=(n, 8)) + 1.6 * np.eye(K, 8)[truth]).astype(np.float32)
    labels = np.where((rng.random(n) < share) & (truth < 2), (truth + 1) % K, truth)
    hashes = np.frombuffer(b"".join(bytes.fromhex(key(row)) for row in range(n)), np.uint8).reshape(n, 32)
    splits = np.array(["train"] * (n - given_test) + ["test"] * given_test, dtype=np.str_)
    manifest = Manifest(
        root=Path("/nowhere"), images=np.array([f"{row:04d}.png" for row in range(n)], dtype=np.str_),
        labels=labels.astype(np.int64), class_names=("a", "b", "c"), hashes=hashes, given_splits=splits,
        groups=np.full(n, "", dtype=np.str_), sizes=np.full((n, 2), 32, np.int32), source="a test",
    )  # fmt: skip
    return Planted(features, truth, manifest)
