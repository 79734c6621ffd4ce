"""Going on with a run that was interrupted: its own options, the same data, its own folder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from regraft.config import HIDDEN, FitConfig
from regraft.errors import DataError, UsageError
from regraft.store import runs

_MAY_DIFFER = ("resume", "cache_dir", "engine", "track", "database")
"""Options that a resumed run may be given anew: they change no number, or where files are, or who hears of it."""


def continued(config: FitConfig) -> tuple[Path | None, FitConfig]:
    """The folder of the run to go on with (None for a new one), and the options that hold.

    Raises:
        UsageError: it is no run, it is finished, or other options were given with it.
    """
    if config.resume is None:
        return None, config
    folder = config.resume
    record = run_record(folder)
    if (folder / runs.RESULT).is_file():
        raise UsageError(
            f"an unfinished run can be resumed: {folder} is finished; --init-from {folder} begins a new run with its "
            "weights"
        )
    asked = FitConfig.from_options(record["asked"])
    if asked.strategy == "auto":  # what the race found is settled
        found = {name: record["options"][name] for name in ("strategy", "backbone")}
        asked = dataclasses.replace(asked, **found, budget=None)
    default = FitConfig()
    given = [
        field.name for field in dataclasses.fields(config)
        if field.name not in _MAY_DIFFER and getattr(config, field.name) not in
        (getattr(default, field.name), getattr(asked, field.name))
    ]  # fmt: skip
    if given:
        raise UsageError(
            f"a resumed run goes on with its own options: leave out {', '.join(given)}, or begin a new run"
        )
    keep = {name: getattr(config, name) for name in _MAY_DIFFER if getattr(config, name) != getattr(default, name)}
    history = record.get("decisions") or {}
    if config.database is None and history:
        keep["database"] = _database(asked.database, str(history["database"]))
    return folder, dataclasses.replace(asked, **keep)


def last_decision(folder: Path | None) -> int | None:
    """The number of the last decision that a run began with, 0 for none; None for a new run, which takes all."""
    return None if folder is None else int((run_record(folder).get("decisions") or {}).get("seq", 0))


def _database(asked: str | None, found: str) -> str | None:
    """The address of the history that a run began with; its password was not written down.

    Raises:
        UsageError: it needs one that nobody gives.
    """
    if found.startswith("sqlite"):
        return found
    if asked is not None and HIDDEN not in asked:
        return asked
    if not os.environ.get("REGRAFT_DATABASE_URL"):
        raise UsageError(
            f"a run goes on with the decisions it began with, and a password is never written down: give the address "
            f"of {found} again with --database, or set REGRAFT_DATABASE_URL"
        )
    return None


def check_same_data(folder: Path, version: str) -> None:
    """The data must be what the run began with.

    Raises:
        DataError: they are not.
    """
    began_with = run_record(folder).get("data_version")
    if began_with != version:
        raise DataError(
            f"a run goes on with the data it began with: {folder} has version {began_with}, these are {version}; "
            f"begin a new run"
        )


def run_record(folder: Path) -> dict[str, Any]:
    """What `config.yaml` of a run says.

    Raises:
        UsageError: there is none that can be read.
    """
    import yaml

    try:
        record = yaml.safe_load((folder / runs.CONFIG).read_text("utf-8"))
        if not isinstance(record["asked"], dict):
            raise ValueError("no options in it")
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        why = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())[:120]
        raise UsageError(f"a run is a folder with {runs.CONFIG}: {str(folder)!r} is none ({why})") from None
    return dict(record)
