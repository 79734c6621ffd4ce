"""The history of decisions: carrying it elsewhere, taking it in, checking it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

from cyclopts import App, Parameter

from regraft.cli.options import Json, RunsDir, print_json
from regraft.errors import DataError, UsageError, nearest

if TYPE_CHECKING:
    from regraft.store.db import Database
    from regraft.store.decisions import Ledger

HistoryFile = Annotated[Path, Parameter(allow_leading_hyphen=True)]  # for a single -
Project = Annotated[str | None, Parameter(help="Whose decisions; need not be said where there is one project.")]
DatabaseUrl = Annotated[
    str | None,
    Parameter(
        name="--database",
        help="sqlite:///FILE or postgresql://USER@HOST/NAME; else $REGRAFT_DATABASE_URL or RUNS_DIR/regraft.db.",
    ),
]

decisions = App(
    name="decisions", help="The history of review decisions as JSONL: export, import, verify.", help_format="plaintext"
)


@decisions.command(name="export")
def decisions_export(
    file: HistoryFile, *, project: Project = None, database: DatabaseUrl = None, runs_dir: RunsDir = Path("runs"),
    json_: Json = False,
) -> None:  # fmt: skip
    """Write a project's whole history: one JSON object a line, with its number and its hash.

    Parameters
    ----------
    file
        Where to; - is stdout. An existing file is replaced.
    """
    from regraft.files import replacing
    from regraft.store.jsonl import write_history

    with _ledger(database, runs_dir, project) as ledger:
        if str(file) == "-":
            done = write_history(ledger, sys.stdout.buffer)
        else:
            with replacing(file) as aside, aside.open("wb") as out:
                done = write_history(ledger, out)
    if str(file) == "-":
        return
    if json_:
        print_json({"project": ledger.project, "num_events": done.num_events, "head": done.head, "file": str(file)})
    else:
        print(f"{done.num_events:,} events of {ledger.project!r}, head {done.head}\n{file}")


@decisions.command(name="import")
def decisions_import(
    file: HistoryFile, *, project: str | None = None, database: DatabaseUrl = None, runs_dir: RunsDir = Path("runs"),
    json_: Json = False,
) -> None:  # fmt: skip
    """Take in a history that was exported, all of it or nothing; events that are known already change nothing.

    Parameters
    ----------
    file
        A file written by `regraft decisions export`; - is stdin. Its chain is checked first.
    project
        Take the events in under another project's name.
    """
    from dataclasses import replace

    from regraft.store.decisions import Ledger
    from regraft.store.jsonl import read_history

    with _open(file) as lines:
        history = read_history(lines, str(file))
    if not history.events:
        raise DataError(f"a history must hold an event: {str(file)!r} holds none")
    into = project or history.project
    with _database(database, runs_dir, must_exist=False) as opened:
        done = Ledger(opened, into).append([replace(event, project=into) for event in history.events])
    if json_:
        print_json({"project": into, "num_new": len(done.accepted), "num_known": len(done.known), "head": history.head})
    else:
        print(f"{len(done.accepted):,} new events of {into!r}, {len(done.known):,} were known")


@decisions.command(name="verify")
def decisions_verify(
    file: HistoryFile | None = None, *, head: str | None = None, project: Project = None, database: DatabaseUrl = None,
    runs_dir: RunsDir = Path("runs"), json_: Json = False,
) -> None:  # fmt: skip
    """Compute every hash anew; exit code 3 where one does not fit. Prints the last hash, the head: note it elsewhere.

    Parameters
    ----------
    file
        A file written by `regraft decisions export` (- is stdin), instead of the database.
    head
        A head noted down earlier: it must still be in the history, so nothing before it was cut off or written anew.
    """
    name, chains = _checked_database(database, runs_dir, project) if file is None else _checked_file(file)
    if head is not None and head not in chains:
        raise DataError(
            f"a head noted down must still be in the history: {head!r} is not among the {len(chains):,} of {name!r}"
        )
    if json_:
        print_json({"project": name, "num_events": len(chains), "head": chains[-1], "ok": True})
    else:
        print(f"{len(chains):,} events of {name!r}, all as they were written; head {chains[-1]}")


def _checked_file(file: Path) -> tuple[str, Sequence[str]]:
    from regraft.store.jsonl import read_history

    with _open(file) as lines:
        history = read_history(lines, str(file))
    if not history.events:
        raise DataError(f"a history must hold an event: {str(file)!r} holds none")
    return history.project, history.chains


def _checked_database(url: str | None, runs_dir: Path, project: str | None) -> tuple[str, Sequence[str]]:
    with _ledger(url, runs_dir, project) as ledger:
        found = ledger.verify()
        if not found.ok:
            raise DataError(
                f"a history is only ever appended to: that of {ledger.project!r} was changed from outside, at event "
                f"{found.first_bad:,} of {found.num_events:,}; compare it with an exported file"
            )
        return ledger.project, [chain for _, _, chain, _ in ledger.links()]


@contextlib.contextmanager
def _open(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    with file.open("rb") as lines:
        yield lines


@contextlib.contextmanager
def _database(url: str | None, runs_dir: Path, *, must_exist: bool = True) -> Iterator[Database]:
    from regraft.store.db import database_file, open_database

    file = database_file(url, runs_dir)
    if must_exist and file is not None and not file.is_file():
        raise UsageError(f"a database must exist: {str(file)!r} does not; regraft review DATA makes one")
    opened = open_database(url, runs_dir=runs_dir)
    try:
        yield opened
    finally:
        opened.close()


@contextlib.contextmanager
def _ledger(url: str | None, runs_dir: Path, project: str | None) -> Iterator[Ledger]:
    from regraft.store.decisions import Ledger, projects

    with _database(url, runs_dir) as opened:
        names = projects(opened)
        listed = ", ".join(repr(name) for name in names[:20]) or "none"
        if project is None and len(names) != 1:
            raise UsageError(f"say whose decisions with --project: {opened.url_shown} has those of {listed}")
        if project is not None and project not in names:
            near = nearest(project, names)
            raise UsageError(f"a project must have decisions: {project!r} has none{near}; there are those of {listed}")
        yield Ledger(opened, project if project is not None else names[0])
