"""What is compared: a backbone, or a view of it. A candidate knows its passes, and so its honest cost.

    tf_efficientnet_lite0                    as it was trained
    tf_efficientnet_lite0@160                at another input size
    tf_efficientnet_lite0:stage3             the pooled output of a stage
    tf_efficientnet_lite0:all                all stages and the end side by side
    tf_efficientnet_lite0|flip               mean of the features of the image and of its mirror image
    A & B                                    features side by side
    mean(A, B)                               mean of their probabilities

Stages of one pass cost that pass once; combinations cost the passes they need, each once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regraft.studies.passes import Pass
from regraft.studies.shelf import imagenet_top1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """Columns of one pass, averaged with those of its mirror image where there is one."""

    base: Pass
    columns: tuple[int, int]
    mirror: Pass | None = None

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (self.base,) if self.mirror is None else (self.base, self.mirror)

    def values(self) -> NDArray[Any]:
        """float16 (n, width), or float32 where it is a mean."""
        low, high = self.columns
        own = self.base.values[:, low:high]
        if self.mirror is None:
            return own
        return (own.astype(np.float32) + self.mirror.values[:, low:high].astype(np.float32)) / 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """One row of the ranking.

    Attributes:
        name: as above.
        blocks: what its features are made of, side by side; empty for a mean of others.
        members: for a mean of probabilities, the candidates it averages.
        static_score: place in the fixed order by ImageNet accuracy (higher is better), None where it has none.
    """

    name: str
    blocks: tuple[Block, ...] = ()
    members: tuple[Candidate, ...] = ()
    static_score: tuple[float, float] | None = None

    @property
    def passes(self) -> tuple[Pass, ...]:
        """Each pass once."""
        blocks = [block for member in self.members for block in member.blocks] or list(self.blocks)
        return tuple({one.key: one for block in blocks for one in block.passes}.values())

    @property
    def images_per_second(self) -> float:
        """1 / Σ 1 / rate over its passes."""
        return 1 / sum(1 / one.images_per_second for one in self.passes)

    @property
    def num_parameters(self) -> int:
        """Of its backbones, each counted once."""
        return sum({one.backbone.weights_hash: one.backbone.num_parameters for one in self.passes}.values())

    @property
    def kind(self) -> Literal["alone", "stage", "flip", "concatenated", "averaged"]:
        if self.members:
            return "averaged"
        if len(self.blocks) > 1:
            return "concatenated"
        block = self.blocks[0]
        if block.mirror is not None:
            return "flip"
        return "alone" if block.columns == block.base.slices.get("final") else "stage"

    def features(self) -> NDArray[Any]:
        """(n, D); several blocks are each standardised and weigh alike, whatever their width."""
        if len(self.blocks) == 1:
            return self.blocks[0].values()
        return np.concatenate([_standardised(block.values()) for block in self.blocks], axis=1)


def views(base: Pass, mirror: Pass | None, *, own_size: int) -> list[Candidate]:
    """The candidates that one pass (and that of its mirror images) gives: the end, each stage, all of them."""
    plain = base.backbone.name.split("+")[0]
    size = base.transform.size
    name = plain if size == own_size else f"{plain}@{size}"
    top1 = imagenet_top1(plain)
    score = None if top1 is None else (top1, -abs(size - own_size) / own_size)
    final = base.slices["final"]
    found = [Candidate(name=name, blocks=(Block(base=base, columns=final),), static_score=score)]
    stages = {stage: columns for stage, columns in base.slices.items() if stage != "final"}
    found += [
        Candidate(name=f"{name}:{stage}", blocks=(Block(base=base, columns=columns),))
        for stage, columns in stages.items()
    ]
    if stages:
        found.append(
            Candidate(
                name=f"{name}:all",
                blocks=tuple(Block(base=base, columns=columns) for columns in base.slices.values()),
            )
        )
    if mirror is not None:
        found.append(Candidate(name=f"{name}|flip", blocks=(Block(base=base, columns=final, mirror=mirror),)))
    return found


def combined(members: Sequence[Candidate], most: int) -> list[Candidate]:
    """Pairs (and triples) of candidates, side by side and as the mean of their probabilities.

    Two views of the same columns are no combination and are passed over.
    """
    found = []
    for number in range(2, most + 1):
        for group in combinations(members, number):
            keys = [(block.base.key, block.columns) for member in group for block in member.blocks]
            if len(set(keys)) < len(keys):
                continue
            blocks = tuple(block for member in group for block in member.blocks)
            found.append(Candidate(name=" & ".join(member.name for member in group), blocks=blocks))
            found.append(Candidate(name=f"mean({', '.join(member.name for member in group)})", members=tuple(group)))
    return found


def _standardised(values: NDArray[Any]) -> NDArray[np.float32]:
    wide = values.astype(np.float32)
    wide -= wide.mean(axis=0)
    scale = wide.std(axis=0)
    wide /= np.where(scale > 1e-6, scale, 1) * np.sqrt(wide.shape[1])
    return np.asarray(wide, np.float32)
