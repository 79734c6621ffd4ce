from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drawn import draw_folder
from regraft.config import FitConfig
from regraft.errors import MissingExtraError, UsageError
from regraft.pipeline import fit
from regraft.tracking import of_run
from regraft.tracking.base import Status, Tracker
from regraft.tracking.jsonl import EVENTS, read_events
from regraft.tracking.of_run import Tracking
from regraft.tracking.run_facts import IDENTITIES, RunFacts


class Ear(Tracker):
    """In place of a service."""

    runs: list[Ear]

    def __init__(self, run: RunFacts) -> None:
        self.run, self.heard = run, list[tuple[str, Any]]()
        self.status: Status | None = None
        self.id = run.known.get("id") or f"id{len(Ear.runs)}"
        run.keep({"id": self.id})
        Ear.runs.append(self)

    def log_metrics(self, metrics: Any, step: int) -> None:
        self.heard += [(name, step) for name in metrics]

    def log_settings(self, settings: Any) -> None:
        self.heard += [("setting", name) for name in settings]

    def log_tags(self, tags: Any) -> None:
        self.heard += [("tag", name) for name in tags]

    def log_table(self, name: str, columns: Any, rows: Any, *, step: int) -> None:
        self.heard.append(("table", name))

    def log_image(self, name: str, picture: bytes, *, width: int, height: int, step: int) -> None:
        self.heard.append(("image", name))

    def log_artifact(self, name: str, path: Path) -> None:
        assert path.exists()
        self.heard.append(("artifact", name))

    def rewind(self, step: int) -> None:
        self.heard.append(("rewind", step))

    def close(self, status: Status = "finished") -> None:
        self.status = status


@pytest.fixture
def ears(monkeypatch: pytest.MonkeyPatch) -> list[Ear]:
    """What opens in place of W&B and MLflow."""
    Ear.runs = []
    monkeypatch.setattr(of_run, "TRACKERS", {"wandb": Ear, "mlflow": Ear})
    monkeypatch.setattr(of_run, "try_import", lambda name, extra: None)
    return Ear.runs


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "finished"), (ValueError, "failed"), (KeyboardInterrupt, "killed"), (SystemExit, "killed")],
)
def test_the_end_of_the_block_is_the_end_of_the_run(
    ears: list[Ear], tmp_path: Path, error: type[BaseException] | None, status: str
) -> None:
    def block() -> None:
        with Tracking(("wandb", "mlflow", "wandb"), lambda text: None) as tracking:
            tracking.begin(tmp_path / "p" / "1", tags={"a": "b"}).log_metrics({"x": 1.0}, 1)
            if error is not None:
                raise error

    if error is None:
        block()
    else:
        with pytest.raises(error):
            block()
    assert len(ears) == 2
    for ear in ears:
        assert (ear.run.project, ear.run.name, ear.status) == ("p", "1", status)
        assert ear.heard == [("tag", "a"), ("x", 1)]
    rows = list(read_events(tmp_path / "p" / "1" / EVENTS))
    assert [row["event"] for row in rows] == ["tags", "metrics", "end"]
    assert rows[-1]["status"] == status


def test_a_run_that_never_began_ends_quietly(ears: list[Ear]) -> None:
    with pytest.raises(ValueError), Tracking(("wandb",), lambda text: None):
        raise ValueError
    assert ears == []


def test_other_processes_than_the_main_one_tell_nobody(
    ears: list[Ear], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with Tracking(("wandb",), lambda text: None) as tracking:
        tracking.begin(tmp_path).log_metrics({"x": 1.0}, 1)
    assert ears == []
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_not_there_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in of_run.TRACKERS:
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtraError, match=rf"pip install 'regraft\[{name}\]'"):
            Tracking((name,), print)


