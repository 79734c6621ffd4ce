"""Tiny labelled image folders, and files of every bad kind, drawn on the spot; for all tests.

draw_folder(tmp_path)              a folder of class folders that a backbone can tell apart
draw_bad_files(tmp_path)           class folders with one file of each bad kind → {relative path: kind}
png(…), jpeg(…), photo(…)          single images as bytes or arrays
"""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HUES = ((200, 40, 40), (40, 180, 60), (50, 70, 210), (200, 180, 40), (160, 50, 190), (60, 190, 190))


def photo(seed: int, *, size: tuple[int, int] = (24, 32), kind: int | None = None) -> NDArray[np.uint8]:
    """A smooth RGB picture, uint8 (height, width, 3); `kind` sets its colour, so that classes can be learnt."""
    rng = np.random.default_rng(seed)
    height, width = size
    coarse = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.float64)
    if kind is not None:
        pixels = 0.35 * pixels + 0.65 * np.array(HUES[kind % len(HUES)])
    return np.clip(pixels, 0, 255).astype(np.uint8)


def encode(pixels: NDArray[np.generic] | Image.Image, format: str = "PNG", **options: object) -> bytes:
    """Pixels as a file's bytes."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, format, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def png(seed: int, **options: object) -> bytes:
    """A small PNG; the same seed gives the same bytes."""
    return encode(photo(seed, **options))  # type: ignore[arg-type]


def jpeg(seed: int, *, size: tuple[int, int] = (24, 32), **options: object) -> bytes:
    """A small JPEG; `options` go to Pillow."""
    return encode(photo(seed, size=size), "JPEG", **options)


def draw_folder(
    root: Path,
    *,
    classes: Sequence[str] = ("circle", "square", "star"),
    per_class: int | Sequence[int] = 8,
    size: tuple[int, int] = (24, 32),
    format: str = "PNG",
    seed: int = 0,
) -> Path:
    """Class folders of different colours: `root/CLASS/0000.png`, …; returns `root`."""
    counts = [per_class] * len(classes) if isinstance(per_class, int) else per_class
    for number, (name, count) in enumerate(zip(classes, counts, strict=True)):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = photo(seed + 10_000 * number + index, size=size, kind=number)
            (folder / f"{index:04d}.{format.lower()}").write_bytes(encode(pixels, format))
    return root


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """One PNG chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A tiny file that claims gigapixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")


def animation(format: str, seed: int = 5) -> bytes:
    """Three frames (GIF, WEBP, PNG) or pages (TIFF)."""
    first, *others = [Image.fromarray(photo(seed + step)) for step in range(3)]
    return encode(first, format, save_all=True, append_images=others)


def _damaged_png() -> bytes:
    data = bytearray(png(11, size=(64, 64)))
    at = data.index(b"IDAT") + 20
    data[at : at + 40] = bytes(40)
    return bytes(data)


def _damaged_jpeg() -> bytes:
    data = bytearray(jpeg(12, size=(64, 64)))
    at = data.index(b"\xff\xc4")  # Huffman tables
    data[at + 5 : at + 25] = b"\xff" * 20
    return bytes(data)


def _zip_bytes() -> bytes:
    return b"PK\x03\x04\x14\x00" + bytes(range(200))


def _cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


