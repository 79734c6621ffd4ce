"""Where near-duplicates begin in these data: learnt from views of the same images and from their nearest other images.

A copy that was scaled down keeps its hash and loses its features; a crop does the reverse. So each kind of view gets a
rule of its own: a pair must be as alike as a share t of these views by every measure at once. The measures a kind
disturbs then ask for little, the others for much, and the drawings of a series, alike by features alone, do not pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.audit.pair_evidence import COLUMNS
from regraft.errors import DataError, UsageError

LEVEL = 0.002
_FEWEST_VIEWS = 10
_SURELY = 0.9
_DOUBTFUL = 0.25
_LOWEST = 0.01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rule:
    """How one kind of duplicate is told from another picture.

    Attributes:
        kind: of views, such as `cropped`.
        views: float64 (E, V), sorted: by each measure, how alike these views are to their image.
        threshold: t in [0, 1); a pair is a duplicate where by every measure it is at least as alike as more than this
            share of the views.
        recall: share of the views themselves that are found so.
    """

    kind: str
    views: NDArray[np.float64]
    threshold: float
    recall: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """The rules of all kinds; a pair is a near-duplicate where one of them says so.

    Attributes:
        rules: one a kind.
        level: share of images that may be flagged wrongly, over all rules.
        duplicates: share of the images that are surely duplicates, more alike than nine of ten views.
        reason: in words, what the thresholds rest on.
    """

    rules: tuple[Rule, ...]
    level: float
    duplicates: float
    reason: str

    def similarity(self, evidence: NDArray[np.floating]) -> NDArray[np.float64]:
        """float64 (P,) in [0, 1], of the rule that is surest: above 0.5 is a near-duplicate, 1 as alike as any view."""
        surest = np.zeros(len(evidence))
        for rule in self.rules:
            placed = _placed(rule.views, evidence)
            above = 0.5 + 0.5 * (placed - rule.threshold) / (1 - rule.threshold)
            below = 0.5 * placed / max(rule.threshold, 1e-9)
            surest = np.maximum(surest, np.where(placed > rule.threshold, above, below))
        return surest


def worth_aligning(
    positive: NDArray[np.floating], kinds: Sequence[str] | NDArray[np.str_], evidence: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Whether a pair can still be a duplicate, judged by the measures that are known so far.

    A pair is as alike as it is by its worst measure, and no rule's threshold lies below 1 % of the views: what some
    measure already places there, no other saves.

    Args:
        positive: (V, E) evidence of views.
        kinds: (V,) of what kind each view is.
        evidence: (P, F), F <= E, the first measures of pairs.
    """
    kinds = np.asarray(kinds)
    worth = np.zeros(len(evidence), np.bool_)
    for kind in np.unique(kinds):
        columns = np.sort(positive[kinds == kind].astype(np.float64), axis=0).T
        worth |= _placed(columns[: evidence.shape[1]], evidence) > _LOWEST
    return worth


UNCALIBRATED = Calibration(
    rules=(Rule(kind="features", views=np.linspace(1.3, 2.1, 100)[None], threshold=0.5, recall=np.nan),),
    level=float("nan"),
    duplicates=float("nan"),
    reason="no views were given: images whose features have a cosine above 0.981 are called near-duplicates",
)
"""-log10(1.001 - 0.981) = 1.7."""


