"""Manifests: CSV, TSV or Parquet tables that name images, labels and perhaps splits and groups."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from regraft.data.files import printable_path, problem_at
from regraft.data.kinds import printable
from regraft.data.layout import SPLIT_WORDS, Listing
from regraft.errors import DataError, nearest

_URL_SCHEMES = ("http://", "https://", "s3://", "gs://", "hf://")


def list_manifest(
    path: Path,
    *,
    image_column: str = "image",
    label_column: str = "label",
    split_column: str = "split",
    group_column: str = "group",
    unlabelled: bool = False,
) -> Listing:
    """Read a manifest; relative paths are relative to it.

    Rows without a label, without a path, or whose file does not exist are listed too: the scan says so.

    Raises:
        DataError: a column is missing, the file is no such table, or a split has an unknown name.
    """
    kind = "Parquet" if path.suffix.lower() in (".parquet", ".pq") else path.suffix[1:].upper()
    wanted = [image_column, label_column, split_column, group_column]
    read: Callable[[Path, Sequence[str]], dict[str, list[Any]]] = _parquet if kind == "Parquet" else _delimited
    columns = read(path, wanted)
    missing = [name for name in wanted[: 1 if unlabelled else 2] if name not in columns]
    if missing:
        has = [name for name in columns if name]
        raise DataError(
            f"a manifest needs the columns {image_column!r} and {label_column!r}: {printable_path(path)} has no "
            f"{' and no '.join(map(repr, missing))}{nearest(missing[0], has)}; its columns are "
            f"{', '.join(repr(printable(name)) for name in has[:12])}; name yours with image_column, label_column"
        )
    paths = [_text(value) for value in columns[image_column]]
    absent: list[Any] = [None] * len(paths)
    listing = Listing(root=path.parent, source=f"{kind} manifest")
    listing.splits = _splits(path, columns.get(split_column) or absent)
    labels: dict[str, str] = {}
    for row, (image, label, group) in enumerate(
        zip(
            paths,
            absent if unlabelled else columns[label_column],
            columns.get(group_column) or absent,
            strict=True,
        )
    ):
        name = printable(_text(label))
        listing.images.append(image.strip() or f"(row {row + 1} names no image)")
        listing.labels.append(labels.setdefault(name, name) if name.strip() else None)
        listing.groups.append(printable(_text(group)).strip())
    return _checked(listing)


def _checked(listing: Listing) -> Listing:
    """Set down what cannot be opened, mend backslashes, and drop rows that say the same thing again."""
    first: dict[tuple[str, str | None, str, str], int] = {}
    keep: list[int] = []
    again: dict[int, int] = {}
    for row, image in enumerate(listing.images):
        known = (image, listing.labels[row], listing.splits[row], listing.groups[row])
        if known in first:
            again[first[known]] = again.get(first[known], 1) + 1
        else:
            first[known] = row
            keep.append(row)
    new_row = {old: new for new, old in enumerate(keep)}
    kept = Listing(root=listing.root, source=listing.source, notes=listing.notes)
    for name in ("images", "labels", "splits", "groups"):
        column = getattr(listing, name)
        setattr(kept, name, [column[row] for row in keep])
    kept.repeated = {new_row[old]: times for old, times in again.items()}
    base = str(kept.root)
    for row, image in enumerate(kept.images):
        problem = problem_at(os.path.join(base, image))
        if problem == "missing_file" and "\\" in image:  # written on Windows
            slashed = image.replace("\\", "/")
            if not (mended := problem_at(os.path.join(base, slashed))):
                kept.images[row], problem = slashed, mended
        if problem:
            kept.problems[row] = problem
    remote = sum(image.lower().startswith(_URL_SCHEMES) for image in kept.images)
    if remote:
        kept.notes.append(f"{remote:,} images are web addresses; download them first and list the files")
    return kept


def _delimited(path: Path, wanted: Sequence[str]) -> dict[str, list[Any]]:
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = data.decode("utf-16", errors="replace")
    else:  # a file name may have any bytes; surrogates carry them to open()
        text = data.decode("utf-8", errors="surrogateescape").removeprefix("\ufeff")
    header = text.split("\n", 1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        names = [name.strip() for name in next(rows, [])]
        places = {name: names.index(name) for name in wanted if name in names}
        columns: dict[str, list[Any]] = {name: [] for name in names}
        for row in rows:
            if not any(row):
                continue
            for name, place in places.items():
                columns[name].append(row[place] if place < len(row) else "")
    except csv.Error as error:
        raise DataError(f"a manifest must be a table: {printable_path(path)} cannot be read ({error})") from None
    return columns


def _parquet(path: Path, wanted: Sequence[str]) -> dict[str, list[Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(path).names
        table = pyarrow.parquet.read_table(path, columns=[name for name in wanted if name in names])
    except (pyarrow.ArrowException, OSError) as error:
        reason = printable(str(error).split("\n", 1)[0])[:160]
        raise DataError(f"a manifest must be a table: {printable_path(path)} cannot be read ({reason})") from None
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for name in table.column_names:
        values = table[name]
        if pyarrow.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if pyarrow.types.is_nested(values.type) or pyarrow.types.is_binary(values.type):
            raise DataError(
                f"the column {name!r} must hold text: in {printable_path(path)} it is {str(values.type)[:60]}; "
                f"write the images as files and their paths in the column"
            )
        columns[name] = values.to_pylist()
    return columns


def _text(value: Any) -> str:
    """A cell as text: nothing for null and NaN, `3` for 3.0."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _splits(path: Path, values: Sequence[Any]) -> list[str]:
    texts = [_text(value).strip().casefold() for value in values]
    unknown = sorted({text for text in texts if text and text not in SPLIT_WORDS})
    if unknown:
        shown = ", ".join(repr(printable(text)) for text in unknown[:5])
        raise DataError(
            f"a split must be train, val or test: {printable_path(path)} has {shown}"
            f"{nearest(unknown[0], SPLIT_WORDS)}; mend the column or name another with split_column"
        )
    return [SPLIT_WORDS[text] if text else "" for text in texts]
