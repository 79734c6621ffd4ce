"""A backbone cut behind its second-to-last stage: the parts equal the whole, or there is no cut."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regraft.errors import UsageError
from regraft.models.drop_path import set_drop_path
from regraft.models.freezing import freeze_statistics
from regraft.models.prefix import before_last_stage, cut_behind_prefix
from regraft.models.trunk import trunk_of

timm = pytest.importorskip("timm")


def backbone(name: str) -> nn.Module:
    torch.manual_seed(0)
    return trunk_of(timm.create_model(name).eval(), name, size=64, features_from=None, stages=False)[0]


@pytest.mark.parametrize(
    ("name", "until"),
    [("resnet10t", "layer3"), ("mobilenetv3_small_050", "blocks.3"), ("convnext_atto", "stages.2")],
)
def test_the_two_parts_equal_the_whole_and_share_its_weights(name: str, until: str):
    whole, x = backbone(name), torch.randn(3, 3, 64, 64)
    assert before_last_stage(whole, x) == until
    cut = cut_behind_prefix(whole, until, x)
    assert cut is not None
    prefix, suffix = cut
    with torch.no_grad():
        torch.testing.assert_close(suffix(prefix(x)), whole(x), rtol=1e-4, atol=1e-4)
        trained = next(p for n, p in reversed(list(suffix.named_parameters())) if p.ndim > 1)
        trained.mul_(1.5)  # what is trained in the suffix is trained in the backbone
        torch.testing.assert_close(suffix(prefix(x)), whole(x), rtol=1e-4, atol=1e-4)
    ours = {id(p) for p in prefix.parameters()} | {id(p) for p in suffix.parameters()}
    assert ours >= {id(p) for p in whole.parameters()}


class Skipping(nn.Module):
    """Something by-passes the cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, 2, 1)
        self.second = nn.Conv2d(4, 8, 3, 2, 1)
        self.third = nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, x):
        a = self.first(x)
        b = self.second(a)
        c = self.third(b)
        return c.mean((2, 3)) + a.mean((2, 3)).repeat(1, 2)


def test_a_connection_that_skips_the_cut_means_no_cut():
    model, x = Skipping().eval(), torch.randn(2, 3, 32, 32)
    assert before_last_stage(model, x) == "second"
    assert cut_behind_prefix(model, "second", x) is None


def test_one_stage_has_nothing_before_it():
    assert before_last_stage(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval(), torch.randn(2, 3, 2, 2)) is None


def test_drop_path_rises_towards_the_output_and_is_off_in_eval_mode():
    model = backbone("convnext_atto")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before = model(x)
        assert set_drop_path(model, 0.4) == 12
        torch.testing.assert_close(model(x), before)
        model.train()
        torch.manual_seed(1)
        assert not torch.allclose(model(x), model(x))
    rates = [m.drop_prob for m in model.modules() if type(m).__name__ == "DropPath"]
    assert rates == pytest.approx([0.4 * number / 11 for number in range(12)])
    with pytest.raises(UsageError, match="residual blocks"):
        set_drop_path(nn.Linear(2, 2), 0.1)


def test_frozen_statistics_stay_while_scale_and_shift_learn():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert freeze_statistics(model) == 1
    model.train()
    kept = model[1].running_mean.clone()
    model(torch.randn(4, 3, 8, 8) + 5).sum().backward()
    assert torch.equal(model[1].running_mean, kept)
    assert model[1].weight.grad is not None
