"""Trackio: `--track trackio`. In files of its own, or with TRACKIO_SPACE_ID or TRACKIO_SERVER_URL on a server.

Honoured: TRACKIO_DIR, TRACKIO_SPACE_ID, TRACKIO_SERVER_URL, TRACKIO_WRITE_TOKEN and what else Trackio reads;
TRACKIO_PROJECT names the project (the run's otherwise).
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft._imports import try_import
from regraft.tracking.base import Status, Tracker
from regraft.tracking.names import path_name
from regraft.tracking.run_facts import RunFacts


class Trackio(Tracker):
    """A run of Trackio, known by its project and name; what it cannot send it keeps, and sends when it can.

    Raises:
        MissingExtraError: Trackio is not installed.
    """

    def __init__(self, run: RunFacts) -> None:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        self._trackio = trackio = try_import("trackio", extra="trackio")
        for module in (trackio, sys.modules.get("trackio.utils"), sys.modules.get("trackio.run")):
            if module is not None:  # it prints to standard output, where a verb's answer is read
                vars(module)["print"] = _silent
        project = run.known.get("project") or os.environ.get("TRACKIO_PROJECT") or run.project
        name = run.known.get("name") or f"{run.name}-{os.urandom(3).hex()}"
        self._run = trackio.init(
            project=project, name=name, resume="allow", embed=False, auto_log_cpu=False, auto_log_gpu=False
        )
        self._settings: dict[str, Any] = {}
        run.keep({"project": project, "name": name})
        run.say(f"trackio: run {name} of {project}; trackio show --project {project}")

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log({path_name(name): value for name, value in metrics.items()}, step=int(step))

    def log_settings(self, settings: Mapping[str, tuple[Any, str]]) -> None:
        for name, (value, _) in settings.items():
            self._run.config[name] = value if isinstance(value, bool | int | float | str | None) else str(value)
        rows = [(name, str(value), why) for name, (value, why) in settings.items()]
        self.log_table("settings", ("setting", "value", "why"), rows, step=0)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Settings: Trackio has no tags."""
        self._run.config.update(tags)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, step: int) -> None:
        table = self._trackio.Table(columns=list(columns), data=[list(row) for row in rows])
        self._run.log({path_name(name): table}, step=int(step))

    def log_image(self, name: str, picture: bytes, *, width: int, height: int, step: int) -> None:
        from PIL import Image

        with Image.open(io.BytesIO(picture)) as opened:
            self._run.log({path_name(name): self._trackio.Image(opened.convert("RGB"))}, step=int(step))

    def log_histogram(self, name: str, counts: NDArray[np.int64], edges: NDArray[np.float64], *, step: int) -> None:
        histogram = self._trackio.Histogram(np_histogram=(counts.tolist(), edges.tolist()))
        self._run.log({path_name(name): histogram}, step=int(step))

    def log_artifact(self, name: str, path: Path) -> None:
        artifact = self._trackio.Artifact(name, type=name)
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def close(self, status: Status = "finished") -> None:
        self._run.log({"finished": float(status == "finished")})
        self._run.finish()


def _silent(*words: object, **options: object) -> None:
    """In place of print."""
