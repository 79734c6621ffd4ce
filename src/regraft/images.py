"""From a file's bytes to the pixels that a backbone sees: decode, orient, flatten to RGB, resize.

One path serves the scan, the extraction and `predict`, so an image that passed the scan cannot fail later for
another reason than that the file changed. JPEG goes through libjpeg-turbo (simplejpeg) with its DCT scaling,
which skips most of the work where the photograph is much larger than the backbone's input; everything else, and
every JPEG that libjpeg-turbo objects to, goes through Pillow.
"""

from __future__ import annotations

import io
import threading
import warnings
import zlib
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any, Literal

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from regraft.errors import ImageError
from regraft.pixels import checked_rgb, one_line, shrunk
from regraft.signatures import is_cut_short, refusal

MAX_PIXELS = 178_956_970
"""Larger images are taken for decompression bombs; Pillow's own limit for an error."""

LARGE_PIXELS = 20_000_000
"""Larger images are decoded one at a time in a process: eight bombs at once would need 5 GB."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "PPM", "JPEG2000")
"""What is decoded. An allow-list: Pillow's other parsers (EPS, PSD, FITS, …) are never handed a stranger's file."""

EXTENSIONS: dict[str, str] = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".apng": "PNG",
    ".webp": "WEBP", ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".dib": "BMP",
    ".avif": "AVIF", ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM", ".jp2": "JPEG2000",
}  # fmt: skip
"""File name endings that promise an image, and which kind."""

DECODER = "simplejpeg-dct+pillow/1"
"""Names this decoding path; part of every fingerprint, because decoders differ by 3 to 4 grey levels."""

# Pillow warns from 89 to 179 million pixels and refuses above; MAX_PIXELS is checked here before any decoding.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
for _plugin in ("Avif", "Bmp", "Gif", "Jpeg", "Jpeg2K", "Png", "Ppm", "Tiff", "WebP"):
    import_module(f"PIL.{_plugin}ImagePlugin")  # `formats=` needs them registered; Image.init() loads 40, slowly
cv2.setNumThreads(0)  # images are decoded on threads of ours; OpenCV's own would fight them for the cores

_one_at_a_time = threading.Lock()
_ON_THEIR_SIDE = (5, 6, 7, 8)
_PLAIN_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F")
"""Layouts that always become RGB; any other is tried by the scan."""

ResizePolicy = Literal["crop", "squash", "pad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """The exact way from an image to a backbone's input.

    Attributes:
        size: side of the square that the backbone sees, in pixels.
        policy: `crop` keeps the aspect ratio and cuts the centre, `squash` uses the whole image and changes the
            aspect ratio, `pad` uses the whole image and fills up with the background.
        crop_pct: for `crop`, the share of the shorter side that is kept.
        mean: per channel, subtracted from values in [0, 1].
        std: per channel, divided by.
        background: RGB that transparent pixels are laid over, and that `pad` fills with.
        flip: mirror the square left to right, for test-time augmentation.
    """

    size: int = 224
    policy: ResizePolicy = "squash"
    crop_pct: float = 0.875
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    background: tuple[int, int, int] = (255, 255, 255)
    flip: bool = False

    def as_dict(self) -> dict[str, Any]:
        """A JSON object that `from_dict` reads. Includes the decoder for the record."""
        fields = asdict(self)
        if not self.flip:  # left out, so that fingerprints from before there was a flip stay valid
            del fields["flip"]
        return {**fields, "decoder": DECODER}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Transform:
        """The transform that `as_dict` described."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
        fields.pop("decoder", None)
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """What one full decoding found out.

    Attributes:
        format: Pillow's name, such as "JPEG".
        mode: Pillow's name of the pixel layout in the file, such as "RGB", "CMYK", "I;16", "P".
        height: in pixels, after EXIF orientation.
        width: in pixels, after EXIF orientation.
        num_frames: 1 for a still image.
    """

    format: str
    mode: str
    height: int
    width: int
    num_frames: int


