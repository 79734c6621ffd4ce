"""Fine-tune a backbone by one of the strategies: the model, what of it learns, and one call of the training loop.

cut and freeze (light) → head: solved or new → optimiser, schedule, loss → Trainer → weights chosen on validation
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from regraft.augmentation import Augmentation
from regraft.augmentation.mixing import Mixing
from regraft.errors import UsageError
from regraft.fit.averaging import BestEpochs, candidates, choose_weights, copied
from regraft.fit.callbacks import Callback
from regraft.fit.history import History
from regraft.fit.inputs import FromPixels, Images, Kept, MixBatches
from regraft.fit.loader import ImageBatches
from regraft.fit.loop import Trainer
from regraft.fit.losses import LOSSES, make_loss
from regraft.fit.optim import Schedule, make_optimizer
from regraft.fit.recipes import Recipe
from regraft.fit.sampling import EpochBatches
from regraft.fit.strategies import Settings, settled
from regraft.images import Transform
from regraft.models.drop_path import set_drop_path
from regraft.models.freezing import freeze, freeze_statistics, is_norm, unfreeze
from regraft.models.heads import Classifier, graft
from regraft.models.layer_decay import param_groups
from regraft.models.prefix import Prefix, before_last_stage, cut_behind_prefix
from regraft.progress import Listener

SolvedHead = tuple[NDArray[np.float32], NDArray[np.float32]]
"""weight (K, D) and bias (K,), for the backbone's features."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tuned:
    """A fine-tuned classifier.

    Attributes:
        classifier: in eval mode, on the CPU; its `backbone` is the one that was passed in, changed.
        history: epoch by epoch.
        val_logits: float32 (n, K) of the validation images, or None without any.
        val_failed: numbers of validation images that could not be read; their logits are zero.
        test_logits: float32 (m, K) of the images that were only predicted, or None without any.
        weights: which weights were taken, and why.
        num_trained: parameters that were trained.
        waited: share of the training time in which the loop waited for images.
        seconds: wall time, all included.
    """

    classifier: Classifier
    history: History
    val_logits: NDArray[np.float32] | None
    val_failed: NDArray[np.int64]
    test_logits: NDArray[np.float32] | None
    weights: str
    num_trained: int
    waited: float
    seconds: float


