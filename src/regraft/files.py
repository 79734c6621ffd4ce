"""Writing files so that a reader, or a crash, never sees half of one; and where the cache lies."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def default_cache_dir() -> Path:
    """`$REGRAFT_CACHE_DIR`, or the user's cache folder of this platform (`$XDG_CACHE_HOME/regraft` on Linux)."""
    if given := os.environ.get("REGRAFT_CACHE_DIR"):
        return Path(given).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("regraft")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; when the block succeeds it is fsynced and renamed onto `path`.

    The rename is atomic on one file system (POSIX; also over NFS), so a crash leaves the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{uuid.uuid4().hex}.tmp")  # not its own name: a longest name leaves no room
    try:
        yield aside
        sync(aside)
        aside.replace(path)
        with contextlib.suppress(OSError):  # not every file system lets a folder be synced
            sync(path.parent)
    except OSError as error:
        if error.filename is None:  # a full disk names no file
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        aside.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as aside:
        aside.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically (UTF-8, indented; NaN is refused)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
