"""Results as pictures for trackers that show images: the confusion matrix, and a sheet of the worst mistakes."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

_PAPER, _INK, _QUIET = (255, 255, 255), (26, 34, 48), (86, 96, 114)
_RIGHT, _WRONG = np.array([31, 95, 158]), np.array([184, 84, 16])
"""The report's blue and orange."""

MAX_NAMED = 40
"""More classes than this and the matrix is drawn without names."""

MAX_NUMBERED = 25
"""More than this, without numbers."""

_THUMBNAIL, _GAP = 150, 10


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG and its size in pixels."""

    png: bytes
    width: int
    height: int


def confusion_picture(matrix: NDArray[np.int64], names: Sequence[str]) -> Picture:
    """Rows are labels, columns predictions; shares of the row by colour (blue right, orange wrong), counts as numbers.

    Args:
        matrix: (K, K).
        names: K.
    """
    from PIL import Image, ImageDraw

    k = len(names)
    cell = 34 if k <= MAX_NUMBERED else 22 if k <= MAX_NAMED else max(2, 900 // k)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    strength = np.where(np.eye(k, dtype=bool), share, np.sqrt(share))[..., None]  # as in the report: 2 % must be seen
    full = np.where(np.eye(k, dtype=bool)[..., None], _RIGHT, _WRONG)
    colours = (255 * (1 - strength) + full * strength).astype(np.uint8)
    grid = Image.fromarray(colours).resize((k * cell, k * cell), Image.Resampling.NEAREST)
    font, small = _font(13), _font(12)
    named = k <= MAX_NAMED
    shown = [_clipped(name, 22) for name in names] if named else []
    margin = 16 + round(max((font.getlength(name) for name in shown), default=0))
    left, top = margin + (24 if named else 8), margin + 24
    picture = Image.new("RGB", (max(left + k * cell + 16, 270), top + k * cell + 16), _PAPER)
    picture.paste(grid, (left, top))
    draw = ImageDraw.Draw(picture)
    draw.text((8, 6), "rows: given label · columns: predicted", fill=_QUIET, font=small)
    for number, name in enumerate(shown):
        middle = round((number + 0.5) * cell)
        draw.text((left - 8, top + middle), name, fill=_INK, font=font, anchor="rm")
        label = Image.new("RGB", (margin - 8, 18), _PAPER)
        ImageDraw.Draw(label).text((0, 9), name, fill=_INK, font=font, anchor="lm")
        upright = label.rotate(90, expand=True)
        picture.paste(upright, (left + middle - 9, top - 4 - upright.height))
    if k <= MAX_NUMBERED:
        for row, column in zip(*np.nonzero(matrix), strict=True):
            at = (left + (column + 0.5) * cell, top + (row + 0.5) * cell)
            ink = _PAPER if strength[row, column, 0] > 0.55 else _INK
            draw.text(at, _number(int(matrix[row, column])), fill=ink, font=small, anchor="mm")
    for line in range(k + 1) if cell >= 8 else (0, k):
        draw.line([(left, top + line * cell), (left + k * cell, top + line * cell)], fill=(221, 226, 234))
        draw.line([(left + line * cell, top), (left + line * cell, top + k * cell)], fill=(221, 226, 234))
    return _finished(picture)


def mistakes_picture(
    paths: Sequence[str],
    labels: NDArray[np.int64],
    pred_probs: NDArray[np.float64],
    names: Sequence[str],
    thumbnail: Callable[[str, int], bytes | None],
    *,
    most: int = 24,
) -> Picture | None:
    """The most confident wrong predictions first, six in a row, each with its label, prediction and confidence.

    Args:
        paths: N, what `thumbnail` takes.
        labels: int (N,), -1 where none is known.
        pred_probs: (N, K).
        names: K.
        thumbnail: (path, most pixels a side) → JPEG bytes, or None where the image cannot be shown.
        most: how many.

    Returns:
        None where there is no mistake.
    """
    from PIL import Image, ImageDraw

    predicted, confidence = pred_probs.argmax(axis=1), pred_probs.max(axis=1, initial=0.0)
    wrong = np.flatnonzero((labels >= 0) & (predicted != labels))
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:most]
    if not len(worst):
        return None
    columns, step, caption = min(6, len(worst)), _THUMBNAIL + _GAP, 42
    rows = math.ceil(len(worst) / columns)
    picture = Image.new("RGB", (_GAP + columns * step, _GAP + rows * (step + caption)), _PAPER)
    draw, font = ImageDraw.Draw(picture), _font(13)
    for place, i in enumerate(worst):
        left, top = _GAP + place % columns * step, _GAP + place // columns * (step + caption)
        draw.rectangle((left, top, left + _THUMBNAIL - 1, top + _THUMBNAIL - 1), outline=(221, 226, 234))
        data = thumbnail(str(paths[i]), _THUMBNAIL)
        if data:
            shown = Image.open(io.BytesIO(data)).convert("RGB")
            shown.thumbnail((_THUMBNAIL, _THUMBNAIL))
            picture.paste(shown, (left + (_THUMBNAIL - shown.width) // 2, top + (_THUMBNAIL - shown.height) // 2))
        else:
            middle = (left + _THUMBNAIL // 2, top + _THUMBNAIL // 2)
            draw.text(middle, "cannot be shown", fill=_QUIET, font=font, anchor="mm")
        given, said = names[labels[i]], f" {_percent(float(confidence[i]))}"
        draw.text((left, top + _THUMBNAIL + 4), f"given {_fitting(given, font, 'given ')}", fill=_QUIET, font=font)
        answer = _fitting(names[predicted[i]], font, said) + said
        draw.text((left, top + _THUMBNAIL + 21), answer, fill=(152, 66, 8), font=font)
    return _finished(picture)


def _fitting(name: str, font: Any, beside: str) -> str:
    """As much of a name as there is room for under a picture."""
    most = 60
    while most > 3 and font.getlength(_clipped(name, most) + beside) > _THUMBNAIL:
        most -= 1
    return _clipped(name, most)


def _font(size: int) -> Any:
    """DejaVu knows most alphabets; Pillow's own font, Latin alone, is there where that is not."""
    from PIL import ImageFont

    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def _clipped(name: str, most: int) -> str:
    line = "".join(c if c.isprintable() else "\ufffd" for c in name)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _percent(share: float) -> str:
    """Never rounded up to a certainty that is not there."""
    return ">99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"


def _number(count: int) -> str:
    return str(count) if count < 10_000 else f"{count / 1000:.0f}k"


def _finished(picture: Image.Image) -> Picture:
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return Picture(stream.getvalue(), *picture.size)
