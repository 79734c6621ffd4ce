"""Backbones from every kind of source, offline: laid out by the tests as the libraries' own caches lay them out."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from regraft.errors import BackboneError, MissingExtraError, RegraftError, UsageError
from regraft.features.extract import about
from regraft.models.backbones import hash_state, resolve
from regraft.models.sources.torchvision import _resampled

OWN = """
import torch
from torch import nn
from layers import block  # beside this file

def make_model(image_size=40):
    model = nn.Sequential(block(1, 8), block(8, 12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))
    model.image_size, model.mean, model.std = image_size, (0.5,), (0.25,)
    return model

def broken():
    return 1 / 0

def four_channels():
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))

def whole_map():
    return nn.Sequential(
        nn.Conv2d(3, 64, 1), nn.ReLU(), nn.Conv2d(64, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )

whole_map.image_size = 32

def nothing():
    return None
"""
LAYERS = """
from torch import nn

def block(before, after):
    return nn.Sequential(nn.Conv2d(before, after, 3, stride=2), nn.ReLU())
"""


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def find(tmp_path: Path):
    return lambda name, **options: resolve(str(name), cache_dir=tmp_path / "cache", **options)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "layers.py").write_text(LAYERS, encoding="utf-8")
    (tmp_path / "mine.py").write_text(OWN, encoding="utf-8")
    return tmp_path / "mine.py"


def lay_out_hub(home: Path, repository: str, files: dict[str, bytes | dict]) -> Path:
    """A repository as the hub's client keeps it: refs, blobs, and snapshots of links to them."""
    folder = home / "hub" / f"models--{repository.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    for part in ("refs", "blobs", f"snapshots/{commit}"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit, encoding="utf-8")
    for number, (name, content) in enumerate(files.items()):
        blob = folder / "blobs" / f"{number:040x}"
        blob.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        (folder / "snapshots" / commit / name).symlink_to(f"../../blobs/{blob.name}")
    return folder


def weights_of(model: nn.Module, path: Path) -> bytes:
    save_file(model.state_dict(), path)
    return path.read_bytes()


def test_timm_weights_come_from_the_hubs_cache(tmp_path, find):
    model = timm.create_model("test_resnet").eval()
    repository = "timm/test_resnet.r160_in1k"
    lay_out_hub(tmp_path / "hf", repository, {"model.safetensors": weights_of(model, tmp_path / "x.safetensors")})
    backbone, x = find("timm/test_resnet"), torch.randn(2, 3, 160, 160)
    assert repository in backbone.source
    assert backbone.transform.size == 160
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(x), pre_logits=True)
        torch.testing.assert_close(backbone.build()(x), expected)
    again = find("timm/test_resnet")
    assert dataclasses.replace(again, build=backbone.build, build_at=None) == dataclasses.replace(
        backbone, build_at=None
    )


def test_a_timm_model_of_anyones_on_the_hub(tmp_path, find):
    model = timm.create_model("test_vit", num_classes=4, img_size=64).eval()
    config = {
        "architecture": "test_vit",
        "num_classes": 4,
        "model_args": {"img_size": 64},
        "pretrained_cfg": {"input_size": [3, 64, 64], "fixed_input_size": True, "mean": [0.4] * 3, "std": [0.2] * 3,
                           "crop_pct": 1.0, "classifier": "head", "first_conv": "patch_embed.proj"},
    }  # fmt: skip
    weights = weights_of(model, tmp_path / "x.safetensors")
    lay_out_hub(tmp_path / "hf", "me/flowers", {"config.json": config, "model.safetensors": weights})
    backbone, x = find("hf-hub:me/flowers"), torch.randn(2, 3, 64, 64)
    assert (backbone.transform.size, backbone.transform.mean) == (64, (0.4,) * 3)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(x), pre_logits=True)
        torch.testing.assert_close(backbone.build()(x), expected)
    larger = backbone.at(dataclasses.replace(backbone.transform, size=96)).build()
    assert larger(torch.zeros(1, 3, 96, 96)).shape == (1, 64)