BAD_CONTENT: dict[str, tuple[str, Callable[[], bytes]]] = {
    "empty.jpg": ("zero_byte", lambda: b""),
    "empty.png": ("zero_byte", lambda: b""),
    "half.jpg": ("truncated", lambda: _cut(jpeg(1, size=(96, 96), quality=95), 0.5)),
    "half_progressive.jpg": ("truncated", lambda: _cut(jpeg(2, size=(96, 96), quality=95, progressive=True), 0.5)),
    "header_only.jpg": ("truncated", lambda: jpeg(3)[:30]),
    "half.png": ("truncated", lambda: _cut(png(4, size=(96, 96)), 0.5)),
    "signature_only.png": ("truncated", lambda: png(5)[:8]),
    "half.gif": ("truncated", lambda: _cut(encode(photo(6, size=(96, 96)), "GIF"), 0.5)),
    "half.webp": ("truncated", lambda: _cut(encode(photo(7, size=(96, 96)), "WEBP"), 0.5)),
    "half.bmp": ("truncated", lambda: _cut(encode(photo(8), "BMP"), 0.5)),
    "half.tif": ("truncated", lambda: _cut(encode(photo(9, size=(96, 96)), "TIFF"), 0.5)),
    "damaged.png": ("corrupt", _damaged_png),
    "damaged.jpg": ("corrupt", _damaged_jpeg),
    "bad_checksum.png": ("corrupt", lambda: png(13).replace(b"IHDR", b"IHDS", 1)),
    "zeros.jpg": ("corrupt", lambda: bytes(5000)),
    "text.jpg": ("not_an_image", lambda: b"this is a plain text, not a photograph\n" * 20),
    "page.jpg": ("not_an_image", lambda: b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
    "archive.png": ("not_an_image", _zip_bytes),
    "one_byte.png": ("not_an_image", lambda: b"\x00\x01"),
    "notes.txt": ("not_an_image", lambda: b"cats I saw"),
    "labels.json": ("not_an_image", lambda: b'{"a": 1}'),
    "no_ending": ("not_an_image", lambda: b"nothing"),
    "drawing.svg": ("unsupported_format", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"></svg>'),
    "drawing.png": ("unsupported_format", lambda: b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>'),
    "phone.heic": ("unsupported_format", lambda: b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(400)),
    "phone.jpg": ("unsupported_format", lambda: b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic" + bytes(400)),
    "layers.psd": ("unsupported_format", lambda: b"8BPS\x00\x01" + bytes(300)),
    "scan.pdf": ("unsupported_format", lambda: b"%PDF-1.7\n" + bytes(range(256))),
    "bomb.png": ("too_large", png_bomb),
}
"""File name to its kind and content; each must be left out for that reason."""

ODD_CONTENT: dict[str, tuple[str, Callable[[], bytes]]] = {
    "moving.gif": ("animated", lambda: animation("GIF")),
    "moving.webp": ("animated", lambda: animation("WEBP", 15)),
    "moving.png": ("animated", lambda: animation("PNG", 25)),
    "pages.tif": ("animated", lambda: animation("TIFF", 35)),
    "really_a_png.jpg": ("wrong_extension", lambda: png(101)),
    "really_a_jpeg.png": ("wrong_extension", lambda: jpeg(102)),
    "really_a_jpeg.txt": ("wrong_extension", lambda: jpeg(103)),
    "no_ending_jpeg": ("wrong_extension", lambda: jpeg(104)),
}
"""Files that are used, with a remark of this kind."""

GOOD_CONTENT: dict[str, Callable[[], bytes]] = {
    "UPPER.JPG": lambda: jpeg(201),
    "grey.jpg": lambda: encode(Image.fromarray(photo(202)).convert("L"), "JPEG"),
    "cmyk.jpg": lambda: encode(Image.fromarray(photo(203)).convert("CMYK"), "JPEG"),
    "progressive.jpeg": lambda: jpeg(204, progressive=True),
    "palette.png": lambda: encode(Image.fromarray(photo(205)).convert("P"), transparency=0),
    "grey_alpha.png": lambda: encode(Image.fromarray(photo(206)).convert("LA")),
    "alpha.png": lambda: encode(Image.fromarray(photo(207)).convert("RGBA")),
    "bits.png": lambda: encode(Image.fromarray(photo(208)).convert("1")),
    "deep.png": lambda: encode(photo(209)[..., 0].astype(np.uint16) * 257),
    "float.tif": lambda: encode(photo(210)[..., 0].astype(np.float32) / 255, "TIFF"),
    "photo.webp": lambda: encode(photo(211), "WEBP"),
    "still.gif": lambda: encode(photo(212), "GIF"),
    "photo.bmp": lambda: encode(photo(213), "BMP"),
    "photo.avif": lambda: encode(photo(214), "AVIF"),
    "photo.jp2": lambda: encode(photo(215), "JPEG2000"),
    "photo.ppm": lambda: encode(photo(216), "PPM"),
    "trailing.jpg": lambda: jpeg(217) + bytes(500),
    "one_pixel.png": lambda: encode(photo(218, size=(1, 1))),
    "very_wide.png": lambda: encode(photo(219, size=(2, 900))),
    "new\nline.png": lambda: png(220),
    "émoji 🐈 日本語.png": lambda: png(221),
    "x" * 240 + ".png": lambda: png(222),
    "-rf.png": lambda: png(223),
    'quote\'s "and", comma.png': lambda: png(224),
}
"""Files that look odd and are fine."""


def draw_bad_files(root: Path, *, per_class: int = 6) -> dict[str, str]:
    """Class folders `cat` and `dog` with good images, and in `cat` one file of every bad and odd kind.

    Returns:
        Path relative to `root`, as a finding shows it, to the kind that must be found; "" for files that are fine.
    """
    draw_folder(root, classes=("cat", "dog"), per_class=per_class)
    cat = root / "cat"
    expected: dict[str, str] = {}
    for name, (kind, content) in (BAD_CONTENT | ODD_CONTENT).items():
        (cat / name).write_bytes(content())
        expected[f"cat/{name}"] = kind
    for name, make in GOOD_CONTENT.items():
        (cat / name).write_bytes(make())
        expected[f"cat/{name}".replace("\n", "\\x0a")] = ""
    with open(os.fsencode(cat) + b"/odd\xff\xfebytes.png", "wb") as stream:
        stream.write(png(301))
    expected["cat/odd\\xff\\xfebytes.png"] = ""
    expected |= _draw_odd_entries(root)
    expected |= _draw_duplicates(root)
    for hidden in (".DS_Store", "Thumbs.db", ".hidden.png"):
        (cat / hidden).write_bytes(png(302))
    (root / "__MACOSX" / "cat").mkdir(parents=True)
    (root / "__MACOSX" / "cat" / "._0000.png").write_bytes(b"\x00\x05\x16\x07")
    return expected


def _draw_odd_entries(root: Path) -> dict[str, str]:
    """Links, loops, pipes, sockets, folders named like images, a lonely class, a stray image."""
    cat = root / "cat"
    (cat / "nowhere.png").symlink_to("no such file.png")
    (cat / "self.png").symlink_to("self.png")
    (cat / "loop").symlink_to(root, target_is_directory=True)
    (cat / "folder.jpg").mkdir()
    (cat / "nested").mkdir()
    (cat / "nested" / "deeper.png").write_bytes(png(303))
    (root / "stray.png").write_bytes(png(304))
    (root / "lonely").mkdir()
    (root / "lonely" / "only.png").write_bytes(png(305))
    os.mkfifo(cat / "pipe.png")
    here = Path.cwd()
    try:
        os.chdir(cat)  # a socket's path must be shorter than 108 bytes
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("socket.png")
    finally:
        os.chdir(here)
    return {
        "cat/nowhere.png": "broken_link", "cat/self.png": "link_loop", "cat/loop": "link_loop",
        "cat/folder.jpg": "is_directory", "cat/nested/deeper.png": "", "stray.png": "unlabelled",
        "lonely/only.png": "rare_class", "cat/pipe.png": "special_file", "cat/socket.png": "special_file",
    }  # fmt: skip


def _draw_duplicates(root: Path) -> dict[str, str]:
    (root / "cat" / "copy_1.png").write_bytes(png(401))
    (root / "cat" / "copy_2.png").write_bytes(png(401))
    (root / "cat" / "both.png").write_bytes(png(402))
    (root / "dog" / "both.png").write_bytes(png(402))
    (root / "Dog ").mkdir()
    for index in range(2):
        (root / "Dog " / f"{index}.png").write_bytes(png(403 + index))
    return {
        "cat/copy_1.png": "", "cat/copy_2.png": "exact_duplicate", "cat/both.png": "conflicting_duplicate",
        "dog/both.png": "conflicting_duplicate", "Dog /0.png": "similar_label", "Dog /1.png": "similar_label",
    }  # fmt: skip
