"""Backbones by name: what is promised without torch is what is built, and what is remembered is checked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from regraft.errors import BackboneError
from regraft.images import Transform
from regraft.models import backbones
from regraft.models.backbones import PACKAGED, hash_file, offline_backbones, resolve

SMALL = "test_efficientnet"
"""timm's own tiny architecture for tests: 0.3 million parameters."""


def weights(path: Path, seed: int = 0) -> Path:
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    save_file({k: v.contiguous() for k, v in timm.create_model(SMALL).state_dict().items()}, path)
    return path


@pytest.mark.real
@pytest.mark.parametrize("name", list(PACKAGED))
def test_facts_that_are_known_without_torch_are_right(name, tmp_path):
    import timm
    import torch

    backbone = resolve(name, cache_dir=tmp_path)
    module = backbone.build()
    assert sum(p.numel() for p in module.parameters()) == backbone.num_parameters
    assert module(torch.zeros(1, 3, 64, 64)).shape == (1, backbone.num_features)
    assert not module.training
    config = timm.data.resolve_model_data_config(timm.create_model(name))
    transform = backbone.transform
    assert (transform.size, transform.crop_pct) == (
        config["input_size"][-1],
        pytest.approx(config["crop_pct"], abs=2e-3),
    )
    assert (transform.mean, transform.std) == (config["mean"], config["std"])
    assert name in offline_backbones()
    assert not list(tmp_path.iterdir())


def test_known_backbones_need_no_torch(tmp_path):
    path = weights(tmp_path / f"{SMALL}.safetensors")
    first = resolve(SMALL, cache_dir=tmp_path / "c", weights=path)
    program = f"""
import sys
from pathlib import Path
from regraft.models.backbones import resolve
a = resolve("tf_efficientnet_lite0", cache_dir=Path({str(tmp_path / "c")!r}))
b = resolve({SMALL!r}, cache_dir=Path({str(tmp_path / "c")!r}), weights=Path({str(path)!r}))
assert not {{"torch", "timm"}} & set(sys.modules)
print(b.weights_hash, b.num_features, b.num_parameters, b.transform.size)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    facts = (first.weights_hash, first.num_features, first.num_parameters, first.transform.size)
    assert done.stdout.split() == [str(fact) for fact in facts]


def test_remembered_facts_follow_the_file(tmp_path, monkeypatch):
    path = weights(tmp_path / f"{SMALL}.safetensors")

    def found():
        return resolve(SMALL, cache_dir=tmp_path / "c", weights=path).weights_hash

    assert found() == hash_file(path)
    looked = []
    real = backbones._look
    monkeypatch.setattr(backbones, "_look", lambda *words: looked.append(1) or real(*words))
    found()
    assert not looked
    weights(path, seed=1)
    assert found() == hash_file(path)
    assert looked == [1]
    (record,) = (tmp_path / "c" / "backbones").iterdir()
    for damage in ("", "[]", "{}", json.dumps({"facts": {}, "file": None}), json.dumps({"facts": None, "file": 3})):
        record.write_text(damage)
        assert found() == hash_file(path)
    assert looked == [1] * 6


def test_the_same_weights_from_another_place_are_the_same_backbone(tmp_path):
    import torch

    path = weights(tmp_path / f"{SMALL}.safetensors")
    copy = shutil.copy(path, tmp_path / f"{SMALL}.copy.safetensors")
    first = resolve(str(path), cache_dir=tmp_path / "c")
    second = resolve(SMALL, cache_dir=tmp_path / "c", weights=Path(copy))
    assert first.weights_hash == second.weights_hash
    assert first.name == second.name
    pixels = torch.zeros(1, 3, 64, 64)
    assert torch.equal(first.build()(pixels), second.build()(pixels))


@pytest.mark.parametrize("kind", ["missing", "empty", "cut", "text", "another", "wrong shape", "pickle"])
def test_weights_that_do_not_fit_end_in_one_line(tmp_path, kind):
    import pickle

    from safetensors.torch import load_file, save_file

    path = tmp_path / f"{SMALL}.safetensors"
    if kind != "missing":
        weights(path)
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "text":
        path.write_text("not found")
    elif kind == "another":
        save_file({"x": load_file(path)["classifier.bias"]}, path)
    elif kind == "wrong shape":
        state = load_file(path)
        state["conv_stem.weight"] = state["conv_stem.weight"][:4].contiguous()
        save_file(state, path)
    elif kind == "pickle":
        path = path.with_suffix(".pth")
        path.write_bytes(pickle.dumps({"a": print}))
    with pytest.raises(BackboneError) as caught:
        resolve(SMALL, cache_dir=tmp_path, weights=path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "backbones").exists()


def test_another_transform(tmp_path):
    backbone = resolve(str(weights(tmp_path / f"{SMALL}.safetensors")), cache_dir=tmp_path)
    other = Transform(size=96, mean=(0.1, 0.2, 0.3))
    assert backbone.at(other).transform == other
    assert backbone.at(other).weights_hash == backbone.weights_hash
