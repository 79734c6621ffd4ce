"""Runs as one zip file: with a manifest of checksums, and read back as if an enemy had written it.

    manifest.json                      format, who, and of each run its id and files with size and BLAKE3
    runs/PROJECT/NAME/FILE             what the manifest lists, and nothing else

A run's id is the hash of its files: the same run is never taken twice, and another run of the same name gets a name of
its own. An existing run is never touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import time
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from blake3 import blake3
from filelock import FileLock

from regraft.errors import DataError, UsageError
from regraft.files import replacing, write_json
from regraft.store import runs
from regraft.store.run_files import MAX_JSON, ORIGIN, is_plain_name, is_run_file, opened, read_json, run_files, text
from regraft.types import JSON

FORMAT = "regraft-runs/1"
MANIFEST = "manifest.json"
MAX_ENTRIES = 20_000
MAX_BYTES = 4 << 30
"""Of one archive, unpacked."""
MAX_RATIO = 300
"""Unpacked to packed, beyond the first 64 MiB: text of ours shrinks to a tenth, a bomb to a thousandth."""

_FREE_OF_CHARGE = 64 << 20
_BLOCK = 1 << 20
_END = struct.Struct("<4s4H2LH")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What became of one run of an archive.

    Attributes:
        project, name: as the archive calls it.
        path: where it lies now.
        known: it was there already.
    """

    project: str
    name: str
    path: Path
    known: bool


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
                    _copy(source, target, file)
    return packed


def import_runs(archive: Path, runs_dir: Path, *, max_bytes: int = MAX_BYTES) -> list[Imported]:
    """Unpack the runs of a zip file below `runs_dir`. Nothing of it is there before all of it was checked.

    A run that is there already (by its id) is left alone. Where another run has its name, it gets the next number, or
    `NAME-2`.

    Raises:
        DataError: it is no archive of ours, or a hostile or damaged one; which rule it broke is said.
    """
    with _checked(archive, max_bytes) as (opened_archive, packed):
        return _unpacked(opened_archive, packed, runs_dir)


@contextlib.contextmanager
def _checked(path: Path, max_bytes: int) -> Iterator[tuple[zipfile.ZipFile, list[PackedRun]]]:
    try:
        _check_end(path)
        with zipfile.ZipFile(path) as archive:
            yield archive, _read_manifest(archive, path, max_bytes)
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        NotImplementedError,
        EOFError,
        RuntimeError,
        struct.error,
    ) as error:
        raise DataError(
            f"an archive of runs is a whole zip file: {path} is not ({' '.join(str(error).split())[:120]})"
        ) from None
    except zipfile.zlib.error as error:  # type: ignore[attr-defined]
        raise DataError(f"an archive of runs is a whole zip file: {path} is damaged ({error})") from None


