"""Reading a run folder as a stranger's: nothing outside it, no more than a limit, whatever lies there.

A run folder may have come in a zip file or lie on a share that others write to. Links are not followed, pipes and
devices are not opened, files beyond a limit are not read, and what is no JSON or YAML is no content.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from regraft.store import runs
from regraft.types import JSON

MAX_JSON = 16 << 20
MAX_CONFIG = 256 << 10
EVENTS = "events.jsonl"
"""What a run told its trackers."""
ORIGIN = "origin.json"
"""Beside an imported run: who made it, and the name and content it had there."""

KNOWN = (
    runs.CONFIG, runs.ENV, runs.RESULT, runs.METRICS, EVENTS, runs.PREDICTIONS, runs.REPORT, runs.RANKING, runs.RACE,
    runs.RACE_CARD,
)  # fmt: skip
"""Files at the top of a run folder that are shown, offered and exchanged; others are nobody's business."""

KNOWN_FOLDERS: dict[str, re.Pattern[str]] = {
    runs.MODEL: re.compile(r"(backbone/)?[\w.-]{1,120}\.(json|md|safetensors|xml|bin)", re.ASCII),
    runs.TENSORBOARD: re.compile(r"events\.out\.tfevents\.[\w.-]{1,160}", re.ASCII),
    runs.CHECKPOINTS: re.compile(r"([\w-]{1,60}/)?(last|best)\.safetensors", re.ASCII),
}
"""Folder of a run to the names within it that are its own. All of them are plain data; none is a pickle."""

_PLAIN_PART = re.compile('[^/\\\\<>:"|?*\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,255}')
_MAX_NESTING = 40
_SUSPICIOUS = re.compile(r"(^|[\s\[{,])[&*]\S|[\[{][\[{\s]*[\[{]|(- ){3}|(\? ){3}|^ {60}", re.MULTILINE)
"""What may be an alias or deep nesting, and is looked at closely (which takes as long as the loading)."""


def is_plain_name(name: str) -> bool:
    """What `create_run_folder` accepts as a project or a run: one folder name that prints as one line."""
    return bool(name.strip(". ")) and _PLAIN_PART.fullmatch(name) is not None


def is_run_file(path: str) -> bool:
    """Whether a path within a run folder (with `/`) is on the list of files that a run has."""
    if path in KNOWN:
        return True
    folder, slash, rest = path.partition("/")
    pattern = KNOWN_FOLDERS.get(folder)
    return bool(slash) and pattern is not None and pattern.fullmatch(rest) is not None and ".." not in rest


def run_files(folder: Path) -> list[tuple[str, int]]:
    """(path with `/`, bytes) of every listed regular file of a run, sorted; links are left out."""
    found = []
    for top in _entries(folder):
        if top.is_file(follow_symlinks=False) and top.name in KNOWN:
            found.append((top.name, top.stat(follow_symlinks=False).st_size))
        elif top.is_dir(follow_symlinks=False) and top.name in KNOWN_FOLDERS:
            found += _below(Path(top.path), top.name, depth=2)
    return sorted(found)


def _below(folder: Path, prefix: str, depth: int) -> Iterator[tuple[str, int]]:
    for entry in _entries(folder):
        path = f"{prefix}/{entry.name}"
        if entry.is_dir(follow_symlinks=False) and depth > 1:
            yield from _below(Path(entry.path), path, depth - 1)
        elif entry.is_file(follow_symlinks=False) and is_run_file(path):
            yield path, entry.stat(follow_symlinks=False).st_size


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