@pytest.mark.parametrize("key", ["checkpoint_path", "pretrained_strict", "cache_dir"])
def test_a_config_on_the_hub_cannot_make_timm_open_files(tmp_path, find, key):
    config = {"architecture": "test_vit", "model_args": {key: "/etc/passwd"}, "pretrained_cfg": {}}
    lay_out_hub(tmp_path / "hf", "me/evil", {"config.json": config})
    with pytest.raises(BackboneError, match=key):
        find("hf-hub:me/evil")


def test_torchvision_weights_come_from_torch_home(tmp_path, find):
    model = torchvision.models.shufflenet_v2_x0_5().eval()
    url = torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(model.state_dict(), folder / url.rpartition("/")[2])
    backbone, x = find("torchvision/shufflenet_v2_x0_5"), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.fc(backbone.build()(x)), model(x))
    assert (backbone.transform.size, backbone.transform.crop_pct) == (224, 224 / 256)
    assert backbone.transform.mean == (0.485, 0.456, 0.406)


def test_layers_and_stages_are_other_features(find):
    plain = find("torchvision/shufflenet_v2_x0_5", random=True)
    layer = find("torchvision/shufflenet_v2_x0_5", random=True, features_from="stage3")
    stages = find("torchvision/shufflenet_v2_x0_5+stages", random=True)
    assert [b.num_features for b in (plain, layer, stages)] == [1024, 96, 24 + 24 + 48 + 96 + 1024 + 1024]
    keys = {json.dumps(about(b, b.transform, "fp32"), sort_keys=True) for b in (plain, layer, stages)}
    assert len(keys) == 3
    assert "features_from" not in about(plain, plain.transform, "fp32")  # older caches stay valid


def test_random_weights_follow_their_seed(find):
    state = torch.random.get_rng_state()
    first, again, other = (find("test_vit", random=True, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.weights_hash == again.weights_hash == hash_state(first.build())
    assert first.weights_hash != other.weights_hash


def test_one_changed_number_is_another_hash():
    model = nn.Linear(3, 2)
    before = hash_state(model)
    model.weight.data[0, 0] += 1e-6
    assert hash_state(model) != before


def test_a_weights_file_named_like_its_architecture(tmp_path, find):
    model = timm.create_model("test_vit", num_classes=7, in_chans=1).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "test_vit.mine.pth")
    backbone = find(tmp_path / "test_vit.mine.pth")
    x = torch.randn(2, 3, 160, 160)
    grey = (x * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(grey), pre_logits=True)
        torch.testing.assert_close(backbone.build()(x), expected)
    torch.save(model.state_dict(), tmp_path / "flowers.pth")
    with pytest.raises(BackboneError, match="--weights"):
        find(tmp_path / "flowers.pth")
    assert find("test_vit", weights=tmp_path / "flowers.pth").num_features == 64
    with pytest.raises(BackboneError, match="must fit"):
        find("test_vit2", weights=tmp_path / "flowers.pth")


def test_a_function_of_the_users_own(own, find):
    backbone = find(f"{own}:make_model")
    assert (backbone.name, backbone.transform.size) == ("mine.py:make_model", 40)
    assert (backbone.transform.mean, backbone.num_features) == ((0.5,) * 3, 12)
    assert backbone.build()(torch.zeros(2, 3, 40, 40)).shape == (2, 12)
    assert find(f"{own}:make_model").weights_hash == backbone.weights_hash
    stages = find(f"{own}:make_model+stages")
    assert stages.slices == {"stage1": (0, 8), "stage2": (8, 20), "final": (20, 32)}
    own.write_text(OWN.replace("nn.AdaptiveAvgPool2d(1)", "nn.AdaptiveMaxPool2d(1)"), encoding="utf-8")
    assert find(f"{own}:make_model").weights_hash != backbone.weights_hash  # same weights, other code


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("broken", "ZeroDivisionError"),
        ("four_channels", "takes 4"),
        ("nothing", "NoneType"),
        ("whole_map", "--features-from"),
        ("make_modle", "did you mean 'make_model'"),
    ],
)
def test_what_is_wrong_with_it_is_said_in_one_line(own, find, name, told):
    with pytest.raises(BackboneError, match=told) as caught:
        find(f"{own}:{name}")
    assert "\n" not in str(caught.value)


