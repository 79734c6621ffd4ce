"""Intervals for the measures: whole groups are resampled, since the images of a group are not independent.

group_bootstrap       of one set of predictions
selection_bootstrap   the same, corrected for having chosen the configuration on the same rows
paired_difference     of the difference between two sets of predictions for the same images
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regraft.errors import DataError, UsageError
from regraft.evaluate.proportions import (
    effective_size,
    mean_of_proportions,
    normal_quantile,
    student_quantile,
    wilson,
)
from regraft.evaluate.sums import NAMES, SMALLEST, Rows, Sums
from regraft.types import Interval

PER_CLASS = ("precision", "recall", "f1")

MAX_DRAWS = 20_000_000
"""Rows times resamples: about a second."""
MIN_RESAMPLES = 200


def affordable_resamples(num_rows: int, num_resamples: int = 1000) -> int:
    """Resamples that are drawn for so many rows: `num_resamples` up to 20,000 rows, 200 from 100,000 on.

    With that many rows the distribution is smooth, and its spread is known to 1/sqrt(2 * 200) = 5 %.
    """
    return min(num_resamples, max(MIN_RESAMPLES, MAX_DRAWS // max(1, num_rows)))


def group_bootstrap(
    labels: ArrayLike,
    pred_probs: ArrayLike,
    *,
    group_ids: ArrayLike,
    predicted: ArrayLike | None = None,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of all measures for predictions that were made out of sample.

    Resamples whole groups with replacement (Efron 1979; for clusters, Davison & Hinkley 1997, 3.8). What is then
    made of the resamples differs by measure (see `_assemble`), since plain percentiles fail where data are few.

    Args:
        labels: int (n,), 0..K-1.
        pred_probs: float (n, K), from models that have not seen these rows.
        group_ids: int (n,); rows of one group share a number.
        predicted: int (n,), where the answer is not the most probable class.
        num_resamples: fewer are drawn above 20,000 rows (`affordable_resamples`).
        level: coverage that is aimed at.
        seed: same seed, same intervals.

    Returns:
        "accuracy", "balanced_accuracy", "macro_f1", "log_loss", "ece", and for each class number k "precision/k",
        "recall/k" and "f1/k". The estimates are those of `evaluate_predictions`. One group alone says nothing about
        other groups: its intervals are the whole range of the measure.

    Raises:
        DataError: as `Rows.of`, or group ids that do not fit.
        UsageError: a level outside (0, 1), no resamples.
    """
    rows = Rows.of(labels, pred_probs, predicted)
    groups = _Groups.of(group_ids, len(rows))
    number = _resamples_for(len(rows), num_resamples, level)
    in_bag = Sums.stack([Sums.over(rows, counts[groups.index]) for counts in groups.resample(number, seed)])
    return _assemble(rows, groups, in_bag, level=level)


