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


@dataclass(frozen=True, kw_only=True)
class Reviewed:
    """Which decisions of reviewers count.

    Attributes:
        decisions: Apply what reviewers decided about these images.
        database: Where their decisions are kept: sqlite:///FILE or postgresql://USER@HOST/NAME; by default
            $REGRAFT_DATABASE_URL, else RUNS_DIR/regraft.db.
        runs_dir: Folder in which runs are kept, and the database unless said.
        project: Whose decisions; by default those about data of this name.
        keep_ambiguous: Keep images whose picture does not tell their class.
    """

    decisions: bool = True
    database: str | None = None
    runs_dir: Path = Path("runs")
    project: str | None = None
    keep_ambiguous: bool = False


ReviewOptions = Annotated[Reviewed | None, Parameter(name="*")]
"""Give it the default None: what is left out then has the defaults of `Reviewed`."""


def scanned(data: Path, columns: Columns | None, cache_dir: Path | None, listener: Listener) -> Scan:
    """The scan stage of a verb."""
    from regraft.pipeline import read
    from regraft.progress import Stopwatch

    with Stopwatch(listener).stage("scan"):
        return read(data, cache_dir=cache_dir, listener=listener, **dataclasses.asdict(columns or Columns()))


def reviewed(scan: Scan, data: Path, options: Reviewed | None, listener: Listener) -> Scan:
    """The scan with the decisions of reviewers, for a verb that applies them."""
    options = options if options is not None else Reviewed()
    if not options.decisions:
        return scan
    from regraft.decided import with_decisions
    from regraft.store.runs import project_name

    return with_decisions(
        scan, options.project or project_name(data), database=options.database, runs_dir=options.runs_dir,
        keep_ambiguous=options.keep_ambiguous, say=listener.say,
    )  # fmt: skip


def print_json(value: Any) -> None:
    """Strict JSON on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
