"""Published recipes for fine-tuning, scaled to the data: plain functions from facts to settings with their reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from regraft.errors import UsageError


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting that `auto` became, and why.

    Attributes:
        value: the setting.
        reason: in words, with the source.
    """

    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.value}: {self.reason}"


Recipe = dict[str, Choice]
"""Setting (the words of `make_optimizer`, `Schedule` and the loop) to its choice."""

_BIT = "BiT-HyperRule (Kolesnikov et al. 2020)"
_FASTAI = "fastai's fine_tune (Howard & Gugger 2020)"
_LP_FT = "LP-FT (Kumar et al. 2022)"


def bit_hyperrule(num_images: int, image_size: tuple[int, int], *, batch_size: int = 512) -> Recipe:
    """Steps, resolution and mixup by the size of the data: one rule for 20 data sets, from 1 image a class on.

    Args:
        num_images: training images.
        image_size: (height, width), the median of the files.
        batch_size: at which the learning rate holds; the paper's is 512.

    Returns:
        optimizer, momentum, lr, weight_decay, batch_size, schedule, total_steps, warmup_steps, milestones,
        resize_size, crop_size, flip, mixup_alpha.
    """
    _positive(num_images=num_images, height=image_size[0], width=image_size[1], batch_size=batch_size)
    if num_images < 20_000:
        size, steps, warmup, milestones = "small (under 20,000)", 500, 100, (0.4, 0.6, 0.8)
    elif num_images < 500_000:
        size, steps, warmup, milestones = "medium (under 500,000)", 10_000, 500, (0.3, 0.6, 0.9)
    else:
        size, steps, warmup, milestones = "large (500,000 or more)", 20_000, 500, (0.3, 0.6, 0.9)
    by_size = f"{_BIT}: {num_images:,} images are {size}"
    small = image_size[0] * image_size[1] < 96 * 96
    resize, crop = (160, 128) if small else (512, 480)
    by_area = f"{_BIT}: {image_size[0]} x {image_size[1]} px are {'under' if small else 'at least'} 96 x 96"
    mix = num_images >= 20_000
    return {
        "optimizer": Choice("sgd", _BIT),
        "momentum": Choice(0.9, _BIT),
        "lr": Choice(0.003 * batch_size / 512, f"{_BIT}: 0.003 at 512 images a batch, in proportion at {batch_size}"),
        "weight_decay": Choice(0.0, f"{_BIT}: none; the start is already good"),
        "batch_size": Choice(batch_size, f"{_BIT} was found with 512"),
        "schedule": Choice("staircase", f"{_BIT}: warm-up, then divided by 10 three times"),
        "total_steps": Choice(steps, by_size),
        "warmup_steps": Choice(warmup, by_size),
        "milestones": Choice(milestones, by_size),
        "resize_size": Choice(resize, by_area),
        "crop_size": Choice(crop, by_area),
        "flip": Choice(False, "BiT mirrors, unless it changes the label: say so where it does not"),
        "mixup_alpha": Choice(0.1 if mix else 0.0, f"{by_size}: mixup {'from' if mix else 'only from'} 20,000 on"),
    }


