"""One random operation of a random strength: TrivialAugment (Müller & Hutter 2021), drawn from a given generator.

torchvision's own `TrivialAugmentWide` draws from torch's global generator, which threads share, so its order of draws
would depend on timing; here the numbers come from the caller and torchvision's functions do the work. The strengths
are those of RandAugment (Cubuk et al. 2020), the paper's "RA" space: the wide one turns by up to 135 degrees, which
makes a 6 a 9.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

Fill = list[float]


def _affine(
    image: Tensor, fill: Fill, *, shear: tuple[float, float] = (0, 0), shift: tuple[int, int] = (0, 0)
) -> Tensor:
    degrees = [math.degrees(math.atan(share)) for share in shear]
    center = [0.0, 0.0] if any(shear) else None
    out: Tensor = tv.affine(
        image, angle=0.0, translate=list(shift), scale=1.0, shear=degrees, interpolation=InterpolationMode.BILINEAR,
        fill=fill, center=center,
    )  # fmt: skip
    return out


def _rotate(image: Tensor, degrees: float, fill: Fill) -> Tensor:
    out: Tensor = tv.rotate(image, degrees, interpolation=InterpolationMode.BILINEAR, fill=fill)
    return out


_SHIFT = 150 / 331

OPERATIONS: dict[str, Callable[[Tensor, float, Fill], Tensor]] = {
    "identity": lambda image, s, fill: image,
    "shear_x": lambda image, s, fill: _affine(image, fill, shear=(0.3 * s, 0.0)),
    "shear_y": lambda image, s, fill: _affine(image, fill, shear=(0.0, 0.3 * s)),
    "translate_x": lambda image, s, fill: _affine(image, fill, shift=(int(_SHIFT * s * image.shape[-1]), 0)),
    "translate_y": lambda image, s, fill: _affine(image, fill, shift=(0, int(_SHIFT * s * image.shape[-2]))),
    "rotate": lambda image, s, fill: _rotate(image, 30.0 * s, fill),
    "brightness": lambda image, s, fill: tv.adjust_brightness(image, 1 + 0.9 * s),
    "color": lambda image, s, fill: tv.adjust_saturation(image, 1 + 0.9 * s),
    "contrast": lambda image, s, fill: tv.adjust_contrast(image, 1 + 0.9 * s),
    "sharpness": lambda image, s, fill: tv.adjust_sharpness(image, 1 + 0.9 * s),
    "posterize": lambda image, s, fill: tv.posterize(image, round(8 - 4 * abs(s))),
    "solarize": lambda image, s, fill: tv.solarize(image, 255 * (1 - abs(s))),
    "autocontrast": lambda image, s, fill: tv.autocontrast(image),
    "equalize": lambda image, s, fill: tv.equalize(image),
}
"""Name to (image uint8 (3, H, W), strength in [-1, 1], fill) → image. Where a sign means nothing, it has no effect."""


def trivial_augment(pixels: NDArray[np.uint8], rng: np.random.Generator, *, fill: tuple[int, ...]) -> NDArray[np.uint8]:
    """One operation, drawn evenly, of a strength that is drawn evenly: uint8 (H, W, 3) to the same."""
    name = list(OPERATIONS)[int(rng.integers(len(OPERATIONS)))]
    strength = float(rng.uniform(-1.0, 1.0))
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))  # strided, sharpness takes 5.3 ms instead of 0.7
    out = OPERATIONS[name](torch.from_numpy(planes), strength, [float(value) for value in fill])
    return np.ascontiguousarray(out.permute(1, 2, 0).numpy())
