"""Gathers what a run found out into the contents of its report."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from regraft import environment
from regraft.config import Settled
from regraft.data import Scan
from regraft.errors import ImageError
from regraft.evaluate.metrics import reliability_bins
from regraft.evaluate.report import ReportContents, write_report
from regraft.evaluate.report_training import Training
from regraft.fit.linear_probe import LinearProbe
from regraft.images import decode
from regraft.outcome import Evaluated
from regraft.progress import Listener
from regraft.tracking.base import Tracker
from regraft.types import JSON, Features, Manifest, Split

EXAMPLES_PER_CLASS = 4


def write_run_report(
    path: Path,
    *,
    scan: Scan,
    manifest: Manifest,
    split: Split,
    probe: LinearProbe,
    estimate: Evaluated,
    result: JSON,
    settled: dict[str, Settled],
    command: str,
    training: Training | None = None,
    race: str = "",
) -> None:
    """Write `report.html` for a fit; with `training` also how it went, with `race` (trusted HTML) the decision card."""
    predictions = estimate.predictions
    assert predictions.labels is not None
    contents = ReportContents(
        title=path.parent.parent.name,
        command=command,
        result=result,
        config={name: dataclasses.asdict(value) for name, value in settled.items()},
        env=environment.describe(),
        understood=[*_understood(scan, split), *(result.get("decisions") or {}).get("words", [])],
        findings=scan.findings,
        predictions=predictions,
        confusion=estimate.point.confusion,
        reliability=reliability_bins(predictions.labels, predictions.pred_probs),
        path=[dataclasses.asdict(row) for row in probe.path],
        chosen=probe.chosen_strength,
        choice=probe.reason,
        training=training,
        race=race,
        thumbnail=lambda image, pixels: thumbnail(manifest.root / image, pixels),
        image_examples=_examples(manifest),
    )
    write_report(path, contents)


def write_board_results(
    folder: Path, manifest: Manifest, features: Features, estimate: Evaluated, listener: Listener, *,
    step: int, also: Sequence[Tracker] = (),
) -> None:  # fmt: skip
    """The measures, the confusion matrix and the worst mistakes, for TensorBoard, behind the curves of the training.

    TensorBoard's projector also gets the evaluated images as `features` sees them, the backbone's before training.
    """
    from regraft.tracking.projector import write_projector
    from regraft.tracking.results import write_results

    predictions = estimate.predictions
    assert predictions.labels is not None
    write_results(
        folder,
        split=estimate.split,
        step=step,
        metrics={name: interval.estimate for name, interval in estimate.intervals.items()},
        labels=predictions.labels,
        pred_probs=predictions.pred_probs,
        class_names=predictions.class_names,
        paths=[str(image) for image in predictions.images],
        thumbnail=lambda image, pixels: thumbnail(manifest.root / image, pixels),
        warn=listener.say,
        per_class=_per_class(estimate),
        also=also,
    )
    places = {name: row for row, name in enumerate(manifest.names)}
    rows = np.array([places[str(image)] for image in predictions.images], np.int64)
    try:
        write_projector(
            folder, features.values[rows], labels=predictions.labels, pred_probs=predictions.pred_probs,
            class_names=predictions.class_names, paths=[str(manifest.images[row]) for row in rows],
            thumbnail=lambda image, pixels: thumbnail(manifest.root / image, pixels),
        )  # fmt: skip
    except OSError as error:
        listener.say(f"TensorBoard's projector cannot be written and is left out; the run goes on ({error})")


def _per_class(estimate: Evaluated) -> list[list[Any]]:
    measures = ("precision", "recall", "f1")
    return [
        [name, *(float(row[measure].estimate) for measure in measures), int(row["support"])]
        for name, row in estimate.per_class.items()
    ]


def thumbnail(path: Path, pixels: int) -> bytes | None:
    """A JPEG of at most `pixels` a side, or None where the file cannot be read."""
    try:
        decoded = decode(path.read_bytes(), min_size=(pixels, pixels))
    except (OSError, ImageError):
        return None
    image = Image.fromarray(decoded)
    if max(image.size) < pixels // 2:  # tiny images are enlarged without blur, so that their pixels can be judged
        factor = pixels // max(image.size)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((pixels, pixels))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def _understood(scan: Scan, split: Split) -> list[str]:
    manifest = scan.manifest
    heights, widths = manifest.sizes[:, 0], manifest.sizes[:, 1]
    formats = ", ".join(f"{count:,} {name}" for name, count in scan.formats.items())
    return [
        f"{scan.num_files:,} files were read as {scan.source}; {len(manifest):,} images in "
        f"{manifest.num_classes} classes can be used ({formats}).",
        f"The images are {np.median(widths):,.0f} × {np.median(heights):,.0f} pixels in the median, from "
        f"{widths.min():,} × {heights.min():,} up to {widths.max():,} × {heights.max():,}.",
        *scan.notes,
        f"Split: {split.reason}.",
    ]


def _examples(manifest: Manifest) -> dict[str, list[str]]:
    """Images of each class, evenly spread over its list."""
    examples = {}
    for k, name in enumerate(manifest.class_names):
        rows = np.flatnonzero(manifest.labels == k)
        picked = (
            rows[np.linspace(0, len(rows) - 1, min(EXAMPLES_PER_CLASS, len(rows))).astype(int)] if len(rows) else []
        )
        examples[name] = [str(manifest.images[row]) for row in picked]
    return examples
