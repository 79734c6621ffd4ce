"""What leaks are worth: the score where near-duplicates may straddle the folds, and where they may not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.folds import assign_folds
from regraft.errors import DataError
from regraft.evaluate.groups import Groups
from regraft.evaluate.intervals import affordable_resamples
from regraft.evaluate.resampled import interval, percentiles
from regraft.evaluate.sums import Rows, Sums
from regraft.fit.linear_probe import LinearProbe, fit_linear_probe
from regraft.fit.selection import Metric
from regraft.types import Interval

MEASURES = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LeakPrice:
    """Both scores of the same images.

    Attributes:
        leaky: measure to interval, folds dealt as if near-duplicates were strangers.
        corrected: measure to interval, every set in one fold and counted as one image.
        price: measure to interval of leaky - corrected; the same resamples of groups on both sides.
        num_sets: sets of near-duplicates.
        num_images: images in them.
        num_groups: groups when the sets are joined.
        reason: in words.
    """

    leaky: dict[str, Interval]
    corrected: dict[str, Interval]
    price: dict[str, Interval]
    num_sets: int
    num_images: int
    num_groups: int
    reason: str


def leak_price(
    features: NDArray[Any],
    labels: NDArray[np.int64],
    *,
    num_classes: int,
    group_ids: NDArray[np.integer],
    near_duplicate_sets: NDArray[np.integer],
    hashes: NDArray[np.uint8],
    num_folds: int = 5,
    num_resamples: int = 1000,
    level: float = 0.95,
    metric: Metric = "macro_f1",
    strengths: Sequence[float] | str = "auto",
    seed: int = 0,
) -> LeakPrice:
    """Solve the head twice on the same images and compare what it says of those it was not fitted on.

    Corrected, an image weighs 1 / (size of its set), in the fit and in the score: n copies of a picture then count as
    that picture once, so that the score is that of the data without the copies, not one that hard sets dominate.

    Args:
        features: float16 or float32 (N, D).
        labels: int64 (N,), 0..K-1.
        num_classes: K.
        group_ids: int (N,); given groups, which stay together both times.
        near_duplicate_sets: int (N,), -1 where there is none.
        hashes: uint8 (N, 32), by which folds are dealt.
        num_folds: of both cross-validations.
        num_resamples: of groups; fewer above 20,000 images.
        level: coverage that is aimed at.
        metric: what the prior adjustment is chosen for.
        strengths: as in `fit_linear_probe`; the same for both scores.
        seed: of folds and resamples.

    Raises:
        DataError: columns that do not fit together, or fewer groups than folds.
    """
    num = len(labels)
    labels = np.asarray(labels, np.int64)
    lengths = (len(features), len(group_ids), len(near_duplicate_sets), len(hashes))
    if set(lengths) != {num}:
        raise DataError(f"one row per image in every column: {num} labels, but {lengths}")
    given = np.unique(group_ids, return_inverse=True)[1].astype(np.int64)
    joined = join_groups(given, near_duplicate_sets)
    num_groups = int(joined.max()) + 1 if num else 0
    if num_groups < num_folds:
        raise DataError(f"cross-validation needs a group for every fold: {num_groups} groups, {num_folds=}")
    inside = near_duplicate_sets >= 0
    sizes = np.ones(num)
    _, place, counts = np.unique(near_duplicate_sets[inside], return_inverse=True, return_counts=True)
    sizes[inside] = counts[place]
    weight = 1 / sizes

    probes = []
    for groups, row_weight in ((given, None), (joined, weight)):
        folds = assign_folds(labels, groups, hashes, num_folds=num_folds, seed=seed)
        probes.append(
            fit_linear_probe(
                features,
                labels,
                num_classes=num_classes,
                folds=folds,
                group_ids=groups,
                sample_weight=row_weight,
                metric=metric,
                strengths=strengths,
            )
        )
    leaky, corrected = (_rows(labels, probe) for probe in probes)
    together = Groups.of(joined, num)
    draws_a, draws_b = [], []
    for counts_drawn in together.resample(affordable_resamples(num, num_resamples), seed):
        drawn = counts_drawn[together.index]
        draws_a.append(Sums.over(leaky, drawn))
        draws_b.append(Sums.over(corrected, drawn * weight))
    found_a, found_b = Sums.stack(draws_a).overall(), Sums.stack(draws_b).overall()
    whole_a, whole_b = Sums.over(leaky, np.ones(num)).overall(), Sums.over(corrected, weight).overall()

    def around(estimate: float, draws: NDArray[np.float64]) -> Interval:
        return interval(estimate, *percentiles(draws, together.number, level), level)

    prices = {name: around(float(whole_a[name] - whole_b[name]), found_a[name] - found_b[name]) for name in MEASURES}
    leaky_scores = {name: around(float(whole_a[name]), found_a[name]) for name in MEASURES}
    corrected_scores = {name: around(float(whole_b[name]), found_b[name]) for name in MEASURES}
    return LeakPrice(
        leaky=leaky_scores,
        corrected=corrected_scores,
        price=prices,
        num_sets=len(counts),
        num_images=int(inside.sum()),
        num_groups=num_groups,
        reason=_reason(
            len(counts), int(inside.sum()), metric, leaky_scores[metric], corrected_scores[metric], prices[metric]
        ),
    )


def join_groups(group_ids: NDArray[np.integer], sets: NDArray[np.integer]) -> NDArray[np.int64]:
    """int64 (N,): groups numbered from 0, joined wherever a set of near-duplicates links them."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, own = np.unique(group_ids, return_inverse=True)
    if not len(own):
        return np.empty(0, np.int64)
    inside = np.flatnonzero(sets >= 0)
    _, firsts, place = np.unique(sets[inside], return_index=True, return_inverse=True)
    size = int(own.max()) + 1
    edges = (own[inside], own[inside[firsts]][place])
    _, joined = connected_components(coo_array((np.ones(len(inside)), edges), shape=(size, size)), directed=False)
    return np.asarray(joined[own], np.int64)


def _rows(labels: NDArray[np.int64], probe: LinearProbe) -> Rows:
    """Out-of-fold probabilities of the chosen head, digested."""
    logits = probe.oof_chosen_logits()[0].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    probabilities = np.exp(logits)
    return Rows.of(labels, probabilities / probabilities.sum(axis=1, keepdims=True))


def _reason(num_sets: int, num_images: int, metric: str, leaky: Interval, corrected: Interval, price: Interval) -> str:
    if num_sets == 0:
        return "no near-duplicates: nothing leaks between folds"
    verdict = "no difference is resolved"
    if price.low > 0 or price.high < 0:
        verdict = "leaks make it look better" if price.low > 0 else "it is lower with them"
    return (
        f"{num_images:,} images in {num_sets:,} sets of near-duplicates: {metric.replace('_', ' ')} {leaky} where they "
        f"straddle folds, {corrected} where they do not; {verdict} ({price.estimate:+.3f}, {price.low:+.3f} to "
        f"{price.high:+.3f})"
    )
