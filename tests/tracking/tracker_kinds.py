"""Each tracker with a way to read back what it was told, by the service's own means."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from regraft.tracking.base import Tracker
from regraft.tracking.jsonl import EVENTS, Jsonl, read_events
from regraft.tracking.run_facts import Identities, RunFacts
from regraft.tracking.tensorboard import TensorBoard


@dataclass
class Found:
    """What a tracker has; None for what it has no place for."""

    metrics: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    settings: dict[str, str] | None = None
    tags: dict[str, str] | None = None
    tables: set[str] | None = None
    images: set[str] | None = None
    histograms: set[str] | None = None
    artifacts: set[str] | None = None
    status: str | None = None
    num_runs: int = 1


@dataclass(frozen=True)
class Kind:
    """How one is opened for a run folder, and read."""

    open: Callable[[RunFacts], Tracker]
    found: Callable[[Path], Found]
    knows_what_it_has: bool = True
    """Of a resumed run: it leaves out what it was told before."""


def facts(folder: Path, name: str) -> RunFacts:
    identities = Identities(folder)
    return RunFacts(
        folder=folder, project=folder.parent.name, name=folder.name, known=identities.of(name),
        keep=lambda identity: identities.keep(name, identity),
    )  # fmt: skip


def null() -> Kind:
    return Kind(lambda run: Tracker(), lambda folder: Found())


def jsonl() -> Kind:
    def found(folder: Path) -> Found:
        got = Found(settings={}, tags={}, tables=set(), images=set(), histograms=set(), artifacts=set())
        kinds = {"table": got.tables, "image": got.images, "histogram": got.histograms, "artifact": got.artifacts}
        for row in read_events(folder / EVENTS):
            match row["event"]:
                case "metrics":
                    add(
                        got, {name: float("nan") if v is None else v for name, v in row["metrics"].items()}, row["step"]
                    )
                case "settings":
                    got.settings |= {name: str(said["value"]) for name, said in row["settings"].items()}
                case "tags":
                    got.tags |= row["tags"]
                case "end":
                    got.status = row["status"]
                case kind:
                    kinds[kind].add(row["name"])
        return got

    return Kind(lambda run: Jsonl(run.folder / EVENTS), found)


def tensorboard() -> Kind:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import metadata

    def found(folder: Path) -> Found:
        events = EventAccumulator(str(folder / "tb"), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
        events.Reload()
        got = Found(images=set(events.Tags()["images"]), histograms=set(events.Tags()["histograms"]))
        for name in events.Tags()["scalars"]:
            got.metrics[name] = [(event.step, event.value) for event in events.Scalars(name)]
        got.tables = set(events.Tags()["tensors"]) - {"settings"}
        content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        settings = metadata.parse_session_start_info_plugin_data(content).hparams
        got.settings = {name: plain(value) for name, value in settings.items()}
        return got

    def plain(value: Any) -> str:
        kind = value.WhichOneof("kind")
        return f"{value.number_value:g}" if kind == "number_value" else str(getattr(value, kind))

    def opened(run: RunFacts) -> TensorBoard:
        again = (run.folder / "tb").exists()
        return TensorBoard(run.folder / "tb", purge_step=3 if again else None)

    return Kind(opened, found)


def wandb() -> Kind:
    """Recorded in files: `wandb sync` needs a server, which there is none of; the files are taken apart here."""
    from regraft.tracking.wandb import Wandb

    def found(folder: Path) -> Found:
        got = Found(settings={}, tags={}, tables=set(), images=set(), histograms=set(), artifacts=set())
        names = set()
        for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
            names.add(path.name)
            for record in whole(path):
                read(record, got)
        got.num_runs = len(names)
        return got

    def whole(path: Path) -> list[Any]:
        """With its last record, which W&B's process may write a moment after the run's end was asked for."""
        for _ in range(300):
            records = list(wandb_records(path))
            if any(record.WhichOneof("record_type") == "exit" for record in records):
                return records
            time.sleep(0.1)
        raise AssertionError(f"{path} has no end")

    def read(record: Any, got: Found) -> None:
        match record.WhichOneof("record_type"):
            case "history":
                read_history({"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item},
                             got)  # fmt: skip
            case "config":
                got.settings |= {item.key: str(json.loads(item.value_json)) for item in record.config.update}
            case "run":
                got.tags |= {tag.partition(": ")[0]: tag.partition(": ")[2] for tag in record.run.tags}
            case "artifact" if record.artifact.type != "run_table":
                got.artifacts.add(record.artifact.type)
            case "exit":
                got.status = {0: "finished", 1: "failed", 130: "killed"}[record.exit.exit_code]

    def read_history(row: dict[str, Any], got: Found) -> None:
        kinds = {"table-file": got.tables, "image-file": got.images, "histogram": got.histograms}
        for name, value in row.items():
            if name.endswith("/_type"):
                kinds[value].add(name.removesuffix("/_type"))
        plain = {name: value for name, value in row.items() if is_metric(name, value)}
        if plain:
            add(got, {name: float(value) for name, value in plain.items()}, row["step"])

    def is_metric(name: str, value: Any) -> bool:
        is_number = isinstance(value, int | float) or value in ("NaN", "Infinity", "-Infinity")
        return is_number and name.split("/")[0] in ("train", "val")

    return Kind(Wandb, found, knows_what_it_has=False)


def wandb_records(path: Path) -> Iterator[Any]:
    """A file of W&B: LevelDB's log format, blocks of 32 KiB, behind 7 bytes of its own."""
    from wandb.proto import wandb_internal_pb2

    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield wandb_internal_pb2.Record.FromString(part)
            part = b""


