"""Finding files without ever opening one: folders are walked, links followed once, pipes and sockets left alone."""

from __future__ import annotations

import errno
import glob
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from regraft.errors import DataError
from regraft.images import EXTENSIONS

SYSTEM_NAMES = frozenset({"__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db", "@eadir", "$recycle.bin"})
"""What operating systems leave in folders; ignored like names that begin with a dot."""


class Found(NamedTuple):
    """One entry of a folder.

    Attributes:
        path: relative to where the walk began, with `/`.
        problem: a word of `BAD_FILES` where the entry must not be opened; "hidden" for what is only counted;
            otherwise "".
    """

    path: str
    problem: str


def is_hidden(name: str) -> bool:
    """True for dot files and for what operating systems leave behind."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def has_image_extension(name: str) -> bool:
    """True where the ending promises an image that can be decoded."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def walk(top: Path, *, outside: Iterable[Path] = ()) -> Iterator[Found]:
    """Every file below a folder, in no particular order, streaming.

    Links to folders are followed after everything else, and no folder is entered twice, so loops end.

    Args:
        top: the folder.
        outside: folders that a link must not lead back into (the parents of `top` always belong to them).
    """
    seen = {identity for folder in (*top.absolute().parents, *outside) if (identity := _identity(folder))}
    pending: list[tuple[str, str]] = [(str(top), "")]
    links: list[tuple[str, str]] = []
    while pending or links:
        folder, prefix = pending.pop() if pending else links.pop()
        identity = _identity(folder)
        if identity is None:
            yield Found(prefix.rstrip("/"), "unreadable")
            continue
        if identity in seen:
            yield Found(prefix.rstrip("/"), "link_loop")
            continue
        seen.add(identity)
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError:
            yield Found(prefix.rstrip("/"), "unreadable")
            continue
        for entry in entries:
            path = prefix + entry.name
            if is_hidden(entry.name):
                yield Found(path, "hidden")
                continue
            problem = problem_of(entry)
            if problem != "is_directory":
                yield Found(path, problem)
                continue
            if has_image_extension(entry.name):
                yield Found(path, "is_directory")
            (links if entry.is_symlink() else pending).append((entry.path, path + "/"))


def problem_of(entry: os.DirEntry[str]) -> str:
    """Why an entry must not be opened, as a word of `BAD_FILES`; "" for an ordinary file."""
    try:
        if entry.is_file():  # needs no system call but for links
            return ""
        if entry.is_dir():
            return "is_directory"
    except OSError:
        pass
    return problem_at(entry.path)


def problem_at(path: str | Path) -> str:
    """Like `problem_of`, for a path that a manifest names."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "broken_link" if os.path.islink(path) else "missing_file"
    except ValueError:  # a NUL in the name
        return "missing_file"
    except OSError as error:
        known = {errno.ELOOP: "link_loop", errno.ENOTDIR: "missing_file", errno.ENAMETOOLONG: "missing_file"}
        return known.get(error.errno or 0, "unreadable")
    if stat.S_ISDIR(mode):
        return "is_directory"
    return "" if stat.S_ISREG(mode) else "special_file"


def list_images(sources: str | Path | Iterable[str | Path]) -> Iterator[Path]:
    """Image files of any mix of files, folders and globs, streaming.

    Files that are named stand for themselves, whatever their ending; of folders and globs, hidden files and names
    without an image's ending are passed over.

    Raises:
        DataError: a name fits no file (said when its turn comes).
    """
    for source in [sources] if isinstance(sources, str | Path) else sources:
        path = Path(source).expanduser()
        if path.is_dir():
            found = sorted(found.path for found in walk(path) if not found.problem and has_image_extension(found.path))
            if not found:
                raise DataError(f"a folder to predict needs images in it: {printable_path(path)} has none")
            yield from (path / name for name in found)
        elif os.path.lexists(path):
            yield path
        elif glob.has_magic(str(path)):
            matches = sorted(glob.iglob(str(path), recursive=True))
            named = [match for match in matches if has_image_extension(match) and not os.path.isdir(match)]
            if not named:
                raise DataError(f"a pattern must fit an image: {str(source)!r} fits {len(matches)} files, no image")
            yield from (Path(match) for match in named)
        else:
            raise DataError(f"an image must exist: {str(source)!r} does not; check the path")


def printable_path(path: Path) -> str:
    """A path in quotes, on one line, whatever its bytes."""
    from regraft.data.kinds import printable

    return f"'{printable(str(path))}'"


def _identity(folder: str | Path) -> tuple[int, int] | None:
    try:
        known = os.stat(folder)
    except (OSError, ValueError):
        return None
    return known.st_dev, known.st_ino
