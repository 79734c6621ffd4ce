"""Predictions as files: CSV, Parquet or JSON, written as they come."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from regraft.errors import UsageError
from regraft.files import replacing
from regraft.types import Predictions

SUFFIXES = (".csv", ".parquet", ".json")


def check_suffix(path: Path) -> None:
    """Raise UsageError unless the ending names a format that is written."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"predictions are written as {', '.join(SUFFIXES)}: {path.name!r} ends otherwise")


def columns(part: Predictions, *, proba: bool) -> dict[str, Any]:
    """Column name to values: `image, predicted_label, confidence`, then what else is known, then `p_<class>`.

    An image that could not be read has NaN probabilities: its label and confidence are None.
    """
    readable = [not missing for missing in np.isnan(part.pred_probs.max(axis=1, initial=-np.inf)).tolist()]
    best = np.argmax(np.nan_to_num(part.pred_probs), axis=1).tolist()
    names = part.class_names
    table: dict[str, Any] = {
        "image": [str(image) for image in part.images],
        "predicted_label": [names[k] if good else None for k, good in zip(best, readable, strict=True)],
        "confidence": [
            float(row[k]) if good else None for row, k, good in zip(part.pred_probs, best, readable, strict=True)
        ],
    }
    if part.labels is not None:
        table["given_label"] = [names[k] if k >= 0 else None for k in part.labels.tolist()]
    if part.split is not None:
        table["split"] = part.split.tolist()
    if part.out_of_fold is not None:
        table["out_of_fold"] = part.out_of_fold.tolist()
    if part.group_ids is not None:
        table["group"] = part.group_ids.tolist()
    if proba:
        for k, name in enumerate(part.class_names):
            table[f"p_{name}"] = part.pred_probs[:, k].astype(np.float32)
    return table


def write_predictions(path: Path, predictions: Predictions, *, proba: bool) -> None:
    """Write all predictions at once, atomically."""
    for _ in stream_predictions(path, [predictions], proba=proba):
        pass


def stream_predictions(path: Path, parts: Iterable[Predictions], *, proba: bool) -> Iterator[Predictions]:
    """Write predictions part by part and pass each part on; the file appears, whole, when the last one is written.

    Without a part, no file is written. A probability that is not known is left empty, or null.

    Raises:
        UsageError: an ending other than .csv, .parquet or .json.
    """
    check_suffix(path)
    parts = iter(parts)
    first = next(parts, None)
    if first is None:
        return
    writer = {".csv": _csv, ".parquet": _parquet, ".json": _json}[path.suffix.lower()]
    with replacing(path) as aside, contextlib.closing(writer(aside)) as write:
        next(write)
        for part in itertools.chain([first], parts):
            write.send(columns(part, proba=proba))
            yield part


def _csv(path: Path) -> Any:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        header = False
        while True:
            table = yield
            if not header:
                writer.writerow(table)
                header = True
            writer.writerows([None if v != v else v for v in row] for row in zip(*table.values(), strict=True))


def _json(path: Path) -> Any:
    """An array with an object a line."""
    with path.open("w", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write("[")
        separator = "\n"
        try:
            while True:
                table = yield
                plain = [values.tolist() if isinstance(values, np.ndarray) else values for values in table.values()]
                for row in zip(*plain, strict=True):
                    record = {k: None if v != v else v for k, v in zip(table, row, strict=True)}  # NaN is no JSON
                    stream.write(separator + json.dumps(record, ensure_ascii=False))
                    separator = ",\n"
        finally:
            stream.write("\n]\n")


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = {"image": pa.string(), "predicted_label": pa.string(), "given_label": pa.string(), "split": pa.string()}
    types = texts | {"confidence": pa.float64(), "out_of_fold": pa.bool_(), "group": pa.int64()}
    writer = None
    try:
        while True:
            table = yield
            arrays = {k: pa.array(_utf8(v), type=types.get(k), from_pandas=True) for k, v in table.items()}  # NaN: null
            batch = pa.table(arrays)
            if writer is None:
                writer = pq.ParquetWriter(path, batch.schema, compression="zstd")
            writer.write_table(batch)
    finally:
        if writer is not None:
            writer.close()


def _utf8(values: Any) -> Any:
    """File names may hold bytes that are no UTF-8; Parquet must not."""
    if values is None or isinstance(values, np.ndarray) or not values or not isinstance(values[0], str):
        return values
    return [None if v is None else v.encode("utf-8", "backslashreplace").decode("utf-8") for v in values]
