"""An index of run folders that can always be rebuilt from them.

The folders are the record. The index remembers what it read of each, by the size and time of its small files, so a
look at 1,000 known runs opens none of them. It is kept in a cache file, which may be lost or damaged: then all is read
again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from regraft.errors import UsageError
from regraft.files import write_text
from regraft.store import runs
from regraft.store.run_files import ORIGIN, is_plain_name, listed, number, part, read_json, read_settings, text
from regraft.types import JSON

FORMAT = 1
MEASURES = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "ece")
SIGN_OF_LIFE_SECONDS = 600.0
"""An unfinished run whose files changed within this time is taken to be running."""

_WATCHED = (runs.CONFIG, runs.RESULT, ORIGIN)

_DECISIONS = ("seq", "head")
_SETTINGS = frozenset(
    ["data_version", "decisions", *(f"decisions.{name}" for name in _DECISIONS)]
    + [f"options.{name}" for name in ("strategy", "backbone", "seed", "init_from", "resume")]
)
"""What the index wants to know of a config."""

State = Literal["finished", "unfinished", "damaged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a list of runs says of one.

    Attributes:
        project, name: its two folders.
        state: finished (it has a result), unfinished, or damaged (it has a result that cannot be read).
        began: POSIX time of the oldest file that is watched.
        changed: POSIX time of the latest sign of life.
        finished: POSIX time of its result, or None.
        split: "test" or "cv"; "" while there is no result.
        metrics: measure to (estimate, low, high).
        strategy, backbone: as in the result, else as in the config.
        data_version: of the images and labels that it began with.
        decisions: which review decisions were applied to them, "" for none.
        seed: of the split and the fit.
        seconds: of all stages together.
        num_images, num_evaluated: in all, and that the measures rest on.
        num_warnings: reservations of the fit.
        who: the maker by name: the owner of the folder, or as told by the archive it came in.
        init_from: the run whose weights it began with, "" for none.
        resumed: it was interrupted and went on.
        stamp: sizes and times by which a change is noticed.
    """

    project: str
    name: str
    state: State
    began: float
    changed: float
    finished: float | None = None
    split: str = ""
    metrics: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    strategy: str = ""
    backbone: str = ""
    data_version: str = ""
    decisions: str = ""
    seed: str = ""
    seconds: float | None = None
    num_images: int | None = None
    num_evaluated: int | None = None
    num_warnings: int = 0
    who: str = ""
    init_from: str = ""
    resumed: bool = False
    stamp: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """`project/name`."""
        return f"{self.project}/{self.name}"

    def is_running(self, now: float) -> bool:
        """Unfinished, and something in it changed lately."""
        return self.state == "unfinished" and now - self.changed < SIGN_OF_LIFE_SECONDS


