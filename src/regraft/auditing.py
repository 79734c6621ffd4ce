"""From labelled images to what a person should look at: wrong labels, duplicates, leaks, outliers, odd images.

Read `audit` as the outline; every step is one call into a stage. Nothing on disk is changed, and no label either: what
is found is a table, in the order of looking.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regraft import data as data_stage
from regraft.audit.imbalance import Imbalance, describe_imbalance
from regraft.audit.label_noise import LabelAudit, audit_labels
from regraft.audit.leakage import Leaks, find_leaks
from regraft.audit.near_duplicates import NearDuplicates
from regraft.audit.odd_images import OddImages, find_odd_images
from regraft.audit.outliers import Outliers, find_outliers
from regraft.data import Corrected, Scan
from regraft.errors import DataError, UsageError
from regraft.evaluate.calibration import fit_temperature, softmax
from regraft.features.engines import Choice, choose
from regraft.features.extract import extract
from regraft.files import default_cache_dir
from regraft.fit.linear_probe import fit_linear_probe
from regraft.fit.ridge import fit_ridge
from regraft.fit.selection import Metric, check_metric
from regraft.models.backbones import Backbone, resolve
from regraft.progress import Listener, Stopwatch
from regraft.studies.duplicate_groups import keep_for_all, search_duplicates
from regraft.studies.leak_price import LeakPrice, join_groups, leak_price
from regraft.studies.reviewed_sets import reviewed_duplicates
from regraft.types import Features, IssueColumn, Issues, Manifest, Split
from regraft.usable import only

_EVERY = slice(1, 17, 2)
"""Of the 20 strengths, from λ down to λ/100,000, that a fit tries, these 8 are tried for an audit: each a third of the
last. Of 10,000 images it found the same errors in three fifths of the time."""


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """Options of an audit.

    Attributes:
        backbone: Whose features.
        metric: What the price of leaks is told in: macro_f1, balanced_accuracy or accuracy.
        price: Whether the price of leaks is measured, which solves the head twice more.
        detector: A further judge of outliers by PyOD's name for it, or None.
        engine: What runs the backbone.
        precision: Its arithmetic.
        folds: Number of folds.
        test: Share that is locked away, as in fit: what lies across that border is a leak.
        seed: Of the split and the folds.
        cache_dir: Folder for features; by default the user's cache folder.
    """

    backbone: str = "tf_efficientnet_lite0"
    metric: Metric = "macro_f1"
    price: bool = True
    detector: str | None = None
    engine: str = "auto"
    precision: str = "auto"
    folds: int = 5
    test: float | Literal["auto"] = "auto"
    seed: int = 0
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        check_metric(self.metric)
        if not 2 <= self.folds <= 100:
            raise UsageError(f"folds lie between 2 and 100: {self.folds!r} does not fit")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Audit:
    """What was found.

    Attributes:
        scan: what was read, with what it left out.
        manifest: the N images that were judged.
        split: development and test.
        roles: (N,) the given splits, or "train" and "test" as fit would draw them; "" for an image in neither.
        given: whether the data gave the splits.
        imbalance: counts of the classes, and which are too small to judge.
        labels: which labels are probably wrong, or None where they could not be judged.
        duplicates: near-duplicates.
        group_ids: int64 (N,), groups joined wherever near-duplicates link them.
        leaks: what lies across the splits.
        price: what leaks are worth, or None where there are none or it was not asked for.
        outliers: images that belong nowhere, or not in their class.
        odd: dark, blank, blurred, tiny, … images.
        issues: all of it, a row an image.
        notes: which decisions were applied, and what could not be judged, and why.
        backbone: whose features.
        features: of the N images, row for row.
        neighbours: of every image the 16 nearest by these, and their similarity: see `duplicate_groups.Search`.
        seconds: stage to wall seconds.
    """

    scan: Scan
    manifest: Manifest
    split: Split
    roles: NDArray[np.str_]
    given: bool
    imbalance: Imbalance
    labels: LabelAudit | None
    duplicates: NearDuplicates
    group_ids: NDArray[np.int64]
    leaks: Leaks
    price: LeakPrice | None
    outliers: Outliers
    odd: OddImages
    issues: Issues
    notes: tuple[str, ...]
    backbone: str
    features: Features
    neighbours: tuple[NDArray[np.int64], NDArray[np.float32]]
    seconds: dict[str, float]

    @property
    def too_small(self) -> tuple[str, ...]:
        """Names of the classes whose labels could not be judged: fewer than five independent images."""
        return () if self.labels is None else tuple(self.manifest.class_names[k] for k in self.labels.too_small)


def audit(scan: Scan, options: AuditOptions | None = None, *, listener: Listener | None = None) -> Audit:
    """Judge every usable image by a model that has not seen its label, and by all others.

    Args:
        scan: what `read` gave; where it carries decisions, what they settled is not asked again.
        options: all options.
        listener: hears of progress.

    Raises:
        DataError: fewer than two classes have usable images.
        BackboneError: the backbone is not to be had.
    """
    options = options if options is not None else AuditOptions()
    listener = listener if listener is not None else Listener()
    watch = Stopwatch(listener)
    cache_dir = options.cache_dir if options.cache_dir is not None else default_cache_dir()
    detectors = None
    if options.detector is not None:
        from regraft.audit.outlier_plugin import pyod_detector

        detectors = {options.detector: pyod_detector(options.detector)}

    backbone = resolve(options.backbone, cache_dir=cache_dir)
    backbone = backbone.at(dataclasses.replace(backbone.transform, policy="squash"))  # as fit's: features are shared
    choice = choose(options.engine, options.precision)
    with watch.stage("split"):
        manifest, split, corrected = _images(scan, options, listener)
    manifest, split, features = _features(scan, manifest, split, backbone, choice, cache_dir, listener, watch)
    roles, given = _roles(manifest, split)
    listener.say(split.reason)
    search = search_duplicates(
        manifest, features, backbone, choice=choice, cache_dir=cache_dir, listener=listener, watch=watch
    )
    duplicates = search.found
    if corrected is not None:
        keep_for_all(cache_dir, corrected.manifest, manifest, duplicates)
        duplicates = reviewed_duplicates(duplicates, manifest, split, corrected)
    listener.say(duplicates.calibration.reason)
    group_ids = join_groups(split.group_ids, duplicates.sets)

    notes = [] if corrected is None else [f"{said[0].upper()}{said[1:]}." for said in corrected.sentences]
    with watch.stage("labels"):
        labels, strengths = _labels(manifest, features.values, group_ids, options, listener, notes)
    with watch.stage("leaks"):
        leaks = find_leaks(
            roles, duplicates.pairs, duplicates.similarity, groups=manifest.groups, sets=duplicates.sets,
            images=manifest.names,
        )  # fmt: skip
    price = None
    if options.price and (duplicates.sets >= 0).any():
        with watch.stage("price"):
            price = _price(manifest, features, split, duplicates, strengths, options, notes)
    with watch.stage("outliers"):
        outliers = find_outliers(
            features.values, manifest.labels, group_ids=group_ids, class_names=manifest.class_names,
            detectors=detectors, neighbours=search.neighbours,
        )  # fmt: skip
        odd = find_odd_images(search.records, manifest.sizes)
    return Audit(
        scan=scan, manifest=manifest, split=split, roles=roles, given=given,
        imbalance=describe_imbalance(manifest.labels, manifest.class_names, group_ids=group_ids, splits=roles),
        labels=labels, duplicates=duplicates, group_ids=group_ids, leaks=leaks, price=price, outliers=outliers, odd=odd,
        issues=_issues(manifest, labels, duplicates, leaks, outliers, odd), notes=(*notes, *odd.notes),
        backbone=backbone.name, features=features, neighbours=search.neighbours, seconds=dict(watch.seconds),
    )  # fmt: skip


def _images(scan: Scan, options: AuditOptions, listener: Listener) -> tuple[Manifest, Split, Corrected | None]:
    """The images with a label, and which of them a fit would lock away.

    With decisions, all images are under their labels as corrected, test images too, and without what was left out: an
    audit tells no score, and asks what is still wrong.
    """
    _check_classes(scan.manifest.select(scan.manifest.labels >= 0), scan)
    parted = data_stage.part(scan, test=options.test, seed=options.seed, say=listener.say)
    corrected = parted.corrected
    if corrected is None:
        return parted.manifest, parted.split, None
    manifest = dataclasses.replace(corrected.manifest, labels=corrected.as_corrected)
    manifest, split = only(manifest, parted.split, np.flatnonzero(corrected.as_corrected >= 0))
    _check_classes(manifest, scan)
    return manifest, split, corrected


def _features(
    scan: Scan,
    manifest: Manifest,
    split: Split,
    backbone: Backbone,
    choice: Choice,
    cache_dir: Path,
    listener: Listener,
    watch: Stopwatch,
) -> tuple[Manifest, Split, Features]:
    """The images that can still be read, and their features."""
    with watch.stage("extract"):
        features = extract(
            manifest, backbone, transform=backbone.transform, choice=choice, cache_dir=cache_dir,
            progress=listener.progress,
        )  # fmt: skip
    if len(features.failed):
        listener.say(f"{len(features.failed):,} images changed or vanished since the scan and were left out")
        keep = np.setdiff1d(np.arange(len(manifest)), features.failed)
        manifest, split = only(manifest, split, keep)
        features = dataclasses.replace(features, values=features.values[keep], failed=np.empty(0, np.int64))
        _check_classes(manifest, scan)
    return manifest, split, features


def _check_classes(manifest: Manifest, scan: Scan) -> None:
    present = int((manifest.class_counts() > 0).sum())
    if present < 2:
        counts = ", ".join(f"{kind} {count}" for kind, count in scan.counts_by_kind.items()) or "nothing"
        raise DataError(
            f"an audit compares at least 2 classes with usable images: {present} found among {scan.num_files} files "
            f"(left out or remarked: {counts}); list all: regraft scan DATA --issues issues.csv"
        )


def _roles(manifest: Manifest, split: Split) -> tuple[NDArray[np.str_], bool]:
    """The splits that leaks are looked for between: those of the data, or those that fit would draw."""
    if set(manifest.given_splits.tolist()) & {"val", "test"}:
        return manifest.given_splits, True
    roles = np.full(len(manifest), "", dtype="U5")
    if len(split.test):
        roles[split.development], roles[split.test] = "train", "test"
    return roles, False


def _labels(
    manifest: Manifest,
    features: NDArray[np.float16],
    group_ids: NDArray[np.int64],
    options: AuditOptions,
    listener: Listener,
    notes: list[str],
) -> tuple[LabelAudit | None, Sequence[float] | str]:
    """The audit of the labels, by heads that never saw an image's label or its duplicate's; and the heads' strengths.

    Test images are judged like all others: by cross-validation over all images, of which no score is told.
    """
    labels, num_classes = manifest.labels, manifest.num_classes
    num_groups = len(np.unique(group_ids))
    if num_groups < 2:
        notes.append("labels were not judged: all images belong to one group, so that none can be held out")
        return None, "auto"
    n = len(labels)
    folds = data_stage.assign_folds(
        labels, group_ids, manifest.hashes, num_folds=min(options.folds, num_groups),
        num_repeats=5 if n < 500 else 3 if n < 2000 else 1, seed=options.seed,
    )  # fmt: skip
    try:
        ridge = fit_ridge(features, labels, num_classes=num_classes, group_ids=group_ids)
        strengths = ridge.strengths[_EVERY].tolist()
        probe = fit_linear_probe(
            features, labels, num_classes=num_classes, folds=folds, group_ids=group_ids, taus=(0.0,),
            strengths=strengths, progress=listener.progress,
        )  # fmt: skip
        held_out = probe.oof_chosen_logits()
        temperature = fit_temperature(held_out.reshape(-1, num_classes), np.tile(labels, probe.num_repeats))
        found = audit_labels(
            labels, softmax(held_out, temperature=temperature), folds=folds, features=features,
            group_ids=group_ids, scores={"ridge": ridge.oof_scores}, class_names=manifest.class_names,
            seed=options.seed,
        )  # fmt: skip
    except (DataError, UsageError) as error:  # groups so few and mixed that a fold leaves one class to learn from
        notes.append(f"labels were not judged: {error}")
        return None, "auto"
    return found, strengths


def label_suspects(
    manifest: Manifest, features: NDArray[np.float16], group_ids: NDArray[np.int64]
) -> NDArray[np.bool_] | None:
    """The part of an audit that judges labels, on features that are at hand: bool (N,), or None where it cannot."""
    found, _ = _labels(manifest, features, group_ids, AuditOptions(), Listener(), [])
    return None if found is None else found.column.is_issue


def _price(
    manifest: Manifest,
    features: Features,
    split: Split,
    duplicates: NearDuplicates,
    strengths: Sequence[float] | str,
    options: AuditOptions,
    notes: list[str],
) -> LeakPrice | None:
    try:
        return leak_price(
            features.values, manifest.labels, num_classes=manifest.num_classes, group_ids=split.group_ids,
            near_duplicate_sets=duplicates.sets, hashes=manifest.hashes, num_folds=options.folds,
            metric=options.metric, strengths=strengths, seed=options.seed,
        )  # fmt: skip
    except DataError as error:
        notes.append(f"the price of leaks was not measured: {error}")
        return None


def _issues(
    manifest: Manifest,
    labels: LabelAudit | None,
    duplicates: NearDuplicates,
    leaks: Leaks,
    outliers: Outliers,
    odd: OddImages,
) -> Issues:
    columns: dict[str, IssueColumn] = {} if labels is None else {"label": labels.column}
    columns |= {
        "near_duplicate": duplicates.column, "leakage": leaks.column, "outlier": outliers.column,
        "odd_image": odd.column,
    }  # fmt: skip
    nothing: NDArray[Any] = np.full(len(manifest), -1, np.int64)
    return Issues(
        columns=columns,
        suggested_labels=nothing if labels is None else labels.suggested_labels,
        near_duplicate_sets=duplicates.sets,
    )
