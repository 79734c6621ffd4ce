"""Cut a classifier in two: `backbone(x)` gives (N, D) features, `head(features)` the model's own class scores.

Nothing is copied: both parts are made of the model's own modules. Every cut is tried on random images before it is
handed out, so a wrong one is an error and never a silent surprise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from regraft.errors import SplitError
from regraft.models.boundary import Boundary, by_hand, find_boundary, refuse_unsplittable
from regraft.models.heads import JoinedHeads, MissingHead
from regraft.models.middle import cut_behind
from regraft.models.surgery import FlatBackbone, Slot, Tap, TappedBackbone, replaced
from regraft.models.tracing import Example, InputSize, logits_of, refuse_untraceable, run, undisturbed, unwrapped

TOLERANCE = 1e-5
"""Largest difference between head(backbone(x)) and model(x), in units of max(1, largest score), in float32."""


@dataclass(frozen=True, slots=True, eq=False)
class SplitModel:
    """A model in two parts; unpacks as `backbone, head = split(model)`.

    Attributes:
        backbone: x → features (N, D).
        head: features (N, D) → class scores (N, K).
        num_features: D.
        num_classes: K, or None where the head is missing (features taken by hand).
        boundary: name of the layer before which, or (by hand) behind which, the cut is made.
        rule: `timm get_classifier`, `known name`, `hugging face`, `traced` or `by hand`.
        reason: in words, why the cut is there.
        error: largest difference between head(backbone(x)) and model(x) on random images, in units of max(1, largest
            score); None where it could not be measured (meta device) or there is no head.
        note: what to know about this cut, or "".
    """

    backbone: nn.Module
    head: nn.Module
    num_features: int
    num_classes: int | None
    boundary: str
    rule: str
    reason: str
    error: float | None
    note: str = ""

    def __iter__(self) -> Iterator[nn.Module]:
        return iter((self.backbone, self.head))


def split(
    module: nn.Module,
    *,
    features_from: str | None = None,
    input_size: InputSize | None = None,
    example: Example | None = None,
) -> SplitModel:
    """Cut a model where its backbone ends and its classifier begins.

    Both parts share the model's modules and parameters: what is trained in one place is trained in the other. The
    model is run a few times in eval mode on random images; its training flags, buffers and the random state are
    afterwards as before. Dropout directly before the classifier goes to the head.

    Args:
        module: any classification `nn.Module`; it returns (N, K) scores, or a tuple or dict with them.
        features_from: by hand: the module whose output are the features (averaged over places, or the class token).
        input_size: pixels, (height, width) or (channels, height, width); guessed from the model where not given.
        example: a batch that the model accepts, where images do not do: a tensor, a tuple of arguments, a dict.

    Raises:
        SplitError: it cannot be cut; the message says why and how to say it by hand.
        UsageError: this is no module.

    Example:
        >>> backbone, head = split(torchvision.models.resnet18())
        >>> head(backbone(torch.zeros(1, 3, 224, 224))).shape
        torch.Size([1, 1000])
    """
    module = unwrapped(module)
    refuse_untraceable(module)
    with undisturbed(module):
        if features_from is not None:
            cut = _by_hand(module, features_from, input_size, example)
        else:
            boundary = find_boundary(module, input_size=input_size, example=example)
            with torch.no_grad():
                cut = _automatic(module, boundary)
    own = {id(m) for m in module.modules()}
    for m in (m for part in cut for m in part.modules() if id(m) not in own):
        m.training = module.training  # what was made here follows the model
    return cut


def _automatic(module: nn.Module, boundary: Boundary) -> SplitModel:
    if any(t.is_complex() for t in boundary.entering):
        raise SplitError(
            f"features are real numbers, those before {boundary.layers[0]!r} are {boundary.entering[0].dtype}; "
            "let the model take .abs() or torch.view_as_real before its classifier"
        )
    failures: list[str] = []
    for attempt in _attempts(module, boundary):
        try:
            backbone, head, note = attempt()
            error = _difference(module, backbone, head, boundary)
            width = _width(backbone, boundary)
        except Exception as failure:  # the model's own code on an unusual value: the next way may do
            failures.append(" ".join(str(failure).split())[:120])
            continue
        if error is not None and not error <= _tolerance(boundary.logits):
            failures.append(f"the parts differ from the model by {error:.2g}")
            continue
        return SplitModel(
            backbone=_named_width(backbone, width),
            head=head,
            num_features=width,
            num_classes=int(boundary.logits.shape[1]),
            boundary=" + ".join(boundary.layers),
            rule=boundary.rule,
            reason=boundary.reason,
            error=error,
            note=note,
        )
    why = failures[-1] if failures else "no way applies"
    raise SplitError(
        f"behind {boundary.layers[0]!r} the model does more than a head can repeat ({why}); "
        + by_hand(module, [n for n, _ in module.named_modules()])
    )


_Attempt = Callable[[], tuple[nn.Module, nn.Module, str]]


def _attempts(module: nn.Module, boundary: Boundary) -> Iterator[_Attempt]:
    """Ways to make the two parts, the plainest first."""
    if len(boundary.layers) > 1:
        yield lambda: _joined(module, boundary, 1 / len(boundary.layers))
        yield lambda: _joined(module, boundary, 1.0)
        return
    yield lambda: _layer_out(module, boundary)
    yield lambda: _tail_out(module, boundary)
    for tail in (None, nn.Softmax(dim=-1), nn.LogSoftmax(dim=-1), nn.Sigmoid()):
        yield lambda tail=tail: _tapped(module, boundary, tail)  # type: ignore[misc]


def _layer_out(module: nn.Module, boundary: Boundary) -> tuple[nn.Module, nn.Module, str]:
    """The classifier layer becomes an identity; what the model does behind it (pooling, flattening) stays."""
    name = boundary.layers[0]
    head = _head(module, boundary, [module.get_submodule(name)])
    body = replaced(module, {n: nn.Identity() for n in _all_names(module, (name, *boundary.dropouts))})
    return _finished(body, boundary), head, ""


def _tail_out(module: nn.Module, boundary: Boundary) -> tuple[nn.Module, nn.Module, str]:
    """The classifier layer and what follows it in its Sequential go to the head."""
    name = boundary.layers[0]
    parent_name, _, index = name.rpartition(".")
    parent = module.get_submodule(parent_name)
    if not isinstance(parent, nn.Sequential):
        raise SplitError("the classifier is not part of a Sequential")
    keys = list(parent._modules)
    behind = keys[keys.index(index) + 1 :]
    if any(True for key in behind for _ in parent.get_submodule(key).parameters()):
        raise SplitError(f"behind {name!r} there are more layers with parameters")
    prefix = f"{parent_name}." if parent_name else ""
    head = _head(module, boundary, [parent.get_submodule(key) for key in (index, *behind)])
    gone = [name, *boundary.dropouts, *(f"{prefix}{key}" for key in behind)]
    body = replaced(module, dict.fromkeys(gone, nn.Identity()))
    return _finished(body, boundary), head, _map_note(boundary)


def _tapped(module: nn.Module, boundary: Boundary, tail: nn.Module | None) -> tuple[nn.Module, nn.Module, str]:
    """The forward pass ends where the features enter the classifier; the head repeats what came behind it."""
    name = boundary.layers[0]
    head = _head(module, boundary, [module.get_submodule(name), *([tail] if tail else [])])
    exchange: dict[str, nn.Module] = dict.fromkeys(boundary.dropouts, nn.Identity())
    body = _without_functional_dropout(replaced(module, {**exchange, name: Tap()}), boundary)
    return TappedBackbone(body, 0), head, _map_note(boundary) or "the forward pass is left in the middle"


def _joined(module: nn.Module, boundary: Boundary, scale: float) -> tuple[nn.Module, nn.Module, str]:
    """Several classifiers whose scores are added or averaged: their inputs side by side."""
    if any(t.ndim != 2 for t in boundary.entering):
        raise SplitError("several classifiers are joined only where each takes (N, D)")
    widths = [int(t.shape[1]) for t in boundary.entering]
    slots = {n: Slot(sum(widths[:i]), sum(widths[i + 1 :])) for i, n in enumerate(boundary.layers)}
    body = replaced(module, slots)
    head = JoinedHeads([module.get_submodule(n) for n in boundary.layers], widths, scale)
    note = f"the features of {len(widths)} classifiers side by side"
    return FlatBackbone(body, sum(widths), scale=1 / scale), head, note


def _head(module: nn.Module, boundary: Boundary, layers: list[nn.Module]) -> nn.Module:
    """The head from its layers: the layer itself where that is all, else a Sequential in the order of the model."""
    parts = [module.get_submodule(n) for n in boundary.dropouts]
    if boundary.functional_dropout is not None:
        parts.append(nn.Dropout(boundary.functional_dropout[2]))
    parts += layers
    entering = boundary.entering[0]
    if isinstance(layers[0], nn.Conv1d | nn.Conv2d | nn.Conv3d):
        if any(k != 1 for k in layers[0].kernel_size):
            raise SplitError(f"the last layer is a {layers[0].kernel_size} convolution, not a linear map of each place")
        parts = [nn.Unflatten(1, (layers[0].in_channels, -1, *[1] * (entering.ndim - 3))), *parts, nn.Flatten()]
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)


def _finished(body: nn.Module, boundary: Boundary) -> nn.Module:
    """The body as a backbone: itself where it gives (N, D) at once, else wrapped."""
    body = _without_functional_dropout(body, boundary)
    if getattr(body, "aux_logits", False) is True:  # torchvision's GoogLeNet and Inception: no side outputs
        vars(body)["aux_logits"] = False
        for name in [n for n in body._modules if n.lower().startswith("aux")]:
            body._modules[name] = None
    args, kwargs = _arguments(boundary.example)
    out = body(*args, **kwargs)
    if isinstance(out, Tensor) and out.ndim == 2:
        return body
    return FlatBackbone(body, int(logits_of(out).flatten(1).shape[1]))


def _without_functional_dropout(body: nn.Module, boundary: Boundary) -> nn.Module:
    if boundary.functional_dropout is not None:
        owner, attribute, _ = boundary.functional_dropout
        vars(body.get_submodule(owner))[attribute] = 0.0
    return body


def _named_width(backbone: nn.Module, width: int) -> nn.Module:
    """Note D on the backbone as `num_features`, unless the model's own class computes it."""
    if getattr(backbone, "num_features", None) != width and not hasattr(type(backbone), "num_features"):
        vars(backbone)["num_features"] = width
    return backbone


