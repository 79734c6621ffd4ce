"""Keeping the board and TensorBoard up: up, status, logs, down."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from regraft.cli.options import CacheDir, Json, RunsDir, print_json

if TYPE_CHECKING:
    from regraft.board.daemon import Status

AnyRunsDir = Annotated[
    Path | None, Parameter(help="Folder of the runs; by default ./runs, else the only one that is up.")
]


def up(
    data: Path | None = None,
    *,
    runs_dir: RunsDir = Path("runs"),
    host: str = "127.0.0.1",
    port: int | None = None,
    tensorboard: bool | None = None,
    token: bool | None = None,
    database: str | None = None,
    cache_dir: CacheDir = None,
    systemd: bool = False,
    json_: Json = False,
) -> None:
    """The board and TensorBoard in the background: they stay up when this terminal closes.

    Parameters
    ----------
    data
        The images whose review belongs to it: a folder of class folders, or a manifest.
    host
        Address to listen on; 0.0.0.0 for everybody in the network, who then need the token in the address.
    port
        The board's port; by default the next free one from 8765.
    tensorboard
        Run TensorBoard beside it. It knows no tokens: on an address that others reach it stays on this machine, unless
        this option is given.
    token
        Ask for a token on this machine too, where other people work on it.
    database
        Address of the database: postgresql://USER:PASSWORD@HOST/NAME for a team; by default a file in the runs folder.
    systemd
        Write a unit for systemd instead, so that it comes back after a reboot, and say how to start it.
    """
    from regraft.board.daemon import ask
    from regraft.board.daemon import up as up_
    from regraft.board.serving import prepared
    from regraft.board.state import place_of
    from regraft.files import default_cache_dir
    from regraft.terminal import TerminalListener

    asked = ask(
        runs_dir=runs_dir, cache_dir=cache_dir or default_cache_dir(), data=data, host=host, port=port,
        tensorboard=tensorboard, database=database, token=token,
    )  # fmt: skip
    if systemd:
        from regraft.board import systemd as unit

        place = place_of(runs_dir)
        path = unit.install(asked, place, tensorboard=tensorboard, token=token)
        if json_:
            print_json({"unit": str(path), "name": unit.unit_name(place)})
        else:
            print(f"{path.read_text('utf-8')}\n{unit.explained(place)}")
        return
    listener = TerminalListener()
    find = (lambda: None) if data is None else (lambda: prepared(data, Path(asked.cache_dir), listener))
    found, before = up_(asked, find_desk=find)
    if json_:
        print_json({"already_up": before} | found.as_dict())
        return
    _print_addresses(found)
    if before and (asked.data, asked.host) != (found.data, asked.host):
        print(f"it was up before, for {found.data or 'the runs alone'}; regraft down ends it")
    elif before:
        print("it was up before")
    if found.data is not None and not found.review:
        print(f"no review: no audit of {found.data} as it is now was kept; regraft review makes one, then up again")
    print("it stays up when this terminal closes: regraft status, regraft logs, regraft down")


def status(*, runs_dir: AnyRunsDir = None, json_: Json = False) -> None:
    """What is up: addresses, since when, memory, and whether it answers; exit code 1 where something does not."""
    from regraft.board.daemon import chosen
    from regraft.board.daemon import status as status_
    from regraft.board.state import places
    from regraft.errors import RegraftError

    found = [status_(place) for place in (places() if runs_dir is None else [chosen(runs_dir)])]
    if json_:
        print_json([one.as_dict() for one in found])
    for one in found if not json_ else ():
        _print_status(one)
    if not found:
        raise RegraftError("nothing is up; regraft up DATA starts the board and TensorBoard")
    ill = [f"{part.name} of {one.runs_dir} ({part.why})" for one in found for part in one.parts if not part.healthy]
    ill += [f"{one.runs_dir}: nobody looks after it" for one in found if one.supervisor is None and one.healthy]
    if ill:
        raise RegraftError(f"every part must answer: {'; '.join(ill)}; regraft logs says more")


def logs(
    *,
    part: Literal["board", "tensorboard", "supervisor"] | None = None,
    lines: int = 50,
    follow: bool = False,
    runs_dir: AnyRunsDir = None,
) -> None:
    """The last lines of the logs.

    Parameters
    ----------
    part
        Whose: board, tensorboard or supervisor; by default all three.
    lines
        How many.
    follow
        Go on with what is written from now on, until Ctrl-C.
    """
    import contextlib

    from regraft.board.daemon import chosen
    from regraft.board.logs import follow as follow_
    from regraft.board.logs import tail

    place = chosen(runs_dir)
    names = ["supervisor", "board", "tensorboard"] if part is None else [part]
    names = [name for name in names if part is not None or place.log(name).exists()]
    new = follow_({name: place.log(name) for name in names})  # before the rest is printed, so that nothing is missed
    for name in names:
        if len(names) > 1:
            print(f"--- {name}")
        print("\n".join(tail(place.log(name), lines)), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        for name, line in new if follow else ():
            print(f"{name}: {line}" if len(names) > 1 else line, flush=True)


def down(*, runs_dir: AnyRunsDir = None, json_: Json = False) -> None:
    """End exactly what `up` started."""
    from regraft.board.daemon import chosen
    from regraft.board.daemon import down as down_
    from regraft.board.state import places

    if not places():
        print_json({"ended": []}) if json_ else print("nothing is up")
        return
    ended = down_(chosen(runs_dir))
    if json_:
        print_json({"ended": [process.pid for process in ended]})
    else:
        print(f"{len(ended)} processes ended" if ended else "nothing ran any more")


def _print_addresses(found: Status) -> None:
    for part in found.parts:
        print(f"{part.name:<12} {part.address}" + ("" if part.healthy else f"   not up: {part.why}"))
    if found.forward:
        print(f"from another machine, before opening these addresses there: {found.forward}")
    for note in found.notes:
        print(f"note: {note}")


def _print_status(found: Status) -> None:
    import time

    from regraft.terminal import print_table

    rows = [
        (
            part.name, part.address, str(part.process.pid) if part.process else "",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(part.process.since)) if part.process else "",
            f"{part.memory_bytes / 2**20:,.0f} MiB" if part.memory_bytes else "", part.why or "healthy",
        )
        for part in found.parts
    ]  # fmt: skip
    print(found.runs_dir + (f", review of {found.data}" if found.data else ""))
    print_table("", ("part", "address", "process", "since", "memory", "state"), rows)
    if found.forward:
        print(f"from another machine: {found.forward}")
    for note in found.notes:
        print(f"note: {note}")
