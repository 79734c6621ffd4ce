"""The solved head: multinomial logistic regression over a path of penalties, all folds at once.

    standardise and rotate (spectrum.py)
    → strongest penalty first: solve every fold and the whole (multinomial.py), keep the held-out probabilities
    → choose the penalty and the prior adjustment on them (selection.py)
    → polish the chosen head on all rows and give it in raw feature space

The strength α multiplies ||W||² / 2 beside the mean loss: scikit-learn's C is 1 / (α × sum of the sample weights).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.fit.backend import choose_backend
from regraft.fit.checks import check_folds, check_rows
from regraft.fit.path import FoldProblems, Solved
from regraft.fit.selection import Metric, check_metric, choose_strength, choose_tau, dense_groups, score, standard_error
from regraft.fit.spectrum import decompose

DEFAULT_TAUS = tuple(float(tau) for tau in np.linspace(0, 2, 9))
BALANCED_RATIO = 1.5
"""Classes whose sizes differ by less are called nearly balanced."""
NUM_STRENGTHS = 20
PATH_TOLERANCE = 1e-5
"""Of the mean loss. Its standard error is some 6e-3 at 10,000 images; solved to 1e-8, which takes more than twice as
long, the held-out loss moved by a hundredth of that at most, and the choice not at all (benchmarks/head.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathRow:
    """One strength of the path, measured out of fold.

    Attributes:
        strength: the penalty.
        log_loss: mean negative log-probability of the given label.
        log_loss_se: its standard error, by groups.
        accuracy: without prior adjustment.
        macro_f1: without prior adjustment.
        iterations: of all problems together.
        converged: whether every problem reached the tolerance.
    """

    strength: float
    log_loss: float
    log_loss_se: float
    accuracy: float
    macro_f1: float
    iterations: int
    converged: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearProbe:
    """A solved linear head, the path it was chosen from, and what it said of rows it had not seen.

    Attributes:
        strengths: the L penalties, strongest first.
        taus: the T prior adjustments, ascending.
        path: a row per strength.
        chosen_strength: index into `strengths`.
        chosen_tau: index into `taus`.
        metric: what τ was chosen for.
        reason: both choices in words.
        mean: float64 (D,), of the raw features; already folded into `weight` and `bias`.
        scale: float64 (D,), likewise.
        weight: float32 (K, D), for raw features.
        bias: float32 (K,), for raw features; the prior adjustment is already included.
        prior_adjustment: float32 (K,), -τ log π (Menon et al. 2021, eq. 9), included in `bias`: subtract it for
            log-probabilities under the class frequencies of the training data.
        log_prior: float64 (K,), log π.
        labels: int64 (N,), as given.
        row_weight: float64 (N,) or None.
        groups: int64 (N,) without gaps, or None.
        oof_losses: float32 (L, R, N), -log p of the given label in each repeat, without prior adjustment.
        oof_logits: float32 (len(kept), R, N, K), log-probabilities in each repeat, without prior adjustment. What is
            chosen and how good it is are judged by single repeats, as the head that is used is a single one: the
            mean over repeats is an ensemble, and better calibrated than any of its members.
        kept: indices into `strengths` of the rows of `oof_logits`: all, or where they do not fit in the memory a
            window around the chosen one.
        seconds: wall time of the fit.
        device: where it was solved, and why.
    """

    strengths: tuple[float, ...]
    taus: tuple[float, ...]
    path: tuple[PathRow, ...]
    chosen_strength: int
    chosen_tau: int
    metric: Metric
    reason: str
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    prior_adjustment: NDArray[np.float32]
    log_prior: NDArray[np.float64]
    labels: NDArray[np.int64]
    row_weight: NDArray[np.float64] | None
    groups: NDArray[np.int64] | None
    oof_losses: NDArray[np.float32]
    oof_logits: NDArray[np.float32]
    kept: tuple[int, ...]
    seconds: float
    device: str
    _predicted: dict[int, NDArray[np.int32]] = field(default_factory=dict, repr=False)

    def predict_logits(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Logits (M, K), prior adjustment included, of raw features (M, D)."""
        return np.asarray(np.asarray(features, np.float32) @ self.weight.T + self.bias)

    @property
    def num_repeats(self) -> int:
        """R, how often every row was held out."""
        return int(self.oof_losses.shape[1])

    def oof_predictions(self, i_strength: int, j_tau: int) -> NDArray[np.int64]:
        """int64 (R, N): out-of-fold predictions at a strength that was kept and a prior adjustment."""
        return np.asarray(self._all_taus(i_strength)[j_tau].reshape(self.num_repeats, -1), np.int64)

    def oof_adjusted_logits(self, i_strength: int, j_tau: int) -> NDArray[np.float32]:
        """float32 (R, N, K): out-of-fold logits of each repeat at a strength that was kept, with an adjustment."""
        adjustment = self.taus[j_tau] * (self.log_prior - self.log_prior.mean())
        return np.asarray(self.oof_logits[self.kept.index(i_strength)] - adjustment.astype(np.float32))

    def oof_chosen_logits(self) -> NDArray[np.float32]:
        """float32 (R, N, K): the out-of-fold logits at the chosen strength, with the chosen prior adjustment."""
        return self.oof_adjusted_logits(self.chosen_strength, self.chosen_tau)

    def choose(self, weights: NDArray[np.floating] | None = None) -> tuple[int, int]:
        """Replay the choice on other weights of the rows.

        Args:
            weights: (N,), how often each row is in the sample, such as the counts of a bootstrap over groups; None
                for the data themselves.

        Returns:
            Indices into `strengths` and `taus`. A strength that was not kept becomes the nearest that was.
        """
        counts = np.ones(len(self.labels)) if weights is None else np.asarray(weights, np.float64)
        rows = _Repeated(self.labels, self.row_weight, self.groups, self.num_repeats)
        counts = np.tile(counts, self.num_repeats)
        losses = self.oof_losses.reshape(len(self.strengths), -1)
        strength, _ = choose_strength(losses, counts, rows.weight, rows.groups)
        strength = min(max(strength, self.kept[0]), self.kept[-1])
        num_classes = len(self.log_prior)
        tau, _ = choose_tau(
            self._all_taus(strength), rows.labels, num_classes, self.metric, counts, rows.weight, rows.groups
        )
        return strength, tau

    def _all_taus(self, i_strength: int) -> NDArray[np.int32]:
        if i_strength not in self._predicted:
            self._predicted[i_strength] = _predict_all_taus(
                _flat(self.oof_logits[self.kept.index(i_strength)]), self.log_prior, self.taus
            )
        return self._predicted[i_strength]


class _Repeated:
    """Rows as often as they were held out, for the rules of choice: what repeats say of one row is one observation.

    Attributes:
        labels: int64 (R * N,).
        weight: float64 (R * N,) or None.
        groups: int64 (R * N,), or None where nothing is repeated and every row is its own group.
    """

    def __init__(
        self,
        labels: NDArray[np.int64],
        weight: NDArray[np.float64] | None,
        groups: NDArray[np.int64] | None,
        num_repeats: int,
    ) -> None:
        single = num_repeats == 1
        own = np.arange(len(labels)) if groups is None else groups
        self.labels = labels if single else np.tile(labels, num_repeats)
        self.weight = weight if single or weight is None else np.tile(weight, num_repeats)
        self.groups = groups if single else np.tile(own, num_repeats)


def _flat(held_out: NDArray[np.float32]) -> NDArray[np.float32]:
    """(R, N, K) as (R * N, K)."""
    return held_out.reshape(-1, held_out.shape[-1])


def fit_linear_probe(
    features: NDArray[Any],
    labels: NDArray[np.int64],
    *,
    num_classes: int,
    folds: NDArray[np.integer],
    group_ids: NDArray[np.int64] | None = None,
    sample_weight: NDArray[np.floating] | None = None,
    strengths: Sequence[float] | str = "auto",
    taus: Sequence[float] | None = None,
    metric: Metric = "macro_f1",
    max_memory_gib: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
    device: str = "auto",
    tolerance: float = PATH_TOLERANCE,
) -> LinearProbe:
    """Solve the head over the path and choose.

    Args:
        features: float16 or float32 (N, D), finite. Left as they are.
        labels: int64 (N,), 0..K-1.
        num_classes: K; a class may have no row.
        folds: int (R, N) or (N,), for each repeat the fold in which a row is held out, from 0.
        group_ids: int64 (N,); rows of a group are one observation in standard errors, and share a fold.
        sample_weight: (N,), not negative; 0 leaves a row out of every fit and of the choice, but it still gets
            out-of-fold logits.
        strengths: penalties, or `auto` for 20 from λ to λ/100,000, λ the largest eigenvalue of the correlation
            matrix: with λ the head hardly differs from the class frequencies, whatever N and D.
        taus: prior adjustments to choose from; by default nine from 0 to 2, or 0 alone where the classes are nearly
            balanced.
        metric: what τ is chosen for: accuracy, balanced_accuracy or macro_f1.
        max_memory_gib: for the logits of the problems that are solved together, and for those that are kept. The
            standardised features, (N, D) float32, come on top.
        progress: called with the number of problems solved and their total.
        device: `auto`, `cpu` or `cuda`.
        tolerance: of each problem's mean loss on the path; the final head is solved to 1e-9.

    Raises:
        UsageError: arguments that do not fit together, all in one message.
        DataError: fewer than two classes have rows, or features that are not finite.
    """
    import time

    began = time.perf_counter()
    folds = np.atleast_2d(np.asarray(folds))
    labels = np.asarray(labels, np.int64)
    groups = dense_groups(group_ids)
    weight = None if sample_weight is None else np.asarray(sample_weight, np.float64)
    check_rows(features, labels, num_classes, groups, weight)
    check_folds(folds, groups, weight, len(labels))
    check_metric(metric)
    if taus is None:  # balanced, there is no prior to adjust for, only nine chances to be fooled by noise
        taus = (0.0,) if nearly_balanced(labels, weight) else DEFAULT_TAUS
    taus = tuple(sorted(float(tau) for tau in taus))
    backend = choose_backend(device)
    spectrum = decompose(features)
    if isinstance(strengths, str):
        top = float(spectrum.variance[0]) if len(spectrum.variance) else 1.0
        strengths = np.geomspace(top, top * 1e-5, NUM_STRENGTHS).tolist()
    ordered = tuple(sorted((float(value) for value in strengths), reverse=True))

    problems = FoldProblems(backend, spectrum, labels, num_classes, folds, weight, max_memory_gib)
    done, total = 0, len(ordered) * problems.count

    def one_solved() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    rows = _Repeated(labels, weight, groups, len(folds))
    per_strength = folds.size * num_classes * 4
    room = max(1, int(max_memory_gib * 2**30 / 2 // per_strength))
    everything = room >= len(ordered)
    counts = np.ones(folds.size)
    losses = np.empty((len(ordered), folds.size), np.float32)
    kept_logits: list[NDArray[np.float32]] = []
    heads: list[Any] = []
    path: list[PathRow] = []
    for index, solved in enumerate(problems.path(ordered, tolerance, one_solved)):
        losses[index] = -np.take_along_axis(_flat(solved.held_out), rows.labels[:, None], axis=1)[:, 0]
        path.append(_path_row(ordered[index], losses[index], solved, rows, num_classes))
        heads.append(solved.head)
        if everything:
            kept_logits.append(solved.held_out)

    strength, best = choose_strength(losses, counts, rows.weight, rows.groups)
    kept = tuple(range(len(ordered)))
    if not everything:  # solved again from the heads on all rows: the window is known only now
        first = min(max(strength - room // 2, 0), len(ordered) - room)
        kept = kept[first : first + room]
        window = ordered[first : first + room]
        again = problems.path(window, tolerance, lambda: None, start=heads[first])
        kept_logits = [solved.held_out for solved in again]
    stacked = np.stack(kept_logits)
    del kept_logits

    log_prior = _log_prior(labels, weight, num_classes)
    predicted = _predict_all_taus(_flat(stacked[kept.index(strength)]), log_prior, taus)
    tau, best_tau = choose_tau(predicted, rows.labels, num_classes, metric, counts, rows.weight, rows.groups)
    head = problems.polish(heads[strength], ordered[strength])
    raw_weight, raw_bias = spectrum.to_raw(head)
    adjustment = -taus[tau] * (log_prior - log_prior.mean())
    return LinearProbe(
        strengths=ordered,
        taus=taus,
        path=tuple(path),
        chosen_strength=strength,
        chosen_tau=tau,
        metric=metric,
        reason=_reason(ordered, taus, path, strength, best, tau, best_tau, metric),
        mean=spectrum.mean,
        scale=spectrum.scale,
        weight=raw_weight.astype(np.float32),
        bias=(raw_bias + adjustment).astype(np.float32),
        prior_adjustment=adjustment.astype(np.float32),
        log_prior=log_prior,
        labels=labels,
        row_weight=weight,
        groups=groups,
        oof_losses=losses.reshape(len(ordered), len(folds), -1),
        oof_logits=stacked,
        kept=kept,
        seconds=time.perf_counter() - began,
        device=backend.reason,
        _predicted={strength: predicted},
    )


def _path_row(
    strength: float,
    losses: NDArray[np.float32],
    solved: Solved,
    rows: _Repeated,
    num_classes: int,
) -> PathRow:
    each = np.ones(len(losses)) if rows.weight is None else rows.weight
    total = float(each.sum())
    mean = float(losses @ each) / total
    predicted = np.argmax(_flat(solved.held_out), axis=1)
    return PathRow(
        strength=strength,
        log_loss=mean,
        log_loss_se=standard_error((losses - mean) / total, np.ones(len(losses)), rows.weight, rows.groups),
        accuracy=score("accuracy", rows.labels, predicted, each, num_classes),
        macro_f1=score("macro_f1", rows.labels, predicted, each, num_classes),
        iterations=solved.iterations,
        converged=solved.converged,
    )


def nearly_balanced(labels: NDArray[np.int64], weight: NDArray[np.float64] | None) -> bool:
    """Whether the largest class has at most `BALANCED_RATIO` times the rows of the smallest."""
    counts = np.bincount(labels, weight)
    counts = counts[counts > 0]
    return bool(counts.max() <= BALANCED_RATIO * counts.min())


def _log_prior(labels: NDArray[np.int64], weight: NDArray[np.float64] | None, num_classes: int) -> NDArray[np.float64]:
    """Log class frequencies; a class without rows counts as half a row, so that the adjustment stays finite."""
    counts = np.bincount(labels, weight, num_classes).astype(np.float64)
    counts = np.maximum(counts, 0.5 * counts.sum() / len(labels))
    return np.asarray(np.log(counts / counts.sum()))


def _predict_all_taus(
    logits: NDArray[np.float32], log_prior: NDArray[np.float64], taus: Sequence[float]
) -> NDArray[np.int32]:
    """int32 (T, N): the most probable class under each prior adjustment."""
    predicted = np.empty((len(taus), len(logits)), np.int32)
    for index, tau in enumerate(taus):
        predicted[index] = np.argmax(logits - (tau * log_prior).astype(np.float32), axis=1)
    return predicted


def _reason(
    strengths: tuple[float, ...], taus: tuple[float, ...], path: list[PathRow],
    strength: int, best: int, tau: int, best_tau: int, metric: str,
) -> str:  # fmt: skip
    loss = path[strength].log_loss
    if strength == best:
        words = f"strength {strengths[strength]:.3g} has the lowest out-of-fold log loss ({loss:.4f})"
    else:
        words = (
            f"strength {strengths[strength]:.3g} is the strongest whose out-of-fold log loss ({loss:.4f}) is within "
            f"one standard error of the lowest ({path[best].log_loss:.4f} at {strengths[best]:.3g})"
        )
    if len(strengths) > 1 and best == len(strengths) - 1:
        words += ", the weakest that was tried"
    if len(taus) == 1:
        words += f"; prior adjustment τ = {taus[0]:g}" + (": the classes are nearly balanced" if not taus[0] else "")
    elif tau == best_tau:
        words += f"; prior adjustment τ = {taus[tau]:g} has the best {metric}"
    else:
        words += (
            f"; prior adjustment τ = {taus[tau]:g} is the smallest whose {metric} is within one standard error of the "
            f"best (τ = {taus[best_tau]:g})"
        )
    return words