def test_a_folder_that_cannot_be_written_costs_a_sentence(ears: list[Ear], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said: list[str] = []
    with Tracking((), said.append) as tracking:
        tracking.begin(tmp_path / "file" / "1").log_metrics({"x": 1.0}, 1)
    assert len(said) == 1
    assert EVENTS in said[0]


def test_services_are_imported_only_when_they_are_asked_for() -> None:
    program = (
        "import sys; from regraft.tracking.of_run import Tracking; Tracking((), print); "
        "assert not {'torch', 'mlflow', 'wandb', 'trackio', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_config_takes_words_lists_and_refuses_others() -> None:
    assert FitConfig(track="wandb").track == ("wandb",)  # type: ignore[arg-type]
    config = FitConfig(track=["wandb", "mlflow"])  # type: ignore[arg-type]
    assert FitConfig.from_options(json.loads(json.dumps(config.as_dict()))) == config
    with pytest.raises(UsageError, match=r"track is one of mlflow, trackio, wandb: 'wandbb' is not .* 'wandb'"):
        FitConfig(track=("wandbb",))  # type: ignore[arg-type]


def test_a_fit_tells_everything_it_found(ears: list[Ear], tmp_path: Path, cache_dir: Path, cli: Any) -> None:
    data = draw_folder(tmp_path / "shapes")
    words = ("--image-size", "32", "--runs-dir", tmp_path / "runs", "--track", "wandb", "--track", "mlflow")
    answer = cli("fit", data, *words)
    assert answer.code == 0, answer.err
    folder = Path(answer.out.splitlines()[-1])
    assert json.loads((folder / IDENTITIES).read_text()) == {"wandb": {"id": ears[0].id}, "mlflow": {"id": ears[1].id}}
    for ear in ears:
        heard, kinds = set(ear.heard), {kind for kind, _ in ear.heard}
        assert {("setting", "backbone"), ("tag", "data_version"), ("table", "cv/per_class"), ("image", "cv/confusion"),
                ("artifact", "report"), ("artifact", "model")} <= heard  # fmt: skip
        assert {"cv/log_loss", "cv/macro_f1"} <= kinds
        assert ear.status == "finished"
    assert (folder / "tensorboard" / "projector_config.pbtxt").is_file()
    assert "--track wandb --track mlflow" in (folder / "report.html").read_text("utf-8")


def test_a_resumed_training_goes_on_with_the_run_it_had(
    ears: list[Ear], tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from regraft.fit.loop import Trainer

    data = draw_folder(tmp_path / "shapes")
    options = {"strategy": "light", "epochs": 3, "image_size": 32, "test": 0.4, "batch_size": 8, "cache_dir": cache_dir,
               "runs_dir": tmp_path / "runs", "track": ("wandb",)}  # fmt: skip
    whole = Trainer._finish_epoch

    def killed(self: Trainer, *args: Any, **words: Any) -> None:
        whole(self, *args, **words)
        if self.position.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_finish_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(data, **options)
    monkeypatch.undo()
    monkeypatch.setenv("REGRAFT_CACHE_DIR", str(cache_dir))
    monkeypatch.setattr(of_run, "TRACKERS", {"wandb": Ear})
    monkeypatch.setattr(of_run, "try_import", lambda name, extra: None)
    folder = tmp_path / "runs" / "shapes" / "1"
    run = fit(data, resume=folder, cache_dir=cache_dir)
    assert run.path == folder
    first, second = ears
    assert (first.id, first.status, second.id, second.status) == (first.id, "killed", first.id, "finished")
    assert ("setting", "backbone") in first.heard
    assert ("setting", "lr") in first.heard
    assert ("rewind", 2 * steps(folder)) in second.heard
    metrics = [row for row in read_events(folder / EVENTS) if row["event"] == "metrics"]
    losses = [row["step"] for row in metrics if "train/step_loss" in row["metrics"]]
    assert losses == list(range(1, 3 * steps(folder) + 1))
    evaluations = [row["step"] for row in metrics if "val/loss" in row["metrics"]]
    assert evaluations == [steps(folder) * epoch for epoch in (1, 2, 3)]


def steps(folder: Path) -> int:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return int(rows[0]["step"])
