"""Features of all stages: against plain layer-by-layer computation, for models that say their stages and for others."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import nn

from regraft.errors import BackboneError
from regraft.models.split import split
from regraft.models.stages import Hooked, Intermediates, quarters, staged


def columns(features: torch.Tensor, span: tuple[int, int]) -> torch.Tensor:
    return features[:, span[0] : span[1]]


def test_resnet_stages_are_the_pooled_maps_of_its_layers() -> None:
    model = torchvision.models.resnet18(num_classes=5).eval()
    made, slices = staged(split(model, input_size=64).backbone, torch.zeros(2, 3, 64, 64))
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        features = made(x)
        y = model.relu(model.bn1(model.conv1(x)))
        expected = [y.mean((2, 3))]
        y = model.maxpool(y)
        for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
            y = layer(y)
            expected.append(y.mean((2, 3)))
        expected.append(y.mean((2, 3)))
    assert list(slices) == ["stage1", "stage2", "stage3", "stage4", "stage5", "final"]
    for span, value in zip(slices.values(), expected, strict=True):
        torch.testing.assert_close(columns(features, span), value)


def test_timm_stages_are_its_own_intermediate_maps() -> None:
    model = timm.create_model("test_efficientnet", num_classes=0).eval()
    made, slices = staged(model, torch.zeros(2, 3, 96, 96))
    x = torch.randn(3, 3, 96, 96)
    with torch.no_grad():
        features, final = made(x), model(x)
        maps = timm.create_model("test_efficientnet", features_only=True)
        maps.load_state_dict(model.state_dict(), strict=False)
        expected = [m.mean((2, 3)) for m in maps.eval()(x)]
    assert isinstance(made, Intermediates)
    for span, value in zip(slices.values(), [*expected, final], strict=True):
        torch.testing.assert_close(columns(features, span), value)


def test_equal_blocks_give_the_ends_of_the_quarters() -> None:
    assert quarters(4) == [0, 1, 2, 3]
    assert quarters(12) == [2, 5, 8, 11]
    model = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=8, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=3
    ).eval()
    made, slices = staged(split(model, input_size=32).backbone, torch.zeros(2, 3, 32, 32))
    assert isinstance(made, Hooked)
    assert list(made.pooling) == [f"encoder.layers.encoder_layer_{i}" for i in (1, 3, 5, 7)]
    assert slices["final"] == (64, 80)


def test_windows_and_expansions_inside_a_stage_are_no_stages() -> None:
    model = torchvision.models.mobilenet_v3_small(num_classes=3).eval()
    made, _ = staged(split(model, input_size=64).backbone, torch.zeros(2, 3, 64, 64))
    assert isinstance(made, Hooked)
    assert all(name.count(".") <= 1 for name in made.pooling)


def test_a_model_without_stages_says_so() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4)).eval()
    with pytest.raises(BackboneError, match="--features-from"):
        staged(flat, torch.zeros(2, 3, 8, 8))
