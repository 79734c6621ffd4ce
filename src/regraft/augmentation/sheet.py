"""A contact sheet: each image as it is, as evaluation sees it, and as it looks to training."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from regraft.augmentation.views import Augmentation, eval_view, train_view
from regraft.errors import DataError, ImageError, UsageError
from regraft.images import Transform

_GAP, _HEADER = 6, 26


def preview(
    images: Sequence[bytes],
    transform: Transform,
    augmentation: Augmentation,
    *,
    num_views: int = 6,
    cell: int = 160,
    format: str = "PNG",
    on_failure: Callable[[int, str], None] | None = None,
) -> bytes:
    """One row an image: the whole image, the square of evaluation, and its first views in training.

    Args:
        images: files' bytes; those that cannot be decoded are left out.
        transform: as in evaluation; views are drawn at its size and shown at `cell` pixels.
        augmentation: what is drawn; image number i of the sheet is item i, view number e is epoch e.
        num_views: random views in a row.
        cell: side of a picture on the sheet, in pixels.
        format: PNG or JPEG.
        on_failure: told the number of each image that is left out, and why.

    Returns:
        the picture's bytes; the same arguments give the same bytes.

    Raises:
        DataError: none of the images can be decoded.
        UsageError: an unknown format, no view or no size.
    """
    if format not in ("PNG", "JPEG") or num_views < 1 or cell < 8:
        raise UsageError(f"a preview is PNG or JPEG, with a view and 8 px a picture at least: {format=}, {num_views=}")
    whole = replace(transform, policy="pad", flip=False)
    rows: list[list[Image.Image]] = []
    for index, data in enumerate(images):
        try:
            squares = [eval_view(data, whole), eval_view(data, transform)]
            squares += [train_view(data, transform, augmentation, epoch=e, index=index) for e in range(num_views)]
        except ImageError as error:
            if on_failure is not None:
                on_failure(index, str(error))
            continue
        rows.append([Image.fromarray(square).resize((cell, cell), Image.Resampling.LANCZOS) for square in squares])
    if not rows:
        raise DataError(f"a preview needs an image that can be decoded, there is none among {len(images)}")
    step = cell + _GAP
    width, height = _GAP + 2 * _GAP + (num_views + 2) * step, _HEADER + len(rows) * step
    sheet = Image.new("RGB", (width, height), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    lefts = [_GAP + column * step + (2 * _GAP if column > 1 else 0) for column in range(num_views + 2)]
    mirrored = ", mirrored at random" if augmentation.flip and augmentation.level != "none" else ""
    titles = ("whole image", f"evaluated ({transform.policy})", f"trained on: {augmentation.level}{mirrored}")
    for left, title in zip(lefts, titles, strict=False):
        draw.text((left, 6), title, fill=(60, 60, 60), font=font)
    for number, row in enumerate(rows):
        for left, picture in zip(lefts, row, strict=True):
            sheet.paste(picture, (left, _HEADER + number * step))
    stream = io.BytesIO()
    sheet.save(stream, format, **({"quality": 90} if format == "JPEG" else {}))
    return stream.getvalue()


def spread(num: int, wanted: int, seed: int) -> list[int]:
    """`wanted` of `num` positions at random, in rising order; all where there are fewer."""
    return sorted(np.random.default_rng(seed).permutation(num)[:wanted].tolist())
