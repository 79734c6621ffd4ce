"""The board as a process in the background: `python -P -m regraft.board.serving FOLDER PORT`."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from regraft.board.processes import detach
from regraft.board.site import Site
from regraft.board.state import Asked, Place
from regraft.errors import RegraftError

if TYPE_CHECKING:
    from regraft.progress import Listener

EVERY = 3.0
"""Seconds between two looks at the supervisor."""


def site_of(asked: Asked, port: int, tensorboard: str | None) -> Site:
    """What is served: the runs, and the review of the images where an audit was prepared for them."""
    from regraft.store.db import open_database
    from regraft.store.runs import project_name

    runs_dir, cache_dir = Path(asked.runs_dir), Path(asked.cache_dir)
    data = None if asked.data is None else Path(asked.data)
    desk = None
    if data is not None and asked.desk is not None:
        from regraft.board.review.prepare import kept

        desk = kept(Path(asked.desk), project=project_name(data), root=root_of(data))
    return Site(
        runs_dir=runs_dir,
        database=open_database(asked.database, runs_dir=runs_dir),
        cache_dir=cache_dir,
        project=None if data is None else project_name(data),
        desk=desk,
        token=asked.token,
        host=asked.host,
        port=port,
        tensorboard=tensorboard,
    )


def root_of(data: Path) -> Path:
    """What the paths of images are relative to."""
    return data if data.is_dir() else data.parent


def prepared(data: Path, cache_dir: Path, listener: Listener) -> Path | None:
    """The newest desk that was kept for exactly these images, or None; they are read where any was kept at all."""
    found = sorted((cache_dir / "review").glob("*-*/desk.safetensors"), key=lambda path: path.stat().st_mtime)
    if not found:
        return None
    from regraft.board.review.prepare import kept
    from regraft.data import data_version
    from regraft.pipeline import read
    from regraft.progress import Stopwatch

    with Stopwatch(listener).stage("scan"):
        manifest = read(data, cache_dir=cache_dir, listener=listener).manifest
    manifest = manifest.select(manifest.labels >= 0)
    version = data_version(manifest)
    for path in reversed(found):
        if path.parent.name.startswith(f"{version}-"):
            desk = kept(path, project="", root=manifest.root)
            if desk is not None and list(desk.paths) == manifest.images.tolist():
                return path
    return None


def supervise_again(place: Place) -> bool:
    """Start a supervisor where the last one was killed; True where it was needed."""
    with place.lock():
        if not place.wanted or place.is_supervised:
            return False
        detach(supervisor_command(place), place.log("supervisor"), environment={})
        return True


def supervisor_command(place: Place) -> list[str]:
    """What keeps the parts of a place up."""
    return [sys.executable, "-P", "-m", "regraft.board.supervisor", str(place.folder)]


def _watch(place: Place, ended: threading.Event) -> None:
    while not ended.wait(EVERY):
        try:
            if supervise_again(place):
                print("the supervisor was gone; another one was started", flush=True)
                ended.wait(10 * EVERY)  # it takes over within a second or so
        except (RegraftError, OSError) as error:
            print(f"the supervisor cannot be looked after: {error}", flush=True)


def main(words: Sequence[str]) -> int:
    """Serve until SIGTERM; returns the exit code."""
    from regraft.board.health import address_of
    from regraft.board.server import serve

    place, port = Place(Path(words[0])), int(words[1])
    ended = threading.Event()
    try:
        asked, state = place.asked(), place.state()
        if asked is None:
            return 0
        beside = state.parts.get("tensorboard") if state is not None else None
        site = site_of(asked, port, None if beside is None else address_of(beside))
        threading.Thread(target=_watch, args=(place, ended), daemon=True).start()
        with contextlib.closing(site.database):
            serve(site)
    except RegraftError as error:
        print(f"regraft: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    finally:
        ended.set()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