def fastai_fine_tune(
    epochs: int, *, base_lr: float = 2e-3, freeze_epochs: int = 1, lr_mult: float = 100.0
) -> tuple[Recipe, Recipe]:
    """fastai's `Learner.fine_tune`: the head alone, then everything with smaller rates towards the input.

    Returns:
        the frozen phase and the thawed phase, each with epochs, freeze_backbone, lr, lr_first_layer, optimizer,
        weight_decay, schedule, pct_start, div, div_final. Rates of the layers between lie evenly on a logarithmic
        scale. fastai also moves Adam's first momentum from 0.95 to 0.85 and back; that is not copied.
    """
    _positive(epochs=epochs, base_lr=base_lr, lr_mult=lr_mult)
    if freeze_epochs < 0:
        raise UsageError(f"freeze_epochs is at least 0: {freeze_epochs=}")
    shared = {
        "optimizer": Choice("adamw", f"{_FASTAI}: Adam with decoupled decay"),
        "weight_decay": Choice(0.01, f"{_FASTAI}: the learner's default"),
        "schedule": Choice("one_cycle", _FASTAI),
        "div_final": Choice(1e5, _FASTAI),
    }
    half = base_lr / 2
    frozen = {
        "epochs": Choice(freeze_epochs, f"{_FASTAI}: the random head must not spoil the backbone"),
        "freeze_backbone": Choice(True, _FASTAI),
        "lr": Choice(base_lr, _FASTAI),
        "lr_first_layer": Choice(0.0, "the backbone is frozen"),
        **shared,
        "pct_start": Choice(0.99, f"{_FASTAI}: the frozen phase only rises"),
        "div": Choice(25.0, f"{_FASTAI}: fit_one_cycle's default"),
    }
    thawed = {
        "epochs": Choice(epochs, "as asked"),
        "freeze_backbone": Choice(False, _FASTAI),
        "lr": Choice(half, f"{_FASTAI}: halved after the frozen phase"),
        "lr_first_layer": Choice(half / lr_mult, f"{_FASTAI}: {lr_mult:g} times smaller at the input"),
        **shared,
        "pct_start": Choice(0.3, _FASTAI),
        "div": Choice(5.0, _FASTAI),
    }
    return frozen, thawed


def lp_ft(num_images: int, epochs: int, *, batch_size: int = 32, full_lr: float = 5e-4) -> Recipe:
    """LP-FT: begin with the solved head, then train everything with a rate that does not undo it.

    A random head's first gradients distort good features, a solved head's are small (Kumar et al. 2022). The paper says
    where to start; the other settings are MAE's fine-tuning (He et al. 2022) or ours, as each reason tells.

    Args:
        num_images: training images.
        epochs: passes over them.
        batch_size: images a step.
        full_lr: the rate that full fine-tuning with a new head would take; LP-FT takes a tenth.

    Returns:
        head, optimizer, lr, weight_decay, layer_decay, schedule, total_steps, warmup_steps, clip_grad,
        freeze_batch_norm.
    """
    _positive(num_images=num_images, epochs=epochs, batch_size=batch_size, full_lr=full_lr)
    per_epoch = -(-num_images // batch_size)
    total = epochs * per_epoch
    few = num_images < 5_000
    return {
        "head": Choice("solved", f"{_LP_FT}: start from the linear probe on the cached features"),
        "optimizer": Choice("adamw", "rates for each layer come out alike on convolutions and attention"),
        "lr": Choice(
            full_lr / 10,
            f"the head is already right: a tenth of full fine-tuning's {full_lr:g} (ours, not the paper's)",
        ),
        "weight_decay": Choice(0.05, "MAE's fine-tuning (He et al. 2022, table 9)"),
        "layer_decay": Choice(
            0.75, "MAE's fine-tuning (He et al. 2022, table 9): early layers are general, move them less"
        ),
        "schedule": Choice("cosine", "no milestones to choose, and it ends near zero whatever the length"),
        "total_steps": Choice(total, f"{epochs} epochs of {per_epoch:,} steps"),
        "warmup_steps": Choice(
            min(per_epoch, total // 10), "a tenth of the run, an epoch at most: Adam's moments settle"
        ),
        "clip_grad": Choice(1.0, "one odd batch must not undo the solved head"),
        "freeze_batch_norm": Choice(
            few, f"{num_images:,} images are {'too few for' if few else 'enough for'} new batch statistics (5,000)"
        ),
    }


def _positive(**values: float) -> None:
    wrong = [f"{name}={value!r}" for name, value in values.items() if not value > 0]
    if wrong:
        raise UsageError(f"a recipe needs numbers above 0: {', '.join(wrong)}")
