"""Runs: list them, compare two, pass them on, and send them to the team's board."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from regraft.cli.options import Json, RunsDir, print_json
from regraft.errors import UsageError

if TYPE_CHECKING:
    from regraft.store.push import Pushed, Server
    from regraft.studies.compare_runs import Comparison
    from regraft.types import Interval

runs = App(
    name="runs", help="What has been run, best first within each project; compare, export, import, sync.",
    help_format="plaintext",
)  # fmt: skip

Project = Annotated[str | None, Parameter(help="Project of the runs, where several have one of that name.")]


@runs.default
def runs_list(runs_dir: RunsDir = Path("runs"), *, metric: str = "macro_f1", json_: Json = False) -> None:
    """What has been run, best first within each project.

    Parameters
    ----------
    runs_dir
        Folder in which runs are kept.
    metric
        What best means: accuracy, balanced_accuracy, macro_f1, log_loss or ece.
    """
    from regraft.outcome import MEASURES, ranked_runs
    from regraft.terminal import print_table

    if metric not in MEASURES:
        raise UsageError(f"a metric is one of {', '.join(MEASURES)}: {metric!r} is not")
    _check_folder(runs_dir)
    rows = ranked_runs(runs_dir, metric)
    if json_:
        print_json(rows)
        return
    header = ("run", metric, "95 % interval", "accuracy", "by", "images", "strategy", "backbone", "seconds")
    print_table("", header, [[row[name] for name in header] for row in rows] or [["none"] + [""] * 8])


@runs.command(name="compare")
def runs_compare(
    a: str, b: str, *, project: Project = None, runs_dir: RunsDir = Path("runs"), json_: Json = False
) -> None:
    """What changed from run A to run B: paired differences on the images that both were judged on, B minus A.

    Parameters
    ----------
    a
        A run: its folder, PROJECT/NAME, or its name alone.
    b
        The other run.
    """
    from regraft.store.run_index import RunIndex, find_run
    from regraft.studies.compare_runs import compare_runs

    folders = [find_run(runs_dir, word, project=project).resolve() for word in (a, b)]
    facts = [RunIndex(folder.parent.parent).get(folder.parent.name, folder.name) for folder in folders]
    one, other = facts
    if one is None or other is None:
        raise UsageError(f"a run is a folder that can be read: {a if one is None else b!r} is none")
    found = compare_runs(one, other, *folders)
    if json_:
        print_json(found.as_dict())
    else:
        _print_comparison(found)
    if found.refusal:
        from regraft.errors import DataError

        raise DataError(f"the two cannot be compared: {found.refusal}")


@runs.command(name="export")
def runs_export(
    run: Annotated[list[str], Parameter(negative="")],
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    models: bool = True,
    checkpoints: bool = False,
    project: Project = None,
    runs_dir: RunsDir = Path("runs"),
    json_: Json = False,
) -> None:
    """Pack finished runs into one zip file with checksums, for somebody else's `regraft runs import`.

    Parameters
    ----------
    run
        Runs: folders, PROJECT/NAME, or names alone.
    output
        The zip file to write.
    models
        With their weights, so that others can predict with them.
    checkpoints
        With the checkpoints of their training too.
    """
    from regraft.store.push import whoami
    from regraft.store.run_archive import export_runs
    from regraft.store.run_index import find_run

    if output.suffix.lower() != ".zip":
        raise UsageError(f"runs are exported as .zip: {output.name!r} ends otherwise")
    folders = [find_run(runs_dir, word, project=project) for word in run]
    packed = export_runs(folders, output, models=models, checkpoints=checkpoints, who=whoami())
    if json_:
        rows = [{"run": f"{one.project}/{one.name}", "id": one.id, "num_files": len(one.files)} for one in packed]
        print_json({"output": str(output), "num_bytes": output.stat().st_size, "runs": rows})
        return
    size = output.stat().st_size / 2**20
    print(f"{_named([f'{one.project}/{one.name}' for one in packed])}: {size:,.1f} MiB")
    print(output)


@runs.command(name="import")
def runs_import(archive: Path, *, runs_dir: RunsDir = Path("runs"), json_: Json = False) -> None:
    """Take the runs of a zip file over. It is checked first; no run that is there already is touched.

    Parameters
    ----------
    archive
        What `regraft runs export` wrote.
    """
    from regraft.store.run_import import import_runs

    done = import_runs(archive, runs_dir)
    if json_:
        print_json([{"run": f"{run.project}/{run.name}", "path": str(run.path), "known": run.known} for run in done])
        return
    for run in done:
        print(f"{run.project}/{run.name}: {'was there already, as ' if run.known else ''}{run.path}")


@runs.command(name="sync")
def runs_sync(
    run: Annotated[list[str] | None, Parameter(negative="")] = None,
    *,
    decisions: bool = True,
    models: bool = False,
    project: Project = None,
    runs_dir: RunsDir = Path("runs"),
    json_: Json = False,
) -> None:
    """Send runs and decisions that the team's board does not have yet: REGRAFT_SERVER_URL and REGRAFT_TOKEN name it.

    Parameters
    ----------
    run
        Runs: folders, PROJECT/NAME, or names alone; all finished ones unless said.
    decisions
        Also the review decisions of this machine.
    models
        With their weights.
    """
    import dataclasses

    from regraft.files import default_cache_dir
    from regraft.store.push import URL, push_runs, server_of, whoami
    from regraft.store.run_index import RunIndex, find_run

    server = server_of()
    if server is None:
        raise UsageError(f"a sync needs a board: {URL} is not set; set it to the address that regraft up printed there")
    if run:
        folders = [find_run(runs_dir, word, project=project) for word in run]
    else:
        _check_folder(runs_dir)
        found = RunIndex.kept(runs_dir, default_cache_dir()).refresh()
        folders = [runs_dir / one.project / one.name for one in found if project in (None, one.project)]
    done = push_runs(server, folders, models=models, who=whoami())
    if decisions:
        done = _with_decisions(done, server, runs_dir, project)
    if json_:
        print_json(dataclasses.asdict(done) | {"server": server.url})
        return
    print(
        f"{server.url}: {len(done.sent):,} runs sent, {len(done.known):,} were there; "
        f"{done.num_decisions:,} decisions sent, {done.num_known_decisions:,} were there"
    )
    for key, there in done.sent.items():
        if key != there:
            print(f"{key} is {there} there")
    for key, why in done.skipped.items():
        print(f"{key} was not sent: {why}")
    for why in done.refused:
        print(f"not taken: {why}")


def _with_decisions(done: Pushed, server: Server, runs_dir: Path, project: str | None) -> Pushed:
    """Send every project's decisions of the database beside the runs too, where there is one."""
    import dataclasses
    import os

    from regraft.store.db import FILE_NAME, URL_VARIABLE, open_database
    from regraft.store.decisions import Ledger, projects
    from regraft.store.push import push_decisions

    if not (os.environ.get(URL_VARIABLE) or (runs_dir / FILE_NAME).is_file()):
        return done
    database = open_database(runs_dir=runs_dir)
    try:
        for name in projects(database):
            if project in (None, name):
                events = [event.as_dict() for _, event in Ledger(database, name).events()]
                sent, known, refused = push_decisions(server, name, events)
                done = dataclasses.replace(
                    done, num_decisions=done.num_decisions + sent,
                    num_known_decisions=done.num_known_decisions + known, refused=done.refused + refused,
                )  # fmt: skip
    finally:
        database.close()
    return done


