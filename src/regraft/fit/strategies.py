"""The ladder of strategies, and what every `auto` of their training becomes: from facts of the data, with reasons.

linear_probe  the head on cached features (linear_probe.py); nothing here
light         the solved head, the last stage, and the norms and biases before it
lp_ft         the solved head, then everything, less and less towards the input
full          a new head, everything at once: the classical recipe
scratch       nothing pretrained
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from regraft.errors import UsageError, nearest
from regraft.fit.recipes import Choice, Recipe

Strategy = Literal["light", "lp_ft", "full", "scratch"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)

_LP_FT = "LP-FT (Kumar et al. 2022)"
_FASTAI = "fastai's fine_tune (Howard & Gugger 2020)"
_BIT = "BiT-HyperRule (Kolesnikov et al. 2020)"
_KEEP_BYTES = 2 * 2**30
OFF = "off unless asked for"
"""How the reason of a setting begins that is not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the settings are made from.

    Attributes:
        num_images: N, for training.
        num_classes: K.
        image_size: side of the input in pixels.
        device: cpu or cuda.
        activation_bytes: of one image behind the frozen prefix, in float16; None where it cannot be cut.
        has_validation: whether there are images to stop on.
    """

    num_images: int
    num_classes: int
    image_size: int
    device: str
    activation_bytes: int | None = None
    has_validation: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a model is trained; the words of `FitConfig`, settled.

    Attributes:
        strategy: of the ladder.
        epochs: passes over the training images.
        batch_size: images a step, over all processes together.
        grad_accum_steps: batches for each step.
        optimizer: timm's name.
        lr: of the head.
        weight_decay: of kernels and matrices.
        layer_decay: factor of the rate from a layer to the one before it.
        schedule: cosine, one_cycle, staircase, constant.
        warmup_epochs: in which the rate rises.
        clip_grad: largest norm of the gradient, 0 for none.
        label_smoothing: share of the target that all classes have in common.
        mixup_alpha: 0 for none.
        cutmix_alpha: 0 for none.
        drop_path: largest rate of stochastic depth.
        augment: none, light, medium.
        flip: mirrored at random.
        cached_views: views whose activations behind the frozen prefix are kept; 0 runs the prefix each time.
        norm_statistics: frozen, or of each batch.
        model_ema: decay of the moving average of the weights, 0 for none.
        loss: a name of `make_loss`.
        sampling: a word of `EpochBatches`.
        patience: evaluations without improvement after which it ends, 0 for no end.
        averaging: whether other weights than the best epoch's are tried on the validation images.
        training_precision: auto, fp32, bf16, fp16.
        compile: by torch.compile.
    """

    strategy: str
    epochs: int
    batch_size: int
    grad_accum_steps: int
    optimizer: str
    lr: float
    weight_decay: float
    layer_decay: float
    schedule: str
    warmup_epochs: float
    clip_grad: float
    label_smoothing: float
    mixup_alpha: float
    cutmix_alpha: float
    drop_path: float
    augment: str
    flip: bool
    cached_views: int
    norm_statistics: str
    model_ema: float
    loss: str
    sampling: str
    patience: int
    averaging: bool
    training_precision: str
    compile: bool


def settings_for(strategy: str, facts: Facts, asked: Mapping[str, Any] | None = None) -> Recipe:
    """Every setting with its reason.

    Args:
        strategy: light, lp_ft, full, scratch.
        facts: of the data and the machine.
        asked: settings that the user chose; None, or left out, is `auto`.

    Returns:
        the fields of `Settings`, each a `Choice`.

    Raises:
        UsageError: an unknown strategy or setting.
    """
    if strategy not in STRATEGIES:
        raise UsageError(f"what is trained is one of {', '.join(STRATEGIES)}, not {strategy!r}")
    chosen = _defaults(strategy, facts, dict(asked or {}))
    for name, value in (asked or {}).items():
        if name not in chosen:
            raise UsageError(f"{name!r} is no setting of training{nearest(name, chosen)}")
        if value is not None:
            chosen[name] = Choice(value, "asked for")
    if chosen["cached_views"].value and strategy != "light":
        raise UsageError(f"activations are kept behind a frozen prefix: strategy {strategy} freezes none")
    return chosen


def settled(recipe: Recipe) -> Settings:
    """The values alone."""
    return Settings(**{field.name: recipe[field.name].value for field in dataclasses.fields(Settings)})