def inspect(data: bytes) -> ImageInfo:
    """Decode a file once, for real, and say what it is.

    Raises:
        ImageError: it cannot be used; `kind` is one of zero_byte, not_an_image, unsupported_format, too_large,
            truncated, corrupt.
    """
    with _open(data) as image:
        mode, fmt = image.mode, str(image.format)
        frames = _num_frames(image)
        if fmt in ("JPEG", "MPO") and mode in ("RGB", "L") and _turbo_accepts(data):
            width, height = image.size
            orientation = _orientation(image)
        else:
            _load(image, data)
            width, height = image.size  # a TIFF is turned while it is loaded
            orientation = _orientation(image)
            if mode not in _PLAIN_MODES:
                checked_rgb(image, (255, 255, 255))
    if orientation in _ON_THEIR_SIDE:
        width, height = height, width
    return ImageInfo(format=fmt, mode=mode, height=height, width=width, num_frames=frames)


def decode(
    data: bytes,
    *,
    min_size: tuple[int, int] | None = None,
    background: tuple[int, int, int] = (255, 255, 255),
) -> NDArray[np.uint8]:
    """Pixels of a file: the first frame, upright, as RGB.

    Args:
        data: the file's bytes.
        min_size: (height, width) that is enough; a larger JPEG is decoded at a fraction n/8 of its size that is
            at least this, other formats are averaged down by a whole factor.
        background: RGB that transparent pixels are laid over.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ImageError: as `inspect`.
    """
    if data[:3] == b"\xff\xd8\xff":
        pixels = _decode_jpeg(data, min_size)
        if pixels is not None:
            return pixels
    with _open(data) as image:
        _load(image, data)
        orientation = _orientation(image)
        if min_size is not None:
            image = shrunk(image, min_size[::-1] if orientation >= 5 else min_size)
        return _orient(np.asarray(checked_rgb(image, background)), orientation)


def preprocess(data: bytes, transform: Transform) -> NDArray[np.uint8]:
    """The square that the backbone sees; mean and std are applied by the engine.

    Returns:
        uint8 (size, size, 3), RGB.

    Raises:
        ImageError: as `inspect`.
    """
    size = transform.size
    need = round(size / transform.crop_pct) if transform.policy == "crop" else size
    pixels = decode(data, min_size=(need, need), background=transform.background)
    square = resize(pixels, transform)
    return np.ascontiguousarray(square[:, ::-1]) if transform.flip else square


def resize(pixels: NDArray[np.uint8], transform: Transform) -> NDArray[np.uint8]:
    """Resize decoded pixels by the transform's policy: uint8 (H, W, 3) to uint8 (size, size, 3).

    Shrinking averages areas (no aliasing), enlarging is bicubic.
    """
    size = transform.size
    height, width = pixels.shape[:2]
    if transform.policy == "crop":
        side = max(1, round(min(height, width) * transform.crop_pct))
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    elif transform.policy == "pad" and height != width:
        scale = size / max(height, width)
        inner = _scale(pixels, max(1, round(height * scale)), max(1, round(width * scale)))
        top, left = (size - inner.shape[0]) // 2, (size - inner.shape[1]) // 2
        canvas = np.empty((size, size, 3), np.uint8)
        canvas[:] = transform.background
        canvas[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
        return canvas
    return _scale(pixels, size, size)


def _scale(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if pixels.shape[:2] == (height, width):
        return np.ascontiguousarray(pixels)
    shrink_h, shrink_w = pixels.shape[0] >= height, pixels.shape[1] >= width
    if shrink_h != shrink_w:  # one side shrinks and the other grows: each in its own way
        middle = (height, pixels.shape[1]) if shrink_h else (pixels.shape[0], width)
        pixels = cv2.resize(pixels, middle[::-1], interpolation=cv2.INTER_AREA)
        shrink_h = False
    how = cv2.INTER_AREA if shrink_h else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=how), np.uint8)