def fine_tune(
    backbone: nn.Module,
    recipe: Recipe,
    train: Images,
    val: Images | None,
    *,
    test: Images | None = None,
    num_classes: int,
    transform: Transform,
    head: SolvedHead | None = None,
    metric: str = "macro_f1",
    seed: int = 0,
    checkpoint_dir: Path | None = None,
    resume: bool = False,
    time_limit_seconds: float | None = None,
    max_steps: int | None = None,
    callbacks: Sequence[Callback] = (),
    device: str = "auto",
    listener: Listener | None = None,
) -> Tuned:
    """Train by a strategy.

    Args:
        backbone: normalised float32 (N, 3, S, S) → (N, D); changed in place. For `scratch` it is already random.
        recipe: what `settings_for` gave.
        train: images that are learnt from.
        val: images on which the best epoch and the averages are chosen; None chooses nothing and keeps the last.
        test: images that are predicted when all is done, and chosen by never.
        num_classes: K.
        transform: the way from an image to the input.
        head: where `light` and `lp_ft` begin, solved on `train` alone; the others begin with a new one.
        metric: accuracy, balanced_accuracy or macro_f1: what the best epoch is the best in.
        seed: of the head, the order, the views, dropout.
        checkpoint_dir: for the loop's files; None keeps none.
        resume: go on from there.
        time_limit_seconds: of the loop.
        max_steps: optimiser steps.
        callbacks: of the loop.
        device: auto, cpu, cuda.
        listener: hears of epochs.

    Raises:
        UsageError: settings that do not go together.
        TrainingError: the loss stays infinite or NaN; memory is too small for one image.
    """
    began = time.perf_counter()
    listener = listener if listener is not None else Listener()
    settings = settled(recipe)
    torch.manual_seed(seed)
    classifier = classifier_for(backbone, settings, num_classes, head)
    frozen = freeze_for(classifier, settings, transform)
    if settings.drop_path:
        set_drop_path(backbone, settings.drop_path)
    where = device_of(device)
    trained: nn.Module = classifier
    kept: list[Kept] = []
    augmentation = Augmentation(level=settings.augment, flip=settings.flip, seed=seed)  # type: ignore[arg-type]
    load, val_load = train.views(transform, augmentation), val.squares(transform) if val is not None else None
    sample_weight = None if train.sample_weight is None else np.asarray(train.sample_weight, np.float64)
    if frozen is not None and settings.cached_views:
        prefix, suffix = frozen
        trained = Classifier(suffix, classifier.head)
        kept = _activations(prefix, train, val, settings, transform, augmentation, where, checkpoint_dir, listener)
        load, val_load = kept[0].load, kept[1].load if val is not None else None
        if kept[0].failed:
            sample_weight = np.ones(len(train)) if sample_weight is None else sample_weight.copy()
            sample_weight[list(kept[0].failed)] = 0.0

    model = FromPixels(trained, transform)
    start = copied(model.state_dict()) if head is not None else None
    order = EpochBatches(
        train.labels, batch_size=settings.batch_size, seed=seed, sampling=settings.sampling,  # type: ignore[arg-type]
        num_epochs=settings.epochs, sample_weight=sample_weight,
    )  # fmt: skip
    weighted = train.sample_weight is not None
    batches = ImageBatches(
        load, train.labels, order, sample_weight=sample_weight if weighted else None,
        on_failure=lambda item, why: listener.say(f"a training image could not be read and is left out: {why}"),
    )  # fmt: skip
    val_batches = None
    if val is not None and val_load is not None:
        val_batches = ImageBatches(val_load, val.labels, batch_size=64, keep=True)
        if kept:
            val_batches.failed = dict(kept[1].failed)
    steps = -(-order.num_batches // settings.grad_accum_steps)
    trainer = trainer_for(
        model, settings, train, sample_weight, num_classes, steps, seed=seed, transform=transform, metric=metric,
        callbacks=callbacks, checkpoint_dir=checkpoint_dir, time_limit_seconds=time_limit_seconds, max_steps=max_steps,
        device=device, listener=listener, has_validation=val is not None,
    )  # fmt: skip
    best = BestEpochs(checkpoint_dir) if checkpoint_dir is not None and settings.averaging and val is not None else None
    if best is not None:
        trainer.callbacks.append(best)
    num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    history = trainer.fit(batches, val_batches, settings.epochs, resume=resume)
    train_seconds = history.rows[-1]["seconds"] if history.rows else 0.0

    logits: NDArray[np.float32] | None = None
    failed = np.empty(0, np.int64)
    weights = f"the last of {len(history.rows)} epochs: no validation images to choose by"
    if val is not None and val_batches is not None:
        of = _logits_of(val_batches, num_classes, trainer)
        if best is not None:
            listener.say("trying averages of the weights on the validation images")
            tried = candidates(model.state_dict(), best.states(), start)
            judged = choose_weights(model, of, val.labels, tried, metric=metric)  # type: ignore[arg-type]
            logits, weights = judged.logits, judged.reason
        else:
            logits, weights = of(model), "those of the best epoch"
        failed = np.array(sorted(val_batches.failed), np.int64)
    for each in kept:
        each.remove()
    test_logits = None
    if test is not None:
        test_batches = ImageBatches(test.squares(transform), test.labels, batch_size=64)
        test_logits = _logits_of(test_batches, num_classes, trainer)(FromPixels(classifier, transform))
    unfreeze(classifier)
    classifier.requires_grad_(False).eval().to("cpu").to(memory_format=torch.contiguous_format)
    return Tuned(
        classifier=classifier, history=history, val_logits=logits, val_failed=failed, test_logits=test_logits,
        weights=weights,
        num_trained=num_trained, waited=batches.waited / max(train_seconds, 1e-9),
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def frozen_prefix(backbone: nn.Module, size: int) -> tuple[Prefix, nn.Module] | None:
    """What `light` leaves frozen and what follows it, where the backbone can be cut there."""
    example = _example(size)
    until = before_last_stage(backbone, example)
    return None if until is None else cut_behind_prefix(backbone, until, example)


def activation_bytes(backbone: nn.Module, size: int) -> int | None:
    """Bytes of one image's activations behind the frozen prefix, in float16; None where it cannot be cut."""
    cut = frozen_prefix(backbone, size)
    if cut is None:
        return None
    with torch.no_grad():
        return int(cut[0](_example(size))[0].numel() * 2)


def _example(size: int) -> Tensor:
    return torch.linspace(-2, 2, 2 * 3 * size * size).reshape(2, 3, size, size)


def device_of(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def classifier_for(backbone: nn.Module, settings: Settings, num_classes: int, head: SolvedHead | None) -> Classifier:
    solved = settings.strategy in ("light", "lp_ft")
    if solved != (head is not None):
        raise UsageError(f"strategy {settings.strategy} begins with a {'solved' if solved else 'new'} head")
    backbone.eval()
    unfreeze(backbone)
    if head is None:
        return graft(backbone, num_classes)
    classifier = graft(backbone, num_classes, num_features=head[0].shape[1])
    with torch.no_grad():
        classifier.head.weight.copy_(torch.from_numpy(head[0]))  # type: ignore[operator]
        classifier.head.bias.copy_(torch.from_numpy(head[1]))  # type: ignore[operator]
    return classifier


def freeze_for(classifier: Classifier, settings: Settings, transform: Transform) -> tuple[Prefix, nn.Module] | None:
    """Freeze what the strategy freezes; the two parts of the backbone where its prefix can be run once."""
    if settings.norm_statistics == "frozen":
        freeze_statistics(classifier)
    if settings.strategy != "light":
        return None
    backbone = classifier.backbone
    example = _example(transform.size)
    until = before_last_stage(backbone, example)
    cut = cut_behind_prefix(backbone, until, example) if until is not None and settings.cached_views else None
    freeze(backbone, until)
    if cut is not None:
        return cut
    if settings.cached_views:
        raise UsageError("activations are kept where a backbone can be cut in two, this one cannot: say cached_views=0")
    for name, module in backbone.named_modules():
        if is_norm(module):
            unfreeze(module)
            if settings.norm_statistics == "frozen":
                freeze_statistics(module)
        elif isinstance(bias := module._parameters.get("bias"), nn.Parameter) and name:
            bias.requires_grad_(True)
    return None


def _activations(
    prefix: Prefix, train: Images, val: Images | None, settings: Settings, transform: Transform,
    augmentation: Augmentation, device: torch.device, folder: Path | None, listener: Listener,
) -> list[Kept]:  # fmt: skip
    prefix.to(device).to(memory_format=torch.channels_last).eval()
    parts = [("train", train, train.views(transform, augmentation), settings.cached_views)]
    if val is not None:
        parts.append(("val", val, val.squares(transform), 1))
    kept = []
    listener.stage_began("prefix")
    began = time.perf_counter()
    for name, images, load, views in parts:
        part = Kept(prefix, transform, folder=folder, name=f"activations-{name}")
        part.make(
            load, len(images), views=views, batch_size=32, device=device, progress=listener.progress,
            on_failure=lambda item, why: listener.say(f"an image could not be read and is left out: {why}"),
        )  # fmt: skip
        kept.append(part)
    listener.stage_ended("prefix", time.perf_counter() - began)
    return kept


def trainer_for(
    model: FromPixels, settings: Settings, train: Images, sample_weight: NDArray[np.floating] | None, num_classes: int,
    steps_per_epoch: int, *, seed: int, transform: Transform, metric: str, callbacks: Sequence[Callback],
    checkpoint_dir: Path | None, time_limit_seconds: float | None, max_steps: int | None, device: str,
    listener: Listener, has_validation: bool,
) -> Trainer:  # fmt: skip
    groups = param_groups(
        model.classifier, lr=settings.lr, layer_decay=settings.layer_decay, weight_decay=settings.weight_decay
    )
    # One pass over the weights instead of a dozen: 3 % of a step of lite0 at 96 px.
    once = {"fused": True} if settings.optimizer == "adamw" and device_of(device).type in ("cpu", "cuda") else {}
    optimizer = make_optimizer(groups, settings.optimizer, lr=settings.lr, weight_decay=settings.weight_decay, **once)
    total = settings.epochs * steps_per_epoch
    schedule = Schedule(
        settings.schedule, total, warmup_steps=min(round(settings.warmup_epochs * steps_per_epoch), total)  # type: ignore[arg-type]
    )  # fmt: skip
    options: dict[str, Any] = {}
    known = inspect.signature(LOSSES[settings.loss]).parameters if settings.loss in LOSSES else {}
    if settings.label_smoothing and "label_smoothing" in known:
        options["label_smoothing"] = settings.label_smoothing
    if settings.loss == "elr":
        options["num_items"] = len(train)
    loss = make_loss(settings.loss, np.bincount(train.labels, sample_weight, num_classes), **options)
    mix = None
    if settings.mixup_alpha or settings.cutmix_alpha:
        if train.sample_weight is not None:
            raise UsageError("mixup and cutmix mix images of equal weight: leave out sample_weight, or the mixing")
        if loss.soft_targets:
            raise UsageError(f"mixup and cutmix do not go with loss {settings.loss}: {loss.soft_targets}")
        mixing = Mixing(
            num_classes, mixup_alpha=settings.mixup_alpha, cutmix_alpha=settings.cutmix_alpha, seed=seed
        )  # fmt: skip
        mix = MixBatches(mixing, transform)
    trainer = Trainer(
        model, loss, optimizer, schedule, callbacks=list(callbacks), precision=settings.training_precision,  # type: ignore[arg-type]
        grad_accum_steps=settings.grad_accum_steps, clip_grad=settings.clip_grad or None,
        ema_decay=settings.model_ema or None, compile=settings.compile, device=device, seed=seed,
        checkpoint_dir=checkpoint_dir, metric=f"val/{metric}", patience=settings.patience or None,
        restore_best=has_validation, max_steps=max_steps, time_limit_seconds=time_limit_seconds, on_batch=mix,
        listener=listener,
    )  # fmt: skip
    if mix is not None:
        mix.place = lambda: (trainer.position.epoch, trainer.position.batch)
    return trainer


def _logits_of(batches: ImageBatches, num_classes: int, trainer: Trainer) -> Callable[[nn.Module], NDArray[np.float32]]:
    @torch.no_grad()
    def of(model: nn.Module) -> NDArray[np.float32]:
        model.eval()
        out = np.zeros((len(batches.labels), num_classes), np.float32)
        loaded: Iterable[list[Tensor]] = batches.load(0, batches.order(0))
        for values in loaded:
            inputs = values[0].to(trainer.processes.device)
            with trainer.step.autocast():
                out[values[2].numpy()] = model(inputs).float().cpu().numpy()
        return out

    return of