def _defaults(strategy: str, facts: Facts, asked: dict[str, Any]) -> Recipe:
    n = facts.num_images
    epochs = _epochs(strategy, n) if asked.get("epochs") is None else Choice(int(asked["epochs"]), "asked for")
    batch = _batch_size(facts)
    steps = epochs.value * -(-n // int(asked.get("batch_size") or batch.value))
    solved_head = strategy in ("light", "lp_ft")
    scratch = strategy == "scratch"
    return {
        "strategy": Choice(strategy, "asked for"),
        "epochs": epochs,
        "batch_size": batch,
        "grad_accum_steps": Choice(1, f"{OFF}: a batch that does not fit in memory is cut"),
        "optimizer": Choice("adamw", f"{_FASTAI}: Adam with decoupled decay; rates fit convolutions and attention"),
        "lr": _lr(strategy, int(asked.get("batch_size") or batch.value)),
        "weight_decay": Choice(0.05 if scratch else 0.01, "DeiT's (Touvron et al. 2021)" if scratch else _FASTAI),
        "layer_decay": _LAYER_DECAY[strategy],
        "schedule": Choice("cosine", "no milestones to choose, and it ends near zero whatever the length"),
        "warmup_epochs": _warmup(epochs.value, steps, scratch),
        "clip_grad": Choice(1.0, "one odd batch must not undo what was learnt"),
        "label_smoothing": Choice(
            0.0 if solved_head else 0.1,
            "the solved head was fitted without" if solved_head else "Szegedy et al. 2016, as in timm's recipes",
        ),
        "mixup_alpha": Choice(0.0, f"{OFF}; {_BIT} takes it from 20,000 images on"),
        "cutmix_alpha": Choice(0.0, OFF),
        "drop_path": Choice(0.0, OFF),
        "augment": _augment(strategy, n, epochs.value),
        "flip": Choice(False, f"{OFF}: mirrored digits, text and left or right hands are wrong"),
        "cached_views": _cached_views(strategy, facts, epochs.value, asked),
        "norm_statistics": _NORM_STATISTICS[strategy],
        "model_ema": Choice(0.0, f"{OFF}: a cosine ends where an average would"),
        "loss": Choice("cross_entropy", "its probabilities are those of the data; rare classes are adjusted for after"),
        "sampling": Choice("uniform", "every image once an epoch"),
        "patience": Choice(0, f"{OFF}: the schedule ends near zero, and stopping before leaves that out"),
        "averaging": Choice(
            facts.has_validation,
            "averages of weights are tried on the validation images, and taken where these say so"
            if facts.has_validation
            else "there are no validation images to judge them by",
        ),
        "training_precision": Choice("auto", "bf16 or fp16 on a GPU; fp32 on a CPU, where bf16 is half as fast"),
        "compile": Choice(False, f"{OFF}: compiling takes longer than a short fit"),
    }  # fmt: skip


_LR = {
    "light": Choice(3e-4, f"a third of {_FASTAI}: the head is solved already, a larger rate undoes it first (ours)"),
    "lp_ft": Choice(
        5e-4, f"half of {_FASTAI}: {_LP_FT} begins with a solved head, a larger rate undoes it first (ours)"
    ),
    "full": Choice(1e-3, "timm's recipes for AdamW with small batches"),
    "scratch": Choice(2e-3, "everything has to be learnt: twice that of fine-tuning"),
}
_LAYER_DECAY = {
    "light": Choice(1.0, "what is trained lies close to the head"),
    "lp_ft": Choice(
        0.9, "early layers are general, move them less (Clark et al. 2020); a fifth of the rate sixteen layers down"
    ),
    "full": Choice(1.0, "the classical recipe: one rate for all layers"),
    "scratch": Choice(1.0, "nothing is worth keeping"),
}
_NORM_STATISTICS = {
    "light": Choice("frozen", "the solved head fits the features that the kept statistics give"),
    "lp_ft": Choice("frozen", "the solved head fits the features that the kept statistics give; those of small batches "
                    "undo it"),
    "full": Choice("batch", "the classical recipe: batch norms follow the new images"),
    "scratch": Choice("batch", "there are no statistics yet"),
}  # fmt: skip


def _lr(strategy: str, batch_size: int) -> Choice:
    """Found with 32 images a step; for Adam in proportion to the root of their number (Malladi et al. 2022)."""
    base = _LR[strategy]
    if batch_size == 32:
        return base
    return Choice(base.value * math.sqrt(batch_size / 32), f"{base.reason}; times √({batch_size} / 32) images a step")


def _epochs(strategy: str, n: int) -> Choice:
    """Between fastai's handful and BiT's 500 steps of 512: in proportion to one over the root of the images."""
    base, least, most = (8e5, 10, 100) if strategy == "scratch" else (2e5, 3, 30)
    epochs = min(max(round(math.sqrt(base / n)), least), most)
    return Choice(
        epochs,
        f"{n:,} training images: as 1/√N, {least} to {most}, between fastai's handful of epochs and BiT's 500 steps of "
        "512 (ours)",
    )


def _batch_size(facts: Facts) -> Choice:
    most = 128 if facts.device == "cuda" else 32
    size = int(min(most, max(8, 2 ** math.floor(math.log2(max(facts.num_images / 16, 1))))))
    return Choice(size, f"{facts.num_images:,} images: 16 steps an epoch at least, {most} images a step at most")


def _warmup(epochs: int, steps: int, scratch: bool) -> Choice:
    share = 0.1 if scratch or epochs < 10 else 1 / epochs
    return Choice(round(share * epochs, 2), "a tenth of the run, an epoch at most: Adam's moments settle")


def _augment(strategy: str, n: int, epochs: int) -> Choice:
    if strategy == "scratch" or (strategy == "full" and epochs >= 10):
        return Choice("medium", "everything is learnt from these images: they must be seen in many ways")
    return Choice("light", "random crops of half the image or more; see regraft preview")


def _cached_views(strategy: str, facts: Facts, epochs: int, asked: dict[str, Any]) -> Choice:
    if strategy != "light":
        return Choice(0, f"{OFF}: no part of the backbone is frozen")
    if facts.activation_bytes is None:
        return Choice(0, "the backbone cannot be cut behind its frozen part")
    room = int(_KEEP_BYTES // max(facts.activation_bytes * facts.num_images, 1))
    if asked.get("augment") == "none":
        return Choice(min(1, room), "without augmentation every epoch sees the same image")
    views = min(epochs, room, 4)
    gib = views * facts.activation_bytes * facts.num_images / 2**30
    if views < 2:
        return Choice(0, f"two views of {facts.num_images:,} images would take more than 2 GiB")
    return Choice(
        views, f"the frozen part runs once, for {views} views of each image; {gib:.2f} GiB are kept meanwhile"
    )
