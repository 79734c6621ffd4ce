"""What a day brought: journal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from regraft.cli.options import Json, RunsDir, print_json
from regraft.errors import UsageError


def journal(
    *,
    day: str = "today",
    person: str = "",
    note: str | None = None,
    question: str | None = None,
    run: str | None = None,
    share: bool | None = None,
    markdown: Annotated[bool, Parameter(negative="")] = False,
    metric: str = "macro_f1",
    runs_dir: RunsDir = Path("runs"),
    database: str | None = None,
    json_: Json = False,
) -> None:
    """What a day brought: runs, the best so far, decisions, time; and what was written down.

    Parameters
    ----------
    day
        today, yesterday or a date such as 2026-11-23; it begins at midnight where this machine is.
    person
        Whose day; by default everybody's.
    note
        Write this down instead.
    question
        Write this down as a question instead.
    run
        The run that a note or question is about: its folder, PROJECT/NAME, or its name.
    share
        Show others when and how long you reviewed, from now on; --no-share keeps it to yourself, as at first.
    markdown
        Print Markdown for a retrospective.
    metric
        What best means: accuracy, balanced_accuracy, macro_f1, log_loss or ece.
    database
        Address of the database, as given to regraft up; by default a file in the runs folder.
    """
    import contextlib
    import time

    from regraft.board.journal.day import journal_of
    from regraft.board.journal.days import day_of
    from regraft.board.journal.markdown import markdown as markdown_
    from regraft.board.visitors import os_user
    from regraft.files import default_cache_dir
    from regraft.store.db import open_database
    from regraft.store.journal import Journal
    from regraft.store.run_index import RunIndex, find_run

    if not runs_dir.is_dir():
        raise UsageError(f"a runs folder must exist: {str(runs_dir)!r} does not; regraft fit DATA makes one")
    if run is not None and note is None and question is None:
        raise UsageError("--run names what a --note or a --question is about: give one of them too")
    when, me = day_of(day, now=time.time()), os_user() or "somebody"
    with contextlib.closing(open_database(database, runs_dir=runs_dir)) as opened:
        kept = Journal(opened)
        if share is not None:
            kept.share(me, on=share)
        folder = None if run is None else find_run(runs_dir, run)
        about = {} if folder is None else {"project": folder.resolve().parent.name, "run": folder.resolve().name}
        written = [
            kept.write(me, words, kind=kind, **about)
            for kind, words in (("note", note), ("question", question))
            if words is not None
        ]
        if written or share is not None:
            if json_:
                print_json({"written": [one.note_id for one in written], "shares": me in kept.sharing()})
                return
            for one in written:
                print(f"{one.kind} of {me} written down")
            if share is not None:
                print(f"{me}'s time of reviewing is shown to {'others' if share else 'nobody else'}")
            return
        found = journal_of(
            when, index=RunIndex.kept(runs_dir, default_cache_dir()), database=opened, viewer=me, person=person,
            metric=metric,
        )  # fmt: skip
    if json_:
        print_json(found.as_dict())
    elif markdown:
        print(markdown_(found), end="")
    else:
        _print_day(markdown_(found))


def _print_day(text: str) -> None:
    """For a terminal: the same words without the marks of Markdown."""
    from itertools import groupby

    from regraft.terminal import print_table

    for is_table, lines in groupby(text.splitlines(), key=lambda line: line.startswith("|")):
        if is_table:
            rows = [[_bare(cell).strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
            print_table("", rows[0], rows[2:])
            continue
        for line in lines:
            print(_bare(re.sub("^#+ ", "", line)))


def _bare(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", re.sub(r"(?<!\\)\*\*", "", text)).rstrip()
