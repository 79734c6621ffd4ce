"""The table of models, the two verbs, and whole fits on backbones that are not timm's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from conftest import Command
from drawn import draw_folder
from regraft.errors import BackboneError, BundleError, UsageError
from regraft.export.bundle import load_bundle
from regraft.models.zoo import backbones
from regraft.pipeline import fit, load

OWN = """
from torch import nn

def make():
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(nn.Conv2d(3, 16, 5, stride=2), nn.ReLU(), pooled, nn.Linear(16, 2))
    model.image_size = 32
    return model
"""


class TestTable:
    def test_it_agrees_with_the_libraries(self):
        import timm
        import torch
        import torchvision

        entries = {entry.name: entry for entry in backbones()}
        for name in ("resnet18.a1_in1k", "vit_tiny_patch16_224.augreg_in21k", "convnext_atto.d2_in1k"):
            with torch.device("meta"):
                model = timm.create_model(name, num_classes=0)
            entry = entries[f"timm/{name}"]
            assert entry.num_parameters == sum(p.numel() for p in model.parameters())
            assert entry.num_features == model.num_features
            assert entry.source == f"hub timm/{name}"
        entry = entries["torchvision/resnet50.IMAGENET1K_V2"]
        assert entry.num_parameters == 25_557_032 - 2048 * 1000 - 1000
        assert entry.source == torchvision.models.ResNet50_Weights.IMAGENET1K_V2.url
        assert len(entries) > 1900

    def test_every_filter_filters(self):
        found = backbones(family="vit", max_params=30_000_000, pretrained=True, search="dinov2 small")
        assert found
        for entry in found:
            assert entry.family == "vit"
            assert entry.num_parameters is not None
            assert entry.num_parameters <= 30_000_000
            assert entry.pretrained
            assert "dinov2" in entry.name
            assert "small" in entry.name
        sizes = [entry.num_parameters for entry in backbones() if entry.num_parameters is not None]
        assert sizes == sorted(sizes)
        with pytest.raises(UsageError, match="did you mean 'vit'"):
            backbones(family="viit")

    def test_offline_means_on_this_machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("HF_HUB_CACHE", raising=False)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        packages = {entry.name for entry in backbones(offline=True)}
        assert "tf_efficientnet_lite0" in packages
        repository = tmp_path / "hf" / "hub" / "models--timm--resnet18.a1_in1k"
        (repository / "snapshots" / "c0").mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("c0", encoding="utf-8")
        assert {entry.name for entry in backbones(offline=True)} == packages  # begun, but no weights yet
        (repository / "snapshots" / "c0" / "model.safetensors").touch()
        (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
        (tmp_path / "torch" / "hub" / "checkpoints" / "resnet50-11ad3fa6.pth").touch()
        found = {entry.name for entry in backbones(offline=True)} - packages
        assert found == {"timm/resnet18.a1_in1k", "torchvision/resnet50.IMAGENET1K_V2"}


class TestVerbs:
    def test_backbones(self, cli: Command):
        done = cli("backbones", "--search", "lite0", "--max-params", "30M", "--json")
        assert done.code == 0
        assert json.loads(done.out)[0]["name"].endswith("lite0")
        assert "and 2," not in cli("backbones", "--search", "lite0").out
        assert "more: --all" in cli("backbones").out
        assert "no model" in cli("backbones", "--search", "nosuchmodel").out
        assert cli("backbones", "--max-params", "lots").code == 2

    def test_describe(self, cli: Command):
        done = cli("describe", "timm/test_resnet", "--depth", 1, "--parameters", "--json")
        assert done.code == 0
        told = json.loads(done.out)
        assert told["backbone"]["num_features"] == 96
        assert told["classifier"]["num_classes"] == 1000
        assert {row["name"].count(".") for row in told["modules"]} == {0}
        assert {row["name"] for row in told["parameters"]} >= {"fc.weight", "fc.bias"}
        assert "random weights" in done.err
        assert "not on this machine" in done.err

    def test_describe_says_where_features_are_taken_by_hand(self, cli: Command):
        done = cli("describe", "timm/test_resnet", "--random", "--features-from", "layer3", "--json")
        assert json.loads(done.out)["backbone"]["boundary"] == "layer3"

    def test_what_cannot_be_described(self, cli: Command):
        for words in (("nosuchmodel",), ("nothing.pth",), ("nothing.py:make",), ("torchvision/nothing",)):
            done = cli("describe", *words)
            assert done.code == 1
            assert done.err.startswith("regraft: ")
            assert done.err.count("\n") == 1
        assert cli("describe", "timm/test_resnet", "--depth", -1).code == 2


class TestFit:
    def test_a_model_of_the_users_own_predicts_without_their_code(self, tmp_path: Path, cli: Command):
        (tmp_path / "mine.py").write_text(OWN, encoding="utf-8")
        draw_folder(tmp_path / "shapes")
        cache = tmp_path / "cache"
        run = fit(
            tmp_path / "shapes", backbone=f"{tmp_path / 'mine.py'}:make", runs_dir=tmp_path / "runs", cache_dir=cache
        )
        (tmp_path / "mine.py").unlink()
        shutil.rmtree(cache)
        image = next((tmp_path / "shapes").rglob("*.png"))
        assert load(run.path, cache_dir=cache).predict([image])[0] in run.model.class_names
        bundle = load_bundle(run.path)
        assert bundle.backbone.recipe["builder"] == "ir-only"
        with pytest.raises((BackboneError, BundleError), match=r"mine\.py:make"):
            bundle.backbone.build()

    def test_torchvision_is_rebuilt_from_the_bundle(self, tmp_path: Path):
        import torch
        import torchvision

        from regraft.models.backbones import resolve

        torch.save(torchvision.models.shufflenet_v2_x0_5(num_classes=5).state_dict(), tmp_path / "mine.pth")
        draw_folder(tmp_path / "shapes")
        options = {"weights": tmp_path / "mine.pth", "features_from": "stage3"}
        run = fit(
            tmp_path / "shapes",
            backbone="torchvision/shufflenet_v2_x0_5",
            image_size=64,
            runs_dir=tmp_path / "runs",
            cache_dir=tmp_path / "cache",
            **options,
        )
        backbone, x = load_bundle(run.path).backbone, torch.randn(2, 3, 64, 64)
        original = resolve("torchvision/shufflenet_v2_x0_5", cache_dir=tmp_path / "cache", **options)
        assert backbone.recipe["builder"] == "torchvision"
        assert backbone.features_from == "stage3"
        torch.testing.assert_close(backbone.build()(x), original.build()(x))

    def test_what_does_not_convert_runs_in_pytorch_and_says_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        from regraft.features.engines import openvino
        from regraft.progress import Listener

        def refuse(*_: object) -> None:
            raise BackboneError("the backbone x cannot be converted for OpenVINO (a test); use --engine torch")

        monkeypatch.setattr(openvino, "_convert", refuse)
        draw_folder(tmp_path / "shapes")
        said: list[str] = []

        class Ears(Listener):
            def say(self, text: str) -> None:
                said.append(text)

        options = {"image_size": 32, "runs_dir": tmp_path / "runs", "cache_dir": tmp_path / "cache"}
        run = fit(tmp_path / "shapes", listener=Ears(), **options)
        assert any(text.startswith("engine = torch: the backbone x cannot be converted") for text in said)
        assert not (run.path / ".backbone.safetensors").exists()
        image = next((tmp_path / "shapes").rglob("*.png"))
        assert load(run.path, cache_dir=tmp_path / "cache").predict([image])[0] is not None
        with pytest.raises(BackboneError, match="--engine torch"):
            fit(tmp_path / "shapes", engine="openvino", **options)
        (tmp_path / "mine.py").write_text(OWN, encoding="utf-8")
        with pytest.raises(BackboneError, match="without your code"):
            fit(tmp_path / "shapes", backbone=f"{tmp_path / 'mine.py'}:make", **options)
