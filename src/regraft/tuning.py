"""A fine-tuned classifier and its honest estimate: the training stage joined with data, features and evaluation.

    development → train and validation → fine_tune → the tuned backbone's features → calibrate on validation → test

With a locked test set, a fifth of the development images (or the validation split that the data give) decides about
epochs, averages, prior adjustment and temperature, and the test set is predicted once. Without one, the settings are
fixed beforehand and every fold is fine-tuned: the estimate is out of fold, and the model is one more fit on all images.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.config import Settled
from regraft.errors import DataError, UsageError
from regraft.evaluate import calibration, intervals
from regraft.evaluate.report_training import Beside, Training
from regraft.export.bundle import Head
from regraft.features.extract import extract
from regraft.files import write_bytes
from regraft.fit.linear_probe import DEFAULT_TAUS, nearly_balanced
from regraft.fit.recipes import Recipe
from regraft.fit.selection import choose_tau, dense_groups
from regraft.models.backbones import Backbone, hash_state
from regraft.outcome import Evaluated, evaluated
from regraft.training import Job, Rows, begin, folds_of, split_off_validation, train_model, watchers
from regraft.types import JSON, Predictions

if TYPE_CHECKING:
    from torch import nn

    from regraft.fit.fine_tune import Tuned


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TunedRun:
    """What came of it.

    Attributes:
        backbone: the tuned one, ready for an engine and a bundle.
        head: its head, prior adjustment and temperature included.
        predictions: held-out probabilities: of validation and test images, or out of fold.
        estimate: on the test images, or out of fold.
        history: a row an epoch, of the model that is kept.
        settings: option to what it became, and why.
        facts: for the record: parameters trained, weights taken, share of the time spent waiting for images.
    """

    backbone: Backbone
    head: Head
    predictions: Predictions
    estimate: Evaluated
    history: list[JSON]
    settings: dict[str, Settled]
    facts: JSON


def fit_tuned(job: Job) -> TunedRun:
    """Fine-tune, choose, calibrate, estimate.

    Raises:
        DataError: too few images to hold any out.
        UsageError: started as one of several processes.
        TrainingError: see `regraft.fit.loop`.
    """
    if (world := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise UsageError(
            f"regraft fit trains in one process, this is one of {world}: start it without torchrun, or train with "
            "rg.Trainer in a script of your own, which several processes share (docs/training-loop.md)"
        )
    return _with_test_set(job) if len(job.split.test) else _cross_validated(job)


def _with_test_set(job: Job) -> TunedRun:
    train, val, why = split_off_validation(job)
    job.listener.say(f"{len(train):,} images to train on, {len(val):,} to validate with: {why}")
    module, recipe = begin(job, len(train), has_validation=True)
    with job.watch.stage("train"):
        tuned = train_model(job, module, recipe, train, val, job.checkpoints, watchers(job, recipe))
    job.listener.say(tuned.weights)

    backbone = tuned_backbone(job, tuned.classifier.backbone)
    rows = np.concatenate([val, job.split.test])
    with job.watch.stage("extract"):
        features = extract(
            job.manifest.select(rows), backbone, transform=backbone.transform, choice=job.choice,
            cache_dir=job.cache_dir, progress=job.listener.progress,
        )  # fmt: skip
    if len(features.failed):
        raise DataError(
            f"files stay as they are during a run: {len(features.failed)} of the images held out changed or vanished, "
            f"such as {job.manifest.names[rows[features.failed[0]]]!r}; when they are back, go on with --resume"
        )
    weight, bias = _plain_head(tuned)
    logits = features.values.astype(np.float32) @ weight.T + bias
    labels = job.manifest.labels
    adjustment, said = _prior_adjustment(job, logits[: len(val)], train, val)
    job.listener.say(said)
    logits = logits + adjustment
    temperature = calibration.fit_temperature(logits[: len(val)], labels[val])
    head = Head(weight=weight, bias=bias + adjustment, temperature=temperature)
    held_out = _predictions(job, rows, head.pred_probs(features.values), np.arange(len(rows)) < len(val))
    test = _predictions(job, job.split.test, held_out.pred_probs[len(val) :], np.zeros(len(job.split.test), bool))
    group_ids = job.split.group_ids[job.split.test]
    found = intervals.group_bootstrap(
        labels[job.split.test], test.pred_probs, group_ids=group_ids, seed=job.config.seed
    )
    return _finished(
        job, tuned, recipe, backbone, head, held_out, evaluated("test", found, test, labels[job.split.development]),
        extra={"num_train": len(train), "num_validation": len(val), "prior_adjustment": said},
    )  # fmt: skip


def _cross_validated(job: Job) -> TunedRun:
    """Every fold fine-tuned with the same settings, then one more fit on all images: nothing is chosen on the way."""
    rows = job.split.development
    folds = folds_of(job, rows, job.config.folds)
    if folds is None:
        raise DataError(f"cross-validation needs two groups of images at least: {len(rows)} images are too few")
    num_folds = int(folds.max()) + 1
    job.listener.say(
        f"no test set: {num_folds} fits give the estimate out of fold, and one more on all images is the model; "
        "--test 0.2 makes it one fit"
    )
    logits = np.zeros((len(rows), job.manifest.num_classes), np.float32)
    for fold in range(num_folds):
        held_out, train = rows[folds == fold], rows[folds != fold]
        logits[folds == fold] = _fold_logits(job, fold, num_folds, train, held_out)
    module, recipe = begin(job, len(rows), has_validation=False)
    job.listener.say("the model: a fit on all images")
    with job.watch.stage("train"):
        tuned = train_model(
            job, module, recipe, rows, None, job.checkpoints, watchers(job, recipe), share=1 / (num_folds + 1)
        )
    backbone = tuned_backbone(job, tuned.classifier.backbone)
    weight, bias = _plain_head(tuned)
    adjustment, said = _prior_adjustment(job, logits, rows, rows)
    job.listener.say(said)
    logits = logits + adjustment
    labels = job.manifest.labels
    temperature = calibration.fit_temperature(logits, labels[rows])
    head = Head(weight=weight, bias=bias + adjustment, temperature=temperature)
    probs = calibration.softmax(logits, temperature=temperature)
    held = _predictions(job, rows, probs, np.ones(len(rows), bool))
    found = intervals.group_bootstrap(
        labels[rows], probs, group_ids=job.split.group_ids[rows], seed=job.config.seed
    )  # fmt: skip
    return _finished(
        job, tuned, recipe, backbone, head, held, evaluated("cv", found, held, labels[rows]),
        extra={"num_train": len(rows), "num_folds": num_folds, "prior_adjustment": said},
    )  # fmt: skip


def _fold_logits(job: Job, fold: int, num_folds: int, train: Rows, held_out: Rows) -> NDArray[np.float32]:
    """Logits of a fold's held-out images by a model that was trained on the others; kept for a resume."""
    folder = job.checkpoints / f"fold-{fold + 1}"
    done = folder / "logits.npy"
    if done.is_file():
        kept: NDArray[np.float32] = np.load(done)
        return kept
    module, recipe = begin(job, len(train), has_validation=False, quiet=fold > 0)
    job.listener.say(f"fold {fold + 1} of {num_folds}: {len(train):,} images to train on")
    with job.watch.stage("folds"):
        tuned = train_model(
            job, module, recipe, train, None, folder, (), held_out=held_out, share=1 / (num_folds + 1), seed=fold + 1
        )
    assert tuned.test_logits is not None
    for path in folder.iterdir():  # done: what is left of the fold is its logits
        path.unlink()
    _save_array(done, tuned.test_logits)
    return tuned.test_logits