def calibrate(
    positive: NDArray[np.floating],
    kinds: Sequence[str] | NDArray[np.str_],
    nearest: NDArray[np.floating],
    owners: NDArray[np.integer],
    *,
    level: float = LEVEL,
) -> Calibration:
    """Learn the rules.

    The nearest other image is mostly another picture, but it may be a duplicate: that is what is searched for. An image
    with another that is more alike than nine of ten views of some kind is surely one. More will lie lower, as most
    views do: their number is the largest that the views allow, the least over t of the other images above t by the
    share of views there (a mixture's proportion; Blanchard, Lee & Scott 2010), less two standard errors, and none
    where that comes to more than a quarter of them: a kind whose views are no more alike than different pictures are
    can refute nothing. Each rule's threshold is the lowest that flags no more than these, and of the images besides

        (a quarter of the sure ones + level) / number of kinds

    Where there are no duplicates and views do not overlap with other pictures, the level holds as it is said; where few
    images have one, a duplicate unlike most views may be missed. By features alone one rule serves all kinds.

    Args:
        positive: (V, E) evidence of views with the image that they are made from.
        kinds: (V,) of what kind each view is.
        nearest: (P, E) evidence of candidate pairs of different images, seen from their first image: of every image
            its nearest others.
        owners: int (P,), that first image.
        level: share of images that may be flagged wrongly, where the data hold no duplicates.

    Raises:
        UsageError: the level is not in (0, 1).
        DataError: columns that do not fit together, or no kind with 10 views.
    """
    if not 0 < level < 1:
        raise UsageError(f"a false-positive level lies between 0 and 1: {level=}")
    kinds, owners = np.asarray(kinds), np.asarray(owners)
    if positive.ndim == 2 and positive.shape[1] == 1:
        kinds = np.full(len(kinds), "any")
    if positive.ndim != 2 or positive.shape[1] != nearest.shape[1] or len(kinds) != len(positive):
        raise DataError(
            f"views and candidates have the same columns of evidence, and each view a kind: {positive.shape=}, "
            f"{len(kinds)=}, {nearest.shape=}"
        )
    names = [str(kind) for kind in dict.fromkeys(kinds.tolist()) if (kinds == kind).sum() >= _FEWEST_VIEWS]
    if not names or not len(nearest):
        raise DataError(
            f"a threshold needs {_FEWEST_VIEWS} views of a kind and a second image: {len(positive)} views, "
            f"{len(nearest)} candidates; give views of more images"
        )
    images, place = np.unique(owners, return_inverse=True)
    parts = []
    for name in names:
        own = positive[kinds == name].astype(np.float64)
        columns = np.sort(own, axis=0).T
        best = np.zeros(len(images))
        np.maximum.at(best, place, _placed(columns, nearest))
        parts.append((name, columns, _placed(columns, own), best))
    sure = np.any([best >= np.quantile(own, _SURELY) for _, _, own, best in parts], axis=0)
    duplicates = float(sure.mean())
    doubtful = (_DOUBTFUL * duplicates + level) * len(images) / len(names)
    rules = []
    for name, columns, own, best in parts:
        expected = _expected(own, best[~sure])
        rules.append(_rule(name, columns, own, best[~sure], int(expected + doubtful)))
    recalls = ", ".join(f"{rule.kind} {rule.recall:.0%}" for rule in rules)
    return Calibration(
        rules=tuple(rules),
        level=level,
        duplicates=duplicates,
        reason=(
            f"thresholds from {len(positive):,} views of these images: {duplicates:.1%} of the images have another "
            f"that is more alike than nine of ten views; {level:.2%} may be flagged wrongly where nothing is a "
            f"duplicate; views found again: {recalls}"
        ),
    )


def _placed(columns: NDArray[np.float64], evidence: NDArray[np.floating]) -> NDArray[np.float64]:
    """The smallest share of a kind's views, over the measures, that a pair is at least as alike as: float64 (P,)."""
    lowest = np.ones(len(evidence))
    for column, values in zip(columns, evidence.T.astype(np.float64), strict=True):
        share = np.searchsorted(column, values + 1e-6, side="right") / len(column)
        lowest = np.minimum(lowest, share)
    return lowest


def _expected(views: NDArray[np.float64], best: NDArray[np.float64]) -> float:
    """How many images have a duplicate that is not a sure one, if duplicates are spread as these views are; 0 where
    that would be most of them."""
    probes = np.linspace(0.05, 0.5, 10)
    above = (best[:, None] >= np.quantile(views, probes)).sum(axis=0)
    number = float((np.maximum(above - 2 * np.sqrt(above), 0.0) * _SURELY / (_SURELY - probes)).min())
    return number if number <= 0.25 * len(best) else 0.0


def _rule(
    kind: str, columns: NDArray[np.float64], views: NDArray[np.float64], best: NDArray[np.float64], allowed: int
) -> Rule:
    """The lowest threshold that at most `allowed` of the images, by their best candidates, exceed."""
    others = np.sort(best)
    threshold = float(others[-1 - allowed]) if allowed < len(others) else 0.0
    threshold = min(max(threshold, _LOWEST), 0.999)  # below nearly every view nothing more is found
    return Rule(kind=kind, views=columns, threshold=threshold, recall=float((views > threshold).mean()))


def spelled(evidence: NDArray[np.floating]) -> str:
    """One pair's evidence in words, for a reason."""
    cosine = 1.001 - 10 ** -float(evidence[0])
    words = f"{COLUMNS[0]} {min(cosine, 1.0):.3f}"
    if len(evidence) > 1:
        pixels = max(0.0, min(1.001 - 10 ** -float(max(evidence[2], evidence[3])), 1.0)) ** 0.5
        words += f", {round(-63 * float(evidence[1]))} of 63 hash bits differ, pixels correlate {pixels:.3f}"
    return words
