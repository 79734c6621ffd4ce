"""Options that several verbs share, and how they print."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from regraft.data import Scan
    from regraft.progress import Listener

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON on stdout, and nothing else there.")]
RunsDir = Annotated[Path, Parameter(help="Folder in which runs are kept.")]
CacheDir = Annotated[Path | None, Parameter(help="Folder for features; by default the user's cache folder.")]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns of a manifest.

    Attributes:
        image_column: Column of a manifest that holds the image paths.
        label_column: Column that holds the class names.
        split_column: Column that holds train, val or test.
        group_column: Column of groups that must not straddle two splits.
    """

    image_column: str = "image"
    label_column: str = "label"
    split_column: str = "split"
    group_column: str = "group"


ColumnOptions = Annotated[Columns | None, Parameter(name="*")]
"""Give it the default None: what is left out then has the defaults of `Columns`."""


def scanned(data: Path, columns: Columns | None, cache_dir: Path | None, listener: Listener) -> Scan:
    """The scan stage of a verb."""
    from regraft.pipeline import read
    from regraft.progress import Stopwatch

    with Stopwatch(listener).stage("scan"):
        return read(data, cache_dir=cache_dir, listener=listener, **dataclasses.asdict(columns or Columns()))


def print_json(value: Any) -> None:
    """Strict JSON on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