class RunIndex:
    """All runs below a folder, as facts; safe to share between threads.

    Args:
        runs_dir: folder of projects.
        cache_file: where it is remembered between processes; None: nowhere.
        clock: seconds, for how old the last look is.
    """

    def __init__(
        self, runs_dir: Path, cache_file: Path | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.runs_dir = runs_dir
        self.num_read = 0
        """Run folders opened so far: for tests and benchmarks."""
        self.num_odd = 0
        """Folders left out at the last look: links, and names that could not be typed or printed."""
        self._cache_file, self._clock = cache_file, clock
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._known: dict[str, RunFacts] = {}
        if cache_file is not None:
            self._known = _remembered(cache_file, runs_dir)

    @classmethod
    def kept(cls, runs_dir: Path, cache_dir: Path) -> RunIndex:
        """The index that the board's pages and the verbs remember together, one file a runs folder."""
        name = sha256(os.fsencode(runs_dir.resolve())).hexdigest()[:16]
        return cls(runs_dir, cache_dir / "runs" / f"{name}.json")

    def refresh(self, *, max_age: float = 1.0) -> list[RunFacts]:
        """Every run, by project and name; folders are looked at again where the last look is older than `max_age` s."""
        with self._lock:
            if self._clock() - self._looked >= max_age:
                self._look()
                self._looked = self._clock()
            return list(self._known.values())

    def warm(self) -> None:
        """Read what is there, so that the first to ask need not wait."""
        with self._lock:
            self._look()

    def get(self, project: str, name: str) -> RunFacts | None:
        """One run as it is now, or None."""
        if not (is_plain_name(project) and is_plain_name(name)):
            return None
        with self._lock:
            facts, odd = self._facts(self.runs_dir / project / name, project, name)
            return None if odd else facts

    def folder(self, facts: RunFacts) -> Path:
        """Where it lies."""
        return self.runs_dir / facts.project / facts.name

    def _look(self) -> None:
        found: dict[str, RunFacts] = {}
        self.num_odd, changed = 0, False
        for project in _folders(self.runs_dir):
            if project.is_symlink() or not is_plain_name(project.name):
                self.num_odd += _is_odd(project)
                continue
            for entry in _folders(Path(project.path)):
                facts, odd = self._facts(Path(entry.path), project.name, entry.name, entry)
                self.num_odd += odd
                if facts is not None:
                    changed = changed or facts.stamp != getattr(self._known.get(facts.key), "stamp", None)
                    found[facts.key] = facts
        changed = changed or len(found) != len(self._known)
        self._known = dict(sorted(found.items(), key=lambda item: _natural(item[1])))
        if changed and self._cache_file is not None:
            with contextlib.suppress(OSError):  # a full or read-only disk costs the next start a second
                _remember(self._cache_file, self.runs_dir, self._known)

    def _facts(
        self, folder: Path, project: str, name: str, entry: os.DirEntry[str] | None = None
    ) -> tuple[RunFacts | None, bool]:
        """The facts of a folder (None where it is no run), and whether it was left out as odd."""
        if entry.is_symlink() if entry is not None else folder.is_symlink() or folder.parent.is_symlink():
            return None, True
        files = {}
        try:
            with os.scandir(folder) as entries:
                for each in entries:
                    if each.name in _WATCHED or each.name == runs.METRICS:
                        files[each.name] = each.stat(follow_symlinks=False)
        except OSError:
            return None, False
        if runs.CONFIG not in files:
            return None, False
        if not is_plain_name(name):
            return None, True
        seen = [files.get(watched) for watched in _WATCHED]
        stamp = tuple(n for s in seen for n in ((s.st_mtime_ns, s.st_size, s.st_ino) if s is not None else (0, 0, 0)))
        changed = max(s.st_mtime for s in files.values())
        known = self._known.get(f"{project}/{name}")
        if known is not None and known.stamp == stamp:
            return (known if known.changed == changed else dataclasses.replace(known, changed=changed)), False
        self.num_read += 1
        finished = files[runs.RESULT].st_mtime if runs.RESULT in files else None
        facts = read_facts(
            folder, project=project, name=name, began=min(s.st_mtime for s in files.values()), changed=changed,
            finished=finished, owner=files[runs.CONFIG].st_uid, stamp=stamp,
        )  # fmt: skip
        return facts, False


def read_facts(
    folder: Path, *, project: str, name: str, began: float, changed: float, finished: float | None, owner: int,
    stamp: tuple[int, ...],
) -> RunFacts:  # fmt: skip
    """What the small files of a run folder say, as far as they can be read."""
    config, origin = read_settings(folder, _SETTINGS), read_json(folder, ORIGIN) or {}
    result = read_json(folder, runs.RESULT) if finished is not None else None
    metrics = {m: value for m in MEASURES if (value := _interval(part(result, "metrics", m))) is not None}
    state: State = "unfinished" if finished is None else "finished" if metrics else "damaged"
    seconds = part(result, "seconds")
    stages = [number(value) for value in seconds.values()] if isinstance(seconds, dict) else []
    return RunFacts(
        project=project,
        name=name,
        state=state,
        began=began,
        changed=changed,
        finished=finished,
        split=text(part(result, "split"), 20),
        metrics=metrics,
        strategy=text(part(result, "strategy") or config.get("options.strategy"), 60),
        backbone=text(part(result, "backbone") or config.get("options.backbone"), 120),
        data_version=text(part(result, "data_version") or config.get("data_version"), 80),
        decisions=_decisions(part(result, "decisions") or _told(config)),
        seed=text(config.get("options.seed"), 20),
        seconds=round(sum(value for value in stages if value is not None), 3) if stages else None,
        num_images=_count(part(result, "num_images")),
        num_evaluated=_count(part(result, "num_evaluated") or part(result, "num_images")),
        num_warnings=len(listed(part(result, "warnings"))),
        who=text(part(origin, "who"), 80) or _person(owner),
        init_from=text(config.get("options.init_from"), 400),
        resumed=bool(config.get("options.resume")),
        stamp=stamp,
    )


def find_run(runs_dir: Path, word: str, *, project: str | None = None) -> Path:
    """The folder of a run named as a person would: a path, `project/name`, or a name that only one project has.

    Raises:
        UsageError: there is none, or several.
    """
    given = Path(word).expanduser()
    for folder in (given, runs_dir / word):
        if (folder / runs.CONFIG).is_file() and folder.name not in ("", "..", "."):
            return folder
    if is_plain_name(word):
        found = [
            path for path in sorted(runs_dir.glob("*/"))
            if (path / word / runs.CONFIG).is_file() and project in (None, path.name)
        ]  # fmt: skip
        if len(found) == 1:
            return found[0] / word
        if found:
            several = ", ".join(f"{path.name}/{word}" for path in found[:5])
            raise UsageError(f"a run is named by its project where several have that name: {several}; or --project")
    raise UsageError(
        f"a run is a folder with {runs.CONFIG}: {word!r} is none, nor one in {runs_dir}; regraft runs lists them"
    )


def _interval(value: Any) -> tuple[float, float, float] | None:
    ends = [number(part(value, name)) for name in ("estimate", "low", "high")]
    if any(end is None for end in ends):
        return None
    estimate, low, high = (float(end) for end in ends if end is not None)
    return (estimate, low, high) if low <= estimate <= high else None


def _decisions(value: Any) -> str:
    """Which decisions were applied, in a word: how many events of which history; "" where none changed anything."""
    if isinstance(value, dict):
        if value.get("num_applied") == 0:
            return ""
        head, seq = text(value.get("head"), 12).rstrip("…"), text(value.get("seq"), 12)
        value = f"{seq}:{head}".strip(":")
    return text(value, 80)


def _told(config: Mapping[str, str]) -> str | dict[str, str]:
    """The decisions of a config: one word, or several."""
    return config.get("decisions", "") or {
        name: config[f"decisions.{name}"] for name in _DECISIONS if f"decisions.{name}" in config
    }


def _count(value: Any) -> int | None:
    found = number(value)
    return None if found is None or found < 0 else int(found)


_people: dict[int, str] = {}


def _person(user: int) -> str:
    if user not in _people:
        try:
            import pwd

            _people[user] = text(pwd.getpwuid(user).pw_name, 80)
        except (ImportError, KeyError):
            _people[user] = ""
    return _people[user]


def _natural(facts: RunFacts) -> tuple[str, int, int, str]:
    """Run 10 after run 9, and names after numbers."""
    is_number = facts.name.isdecimal() and len(facts.name) < 16
    return facts.project, not is_number, int(facts.name) if is_number else 0, facts.name


def _folders(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if entry.is_dir()]
    except OSError:
        return []


def _is_odd(project: os.DirEntry[str]) -> bool:
    """A project that is left out though it holds runs."""
    return any((Path(entry.path) / runs.CONFIG).is_file() for entry in _folders(Path(project.path)))


def _remembered(cache_file: Path, runs_dir: Path) -> dict[str, RunFacts]:
    try:
        saved = json.loads(cache_file.read_bytes())
        if saved["format"] != FORMAT or saved["runs_dir"] != str(runs_dir.resolve()):
            return {}
        return {facts.key: facts for facts in map(_from_json, saved["runs"])}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _remember(cache_file: Path, runs_dir: Path, known: dict[str, RunFacts]) -> None:
    rows = [dataclasses.asdict(facts) for facts in known.values()]
    saved = {"format": FORMAT, "runs_dir": str(runs_dir.resolve()), "runs": rows}
    write_text(cache_file, json.dumps(saved, ensure_ascii=True, separators=(",", ":")))


def _from_json(row: JSON) -> RunFacts:
    metrics = {name: (float(e), float(low), float(high)) for name, (e, low, high) in row["metrics"].items()}
    return RunFacts(**row | {"metrics": metrics, "stamp": tuple(row["stamp"])})
