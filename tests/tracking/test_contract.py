"""What every tracker keeps of a run, and of a run that was interrupted; read back by the service's own means."""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tracker_kinds
from tracker_kinds import PNG, Found, Kind, facts

from regraft.tracking.base import Tracker

KINDS = ("null", "jsonl", "tensorboard", "wandb", "mlflow-sqlite", "mlflow-postgresql", "trackio")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """MLflow's servers, each started when it is first asked for."""
    with contextlib.ExitStack() as stack:

        class Servers(dict[str, str]):
            def __missing__(self, name: str) -> str:
                folder = tmp_path_factory.mktemp(name)
                store = f"sqlite:///{folder}/mlflow.db"
                if name == "mlflow-postgresql":
                    cluster = request.getfixturevalue("postgres_cluster")
                    store = stack.enter_context(cluster.fresh()).replace("postgresql://", "postgresql+psycopg://")
                self[name] = stack.enter_context(tracker_kinds.mlflow_server(store, folder))
                return self[name]

        yield Servers()


@pytest.fixture(params=KINDS)
def kind(
    request: pytest.FixtureRequest, servers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Kind:
    """The tracker, and no network but this machine's."""
    name = str(request.param)
    for word in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_RUN_ID", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(word, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    if name.startswith("mlflow"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", servers[name])
        return tracker_kinds.mlflow(servers[name])
    if name == "wandb":
        monkeypatch.setenv("WANDB_MODE", "offline")
        for word in ("CACHE", "CONFIG", "DATA"):
            monkeypatch.setenv(f"WANDB_{word}_DIR", str(tmp_path / word))
    if name == "trackio":
        if importlib.util.find_spec("trackio") is None:
            pytest.skip("trackio is not installed: it wants pillow < 13")
        monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    made: Kind = getattr(tracker_kinds, name)()
    return made


def run_folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path / f"project {request.node.name.partition('[')[0]}" / "7"
    (folder / "model" / "deep").mkdir(parents=True)
    (folder / "report.html").write_text("<h1>report</h1>")
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "deep" / "head.safetensors").write_bytes(b"\x00" * 100)
    return folder


SETTINGS = {
    "lr": (1e-3, "asked for"), "loss": ("focal", "a | b"), "flip": (False, ""), "layers": ((1, 2), "x" * 7000),
    "where": (Path("/x"), "قطة"), "nothing": (None, ""),
}  # fmt: skip


def tell(tracker: Tracker, folder: Path) -> None:
    tracker.log_tags({"strategy": "full", "data_version": "0123456789ab"})
    tracker.log_settings(SETTINGS)
    tracker.log_settings({"more": (7, "told later")})
    for step in (1, 2, 3):
        tracker.log_metrics({"train/loss": 1.0 / step}, step)
    tracker.log_metrics({"val/loss": float("nan"), "val/macro_f1": 0.5}, 3)
    tracker.log_table("val/per_class", ("class", "f1"), [("ant", 0.5), ("قطة|\n", None)], step=3)
    tracker.log_image("val/confusion", PNG, width=4, height=2, step=3)
    tracker.log_histogram("val/confidence", np.array([1, 0, 3]), np.array([0.0, 0.25, 0.5, 1.0]), step=3)
    tracker.flush()
    tracker.log_artifact("report", folder / "report.html")
    tracker.log_artifact("model", folder / "model")


def same(points: list[tuple[int, float]], expected: list[tuple[int, float]]) -> bool:
    points = sorted(points)
    return len(points) == len(expected) and all(
        at == step and (math.isclose(value, wanted, rel_tol=1e-6) or (math.isnan(value) and math.isnan(wanted)))
        for (at, value), (step, wanted) in zip(points, expected, strict=True)
    )


def test_what_is_told_is_kept(kind: Kind, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = run_folder(tmp_path, request)
    tracker = kind.open(facts(folder, "it"))
    tell(tracker, folder)
    tracker.close()
    found = kind.found(folder)
    if found == Found():
        return  # the base keeps nothing
    assert same(found.metrics["train/loss"], [(1, 1.0), (2, 0.5), (3, 1 / 3)])
    assert same(found.metrics["val/macro_f1"], [(3, 0.5)])
    assert same(found.metrics["val/loss"], [(3, math.nan)])
    assert found.settings is not None
    assert {name: found.settings[name] for name in ("lr", "loss", "flip")} == {
        "lr": "0.001", "loss": "focal", "flip": "False",
    }  # fmt: skip
    for what, expected in (
        (found.tags, {"strategy": "full", "data_version": "0123456789ab"}),
        (found.images, {"val/confusion"}),
        (found.histograms, {"val/confidence"}),
        (found.artifacts, {"report", "model"}),
        (found.status, "finished"),
    ):
        assert what is None or what == expected
    assert found.tables is None or "val/per_class" in found.tables
    assert found.num_runs == 1


def test_a_resumed_run_is_the_same_run(kind: Kind, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = run_folder(tmp_path, request)
    first = kind.open(facts(folder, "it"))
    tell(first, folder)
    first.close("killed")
    assert kind.found(folder).status in (None, "killed", "failed")
    again = kind.open(facts(folder, "it"))
    again.log_settings(SETTINGS | {"lr": (5e-3, "changed meanwhile")})
    again.rewind(2)
    for step in (3, 4):
        again.log_metrics({"train/loss": 1.0 / step}, step)
    again.close()
    found = kind.found(folder)
    if found == Found():
        return
    assert found.num_runs == 1
    assert found.status in (None, "finished")
    expected = [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    points = found.metrics["train/loss"]
    assert same(points if kind.knows_what_it_has else sorted(set(points)), expected)


def test_a_failed_run_is_told_as_one(kind: Kind, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = run_folder(tmp_path, request)
    tracker = kind.open(facts(folder, "it"))
    tracker.log_settings({"lr": (0.1, "")})
    tracker.log_metrics({"val/loss": 1.0}, 0)
    tracker.close("failed")
    assert kind.found(folder).status in (None, "failed")


def test_names_and_values_of_any_kind_are_taken(kind: Kind, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = run_folder(tmp_path, request)
    tracker = kind.open(facts(folder, "it"))
    tracker.log_settings({"a b/ü:*": ("line\nbreak", "…")})
    tracker.log_metrics({"val/ä*?[../../x]": 1.0, "val/inf": math.inf}, 0)
    tracker.log_tags({"ü ö": "x" * 7000})
    tracker.log_table("../../escape", ("a",), [], step=0)
    tracker.log_image("..\\..//picture", PNG, width=4, height=2, step=0)
    tracker.close()
    assert not (tmp_path / "escape.json").exists()