def selection_bootstrap(
    labels: ArrayLike,
    *,
    choose: Callable[[NDArray[np.float64]], tuple[int, int]],
    probabilities: Callable[[int, int], NDArray[np.float64]],
    group_ids: ArrayLike,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of all measures when the configuration was chosen on these same out-of-fold predictions.

    The best of many looks better than it is. BBC-CV (Tsamardinos, Greasidou & Borboudakis 2018) chooses again in
    each resample and scores the choice on the rows left out of it. Here, for resample b with choice c_b, out-of-bag
    score o_b, and c the choice on all rows:

        optimism = mean over b of o_b(c) - o_b(c_b);   estimate = score(c) - optimism

    For means over rows (accuracy, log loss) that is BBC-CV's own mean of o_b(c_b), with less simulation noise, for
    the mean of o_b(c) is score(c). For the others it also cancels what an out-of-bag set of 36.8 % of the rows does
    by its size alone: it makes the ECE larger and macro-F1 of rare classes noisier.

    The interval is that of `group_bootstrap` for c, moved by the optimism. Percentiles of o_b(c_b) would be sqrt(1 /
    0.368 - 1) = 1.31 times too wide.

    Args:
        labels: int (n,), 0..K-1.
        choose: given weights float64 (n,) (how often each row was drawn), the configuration (i, j) that the
            selection rule would pick. Called once per resample, and once with ones.
        probabilities: out-of-fold float (n, K) of a configuration. Called once for each that is ever chosen.
        group_ids: int (n,); rows of one group share a number.
        num_resamples: fewer are drawn above 20,000 rows (`affordable_resamples`).
        level: coverage that is aimed at.
        seed: same seed, same intervals.

    Returns:
        as `group_bootstrap`; the estimates are corrected.

    Raises:
        as `group_bootstrap`.
    """
    y = np.asarray(labels)
    groups = _Groups.of(group_ids, len(y))
    number = _resamples_for(len(y), num_resamples, level)
    known: dict[tuple[int, int], Rows] = {}

    def rows_of(choice: tuple[int, int]) -> Rows:
        if choice not in known:
            known[choice] = Rows.of(y, probabilities(*choice))
        return known[choice]

    chosen = choose(np.ones(len(y)))
    rows = rows_of(chosen)
    in_bag: list[Sums] = []
    ours: list[Sums] = []
    theirs: list[Sums] = []
    unchanged = 0
    for counts in groups.resample(number, seed):
        weights = counts[groups.index]
        in_bag.append(Sums.over(rows, weights))
        choice = choose(weights)
        left_out = (weights == 0).astype(np.float64)
        if choice == chosen:
            unchanged += 1
        elif left_out.any():
            ours.append(Sums.over(rows, left_out))
            theirs.append(Sums.over(rows_of(choice), left_out))
    optimism = _mean_difference(Sums.stack(ours), Sums.stack(theirs), unchanged) if ours else {}
    return _assemble(rows, groups, Sums.stack(in_bag), level=level, optimism=optimism)


def paired_difference(
    labels: ArrayLike,
    probs_a: ArrayLike,
    probs_b: ArrayLike,
    *,
    group_ids: ArrayLike,
    predicted_a: ArrayLike | None = None,
    predicted_b: ArrayLike | None = None,
    num_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of measure(a) - measure(b) for the five measures; both are resampled alike.

    Percentiles, widened for few groups. Where no resample differs (both always agree on right and wrong), accuracy,
    balanced accuracy and macro-F1 still get Wilson's bound for "0 of so many groups" on either side.

    Args:
        labels: int (n,), 0..K-1.
        probs_a, probs_b: float (n, K) for the same rows.
        group_ids: int (n,); rows of one group share a number.
        predicted_a, predicted_b: int (n,), where the answers are not the most probable classes.
        num_resamples, level, seed: as `group_bootstrap`.

    Raises:
        as `group_bootstrap`.
    """
    a, b = Rows.of(labels, probs_a, predicted_a), Rows.of(labels, probs_b, predicted_b)
    groups = _Groups.of(group_ids, len(a))
    number = _resamples_for(len(a), num_resamples, level)
    sums_a, sums_b = [], []
    for counts in groups.resample(number, seed):
        weights = counts[groups.index]
        sums_a.append(Sums.over(a, weights))
        sums_b.append(Sums.over(b, weights))
    draws_a, draws_b = Sums.stack(sums_a).overall(), Sums.stack(sums_b).overall()
    ones = np.ones(len(a))
    ours, theirs = Sums.over(a, ones).overall(), Sums.over(b, ones).overall()
    found = {}
    for name in NAMES:
        estimate, draws = float(ours[name] - theirs[name]), draws_a[name] - draws_b[name]
        low, high = _percentiles(draws, groups.number, level)
        if name in ("accuracy", "balanced_accuracy", "macro_f1") and np.ptp(draws) == 0:
            unseen = wilson(0.0, groups.number, level)[1]
            low, high = low - unseen, high + unseen
        widest = -log(SMALLEST) if name == "log_loss" else 1.0
        if groups.number < 2:
            low, high = -widest, widest
        found[name] = _interval(estimate, max(low, -widest), min(high, widest), level)
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Groups:
    """index int64 (n,): each row's group, 0..number-1."""

    index: NDArray[np.int64]
    number: int

    @classmethod
    def of(cls, group_ids: ArrayLike, num_rows: int) -> _Groups:
        ids = np.asarray(group_ids)
        if ids.shape != (num_rows,):
            raise DataError(f"one group id per row: got {ids.shape} for {num_rows} rows")
        names, index = np.unique(ids, return_inverse=True)
        return cls(index=index.astype(np.int64), number=len(names))

    def resample(self, number: int, seed: int) -> Iterator[NDArray[np.float64]]:
        """How often each group was drawn, float64 (groups,), `number` times."""
        rng = np.random.default_rng(seed)
        for _ in range(number):
            draws = rng.integers(self.number, size=self.number)
            yield np.bincount(draws, minlength=self.number).astype(np.float64)

    def evidence(self, codes: NDArray[np.int64], num_classes: int) -> list[dict[str, float]]:
        """For each code: rows, groups that hold any, Kish's effective number. Negative codes are left out."""
        kept = codes >= 0
        pairs, sizes = np.unique(codes[kept] * self.number + self.index[kept], return_counts=True)
        owner = pairs // self.number
        num_rows = np.bincount(owner, sizes, num_classes)
        squares = np.bincount(owner, sizes.astype(np.float64) ** 2, num_classes)
        num_groups = np.bincount(owner, minlength=num_classes)
        return [
            {"num_rows": int(r), "num_groups": int(g), "kish": float(r * r / s) if s else 0.0}
            for r, g, s in zip(num_rows, num_groups, squares, strict=True)
        ]


def _resamples_for(num_rows: int, num_resamples: int, level: float) -> int:
    if num_resamples < 1 or not 0 < level < 1:
        raise UsageError(f"num_resamples is at least 1 and level lies in (0, 1): got {num_resamples=}, {level=}")
    return affordable_resamples(num_rows, num_resamples)


def _mean_difference(ours: Sums, theirs: Sums, unchanged: int) -> dict[str, NDArray[np.float64]]:
    """Mean of measure(ours) - measure(theirs) over resamples; `unchanged` more of them differ by nothing."""
    pairs = {n: v - theirs.overall()[n] for n, v in ours.overall().items()}
    pairs |= {n: v - theirs.per_class()[n] for n, v in ours.per_class().items()}
    # NaN where a class is absent out of bag: such a resample says nothing about it
    return {n: np.nansum(v, axis=0) / np.maximum(1, np.isfinite(v).sum(axis=0) + unchanged) for n, v in pairs.items()}


def _assemble(
    rows: Rows,
    groups: _Groups,
    in_bag: Sums,
    *,
    level: float,
    optimism: dict[str, NDArray[np.float64]] | None = None,
) -> dict[str, Interval]:
    """From resamples to intervals, by the kind of measure.

    - accuracy, precision, recall: Wilson with the effective size that the resamples show. F1 is 2J / (1 + J) of the
      proportion J = hits / (labels or predictions of the class), so it gets J's interval.
    - balanced accuracy, macro-F1: the mean of those, by MOVER with the resamples' correlation.
    - log loss: percentiles, widened for few groups (Hesterberg 2015).
    - ECE: the pivotal interval 2 * estimate - percentiles. The ECE of n rows is too large by about as much as that of
      a resample exceeds it, so percentiles would move away from the truth. Never below 0; contains the estimate.
    """
    optimism = optimism or {}
    at_once = Sums.over(rows, np.ones(len(rows)))
    naive, draws = at_once.overall(), in_bag.overall()
    estimate = {n: float(np.clip(v - optimism.get(n, 0.0), 0.0, None)) for n, v in naive.items()}
    found: dict[str, Interval] = {}

    accuracy = min(1.0, estimate["accuracy"])
    (evidence,) = groups.evidence(np.zeros(len(rows), np.int64), 1)
    size = _size(float(naive["accuracy"]), float(draws["accuracy"].var()), evidence, level)
    found["accuracy"] = _interval(accuracy, *wilson(accuracy, size, level), level)

    ends = _class_intervals(rows, groups, at_once, in_bag, optimism, level)
    for name, source, present in (
        ("balanced_accuracy", "recall", at_once.support > 0),
        ("macro_f1", "f1", at_once.support + at_once.answers > 0),
    ):
        shares, lows, highs = (part[present] for part in ends[source])
        correlation = _correlation(in_bag.per_class()[source][:, present])
        low, high = mean_of_proportions(shares, lows, highs, correlation)
        # the mean of the corrected classes and the corrected mean differ a little; the ends go with the estimate
        value, middle = min(1.0, estimate[name]), float(shares.mean())
        found[name] = _interval(value, max(0.0, value + low - middle), min(1.0, value + high - middle), level)

    low, high = _percentiles(draws["log_loss"], groups.number, level)
    moved = estimate["log_loss"] - float(naive["log_loss"])
    found["log_loss"] = _interval(estimate["log_loss"], max(0.0, low + moved), high + moved, level)
    low, high = _percentiles(draws["ece"], groups.number, level)
    twice = estimate["ece"] + float(naive["ece"])
    found["ece"] = _interval(estimate["ece"], max(0.0, twice - high), min(1.0, twice - low), level)

    if groups.number < 2:
        ranges = {name: -log(SMALLEST) if name == "log_loss" else 1.0 for name in NAMES}
        found = {name: _interval(value.estimate, 0.0, ranges[name], level) for name, value in found.items()}
    for name in PER_CLASS:
        for k, (value, low, high) in enumerate(zip(*ends[name], strict=True)):
            found[f"{name}/{k}"] = _interval(float(value), float(low), float(high), level)
    return found


def _class_intervals(
    rows: Rows,
    groups: _Groups,
    at_once: Sums,
    in_bag: Sums,
    optimism: dict[str, NDArray[np.float64]],
    level: float,
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]:
    """(estimates, lows, highs), (K,) each, of precision, recall and F1."""
    k = rows.num_classes
    # F1's denominator: rows of the class by label or by prediction; a wrong row counts for two classes
    either = _Groups(index=np.concatenate([groups.index, groups.index]), number=groups.number)
    wrong_answer = np.where(rows.correct, -1, rows.predicted)
    evidence = {
        "precision": groups.evidence(rows.predicted, k),
        "recall": groups.evidence(rows.labels, k),
        "f1": either.evidence(np.concatenate([rows.labels, wrong_answer]), k),
    }
    shares, resampled = at_once.per_class(), in_bag.per_class()
    found = {}
    for name in PER_CLASS:
        naive = np.nan_to_num(shares[name], nan=0.0)
        values = np.clip(naive - optimism.get(name, 0.0), 0.0, 1.0)
        draws = resampled[name]
        if name == "f1":
            naive, draws = naive / (2 - naive), draws / (2 - draws)
        proportion = values / (2 - values) if name == "f1" else values
        seen = np.isfinite(draws)
        count = np.maximum(1, seen.sum(axis=0))
        mean = np.nansum(draws, axis=0) / count
        variance = np.nansum((draws - mean) ** 2, axis=0) / count
        ends = np.array(
            [
                wilson(float(p), _size(float(q), float(v), e, level), level)
                for p, q, v, e in zip(proportion, naive, variance, evidence[name], strict=True)
            ]
        )
        if name == "f1":
            ends = 2 * ends / (1 + ends)
        found[name] = (values, ends[:, 0], ends[:, 1])
    return found


def _size(share: float, variance: float, evidence: dict[str, float], level: float) -> float:
    return effective_size(
        share,
        variance,
        num_rows=int(evidence["num_rows"]),
        kish=evidence["kish"],
        num_groups=int(evidence["num_groups"]),
        level=level,
    )


def _correlation(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation (K, K) over resamples (R, K); 0 where one never varies, NaN taken as the mean."""
    seen = np.isfinite(draws)
    mean = np.nansum(draws, axis=0) / np.maximum(1, seen.sum(axis=0))
    centred = np.where(seen, draws - mean, 0.0)
    scale = np.sqrt((centred**2).sum(axis=0))
    centred = centred / np.where(scale > 1e-12, scale, 1.0)
    correlation: NDArray[np.float64] = centred.T @ centred
    np.fill_diagonal(correlation, 1.0)
    return correlation


def _percentiles(draws: NDArray[np.float64], num_groups: int, level: float) -> tuple[float, float]:
    """Percentiles, moved outwards as Student's t and n / (n - 1) would for so many groups (Hesterberg 2015)."""
    if num_groups < 2:
        return float(draws.min()), float(draws.max())
    from scipy.special import ndtr

    reach = student_quantile(level, num_groups - 1) * (num_groups / (num_groups - 1)) ** 0.5
    tail = float(ndtr(-reach)) if np.isfinite(reach) else normal_quantile(level) * 0
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def _interval(estimate: float, low: float, high: float, level: float) -> Interval:
    return Interval(estimate=estimate, low=min(low, estimate), high=max(high, estimate), level=level)
