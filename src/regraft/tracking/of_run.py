"""Every tracker of a run, from the making of its folder to its end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from regraft._imports import try_import
from regraft.tracking.background import Background
from regraft.tracking.base import Status, Tracker, Trackers
from regraft.tracking.jsonl import EVENTS, Jsonl
from regraft.tracking.mlflow import Mlflow
from regraft.tracking.run_facts import Identities, RunFacts
from regraft.tracking.trackio import Trackio
from regraft.tracking.wandb import Wandb

TRACKERS: dict[str, Callable[[RunFacts], Tracker]] = {"mlflow": Mlflow, "trackio": Trackio, "wandb": Wandb}
"""Services, by the name of their package, which is that of regraft's extra too."""

WAIT_SECONDS = 10.0
"""At the end of a run, for all services together; REGRAFT_TRACK_WAIT says otherwise."""


class Tracking:
    """`with Tracking(("wandb",), print) as tracking: tracker = tracking.begin(folder, tags={…})`.

    The services named, each behind a queue of its own, and `events.jsonl` in the run's folder. The block's end is the
    run's: finished, failed (an exception) or killed (Ctrl-C). Only the main process of several tells anything.

    Args:
        names: of `TRACKERS`.
        say: one line that people should read.

    Raises:
        MissingExtraError: a package is not installed.
    """

    def __init__(self, names: Sequence[str], say: Callable[[str], None]) -> None:
        self._names = tuple(dict.fromkeys(names)) if _is_main() else ()
        self._say = say
        self._services: list[Background] = []
        self._tracker: Tracker = Tracker()
        for name in self._names:  # seconds, here and not while a model is trained: an import holds Python's lock
            try_import(name, extra=name)

    def begin(self, folder: Path, *, tags: Mapping[str, str] | None = None) -> Tracker:
        """Open them for the run of this folder; a resumed run goes on with the runs it had.

        Args:
            folder: `runs/PROJECT/NAME`.
            tags: words that the run is found by.

        Returns:
            whom to tell everything, TensorBoard excepted; it never raises, and never waits for a service.
        """
        if not _is_main():
            return self._tracker
        identities = Identities(folder)
        self._services = [self._service(name, folder, identities) for name in self._names]
        files: list[Tracker] = []
        try:
            files.append(Jsonl(folder / EVENTS))
        except OSError as error:
            self._say(f"{EVENTS} cannot be written and is left out; the run goes on ({error})")
        self._files = Trackers(files, self._say)
        self._tracker = Trackers([self._files, *self._services], self._say)
        self._tracker.log_tags(tags or {})
        return self._tracker

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._end("finished")
        else:
            self._end("failed" if issubclass(kind, Exception) else "killed")

    def _end(self, status: Status) -> None:
        if isinstance(self._tracker, Trackers):
            self._files.close(status)
        seconds = _wait_seconds()
        until = time.monotonic() + seconds
        for service in self._services:
            service.end(status)
        if busy := [service.name for service in self._services if not service.is_done_within(1.0)]:
            self._say(f"waiting for {', '.join(busy)}, {seconds:.0f} s at most")
        for service in self._services:
            service.wait(until - time.monotonic())

    def _service(self, name: str, folder: Path, identities: Identities) -> Background:
        def opened(say: Callable[[str], None]) -> Tracker:
            facts = RunFacts(
                folder=folder, project=folder.parent.name, name=folder.name, known=identities.of(name),
                keep=lambda identity: identities.keep(name, identity), say=say,
            )  # fmt: skip
            return TRACKERS[name](facts)

        return Background(name, opened, self._say, kept=str(folder / EVENTS))


def _is_main() -> bool:
    return int(os.environ.get("RANK") or 0) == 0


def _wait_seconds() -> float:
    try:
        return max(0.0, float(os.environ["REGRAFT_TRACK_WAIT"]))
    except (KeyError, ValueError):
        return WAIT_SECONDS