def _decode_jpeg(data: bytes, min_size: tuple[int, int] | None) -> NDArray[np.uint8] | None:
    """Pixels by libjpeg-turbo, or None where Pillow should decide (CMYK, damage, oddities)."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace in ("CMYK", "YCCK") or height * width > MAX_PIXELS:
            return None
        orientation = 1
        if _has_app1(data):  # reading EXIF costs more than a small decode: look first
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                orientation = _orientation(image)
        need_h, need_w = min_size if min_size is not None else (0, 0)
        if orientation in _ON_THEIR_SIDE:
            need_h, need_w = need_w, need_h
        pixels = simplejpeg.decode_jpeg(
            data, colorspace="RGB", min_height=min(need_h, height), min_width=min(need_w, width), strict=True
        )
    except Exception:  # whatever it is, Pillow has the last word and the better message
        return None
    return _orient(pixels, orientation)


def _orient(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply an EXIF orientation (1 to 8) to (H, W, C) pixels."""
    if orientation in _ON_THEIR_SIDE:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _turbo_accepts(data: bytes) -> bool:
    """Walk the whole JPEG stream at 1/8 size: every Huffman code is read, but few pixels are made."""
    try:
        simplejpeg.decode_jpeg(data, colorspace="GRAY", min_height=1, min_width=1, strict=True)
    except Exception:  # Pillow decides
        return False
    return True


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ImageError("zero_byte", "the file is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise refusal(data) from None
    except Image.DecompressionBombError:
        raise ImageError("too_large", f"it has more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:
        kind = "truncated" if is_cut_short(data) else "corrupt"
        raise ImageError(kind, f"its header cannot be read ({one_line(error)})") from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError("too_large", f"it has {width:,} x {height:,} pixels, the limit is {MAX_PIXELS:,}")
    if width == 0 or height == 0:
        raise ImageError("corrupt", f"it has no pixels ({width} x {height})")
    return image


def _load(image: Image.Image, data: bytes) -> None:
    large = image.size[0] * image.size[1] > LARGE_PIXELS
    try:
        if large:
            _one_at_a_time.acquire()
        image.seek(0)
        image.load()
    except (MemoryError, Image.DecompressionBombError):
        raise ImageError(
            "too_large", f"its {image.size[0]:,} x {image.size[1]:,} pixels need too much memory"
        ) from None
    except Exception as error:
        text = one_line(error)
        if is_cut_short(data) or any(word in text for word in ("truncated", "Truncated", "end of file", "EOF")):
            raise ImageError("truncated", f"it is cut off or damaged within its {len(data):,} bytes ({text})") from None
        raise ImageError("corrupt", f"it cannot be decoded ({text})") from None
    finally:
        if large:
            _one_at_a_time.release()


def _num_frames(image: Image.Image) -> int:
    """Frames or pages; 1 where they cannot be counted. The second picture of a camera's MPO is no frame."""
    if image.format == "MPO":
        return 1
    try:
        return max(1, int(getattr(image, "n_frames", 1)))
    except Exception:  # a later frame is damaged; the first decides
        return 1


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; damaged EXIF data are no reason to refuse the pixels."""
    try:
        found = image.getexif().get(0x0112, 1)
    except Exception:
        return 1
    return int(found) if isinstance(found, int) and 1 <= found <= 8 else 1


def _has_app1(data: bytes) -> bool:
    """True where a JPEG has an APP1 segment (EXIF or XMP), by hopping over the segments before the pixels."""
    at, end = 2, len(data) - 4
    while at < end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xE1:
            return True
        if marker == 0xDA:
            return False
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def decoder_fingerprint() -> str:
    """Short name of the decoding path and of the libraries it rests on."""
    import PIL
    import simplejpeg

    versions = f"{DECODER} pillow-{PIL.__version__} simplejpeg-{simplejpeg.__version__} {MAX_PIXELS}"
    return f"{zlib.crc32(versions.encode()):08x}"