def mlflow(uri: str) -> Kind:
    from regraft.tracking.mlflow import Mlflow

    def found(folder: Path) -> Found:
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(folder.parent.name)
        runs = client.search_runs([experiment.experiment_id])
        run_id, data = runs[0].info.run_id, runs[0].data
        got = Found(settings=dict(data.params), num_runs=len(runs), status=runs[0].info.status.lower())
        got.tags = {name: value for name, value in data.tags.items() if not name.startswith("mlflow.")}
        for name in data.metrics:
            for point in client.get_metric_history(run_id, name):
                add(got, {name: point.value}, point.step)
        files = set(everything(client, run_id))
        tables = {name.removeprefix("tables/").removesuffix(".json") for name in files if name.startswith("tables/")}
        got.tables, got.histograms = tables - {"val/confidence"}, tables & {"val/confidence"}
        got.images = {name.removeprefix("pictures/").rpartition(".")[0] for name in files if name[:9] == "pictures/"}
        got.artifacts = {name.partition("/")[0].partition(".")[0] for name in files} & {"report", "model"}
        return got

    def everything(client: Any, run_id: str, under: str | None = None) -> Iterator[str]:
        for entry in client.list_artifacts(run_id, under):
            if entry.is_dir:
                yield from everything(client, run_id, entry.path)
            else:
                yield entry.path

    return Kind(Mlflow, found)


@contextlib.contextmanager
def mlflow_server(store: str, folder: Path) -> Iterator[str]:
    """MLflow's server as `mlflow server` starts it, without the eight helpers of its job queue (4 s and not 20)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = {"FILE_STORE": store, "ARTIFACT_ROOT": "mlflow-artifacts:/", "SERVE_ARTIFACTS": "true",
             "ARTIFACT_DESTINATION": str(folder / "artifacts")}  # fmt: skip
    env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"} | {f"_MLFLOW_SERVER_{k}": v for k, v in words.items()}
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "mlflow.server.fastapi_app:app",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder)
    uri = f"http://127.0.0.1:{port}"
    try:
        wait_for(uri, server, folder / "server.log")
        yield uri
    finally:
        server.kill()
        server.wait(30)


def wait_for(uri: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 300
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=5):
            return
        if server.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"MLflow's server did not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.2)


def trackio() -> Kind:
    from regraft.tracking.trackio import Trackio

    def found(folder: Path) -> Found:
        from trackio import Api
        from trackio.sqlite_storage import SQLiteStorage

        project = folder.parent.name
        (run, *others) = list(Api().runs(project))
        got = Found(num_runs=1 + len(others), tables=set(), images=set(), histograms=set())
        kinds = {"table": got.tables, "image": got.images, "histogram": got.histograms}
        for row in SQLiteStorage.get_logs(project, run.name):
            for name, value in row.items():
                if isinstance(value, dict):
                    kinds[value["_type"].removeprefix("trackio.")].add(name)
                elif name not in ("step", "timestamp"):
                    add(got, {name: float(value)}, row["step"])
        got.settings = {name: str(value) for name, value in run.config.items()}
        got.tags = {name: got.settings[name] for name in ("strategy", "data_version") if name in got.settings}
        got.artifacts = {row["name"] for row in SQLiteStorage.get_artifacts(project)}
        got.status = "finished" if got.metrics["finished"][-1][1] else "failed"
        return got

    return Kind(Trackio, found, knows_what_it_has=False)


def add(found: Found, metrics: dict[str, float], step: int) -> None:
    for name, value in metrics.items():
        found.metrics.setdefault(name, []).append((step, value))


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 2), (200, 20, 20)).save(stream, "PNG")
    return stream.getvalue()


PNG = png()
