"""`split`: for any classifier, head(backbone(x)) is model(x), and both parts are made of the model's own modules."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision import models
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

from regraft.errors import RegraftError, SplitError, UsageError
from regraft.models.heads import MissingHead
from regraft.models.split import split
from regraft.models.surgery import replaced

torch.set_num_threads(1)

# One small model of every torchvision family; every real one is run by benchmarks/split_table.py. The families whose
# smallest member takes seconds to initialise are built with the same classes and fewer or narrower layers.
TORCHVISION = [
    ("alexnet", 64, 4096), ("convnext_tiny", 32, 768), ("densenet121", 32, 1024), ("efficientnet_b0", 32, 1280),
    ("efficientnet_v2_s", 32, 1280), ("googlenet", 64, 1024), ("inception_v3", 96, 2048), ("maxvit", 64, 16),
    ("mnasnet0_5", 32, 1280), ("mobilenet_v2", 32, 1280), ("mobilenet_v3_small", 32, 1024),
    ("regnet_x_400mf", 32, 400), ("regnet_y_400mf", 32, 440), ("resnet18", 32, 512),
    ("shufflenet_v2_x0_5", 32, 1024), ("squeezenet1_1", 64, 512 * 9), ("swin", 32, 24), ("swin_v2", 32, 24),
    ("vgg", 32, 4096), ("vit", 32, 32),
]  # fmt: skip

REDUCED: dict[str, Callable[[], nn.Module]] = {
    "maxvit": lambda: models.MaxVit((64, 64), 8, 2, [8, 16], [1, 1], 8, 0.1),
    "swin": lambda: models.SwinTransformer([4, 4], 12, [1, 1], [2, 2], [4, 4]),
    "swin_v2": lambda: models.SwinTransformer(
        [4, 4], 12, [1, 1], [2, 2], [4, 4], block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2
    ),
    "vgg": lambda: quickly_drawn(lambda: models.vgg11(init_weights=False)),
    "vit": lambda: models.VisionTransformer(32, 8, 2, 2, 32, 64),
}


def quickly_drawn(build: Callable[[], nn.Module]) -> nn.Module:
    """The model with weights of rank one: drawing 130 million random numbers would take seconds."""
    with torch.device("meta"):
        model = build()
    model.to_empty(device="cpu")
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape[-1:]) * torch.randn(len(p), *[1] * (p.ndim - 1)) * p[0].numel() ** -0.5)
    return model


TIMM = [
    ("crossvit_tiny_240", 240), ("deit_tiny_distilled_patch16_224", 224), ("ghostnet_050", 64),
    ("levit_conv_128s", 224), ("mobilenetv3_small_050", 64), ("poolformer_s12", 64), ("regnety_002", 64),
    ("test_convnext", 64), ("test_nfnet", 64), ("test_resnet", 64), ("test_vit", 160), ("tf_efficientnet_lite0", 64),
]  # fmt: skip


def assert_is_the_model(model: nn.Module, cut: Any, x: Tensor) -> None:
    model.eval()
    with torch.no_grad():
        features = cut.backbone.eval()(x)
        torch.testing.assert_close(cut.head.eval()(features), model(x), rtol=1e-5, atol=1e-5)
    assert features.shape == (len(x), cut.num_features)


@pytest.mark.filterwarnings("ignore:The default weight initialization")
@pytest.mark.parametrize(("name", "side", "width"), TORCHVISION)
def test_torchvision_families(name: str, side: int, width: int) -> None:
    model = REDUCED[name]() if name in REDUCED else models.get_model(name)
    cut = split(model, input_size=side)
    assert (cut.num_features, cut.num_classes, cut.rule) == (width, 1000, "known name")
    assert cut.error is not None
    assert cut.error <= 1e-5
    assert_is_the_model(model, cut, torch.randn(2, 3, side, side))
    own = {id(p) for p in model.parameters()}
    assert {id(p) for part in cut for p in part.parameters()} <= own


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "side"), TIMM)
def test_timm_families(name: str, side: int) -> None:
    model = timm.create_model(name)
    cut = split(model, input_size=side)
    assert cut.rule == "timm get_classifier"
    assert_is_the_model(model, cut, torch.randn(2, 3, side, side))


def tiny(*tail: nn.Module, width: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *tail)


def test_parts_share_the_modules_and_the_original_is_untouched() -> None:
    model = models.resnet18()
    model.train()
    model.layer1.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    names, random = list(dict(model.named_modules())), torch.random.get_rng_state()
    backbone, head = split(model, input_size=32)
    assert torch.equal(random, torch.random.get_rng_state())
    assert model.training
    assert model.layer2.training
    assert not model.layer1.training
    assert list(dict(model.named_modules())) == names
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert head is model.fc
    assert backbone.layer1 is model.layer1
    assert set(backbone.state_dict()) == {k for k in before if not k.startswith("fc.")}
    with torch.no_grad():
        backbone.conv1.weight.zero_()
    assert not model.conv1.weight.any()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_backbone_copies_pickles_and_trains() -> None:
    model = tiny(nn.Dropout(0.5), nn.Linear(6, 4))
    backbone, head = split(model, input_size=16)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(backbone)))
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(twin(x), backbone(x))
    head(backbone.train()(x)).sum().backward()
    assert model[0].weight.grad is not None
    assert model[5].weight.grad is not None


def test_dropout_before_the_classifier_goes_to_the_head() -> None:
    backbone, head = split(tiny(nn.Linear(6, 8), nn.Dropout(0.3), nn.Dropout(0.2), nn.Linear(8, 4)), input_size=16)
    assert [type(m).__name__ for m in head] == ["Dropout", "Dropout", "Linear"]
    x = torch.randn(4, 3, 16, 16)
    backbone.train()
    assert torch.equal(backbone(x), backbone(x))


class FunctionalDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.drop_rate, self.fc = tiny(), 0.25, nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(nn.functional.dropout(self.trunk(x), self.drop_rate, self.training))


def test_functional_dropout_goes_to_the_head() -> None:
    model = FunctionalDropout()
    backbone, head = split(model, input_size=16)
    assert head[0].p == 0.25
    assert model.drop_rate == 0.25
    x = torch.randn(4, 3, 16, 16)
    assert torch.equal(backbone.train()(x), backbone(x))


class Returns(nn.Module):
    """A small classifier that returns its scores in some wrapping."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.trunk, self.out, self.side, self.wrap = tiny(), nn.Linear(6, 4), nn.Linear(6, 2), wrap

    def forward(self, x: Tensor) -> Any:
        f = self.trunk(x)
        return self.wrap(self.out(f), self.side(f))