def _all_names(module: nn.Module, names: tuple[str, ...]) -> list[str]:
    """All names under which the same modules are registered."""
    wanted = {id(module.get_submodule(n)) for n in names}
    return [n for n, m in module.named_modules(remove_duplicate=False) if id(m) in wanted]


def _map_note(boundary: Boundary) -> str:
    entering = boundary.entering[0]
    if entering.ndim <= 2 or entering.shape[2:].numel() == 1:
        return ""
    return (
        f"the features are a whole map {tuple(entering.shape[1:])}, because the model bends the scores of each place "
        "before it averages them; for pooled features name the module before the classifier with features_from"
    )


def _arguments(example: Example) -> tuple[tuple[object, ...], dict[str, object]]:
    if isinstance(example, tuple):
        return example, {}
    return ((), example) if isinstance(example, dict) else ((example,), {})


def _tolerance(scores: Tensor) -> float:
    """`TOLERANCE` in float32 and better; what half precision can hold otherwise."""
    return max(TOLERANCE, 8 * torch.finfo(scores.dtype).eps if scores.dtype in (torch.float16, torch.bfloat16) else 0)


def _difference(module: nn.Module, backbone: nn.Module, head: nn.Module, boundary: Boundary) -> float | None:
    """Largest |head(backbone(x)) − model(x)| in units of max(1, max |model(x)|).

    Measured on fresh images and with another batch size than the model was looked at with.
    """
    x = boundary.example
    if isinstance(x, Tensor) and x.is_floating_point() and not x.is_meta and x.shape[0] == 2:
        x = torch.randn((3, *x.shape[1:]), device=x.device, dtype=x.dtype)
    args, kwargs = _arguments(x)
    for part in (backbone, head):
        for m in part.modules():  # new modules begin in training mode; the model's own are in eval mode here
            m.training = False
    rng = torch.random.get_rng_state()
    expected = logits_of(run(module, x))
    torch.random.set_rng_state(rng)
    features = backbone(*args, **kwargs)
    if features.ndim != 2 or features.is_complex():
        raise SplitError(f"features are a real (N, D) matrix, these are {features.dtype} {tuple(features.shape)}")
    scores = head(features)
    if scores.shape != expected.shape:
        raise SplitError(f"the parts give {tuple(scores.shape)}, the model {tuple(expected.shape)}")
    if expected.is_meta:
        return None
    if not torch.isfinite(expected).all():
        raise SplitError("the model's own scores are not finite on random images")
    return float((scores - expected).abs().max() / expected.abs().max().clamp(min=1.0))


