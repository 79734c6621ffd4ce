"""What the decisions are worth: the head solved with the labels as given and as corrected, judged on the same images.

    refit          features, split and corrections → Refit
    refit_images   the same from images and decisions; features come from the cache

Both heads are cross-validated with the same folds, so that each image is judged by heads that saw neither it nor its
group, and the difference is paired. They are judged by the labels as corrected: by the labels as given, a head that
names the right class of a wrongly labelled image would count as wrong. Yet people were shown what a model doubted, so
that corrected labels lean towards what models say. Therefore the difference is told once more on the images alone whose
label was not changed: what is left there is what cleaner labels do for other images.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regraft.data import Corrected, Decisions, assign_folds, split
from regraft.data.corrected import some
from regraft.data.pair_verdicts import connected
from regraft.data.parting import decide
from regraft.errors import DataError
from regraft.features.engines import choose
from regraft.features.extract import extract
from regraft.files import default_cache_dir
from regraft.fit.linear_probe import NUM_STRENGTHS, LinearProbe, fit_linear_probe
from regraft.fit.selection import Metric, check_metric
from regraft.fit.spectrum import decompose
from regraft.models.backbones import resolve
from regraft.progress import Listener
from regraft.studies.before_after import BeforeAfter, compared
from regraft.studies.duplicate_groups import group_near_duplicates
from regraft.studies.leak_price import join_groups
from regraft.types import JSON, UNLABELLED, Manifest, Split

_EVERY = slice(1, 17, 2)
"""Of the 20 strengths that a fit tries, 8 are tried here, as in an audit: three fifths of the time."""

REPEATED_BELOW = 500
"""With fewer development images the folds are drawn three times."""


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
        measure, one = self.metric.replace("_", " "), self.development
        if not self.num_applied:
            lines = ["No decision changes a development image yet: both heads are the same."]
        else:
            lines = [
                f"{self.corrected.sentence}. Held out, {measure} is {one.before} with the labels as given and "
                f"{one.after} with the decisions: {one.words}, on {some(one.num_images, 'image')} judged by the labels "
                "as corrected."
            ]
        if self.untouched is not None:
            lines.append(
                "Corrected labels lean towards what models say. Where no label was changed "
                f"({some(self.untouched.num_images, 'image')}): {self.untouched.words}."
            )
        if self.test_as_given is not None:
            lines.append(
                f"Test set, labels as given ({some(self.test_as_given.num_images, 'image')}): "
                f"{self.test_as_given.before}, then {self.test_as_given.after}: {self.test_as_given.words}."
            )
        if self.test_as_corrected is not None:
            told = self.test_as_corrected
            lines.append(
                f"Test set, labels as corrected ({some(told.num_images, 'image')}), kept apart: {told.before}, then "
                f"{told.after}: {told.words}."
            )
        return tuple(lines)

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


def refit_images(
    manifest: Manifest,
    decisions: Decisions,
    *,
    backbone: str = "tf_efficientnet_lite0",
    metric: Metric = "macro_f1",
    test: float | Literal["auto"] = "auto",
    seed: int = 0,
    engine: str = "auto",
    precision: str = "auto",
    cache_dir: Path | None = None,
    listener: Listener | None = None,
) -> Refit:
    """`refit` from images and decisions, with features as `fit` and `audit` cached them.

    Args:
        manifest: images with labels, as given.
        decisions: of reviewers.
        backbone: whose features.
        metric: as in `refit`.
        test: share that is locked away, as in `fit`.
        seed: of split, folds and resamples.
        engine: what runs the backbone over images that are not in the cache.
        precision: its arithmetic.
        cache_dir: for features; by default the user's cache folder.
        listener: hears of progress.

    Raises:
        DataError: the data or the decisions do not allow it.
        BackboneError: the backbone is not to be had.
    """
    listener = listener if listener is not None else Listener()
    cache_dir = cache_dir if cache_dir is not None else default_cache_dir()
    given = split(manifest, test=test, seed=seed)
    corrected = decide(manifest, given, decisions).corrected
    assert corrected is not None
    found = resolve(backbone, cache_dir=cache_dir)
    found = found.at(dataclasses.replace(found.transform, policy="squash"))  # as fit's and audit's
    features = extract(
        manifest, found, transform=found.transform, choice=choose(engine, precision), cache_dir=cache_dir,
        progress=listener.progress,
    )  # fmt: skip
    joined, _ = group_near_duplicates(manifest, given, cache_dir=cache_dir, corrected=corrected)
    joined = dataclasses.replace(
        joined, development=np.setdiff1d(joined.development, features.failed),
        test=np.setdiff1d(joined.test, features.failed),
    )  # fmt: skip
    return refit(features.values, manifest, joined, corrected, metric=metric, seed=seed, progress=listener.progress)


def refit(
    features: NDArray[Any],
    manifest: Manifest,
    parts: Split,
    corrected: Corrected,
    *,
    metric: Metric = "macro_f1",
    num_folds: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Refit:
    """Solve the head before and after, and compare.

    Args:
        features: float16 or float32 (N, D), of the manifest's rows.
        manifest: as given, before any decision.
        parts: the split of that manifest; near-duplicates joined where they are known.
        corrected: what `apply` made of the same manifest and split.
        metric: macro_f1, balanced_accuracy or accuracy.
        num_folds: of the cross-validation.
        seed: of folds and resamples.
        progress: called with problems solved and their total, over both heads.

    Raises:
        DataError: fewer than two groups, or fewer than two classes with the decisions.
    """
    began = time.perf_counter()
    check_metric(metric)
    names = sorted({*manifest.class_names, *corrected.manifest.class_names})
    numbers = {name: number for number, name in enumerate(names)}
    given = _renumbered(manifest.labels, manifest.class_names, numbers)
    decided = _renumbered(corrected.as_corrected, corrected.manifest.class_names, numbers)
    groups = join_groups(parts.group_ids, _one_picture(manifest, corrected))
    rows, test = parts.development, parts.test
    staying = np.isin(rows, corrected.development) & (decided[rows] >= 0)
    num_groups = len(np.unique(groups[rows]))
    if num_groups < 2 or len(np.unique(decided[rows[staying]])) < 2:
        raise DataError(
            f"a comparison needs development images of two groups and two classes: there are {num_groups} and "
            f"{len(np.unique(decided[rows[staying]]))}"
        )
    folds = assign_folds(
        given[rows], groups[rows], manifest.hashes[rows], num_folds=min(num_folds, num_groups),
        num_repeats=3 if len(rows) < REPEATED_BELOW else 1, seed=seed,
    )  # fmt: skip
    # a copy of a test image in development would make the head before look better than it is
    copies = ~staying & np.isin(groups[rows], groups[test])
    labels = np.where(staying, decided[rows], given[rows])
    same = bool((labels == given[rows]).all() and (staying | copies).all())
    solve = _Solver(features[rows], folds, groups[rows], len(names), metric, progress, 1 if same else 2)
    before = solve(given[rows], ~copies)
    after = before if same else solve(labels, staying)

    def held_out(truth: NDArray[np.int64], chosen: NDArray[np.bool_]) -> BeforeAfter | None:
        if not chosen.any():
            return None
        old, new = (_flat(probe.oof_chosen_logits()[:, chosen]) for probe in (before, after))
        repeats = len(folds)
        return compared(
            np.tile(truth[chosen], repeats), old, new, np.tile(groups[rows][chosen], repeats), metric, seed, repeats
        )

    def tested(truth: NDArray[np.int64]) -> BeforeAfter | None:
        known = test[truth[test] >= 0]
        if not len(known):
            return None
        old, new = (probe.predict_logits(features[known]) for probe in (before, after))
        return compared(truth[known], old, new, groups[known], metric, seed)

    untouched = staying & (labels == given[rows])
    development = held_out(labels, staying)
    assert development is not None
    return Refit(
        metric=metric, corrected=corrected, development=development,
        untouched=None if (untouched == staying).all() else held_out(labels, untouched),
        as_given=None if (untouched == staying).all() else held_out(given[rows], staying),
        test_as_given=tested(given) if len(test) else None,
        test_as_corrected=tested(decided) if corrected.num_kept_apart else None,
        seconds=time.perf_counter() - began,
    )  # fmt: skip


class _Solver:
    """The head of some development images: the same features, folds and strengths each time."""

    def __init__(
        self, features: NDArray[Any], folds: NDArray[np.int8], groups: NDArray[np.int64], num_classes: int,
        metric: Metric, progress: Callable[[int, int], None] | None, times: int,
    ) -> None:  # fmt: skip
        self.features, self.folds, self.groups, self.num_classes = features, folds, groups, num_classes
        self.metric, self.progress, self.times = metric, progress, times
        self.solved = 0
        top = float(decompose(features).variance.max(initial=0.0)) or 1.0
        self.strengths = np.geomspace(top, top * 1e-5, NUM_STRENGTHS)[_EVERY].tolist()

    def __call__(self, labels: NDArray[np.int64], fitted: NDArray[np.bool_]) -> LinearProbe:
        def told(done: int, total: int) -> None:
            if self.progress is not None:
                self.progress(self.solved * total + done, self.times * total)

        probe = fit_linear_probe(
            self.features, labels, num_classes=self.num_classes, folds=self.folds, group_ids=self.groups,
            sample_weight=None if fitted.all() else fitted.astype(np.float64), strengths=self.strengths,
            metric=self.metric, progress=told,
        )  # fmt: skip
        self.solved += 1
        return probe


def _renumbered(labels: NDArray[np.int64], names: tuple[str, ...], numbers: dict[str, int]) -> NDArray[np.int64]:
    places = np.array([*(numbers[name] for name in names), UNLABELLED], np.int64)  # -1 is the last
    return np.asarray(places[labels], np.int64)


def _one_picture(manifest: Manifest, corrected: Corrected) -> NDArray[np.int64]:
    """int64 (N,): images that reviewers found to be one picture share a number; -1 for the others."""
    rows = {key.tobytes().hex(): row for row, key in enumerate(manifest.hashes)}
    links = [(rows[a], rows[b]) for a, b in corrected.pairs.same]
    sets = np.full(len(manifest), -1, np.int64)
    for number, members in enumerate(connected(links)):
        sets[members] = number
    return sets


def _flat(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return logits.reshape(-1, logits.shape[-1])
