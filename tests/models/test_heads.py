"""`graft` and `Classifier`: a plain module with a new head."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regraft.errors import SplitError, UsageError
from regraft.models.heads import JoinedHeads, graft
from regraft.models.split import split


def backbone(width: int = 6) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_forward_is_head_of_backbone() -> None:
    model = graft(backbone(), 4)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(x), model.head(model.backbone(x)))
    assert model(x).shape == (2, 4)
    assert set(model.state_dict()) == {"backbone.0.weight", "backbone.0.bias", "head.weight", "head.bias"}


def test_dropout_and_bias() -> None:
    model = graft(backbone(), 4, dropout=0.5, bias=False)
    assert [type(m) for m in model.head] == [nn.Dropout, nn.Linear]
    assert model.head[1].bias is None


def test_first_probabilities_are_close_to_uniform() -> None:
    torch.manual_seed(0)
    probs = graft(backbone(), 5)(torch.randn(8, 3, 16, 16)).softmax(1)
    torch.testing.assert_close(probs, torch.full((8, 5), 0.2), atol=0.05, rtol=0)


def test_the_head_follows_the_backbones_precision_and_device() -> None:
    assert graft(backbone().double(), 3).head.weight.dtype == torch.float64
    assert graft(backbone().to("meta"), 3).head.weight.is_meta


def test_a_split_model_takes_a_new_head_and_learns() -> None:
    old = nn.Sequential(backbone(), nn.Linear(6, 9))
    model = graft(split(old, input_size=16).backbone, 2)
    x, y = torch.randn(16, 3, 16, 16), torch.arange(16) % 2
    x[y == 1] += 1
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert (model(x).argmax(1) == y).all()


def test_refusals() -> None:
    with pytest.raises(UsageError, match="num_classes=0"):
        graft(backbone(), 0)
    with pytest.raises(UsageError, match="dropout=1"):
        graft(backbone(), 2, dropout=1.0)
    with pytest.raises(SplitError, match=r"\(N, D\)"):
        graft(nn.Conv2d(3, 4, 3), 2)
    with pytest.raises(SplitError, match="num_features"):
        graft(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(1, 1)), 2)


def test_joined_heads_are_a_sum() -> None:
    a, b = nn.Linear(3, 2), nn.Linear(4, 2)
    f = torch.randn(5, 7)
    torch.testing.assert_close(JoinedHeads([a, b], [3, 4], 0.5)(f), (a(f[:, :3]) + b(f[:, 3:])) / 2)
