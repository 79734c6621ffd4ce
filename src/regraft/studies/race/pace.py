"""What a training costs for each image, by taking a few steps of it: the arms' estimates until one was really run.

A rate of the extraction says little: the compiled engine is 10 times as fast as a step of plain PyTorch at 224 px, and
twice as fast at 64.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regraft.fit.fine_tune import classifier_for, device_of, freeze_for
from regraft.fit.inputs import FromPixels
from regraft.fit.step import choose_precision
from regraft.fit.strategies import Settings
from regraft.images import Transform
from regraft.memory import keep_freed_memory
from regraft.models.heads import Classifier

MOST, LEAST = 32, 8
"""Images a step: 32, as `fit` takes, where the input is small and a step's fixed costs count; 8 from 128 px on."""

STEPS = 2
"""Timed ones, after one that is not."""

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds for each image.

    Attributes:
        train: a step's share: forward, backward, optimiser.
        prefix: through the part that is frozen and run once for each view; 0 where there is none.
        answer: forward alone.
    """

    train: float
    prefix: float
    answer: float


def training_pace(backbone: nn.Module, settings: Settings, transform: Transform) -> Pace:
    """Take a few steps on noise; `backbone` is changed.

    Args:
        backbone: normalised float32 (N, 3, S, S) → (N, D).
        settings: the strategy's.
        transform: its size is S.
    """
    keep_freed_memory()
    where = device_of("auto")
    precision, _ = choose_precision(settings.training_precision, where)
    rng = torch.Generator().manual_seed(0)
    batch = MOST if transform.size < 128 else LEAST
    x = torch.randn(batch, 3, transform.size, transform.size, generator=rng)
    with torch.no_grad():
        num_features = backbone.eval()(x[:2]).shape[1]
    head = (torch.zeros(2, num_features).numpy(), torch.zeros(2).numpy())
    classifier = classifier_for(backbone, settings, 2, head if settings.strategy in ("light", "lp_ft") else None)
    frozen = freeze_for(classifier, settings, transform)
    classifier.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = x.to(where).contiguous(memory_format=torch.channels_last)
    trained: nn.Module = classifier
    prefix = 0.0
    whole = FromPixels(classifier, transform)

    def answer() -> None:
        with torch.no_grad(), torch.autocast(where.type, _DTYPES.get(precision), enabled=precision in _DTYPES):
            whole(x)

    forward = _seconds(answer, where)
    if frozen is not None:
        first, suffix = frozen
        with torch.no_grad():
            activations = first(x)
            prefix = _seconds(lambda: _without_gradient(first, x), where)
        trained, x = Classifier(suffix, classifier.head), activations
    model = FromPixels(trained, transform).train()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.0, fused=where.type in ("cpu", "cuda"))
    targets = torch.arange(batch, device=where) % 2

    def step() -> None:
        with torch.autocast(where.type, _DTYPES.get(precision), enabled=precision in _DTYPES):
            loss = nn.functional.cross_entropy(model(x).float(), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Pace(train=_seconds(step, where) / batch, prefix=prefix / batch, answer=forward / batch)


def _without_gradient(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = module(x)
        return result


def _seconds(work: Callable[[], object], where: torch.device) -> float:
    """Of the quickest call; the first one prepares kernels and memory."""
    work()
    found = []
    for _ in range(STEPS):
        _wait(where)
        began = time.perf_counter()
        work()
        _wait(where)
        found.append(time.perf_counter() - began)
    return min(found)


def _wait(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.synchronize(where)
