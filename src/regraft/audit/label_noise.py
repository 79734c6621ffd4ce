"""Which labels are probably wrong: every judge at hand, fused, in the order in which a person should look.

    judges       the head (out of fold), a second backbone's head, held-out scores such as ridge's, the neighbours
    → signals    self-confidence and margin of each, margins during training where there are any
    → queue      their ranks fused within the given class, with a budget per class (rank_fusion.py)
    → noise      how many labels are wrong, and which class is given for which, with intervals (noise_matrix.py)
    → issues     of each class as many as are wrong by that estimate, where the head disagrees with the label
    → tiers      sure: confident learning flags it too, and all judges agree on another class

On labels that people got wrong, "predicted differs from given" finds most (CIFAR-10N, aggregated: recall .95,
precision .91; confident learning .54 and .99), and of well-known test sets only every second flag was confirmed by
people (Northcutt, Athalye & Mueller 2021): so this is an order for looking, never a reason for deleting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.audit import held_out_checks as checks
from regraft.audit.confident_learning import confidently_wrong
from regraft.audit.neighbour_votes import neighbour_votes, num_voters
from regraft.audit.neighbours import nearest
from regraft.audit.noise_matrix import NoiseEstimate, estimate_noise, fit_on_part
from regraft.audit.rank_fusion import fuse_by_class
from regraft.errors import DataError
from regraft.types import IssueColumn, printable

MIN_GROUPS = 5
"""A class with fewer is too small to judge: a judge that has seen three images or fewer of it knows little of it."""
NUM_TOP = 5
CLEAN, SUSPECT, SURE = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelAudit:
    """What the labels look like.

    Attributes:
        column: `is_issue` where a person should look; `score`, the probability that the given label is right: their
            order is the queue's, and 1 - score sums to the estimated number of wrong labels; reasons in words.
        suggested_labels: int64 (N,), the most probable other class where the judges doubt the given one; else -1.
        queue: int64 (N,), all rows, the most suspect first: in this order most errors are found per look.
        tier: int8 (N,): 2 sure, 1 suspect, 0 neither.
        noise: how many labels are wrong, and the noise matrix.
        too_small: classes with fewer than five groups: their labels are ranked, never flagged.
        judges: who was asked.
        top_labels: int32 (N, 5), or (N, K) of fewer classes: the most probable classes by the head, likeliest first.
        top_probs: float32, of the same shape: their probabilities.
    """

    column: IssueColumn
    suggested_labels: NDArray[np.int64]
    queue: NDArray[np.int64]
    tier: NDArray[np.int8]
    noise: NoiseEstimate
    too_small: tuple[int, ...]
    judges: tuple[str, ...]
    top_labels: NDArray[np.int32]
    top_probs: NDArray[np.float32]


def audit_labels(
    labels: NDArray[np.int64],
    pred_probs: NDArray[Any],
    *,
    folds: NDArray[np.integer],
    features: NDArray[Any] | None = None,
    group_ids: NDArray[np.integer] | None = None,
    scores: Mapping[str, NDArray[Any]] | None = None,
    second_pred_probs: NDArray[Any] | None = None,
    aum: NDArray[Any] | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
) -> LabelAudit:
    """Rank the labels by how probably they are wrong, and estimate how many are.

    Everything passed must be held out: a judge that was fitted on an image's own label, or on that of its duplicate,
    vouches for it. What can be checked is checked: folds that tear groups, a single fold, equal repeats, a head that is
    sure of every label while the neighbours doubt many. That the probabilities come from these folds cannot be.

    Args:
        labels: int64 (N,), the given labels, 0..K-1.
        pred_probs: float (N, K) or (R, N, K), OUT OF FOLD, calibrated; repeats are averaged.
        folds: int (R, N) or (N,), in which fold each image was held out.
        features: float (N, D), for the neighbours' votes.
        group_ids: int (N,); near-duplicates and other groups, within one fold each, that neither vote for each other
            nor are drawn apart. None: every image is its own group.
        scores: name to float (N, K), held-out class scores of other judges, such as {"ridge": Ridge.oof_scores}.
        second_pred_probs: like `pred_probs`, by another backbone.
        aum: float (N,), mean margin of the given label during training (Pleiss et al. 2020); NaN where not known.
        class_names: K names for the reasons.
        seed: of resampling.

    Returns:
        The audit; the same input and seed give the same audit.

    Raises:
        DataError: columns that do not fit together, labels that are out of range, fewer than two classes.
        UsageError: probabilities that cannot be out of fold.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> right = rng.integers(0, 2, 200)
        >>> probs = np.where(np.eye(2)[right] > 0, 0.9, 0.1)
        >>> given = right.copy(); given[:4] = 1 - given[:4]
        >>> sorted(audit_labels(given, probs, folds=np.arange(200) % 5).queue[:4].tolist())
        [0, 1, 2, 3]
    """
    labels = np.asarray(labels, np.int64)
    num = len(labels)
    probs = checks.check_pred_probs("pred_probs", pred_probs, num)
    num_classes = probs.shape[1]
    checks.check_labels(labels, num_classes)
    groups = np.arange(num) if group_ids is None else np.asarray(group_ids, np.int64)
    for name, column in {"group_ids": groups, "features": features, "aum": aum}.items():
        if column is not None and len(column) != num:
            raise DataError(f"one row of {name} per label: got {len(column)} for {num} labels")
    num_repeats = len(pred_probs) if np.ndim(pred_probs) == 3 else 1
    checks.check_folds(folds, num, num_repeats, groups)

    heads = {"head": probs}
    if second_pred_probs is not None:
        heads["second head"] = checks.check_pred_probs("second_pred_probs", second_pred_probs, num)
    others: dict[str, NDArray[Any]] = {name: np.asarray(values) for name, values in (scores or {}).items()}
    for name, values in (heads | others).items():
        if values.shape != (num, num_classes) or not np.isfinite(values).all():
            raise DataError(f"the judge {name!r} scores every image and class, finitely: {values.shape} is not "
                            f"({num}, {num_classes})")  # fmt: skip
    judges: dict[str, NDArray[Any]] = {name: np.log(values + 1e-12) for name, values in heads.items()} | others
    comparable = [_of_given(judges[name], labels) for name in heads]
    comparable += [margin(values, labels) for values in judges.values()]
    signals = list(comparable)
    if features is not None:
        indices, similarity = nearest(features, num_voters(labels), group_ids=group_ids, centre=True)
        votes = neighbour_votes(indices, similarity, labels, num_classes)
        checks.check_not_fitted(labels, probs, votes)
        judges["neighbours"] = np.log(votes)
        signals.append(margin(judges["neighbours"], labels))
    if aum is not None:
        signals.append(np.asarray(aum, np.float64))

    queue = np.argsort(fuse_by_class(signals, labels, comparable=comparable), kind="stable")
    model = fit_on_part(list(judges.values()), labels, groups=groups, seed=seed)
    posterior = model.posterior(list(judges.values()), labels)
    noise = estimate_noise(model, posterior, list(judges.values()), labels, groups=groups, seed=seed)
    score = np.empty(num)
    score[queue] = np.sort(_of_given(posterior, labels))

    few = too_small_classes(labels, groups, num_classes)
    doubted = probs.argmax(axis=1) != labels
    is_issue = _within_budget(queue, labels, noise, doubted & ~np.isin(labels, few))
    better = _best_other(posterior, labels)
    unanimous = np.all([values.argmax(axis=1) == better for values in judges.values()], axis=0)
    tier = np.where(is_issue, SUSPECT, CLEAN).astype(np.int8)
    tier[is_issue & unanimous & confidently_wrong(labels, probs)] = SURE
    suggested = np.where(is_issue | doubted, better, -1).astype(np.int64)
    names = (
        [printable(name) for name in class_names] if class_names is not None else [str(k) for k in range(num_classes)]
    )
    reasons = _reasons(labels, suggested, score, tier, set(few), names)
    top = _top(probs)
    return LabelAudit(
        column=IssueColumn(is_issue=is_issue, score=score, reasons=reasons),
        suggested_labels=suggested, queue=queue.astype(np.int64), tier=tier, noise=noise, too_small=few,
        judges=(*judges, *(["margins during training"] if aum is not None else [])),
        top_labels=top.astype(np.int32), top_probs=np.take_along_axis(probs, top, axis=1).astype(np.float32),
    )  # fmt: skip


def margin(scores: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Score of the given class less the best other one, float64 (N,), of scores (N, K): below 0, another class wins."""
    return np.asarray(_of_given(scores, labels) - _of_given(scores, _best_other(scores, labels)))


