"""What can be set for a ranking, in one place for the command line and Python."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regraft.errors import UsageError, nearest
from regraft.images import ResizePolicy
from regraft.studies.decide import Metric, Prefer


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    """Options of a ranking.

    Attributes:
        metric: What best means: accuracy, balanced_accuracy or macro_f1.
        stages: Pooled features of each stage enter as candidates too.
        sizes: Further input sizes in pixels, beside what each backbone was trained with.
        native: Whether that own size takes part.
        flips: The mean over image and mirror image enters too (a second pass).
        combine: Combinations of up to so many of the leaders enter: 1 for none, 2 or 3.
        prefer: Among those tied with the best and at most a point behind take the cheapest, or the best.
        shortlist: How many by the ridge get the solved head; one by neighbours and one by ImageNet accuracy join.
        resize: How an image becomes a square: squash, crop or pad.
        engine: What runs the backbones.
        precision: Their arithmetic.
        folds: Number of folds for the solved head.
        test: Share that is locked away and takes no part, as in fit.
        seed: Of the split and the folds.
        cache_dir: Folder for features; by default the user's cache folder.
    """

    metric: Metric = "accuracy"
    stages: bool = False
    sizes: tuple[int, ...] = ()
    native: bool = True
    flips: bool = False
    combine: int = 1
    prefer: Prefer = "cheapest"
    shortlist: int = 2
    resize: ResizePolicy = "squash"
    engine: str = "auto"
    precision: str = "auto"
    folds: int = 5
    test: float | str = "auto"
    seed: int = 0
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        rules = [
            (self.metric in ("accuracy", "balanced_accuracy", "macro_f1"), "metric",
             f"is accuracy, balanced_accuracy or macro_f1{nearest(self.metric, ('accuracy', 'macro_f1'))}"),
            (all(16 <= size <= 2048 for size in self.sizes), "sizes", "lie between 16 and 2048 pixels"),
            (self.combine in (1, 2, 3), "combine", "is 1, 2 or 3"),
            (self.prefer in ("cheapest", "best"), "prefer", "is cheapest or best"),
            (1 <= self.shortlist <= 100, "shortlist", "lies between 1 and 100"),
            (2 <= self.folds <= 100, "folds", "lies between 2 and 100"),
        ]  # fmt: skip
        wrong = [f"{name} {rule}: {getattr(self, name)!r} does not fit" for good, name, rule in rules if not good]
        if wrong:
            raise UsageError("; ".join(wrong))


def from_words(loose: dict[str, Any]) -> RankOptions:
    """Options from loose words; unknown ones are an error that names the nearest."""
    known = {field.name for field in dataclasses.fields(RankOptions)}
    unknown = [f"{word!r} is not an option of rank{nearest(word, known)}" for word in loose if word not in known]
    if unknown:
        raise UsageError("; ".join(unknown))
    if isinstance(loose.get("cache_dir"), str):
        loose["cache_dir"] = Path(loose["cache_dir"]).expanduser()
    return RankOptions(**loose)
