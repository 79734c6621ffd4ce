"""The public names of the anatomy, used together as the documentation shows."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision import models

from regraft.models import anatomy as rg


def test_the_tour_in_the_documentation(tmp_path: Path) -> None:
    model = models.resnet18()
    assert "fc" in str(rg.describe(model, input_size=64))
    backbone, head = rg.split(model, input_size=64)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(head(backbone.eval()(x)), model.eval()(x))
    mine = rg.graft(backbone, num_classes=5)
    rg.freeze(mine.backbone)
    groups = rg.param_groups(mine, lr=1e-3, layer_decay=0.75, weight_decay=0.05)
    assert [group["lr"] for group in groups] == [1e-3, 1e-3]
    rg.save_state(mine, tmp_path / "mine.safetensors")
    assert rg.load_state(mine, tmp_path / "mine.safetensors").complete


def test_a_grafted_model_is_split_again() -> None:
    backbone, _ = rg.split(models.resnet18(), input_size=64)
    mine = rg.graft(backbone, num_classes=5)
    again = rg.split(mine, input_size=64)
    assert again.boundary == "head"
    assert again.head is mine.head


def test_every_exported_name_is_there() -> None:
    assert all(hasattr(rg, name) for name in rg.__all__)
