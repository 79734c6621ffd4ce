"""`freeze`: no gradients and no new statistics, whatever happens to the model afterwards."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from regraft.errors import UsageError
from regraft.models.freezing import freeze, is_norm, unfreeze
from regraft.models.heads import graft
from regraft.models.split import split


def classifier() -> nn.Module:
    return graft(split(models.resnet18(), input_size=32).backbone, 3)


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: b.clone() for name, b in model.named_buffers()}


def train_steps(model: nn.Module, steps: int = 3) -> None:
    model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.1, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 32, 32) * 3 + 1).sum().backward()
        optimizer.step()


@pytest.mark.parametrize(
    "way",
    [
        lambda m: m,
        copy.deepcopy,
        lambda m: pickle.loads(pickle.dumps(m)),
        lambda m: (m.load_state_dict(copy.deepcopy(m.state_dict())), m)[1],
        lambda m: m.eval().train(),
        lambda m: m.to(torch.float64).to(torch.float32),
        nn.DataParallel,
    ],
    ids=["itself", "deepcopy", "pickle", "state dict", "eval and train", "to", "wrapped"],
)
def test_a_frozen_backbone_stays_as_it_is(way) -> None:  # type: ignore[no-untyped-def]
    model = classifier()
    freeze(model.backbone)
    model = way(model)
    inner = getattr(model, "module", model)
    before = {k: v.clone() for k, v in inner.backbone.state_dict().items()}
    head = inner.head.weight.clone()
    train_steps(model)
    assert all(torch.equal(v, before[k]) for k, v in inner.backbone.state_dict().items())
    assert not torch.equal(inner.head.weight, head)
    assert all(p.grad is None for p in inner.backbone.parameters())
    assert model.training
    assert not any(m.training for m in inner.backbone.modules() if is_norm(m))


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_a_frozen_backbone_stays_as_it_is_under_ddp(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        model = classifier()
        freeze(model.backbone)
        before = statistics(model)
        train_steps(nn.parallel.DistributedDataParallel(model))
        assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    finally:
        torch.distributed.destroy_process_group()


def test_a_copy_is_independent_of_its_original() -> None:
    model = classifier()
    freeze(model)
    twin = copy.deepcopy(model)
    unfreeze(model)
    twin.train()
    assert not twin.backbone.bn1.training
    model.train()
    assert model.backbone.bn1.training


def test_until_freezes_the_front_only() -> None:
    model = classifier()
    changed = freeze(model, until="backbone.layer2")
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert changed == frozen
    assert frozen[0] == "backbone.conv1.weight"
    assert frozen[-1].startswith("backbone.layer2.1")
    before = statistics(model)
    train_steps(model)
    moved = {name for name, b in model.named_buffers() if not torch.equal(b, before[name])}
    assert moved
    assert all(name.startswith(("backbone.layer3", "backbone.layer4")) for name in moved)


def test_unfreeze_is_the_way_back() -> None:
    model = classifier().train()
    freeze(model)
    assert unfreeze(model, from_="backbone.layer4")[0].startswith("backbone.layer4.0")
    assert model.backbone.layer4[0].bn1.training
    assert not model.backbone.layer3[0].bn1.training
    assert len(unfreeze(model)) == 45
    assert all(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.modules())
    before = statistics(model)
    train_steps(model, 1)
    assert all(not torch.equal(b, before[n]) for n, b in model.named_buffers() if n.endswith("running_mean"))


def test_a_models_own_parameters_belong_to_its_beginning() -> None:
    model = timm.create_model("test_vit", num_classes=3)
    freeze(model, until="blocks.0")
    assert not model.pos_embed.requires_grad
    assert not model.blocks[0].attn.qkv.weight.requires_grad
    assert model.blocks[1].attn.qkv.weight.requires_grad


def test_what_is_frozen_stays_differentiable_for_its_input() -> None:
    model = classifier()
    freeze(model)
    x = torch.randn(1, 3, 32, 32, requires_grad=True)
    model.train()(x).sum().backward()
    assert x.grad is not None


@pytest.mark.filterwarnings("ignore")
def test_timms_norms_are_norms() -> None:
    model = timm.create_model("test_efficientnet", num_classes=3)
    freeze(model)
    model.train()
    before = statistics(model)
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 64))
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    assert not is_norm(models.mobilenet_v2().features[0])  # Conv2dNormActivation: a name with Norm, but a container


def test_wrong_names_get_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'layer4'"):
        freeze(models.resnet18(), until="layer5")
    with pytest.raises(UsageError, match="nope"):
        unfreeze(models.resnet18(), from_="nope")
