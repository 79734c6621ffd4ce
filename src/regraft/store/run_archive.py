"""Runs as one zip file: with a manifest of checksums, and read back as if an enemy had written it.

    manifest.json                      format, who, and of each run its id and files with size and BLAKE3
    runs/PROJECT/NAME/FILE             what the manifest lists, and nothing else

A run's id is the hash of its files: the same run is never taken twice, and another run of the same name gets a name of
its own. An existing run is never touched.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from blake3 import blake3

from regraft.errors import DataError, UsageError
from regraft.files import replacing
from regraft.store import runs
from regraft.store.run_files import ORIGIN, is_plain_name, opened, read_json, run_files, text
from regraft.types import JSON

FORMAT = "regraft-runs/1"
MANIFEST = "manifest.json"
MAX_ENTRIES = 20_000
MAX_BYTES = 4 << 30
"""Of one archive, unpacked."""
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """One file of a run: path with `/`, bytes, and BLAKE3 in hex."""

    path: str
    size: int
    blake3: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedRun:
    """One run as a manifest lists it.

    Attributes:
        project, name: where it comes from.
        id: `run_id` of its files.
        who: who made it.
        finished: POSIX time of its result.
        files: sorted by path.
    """

    project: str
    name: str
    id: str
    who: str
    finished: float
    files: tuple[RunFile, ...]


def pack(folder: Path, *, models: bool = True, checkpoints: bool = False, who: str = "") -> PackedRun:
    """What an archive would hold of a finished run: every listed file, read and hashed.

    Raises:
        UsageError: it is no run, or not finished.
    """
    if not (folder / runs.CONFIG).is_file() or not is_plain_name(folder.resolve().name):
        raise UsageError(f"a run is a folder with {runs.CONFIG}: {str(folder)!r} is none; regraft runs lists them")
    if not (folder / runs.RESULT).is_file():
        raise UsageError(
            f"a finished run is exported: {folder} has no {runs.RESULT}; finish it with fit --resume {folder}"
        )
    left_out = {name for name, wanted in ((runs.MODEL, models), (runs.CHECKPOINTS, checkpoints)) if not wanted}
    files = []
    for path, _ in run_files(folder):
        if path.partition("/")[0] not in left_out:
            with opened(folder, path) as stream:
                files.append(RunFile(path=path, **_hashed(stream)))
    whole = folder.resolve()
    origin = read_json(folder, ORIGIN) or {}
    return PackedRun(
        project=whole.parent.name, name=whole.name, id=run_id(files), who=text(origin.get("who"), 80) or who,
        finished=(folder / runs.RESULT).stat().st_mtime, files=tuple(files),
    )  # fmt: skip


def run_id(files: Sequence[RunFile]) -> str:
    """64 hex digits over the names and contents of a run's results; its weights and checkpoints are left out of it.

    So a run that came without its weights is still the same run.
    """
    heavy = (f"{runs.MODEL}/", f"{runs.CHECKPOINTS}/", f"{runs.TENSORBOARD}/")
    lines = sorted(f"{file.blake3} {file.path}\n" for file in files if not file.path.startswith(heavy))
    return blake3("".join(lines).encode()).hexdigest()


def export_runs(
    folders: Sequence[Path], output: Path, *, models: bool = True, checkpoints: bool = False, who: str = ""
) -> list[PackedRun]:
    """Write finished runs into a zip file; it appears whole or not at all.

    Raises:
        UsageError: something is no finished run, two have the same project and name, or the file is too large.
        DataError: a file changed while it was read.
    """
    packed = [pack(folder, models=models, checkpoints=checkpoints, who=who) for folder in folders]
    names = [f"{run.project}/{run.name}" for run in packed]
    if len(set(names)) < len(names):
        raise UsageError("an archive holds a run once: the same project and name was given twice")
    total = sum(file.size for run in packed for file in run.files)
    if total > MAX_BYTES or sum(len(run.files) for run in packed) >= MAX_ENTRIES:
        raise UsageError(
            f"an archive holds at most {MAX_BYTES >> 30} GiB and {MAX_ENTRIES:,} files: these are "
            f"{total / 2**30:.1f} GiB; export fewer runs, or --no-models"
        )
    manifest = {"format": FORMAT, "exported": time.time(), "runs": [_as_json(run) for run in packed]}
    with (
        replacing(output) as aside,
        zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=3, allowZip64=False) as archive,
    ):
        archive.writestr(MANIFEST, json.dumps(manifest, indent=1))
        for folder, run in zip(folders, packed, strict=True):
            for file in run.files:
                entry = zipfile.ZipInfo(f"runs/{run.project}/{run.name}/{file.path}")
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
                with opened(folder, file.path) as source, archive.open(entry, "w") as target:
                    copy_checked(source, target, file)
    return packed


def copy_checked(source: Any, target: Any, file: RunFile) -> None:
    """Copy exactly the bytes that were promised; anything else is refused."""
    digest, left = blake3(), file.size
    while block := source.read(min(_BLOCK, left + 1)):
        left -= len(block)
        if left < 0:
            break
        digest.update(block)
        target.write(block)
    if left != 0 or digest.hexdigest() != file.blake3:
        raise DataError(f"a file must be what its checksum says: {shown(file.path)} is not; nothing was taken")


def _hashed(stream: BinaryIO) -> dict[str, Any]:
    digest, size = blake3(), 0
    while block := stream.read(_BLOCK):
        digest.update(block)
        size += len(block)
    return {"size": size, "blake3": digest.hexdigest()}


def _as_json(run: PackedRun) -> JSON:
    files = [{"path": file.path, "size": file.size, "blake3": file.blake3} for file in run.files]
    return {
        "project": run.project, "name": run.name, "id": run.id, "who": run.who, "finished": run.finished,
        "files": files,
    }  # fmt: skip


def packed_from_json(row: JSON) -> PackedRun:
    files = []
    for file in row["files"]:
        size = file["size"]
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ValueError("a size is a whole number")
        files.append(RunFile(path=str(file["path"]), size=size, blake3=str(file["blake3"])))
    finished = min(max(float(row["finished"]), 0.0), time.time())
    return PackedRun(
        project=str(row["project"]), name=str(row["name"]), id=str(row["id"]), who=text(row.get("who"), 80),
        finished=finished, files=tuple(sorted(files, key=lambda file: file.path)),
    )  # fmt: skip


def shown(name: str) -> str:
    return repr(text(name, 120))
