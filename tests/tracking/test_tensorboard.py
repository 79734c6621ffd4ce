from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from regraft.tracking import tensorboard as tb
from regraft.tracking.base import Tracker, Trackers


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "histograms": 0, "tensors": 0})
    events.Reload()
    return events


def points(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, round(event.value, 6)) for event in read(folder).Scalars(name)]


def test_numbers_settings_pictures_and_histograms_are_read_back(tmp_path: Path) -> None:
    tracker = tb.TensorBoard(tmp_path)
    tracker.log_metrics({"val/loss": 0.5, "lr": float("nan")}, 3)
    tracker.log_settings({"lr": (1e-3, "a | b"), "flip": (False, "asked for"), "none": (None, "")})
    tracker.log_image("test/confusion", b"png", width=4, height=2, step=7)
    tracker.log_histogram("h", np.array([1, 0, 3]), np.array([0.0, 0.25, 0.5, 1.0]), step=7)
    tracker.close()
    events = read(tmp_path)
    assert points(tmp_path, "val/loss") == [(3, 0.5)]
    assert np.isnan(events.Scalars("lr")[0].value)
    picture = events.Images("test/confusion")[0]
    assert (picture.encoded_image_string, picture.width, picture.height, picture.step) == (b"png", 4, 2, 7)
    histogram = events.Histograms("h")[0].histogram_value
    assert (histogram.num, histogram.bucket, histogram.bucket_limit) == (4, [0, 1, 0, 3], [0, 0.25, 0.5, 1])
    assert histogram.sum == pytest.approx(0.125 + 3 * 0.75)
    text = events.Tensors("settings")[0].tensor_proto.string_val[0].decode()
    assert "| lr | 0.001 | a \\| b |" in text
    assert "| flip | False | asked for |" in text


def test_settings_are_columns_of_the_page_of_hyperparameters(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams import metadata

    tb.TensorBoard(tmp_path).log_settings({"lr": (1e-3, ""), "flip": (False, ""), "loss": ("focal", "")})
    content = read(tmp_path).SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    found = metadata.parse_session_start_info_plugin_data(content).hparams
    assert found["lr"].number_value == 1e-3
    assert found["flip"].bool_value is False
    assert found["loss"].string_value == "focal"


def test_going_on_purges_what_will_be_repeated(tmp_path: Path) -> None:
    first = tb.TensorBoard(tmp_path)
    for step in range(1, 8):
        first.log_metrics({"a": step}, step)
    second = tb.TensorBoard(tmp_path, purge_step=5)
    for step in range(5, 9):
        second.log_metrics({"a": 10 * step}, step)
    assert points(tmp_path, "a") == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 50), (6, 60), (7, 70), (8, 80)]
    assert tb.steps_of(tmp_path, "a") == set(range(1, 9))
    assert tb.steps_of(tmp_path, "b") == set()
    third = tb.TensorBoard(tmp_path, purge_step=2)
    third.log_metrics({"b": 1.0}, 2)
    assert tb.steps_of(tmp_path, "a") == {1}
    assert len(list(tb.event_files(tmp_path))) == 3


def test_every_record_is_on_the_disk_at_once_and_no_file_stays_open(tmp_path: Path) -> None:
    tracker = tb.TensorBoard(tmp_path)
    tracker.log_metrics({"a": 1.0}, 1)
    assert points(tmp_path, "a") == [(1, 1.0)]  # killed here, nothing would be lost
    del tracker
    gc.collect()  # a file that were still open would warn, and warnings are errors here


def test_a_record_cut_off_by_a_kill_hides_nothing_else(tmp_path: Path) -> None:
    tracker = tb.TensorBoard(tmp_path)
    tracker.log_metrics({"a": 1.0}, 1)
    tracker.log_metrics({"a": 2.0}, 2)
    (path,) = tb.event_files(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    tb.TensorBoard(tmp_path, purge_step=2).log_metrics({"a": 3.0}, 2)
    assert points(tmp_path, "a") == [(1, 1.0), (2, 3.0)]
    assert tb.steps_of(tmp_path, "a") == {1, 2}


class Full:
    """A file on a disk that is full after a part of the record."""

    def __init__(self, file) -> None:
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *args: object) -> None:
        self.file.close()

    def __getattr__(self, name: str):
        return getattr(self.file, name)

    def write(self, data: bytes) -> int:
        return self.file.write(data[:5])


def test_a_full_disk_is_said_once_and_leaves_whole_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    tracker = tb.open_tensorboard(tmp_path, said.append)
    tracker.log_metrics({"a": 1.0}, 1)
    whole = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *args, **words: Full(whole(self, *args, **words)))
    for step in (2, 3):
        tracker.log_metrics({"a": 1.0}, step)
    tracker.log_image("b", b"", width=1, height=1, step=3)
    tracker.close()
    monkeypatch.undo()
    assert len(said) == 1
    assert "TensorBoard failed" in said[0]
    assert "no space left: 5 of" in said[0]
    assert points(tmp_path, "a") == [(1, 1.0)]


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said: list[str] = []
    tracker = tb.open_tensorboard(tmp_path / "file" / "tensorboard", said.append)
    tracker.log_metrics({"a": 1.0}, 1)
    tracker.close()
    assert len(said) == 1


class Heard(Tracker):
    def __init__(self) -> None:
        self.names: list[str] = []

    def __getattribute__(self, name: str):
        if name.startswith("log_") or name == "close":
            return lambda *args, **words: self.names.append(name)
        return super().__getattribute__(name)


class Broken(Tracker):
    def log_metrics(self, metrics, step) -> None:
        raise RuntimeError("no\nservice")


def test_a_fan_out_tells_all_and_drops_what_fails() -> None:
    heard, said = Heard(), []
    trackers = Trackers([Broken(), heard], said.append)
    for step in range(3):
        trackers.log_metrics({}, step)
    trackers.log_settings({})
    trackers.log_image("a", b"", width=1, height=1, step=0)
    trackers.log_histogram("a", np.zeros(1, np.int64), np.zeros(2), step=0)
    trackers.close()
    trackers.close()
    assert heard.names == [*["log_metrics"] * 3, "log_settings", "log_image", "log_histogram", "close"]
    assert said == ["Broken failed and is told nothing more; the run goes on (RuntimeError: no)"]


def test_the_base_is_deaf() -> None:
    tracker = Tracker()
    tracker.log_metrics({"a": 1.0}, 1)
    tracker.log_settings({})
    tracker.log_image("a", b"", width=1, height=1, step=0)
    tracker.log_histogram("a", np.zeros(1, np.int64), np.zeros(2), step=0)
    tracker.close()
