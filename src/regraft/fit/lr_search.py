"""The learning-rate range test on the very training that a strategy would run: its model, images, loss, optimiser.

A solved head leaves little to gain, less than batches differ: with 32 images a loss varies by half of itself. So each
loss is compared with that of the unchanged weights on the same images, which takes a third more time and leaves the
effect of the rate alone.

Nothing is left changed: `lr_finder.find_lr` puts weights, statistics and random numbers back bit for bit.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Generator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from regraft.augmentation import Augmentation
from regraft.fit.batches import Batch
from regraft.fit.fine_tune import SolvedHead, classifier_for, device_of, freeze_for, trainer_for
from regraft.fit.inputs import FromPixels, Images
from regraft.fit.loader import ImageBatches
from regraft.fit.lr_finder import SMOOTHING, LearningRates, find_lr
from regraft.fit.recipes import Recipe
from regraft.fit.sampling import EpochBatches
from regraft.fit.step import choose_precision
from regraft.fit.strategies import Settings, settled
from regraft.images import Transform
from regraft.models.drop_path import set_drop_path
from regraft.models.freezing import unfreeze
from regraft.progress import Listener

_BELOW_LOWEST = 3.0
"""The proposal is so many times smaller than the rate of the lowest loss."""


def search_lr(
    backbone: nn.Module,
    recipe: Recipe,
    train: Images,
    *,
    num_classes: int,
    transform: Transform,
    head: SolvedHead | None = None,
    num_steps: int = 100,
    low: float = 1e-6,
    high: float = 1.0,
    seed: int = 0,
    device: str = "auto",
    listener: Listener | None = None,
) -> LearningRates:
    """Try rising learning rates on the first steps of a training, and propose one.

    The order of the images, their views, the loss, mixup, clipping, frozen parts and the ratio of the rates from layer
    to layer are those of `fine_tune` with the same recipe; `light` runs its frozen prefix each time, and fp16, whose
    loss scale would take its own steps, becomes fp32.

    Args:
        backbone: normalised float32 (N, 3, S, S) → (N, D); its weights and statistics are the same bits afterwards, on
            the CPU, in eval mode.
        recipe: what `settings_for` gave.
        train: images that are learnt from.
        num_classes: K.
        transform: the way from an image to the input.
        head: where `light` and `lp_ft` begin.
        num_steps: at most so many steps.
        low: first rate of the head.
        high: last one.
        seed: of the head, the order, the views.
        device: auto, cpu, cuda.
        listener: hears of steps, and of images that cannot be read.

    Returns:
        the curve: losses are the mean loss of the unchanged weights, plus by how much each step's loss differs from
        theirs on the same images.

    Raises:
        UsageError: settings or rates that do not go together.
        DataError: fewer than three finite losses.
    """
    listener = listener if listener is not None else Listener()
    settings = settled(recipe)
    if choose_precision(settings.training_precision, device_of(device))[0] == "fp16":
        settings = dataclasses.replace(settings, training_precision="fp32")
    torch.manual_seed(seed)
    classifier = classifier_for(backbone, settings, num_classes, head)
    freeze_for(classifier, settings, transform)
    if settings.drop_path:
        set_drop_path(backbone, settings.drop_path)
    weights = None if train.sample_weight is None else np.asarray(train.sample_weight, np.float64)
    order = EpochBatches(
        train.labels, batch_size=settings.batch_size, seed=seed, sampling=settings.sampling,  # type: ignore[arg-type]
        num_epochs=settings.epochs, sample_weight=weights,
    )  # fmt: skip
    batches = ImageBatches(
        train.views(transform, Augmentation(level=settings.augment, flip=settings.flip, seed=seed)),  # type: ignore[arg-type]
        train.labels, order, sample_weight=weights,
        on_failure=lambda item, why: listener.say(f"an image could not be read and is left out: {why}"),
    )  # fmt: skip
    trainer = trainer_for(
        FromPixels(classifier, transform), settings, train, weights, num_classes, order.num_batches, seed=seed,
        transform=transform, metric="macro_f1", callbacks=(), checkpoint_dir=None, time_limit_seconds=None,
        max_steps=None, device=device, listener=Listener(), has_validation=False,
    )  # fmt: skip

    unchanged = copy.copy(trainer.step)
    unchanged.model, unchanged.loss = copy.deepcopy(trainer.model).train(), copy.deepcopy(trainer.loss)
    before: list[float] = []

    def compute_loss(_: nn.Module, values: list[Tensor]) -> Tensor:
        batch = trainer.step._prepared(Batch.of(values))
        with trainer.step.autocast():
            with torch.no_grad():
                before.append(float(unchanged._loss(batch, None, alone=True)))
            return trainer.step._loss(batch, None, alone=True) + (before[0] - before[-1])

    clipping = trainer.optimizer.register_step_pre_hook(lambda *_: _clip(trainer.optimizer, settings))
    loaded = _epochs(batches, settings.epochs, num_steps, listener)
    try:
        found = find_lr(
            trainer.model, trainer.optimizer, loaded, compute_loss, low=low, high=high, num_steps=num_steps,
            also=[trainer.loss] if isinstance(trainer.loss, nn.Module) else (),
        )  # fmt: skip
        return paired(found, before)
    finally:
        loaded.close()
        clipping.remove()
        unfreeze(classifier)
        classifier.requires_grad_(False).eval().to("cpu").to(memory_format=torch.contiguous_format)


def paired(found: LearningRates, before: Sequence[float]) -> LearningRates:
    """The curve and proposal of a range test whose losses are differences to unchanged weights.

    The proposal is a third of the rate at which the smoothed loss is lowest, none where the fall is within two standard
    errors. It is the highest rate of a schedule that falls from there, so it stands just below where the loss rises.

    Digits at 48 px, lp_ft for 3 epochs, loss lowest at 8.9e-4; validation loss 0.30 with 4.2e-5 (the middle of the
    descent), 0.22 with 3e-4 (a third of the lowest), 0.12 with 5e-4 (what a fit takes by itself): a range test proposes
    what first steps bear, and is no substitute for validation.

    Args:
        found: losses are `loss − before + before[0]`.
        before: losses of the unchanged weights, one for each step.
    """
    smoothed = np.array(found.smoothed) - before[0]
    lowest = int(np.argmin(smoothed))
    # Neighbours have almost the same rate: what they differ by is chance, of which smoothing leaves a part.
    spread = float(np.std(np.diff(found.losses[: lowest + 1]))) / math.sqrt(2) if lowest > 2 else math.inf
    error = spread * math.sqrt((1 - SMOOTHING) / (1 + SMOOTHING))
    fall = -float(smoothed[lowest])
    ended = found.reason.partition("; ")[0]
    shift = float(np.mean(before[: len(found.lrs)])) - before[0]
    moved = dataclasses.replace(
        found, losses=tuple(loss + shift for loss in found.losses),
        smoothed=tuple(loss + shift for loss in found.smoothed), valley=None, steepest=None,
    )  # fmt: skip
    if fall <= 2 * error:
        why = "nothing is proposed: on the same images no rate lowers the loss by more than chance"
        return dataclasses.replace(moved, reason=f"{ended}; {why}")
    valley = found.lrs[lowest] / _BELOW_LOWEST
    steepest = found.lrs[int(np.argmin(np.gradient(smoothed, np.log(found.lrs))))]
    why = (
        f"proposed {valley:.1e}, a third of the rate at which the loss is lowest ({found.lrs[lowest]:.1e}, "
        f"by {fall:.3g} on the same images)"
    )
    return dataclasses.replace(moved, valley=valley, steepest=steepest, reason=f"{ended}; {why}")


def _epochs(
    batches: ImageBatches, epochs: int, num_steps: int, listener: Listener
) -> Generator[list[Tensor], None, None]:
    """The batches of a training from its first, for as many epochs as there are steps."""
    done = epoch = 0
    while done < num_steps:
        for values in batches.load(epoch, batches.order(epoch % epochs)):
            listener.progress(done, num_steps)
            yield values
            done += 1
        epoch += 1


def _clip(optimizer: torch.optim.Optimizer, settings: Settings) -> None:
    if settings.clip_grad:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, settings.clip_grad)