def too_small_classes(labels: NDArray[np.int64], groups: NDArray[np.int64], num_classes: int) -> tuple[int, ...]:
    """Classes that occur, in fewer than five groups."""
    pairs = np.unique(np.stack([labels, groups], axis=1), axis=0)
    counts = np.bincount(pairs[:, 0], minlength=num_classes)
    return tuple(np.flatnonzero((counts > 0) & (counts < MIN_GROUPS)).tolist())


def _of_given(values: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(values[np.arange(len(labels)), labels], np.float64)


def _top(probs: NDArray[np.float64]) -> NDArray[np.int32]:
    """The most probable classes, int32 (N, 5) or (N, K), one by one: sorting all K would take N x K indices."""
    left, rows = np.array(probs, np.float32), np.arange(len(probs))
    top = np.empty((len(probs), min(NUM_TOP, probs.shape[1])), np.int32)
    for rank in range(top.shape[1]):
        top[:, rank] = left.argmax(axis=1)
        left[rows, top[:, rank]] = -1.0
    return top


def _best_other(values: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    others = np.array(values, copy=True)
    others[np.arange(len(labels)), labels] = -np.inf
    return np.asarray(others.argmax(axis=1), np.int64)


def _within_budget(
    queue: NDArray[np.int64], labels: NDArray[np.int64], noise: NoiseEstimate, allowed: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Of each class the first in the queue that are allowed, as many as are wrong by the estimate."""
    chosen = np.zeros(len(labels), np.bool_)
    for label, wrong in enumerate(noise.per_class):
        rows = queue[(labels[queue] == label) & allowed[queue]]
        chosen[rows[: round(wrong.estimate)]] = True
    return chosen


def _reasons(
    labels: NDArray[np.int64],
    suggested: NDArray[np.int64],
    score: NDArray[np.float64],
    tier: NDArray[np.int8],
    few: set[int],
    names: Sequence[str],
) -> list[str]:
    said = [""] * len(labels)
    for row in np.flatnonzero(tier > CLEAN).tolist():
        given, other = names[labels[row]], names[suggested[row]]
        agreed = "; all judges agree" if tier[row] == SURE else ""
        said[row] = (
            f"labelled {given!r}, looks like {other!r}: the label is right with probability {score[row]:.2f}{agreed}"
        )
    if few:
        for row in np.flatnonzero(np.isin(labels, list(few))).tolist():
            said[row] = f"the class {names[labels[row]]!r} has too few images to judge its labels; look at all of them"
    return said
