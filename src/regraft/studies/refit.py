"""What the decisions are worth: the head solved with the labels as given and as corrected, judged on the same images.

    refit        features, split and corrections → Refit
    refit_scan   the same from a scan that carries decisions; features come from the cache

Both heads are cross-validated with the same folds, so that each image is judged by heads that saw neither it nor its
group, and the difference is paired. They are judged by the labels as corrected: by the labels as given, a head that has
learnt the right label of a wrongly labelled image would count as wrong. Yet people were shown what a model doubted, so the
corrected labels lean towards what models say. Therefore the difference is told once more on those images alone on which
nothing was changed: there no label leans, and what is left is what cleaner labels do for other images.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.data import Corrected, Scan, assign_folds, part
from regraft.errors import DataError
from regraft.evaluate.calibration import softmax
from regraft.evaluate.intervals import group_bootstrap, paired_difference
from regraft.fit.linear_probe import LinearProbe, fit_linear_probe
from regraft.fit.ridge import fit_ridge
from regraft.fit.selection import Metric, check_metric
from regraft.progress import Listener
from regraft.types import JSON, Interval, Split

_EVERY = slice(1, 17, 2)
"""Of the 20 strengths that a fit tries, 8 are tried here, as in an audit: three fifths of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeforeAfter:
    """One measure of both heads on the same images.

    Attributes:
        before: of the head solved with the labels as given.
        after: of the head solved with the labels as corrected.
        difference: after - before, from the same resamples of groups.
        num_images: that were judged.
    """

    before: Interval
    after: Interval
    difference: Interval
    num_images: int

    def as_dict(self) -> JSON:
        """For JSON."""
        return {
            "before": self.before.as_dict(), "after": self.after.as_dict(), "difference": self.difference.as_dict(),
            "num_images": self.num_images,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Refit:
    """What the decisions are worth.

    Attributes:
        metric: which measure: macro_f1, balanced_accuracy or accuracy.
        corrected: what was applied.
        development: held-out development images that stay, judged by the labels as corrected. The headline.
        untouched: those of them whose label and place are as given; None where nothing is left or all is.
        as_given: development images that stay, judged by the labels as given; None where no label changed.
        test_as_given: the test set, judged by its labels as given; None where there is none.
        test_as_corrected: the test set, judged by its labels as corrected; None where nothing was decided about it.
        seconds: wall time.
    """

    metric: Metric
    corrected: Corrected
    development: BeforeAfter
    untouched: BeforeAfter | None
    as_given: BeforeAfter | None
    test_as_given: BeforeAfter | None
    test_as_corrected: BeforeAfter | None
    seconds: float

    @property
    def num_applied(self) -> int:
        """Decisions that changed something for development images."""
        return self.corrected.num_applied

    @property
    def words(self) -> tuple[str, ...]:
        """Sentences for people, the verdict first."""
        raise NotImplementedError

    def as_dict(self) -> JSON:
        """For JSON: the headline flat, the rest by name."""
        tests = {"as_given": self.test_as_given, "as_corrected": self.test_as_corrected}
        return {
            "metric": self.metric,
            **self.development.as_dict(),
            "untouched": None if self.untouched is None else self.untouched.as_dict(),
            "as_given": None if self.as_given is None else self.as_given.as_dict(),
            "test": None
            if self.test_as_given is None
            else {name: None if one is None else one.as_dict() for name, one in tests.items()},
            "num_applied": self.num_applied,
            "decisions": self.corrected.as_dict(),
            "seconds": round(self.seconds, 3),
            "words": list(self.words),
        }


def refit_scan(
    scan: Scan,
    *,
    backbone: str = "tf_efficientnet_lite0",
    metric: Metric = "macro_f1",
    test: float | str = "auto",
    seed: int = 0,
    engine: str = "auto",
    precision: str = "auto",
    cache_dir: Any = None,
    listener: Listener | None = None,
) -> Refit:
    """`refit` of a scan that carries decisions (`Scan.decisions`), with features as `fit` and `audit` cached them.

    Raises:
        DataError: the scan carries no decisions, or as `refit`.
        BackboneError: the backbone is not to be had.
    """
    raise NotImplementedError


def refit(
    features: NDArray[Any],
    split: Split,
    corrected: Corrected,
    *,
    metric: Metric = "macro_f1",
    num_folds: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Refit:
    """Solve the head before and after, and compare.

    Args:
        features: float16 or float32 (N, D), of all rows of the corrected manifest.
        split: as drawn from the labels as given, before anything was left out (its development and group numbers; with
            near-duplicates joined where they are known).
        corrected: what `apply` made of the same manifest.
        metric: macro_f1, balanced_accuracy or accuracy.
        num_folds: of the cross-validation.
        seed: of folds and resamples.
        progress: called with problems solved and their total, over both heads.

    Raises:
        DataError: fewer than two groups or classes.
    """
    raise NotImplementedError
