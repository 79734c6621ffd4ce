"""From a file's bytes to the square that is trained on: a random view, the same for the same (seed, epoch, index).

A view is the evaluation's own path with a random box before the resize: same decoder, same resampling, same policy.
The box is drawn in the frame that the policy shows (`squash`: the whole image as a unit square; `pad`: the padded
square; `crop`: the image itself, as torchvision's RandomResizedCrop), so the largest box is what evaluation sees, or
more. All numbers are drawn from a generator of this image's own, never from a global one: views do not depend on
threads, worker processes, or on where a run was resumed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regraft.errors import UsageError, nearest
from regraft.images import Transform, decode, preprocess, resize

Level = Literal["none", "light", "medium"]
"""How strong: see `LEVELS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Strength:
    """What a level draws from.

    Attributes:
        scale: least and largest share of the frame's area that a box takes.
        stretch: largest change of the aspect ratio, as a factor.
        operation: whether one operation of TrivialAugment is applied.
        erase: probability of an erased rectangle.
    """

    scale: tuple[float, float]
    stretch: float
    operation: bool
    erase: float


LEVELS: dict[str, _Strength | None] = {
    "none": None,
    "light": _Strength(scale=(0.5, 1.0), stretch=5 / 4, operation=False, erase=0.0),
    "medium": _Strength(scale=(0.35, 1.0), stretch=4 / 3, operation=True, erase=0.25),
}
"""`none` trains on what is evaluated. `light`: a random resized crop of half the area or more. `medium`: of a third or
more (fastai's 0.35), then one random operation (TrivialAugment, Müller & Hutter 2021), then in one of four images an
erased rectangle (Zhong et al. 2020)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What is drawn for each training image.

    Attributes:
        level: `none`, `light` or `medium`.
        flip: mirror every other view left to right. Off unless asked for, because the two mistakes are not alike: a
            missing flip costs photographs about a point, a wrong one makes classes that differ by handedness (b and d,
            digits, arrows, left and right hands) the same to the model. Nothing is mirrored at level `none`.
        seed: of all draws, >= 0.
    """

    level: Level = "light"
    flip: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise UsageError(
                f"an augmentation is one of {', '.join(LEVELS)}, not {self.level!r}{nearest(str(self.level), LEVELS)}"
            )
        if self.seed < 0:
            raise UsageError(f"a seed is at least 0: {self.seed=}")


def eval_view(data: bytes, transform: Transform) -> NDArray[np.uint8]:
    """The square of evaluation and serving, uint8 (size, size, 3): `regraft.images.preprocess`, nothing else.

    Raises:
        ImageError: the file cannot be decoded.
    """
    return preprocess(data, transform)


def train_view(
    data: bytes, transform: Transform, augmentation: Augmentation, *, epoch: int, index: int
) -> NDArray[np.uint8]:
    """The square that this image shows in this epoch.

    Args:
        data: the file's bytes.
        transform: as in evaluation.
        augmentation: what to draw.
        epoch: from 0; with `index` and the seed it decides the view.
        index: number of the item in the training set.

    Returns:
        uint8 (size, size, 3), RGB; mean and std are applied by `mixing.to_input`.

    Raises:
        ImageError: the file cannot be decoded.
    """
    strength = LEVELS[augmentation.level]
    if strength is None:
        return preprocess(data, transform)
    rng = np.random.default_rng([augmentation.seed, epoch, index])
    # The smallest box is as sharp as the square where the file allows; larger files are decoded at a fraction.
    need = math.ceil(transform.size / math.sqrt(strength.scale[0] / strength.stretch))
    frame = decode(data, min_size=(need, need), background=transform.background)
    if transform.policy == "pad":
        frame = _padded(frame, transform.background)
    top, left, height, width = _box(frame.shape[0], frame.shape[1], transform, strength, rng)
    square = resize(frame[top : top + height, left : left + width], replace(transform, policy="squash"))
    if augmentation.flip and rng.random() < 0.5:
        square = np.ascontiguousarray(square[:, ::-1])
    mean = tuple(round(255 * value) for value in transform.mean)
    if strength.operation:
        from regraft.augmentation.operations import trivial_augment

        square = trivial_augment(square, rng, fill=mean)
    if rng.random() < strength.erase:
        square = _erased(square, rng, mean)
    return square


def _padded(pixels: NDArray[np.uint8], background: tuple[int, int, int]) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    side = max(height, width)
    canvas = np.empty((side, side, 3), np.uint8)
    canvas[:] = background
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = pixels
    return canvas


def _box(
    height: int, width: int, transform: Transform, strength: _Strength, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a box of random area and stretch; after ten misses what evaluation sees."""
    slant = height / width if transform.policy == "crop" else 1.0  # a crop keeps the aspect, squash changes it anyway
    log = math.log(strength.stretch)
    for _ in range(10):
        area, stretch = rng.uniform(*strength.scale), math.exp(rng.uniform(-log, log))
        high, wide = math.sqrt(area / stretch / slant), math.sqrt(area * stretch * slant)
        if high <= 1.0 and wide <= 1.0:
            box_h, box_w = max(1, round(high * height)), max(1, round(wide * width))
            return int(rng.integers(height - box_h + 1)), int(rng.integers(width - box_w + 1)), box_h, box_w
    if transform.policy != "crop":
        return 0, 0, height, width
    side = max(1, round(min(height, width) * transform.crop_pct))
    return (height - side) // 2, (width - side) // 2, side, side


def _erased(square: NDArray[np.uint8], rng: np.random.Generator, fill: tuple[int, ...]) -> NDArray[np.uint8]:
    """A rectangle of 2 to 33 % of the area becomes the mean colour, which is zero after normalisation."""
    size = len(square)
    area, log = rng.uniform(0.02, 0.33), math.log(3.3)
    ratio = math.exp(rng.uniform(-log, log))
    height, width = (min(size, max(1, round(size * math.sqrt(v)))) for v in (area * ratio, area / ratio))
    top, left = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
    square = square.copy()
    square[top : top + height, left : left + width] = fill
    return square
