"""Predicting: any number of images, as a table or a file, while they stream."""

from __future__ import annotations

import glob
import io
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from regraft.cli.options import CacheDir, Json
from regraft.cli.tta import Tta, TtaFlip, num_views
from regraft.errors import DataError, UsageError


def predict(
    run: Path,
    images: Annotated[list[str], Parameter(allow_leading_hyphen=True)],  # for a single -
    *,
    output: Path | None = None,
    proba: Annotated[bool, Parameter(negative="")] = False,
    tta: Tta = "none",
    tta_flip: TtaFlip = None,
    engine: Literal["auto", "openvino", "torch", "compiled"] = "auto",
    cache_dir: CacheDir = None,
    json_: Json = False,
) -> None:
    """Predict the classes of images: a table, or a CSV, Parquet or JSON file. Any number of images.

    Parameters
    ----------
    run
        A run folder, or the model folder in it.
    images
        Files, folders, glob patterns; a single - reads paths from stdin, one a line.
    output
        Write to this .csv, .parquet or .json file.
    proba
        Add one column p_<class> for each class.
    engine
        What runs the backbone.
    """
    from regraft.predictions import check_suffix, columns, stream_predictions
    from regraft.predictor import load

    if output is not None:
        check_suffix(output)
    paths = _paths(images)
    model = load(run, engine=engine, cache_dir=cache_dir)
    failures: list[str] = []

    def on_failure(path: str, reason: str) -> None:
        failures.append(path)
        if len(failures) <= 20:
            print(f"image {path!r} cannot be used: {reason}; it has no prediction", file=sys.stderr)

    parts = model.stream(paths, tta=num_views(tta), tta_flip=tta_flip, on_failure=on_failure)
    count = 0
    if output is not None:
        parts = stream_predictions(output, parts, proba=proba)
    for part in parts:
        count += len(part)
        if json_:
            _print_json_rows(columns(part, proba=proba), first=count == len(part))
        elif output is None:
            _print_predictions(columns(part, proba=proba), first=count == len(part))
        if count > len(part):
            print(f"{count:,} images", file=sys.stderr)
    if json_:
        print("\n]" if count else "[]")
    if failures:
        print(f"{len(failures):,} of {count:,} images could not be used", file=sys.stderr)
    if not count or len(failures) == count:
        raise DataError(f"at least one image must be usable: {count} given, {len(failures)} unusable")
    if output is not None and not json_:
        print(output)


def _paths(images: list[str]) -> Iterator[Path]:
    from regraft.data import list_images

    if images == ["-"]:
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # file names hold any bytes
        return (Path(line.rstrip("\n")) for line in sys.stdin if line.strip())
    parts: list[Iterator[Path]] = []
    for name in images:
        if os.path.lexists(name) or glob.has_magic(name):
            found = list_images(name)
            parts += [iter([next(found)]), found]  # a folder without images is refused now, not hours later
        elif name.startswith("-"):
            raise UsageError(f"{name!r} is no option of predict, and no file (regraft predict --help)")
        else:  # it gets a row without a prediction, and the others go on
            parts.append(iter([Path(name)]))
    return itertools.chain.from_iterable(parts)


def _print_predictions(table: dict[str, Any], *, first: bool) -> None:
    from regraft.types import printable

    extra = [name for name in table if name.startswith("p_")]
    if first:
        print("\t".join(["image", "predicted_label", "confidence", *extra]))
    for number, image in enumerate(table["image"]):
        label, confidence = table["predicted_label"][number], table["confidence"][number]
        cells = [printable(image), "" if label is None else label, "" if confidence is None else f"{confidence:.4f}"]
        print("\t".join([*cells, *(f"{table[name][number]:.4f}" for name in extra)]))


def _print_json_rows(table: dict[str, Any], *, first: bool) -> None:
    plain = [values.tolist() if hasattr(values, "tolist") else values for values in table.values()]
    for number, row in enumerate(zip(*plain, strict=True)):
        record = {name: None if value != value else value for name, value in zip(table, row, strict=True)}
        print(("[\n" if first and number == 0 else ",\n") + json.dumps(record, ensure_ascii=False), end="")