@dataclass
class Output:
    logits: Tensor
    hidden: Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y, s: y,
        lambda y, s: (y, s),
        lambda y, s: [y],
        lambda y, s: {"logits": y, "side": s},
        lambda y, s: {"scores": y},
        Output,
        lambda y, s: y[:, :, None, None],
    ],
    ids=["tensor", "tuple", "list", "logits", "only one", "dataclass", "places"],
)
def test_outputs_of_any_wrapping(wrap: Any) -> None:
    model = Returns(wrap)
    backbone, head = split(model, input_size=16)
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(head(backbone(x)), model.out(model.trunk(x)))


def test_a_dict_without_a_clear_output_is_refused() -> None:
    with pytest.raises(SplitError, match="exactly one"):
        split(Returns(lambda y, s: {"a": y, "b": s}), input_size=16)


@pytest.mark.parametrize("tail", [nn.Softmax(-1), nn.LogSoftmax(-1), nn.Sigmoid()])
def test_probabilities_after_the_classifier_stay_in_the_head(tail: nn.Module) -> None:
    model = tiny(nn.Linear(6, 4), tail)
    cut = split(model, input_size=16)
    assert cut.num_features == 6
    assert_is_the_model(model, cut, torch.randn(2, 3, 16, 16))


class Scores(nn.Module):
    """`combine` sees the features (N, 6), two heads and a map (N, 6, h, w)."""

    def __init__(self, combine: Any, conv: bool = False) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
        self.a = nn.Conv2d(6, 4, 1) if conv else nn.Linear(6, 4)
        self.b = nn.Linear(6, 4)
        self.combine = combine

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(self, self.trunk(x))


def pooled(f: Tensor) -> Tensor:
    return f.mean((2, 3))


