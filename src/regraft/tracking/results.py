"""What a finished run tells TensorBoard, and who else listens, besides the curves of its training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.tracking.base import Tracker, Trackers
from regraft.tracking.pictures import Picture, confusion_picture, mistakes_picture
from regraft.tracking.tensorboard import open_tensorboard

NUM_BINS = 20

PER_CLASS = ("class", "precision", "recall", "f1", "support")


def write_linear_probe(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    settings: Mapping[str, tuple[Any, str]] | None = None,
    warn: Callable[[str], None],
    also: Sequence[Tracker] = (),
) -> None:
    """The regularisation path as curves: a linear probe has no epochs, but a point for each strength.

    Args:
        folder: for event files.
        rows: of `metrics.jsonl`: {"step", "cv/strength", "cv/log_loss", …}; what is no finite number is left out.
        settings: setting to (value, why).
        warn: told once where the files cannot be written.
        also: further trackers that hear the same; left open.
    """
    files = open_tensorboard(folder, warn)
    tracker = Trackers([files, *also], warn)
    tracker.rewind(-1)  # a resumed run may have told it all before
    if settings:
        tracker.log_settings(settings)
    for row in rows:
        tracker.log_metrics(numbers(row, leave_out=("step",)), int(row["step"]))
    files.close()


def write_results(
    folder: Path,
    *,
    split: str,
    step: int,
    metrics: Mapping[str, float],
    labels: NDArray[np.int64],
    pred_probs: NDArray[np.float64],
    class_names: Sequence[str],
    paths: Sequence[str],
    thumbnail: Callable[[str, int], bytes | None],
    warn: Callable[[str], None],
    per_class: Sequence[Sequence[Any]] = (),
    also: Sequence[Tracker] = (),
) -> None:
    """The measures, the confusion matrix, the worst mistakes, and how sure right and wrong answers were.

    Args:
        folder: of event files.
        split: "test" or "cv": the first part of every name.
        step: at which they are shown: the last of the training.
        metrics: name (without the split) to value.
        labels: int (N,), -1 where none is known.
        pred_probs: (N, K), of the images that were evaluated.
        class_names: K.
        paths: N, what `thumbnail` takes.
        thumbnail: (path, most pixels a side) → JPEG bytes, or None.
        warn: told once where the files cannot be written.
        per_class: rows of `PER_CLASS`.
        also: further trackers that hear the same; left open.
    """
    files = open_tensorboard(folder, warn)
    tracker = Trackers([files, *also], warn)
    if per_class:
        tracker.log_table(f"{split}/per_class", PER_CLASS, per_class, step=step)
    tracker.log_metrics(numbers({f"{split}/{name}": value for name, value in metrics.items()}), step)
    known, k = labels >= 0, len(class_names)
    given, predicted, confidence = labels[known], pred_probs[known].argmax(axis=1), pred_probs[known].max(axis=1)
    if len(given):
        matrix = np.bincount(given * k + predicted, minlength=k * k).reshape(k, k)
        pictures: dict[str, Picture | None] = {
            "confusion": confusion_picture(matrix, class_names),
            "worst_mistakes": mistakes_picture(paths, labels, pred_probs, class_names, thumbnail),
        }
        for name, picture in pictures.items():
            if picture is not None:
                tracker.log_image(f"{split}/{name}", picture.png, width=picture.width, height=picture.height, step=step)
        for name, which in (("right", predicted == given), ("wrong", predicted != given)):
            counts, edges = np.histogram(confidence[which], bins=NUM_BINS, range=(0.0, 1.0))
            if counts.any():
                tracker.log_histogram(f"{split}/confidence_of_{name}_answers", counts, edges, step=step)
    files.close()


def numbers(row: Mapping[str, Any], *, leave_out: Sequence[str] = ()) -> dict[str, float]:
    """What of a row can be drawn: finite numbers."""
    return {
        name: float(value)
        for name, value in row.items()
        if name not in leave_out and isinstance(value, int | float) and not isinstance(value, bool)
        and math.isfinite(value)
    }  # fmt: skip
