"""What to do about classes with few images: every remedy on the same cached features and folds, and the simplest that
no other beats beyond noise.

    lay out (fit.bench) → try each remedy, tuned inside the folds (fit.remedies) → compare in pairs, by groups
    (remedy_choice.py) → BakeOff: a table, a choice with its reason, and a linear head
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError
from regraft.evaluate.calibration import fit_temperature, softmax
from regraft.export.bundle import Head
from regraft.fit.bench import Bench
from regraft.fit.linear_probe import BALANCED_RATIO
from regraft.fit.remedies import REMEDIES, Tried, remedies_for, try_remedy
from regraft.fit.selection import Metric
from regraft.progress import Listener
from regraft.studies.remedy_choice import Choice, Tally, choose_remedy, simplest, unbeaten
from regraft.types import JSON, Interval, printable

MANY, FEW = 100, 20
"""More than 100 development images are many, fewer than 20 few (Liu et al. 2019)."""

MIN_FOLDS = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """A remedy's line of the table; everything out of fold.

    Attributes:
        name, title: of the remedy.
        setting: what strength the head on all images got, in words, or "".
        macro_f1, balanced_accuracy, accuracy: the measures.
        bands: band of class sizes to mean recall, None where no class is in it.
        log_loss: after recalibration by one temperature, fitted on other folds.
        temperature: of the head on all images.
        difference: the metric minus that of nothing, with interval.
        difference_to_best: the metric minus the best's, with interval.
        unbeaten: no other is better beyond noise, all of them looked at (`remedy_choice.choose_remedy`).
        seconds: wall time; those on the plain head are quick once it is solved.
    """

    name: str
    title: str
    setting: str
    macro_f1: float
    balanced_accuracy: float
    accuracy: float
    bands: dict[str, float | None]
    log_loss: float
    temperature: float
    difference: Interval
    difference_to_best: Interval
    unbeaten: bool
    seconds: float

    def as_dict(self) -> JSON:
        """The row for JSON."""
        return {
            "remedy": self.name, "setting": self.setting, "macro_f1": self.macro_f1,
            "balanced_accuracy": self.balanced_accuracy, "accuracy": self.accuracy, "recall": self.bands,
            "log_loss": self.log_loss, "temperature": self.temperature, "difference": self.difference.as_dict(),
            "difference_to_best": self.difference_to_best.as_dict(), "unbeaten": self.unbeaten,
            "seconds": round(self.seconds, 3),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BakeOff:
    """All remedies compared, and the one to take.

    Attributes:
        rows: in the order of simplicity, "nothing" first.
        pick: name of the one to take.
        best: name of the best by estimate.
        metric: what was compared.
        corrected: the pick's metric less what choosing flatters it.
        gain: the pick's metric minus that of nothing, less the same.
        bands: band to the names of its classes.
        bands_by: how the bands were drawn, in words.
        class_names: K names.
        class_counts: int64 (K,), development images.
        notes: what was left out, one sentence each.
        num_images: N.
        seconds: wall time.
    """

    rows: tuple[Row, ...]
    pick: str
    best: str
    metric: Metric
    corrected: float
    gain: Interval
    bands: dict[str, tuple[str, ...]]
    bands_by: str
    class_names: tuple[str, ...]
    class_counts: NDArray[np.int64]
    notes: tuple[str, ...]
    num_images: int
    seconds: float
    _tried: tuple[Tried, ...]
    _tally: Tally
    _choice: Choice

    def __getitem__(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def head(self, name: str | None = None) -> Head:
        """A remedy's head on all images, the pick's unless said: one linear layer, whatever the remedy."""
        place = self._place(name)
        tried = self._tried[place]
        return Head(weight=tried.weight, bias=tried.bias, temperature=self.rows[place].temperature)

    def oof_logits(self, name: str | None = None) -> NDArray[np.float32]:
        """float32 (R, N, K): logits of images by heads, and settings, that never saw their fold."""
        return self._tried[self._place(name)].oof_logits

    def choose(self, weights: NDArray[np.floating] | None = None) -> int:
        """Replay the choice on other weights of the images, such as a bootstrap's counts: a number into `rows`."""
        groups = self._tally.groups
        if weights is None:
            return self._choice.pick
        sizes = np.bincount(groups.index, minlength=groups.number)
        counts = np.bincount(groups.index, np.asarray(weights, np.float64), groups.number) / sizes
        return simplest(self._tally.values(self.metric, counts[None])[0], self._choice.reach)

    @property
    def reason(self) -> str:
        """What to use and why, in one sentence."""
        pick, best = self[self.pick], self[self.best]
        metric = self.metric_words
        setting = f" ({pick.setting})" if pick.setting else ""
        if len(self.rows) == 1:
            return f"Use nothing: the classes are nearly balanced (largest to smallest {self.ratio:.1f}), so there is "\
                   "nothing to remedy."  # fmt: skip
        if self.pick == self.best == "nothing":
            return f"Use nothing: no remedy has a better {metric} than the plain head."
        if self.pick == "nothing":
            return (
                f"Use nothing: the best remedy, {best.title}, changes the {metric} by {_points(best.difference)}, "
                "which is within noise for the best of so many; more images of the small classes would tell."
            )
        if self.pick == self.best:
            why = "the best, and it beats all simpler ones beyond noise"
        else:
            leader = f"{best.title}, {_points(best.difference)}"
            why = f"the simplest that no other beats beyond noise (best by estimate: {leader})"
        return f"Use {pick.title}{setting}: the {metric} changes by {_points(pick.difference)} against nothing; {why}."

    @property
    def metric_words(self) -> str:
        """The metric as people write it."""
        return {"macro_f1": "macro-F1"}.get(self.metric, self.metric.replace("_", " "))

    @property
    def ratio(self) -> float:
        """Largest class to smallest."""
        seen = self.class_counts[self.class_counts > 0]
        return float(seen.max() / seen.min())

    def sentences(self) -> list[str]:
        """What people should read under the table; the last says what to use and why."""
        said = list(self.notes)
        if len(self.rows) > 1:
            said.append(
                f"The choice was made on these images; corrected for it, the {self.metric_words} of "
                f"{self[self.pick].title} is {self.corrected:.3f}."
            )
        return [*said, self.reason]

    def as_dict(self) -> JSON:
        """`balance --json`."""
        return {
            "pick": self.pick, "best": self.best, "reason": self.reason, "metric": self.metric,
            "corrected": self.corrected, "gain": self.gain.as_dict(), "num_images": self.num_images,
            "class_counts": dict(zip(self.class_names, self.class_counts.tolist(), strict=True)),
            "bands": {name: list(classes) for name, classes in self.bands.items()}, "bands_by": self.bands_by,
            "notes": list(self.notes), "seconds": round(self.seconds, 3), "rows": [row.as_dict() for row in self.rows],
        }  # fmt: skip

    def _place(self, name: str | None) -> int:
        wanted = self.pick if name is None else name
        return next(i for i, row in enumerate(self.rows) if row.name == wanted)


