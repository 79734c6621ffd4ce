"""Intervals for the measures: whole groups are resampled, since the images of a group are not independent.

    group_bootstrap       of one set of predictions
    selection_bootstrap   the same, corrected for having chosen the configuration on the same rows
    paired_difference     of the difference between two sets of predictions for the same images

Everything is deterministic by seed.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regraft.errors import UsageError
from regraft.evaluate.groups import Groups
from regraft.evaluate.resampled import assemble, difference_interval, loss_moments
from regraft.evaluate.sums import NAMES, SMALLEST, Rows, Sums
from regraft.types import Interval

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

    Resamples whole groups with replacement (Efron 1979; for clusters, Davison & Hinkley 1997, 3.8). What is
    made of the resamples differs by measure (`resampled.assemble`): plain percentiles fail where data are few.

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
    groups = Groups.of(group_ids, len(rows))
    number = _resamples_for(len(rows), num_resamples, level)
    moments = loss_moments(rows, groups)
    in_bag, drawn = [], []
    for counts in groups.resample(number, seed):
        in_bag.append(Sums.over(rows, counts[groups.index]))
        drawn.append(counts @ moments)
    return assemble(rows, groups, Sums.stack(in_bag), np.stack(drawn), level=level)


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
    0.368 - 1) = 1.31 times too wide. Simulated coverage of the nominal 95 % (20 to 100 configurations with noise
    correlated 0 to 0.95, 30 to 200 rows, groups of 5): 0.93-0.99 for accuracy and balanced accuracy, 0.90-1.00 for the
    others, but 0.82 for the ECE of 30 rows in 10 classes. With 100 useless configurations of 2 classes and 100 rows,
    the naive accuracy is 0.128 too high, the corrected one 0.005.

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
    groups = Groups.of(group_ids, len(y))
    number = _resamples_for(len(y), num_resamples, level)
    known: dict[tuple[int, int], Rows] = {}

    def rows_of(choice: tuple[int, int]) -> Rows:
        if choice not in known:
            known[choice] = Rows.of(y, probabilities(*choice))
        return known[choice]

    chosen = choose(np.ones(len(y), np.float64))
    rows = rows_of(chosen)
    moments = loss_moments(rows, groups)
    in_bag: list[Sums] = []
    drawn: list[NDArray[np.float64]] = []
    ours: list[Sums] = []
    theirs: list[Sums] = []
    unchanged = 0
    for counts in groups.resample(number, seed):
        weights = counts[groups.index]
        in_bag.append(Sums.over(rows, weights))
        drawn.append(counts @ moments)
        choice = choose(weights)
        left_out = (weights == 0).astype(np.float64)
        if choice == chosen:
            unchanged += 1
        elif left_out.any():
            ours.append(Sums.over(rows, left_out))
            theirs.append(Sums.over(rows_of(choice), left_out))
    optimism = _mean_difference(Sums.stack(ours), Sums.stack(theirs), unchanged) if ours else {}
    return assemble(rows, groups, Sums.stack(in_bag), np.stack(drawn), level=level, optimism=optimism)


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
    groups = Groups.of(group_ids, len(a))
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
        found[name] = difference_interval(
            estimate, draws, groups.number, level, widest=-log(SMALLEST) if name == "log_loss" else 1.0,
            of_answers=name in ("accuracy", "balanced_accuracy", "macro_f1"),
        )  # fmt: skip
    return found


def _resamples_for(num_rows: int, num_resamples: int, level: float) -> int:
    if num_resamples < 1 or not 0 < level < 1:
        raise UsageError(f"num_resamples is at least 1 and level lies in (0, 1): got {num_resamples=}, {level=}")
    return affordable_resamples(num_rows, num_resamples)


def _mean_difference(ours: Sums, theirs: Sums, unchanged: int) -> dict[str, NDArray[np.float64]]:
    """Mean of measure(ours) - measure(theirs) over resamples; `unchanged` more of them differ by nothing."""
    other = theirs.overall() | theirs.per_class()
    pairs = {name: values - other[name] for name, values in (ours.overall() | ours.per_class()).items()}
    # NaN where a class is absent out of bag: such a resample says nothing about it
    return {n: np.nansum(v, axis=0) / np.maximum(1, np.isfinite(v).sum(axis=0) + unchanged) for n, v in pairs.items()}
