"""Run folders: `runs/<project>/<name>/`, one per fit; the folder is the record and the index is rebuilt from it."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from regraft.errors import UsageError
from regraft.types import JSON

CONFIG, ENV, RESULT, METRICS = "config.yaml", "env.json", "result.json", "metrics.jsonl"
PREDICTIONS, REPORT, MODEL, RANKING = "predictions.parquet", "report.html", "model", "ranking.json"
CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"
RACE, RACE_CARD = "race.json", "race.png"

_NOT_IN_NAMES = re.compile('[/\\\\<>:"|?*\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
"""What a run's path never holds: it is printed as one line, and written into files as UTF-8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run folder as found on disk.

    Attributes:
        path: the folder.
        project: name of the folder above it.
        name: its own name.
        result: the content of `result.json`, or None where the run has not finished.
        finished: POSIX time at which `result.json` was written, or None.
    """

    path: Path
    project: str
    name: str
    result: JSON | None
    finished: float | None


def create_run_folder(runs_dir: Path, project: str, name: str | None = None, *, exist_ok: bool = False) -> Path:
    """Make `runs_dir/project/name`; without a name the next free number, safe against others doing the same.

    Raises:
        UsageError: the name is taken and `exist_ok` is not set, or by something that is no run, or it is not a plain
            file name.
    """
    for word, value in (("project", project), ("name", name)):
        if value is not None and (not value.strip(". ") or _NOT_IN_NAMES.search(value)):
            raise UsageError(f"a run's {word} must be a plain folder name: {value!r} is not")
    parent = runs_dir / project
    parent.mkdir(parents=True, exist_ok=True)
    if name is not None:
        folder = parent / name
        if folder.exists():
            if not exist_ok:
                raise UsageError(f"a run is never overwritten unasked: {folder} exists; choose another --name")
            if not (folder / CONFIG).is_file() and (not folder.is_dir() or any(folder.iterdir())):
                raise UsageError(f"only a run is ever replaced: {folder} is no run; choose another --name")
            shutil.rmtree(folder)
        folder.mkdir()
        return folder
    taken = [int(entry.name) for entry in parent.iterdir() if entry.name.isdecimal()]
    for number in itertools.count(max(taken, default=0) + 1):
        folder = parent / str(number)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def project_name(source: Path) -> str:
    """The project a data folder or manifest belongs to unless said otherwise: its own name."""
    name = source.resolve().stem if source.is_file() else source.resolve().name
    return _NOT_IN_NAMES.sub("_", name).strip(". ") or "data"


def list_runs(runs_dir: Path) -> list[RunRecord]:
    """Every run below a folder, unfinished ones included, in order of project and name."""
    records = []
    for config in sorted(runs_dir.glob(f"*/*/{CONFIG}")):
        folder = config.parent
        result, finished = None, None
        try:
            result = json.loads((folder / RESULT).read_text("utf-8"))
            finished = (folder / RESULT).stat().st_mtime
        except (OSError, ValueError):
            result = None
        records.append(
            RunRecord(path=folder, project=folder.parent.name, name=folder.name, result=result, finished=finished)
        )
    return records
