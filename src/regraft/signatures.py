"""What a file is by its first bytes, and whether its end is there; for files that no decoder takes."""

from __future__ import annotations

import struct
from collections.abc import Callable

from regraft.errors import ImageError


def refusal(data: bytes) -> ImageError:
    """Why a file that Pillow does not know cannot be used."""
    head = data[:512]
    for is_it, what in _UNSUPPORTED:
        if is_it(head):
            return ImageError("unsupported_format", f"it is {what}")
    if has_supported_signature(head):
        if is_cut_short(data):
            return ImageError("truncated", f"it ends after {len(data):,} bytes, within its header")
        return ImageError("corrupt", f"it begins like an image, but its header cannot be read ({len(data):,} bytes)")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return ImageError("not_an_image", "it is a web page, not an image (a download that failed?)")
    if not any(data):
        return ImageError("corrupt", f"all of its {len(data):,} bytes are zero (a copy that failed?)")
    return ImageError("not_an_image", "its content is not an image")


def looks_like_image(head: bytes) -> bool:
    """True where the first bytes (64 are enough) are those of an image, also of one that is not decoded."""
    return has_supported_signature(head) or any(is_it(head) for is_it, _ in _UNSUPPORTED)


def has_supported_signature(head: bytes) -> bool:
    """True where a file begins like a format that is decoded."""
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and len(head) > 14 and head[6:10] == b"\x00\x00\x00\x00")
        or (head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in b" \t\r\n" and len(head) > 3)
        or head.startswith((b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"))
        or (head[4:8] == b"ftyp" and b"avi" in head[8:32])
    )


def _is_svg(head: bytes) -> bool:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text)


_UNSUPPORTED: tuple[tuple[Callable[[bytes], bool], str], ...] = (
    (_is_svg, "SVG, a drawing without pixels; export it as PNG"),
    (
        lambda head: (
            head[4:8] == b"ftyp" and b"avi" not in head[8:32] and head[8:11] in (b"hei", b"hev", b"mif", b"msf")
        ),
        "HEIC, which is not decoded; convert it to JPEG",
    ),
    (lambda head: head.startswith(b"8BPS"), "a Photoshop file; export it as PNG"),
    (lambda head: head.startswith((b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")), "JPEG XL, which is not decoded; convert it"),
    (lambda head: head.startswith(b"%PDF"), "a PDF; export its pages as PNG"),
    (lambda head: head.startswith(b"%!PS"), "PostScript; export it as PNG"),
    (lambda head: head.startswith(b"\x76\x2f\x31\x01"), "OpenEXR, which is not decoded; convert it"),
    (lambda head: head.startswith(b"\x00\x00\x01\x00"), "an icon file; export it as PNG"),
    (lambda head: head.startswith(b"DDS "), "a DDS texture; convert it to PNG"),
    (lambda head: head.startswith(b"SIMPLE  ="), "FITS, which is not decoded; convert it"),
)


def is_cut_short(data: bytes) -> bool:
    """True where the file lacks the end that its format demands."""
    tail = data[-4096:]  # some writers append a little after the end
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in tail
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in tail
    if data.startswith(b"GIF8"):
        return b"\x3b" not in tail[-16:]
    if data.startswith(b"RIFF"):
        return len(data) < 12 or len(data) < 8 + int(struct.unpack("<I", data[4:8])[0])
    if data.startswith(b"BM"):
        return len(data) < 6 or len(data) < int(struct.unpack("<I", data[2:6])[0])
    return False
