"""From a candidate's features to out-of-sample predictions and columns.

screen   every candidate: exact ridge (leave one group out), nearest neighbours, columns from the literature
solve    the shortlist: the multinomial head, group K-fold, the same folds for all
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from regraft.evaluate.calibration import fit_temperature, softmax
from regraft.features.engines import num_cores
from regraft.fit.linear_probe import fit_linear_probe
from regraft.fit.ridge import fit_ridge
from regraft.studies import transferability
from regraft.studies.neighbours import neighbour_accuracy

NUM_STRENGTHS = 4
"""Of the solved head, from 0.3 to 0.001 of the ridge's: there its out-of-fold loss is lowest, and so coarse a path
costs a fifth of the head's own 20."""

TOLERANCE = 1e-4
"""Of the mean loss: ten times the head's own, and a sixtieth of the loss's standard error at 10,000 images."""

MOST_WORKERS = 8
"""Candidates at a time; each holds its features in float64 (100 MB at 10,000 x 1280) a few times."""

Item = TypeVar("Item")
Result = TypeVar("Result")

COLUMN_ROWS = 1000
"""Rows the columns from the literature are computed on; they do not decide, and must not cost like it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Targets:
    """What every candidate is judged on, the same for all.

    Attributes:
        labels: int64 (n,), 0..K-1.
        num_classes: K.
        group_ids: int64 (n,).
        folds: int (R, n).
        seed: of draws.
    """

    labels: NDArray[np.int64]
    num_classes: int
    group_ids: NDArray[np.int64]
    folds: NDArray[np.integer[Any]]
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """One candidate's.

    Attributes:
        ridge_probs: float64 (n, K), leave-one-group-out scores of the ridge as calibrated probabilities.
        ridge_accuracy: of these.
        ridge_strength: its penalty.
        neighbours: k to accuracy; empty for an average.
        columns: `log_me`, `h_score`, `leep`, `gbc` and what else is shown.
        probe_probs: float64 (n, K), out-of-fold, of the solved head; None off the shortlist.
        seconds: step to wall seconds.
    """

    ridge_probs: NDArray[np.float64]
    ridge_accuracy: float
    ridge_strength: float = float("nan")
    neighbours: dict[int, float] = field(default_factory=dict)
    columns: dict[str, float] = field(default_factory=dict)
    probe_probs: NDArray[np.float64] | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def pred_probs(self) -> NDArray[np.float64]:
        """Of the solved head where it was solved, else of the ridge."""
        return self.ridge_probs if self.probe_probs is None else self.probe_probs


def each(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`work` on every item, several at a time, each with its share of the cores.

    Candidates are independent, and an eigendecomposition hardly gains from a second thread: with two candidates side by
    side no core waits for another. On two cores that others used as well, a threaded one took five times as long.
    """
    if not items:
        return []
    workers = min(num_cores(), len(items), MOST_WORKERS)
    with (
        threadpool_limits(limits=max(1, num_cores() // workers)),
        ThreadPoolExecutor(workers, thread_name_prefix="candidate") as pool,
    ):
        return list(pool.map(work, items))


def screen(features: NDArray[Any], targets: Targets, *, source_probs: NDArray[Any] | None = None) -> Scores:
    """Ridge, neighbours and columns of one candidate.

    Args:
        features: float (n, D), finite.
        targets: labels, groups and folds.
        source_probs: of the source classifier on `column_rows`, where it is at hand.
    """
    labels, num_classes = targets.labels, targets.num_classes
    seconds = {}
    began = time.perf_counter()
    ridge = fit_ridge(features, labels, num_classes=num_classes, group_ids=targets.group_ids)
    probs = softmax(ridge.oof_scores, temperature=fit_temperature(ridge.oof_scores, labels))
    seconds["ridge"], began = time.perf_counter() - began, time.perf_counter()
    neighbours = neighbour_accuracy(
        features, labels, group_ids=targets.group_ids, num_classes=num_classes, seed=targets.seed
    )
    seconds["neighbours"], began = time.perf_counter() - began, time.perf_counter()
    rows = column_rows(len(labels), targets.seed)
    some = np.asarray(features[rows], np.float32)
    axes = transferability.principal_axes(some)
    columns = {
        "log_me": transferability.log_me(some, labels[rows], num_classes),
        "h_score": transferability.h_score(some, labels[rows], num_classes, axes=axes),
        "gbc": transferability.gbc(some, labels[rows], num_classes, axes=axes),
    }
    if source_probs is not None:
        columns["leep"] = transferability.leep(source_probs, labels[rows], num_classes)
    seconds["columns"] = time.perf_counter() - began
    return Scores(
        ridge_probs=probs,
        ridge_accuracy=float((ridge.oof_scores.argmax(axis=1) == labels).mean()),
        ridge_strength=float(ridge.strengths[ridge.chosen]),
        neighbours=neighbours,
        columns=columns,
        seconds=seconds,
    )


def solve(features: NDArray[Any], targets: Targets, scores: Scores) -> Scores:
    """The same with the multinomial head's out-of-fold probabilities (no prior adjustment: τ = 0)."""
    began = time.perf_counter()
    strengths = scores.ridge_strength * np.geomspace(0.3, 0.001, NUM_STRENGTHS)
    probe = fit_linear_probe(
        features, targets.labels, num_classes=targets.num_classes, folds=targets.folds,
        group_ids=targets.group_ids, strengths=strengths.tolist(), taus=(0.0,), metric="accuracy",
        tolerance=TOLERANCE,
    )  # fmt: skip
    probs = softmax(probe.oof_chosen_logits()).mean(axis=0)
    return replace(scores, probe_probs=probs, seconds=scores.seconds | {"head": time.perf_counter() - began})


def averaged(members: Sequence[Scores], labels: NDArray[np.int64]) -> Scores:
    """The mean of the members' probabilities, by the same head for all."""
    ridge = np.mean([member.ridge_probs for member in members], axis=0)
    solved = [member.probe_probs for member in members if member.probe_probs is not None]
    return Scores(
        ridge_probs=ridge,
        ridge_accuracy=float((ridge.argmax(axis=1) == labels).mean()),
        probe_probs=np.mean(solved, axis=0) if len(solved) == len(members) else None,
    )


def column_rows(num: int, seed: int) -> NDArray[np.int64]:
    """The rows that the columns are computed on: all, or a draw."""
    if num <= COLUMN_ROWS:
        return np.arange(num)
    return np.sort(np.random.default_rng(seed).choice(num, COLUMN_ROWS, replace=False))