@pytest.mark.parametrize(
    ("combine", "conv", "width"),
    [
        (lambda m, f: torch.softmax(m.a(pooled(f)), 1), False, 6),
        (lambda m, f: (m.a(pooled(f)) + m.b(pooled(f) ** 2)) / 2, False, 12),
        (lambda m, f: m.a(pooled(f)) + m.b(pooled(f) ** 2), False, 12),
        (lambda m, f: m.a(f.flatten(2).transpose(1, 2)).mean(1), False, 6),
        (lambda m, f: m.a(f).mean((2, 3)), True, 6),
        (lambda m, f: m.a(f.mean((2, 3), keepdim=True)).flatten(1), True, 6),
        (lambda m, f: m.a(f.mean((2, 3), keepdim=True)), True, 6),
    ],
    ids=["softmax", "mean of two", "sum of two", "places", "conv", "pooled conv", "conv output"],
)
def test_scores_of_many_kinds(combine: Any, conv: bool, width: int) -> None:
    model = Scores(combine, conv)
    cut = split(model, input_size=8)
    assert cut.num_features == width
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(cut.head(cut.backbone(x)), model(x).flatten(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("combine", "why"),
    [
        (lambda m, f: nn.functional.linear(pooled(f), m.a.weight), "say it by hand"),
        (lambda m, f: m.a(pooled(f)) ** 3, "say it by hand"),
        (lambda m, f: m.a(pooled(f)) * pooled(f)[:, :1], "say it by hand"),
        (lambda m, f: f, "gives .N, K. scores"),
        (lambda m, f: m.a(pooled(f)).argmax(1), "floating-point"),
    ],
    ids=["functional", "bent", "beside", "map", "argmax"],
)
def test_what_cannot_be_cut_says_why_and_how(combine: Any, why: str) -> None:
    with pytest.raises(SplitError, match=why):
        split(Scores(combine), input_size=8)


def test_the_way_out_that_is_named_works() -> None:
    model = Scores(lambda m, f: m.a(pooled(f)) ** 3)
    with pytest.raises(SplitError, match="trunk"):
        split(model, input_size=8)
    cut = split(model, input_size=8, features_from="trunk")
    assert (cut.num_features, cut.rule, cut.num_classes) == (6, "by hand", None)
    assert isinstance(cut.head, MissingHead)
    with pytest.raises(SplitError, match="graft"):
        cut.head(torch.zeros(1, 6))


def test_by_hand_from_the_middle() -> None:
    model = models.resnet18().eval()
    cut = split(model, input_size=64, features_from="layer3.1")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        f = model.layer2(model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(x))))))
        torch.testing.assert_close(cut.backbone(x), model.layer3(f).mean((2, 3)))
    assert not any(name.startswith(("body.layer4", "body.fc")) for name in cut.backbone.state_dict())


def test_by_hand_keeps_the_classifier_where_it_fits() -> None:
    model = models.resnet18()
    cut = split(model, input_size=32, features_from="avgpool")
    assert cut.head is model.fc
    assert_is_the_model(model, cut, torch.randn(2, 3, 32, 32))


@pytest.mark.filterwarnings("ignore")
def test_by_hand_class_token_and_channels_last() -> None:
    vit = timm.create_model("test_vit", num_classes=3).eval()
    cut = split(vit, features_from="blocks.1")
    assert "class token" in cut.reason
    assert cut.num_features == vit.num_features
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3)
    assert split(swin, features_from="layers.0").num_features == 96


def test_a_wrong_name_gets_the_nearest() -> None:
    with pytest.raises(SplitError, match="did you mean 'layer4'"):
        split(models.resnet18(), features_from="layer5")


def test_a_head_of_zeros_does_not_hide_a_wrong_cut() -> None:
    model = tiny(nn.Linear(6, 4))
    nn.init.zeros_(model[4].weight)
    cut = split(model, input_size=16)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(cut.backbone(x), model[:4](x))


