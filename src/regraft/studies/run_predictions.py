"""What a run predicted for the images it is judged on, read from its folder as from a stranger's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import DataError
from regraft.store import runs
from regraft.store.run_files import opened

MAX_VALUES = 400_000_000
"""Images times columns that are read: 1.6 GB of probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOut:
    """What a run predicted for images that the model it judges had not seen.

    Attributes:
        images: (n,) paths, sorted, each once.
        labels: int64 (n,), the given class.
        predicted: int64 (n,), the answer.
        pred_probs: float64 (n, K), rows sum to 1.
        class_names: K names.
        groups: int64 (n,), images that belong together share a number; None where the run did not write it down.
    """

    images: NDArray[np.object_]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    pred_probs: NDArray[np.float64]
    class_names: tuple[str, ...]
    groups: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.images)


def read_held_out(folder: Path, split: str) -> HeldOut:
    """The labelled rows of `predictions.parquet` that the run's measures rest on.

    Args:
        folder: of the run.
        split: "test": the test images; "cv": all that were predicted out of fold.

    Raises:
        DataError: there is no such file, or not one that a fit wrote.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = f"{folder.parent.name}/{folder.name}"
    try:
        with opened(folder, runs.PREDICTIONS) as stream:
            file = pq.ParquetFile(stream)
            columns = file.schema_arrow.names
            if file.metadata.num_rows * len(columns) > MAX_VALUES or len(set(columns)) < len(columns):
                raise ValueError("too large, or a column twice")
            table = file.read()
        classes = tuple(column[2:] for column in columns if column.startswith("p_"))
        return _held_out(table, classes, columns, split)
    except FileNotFoundError:
        raise DataError(f"runs are compared by their predictions: {name} has no {runs.PREDICTIONS}") from None
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        why = " ".join(str(error).split())[:120]
        raise DataError(f"predictions must be what a fit wrote: {name}/{runs.PREDICTIONS} is not ({why})") from None


def _held_out(table: Any, classes: tuple[str, ...], columns: list[str], split: str) -> HeldOut:
    position = {name: k for k, name in enumerate(classes)}
    images = np.array(table["image"].to_pylist(), dtype=object)
    labels = np.array([position.get(label, -1) for label in table["given_label"].to_pylist()], np.int64)
    answers = np.array([position.get(label, -1) for label in table["predicted_label"].to_pylist()], np.int64)
    probs = np.stack([table[f"p_{name}"].to_numpy() for name in classes], axis=1).astype(np.float64)
    rows = (labels >= 0) & (answers >= 0) & np.isfinite(probs).all(axis=1)
    if split == "test" and "split" in columns:
        rows &= np.array(table["split"].to_pylist(), dtype=object) == "test"
    elif "out_of_fold" in columns:
        rows &= np.array(table["out_of_fold"].to_pylist(), dtype=object) == True  # noqa: E712 (of objects, None too)
    groups = np.array(table["group"].to_pylist(), np.int64)[rows] if "group" in columns else None
    if not all(isinstance(image, str) for image in images):
        raise ValueError("an image without a name")
    images, first = np.unique(images[rows], return_index=True)
    probs = probs[rows][first]
    if len(probs) and not (probs.min() >= 0 and np.abs(probs.sum(axis=1) - 1).max() < 1e-2):
        raise ValueError("columns p_… that are no probabilities")
    return HeldOut(
        images=images, labels=labels[rows][first], predicted=answers[rows][first],
        pred_probs=probs / probs.sum(axis=1, keepdims=True), class_names=classes,
        groups=None if groups is None else groups[first],
    )  # fmt: skip
