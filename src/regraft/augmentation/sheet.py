"""Contact sheets: each image as it is, as evaluation sees it and as training does; or under each resize policy."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from regraft.augmentation.views import Augmentation, eval_view, train_view
from regraft.errors import DataError, ImageError, UsageError
from regraft.images import ResizePolicy, Transform, decode

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
    if num_views < 1:
        raise UsageError(f"a preview shows a view at least: {num_views=}")
    whole = replace(transform, policy="pad", flip=False)

    def squares(index: int) -> list[NDArray[np.uint8]]:
        views = (train_view(images[index], transform, augmentation, epoch=e, index=index) for e in range(num_views))
        return [eval_view(images[index], whole), eval_view(images[index], transform), *views]

    mirrored = ", mirrored at random" if augmentation.flip and augmentation.level != "none" else ""
    titles = ["whole image", f"evaluated ({transform.policy})", f"trained on: {augmentation.level}{mirrored}"]
    return _sheet(len(images), squares, titles + [""] * (num_views - 1), 2, cell, format, on_failure)


def preview_policies(
    images: Sequence[bytes],
    transform: Transform,
    *,
    cell: int = 160,
    format: str = "PNG",
    on_failure: Callable[[int, str], None] | None = None,
) -> bytes:
    """One row an image: the whole image with a frame about what a crop keeps, then what each policy makes of it.

    Args:
        images: files' bytes; those that cannot be decoded are left out.
        transform: its size and share of a crop; its policy is not looked at.
        cell, format, on_failure: as in `preview`.

    Returns:
        the picture's bytes; the same arguments give the same bytes.

    Raises:
        as `preview`.
    """
    policies: tuple[ResizePolicy, ...] = ("squash", "crop", "pad")

    def squares(index: int) -> list[NDArray[np.uint8]]:
        shown = [eval_view(images[index], replace(transform, policy=policy, flip=False)) for policy in policies]
        return [_framed(images[index], transform, cell), *shown]

    titles = ["whole image, crop", "squash: stretched", "crop: its centre", "pad: framed"]
    return _sheet(len(images), squares, titles, 1, cell, format, on_failure)


def _framed(data: bytes, transform: Transform, cell: int) -> NDArray[np.uint8]:
    """The whole image in a grey square, (cell, cell, 3), with a red frame about what a crop keeps."""
    pixels = decode(data, min_size=(cell, cell), background=transform.background)
    height, width = pixels.shape[:2]
    scale = cell / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    square = Image.new("RGB", (cell, cell), (225, 225, 225))
    left, top = (cell - size[0]) // 2, (cell - size[1]) // 2
    square.paste(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS), (left, top))
    side = max(2, round(min(size) * transform.crop_pct))
    x, y = (cell - side) // 2, (cell - side) // 2
    ImageDraw.Draw(square).rectangle((x, y, x + side - 1, y + side - 1), outline=(220, 30, 30), width=2)
    return np.asarray(square)


def _sheet(
    num: int,
    squares: Callable[[int], list[NDArray[np.uint8]]],
    titles: Sequence[str],
    num_left: int,
    cell: int,
    format: str,
    on_failure: Callable[[int, str], None] | None,
) -> bytes:
    """Rows of squares under titles, the first `num_left` set apart; rows that cannot be drawn are left out."""
    if format not in ("PNG", "JPEG") or cell < 8:
        raise UsageError(f"a preview is PNG or JPEG, with 8 px a picture at least: {format=}, {cell=}")
    rows: list[list[Image.Image]] = []
    for index in range(num):
        try:
            found = squares(index)
        except ImageError as error:
            if on_failure is not None:
                on_failure(index, str(error))
            continue
        rows.append([Image.fromarray(square).resize((cell, cell), Image.Resampling.LANCZOS) for square in found])
    if not rows:
        raise DataError(f"a preview needs an image that can be decoded, there is none among {num}")
    step = cell + _GAP
    sheet = Image.new("RGB", (3 * _GAP + len(titles) * step, _HEADER + len(rows) * step), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    lefts = [_GAP + column * step + (2 * _GAP if column >= num_left else 0) for column in range(len(titles))]
    for left, title in zip(lefts, titles, strict=True):
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