class HuggingFaceLike(nn.Module):
    """The interface of transformers' image classifiers: a config, keyword `pixel_values`, an output with `.logits`."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_labels=4, image_size=16, num_channels=1)
        self.encoder, self.classifier = nn.Sequential(nn.Conv2d(1, 6, 4, 4), nn.GELU()), nn.Linear(6, 4)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Output:
        hidden = pooled(self.encoder(pixel_values))
        return Output(logits=self.classifier(hidden), hidden=hidden)


def test_hugging_face_interface() -> None:
    model = HuggingFaceLike()
    cut = split(model)
    assert (cut.rule, cut.num_features, cut.num_classes) == ("hugging face", 6, 4)
    x = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(cut.head(cut.backbone(pixel_values=x)), model(x).logits)


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(2, 3, 8, 8)),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 3)), torch.randn(2, 1, 28, 28)),
        (nn.Sequential(nn.Conv2d(12, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)), None),
        (nn.Sequential(nn.Conv1d(2, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)), None),
    ],
    ids=["mlp", "28 px grey", "12 channels", "sound"],
)
def test_input_sizes_are_found(model: nn.Module, x: Tensor | None) -> None:
    cut = split(model)
    if x is not None:
        assert_is_the_model(model, cut, x)
    assert cut.error == 0.0


def test_examples_of_several_arguments_and_keywords() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.fc = nn.Embedding(9, 6), nn.Linear(6, 3)

        def forward(self, ids: Tensor, scale: Tensor) -> Tensor:
            return self.fc(self.table(ids).mean(1) * scale)

    ids, scale = torch.randint(0, 9, (2, 5)), torch.rand(2, 1)
    for example in ((ids, scale), {"ids": ids, "scale": scale}):
        assert split(Two(), example=example).num_features == 6


def test_shared_and_adapted_layers() -> None:
    class Adapted(nn.Module):
        """A low-rank adapter around a linear layer: several matrices, one classifier."""

        def __init__(self) -> None:
            super().__init__()
            self.base, self.down, self.up = nn.Linear(6, 4), nn.Linear(6, 2), nn.Linear(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.up(self.down(x))

    model = tiny(Adapted())
    cut = split(model, input_size=16)
    assert cut.head is model[4]
    tied = nn.Linear(6, 6)
    model = tiny(tied, nn.ReLU(), tied)
    with pytest.raises(SplitError):  # the same layer inside the backbone and as classifier cannot be taken out
        split(model, input_size=16)


def test_refusals_have_reasons() -> None:
    with pytest.raises(SplitError, match="lazy"):
        split(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)))
    with pytest.raises(SplitError, match="already is a backbone"):
        split(timm.create_model("test_resnet", num_classes=0))
    with pytest.raises(UsageError, match=r"nn.Module"):
        split("resnet18")  # type: ignore[arg-type]
    with pytest.raises(SplitError, match="input_size"):
        split(tiny(nn.Linear(7, 4)))
    with pytest.raises(SplitError, match="complex64"):
        split(nn.Sequential(nn.Linear(4, 3, dtype=torch.complex64), nn.Linear(3, 2, dtype=torch.complex64)))
    backbone = nn.Sequential(*list(models.resnet50().children())[:-1], nn.Flatten())
    with pytest.raises(SplitError, match="graft"):
        split(backbone, input_size=32)


@pytest.mark.filterwarnings("ignore")
def test_quantised_models_are_refused() -> None:
    model = torch.ao.quantization.quantize_dynamic(tiny(nn.Linear(6, 4)), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(SplitError, match="quantised"):
        split(model, input_size=16)
    with pytest.raises(SplitError, match="TorchScript"):
        split(torch.jit.trace(tiny(nn.Linear(6, 4)), torch.zeros(1, 3, 16, 16)), input_size=16)


def test_meta_device_is_cut_but_not_measured() -> None:
    with torch.device("meta"):
        model = models.resnet18()
    cut = split(model, input_size=32)
    assert (cut.boundary, cut.num_features, cut.error) == ("fc", 512, None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    assert split(tiny(nn.Linear(6, 4)).to(dtype), input_size=16).num_features == 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_the_gpu() -> None:
    model = models.resnet18().cuda()
    cut = split(model, input_size=32)
    assert cut.backbone(torch.zeros(1, 3, 32, 32, device="cuda")).is_cuda


def test_wrappers_are_looked_through() -> None:
    model = tiny(nn.Linear(6, 4))
    assert split(nn.DataParallel(model), input_size=16).head is model[4]
    assert split(torch.compile(model, backend="eager"), input_size=16).head is model[4]


def test_traced_graph_modules() -> None:
    model = torch.fx.symbolic_trace(models.resnet18())
    cut = split(model, input_size=32)
    assert_is_the_model(model, cut, torch.randn(2, 3, 32, 32))


def test_models_that_hide_their_trunk_from_autograd() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.out = tiny(nn.Linear(6, 6)), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return self.out(self.trunk(x))

    assert split(Frozen(), input_size=16).boundary == "out"


def test_replaced_shares_everything_else() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 1))
    new = nn.Identity()
    other = replaced(model, {"0.1": new})
    assert other[0][1] is new
    assert isinstance(model[0][1], nn.ReLU)
    assert other[0][0] is model[0][0]
    assert other[1] is model[1]


LAYERS = st.sampled_from(["linear", "relu", "norm", "dropout", "skip"])


class Skip(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


@settings(max_examples=30, deadline=None)
@given(kinds=st.lists(LAYERS, max_size=6), width=st.integers(1, 9), classes=st.integers(1, 5), seed=st.integers(0, 9))
def test_property_any_chain_is_cut_before_its_last_layer(kinds: list[str], width: int, classes: int, seed: int) -> None:
    torch.manual_seed(seed)
    made = {
        "linear": lambda: nn.Linear(width, width), "relu": nn.ReLU, "norm": lambda: nn.BatchNorm1d(width),
        "dropout": lambda: nn.Dropout(0.5), "skip": lambda: Skip(width),
    }  # fmt: skip
    model = nn.Sequential(nn.Linear(5, width), *[made[k]() for k in kinds], nn.Linear(width, classes))
    cut = split(model, example=torch.randn(4, 5))
    assert cut.boundary == str(len(kinds) + 1)
    assert cut.num_features == width
    assert_is_the_model(model, cut, torch.randn(3, 5))
    trailing = 0
    while trailing < len(kinds) and kinds[-1 - trailing] == "dropout":
        trailing += 1
    heads = len(cut.head) if isinstance(cut.head, nn.Sequential) else 1
    assert heads == trailing + 1


def test_every_refusal_is_ours() -> None:
    for odd in (nn.Identity(), nn.ReLU(), nn.Sequential(), nn.BatchNorm2d(3), nn.LSTM(3, 4)):
        with pytest.raises(RegraftError):
            split(odd)