def bake_off(
    features: NDArray[Any],
    labels: NDArray[np.int64],
    *,
    class_names: tuple[str, ...],
    folds: NDArray[np.integer],
    group_ids: NDArray[np.int64],
    views: tuple[NDArray[Any], NDArray[np.int64]] | None = None,
    metric: Metric = "macro_f1",
    seed: int = 0,
    listener: Listener | None = None,
    only: tuple[str, ...] | None = None,
) -> BakeOff:
    """Try every remedy and say which to take.

    Args:
        features: float (N, D) of development images; the locked test set takes no part.
        labels: int64 (N,), 0..K-1.
        class_names: K names.
        folds: int (R, N) or (N,), at least three folds; a group lies within one.
        group_ids: int64 (N,).
        views: features (V, D) of augmented views, and the row of the image that each shows.
        metric: what settings and remedies are chosen for.
        seed: of the re-sampling and the resamples.
        listener: hears of progress.
        only: names of the remedies to try beside nothing; all unless said.

    Raises:
        DataError: fewer than two classes, or fewer than three folds (images of three groups).
    """
    began = time.perf_counter()
    listener = listener if listener is not None else Listener()
    folds = np.atleast_2d(np.asarray(folds))
    labels = np.asarray(labels, np.int64)
    num_folds = min(len(np.unique(row)) for row in folds)
    if num_folds < MIN_FOLDS:
        raise DataError(
            f"comparing remedies needs images of at least {MIN_FOLDS} groups, for folds within folds: there are "
            f"{len(np.unique(group_ids))}; add images"
        )
    bench = Bench(
        features, labels, num_classes=len(class_names), folds=folds, group_ids=group_ids, views=views, metric=metric,
        seed=seed,
    )  # fmt: skip
    remedies, notes = remedies_for(bench)
    counts = np.bincount(labels, minlength=len(class_names)).astype(np.int64)
    seen = counts[counts > 0]
    if seen.max() <= BALANCED_RATIO * seen.min() and only is None:
        remedies, notes = REMEDIES[:1], ()
    elif only is not None:
        remedies = tuple(remedy for remedy in remedies if remedy.name in ("nothing", *only))
    tried = []
    for done, remedy in enumerate(remedies):
        listener.progress(done, len(remedies))
        tried.append(try_remedy(remedy, bench))
    listener.progress(len(remedies), len(remedies))
    predictions = [one.oof_logits.argmax(axis=2).astype(np.int64) for one in tried]
    tally = Tally(predictions, labels, len(class_names), group_ids)
    choice = choose_remedy(tally, metric, seed=seed)
    members, bands_by = class_bands(counts)
    rows = _rows(tried, tally, choice, labels, folds, members)
    gain = choice.to_first[choice.pick]
    return BakeOff(
        rows=rows, pick=rows[choice.pick].name, best=rows[choice.best].name, metric=metric,
        corrected=float(choice.values[choice.pick]) - choice.optimism,
        gain=Interval(
            estimate=gain.estimate - choice.optimism * (choice.pick > 0), low=gain.low - choice.optimism,
            high=gain.high, level=gain.level,
        ) if choice.pick else gain,
        bands={name: tuple(printable(class_names[k]) for k in classes) for name, classes in members.items()},
        bands_by=bands_by, class_names=tuple(printable(name) for name in class_names), class_counts=counts,
        notes=notes, num_images=len(labels), seconds=time.perf_counter() - began,
        _tried=tuple(tried), _tally=tally, _choice=choice,
    )  # fmt: skip


