"""Unpacking an archive of runs as if an enemy had packed it.

Nothing is written before the table of contents, the manifest and the limits agree; every file is read to exactly its
promised length and hash; a run appears whole, by a rename, under a name that nobody has.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from regraft.errors import DataError, UsageError
from regraft.files import write_json
from regraft.store import runs
from regraft.store.run_archive import (
    FORMAT,
    MANIFEST,
    MAX_BYTES,
    MAX_ENTRIES,
    PackedRun,
    copy_checked,
    pack,
    packed_from_json,
    run_id,
    shown,
)
from regraft.store.run_files import MAX_JSON, ORIGIN, is_plain_name, is_run_file, read_json, text

MAX_RATIO = 300
"""Unpacked to packed, beyond the first 64 MiB: text of ours shrinks to a tenth, a bomb to a thousandth."""

_FREE_OF_CHARGE = 64 << 20
_END = struct.Struct("<4s4H2LH")


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
            raise refuse(f"{shown(entry.filename)} is no plain file")
        if entry.flag_bits & 0x1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise refuse(f"{shown(entry.filename)} is encrypted or packed in another way")
        if entry.filename.casefold() in folded:
            raise refuse(f"{shown(entry.filename)} is there twice")
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
        packed = [packed_from_json(row) for row in manifest["runs"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise refuse(f"its {MANIFEST} cannot be read") from None
    wanted: dict[str, int] = {MANIFEST: sizes[MANIFEST]}
    for run in packed:
        if not (is_plain_name(run.project) and is_plain_name(run.name)):
            raise refuse(f"{shown(f'{run.project}/{run.name}')} is no name of a run")
        if run.id != run_id(run.files):
            raise refuse(f"the id of {run.project}/{run.name} is not that of its files")
        if not {runs.CONFIG, runs.RESULT} <= {file.path for file in run.files}:
            raise refuse(f"{run.project}/{run.name} is no finished run")
        for file in run.files:
            if not is_run_file(file.path):
                raise refuse(f"{shown(file.path)} is no file of a run")
            member = f"runs/{run.project}/{run.name}/{file.path}"
            if member in wanted:
                raise refuse(f"{shown(member)} is listed twice")
            wanted[member] = file.size
    if wanted != sizes:
        odd = next(iter(sizes.keys() ^ wanted.keys()), None) or next(m for m in sizes if sizes[m] != wanted[m])
        raise refuse(f"{shown(odd)} is missing, too much, or of another size")
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
            fresh = {(run.project, run.id): run for run in reversed(packed) if (run.project, run.id) not in known}
            for number, run in enumerate(fresh.values()):
                _extract(archive, run, aside / str(number) / "run")
            taken = {
                key: _place(aside / str(number) / "run", runs_dir, run)
                for number, (key, run) in enumerate(fresh.items())
            }
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return [
        Imported(
            project=run.project, name=run.name, path=(known | taken)[run.project, run.id],
            known=fresh.get((run.project, run.id)) is not run,
        )
        for run in packed
    ]  # fmt: skip


def _extract(archive: zipfile.ZipFile, run: PackedRun, folder: Path) -> None:
    for file in run.files:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(f"runs/{run.project}/{run.name}/{file.path}") as source, target.open("xb") as sink:
            copy_checked(source, sink, file)
            sink.flush()
            os.fsync(sink.fileno())
        os.utime(target, (run.finished, run.finished))
    write_json(folder / ORIGIN, {"who": run.who, "project": run.project, "name": run.name, "id": run.id})


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
