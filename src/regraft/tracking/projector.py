"""The evaluated images in TensorBoard's projector: points that lie near each other look alike to the backbone."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.files import write_bytes, write_text
from regraft.types import printable

MAX_IMAGES = 400
"""Each costs a decoded thumbnail, 1 to 4 ms."""

MAX_DIMENSIONS = 64
"""Principal components that are kept: the projector reduces them further, in the browser."""

_SIDE = 40
"""Of a thumbnail: 20 x 20 of them are 800 x 800 pixels, and browsers take 8192."""

CONFIG = "projector_config.pbtxt"
_TENSOR, _METADATA, _SPRITE = "projector-features.bytes", "projector-images.tsv", "projector-images.jpg"


def write_projector(
    folder: Path,
    features: NDArray[np.floating],
    *,
    labels: NDArray[np.int64],
    pred_probs: NDArray[np.float64],
    class_names: Sequence[str],
    paths: Sequence[str],
    thumbnail: Callable[[str, int], bytes | None],
) -> None:
    """Four files beside the event files: features, labels, pictures, and what is which.

    Args:
        folder: of event files.
        features: (N, D).
        labels: int (N,), -1 where none is known.
        pred_probs: (N, K).
        class_names: K.
        paths: N, what `thumbnail` takes.
        thumbnail: (path, most pixels a side) → JPEG bytes, or None where the image cannot be shown.

    Raises:
        OSError: they cannot be written.
    """
    rows = np.unique(np.linspace(0, len(features) - 1, min(MAX_IMAGES, len(features))).astype(int))
    if len(rows) < 3:
        return
    points = _principal(np.asarray(features[rows], np.float32))
    write_bytes(folder / _TENSOR, points.astype("<f4").tobytes())
    predicted, confidence = pred_probs.argmax(axis=1), pred_probs.max(axis=1)
    lines = ["given\tpredicted\tright\tconfidence\timage"]
    for row in rows:
        given = class_names[labels[row]] if labels[row] >= 0 else ""
        right = "" if labels[row] < 0 else "yes" if labels[row] == predicted[row] else "NO"
        words = (given, class_names[predicted[row]], right, f"{confidence[row]:.3f}", paths[row])
        lines.append("\t".join(printable(word) for word in words))
    write_text(folder / _METADATA, "\n".join(lines) + "\n")
    write_bytes(folder / _SPRITE, _sprite([paths[row] for row in rows], thumbnail))
    n, d = points.shape
    write_text(
        folder / CONFIG,
        f'embeddings {{\n  tensor_name: "images as the backbone sees them"\n  tensor_shape: {n}\n  tensor_shape: {d}\n'
        f'  tensor_path: "{_TENSOR}"\n  metadata_path: "{_METADATA}"\n'
        f'  sprite {{ image_path: "{_SPRITE}" single_image_dim: {_SIDE} single_image_dim: {_SIDE} }}\n}}\n',
    )


def _principal(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, D) → (n, at most 64), centred: the components with the most variance, so that distances hardly change."""
    centred = features - features.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    kept: NDArray[np.float32] = (u * s)[:, :MAX_DIMENSIONS]
    return kept


def _sprite(paths: Sequence[str], thumbnail: Callable[[str, int], bytes | None]) -> bytes:
    """All pictures in one, row by row, in a square."""
    from PIL import Image

    columns = math.ceil(math.sqrt(len(paths)))
    sheet = Image.new("RGB", (columns * _SIDE, columns * _SIDE), (238, 241, 246))
    for place, path in enumerate(paths):
        if data := thumbnail(path, _SIDE):
            with Image.open(io.BytesIO(data)) as opened:
                shown = opened.convert("RGB")
            shown.thumbnail((_SIDE, _SIDE))
            left, top = place % columns * _SIDE, place // columns * _SIDE
            sheet.paste(shown, (left + (_SIDE - shown.width) // 2, top + (_SIDE - shown.height) // 2))
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=85)
    return stream.getvalue()