def class_bands(counts: NDArray[np.int64]) -> tuple[dict[str, list[int]], str]:
    """Classes with many, medium and few images, and how that was drawn: by number, or by terciles where all are alike.

    Args:
        counts: int64 (K,); classes without images are in no band.
    """
    seen = np.flatnonzero(counts > 0)
    bands = {
        "many": [k for k in seen.tolist() if counts[k] > MANY],
        "medium": [k for k in seen.tolist() if FEW <= counts[k] <= MANY],
        "few": [k for k in seen.tolist() if counts[k] < FEW],
    }
    if sum(bool(classes) for classes in bands.values()) >= 2 or len(seen) < 3:
        return bands, f"many: more than {MANY} images, medium: {FEW} to {MANY}, few: fewer than {FEW}"
    order = seen[np.argsort(-counts[seen], kind="stable")]
    parts = np.array_split(order, 3)
    names = ("many", "medium", "few")
    return {name: sorted(part.tolist()) for name, part in zip(names, parts, strict=True)}, (
        "many, medium and few: thirds of the classes by size"
    )


def _rows(
    tried: list[Tried], tally: Tally, choice: Choice, labels: NDArray[np.int64], folds: NDArray[np.integer],
    members: dict[str, list[int]],
) -> tuple[Row, ...]:  # fmt: skip
    ones = np.ones((1, tally.groups.number))
    macro_f1, balanced, accuracy = (
        tally.values(metric, ones)[0] for metric in ("macro_f1", "balanced_accuracy", "accuracy")
    )
    safe = unbeaten(choice.values, choice.reach)
    rows = []
    for place, one in enumerate(tried):
        recalls = tally.recalls(place)
        loss, temperature = _recalibrated(one.oof_logits, labels, folds)
        to_best = choice.to_best[place]
        remedy = one.remedy
        rows.append(
            Row(
                name=remedy.name, title=remedy.title,
                setting=f"{remedy.setting} = {one.setting:g}" if remedy.setting else "",
                macro_f1=float(macro_f1[place]), balanced_accuracy=float(balanced[place]),
                accuracy=float(accuracy[place]),
                bands={name: float(recalls[ks].mean()) if ks else None for name, ks in members.items()},
                log_loss=loss, temperature=temperature, difference=choice.to_first[place], difference_to_best=to_best,
                unbeaten=bool(safe[place]), seconds=one.seconds,
            )
        )  # fmt: skip
    return tuple(rows)


def _recalibrated(
    logits: NDArray[np.float32], labels: NDArray[np.int64], folds: NDArray[np.integer]
) -> tuple[float, float]:
    """Log loss with a temperature fitted on the other half of the folds, and the temperature of all."""
    flat, tiled, half = logits.reshape(-1, logits.shape[-1]), np.tile(labels, len(logits)), folds.ravel() % 2 == 0
    losses = np.empty(len(flat))
    for part in (half, ~half):
        probs = softmax(flat[part], temperature=fit_temperature(flat[~part], tiled[~part]))
        losses[part] = -np.log(np.maximum(probs[np.arange(len(probs)), tiled[part]], np.finfo(np.float64).eps))
    return float(losses.mean()), fit_temperature(flat, tiled)


def _points(difference: Interval) -> str:
    return f"{100 * difference.estimate:+.1f} points ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