def _plain_head(tuned: Tuned) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    head: Any = tuned.classifier.head
    return head.weight.detach().numpy().astype(np.float32), head.bias.detach().numpy().astype(np.float32)


def _prior_adjustment(
    job: Job, logits: NDArray[np.float32], train: Rows, judged: Rows
) -> tuple[NDArray[np.float32], str]:
    """−τ log π of the training classes, τ by the probe's rule on images that were not trained on."""
    labels = job.manifest.labels
    counts = np.maximum(np.bincount(labels[train], minlength=job.manifest.num_classes), 0.5)
    log_prior = np.log(counts / counts.sum())
    if nearly_balanced(labels[train], None):
        return np.zeros(len(counts), np.float32), "prior adjustment τ = 0: the classes are nearly balanced"
    predicted = np.stack([np.argmax(logits - (tau * log_prior).astype(np.float32), axis=1) for tau in DEFAULT_TAUS])
    tau, best = choose_tau(
        predicted, labels[judged], job.manifest.num_classes, job.config.metric, np.ones(len(judged)), None,
        dense_groups(job.split.group_ids[judged]),
    )  # fmt: skip
    why = "the best" if tau == best else f"the smallest within one standard error of the best, {DEFAULT_TAUS[best]:g}"
    adjustment = -DEFAULT_TAUS[tau] * (log_prior - log_prior.mean())
    said = f"prior adjustment τ = {DEFAULT_TAUS[tau]:g}: by {job.config.metric} {why}"
    return adjustment.astype(np.float32), said


