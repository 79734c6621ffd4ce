"""`param_groups`: every trainable parameter once, slower towards the input."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from regraft.errors import UsageError
from regraft.models.freezing import freeze
from regraft.models.heads import graft
from regraft.models.layer_decay import param_groups
from regraft.models.split import split


def rates(model: nn.Module, **kwargs: float) -> dict[str, float]:
    names = {id(p): name for name, p in model.named_parameters()}
    groups = param_groups(model, lr=1.0, **kwargs)  # type: ignore[arg-type]
    return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}


@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize(
    "name", ["resnet18", "vit_b_16", "vgg11", "swin_t", "densenet121", "mobilenet_v3_small", "googlenet"]
)
def test_every_parameter_once_and_rates_grow(name: str) -> None:
    with torch.device("meta"):
        model = models.get_model(name)
    groups = param_groups(model, lr=0.1, layer_decay=0.9, weight_decay=0.05)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    found = rates(model, layer_decay=0.9)
    assert max(found.values()) == 1.0
    assert list(found.values())[-1] >= next(iter(found.values()))
    assert all(g["weight_decay"] == 0.0 for g in groups for p in g["params"] if p.ndim <= 1)
    assert all(g["weight_decay"] == 0.05 for g in groups for p in g["params"] if p.ndim > 1)


def test_resnet_blocks_are_layers() -> None:
    found = rates(models.resnet18(), layer_decay=0.5)
    assert found["fc.weight"] == 1.0
    assert found["layer4.1.conv2.weight"] == 0.5
    assert found["layer4.0.conv1.weight"] == found["layer4.0.bn2.bias"] == 0.25
    assert found["conv1.weight"] == found["bn1.weight"] == 0.5**9


def test_timm_says_its_own_layers_and_the_head_is_last() -> None:
    model = graft(split(timm.create_model("vit_tiny_patch16_224", num_classes=4)).backbone, 3)
    found = rates(model, layer_decay=0.5)
    assert found["head.weight"] == 1.0
    assert found["backbone.blocks.11.mlp.fc1.weight"] == 0.5
    assert found["backbone.blocks.0.mlp.fc1.weight"] == 0.5**12
    assert found["backbone.pos_embed"] == 0.5**13
    groups = param_groups(model, lr=1.0, weight_decay=0.1)
    where = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert where[id(model.backbone.pos_embed)] == 0.0  # timm's no_weight_decay()
    assert where[id(model.backbone.patch_embed.proj.weight)] == 0.1


def test_frozen_parameters_are_left_out_and_keep_their_flag() -> None:
    model = timm.create_model("test_vit", num_classes=3)
    freeze(model, until="blocks.0")
    flags = [p.requires_grad for p in model.parameters()]
    held = {id(p) for g in param_groups(model, lr=1.0, layer_decay=0.5) for p in g["params"]}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}
    assert flags == [p.requires_grad for p in model.parameters()]


def test_shared_parameters_are_in_one_group() -> None:
    tied = nn.Linear(3, 3)
    model = nn.Sequential(tied, nn.ReLU(), tied, nn.Linear(3, 2))
    held = [id(p) for g in param_groups(model, lr=1.0, layer_decay=0.5) for p in g["params"]]
    assert len(held) == len(set(held)) == 4


def test_it_feeds_an_optimiser() -> None:
    model = models.resnet18()
    groups = param_groups(model, lr=0.1, layer_decay=0.8, weight_decay=0.01, no_decay=False)
    optimizer = torch.optim.AdamW(groups)
    assert optimizer.param_groups[0]["weight_decay"] == 0.01


def test_refusals() -> None:
    with pytest.raises(UsageError, match=r"layer_decay=1\.5"):
        param_groups(models.resnet18(), lr=0.1, layer_decay=1.5)
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(UsageError, match="unfreeze"):
        param_groups(model, lr=0.1)