def _width(backbone: nn.Module, boundary: Boundary) -> int:
    """D; where a vector enters the classifier, the features must be that vector (a head of zeros agrees with any)."""
    features = run(backbone, boundary.example)
    if all(t.ndim == 2 for t in boundary.entering) and not features.is_meta:
        entering = torch.cat(boundary.entering, dim=1)
        tolerance = 100 * _tolerance(features)
        if features.shape != entering.shape or not torch.allclose(features, entering, rtol=tolerance, atol=tolerance):
            raise SplitError("the features are not what enters the classifier")
    return int(features.shape[1])


def _by_hand(module: nn.Module, name: str, size: InputSize | None, example: Example | None) -> SplitModel:
    """Features are the pooled output of a named module; the model's own classifier is kept only where it still fits."""
    refuse_unsplittable(module)
    with torch.no_grad():
        backbone, x, how = cut_behind(module, name, input_size=size, example=example)
    width = backbone.num_features
    told = SplitModel(
        backbone=backbone,
        head=MissingHead(name),
        num_features=width,
        num_classes=None,
        boundary=name,
        rule="by hand",
        reason=f"features_from={name!r} names it; {how}",
        error=None,
        note="the model's own classifier does not fit these features; graft a new one",
    )
    try:
        boundary = find_boundary(module, input_size=size, example=x)
        with torch.no_grad():
            head = _head(module, boundary, [module.get_submodule(boundary.layers[0])])
            error = _difference(module, backbone, head, boundary)
    except (SplitError, RuntimeError):  # a shape that does not fit
        return told
    if error is None or error > _tolerance(boundary.logits):
        return told
    return replace(told, head=head, num_classes=int(boundary.logits.shape[1]), error=error, note="")
