"""From a file that is under review to the bytes a browser is sent: checked, shrunk, or drawn anew where it has left."""

from __future__ import annotations

import io
import os
import stat
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import simplejpeg
from blake3 import blake3
from PIL import Image, ImageDraw, ImageFont

from regraft.errors import ImageError
from regraft.images import decode

SIDES = (128, 256, 512, 1024)
MAX_FILE = 256_000_000
"""Bytes of a file that is read for the board."""

SMALL = 160
"""Pictures up to this side are kept without loss: they are shown enlarged, where JPEG's blocks would be seen."""

QUALITY = 88
"""Of JPEG. At 512 px it takes 3 ms to write and 54 kB; WebP takes 24 ms and 38 kB, which loopback does not repay."""

TYPES: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xd8\xff", "image/jpeg", "jpg"), (b"\x89PNG\r\n\x1a\n", "image/png", "png"),
    (b"GIF8", "image/gif", "gif"), (b"BM", "image/bmp", "bmp"), (b"II*\0", "image/tiff", "tif"),
    (b"MM\0*", "image/tiff", "tif"), (b"II+\0", "image/tiff", "tif"), (b"MM\0+", "image/tiff", "tif"),
    (b"\0\0\0\x0cjP  ", "image/jp2", "jp2"),
)  # fmt: skip
"""First bytes, type, ending."""


class GoneError(Exception):
    """A picture that cannot be shown.

    Attributes:
        status: 404 where there is nothing to show, 410 where there is something else by now.
        words: two or three of them, for the placeholder.
    """

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status, self.words = status, words


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells, without reading it, that a file is the one that was read before."""

    inode: int
    size: int
    modified: int


def locate(path: Path, root: Path) -> tuple[Path, Stamp]:
    """Where an image really lies, and its stamp.

    A path below `root` must not lead out of it by a symbolic link: whoever made the data folder must not thereby
    choose what else of this machine is shown. A path elsewhere was named by the manifest itself.

    Raises:
        GoneError: it is not there, or leads out of the data folder.
    """
    try:
        real = path.resolve(strict=True)
        found = real.stat()
        named_below = Path(os.path.normpath(path.absolute())).is_relative_to(os.path.normpath(root.absolute()))
        if named_below and not real.is_relative_to(root.resolve()):
            raise GoneError(404, "a link out of the data")
    except (OSError, ValueError, RuntimeError):
        raise GoneError(404, "no longer there") from None
    return real, Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def read_checked(real: Path, hash: str) -> tuple[bytes, Stamp]:
    """A file's bytes, which are those of `hash` (BLAKE3, 64 hexadecimal digits), whatever it is called.

    Raises:
        GoneError: it has left, or has other bytes now.
    """
    try:
        handle = os.open(real, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE:
                raise GoneError(404, "too large to show" if found.st_size > MAX_FILE else "no longer there")
            data = file.read(MAX_FILE + 1)
    except OSError:
        raise GoneError(404, "no longer there") from None
    if blake3(data).hexdigest() != hash:
        raise GoneError(410, "changed since then")
    return data, Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def shrink(data: bytes, side: int) -> bytes:
    """The picture, upright, as RGB, no side longer than `side`: PNG where it is small, else JPEG. No metadata is kept.

    Raises:
        GoneError: it cannot be decoded; decompression bombs are refused by their header (regraft.images' limit).
    """
    try:
        pixels = decode(data, min_size=(side, side))
    except ImageError:
        raise GoneError(410, "cannot be decoded") from None
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    if max(image.size) <= SMALL:
        return _png(image)
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=QUALITY, colorsubsampling="420"))


def is_whole(data: bytes) -> bool:
    """True for what `shrink` made, to the last byte."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data.endswith(b"IEND\xaeB`\x82")
    return data.startswith(b"\xff\xd8\xff") and data.endswith(b"\xff\xd9")


def keep(path: Path, data: bytes) -> None:
    """Write a thumbnail under its name at once. It need not outlast a power cut: what is not whole is made again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def media_type(data: bytes) -> tuple[str, str]:
    """Type and file name ending of an image, by its first bytes; never a type that a browser would run."""
    for magic, kind, ending in TYPES:
        if data.startswith(magic):
            return kind, ending
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp", "webp"
    if data[4:8] == b"ftyp" and b"avi" in data[8:32]:
        return "image/avif", "avif"
    return "application/octet-stream", "bin"


@cache
def placeholder(words: str) -> bytes:
    """A grey picture (PNG) that says why there is no other."""
    image = Image.new("RGB", (256, 256), "#dfe4eb")
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((78, 62, 178, 138), 10, outline="#66728a", width=5)
    draw.line((88, 128, 118, 96, 136, 114, 150, 102, 168, 126), fill="#66728a", width=5, joint="curve")
    draw.ellipse((140, 76, 154, 90), fill="#66728a")
    draw.line((66, 150, 190, 50), fill="#dfe4eb", width=15)
    draw.line((66, 150, 190, 50), fill="#66728a", width=5)
    font = ImageFont.load_default(20)
    width = draw.textlength(words, font=font)
    draw.text(((256 - width) / 2, 172), words, fill="#3d475a", font=font)
    return _png(image)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", optimize=False)
    return out.getvalue()
