"""`describe`: what PyTorch knows about a model, as a table, and the model afterwards as it was."""

from __future__ import annotations

import io
import json

import pytest
import timm
import torch
from rich.console import Console
from torch import nn
from torchvision import models

from regraft.errors import SplitError, UsageError
from regraft.models.describe import describe

# Counted by hand: conv 2·(3·3·3)·6·14² , linear 2·6·4.
CONV_FLOPS, LINEAR_FLOPS = 2 * 27 * 6 * 14 * 14, 2 * 6 * 4


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(6, 4)
    )


def test_rows_are_what_pytorch_says() -> None:
    model = net()
    told = describe(model, input_size=16)
    rows = {row.name: row for row in told.modules}
    assert list(rows) == [name for name, _ in model.named_modules() if name]
    assert rows["0"].output_shape == (1, 6, 14, 14)
    assert rows["5"].output_shape == (1, 4)
    assert (rows["0"].flops, rows["5"].flops, told.total.flops) == (CONV_FLOPS, LINEAR_FLOPS, CONV_FLOPS + LINEAR_FLOPS)
    assert (rows["1"].own_parameters, rows["1"].num_buffers) == (12, 13)
    assert told.total.num_parameters == told.num_trainable == sum(p.numel() for p in model.parameters())
    assert told.total.own_parameters == 0
    assert told.total.size_mb == pytest.approx(
        sum(t.numel() * t.element_size() for t in model.state_dict().values()) / 1e6
    )
    assert (rows["0"].dtype, rows["0"].device, rows["3"].dtype) == ("float32", "cpu", "")
    assert told.input_shape == (3, 16, 16)


def test_resnet_has_its_published_size() -> None:
    told = describe(models.resnet18())
    assert told.total.num_parameters == 11_689_512
    assert told.total.flops == pytest.approx(2 * 1.814e9, rel=0.001)  # 1.814 G multiply-adds (torchvision's table)


def test_requires_grad_all_some_none() -> None:
    model = net()
    model[0].requires_grad_(False)
    model[5].bias.requires_grad_(False)
    told = describe(model, input_size=16)
    rows = {row.name: row.requires_grad for row in told.modules}
    assert (rows["0"], rows["1"], rows["3"], rows["5"]) == ("none", "all", "-", "some")
    assert told.total.requires_grad == "some"
    assert told.num_trainable == 12 + 24


def test_the_model_is_as_before() -> None:
    model = net().train()
    model[1].eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    objects, random = [id(b) for b in model.buffers()], torch.random.get_rng_state()
    describe(model, input_size=16)
    assert model.training
    assert model[0].training
    assert not model[1].training
    assert [id(b) for b in model.buffers()] == objects
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_forward_that_changes_its_buffers_is_undone() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))
            self.fc = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen += len(x)
            self.register_buffer("late", torch.ones(1))
            return self.fc(x)

    model = Counts()
    describe(model)
    assert model.seen.item() == 0
    assert set(model.state_dict()) == {"seen", "fc.weight", "fc.bias"}


def test_parameters_with_gradients_and_keys() -> None:
    model = net()
    told = describe(model, input_size=16)
    assert all(row.grad_norm is None for row in told.parameters())
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    rows = told.parameters()
    assert [row.name for row in rows] == [name for name, _ in model.named_parameters()]
    assert all(row.name in model.state_dict() for row in rows)
    assert rows[-1].grad_norm == pytest.approx(float(model[5].bias.grad.norm()))
    assert rows[0].shape == (6, 3, 3, 3)


def test_shared_parameters_count_once() -> None:
    layer = nn.Linear(4, 4)
    told = describe(nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(4, 2)))
    assert told.total.num_parameters == 20 + 10
    assert told.parameters()[0].keys == ("0.weight", "2.weight")
    assert told.modules[0].num_calls == 2
    assert told.modules[0].flops == 2 * 2 * 16


def test_json_has_the_documented_keys() -> None:
    told = json.loads(json.dumps(describe(models.resnet18(), input_size=64).as_dict(), allow_nan=False))
    assert (told["num_parameters"], told["num_trainable"]) == (11_689_512, 11_689_512)
    assert told["backbone"]["num_parameters"] == 11_176_512
    assert (told["backbone"]["num_features"], told["backbone"]["boundary"]) == (512, "fc")
    assert told["classifier"] == {"name": "fc", "num_parameters": 513_000, "num_classes": 1000}
    first = told["modules"][0]
    assert (first["name"], first["type"], first["output_shape"]) == ("conv1", "Conv2d", [1, 64, 32, 32])
    assert (first["num_parameters"], first["requires_grad"]) == (9408, "all")
    assert len(describe(models.resnet18(), input_size=64, depth=1).as_dict()["modules"]) == 10


def test_a_model_without_classifier_is_still_described() -> None:
    told = describe(timm.create_model("test_resnet", num_classes=0), input_size=64)
    assert told.split is None
    assert "already is a backbone" in told.note
    assert told.as_dict()["classifier"] == {"name": None, "num_parameters": None, "num_classes": None}
    assert "cannot be told" in str(told)


def test_a_model_that_runs_on_nothing_is_still_described() -> None:
    told = describe(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(1, 1)), input_size=16)
    assert "say input_size" in told.note
    assert told.modules[0].output_shape is None
    assert told.total.num_parameters == 3 * 4 * 9 + 4 + 2
    assert "?" in str(told)


def test_refusals() -> None:
    with pytest.raises(SplitError, match="lazy"):
        describe(nn.LazyLinear(3))
    with pytest.raises(UsageError, match="pass the model"):
        describe({"weight": torch.zeros(1)})  # type: ignore[arg-type]


def test_meta_complex_and_quantised_models() -> None:
    with torch.device("meta"):
        told = describe(models.resnet18())
    assert (told.total.device, told.total.flops) == ("meta", pytest.approx(2 * 1.814e9, rel=0.001))
    told = describe(nn.Sequential(nn.Linear(4, 3, dtype=torch.complex64)))
    assert told.total.dtype == "complex64"
    assert "complex64" in told.note


@pytest.mark.filterwarnings("ignore")
def test_quantised_models() -> None:
    told = describe(torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8), input_size=16)
    assert "quantised" in told.note
    assert told.modules[0].output_shape == (1, 6, 14, 14)


def test_text_shows_the_cut_and_the_pytorch_calls() -> None:
    text = str(describe(models.resnet18(), input_size=64))
    assert "fc ◂ classifier" in text
    assert "ends before fc" in text
    assert "11,689,512" in text
    for call in ("list(model.modules())", "p.requires_grad", "model.state_dict()", "list(model.parameters())"):
        assert call in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_narrow_screens_lose_columns_not_words(width: int) -> None:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(describe(net(), input_size=16))
    text = stream.getvalue()
    assert "BatchNorm2d" in text or "left out" in text
    assert "5 ◂ classifier" in text


@pytest.mark.parametrize(("name", "classes"), [("layer3.1", None), ("avgpool", 1000)])
def test_a_cut_by_hand_is_described(name: str, classes: int | None) -> None:
    told = describe(models.resnet18(), input_size=64, features_from=name)
    assert told.as_dict()["classifier"]["num_classes"] == classes
    assert told.as_dict()["backbone"]["boundary"] == name
    assert f"ends behind {name}" in str(told)
    assert "◂ classifier" not in str(told)
