from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tensorboard.backend.event_processing import plugin_event_multiplexer
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin
from werkzeug.test import Client

from regraft.tracking import projector
from regraft.tracking.projector import CONFIG, write_projector
from regraft.tracking.tensorboard import TensorBoard

NAMES = ("ant", "bee\tten")


def thumbnail(path: str, pixels: int) -> bytes | None:
    if path == "3":
        return None
    stream = io.BytesIO()
    Image.new("RGB", (pixels, pixels // 2), (200, 20, 20)).save(stream, "JPEG")
    return stream.getvalue()


def write(folder: Path, num: int, num_features: int = 100) -> np.ndarray:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(num, num_features)) * np.linspace(3, 0.01, num_features)
    probs = rng.dirichlet((1, 1), num)
    labels = rng.integers(-1, 2, num)
    write_projector(
        folder, features, labels=labels, pred_probs=probs, class_names=NAMES, paths=[str(i) for i in range(num)],
        thumbnail=thumbnail,
    )  # fmt: skip
    return features


def parts(folder: Path) -> tuple[np.ndarray, list[str], np.ndarray]:
    config = text_format.Parse((folder / CONFIG).read_text(), ProjectorConfig()).embeddings[0]
    points = np.frombuffer((folder / config.tensor_path).read_bytes(), "<f4").reshape(tuple(config.tensor_shape))
    sprite = np.asarray(Image.open(io.BytesIO((folder / config.sprite.image_path).read_bytes())))
    return points, (folder / config.metadata_path).read_text().splitlines(), sprite


def test_points_keep_their_distances_and_their_names(tmp_path: Path) -> None:
    features = write(tmp_path, 30)
    points, lines, sprite = parts(tmp_path)
    assert points.shape == (30, 30)
    assert np.allclose(np.linalg.norm(points[3] - points[7]), np.linalg.norm(features[3] - features[7]), rtol=1e-4)
    assert len(lines) == 31
    assert lines[0].split("\t") == ["given", "predicted", "right", "confidence", "image"]
    assert {len(line.split("\t")) for line in lines} == {5}
    assert sprite.shape == (240, 240, 3)  # 6 x 6 of 40 pixels
    assert sprite[20, 20, 0] > 180
    assert sprite[20, 3 * 40 + 20, 0] > 230  # the one that cannot be shown is paper


def test_many_images_are_thinned_and_wide_features_reduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector, "MAX_IMAGES", 80)
    write(tmp_path, 200)
    points, lines, _ = parts(tmp_path)
    assert points.shape == (80, 64)
    assert lines[1].split("\t")[-1] == "0"
    assert lines[-1].split("\t")[-1] == "199"


def test_two_images_are_no_cloud(tmp_path: Path) -> None:
    write(tmp_path, 2)
    assert list(tmp_path.iterdir()) == []


def test_tensorboards_own_page_serves_it(tmp_path: Path) -> None:
    TensorBoard(tmp_path / "run").log_metrics({"a": 1.0}, 1)
    write(tmp_path / "run", 12)
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(tmp_path))
    plugin = ProjectorPlugin(TBContext(logdir=str(tmp_path), data_provider=provider))
    apps = plugin.get_plugin_apps()
    assert b"run" in Client(apps["/runs"]).get("/runs").data
    told = Client(apps["/info"]).get("/info?run=run").json
    assert told is not None
    name = told["embeddings"][0]["tensorName"]
    assert told["embeddings"][0]["tensorShape"] == [12, 12]
    got = Client(apps["/tensor"]).get(f"/tensor?run=run&name={name}")
    assert len(got.data) == 12 * 12 * 4
    assert Client(apps["/metadata"]).get(f"/metadata?run=run&name={name}").data.startswith(b"given\t")
    assert Client(apps["/sprite_image"]).get(f"/sprite_image?run=run&name={name}").mimetype == "image/jpeg"
