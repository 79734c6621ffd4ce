"""A picture of what an augmentation, or each resize policy, does to one's own images, before any training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from regraft.errors import UsageError


def preview(
    data: Path,
    *,
    augment: Literal["none", "light", "medium"] = "light",
    flip: bool = False,
    resize: Annotated[bool, Parameter(negative="")] = False,
    policy: Literal["squash", "crop", "pad"] = "squash",
    size: int = 224,
    num_images: int = 8,
    num_views: int = 6,
    seed: int = 0,
    output: Path | None = None,
) -> None:
    """What an augmentation does to your images: a picture with each as it is, as evaluated and as trained on.

    With --resize instead what squash, crop and pad make of them, side by side.

    Parameters
    ----------
    data
        A folder of images or of class folders, or one image.
    augment
        none, light (random crops of half the area or more) or medium (smaller crops, one random operation, erasing).
    flip
        Also mirror at random. Look before you ask for it: mirrored digits, text and left or right hands are wrong.
    resize
        Show the three ways in which an image becomes a square, and what a crop would cut off.
    policy
        How an image becomes a square: squash, crop the centre, or pad.
    size
        Side of the square that the backbone sees, in pixels.
    num_images
        Rows of the picture; the images are chosen at random.
    num_views
        Random views of each image.
    seed
        Of the choice and of the views.
    output
        A .png or .jpg file; by default preview-LEVEL.png (preview-resize.png) here, which must not exist yet.
    """
    from regraft.augmentation import Augmentation, sheet
    from regraft.data import list_images
    from regraft.files import write_bytes
    from regraft.images import Transform
    from regraft.types import printable

    target = output or Path("preview-resize.png" if resize else f"preview-{augment}.png")
    formats = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
    if target.suffix.lower() not in formats:
        raise UsageError(f"a preview is a .png or .jpg file: {str(target)!r}")
    if output is None and target.exists():
        raise UsageError(f"a file is only replaced when it is named: {str(target)!r} exists; --output {target}")
    wrong = [f"--{name.replace('_', '-')} {value}" for name, value in
             {"size": size, "num_images": num_images, "num_views": num_views}.items() if value < 1]  # fmt: skip
    if wrong:
        raise UsageError(f"numbers are at least 1: {', '.join(wrong)}")
    augmentation = Augmentation(level=augment, flip=flip, seed=seed)
    paths = list(list_images(data))
    names: list[str] = []
    chosen: list[bytes] = []

    def left_out(name: str, reason: str) -> None:
        print(f"image {printable(name)!r} cannot be used: {reason}; it is left out", file=sys.stderr)

    for number in sheet.spread(len(paths), num_images, seed):
        try:
            chosen.append(paths[number].read_bytes())
            names.append(str(paths[number]))
        except OSError as error:
            left_out(str(paths[number]), error.strerror or str(error))

    def on_failure(number: int, reason: str) -> None:
        left_out(names[number], reason)

    transform, form = Transform(size=size, policy=policy), formats[target.suffix.lower()]
    if resize:
        picture = sheet.preview_policies(chosen, transform, format=form, on_failure=on_failure)
    else:
        picture = sheet.preview(
            chosen, transform, augmentation, num_views=num_views, format=form, on_failure=on_failure
        )  # fmt: skip
    write_bytes(target, picture)
    print(target)