class Payload:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_files_that_carry_code_are_refused_and_not_run(tmp_path, find, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Payload()}, tmp_path / "resnet18.pth")
    with pytest.raises(BackboneError, match="could run code") as caught:
        find(tmp_path / "resnet18.pth")
    assert "\n" not in str(caught.value)
    payload = (tmp_path / "resnet18.pth").read_bytes()
    config = {"architecture": "test_vit", "pretrained_cfg": {}}
    lay_out_hub(tmp_path / "hf", "me/evil", {"config.json": config, "pytorch_model.bin": payload})
    with pytest.raises(BackboneError, match="could run code"):
        find("hf-hub:me/evil")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["resnet18", "torchvision/resnet18", "hf-hub:me/it", "timm/resnet18.a1_in1k"])
def test_without_a_network_the_error_lists_what_works(find, name):
    with pytest.raises(BackboneError, match="tf_efficientnet_lite0") as caught:
        find(name)
    assert "HF_HUB_OFFLINE" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("tf_efficientnet_lite00", BackboneError, "did you mean 'tf_efficientnet_lite0'"),
        ("torchvision/resnet19", BackboneError, "did you mean 'resnet18'"),
        ("torchvision/resnet18.IMAGENET", BackboneError, "IMAGENET1K_V1"),
        ("mine.py", BackboneError, "FILE.py:FUNCTION"),
        ("nowhere.py:make", BackboneError, "does not exist"),
        ("nowhere.pth", BackboneError, "does not"),
    ],
)
def test_wrong_names(find, name, kind: type[RegraftError], told):
    with pytest.raises(kind, match=told):
        find(name)


def test_random_and_weights_exclude_each_other(find, tmp_path):
    (tmp_path / "w.pth").touch()
    with pytest.raises(UsageError, match="seed"):
        find("test_vit", weights=tmp_path / "w.pth", random=True)


def test_a_size_that_does_not_fit(find):
    backbone = find("test_vit", random=True)
    with pytest.raises(BackboneError):
        backbone.at(dataclasses.replace(backbone.transform, size=50)).build()
    with pytest.raises(BackboneError, match="patches of 32"):
        _resampled({}, 100, "vit_b_32")


class TestTransformers:
    CONFIG = {  # noqa: RUF012
        "model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32, "patch_size": 8,
        "id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2},
    }  # fmt: skip

    def test_without_the_package_the_error_names_the_install(self, find):
        try:
            import transformers  # noqa: F401
        except ImportError:
            with pytest.raises(MissingExtraError, match="pip install"):
                find("hf/me/vit")

    def test_code_in_the_repository_is_not_run(self, tmp_path, find):
        pytest.importorskip("transformers")
        lay_out_hub(tmp_path / "hf", "me/vit", {"config.json": {**self.CONFIG, "auto_map": {"AutoConfig": "x.Y"}}})
        with pytest.raises(BackboneError, match="Python code"):
            find("hf/me/vit")

    def test_an_image_classifier(self, tmp_path, find):
        transformers = pytest.importorskip("transformers")
        config = transformers.AutoConfig.for_model(**self.CONFIG)
        model = transformers.AutoModelForImageClassification.from_config(config).eval()
        files = {
            "config.json": self.CONFIG,
            "preprocessor_config.json": {"size": {"height": 32, "width": 32}, "image_mean": [0.4] * 3},
            "model.safetensors": weights_of(model, tmp_path / "x.safetensors"),
        }
        lay_out_hub(tmp_path / "hf", "me/vit", files)
        backbone, x = find("hf/me/vit"), torch.randn(2, 3, 32, 32)
        assert (backbone.transform.size, backbone.transform.mean) == (32, (0.4,) * 3)
        with torch.no_grad():
            features = backbone.build()(x)
            torch.testing.assert_close(model.classifier(features), model(x).logits)
