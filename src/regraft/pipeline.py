"""An image's whole way: scan → check → split → extract → fit → evaluate → bundle → report.

Read `fit` as the outline; every step is one call into a stage, and the stages meet only here.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft import data as data_stage
from regraft import decided, environment, resuming, training, tuning
from regraft.config import FitConfig
from regraft.data import Scan
from regraft.data.split import group_numbers
from regraft.errors import DataError
from regraft.evaluate import intervals
from regraft.evaluate.report_training import Training
from regraft.export.bundle import save_bundle
from regraft.features.extract import extract
from regraft.files import default_cache_dir, write_json, write_text
from regraft.fit.linear_probe import LinearProbe, fit_linear_probe
from regraft.held_out import estimate, held_out_predictions, solved_probe, solved_remedy
from regraft.outcome import (
    Evaluated,
    as_pairs,
    command_line,
    config_yaml,
    evaluated,
    model_card,
    path_rows,
    result_json,
    rounded,
)
from regraft.predictions import write_predictions
from regraft.predictor import Predictor, load
from regraft.progress import Listener, Stopwatch
from regraft.racing import RacedStrategy, race_strategies
from regraft.settling import backbone_files, settle, tidy, with_training
from regraft.store import runs
from regraft.studies.duplicate_groups import group_near_duplicates
from regraft.tracking.of_run import Tracking
from regraft.tracking.results import write_linear_probe
from regraft.types import JSON, Features, Interval, Manifest, Predictions, Split
from regraft.usable import labelled, without_failed

if TYPE_CHECKING:
    from regraft.studies.bakeoff import BakeOff


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """A finished fit.

    Attributes:
        path: its folder.
        result: the content of `result.json`.
        metrics: the five measures with intervals, on the locked test set or by cross-validation.
        predictions: held-out probabilities of every image that took part.
    """

    path: Path
    result: JSON
    metrics: dict[str, Interval]
    predictions: Predictions

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / runs.REPORT

    @property
    def model(self) -> Predictor:
        """The classifier, loaded from its bundle."""
        return load(self.path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, accuracy={self.metrics['accuracy']}, macro_f1={self.metrics['macro_f1']})"


def read(
    source: str | Path,
    *,
    config: FitConfig | None = None,
    cache_dir: Path | None = None,
    listener: Listener | None = None,
    **options: Any,
) -> Scan:
    """Scan labelled images: a folder of class folders, train/val/test folders, or a CSV or Parquet manifest.

    See `regraft.data.read`; verdicts are remembered in the cache, so a second scan only reads and hashes.
    """
    if config is not None:
        options |= {name: getattr(config, name) for name in _COLUMNS}
    return data_stage.read(
        source,
        cache_dir=cache_dir if cache_dir is not None else default_cache_dir(),
        progress=(listener or Listener()).progress,
        **options,
    )


_COLUMNS = ("image_column", "label_column", "split_column", "group_column")


def fit(
    data: str | Path | Scan, config: FitConfig | None = None, *, listener: Listener | None = None, **options: Any
) -> Run:
    """Fit a classifier, estimate honestly how good it is, and write a run folder with a report.

    Args:
        data: what `read` takes, or what it gave.
        config: all options, or
        options: single ones, by the names of `FitConfig`.
        listener: hears of progress; by default nobody does.

    Returns:
        The finished run.

    Raises:
        DataError: the data do not allow it (fewer than two classes with two images each, …).
        UsageError: wrong options.
        BackboneError: the backbone is not to be had.

    Example:
        >>> run = fit("photos/", seed=1)  # doctest: +SKIP
        >>> run.metrics["accuracy"]  # doctest: +SKIP
    """
    config = config if config is not None else FitConfig.from_options(options)
    listener = listener if listener is not None else Listener()
    unfinished, config = resuming.continued(config)
    with Tracking(config.track, listener.say) as tracking:
        return _fit(data, config, unfinished, listener, tracking)


def _fit(
    data: str | Path | Scan, config: FitConfig, unfinished: Path | None, listener: Listener, tracking: Tracking
) -> Run:
    watch = Stopwatch(listener)
    cache_dir = config.cache_dir if config.cache_dir is not None else default_cache_dir()

    with watch.stage("scan"):
        scan = data if isinstance(data, Scan) else read(data, config=config, cache_dir=cache_dir, listener=listener)
        source = scan.manifest.root if not isinstance(data, str | Path) else Path(data)
        project = config.project or runs.project_name(source)
        if config.decisions and scan.decisions is None:
            scan = decided.with_decisions(
                scan, project, database=config.database, runs_dir=config.runs_dir,
                keep_ambiguous=config.keep_ambiguous, up_to=resuming.last_decision(unfinished), say=listener.say,
            )  # fmt: skip
    _tell_scan(scan, listener)
    labelled(scan)

    with watch.stage("split"):
        parted = data_stage.part(scan, test=config.test, seed=config.seed, say=listener.say)
        manifest, split, version, corrected = parted.manifest, parted.split, parted.version, parted.corrected
    listener.say(split.reason)
    if unfinished is not None:
        resuming.check_same_data(unfinished, version)

    raced = _race(config, scan, cache_dir, listener, watch) if config.strategy == "auto" else None
    asked, config = config, config if raced is None else raced.config
    settled = settle(config, manifest, split, cache_dir=cache_dir, listener=listener, watch=watch)
    if raced is not None:
        settled.options.update(raced.settled)
    backbone, transform = settled.backbone, settled.backbone.transform

    folder = unfinished if unfinished is not None else runs.create_run_folder(
        config.runs_dir, project, config.name, exist_ok=config.exist_ok
    )  # fmt: skip
    history = decided.record(scan.decisions)
    write_text(folder / runs.CONFIG, config_yaml(source, asked, settled.options, version, history))
    write_json(folder / runs.ENV, environment.describe())
    tags = {"strategy": config.strategy, "backbone": backbone.name, "data_version": version}
    tracker = tracking.begin(folder, tags=tags)
    if raced is not None:
        raced.write(folder, folder.parent.name)
    if settled.ranking is not None:
        write_json(folder / runs.RANKING, settled.ranking.as_dict())

    with watch.stage("extract"):
        features = extract(
            manifest, backbone, transform=transform, choice=settled.choice, cache_dir=cache_dir,
            progress=listener.progress,
        )  # fmt: skip
    manifest, split, features = without_failed(manifest, split, features, listener)
    split, words = group_near_duplicates(manifest, split, cache_dir=cache_dir, corrected=corrected)
    listener.say(words)
    rate = f", {features.num_forwarded / features.seconds:,.0f} images/s" if features.num_forwarded else ""
    listener.say(f"{features.num_forwarded:,} images through the backbone, the rest from the cache{rate}")

    with watch.stage("fit"):
        repeats = int(settled.options["repeats"].value)
        folds = _folds(manifest, split, config, repeats)
        probe = _fit_probe(manifest, split, features, folds, config, listener)
        solved = solved_probe(probe)
    listener.say(solved.reason)
    if config.balance == "auto":
        with watch.stage("balance"):
            solved = solved_remedy(_compare_remedies(manifest, split, features, folds, config, listener))
        listener.say(solved.reason)

    with watch.stage("evaluate"):
        head = solved.head
        predictions = held_out_predictions(manifest, split, features, solved)
        found = estimate(manifest, split, predictions, solved, config.seed)

    further: JSON = {} if solved.remedies is None else {"balance": solved.remedies}
    course: Training | None = None
    if config.strategy == "linear_probe":
        rows, last = path_rows(probe), probe.chosen_strength
        write_text(folder / runs.METRICS, "".join(json.dumps(row) + "\n" for row in rows))
        write_linear_probe(
            folder / runs.TENSORBOARD, rows, settings=as_pairs(settled.options), warn=listener.say, also=(tracker,)
        )  # fmt: skip
    else:
        job = training.Job(
            manifest=manifest, split=split, features=features, config=config, backbone=backbone, choice=settled.choice,
            folder=folder, cache_dir=cache_dir, resume=unfinished is not None, listener=listener, watch=watch,
            tracker=tracker, settled=as_pairs(settled.options),
        )  # fmt: skip
        tuned = tuning.fit_tuned(job)
        further, course = tuning.beside_probe(job, tuned, found)
        last = int(tuned.history[-1]["step"])
        backbone, head, predictions, found = tuned.backbone, tuned.head, tuned.predictions, tuned.estimate
        with watch.stage("backbone"):
            settled = with_training(settled, backbone, tuned.settings, cache_dir)
        write_text(folder / runs.CONFIG, config_yaml(source, asked, settled.options, version, history))

    with watch.stage("bundle"):
        save_bundle(
            folder / runs.MODEL,
            class_names=manifest.class_names,
            transform=transform,
            precision=settled.choice.precision,
            head=head,
            backbone=backbone,
            backbone_files=backbone_files(settled, folder),
            versions=environment.versions(),
            details={
                "strategy": config.strategy,
                "data_version": version,
                "fingerprint": features.fingerprint,
                "flip": config.flip and settled.options["augment"].value != "none",
            },
            card=model_card(manifest, backbone, found, config),
        )
        tidy(folder)
        write_predictions(folder / runs.PREDICTIONS, predictions, proba=True)

    scan = decided.with_findings(scan, corrected)
    if (told := decided.told(scan, corrected, manifest, split, found, config.seed)) is not None:
        further["decisions"] = told
        for sentence in told["words"][len(told["notes"]) + 1 :]:
            listener.say(sentence)
    result = further | result_json(
        scan, manifest, split, found, version, strategy=config.strategy, backbone=backbone.name,
        temperature=head.temperature,
    )  # fmt: skip
    with watch.stage("report"):
        from regraft.reporting import write_board_results, write_run_report

        write_run_report(
            folder / runs.REPORT, scan=scan, manifest=manifest, split=split, probe=probe, estimate=found,
            result=result | {"seconds": rounded(watch.seconds)}, settled=settled.options,
            command=command_line(source, asked), training=course, race="" if raced is None else raced.card(),
        )  # fmt: skip
        write_board_results(
            folder / runs.TENSORBOARD, manifest, features, found, listener, step=last, also=(tracker,)
        )  # fmt: skip
    result["seconds"] = rounded(watch.seconds)
    write_json(folder / runs.RESULT, result)  # last: a run without it did not finish
    if course is not None:
        from regraft.fit.averaging import forget_epochs

        forget_epochs(folder / runs.CHECKPOINTS)
    for name, file in (("report", runs.REPORT), ("model", runs.MODEL), ("result", runs.RESULT)):
        tracker.log_artifact(name, folder / file)
    return Run(path=folder, result=result, metrics=found.intervals, predictions=predictions)


def evaluate(
    model: Predictor,
    scan: Scan,
    *,
    seed: int = 0,
    tta: int | None = None,
    tta_flip: bool | None = None,
    listener: Listener | None = None,
) -> Evaluated:
    """The same measures on other labelled data, which the model has not seen; `tta` as in `Predictor.predict_proba`.

    Raises:
        DataError: the data hold classes that the model does not know, or no usable image.
    """
    listener = listener if listener is not None else Listener()
    manifest = labelled(scan, min_classes=1)
    unknown = sorted(set(manifest.class_names) - set(model.class_names))
    if unknown:
        raise DataError(
            f"the classes must be known to the model: {', '.join(map(repr, unknown[:5]))} "
            f"{'is' if len(unknown) == 1 else 'are'} not; it knows {', '.join(map(repr, model.class_names[:12]))}"
        )
    position = {name: number for number, name in enumerate(model.class_names)}
    labels = np.array([position[name] for name in manifest.class_names], np.int64)[manifest.labels]
    paths = [str(manifest.path(i)) for i in range(len(manifest))]
    probs = model.predict_proba(paths, tta=tta, tta_flip=tta_flip, progress=listener.progress)
    usable = np.flatnonzero(~np.isnan(probs).any(axis=1))
    predictions = Predictions(
        images=np.array(manifest.names, dtype=object)[usable],
        pred_probs=probs[usable],
        class_names=model.class_names,
        labels=labels[usable],
    )
    group_ids = group_numbers(manifest)[usable]
    found = intervals.group_bootstrap(labels[usable], probs[usable], group_ids=group_ids, seed=seed)
    return evaluated("test", found, predictions, labels[usable])


def _tell_scan(scan: Scan, listener: Listener) -> None:
    manifest = scan.manifest
    found = f"{len(manifest):,} usable images in {manifest.num_classes} classes"
    listener.say(f"{scan.source}: {found}, {scan.num_excluded:,} left out")
    for note in scan.notes:
        listener.say(note)


def _race(config: FitConfig, scan: Scan, cache_dir: Path, listener: Listener, watch: Stopwatch) -> RacedStrategy:
    from regraft.auditing import label_suspects

    began = time.perf_counter()
    raced = race_strategies(config, scan, cache_dir=cache_dir, judge=label_suspects, listener=listener)
    watch.seconds["race"] = time.perf_counter() - began  # its own stages were told as they passed
    return raced


def _folds(manifest: Manifest, split: Split, config: FitConfig, repeats: int) -> NDArray[np.int8]:
    rows = split.development
    return data_stage.assign_folds(
        manifest.labels[rows],
        split.group_ids[rows],
        manifest.hashes[rows],
        num_folds=min(config.folds, len(np.unique(split.group_ids[rows]))),
        num_repeats=repeats,
        seed=config.seed,
    )


def _fit_probe(
    manifest: Manifest, split: Split, features: Features, folds: NDArray[np.int8], config: FitConfig, listener: Listener
) -> LinearProbe:
    rows = split.development
    return fit_linear_probe(
        features.values[rows],
        manifest.labels[rows],
        num_classes=manifest.num_classes,
        folds=folds,
        group_ids=split.group_ids[rows],
        metric=config.metric,
        progress=listener.progress,
    )


def _compare_remedies(
    manifest: Manifest, split: Split, features: Features, folds: NDArray[np.int8], config: FitConfig, listener: Listener
) -> BakeOff:
    from regraft.studies.bakeoff import bake_off

    rows = split.development
    return bake_off(
        features.values[rows],
        manifest.labels[rows],
        class_names=manifest.class_names,
        folds=folds,
        group_ids=split.group_ids[rows],
        metric=config.metric,
        seed=config.seed,
        listener=listener,
    )
