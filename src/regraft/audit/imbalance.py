"""How uneven the classes are: counts, ratio, effective number, and the classes that are too small to judge.

Everything is counted in images and in groups: forty pictures of one person are one observation of a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.types import JSON, printable

JUDGED = 10
"""A class of fewer independent images is too small to judge: even if all ten are right, the 95 % interval of its
recall (Wilson) begins at 0.72."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSize:
    """One class.

    Attributes:
        name: the class.
        num_images: its images.
        num_groups: independent ones: images that belong together count once.
        effective_number: (1 - β^n) / (1 - β) of its groups (Cui et al. 2019, eq. 2).
        by_split: split to images.
        judged: whether there are enough independent images to judge it.
    """

    name: str
    num_images: int
    num_groups: int
    effective_number: float
    by_split: dict[str, int]
    judged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Imbalance:
    """How uneven the classes are.

    Attributes:
        classes: largest first.
        ratio: images of the largest class to those of the smallest that has any.
        group_ratio: the same in groups.
        beta: of the effective number, (N - 1) / N for N groups.
        effective_classes: exp of the entropy of the shares: that many classes of one size would be as uneven.
        largest_share: what always answering the largest class gets right.
    """

    classes: tuple[ClassSize, ...]
    ratio: float
    group_ratio: float
    beta: float
    effective_classes: float
    largest_share: float

    @property
    def too_small(self) -> tuple[str, ...]:
        """Names of the classes that are too small to judge."""
        return tuple(one.name for one in self.classes if not one.judged)

    def as_dict(self) -> JSON:
        """For JSON."""
        return {
            "ratio": self.ratio, "group_ratio": self.group_ratio, "effective_classes": self.effective_classes,
            "largest_share": self.largest_share, "beta": self.beta, "too_small_to_judge": list(self.too_small),
            "classes": [
                {
                    "class": one.name, "num_images": one.num_images, "num_groups": one.num_groups,
                    "effective_number": one.effective_number, "by_split": one.by_split, "judged": one.judged,
                }
                for one in self.classes
            ],
        }  # fmt: skip

    def sentences(self) -> list[str]:
        """What people should read."""
        present = [one for one in self.classes if one.num_images]
        largest, smallest = present[0], present[-1]
        said = [
            f"largest to smallest {self.ratio:,.1f} ({largest.name} {largest.num_images:,}, {smallest.name} "
            f"{smallest.num_images:,}); as uneven as {self.effective_classes:.1f} classes of one size; always "
            f"{largest.name} would be right in {self.largest_share:.1%}"
        ]
        if self.group_ratio > 1.2 * self.ratio or self.ratio > 1.2 * self.group_ratio:
            said.append(f"counted in images that do not belong together the ratio is {self.group_ratio:,.1f}")
        small = [one for one in self.classes if not one.judged]
        if small:
            named = ", ".join(f"{one.name} ({one.num_groups})" for one in small[:10])
            more = f" and {len(small) - 10} more" if len(small) > 10 else ""
            said.append(f"too small to judge, with fewer than {JUDGED} independent images: {named}{more}")
        return said


def describe_imbalance(
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    *,
    group_ids: NDArray[np.int64] | None = None,
    splits: NDArray[np.str_] | None = None,
) -> Imbalance:
    """Count.

    Args:
        labels: int64 (N,), 0..K-1; -1 is left out.
        class_names: K names.
        group_ids: int64 (N,), images that belong together share a number; by default each is its own.
        splits: (N,) names of splits, or None.
    """
    known = labels >= 0
    classes = labels[known]
    num_classes = len(class_names)
    groups = np.arange(len(classes)) if group_ids is None else np.asarray(group_ids)[known]
    pairs = np.unique(np.stack([classes, groups]), axis=1)
    counts = np.bincount(classes, minlength=num_classes)
    num_groups = np.bincount(pairs[0], minlength=num_classes)
    total = max(len(np.unique(groups)), 1)
    beta = (total - 1) / total
    effective = effective_number(num_groups, beta)
    names = np.array([], str) if splits is None else np.asarray(splits)[known]
    by_split = {str(name): np.bincount(classes[names == name], minlength=num_classes) for name in np.unique(names)}
    rows = [
        ClassSize(
            name=printable(str(class_names[k])), num_images=int(counts[k]), num_groups=int(num_groups[k]),
            effective_number=float(effective[k]), by_split={name: int(of[k]) for name, of in by_split.items()},
            judged=bool(num_groups[k] >= JUDGED),
        )
        for k in np.argsort(-counts, kind="stable").tolist()
    ]  # fmt: skip
    shares = counts[counts > 0] / max(int(counts.sum()), 1)
    return Imbalance(
        classes=tuple(rows), ratio=_ratio(counts), group_ratio=_ratio(num_groups), beta=beta,
        effective_classes=float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0,
        largest_share=float(shares.max()) if len(shares) else 0.0,
    )  # fmt: skip


def effective_number(counts: NDArray[np.integer], beta: float) -> NDArray[np.float64]:
    """(1 - β^n) / (1 - β): how many distinct images n draws amount to where a class has 1 / (1 - β) of them in all.

    Args:
        counts: (K,).
        beta: in [0, 1).
    """
    return np.asarray((1 - np.power(beta, counts.astype(np.float64))) / (1 - beta))


def _ratio(counts: NDArray[np.integer]) -> float:
    seen = counts[counts > 0]
    return float(seen.max() / seen.min()) if len(seen) else 1.0
