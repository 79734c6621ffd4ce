"""Bundles: what comes back is what was saved; whatever a hostile one holds ends in one line and executes nothing."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save, save_file

from conftest import Command, Trained
from regraft.errors import BundleError, RegraftError
from regraft.export.bundle import Head, load_bundle
from regraft.files import write_bytes, write_text
from regraft.predictor import load


@pytest.fixture
def model(run: Path) -> Path:
    return run / "model"


def edit(model: Path, change: Callable[[dict], object]) -> None:
    """Change `config.json` as an attacker would: with every hash made to fit."""
    config = json.loads((model / "config.json").read_text("utf-8"))
    change(config)
    if isinstance(config.get("files"), dict):
        for name in config["files"]:
            if (model / name).is_file():
                config["files"][name] = blake3((model / name).read_bytes()).hexdigest()
    write_text(model / "config.json", json.dumps(config))


def put(*keys: str, value: object) -> Callable[[dict], object]:
    def change(config: dict) -> None:
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return change


def refused(model: Path) -> str:
    with pytest.raises(BundleError) as caught:
        load_bundle(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_reloaded_predictions_equal_those_of_the_fit(trained: Trained):
    import pyarrow.parquet as pq

    from regraft.features.cache import FeatureCache
    from regraft.pipeline import read

    predictor = load(trained.run)
    scan = read(trained.data, cache_dir=trained.cache)
    paths = [scan.manifest.path(i) for i in range(len(scan.manifest))]
    about = json.loads(next(trained.cache.glob("features/*/about.json")).read_text("utf-8"))
    width = about.pop("num_features")
    about.pop("format")
    values = np.zeros((len(paths), width), np.float16)
    assert FeatureCache(trained.cache, about, num_features=width).read(scan.manifest.hashes, values).all()
    expected = predictor.bundle.head.pred_probs(values)
    np.testing.assert_allclose(predictor.predict_proba(paths), expected, atol=1e-5)
    np.testing.assert_allclose(predictor.predict_proba(paths[::-1])[::-1], expected, atol=1e-5)
    table = pq.read_table(trained.run / "predictions.parquet")
    assert table["image"].to_pylist() == scan.manifest.names


@given(st.integers(0, 9), st.integers(2, 5), st.integers(1, 20), st.floats(0.05, 20), st.integers(0, 2**32 - 1))
def test_head_against_the_textbook(n, num_classes, width, temperature, seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 3, (n, width)).astype(np.float16)
    weight = rng.normal(0, 3, (num_classes, width)).astype(np.float32)
    bias = rng.normal(0, 3, num_classes).astype(np.float32)
    found = Head(weight=weight, bias=bias, temperature=temperature).pred_probs(features)
    logits = (features.astype(np.float64) @ weight.T.astype(np.float64) + bias) / temperature
    expected = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    assert found.shape == (n, num_classes)
    np.testing.assert_allclose(found, expected, atol=1e-3 / temperature, rtol=0)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


def test_works_after_the_run_was_moved_and_the_cache_is_gone(run: Path, trained, tmp_path, monkeypatch):
    paths = sorted(trained.data.rglob("*.png"))[::8]
    moved = tmp_path / "else where" / "model"
    moved.parent.mkdir()
    (run / "model").rename(moved)
    shutil.rmtree(run)
    monkeypatch.setenv("REGRAFT_CACHE_DIR", str(tmp_path / "new cache"))
    assert load(moved).predict(paths) == ["circle", "square", "star"]


def test_a_cache_that_cannot_be_written_does_not_stop_predicting(trained, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("REGRAFT_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert load(trained.run).predict([next(trained.data.rglob("*.png"))]) != [None]


NO_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "timm", "torchvision"):
            raise ImportError(name + " must not be needed")
sys.meta_path.insert(0, Refuse())
from regraft.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_predict_and_a_second_fit_need_no_torch(trained, tmp_path):
    env = {**os.environ, "REGRAFT_CACHE_DIR": str(trained.cache)}
    for words in (
        ["predict", trained.run, trained.data],
        ["evaluate", trained.run, trained.data],
        ["fit", trained.data, "--image-size", "32", "--runs-dir", tmp_path / "runs"],
    ):
        done = subprocess.run([sys.executable, "-c", NO_TORCH, *words], env=env, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()


def test_torch_runs_the_same_bundle(trained):
    paths = sorted(trained.data.rglob("*.png"))
    found = load(trained.run, engine="torch").predict_proba(paths)
    np.testing.assert_allclose(found, load(trained.run).predict_proba(paths), atol=0.05)  # bf16, two libraries


def test_unlisted_files_are_never_opened(model: Path, tmp_path):
    class Attack:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    for name in ("head.pkl", "model.pt", "pytorch_model.bin", "classes.npy", "backbone/extension.so", "__init__.py"):
        (model / name).write_bytes(pickle.dumps(Attack()))
    assert load_bundle(model).class_names == ("circle", "square", "star")
    edit(model, lambda config: [config["files"].pop(f"backbone/model.{end}") for end in ("xml", "bin")])
    assert load_bundle(model).backbone.ir is None
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("format",), "regraft-bundle/2"),
        (("format",), None),
        (("files",), {}),
        (("files",), ["head.safetensors"]),
        (("files", "../../secret"), "0"),
        (("files", "/etc/passwd"), "0"),
        (("files", "a\0b"), "0"),
        (("files", "line\nbreak"), "0"),
        (("files", "backbone"), "0"),
        (("files", "head.pkl"), "0"),
        (("class_names",), ["a", "b"]),
        (("class_names",), ["a", "b", "c", "d"]),
        (("class_names",), ["a", "a", "c"]),
        (("class_names",), ["a", "b\nregraft: all is well", "c"]),
        (("class_names",), ["a", "\x1b[2J", "c"]),
        (("class_names",), ["a", 1, "c"]),
        (("class_names",), "abc"),
        (("class_names",), None),
        (("transform",), {"size": 32, "evil": 1}),
        (("transform",), None),
        (("transform", "size"), 10**9),
        (("transform", "size"), -1),
        (("transform", "size"), "32"),
        (("transform", "size"), 32.5),
        (("transform", "policy"), "explode"),
        (("transform", "crop_pct"), 0),
        (("transform", "crop_pct"), 1e9),
        (("transform", "std"), [0, 0, 0]),
        (("transform", "mean"), [float("nan")] * 3),
        (("transform", "mean"), ["x", "y", "z"]),
        (("transform", "background"), [1, 2, 300]),
        (("precision",), "int1"),
        (("precision",), None),
        (("head", "temperature"), 0),
        (("head", "temperature"), -1.0),
        (("head", "temperature"), float("inf")),
        (("head", "temperature"), float("nan")),
        (("head", "temperature"), "hot"),
        (("head",), []),
        (("backbone", "num_features"), 7),
        (("backbone", "num_features"), 10**30),
        (("backbone", "recipe", "architecture"), "hf-hub:someone/something"),
        (("backbone", "recipe", "architecture"), "local-dir:/tmp"),
        (("backbone", "recipe", "architecture"), ["x"]),
        (("backbone", "recipe", "builder"), "python"),
        (("backbone", "recipe", "arguments"), ["x"]),
        (("backbone", "recipe"), None),
        (("backbone", "slices"), {"final": 3}),
        (("backbone", "features_from"), 3),
        (("backbone",), None),
    ],
)  # fmt: skip
def test_hostile_config(model: Path, keys, value):
    edit(model, put(*keys, value=value))
    assert refused(model)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "3", '"x"', "[" * 100_000, '{"format": "regraft-bundle/1"}', "\x00", "{}\n{}"]
)
def test_config_that_is_none(model: Path, text):
    write_text(model / "config.json", text)
    assert refused(model)


def test_config_in_another_encoding(model: Path):
    write_bytes(model / "config.json", "ÿ".encode("utf-16"))
    assert refused(model)


def head_of(**tensors: np.ndarray) -> bytes:
    return save(tensors)


W, B = np.zeros((3, 1280), np.float32), np.zeros(3, np.float32)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04.",
        head_of(weight=W, bias=B)[:-5],
        head_of(weight=W, bias=B)[:20],
        (2**62).to_bytes(8, "little") + b"{}",
        (10**8).to_bytes(8, "little") + b"{" * 1000,
        head_of(weight=W),
        head_of(weight=W.T.copy(), bias=B),
        head_of(weight=W[:2].copy(), bias=B),
        head_of(weight=W, bias=np.zeros((3, 1), np.float32)),
        head_of(weight=W + np.float32(np.nan), bias=B),
        head_of(weight=W, bias=B + np.float32(np.inf)),
    ],
)
def test_hostile_head(model: Path, content):
    write_bytes(model / "head.safetensors", content)
    assert "not what was saved" in refused(model)
    edit(model, lambda config: None)
    assert refused(model)


@pytest.mark.parametrize(
    "name", ["head.safetensors", "backbone.safetensors", "backbone/model.xml", "backbone/model.bin"]
)
def test_every_file_is_checked(model: Path, name):
    data = bytearray((model / name).read_bytes())
    data[len(data) // 2] ^= 1
    write_bytes(model / name, bytes(data))
    assert name in refused(model)
    (model / name).unlink()
    assert "missing" in refused(model)


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_hostile_backbone_ends_in_one_line(model: Path, cli: Command, engine, trained):
    write_bytes(model / "backbone/model.bin", b"short")
    save_file({"weight": W}, model / "backbone.safetensors.new")
    (model / "backbone.safetensors.new").replace(model / "backbone.safetensors")
    edit(model, lambda config: None)
    done = cli("predict", model, trained.data, "--engine", engine)
    assert done.code == 1, done
    assert len([line for line in done.err.splitlines() if line.startswith("regraft: ")]) == 1
    assert "Traceback" not in done.err


def test_backbone_of_another_width(model: Path, trained):
    edit(model, put("backbone", "num_features", value=4))
    bundle_head = load_file(model / "head.safetensors")
    write_bytes(
        model / "head.safetensors", head_of(weight=bundle_head["weight"][:, :4].copy(), bias=bundle_head["bias"])
    )
    edit(model, lambda config: None)
    with pytest.raises(RegraftError, match="must give 4 features"):
        load(model).predict([next(trained.data.rglob("*.png"))])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_to_the_config_ends_in_one_line(trained, tmp_path, data):
    """Bytes flipped, cut out or doubled anywhere: a BundleError, or a bundle that is still whole."""
    model = tmp_path / "damaged"
    if not model.exists():
        shutil.copytree(trained.run / "model", model, copy_function=os.link)
    content = (trained.run / "model" / "config.json").read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    length = data.draw(st.integers(0, 40))
    new = content[:at] + data.draw(st.binary(max_size=8)) + content[at + length :]
    write_bytes(model / "config.json", new)
    try:
        bundle = load_bundle(model)
    except BundleError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert bundle.head.weight.shape == (len(bundle.class_names), bundle.backbone.num_features)
