"""From labelled images to the answer what to do about their small classes: describe, extract once, compare remedies."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regraft import data as data_stage
from regraft.audit.imbalance import Imbalance, describe_imbalance
from regraft.augmentation import Augmentation, Level
from regraft.data import Scan
from regraft.errors import DataError, UsageError
from regraft.features.engines import choose
from regraft.features.extract import extract
from regraft.features.views import extract_views
from regraft.files import default_cache_dir
from regraft.fit.selection import Metric, check_metric
from regraft.models.backbones import resolve
from regraft.progress import Listener, Stopwatch
from regraft.studies.bakeoff import MIN_FOLDS, BakeOff, bake_off
from regraft.types import Manifest

REPEATED_BELOW = 500
"""With fewer development images the folds are drawn three times."""


@dataclass(frozen=True, kw_only=True)
class BalanceOptions:
    """Options of a comparison of remedies.

    Attributes:
        backbone: Whose features.
        metric: What the remedies are compared by: macro_f1, balanced_accuracy or accuracy.
        views: Up to so many augmented views enlarge each image of a small class; 0 for none.
        augment: How strong those views are: light or medium.
        flip: Whether views are mirrored too.
        engine: What runs the backbone.
        precision: Its arithmetic.
        folds: Number of folds, at least three.
        test: Share that is locked away and takes no part, as in fit.
        seed: Of the split, the folds, the re-sampling and the views.
        cache_dir: Folder for features; by default the user's cache folder.
    """

    backbone: str = "tf_efficientnet_lite0"
    metric: Metric = "macro_f1"
    views: int = 0
    augment: Level = "light"
    flip: bool = False
    engine: str = "auto"
    precision: str = "auto"
    folds: int = 5
    test: float | Literal["auto"] = "auto"
    seed: int = 0
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        check_metric(self.metric)
        wrong = []
        if not 0 <= self.views <= 100:
            wrong.append(f"views lie between 0 and 100: {self.views!r} does not fit")
        if not MIN_FOLDS <= self.folds <= 20:
            wrong.append(f"folds lie between {MIN_FOLDS} and 20: {self.folds!r} does not fit")
        if self.augment not in ("light", "medium"):
            wrong.append(f"augmented views are light or medium: {self.augment!r} does not fit")
        if wrong:
            raise UsageError("; ".join(wrong))


def balance(
    data: str | Path | Scan, options: BalanceOptions | None = None, *, listener: Listener | None = None
) -> tuple[Imbalance, BakeOff]:
    """Describe the imbalance and compare the remedies on development images; the locked test set takes no part.

    Args:
        data: what `read` takes, or what it gave.
        options: all options.
        listener: hears of progress.

    Raises:
        DataError: the data do not allow it: fewer than two classes, or images of fewer than three groups.
        BackboneError: the backbone is not to be had.
    """
    options = options if options is not None else BalanceOptions()
    listener = listener if listener is not None else Listener()
    watch = Stopwatch(listener)
    cache_dir = options.cache_dir if options.cache_dir is not None else default_cache_dir()
    if not isinstance(data, Scan):
        with watch.stage("scan"):
            data = data_stage.read(data, cache_dir=cache_dir, progress=listener.progress)
    parted = data_stage.part(data, test=options.test, seed=options.seed, say=listener.say)
    manifest, split = parted.manifest, parted.split
    listener.say(split.reason)
    roles = np.full(len(manifest), "left out", dtype="U12")
    roles[split.development], roles[split.test] = "development", "test"
    described = describe_imbalance(manifest.labels, manifest.class_names, group_ids=split.group_ids, splits=roles)

    backbone = resolve(options.backbone, cache_dir=cache_dir)
    transform = dataclasses.replace(backbone.transform, policy="squash")  # as fit's, so that they share features
    backbone = backbone.at(transform)
    choice = choose(options.engine, options.precision)
    rows = split.development
    with watch.stage("extract"):
        features = extract(
            manifest.select(rows), backbone, transform=transform, choice=choice, cache_dir=cache_dir,
            progress=listener.progress,
        )  # fmt: skip
    keep = np.setdiff1d(np.arange(len(rows)), features.failed)
    if len(keep) < len(rows):
        listener.say(f"{len(rows) - len(keep):,} images changed or vanished since the scan and were left out")
    values, rows = features.values[keep], rows[keep]
    development, group_ids = manifest.select(rows), split.group_ids[rows]
    num_groups = len(np.unique(group_ids))
    if num_groups < MIN_FOLDS or len(np.unique(development.labels)) < 2:
        raise DataError(
            f"comparing remedies needs two classes and images of at least {MIN_FOLDS} groups, for folds within folds: "
            f"there are {len(np.unique(development.labels))} and {num_groups}; add images"
        )
    views = None
    if options.views:
        with watch.stage("views"):
            found = extract_views(
                development, views_wanted(development, options.views), backbone, transform=transform,
                augmentation=Augmentation(level=options.augment, flip=options.flip, seed=options.seed), choice=choice,
                cache_dir=cache_dir, progress=listener.progress,
            )  # fmt: skip
        views = found if len(found[1]) else None
    folds = data_stage.assign_folds(
        development.labels, group_ids, development.hashes, num_folds=min(options.folds, num_groups),
        num_repeats=3 if len(rows) < REPEATED_BELOW else 1, seed=options.seed,
    )  # fmt: skip
    with watch.stage("balance"):
        compared = bake_off(
            values, development.labels, class_names=manifest.class_names, folds=folds, group_ids=group_ids,
            views=views, metric=options.metric, seed=options.seed, listener=listener,
        )  # fmt: skip
    return described, compared


def views_wanted(manifest: Manifest, most: int) -> NDArray[np.int64]:
    """int64 (N,): views of each image, as many as bring its class to the size of the largest, `most` at the most."""
    counts = manifest.class_counts()
    each = np.minimum(np.ceil(counts.max() / np.maximum(counts, 1)) - 1, most).astype(np.int64)
    return np.asarray(each[manifest.labels], np.int64)
