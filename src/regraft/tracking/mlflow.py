"""MLflow: `--track mlflow`, to `$MLFLOW_TRACKING_URI` (MLflow's own default where there is none).

Honoured: MLFLOW_TRACKING_URI and what belongs to it (user, password, token), MLFLOW_EXPERIMENT_NAME or _ID (the project
otherwise), MLFLOW_RUN_ID, MLFLOW_HTTP_REQUEST_TIMEOUT and _MAX_RETRIES.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft._imports import try_import
from regraft.tracking.base import Status, Tracker
from regraft.tracking.heard import Heard, last_steps
from regraft.tracking.names import path_name
from regraft.tracking.run_facts import RunFacts

_AT_ONCE = 500
"""Numbers of one request: MLflow takes 1,000 things at most."""

_PARAMS_AT_ONCE, _LONGEST = 100, 5_900
"""What MLflow takes of settings in one request, and of letters in one (6,000)."""

_STATUS = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


class Mlflow(Tracker):
    """A run of an MLflow experiment.

    Numbers are held back until `flush`, and sent together. A resumed run is asked what it has, so that no step is
    there twice. Tables are JSON files that MLflow's page shows as tables; MLflow has no histograms: these too.

    Raises:
        MissingExtraError: MLflow is not installed.
        mlflow.exceptions.MlflowException: it cannot be reached, or does not want it.
    """

    def __init__(self, run: RunFacts) -> None:
        # MLflow tells its makers of its use unless it is told not to; who wants that sets it to false.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        mlflow = try_import("mlflow", extra="mlflow")
        self._mlflow, self._client = mlflow, mlflow.MlflowClient()
        self._held: list[Any] = []
        self._heard = Heard(self._last_steps)
        uri = _without_password(mlflow.get_tracking_uri())
        run_id = os.environ.get("MLFLOW_RUN_ID")
        if not run_id and run.known.get("uri") == uri:
            run_id = run.known.get("run_id")
        if run_id:
            self._client.update_run(run_id, status="RUNNING")
            self._id = str(run_id)
        else:
            made = self._client.create_run(self._experiment(run.project), run_name=run.name)
            self._id = str(made.info.run_id)
        run.keep({"run_id": self._id, "uri": uri})
        self._params = set(self._client.get_run(self._id).data.params)
        run.say(f"mlflow: run {self._id} at {uri}")

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        at = int(time.time() * 1000)
        self._held += [
            self._mlflow.entities.Metric(path_name(name), float(value), at, int(step))
            for name, value in self._heard.new(metrics, step).items()
        ]

    def log_settings(self, settings: Mapping[str, tuple[Any, str]]) -> None:
        """Parameters, which MLflow never changes: what it has stays. The reasons are a file."""
        entities = self._mlflow.entities
        new = {path_name(name): str(value)[:_LONGEST] for name, (value, _) in settings.items()}
        params = [entities.Param(name, value) for name, value in new.items() if name not in self._params]
        for start in range(0, len(params), _PARAMS_AT_ONCE):
            self._client.log_batch(self._id, params=params[start : start + _PARAMS_AT_ONCE])
        self._params |= set(new)
        reasons = {name: {"value": str(value), "reason": why} for name, (value, why) in settings.items()}
        self._log_json("settings.json", reasons)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        entities = self._mlflow.entities
        self._client.log_batch(
            self._id, tags=[entities.RunTag(path_name(name), str(value)[:_LONGEST]) for name, value in tags.items()]
        )

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, step: int) -> None:
        self._log_json(
            f"tables/{path_name(name)}.json", {"columns": list(columns), "data": [list(row) for row in rows]}
        )

    def log_image(self, name: str, picture: bytes, *, width: int, height: int, step: int) -> None:
        suffix = ".png" if picture.startswith(b"\x89PNG") else ".jpg"
        self._log_file(f"pictures/{path_name(name)}{suffix}", picture)

    def log_histogram(self, name: str, counts: NDArray[np.int64], edges: NDArray[np.float64], *, step: int) -> None:
        rows = [[float(edges[i]), float(edges[i + 1]), int(count)] for i, count in enumerate(counts)]
        self.log_table(name, ("from", "to", "count"), rows, step=step)

    def log_artifact(self, name: str, path: Path) -> None:
        """One file after the other: MLflow's own way for folders starts threads that keep a process from ending."""
        if path.is_file():
            self._client.log_artifact(self._id, str(path))
            return
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            within = (Path(path_name(name)) / file.relative_to(path)).parent
            self._client.log_artifact(self._id, str(file), within.as_posix())

    def rewind(self, step: int) -> None:
        self.flush()
        self._heard.rewind()

    def flush(self) -> None:
        while self._held:
            self._client.log_batch(self._id, metrics=self._held[:_AT_ONCE])
            del self._held[:_AT_ONCE]

    def close(self, status: Status = "finished") -> None:
        self.flush()
        # Not set_terminated, which prints the run's address to standard output, where a verb's answer is read.
        self._client._tracking_client.store.update_run_info(
            self._id, self._mlflow.entities.RunStatus.from_string(_STATUS[status]), int(time.time() * 1000), None
        )

    def _experiment(self, project: str) -> str:
        if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or project
        if (found := self._client.get_experiment_by_name(name)) is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except self._mlflow.exceptions.MlflowException:  # another run made it meanwhile
            if (found := self._client.get_experiment_by_name(name)) is None:
                raise
            return str(found.experiment_id)

    def _last_steps(self) -> dict[str, int]:
        names = self._client.get_run(self._id).data.metrics
        return last_steps(
            (name, point.step) for name in names for point in self._client.get_metric_history(self._id, name)
        )

    def _log_json(self, path: str, value: Any) -> None:
        self._log_file(path, json.dumps(value, ensure_ascii=False, indent=1, default=str).encode())

    def _log_file(self, path: str, content: bytes) -> None:
        folder, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory() as aside:
            (Path(aside) / name).write_bytes(content)
            self._client.log_artifact(self._id, str(Path(aside) / name), folder or None)


def _without_password(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//", uri)