def _print_comparison(found: Comparison) -> None:
    from regraft.evaluate.wording import MEASURES
    from regraft.terminal import print_table

    print(f"A {found.a.key}   B {found.b.key}")
    for words in found.cautions:
        print(f"! {words}")
    if found.differences:
        rows = [
            (
                MEASURES[name][0], f"{found.before[name]:.3f}", f"{found.after[name]:.3f}", f"{value.estimate:+.3f}",
                _span(value), "" if value.low <= 0 <= value.high else "clear",
            )
            for name, value in found.differences.items()
        ]  # fmt: skip
        header = ("measure", "A", "B", "B - A", "95 % interval", "")
        print_table(f"{found.num_shared:,} images that both were judged on", header, rows)
        print(
            f"\n{len(found.flips):,} images with another answer: {found.count('fixed'):,} wrong, now right; "
            f"{found.count('broken'):,} right, now wrong; {found.count('otherwise'):,} wrong in another way"
        )
        print()
        classes = [
            (row.name, row.support, f"{row.before:.3f}", f"{row.after:.3f}", f"{row.change.estimate:+.3f}",
             _span(row.change))
            for row in found.classes[:10]
        ]  # fmt: skip
        header = ("class", "images", "F1 of A", "F1 of B", "B - A", "95 % interval")
        print_table("classes, the most changed first", header, classes)
    print()
    options = [(row.name, row.before, row.after) for row in found.config]
    print_table("options that differ", ("option", "A", "B"), options or [("none", "", "")])


def _span(value: Interval) -> str:
    return f"{value.low:+.3f} to {value.high:+.3f}"


def _named(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:5])} and {len(names) - 5} more"


def _check_folder(runs_dir: Path) -> None:
    if not runs_dir.is_dir():
        raise UsageError(f"a runs folder must exist: {str(runs_dir)!r} does not; regraft fit DATA makes one")