@contextlib.contextmanager
def opened(folder: Path, path: str) -> Iterator[BinaryIO]:
    """A listed file of a run for reading; no component of `path` may be a link.

    Raises:
        OSError: it is not there, it is a link, a folder, a pipe or a device, or not on the list.
    """
    if not is_run_file(path) and path != ORIGIN:
        raise FileNotFoundError(2, "not a file of a run", path)
    *above, name = path.split("/")
    no_link = getattr(os, "O_NOFOLLOW", 0)
    handles: list[int] = []
    try:
        at = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        handles.append(at)
        for part in above:
            at = os.open(part, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | no_link, dir_fd=at)
            handles.append(at)
        handle = os.open(name, os.O_RDONLY | no_link | getattr(os, "O_NONBLOCK", 0), dir_fd=at)
    finally:
        for each in handles:
            os.close(each)
    stream = os.fdopen(handle, "rb")
    with stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(22, "not a regular file", path)
        yield stream


def read_bytes(folder: Path, path: str, *, limit: int) -> bytes | None:
    """A whole small file of a run, or None where it is missing, too large or no plain file."""
    try:
        with opened(folder, path) as stream:
            data = stream.read(limit + 1)
    except OSError:
        return None
    return data if len(data) <= limit else None


def read_json(folder: Path, path: str) -> JSON | None:
    """A JSON object of a run, or None where there is none that can be read."""
    data = read_bytes(folder, path, limit=MAX_JSON)
    try:
        value = None if data is None else json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_config(folder: Path) -> JSON | None:
    """`config.yaml` of a run, or None where there is none that can be read.

    Aliases, tags and deep nesting are refused: our files have none, and a stranger's may unfold without end.
    """
    import yaml

    value = _parsed(folder, yaml.load)
    return value if isinstance(value, dict) else None


def read_settings(folder: Path, wanted: frozenset[str]) -> dict[str, str]:
    """Single values of `config.yaml` by name, such as `data_version` or `options.seed`, as texts; nulls are left out.

    Three times as fast as `read_config`, which makes Python values of everything.
    """
    import yaml

    found = {}
    for name, node in _named(_parsed(folder, yaml.compose)):
        pairs = [(name, node)] + [(f"{name}.{inner}", value) for inner, value in _named(node)]
        for dotted, one in pairs:
            if dotted in wanted and isinstance(one, yaml.ScalarNode) and not one.tag.endswith(":null"):
                found[dotted] = str(one.value)
    return found


def _named(node: Any) -> list[tuple[str, Any]]:
    """Names and nodes of a YAML mapping."""
    pairs = node.value if getattr(node, "id", "") == "mapping" else []
    return [(key.value, value) for key, value in pairs if isinstance(key.value, str)]


def _parsed(folder: Path, parse: Callable[..., Any]) -> Any:
    import yaml

    data = read_bytes(folder, runs.CONFIG, limit=MAX_CONFIG)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
    try:
        text = (data or b"").decode("utf-8")
        if _SUSPICIOUS.search(text) and not _is_tame(yaml.parse(text, Loader=loader)):
            return None
        return parse(text, Loader=loader)
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError):
        return None


def _is_tame(events: Iterator[Any]) -> bool:
    """No alias, and no deep nesting."""
    depth = 0
    for event in events:
        name = type(event).__name__
        depth += name.endswith("StartEvent")
        depth -= name.endswith("EndEvent")
        if name == "AliasEvent" or depth > _MAX_NESTING:
            return False
    return True


def number(value: Any) -> float | None:
    """A finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of a thousand digits
        return None


def text(value: Any, limit: int = 200) -> str:
    """A scalar as one short line; "" for None and for what is no scalar."""
    if value is None or isinstance(value, dict | list | tuple | set):
        return ""
    shown = str(value) if not isinstance(value, int) or abs(value) < 1 << 64 else "a huge number"
    clean = "".join(ch if ch.isprintable() else "\ufffd" for ch in shown[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def part(value: Any, *names: str) -> Any:
    """`value[name][name]…`, or None where there is no such thing."""
    for name in names:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def listed(value: Any, limit: int = 1000) -> Sequence[Any]:
    """A list of at most `limit` entries; empty where it is none."""
    return value[:limit] if isinstance(value, list) else []
