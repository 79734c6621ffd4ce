"""One training of a run: what it works with, the settings and why, and the call into the training stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft import data as data_stage
from regraft.config import FitConfig
from regraft.errors import DataError
from regraft.features.engines import Choice
from regraft.fit.linear_probe import LinearProbe, fit_linear_probe
from regraft.fit.recipes import Recipe
from regraft.fit.strategies import OFF, Facts, settings_for
from regraft.models.backbones import Backbone, untrained
from regraft.progress import Listener, Stopwatch
from regraft.store import runs
from regraft.tracking.base import Tracker
from regraft.types import Features, Manifest, Split

if TYPE_CHECKING:
    from torch import nn

    from regraft.fit.callbacks import Callback
    from regraft.fit.fine_tune import Tuned
    from regraft.fit.inputs import Images

VALIDATION_FOLDS = 5
"""One of so many parts of the development images validates."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """What a fine-tuning run works with.

    Attributes:
        manifest: the images.
        split: development and test.
        features: of the backbone before training, row for row.
        config: options.
        backbone: with the transform that is used.
        choice: engine and precision that the tuned backbone is served with.
        folder: of the run, for checkpoints and metrics.
        cache_dir: for features and converted backbones.
        resume: go on from the folder's checkpoints.
        listener: hears of it.
        watch: times it.
        tracker: hears the numbers too, besides TensorBoard.
        settled: option to (value, why), of what is settled before the training.
    """

    manifest: Manifest
    split: Split
    features: Features
    config: FitConfig
    backbone: Backbone
    choice: Choice
    folder: Path
    cache_dir: Path
    resume: bool
    listener: Listener
    watch: Stopwatch
    tracker: Tracker = field(default_factory=Tracker)
    settled: Mapping[str, tuple[Any, str]] = field(default_factory=dict)

    @property
    def checkpoints(self) -> Path:
        """Where the loop keeps its files."""
        return self.folder / runs.CHECKPOINTS


def recipe_of(job: Job, module: nn.Module, num_images: int, *, has_validation: bool) -> Recipe:
    """Every setting of the training, with its reason."""
    import torch

    from regraft.fit.fine_tune import activation_bytes

    size = job.backbone.transform.size
    facts = Facts(
        num_images=num_images,
        num_classes=job.manifest.num_classes,
        image_size=size,
        device="cuda" if torch.cuda.is_available() else "cpu",
        activation_bytes=activation_bytes(module, size) if job.config.strategy == "light" else None,
        has_validation=has_validation,
    )
    return settings_for(job.config.strategy, facts, job.config.training_options())


def begin(job: Job, num_images: int, *, has_validation: bool, quiet: bool = False) -> tuple[nn.Module, Recipe]:
    """The module that is trained, and how."""
    import torch

    backbone = job.backbone
    if job.config.strategy == "scratch":
        backbone = untrained(backbone, cache_dir=job.cache_dir, seed=job.config.seed)
    with torch.random.fork_rng(devices=[]):
        module = backbone.build()
    recipe = recipe_of(job, module, num_images, has_validation=has_validation)
    if not quiet:
        _tell(job.listener, recipe)
    return module, recipe


def watchers(job: Job, recipe: Recipe) -> list[Callback]:
    """Who writes the curves down while the model is trained."""
    from regraft.fit.callbacks import MetricsFile
    from regraft.fit.tensorboard_callback import TensorBoardCallback

    settings = {**job.settled, **{name: (choice.value, choice.reason) for name, choice in recipe.items()}}
    board = TensorBoardCallback(job.folder / runs.TENSORBOARD, settings, also=(job.tracker,))
    return [MetricsFile(job.folder / runs.METRICS), board]


def _tell(listener: Listener, recipe: Recipe) -> None:
    """Every setting with its reason; those that are off share a line."""
    off = [name for name, choice in recipe.items() if choice.reason.startswith(OFF)]
    for name, choice in recipe.items():
        if name not in ("strategy", *off):
            listener.say(f"{name} = {choice.value}: {choice.reason}")
    if off:
        listener.say(f"{OFF}: {', '.join(off)}")


def train_model(
    job: Job, module: nn.Module, recipe: Recipe, train: Rows, val: Rows | None, folder: Path,
    callbacks: Sequence[Callback], *, held_out: Rows | None = None, share: float = 1.0, seed: int = 0,
) -> Tuned:  # fmt: skip
    """Fine-tune on `train`, choose on `val`, predict `held_out`; a resume goes on from the folder's checkpoints."""
    from regraft.fit.fine_tune import fine_tune

    head = None
    if job.config.strategy in ("light", "lp_ft"):
        probe = probe_on(job, train)
        head = probe.weight, probe.bias - probe.prior_adjustment
    limit = job.config.time_limit_seconds
    return fine_tune(
        module, recipe, images_of(job, train), None if val is None else images_of(job, val),
        test=None if held_out is None else images_of(job, held_out), num_classes=job.manifest.num_classes,
        transform=job.backbone.transform, head=head, metric=job.config.metric, seed=job.config.seed + seed,
        checkpoint_dir=folder, resume=job.resume, time_limit_seconds=None if limit is None else limit * share,
        max_steps=job.config.max_steps, callbacks=callbacks, listener=job.listener,
    )  # fmt: skip


def images_of(job: Job, rows: Rows) -> Images:
    """These rows as what is trained on, or predicted."""
    from regraft.fit.inputs import Images

    return Images.of(job.manifest, rows)


def probe_on(job: Job, rows: Rows) -> LinearProbe:
    """The solved head on these rows alone: where training begins must know nothing of the images it is judged on."""
    labels = job.manifest.labels[rows]
    folds = folds_of(job, rows, job.config.folds)
    return fit_linear_probe(
        job.features.values[rows], labels, num_classes=job.manifest.num_classes,
        folds=np.arange(len(rows)) % 2 if folds is None else folds,
        group_ids=job.split.group_ids[rows], metric=job.config.metric, taus=(0.0,),
    )  # fmt: skip


def folds_of(job: Job, rows: Rows, num_folds: int) -> NDArray[np.int8] | None:
    """int8 (n,), the fold of each row; None where there is only one group."""
    groups = job.split.group_ids[rows]
    num = min(num_folds, len(np.unique(groups)))
    if num < 2:
        return None
    labels, hashes = job.manifest.labels[rows], job.manifest.hashes[rows]
    folds: NDArray[np.int8] = data_stage.assign_folds(labels, groups, hashes, num_folds=num, seed=job.config.seed)[0]
    return folds


def split_off_validation(job: Job) -> tuple[Rows, Rows, str]:
    """Rows to train on and to validate with, and why these."""
    rows = job.split.development
    given = rows[job.manifest.given_splits[rows] == "val"]
    if len(given) and len(given) < len(rows):
        return np.setdiff1d(rows, given), given, "the validation split of the data"
    folds = folds_of(job, rows, VALIDATION_FOLDS)
    if folds is None:
        raise DataError(f"training holds a part of the images out, {len(rows)} are too few; take more, or linear_probe")
    return rows[folds != 0], rows[folds == 0], "a fifth of the development images, stratified"