def _check_end(path: Path) -> None:
    """The end of a zip file says how long its table is: refuse before anybody reads a table of a gigabyte."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - 42))
        tail = stream.read()
    if len(tail) < _END.size or tail[-_END.size : -_END.size + 4] != b"PK\x05\x06":
        raise zipfile.BadZipFile("its end is missing")
    if tail[:4] == b"PK\x06\x07":
        raise zipfile.BadZipFile("it is larger than ours ever are")
    _, _, _, here, entries, table, _, _ = _END.unpack(tail[-_END.size :])
    if here != entries or entries > MAX_ENTRIES or table > MAX_ENTRIES * 1024:
        raise DataError(f"an archive of runs has at most {MAX_ENTRIES:,} files: {path} claims {entries:,}")


def _read_manifest(archive: zipfile.ZipFile, path: Path, max_bytes: int) -> list[PackedRun]:
    """The manifest, after the table of contents was held against it, entry by entry."""

    def refuse(why: str) -> DataError:
        return DataError(
            f"an archive of runs holds what its manifest lists: {path} does not ({why}); nothing was taken"
        )

    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise refuse(f"{len(entries):,} files")
    sizes: dict[str, int] = {}
    folded: set[str] = set()
    for entry in entries:
        kind = entry.external_attr >> 16 & 0o170000
        if entry.is_dir() or kind not in (0, 0o100000):
            raise refuse(f"{_shown(entry.filename)} is no plain file")
        if entry.flag_bits & 0x1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise refuse(f"{_shown(entry.filename)} is encrypted or packed in another way")
        if entry.filename.casefold() in folded:
            raise refuse(f"{_shown(entry.filename)} is there twice")
        folded.add(entry.filename.casefold())
        sizes[entry.filename] = entry.file_size
    total, packed_size = sum(sizes.values()), path.stat().st_size
    if total > max_bytes:
        raise refuse(f"{total / 2**30:.1f} GiB unpacked, the limit is {max_bytes / 2**30:.1f}")
    if total > _FREE_OF_CHARGE + MAX_RATIO * packed_size:
        raise refuse(f"it unpacks to {total / max(1, packed_size):,.0f} times its size")
    if MANIFEST not in sizes or sizes[MANIFEST] > MAX_JSON:
        raise refuse(f"no {MANIFEST}")
    try:
        manifest = json.loads(archive.read(MANIFEST))
        if manifest["format"] != FORMAT:
            raise refuse(f"format {text(manifest['format'], 40)!r} instead of {FORMAT}")
        packed = [_from_json(row) for row in manifest["runs"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise refuse(f"its {MANIFEST} cannot be read") from None
    wanted: dict[str, int] = {MANIFEST: sizes[MANIFEST]}
    for run in packed:
        if not (is_plain_name(run.project) and is_plain_name(run.name)):
            raise refuse(f"{_shown(f'{run.project}/{run.name}')} is no name of a run")
        if run.id != run_id(run.files):
            raise refuse(f"the id of {run.project}/{run.name} is not that of its files")
        if not {runs.CONFIG, runs.RESULT} <= {file.path for file in run.files}:
            raise refuse(f"{run.project}/{run.name} is no finished run")
        for file in run.files:
            if not is_run_file(file.path):
                raise refuse(f"{_shown(file.path)} is no file of a run")
            member = f"runs/{run.project}/{run.name}/{file.path}"
            if member in wanted:
                raise refuse(f"{_shown(member)} is listed twice")
            wanted[member] = file.size
    if wanted != sizes:
        odd = next(iter(sizes.keys() ^ wanted.keys()), None) or next(m for m in sizes if sizes[m] != wanted[m])
        raise refuse(f"{_shown(odd)} is missing, too much, or of another size")
    return packed


def _unpacked(archive: zipfile.ZipFile, packed: Sequence[PackedRun], runs_dir: Path) -> list[Imported]:
    runs_dir.mkdir(parents=True, exist_ok=True)
    total = sum(file.size for run in packed for file in run.files)
    if total > shutil.disk_usage(runs_dir).free:
        raise DataError(f"an import needs room: {total / 2**20:,.0f} MiB do not fit on the disk of {runs_dir}")
    workshop = runs_dir / ".importing"
    workshop.mkdir(exist_ok=True)
    aside = workshop / uuid.uuid4().hex
    try:
        with FileLock(workshop / "lock"):
            known = {(run.project, run.id): there for run in packed if (there := _find(runs_dir, run)) is not None}
            fresh = [run for run in packed if (run.project, run.id) not in known]
            for number, run in enumerate(fresh):
                _extract(archive, run, aside / str(number) / "run")
            taken = {}
            for number, run in enumerate(fresh):
                taken[run.project, run.id] = _place(aside / str(number) / "run", runs_dir, run)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return [
        Imported(
            project=run.project, name=run.name, path=(known | taken)[run.project, run.id],
            known=(run.project, run.id) in known,
        )
        for run in packed
    ]  # fmt: skip


def _extract(archive: zipfile.ZipFile, run: PackedRun, folder: Path) -> None:
    for file in run.files:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(f"runs/{run.project}/{run.name}/{file.path}") as source, target.open("xb") as sink:
            _copy(source, sink, file)
            sink.flush()
            os.fsync(sink.fileno())
        os.utime(target, (run.finished, run.finished))
    write_json(folder / ORIGIN, {"who": run.who, "project": run.project, "name": run.name, "id": run.id})


def _copy(source: Any, target: Any, file: RunFile) -> None:
    """Copy exactly the bytes that were promised; anything else is refused."""
    digest, left = blake3(), file.size
    while block := source.read(min(_BLOCK, left + 1)):
        left -= len(block)
        if left < 0:
            break
        digest.update(block)
        target.write(block)
    if left != 0 or digest.hexdigest() != file.blake3:
        raise DataError(f"a file must be what its checksum says: {_shown(file.path)} is not; nothing was taken")


def _place(folder: Path, runs_dir: Path, run: PackedRun) -> Path:
    """Rename a whole run to a free name; claiming the name first keeps others from it."""
    parent = runs_dir / run.project
    if parent.is_symlink():
        raise DataError(f"runs are imported into folders, not through links: {parent} is one")
    if not (parent / run.name).exists():
        with contextlib.suppress(UsageError):
            return folder.replace(runs.create_run_folder(runs_dir, run.project, run.name))
    if run.name.isdecimal():
        return folder.replace(runs.create_run_folder(runs_dir, run.project))
    for number in range(2, 10_000):
        with contextlib.suppress(UsageError):
            return folder.replace(runs.create_run_folder(runs_dir, run.project, f"{run.name[:200]}-{number}"))
    raise DataError(f"a run needs a name: {run.project}/{run.name} and 10,000 like it are taken")


def _find(runs_dir: Path, run: PackedRun) -> Path | None:
    """Where a run of this project and id already lies."""
    parent = runs_dir / run.project
    for folder in sorted(parent.iterdir()) if parent.is_dir() else []:
        if (read_json(folder, ORIGIN) or {}).get("id") == run.id:
            return folder
    here = parent / run.name
    if (here / runs.RESULT).is_file() and not here.is_symlink():
        with contextlib.suppress(UsageError, OSError):
            if pack(here, models=False).id == run.id:
                return here
    return None


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


def _from_json(row: JSON) -> PackedRun:
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


def _shown(name: str) -> str:
    return repr(text(name, 120))