def tuned_backbone(job: Job, module: nn.Module) -> Backbone:
    """The trained backbone as one that engines open and bundles keep."""
    return dataclasses.replace(
        job.backbone,
        source=f"{job.config.strategy} of {job.backbone.source}",
        weights_hash=hash_state(module),
        build=_always(module),
        build_at=None,
        ir=None,
    )


def _always(module: nn.Module) -> Callable[[], nn.Module]:
    return lambda: module


def _predictions(job: Job, rows: Rows, probs: NDArray[np.float64], validation: NDArray[np.bool_]) -> Predictions:
    """Of rows that were not trained on; validation rows helped to choose."""
    cross_validated = not len(job.split.test)
    return Predictions(
        images=np.array(job.manifest.names, dtype=object)[rows],
        pred_probs=probs,
        class_names=job.manifest.class_names,
        labels=job.manifest.labels[rows],
        split=np.where(validation, "train" if cross_validated else "val", "test"),
        out_of_fold=validation & cross_validated,
        group_ids=job.split.group_ids[rows],
    )


def _finished(
    job: Job, tuned: Tuned, recipe: Recipe, backbone: Backbone, head: Head, predictions: Predictions,
    estimate: Evaluated, *, extra: JSON,
) -> TunedRun:  # fmt: skip
    return TunedRun(
        backbone=backbone,
        head=head,
        predictions=predictions,
        estimate=estimate,
        history=tuned.history.rows,
        settings={name: Settled(choice.value, choice.reason) for name, choice in recipe.items()},
        facts={
            **extra,
            "num_trained_parameters": tuned.num_trained,
            "weights": tuned.weights,
            "stopped": tuned.history.stopped,
            "share_of_time_waiting_for_images": round(tuned.waited, 4),
        },
    )


def beside_probe(job: Job, tuned: TunedRun, probe: Evaluated) -> tuple[JSON, Training]:
    """What `result.json` and the report say besides: facts of the training, and the linear probe on the same images.

    Args:
        job: the job.
        tuned: what came of it.
        probe: the linear probe's estimate, of all development images.

    Returns:
        `{"training": {…}, "beside": {"strategy", "metrics": {measure: interval}, "difference": {measure: interval}}}`,
        the difference being tuned minus probe, paired; and the same for the report.
    """
    rows = job.split.test if len(job.split.test) else job.split.development
    difference = intervals.paired_difference(
        job.manifest.labels[rows], tuned.estimate.predictions.pred_probs, probe.predictions.pred_probs,
        group_ids=job.split.group_ids[rows], seed=job.config.seed,
    )  # fmt: skip
    gain = difference[job.config.metric]
    job.listener.say(
        f"beside the solved head on the frozen backbone: {job.config.metric} {100 * gain.estimate:+.1f} points "
        f"({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
    )
    seconds = job.watch.seconds
    contents = Training(
        history=tuned.history,
        metric=job.config.metric,
        settings=[(name, value.value, value.reason) for name, value in tuned.settings.items()],
        notes=[str(tuned.facts["weights"]), str(tuned.facts["stopped"]), str(tuned.facts["prior_adjustment"])],
        beside=Beside(
            metrics=probe.intervals,
            difference=difference,
            seconds=(seconds.get("fit", 0.0), seconds.get("train", 0.0) + seconds.get("folds", 0.0)),
        ),
    )
    return {
        "training": tuned.facts,
        "beside": {
            "strategy": "linear_probe",
            "metrics": {name: interval.as_dict() for name, interval in probe.intervals.items()},
            "difference": {name: interval.as_dict() for name, interval in difference.items()},
        },
    }, contents


def _save_array(path: Path, values: NDArray[np.float32]) -> None:
    import io

    stream = io.BytesIO()
    np.save(stream, values)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, stream.getvalue())
