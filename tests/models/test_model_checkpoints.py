"""`save_state` and `load_state`: weights there and back, and what did not fit in words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from regraft.errors import BackboneError
from regraft.models.checkpoints import load_state, read_state, save_state
from regraft.models.heads import graft


def net(classes: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes)
    )


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_round_trip(tmp_path: Path) -> None:
    model = net()
    model(torch.randn(4, 3, 8, 8))
    other = net()
    report = load_state(other, save_state(model, tmp_path / "deep" / "m.safetensors"), strict=True)
    assert report.complete
    assert report.num_loaded == len(model.state_dict())
    assert same(model, other)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["m.safetensors"]


@settings(max_examples=15, deadline=None)
@given(
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.bool]),
    shape=st.lists(st.integers(0, 3), max_size=3),
)
def test_property_any_tensor_comes_back(
    tmp_path_factory: pytest.TempPathFactory, dtype: torch.dtype, shape: list[int]
) -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("value", torch.ones(shape).mul(3).to(dtype))

    path = tmp_path_factory.mktemp("w") / "m.safetensors"
    save_state(Holder(), path)
    assert torch.equal(read_state(path)["value"], Holder().value)


def test_shared_tensors_are_stored_once_and_stay_shared(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        layer = nn.Linear(50, 50)
        return nn.Sequential(layer, nn.ReLU(), layer)

    model, other = tied(), tied()
    path = save_state(model, tmp_path / "m.safetensors")
    assert path.stat().st_size < 1.5 * 50 * 51 * 4
    assert load_state(other, path, strict=True).complete
    assert same(model, other)
    assert other[0].weight is other[2].weight
    untied = nn.Sequential(nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 50))
    assert load_state(untied, path, strict=True).complete
    assert torch.equal(untied[2].weight, model[0].weight)


def test_views_of_one_storage(tmp_path: Path) -> None:
    model, base = nn.Linear(2, 2), torch.randn(4, 2)
    model.weight = nn.Parameter(base[:2])
    model.bias = nn.Parameter(base.flatten()[:2])
    other = nn.Linear(2, 2)
    assert load_state(other, save_state(model, tmp_path / "m.safetensors"), strict=True).complete
    assert same(model, other)


def test_partial_loading_says_what_did_not_fit(tmp_path: Path) -> None:
    path = save_state(net(4), tmp_path / "m.safetensors")
    other = net(7)
    other.add_module("extra", nn.Linear(1, 1))
    before = other[4].weight.clone()
    report = load_state(other, path)
    assert report.mismatched == (("4.weight", (4, 6), (7, 6)), ("4.bias", (4,), (7,)))
    assert report.missing == ("extra.weight", "extra.bias")
    assert torch.equal(other[4].weight, before)
    assert torch.equal(other[0].weight, read_state(path)["0.weight"])
    text = str(report)
    assert "4.weight (file 4×6, model 7×6)" in text
    assert "missing in the file: extra.weight, extra.bias" in text


def test_strict_changes_nothing_when_it_refuses(tmp_path: Path) -> None:
    path = save_state(net(4), tmp_path / "m.safetensors")
    other = net(7)
    before = other[0].weight.clone()
    with pytest.raises(BackboneError, match="2 of another shape"):
        load_state(other, path, strict=True)
    assert torch.equal(other[0].weight, before)


@pytest.mark.parametrize(("prefix", "word"), [("module.", "strip_prefix='module.'"), ("a.b.", "strip_prefix='a.b.'")])
def test_a_prefix_in_the_file_is_noticed(tmp_path: Path, prefix: str, word: str) -> None:
    torch.save({prefix + k: v for k, v in net().state_dict().items()}, tmp_path / "m.pth")
    report = load_state(net(), tmp_path / "m.pth")
    assert word in report.suggestion
    assert load_state(net(), tmp_path / "m.pth", strict=True, strip_prefix=prefix).complete


def test_a_prefix_in_the_model_is_noticed(tmp_path: Path) -> None:
    trunk = net()
    path = save_state(trunk, tmp_path / "m.safetensors")
    model = graft(net(), 3)
    report = load_state(model, path)
    assert "add_prefix='backbone.'" in report.suggestion
    report = load_state(model, path, add_prefix="backbone.")
    assert report.missing == ("head.weight", "head.bias")
    assert same(trunk, model.backbone)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model": s}])
def test_pth_files_of_tensors(tmp_path: Path, wrap) -> None:  # type: ignore[no-untyped-def]
    model, other = net(), net()
    torch.save(wrap(model.state_dict()), tmp_path / "m.pth")
    assert load_state(other, tmp_path / "m.pth", strict=True).complete
    assert same(model, other)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["REGRAFT_TEST_EVIL"],)


def test_files_with_code_are_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_TEST_EVIL", str(tmp_path / "ran"))
    torch.save({"state_dict": net().state_dict(), "x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(BackboneError, match="could run code"):
        load_state(net(), tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
    torch.save(net(), tmp_path / "whole.pth")
    with pytest.raises(BackboneError, match="Sequential"):
        load_state(net(), tmp_path / "whole.pth")


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    path = save_state(net(), tmp_path / "m.safetensors")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BackboneError, match="not"):
        load_state(net(), path)
    (tmp_path / "m.pth").write_bytes(b"hello")
    with pytest.raises(BackboneError, match="cannot be read"):
        load_state(net(), tmp_path / "m.pth")
    with pytest.raises(BackboneError, match="is none"):
        load_state(net(), tmp_path / "gone.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(BackboneError, match="holds list"):
        load_state(net(), tmp_path / "list.pth")


def test_meta_models_take_the_files_tensors(tmp_path: Path) -> None:
    model = net()
    path = save_state(model, tmp_path / "m.safetensors")
    with torch.device("meta"):
        other = net()
    other[0].weight.requires_grad_(False)
    assert load_state(other, path, strict=True).complete
    assert same(model, other)
    assert not other[0].weight.requires_grad
    assert other[4].weight.requires_grad
    with pytest.raises(BackboneError, match="meta"):
        save_state(net().to("meta"), path)


def test_lazy_models_take_their_shapes_from_the_file(tmp_path: Path) -> None:
    path = save_state(nn.Sequential(nn.Linear(5, 3)), tmp_path / "m.safetensors")
    other = nn.Sequential(nn.LazyLinear(3))
    assert load_state(other, path, strict=True).complete
    assert other[0].weight.shape == (3, 5)
