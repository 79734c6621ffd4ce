"""The range test: bitwise restoration on every way out, where it stops, what it proposes, its drawing."""

from __future__ import annotations

import copy
import math
import pickle
import random
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from regraft.errors import DataError, UsageError
from regraft.fit.losses import make_loss
from regraft.fit.lr_finder import LearningRates, find_lr, suggest


class Noisy(nn.Module):
    """Batch norm, dropout, noise, a buffer outside the state_dict, one that is replaced, and an unused parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(8, 3)
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("calls", torch.zeros(()), persistent=False)
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        random.random()
        x = self.body(x + np.random.normal(scale=0.01))  # noqa: NPY002
        self.last = x.detach().mean()
        return self.head(x)


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> bytes:
    tensors = {
        f"{name}.{kind}.{key}": None
        if t is None
        else (t.detach().numpy().copy(), None if t.grad is None else t.grad.numpy().copy())
        for name, part in model.named_modules()
        for kind, held in (("p", part._parameters), ("b", part._buffers))
        for key, t in held.items()
    }
    state = [
        {k: v.numpy().copy() if isinstance(v, Tensor) else v for k, v in values.items()}
        for values in optimizer.state.values()
    ]
    groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    modes = [part.training for part in model.modules()]
    generators = (random.getstate(), np.random.get_state(), torch.get_rng_state().numpy())  # noqa: NPY002
    return pickle.dumps((tensors, state, groups, modes, generators))


def prepared(steps: int = 3, lr: float = 0.01) -> tuple[Noisy, torch.optim.Optimizer, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    model = Noisy()
    optimizer = torch.optim.AdamW(
        [{"params": model.body.parameters(), "lr": lr / 10}, {"params": [*model.head.parameters(), model.unused]}],
        lr=lr,
    )
    x = torch.randn(64, 4)
    batches = [(part, part[:, :3].argmax(1)) for part in x.split(16)]
    for step in range(steps):
        optimizer.zero_grad()
        compute_loss(model, batches[step]).backward()
        optimizer.step()
    model.body[1].eval()
    return model, optimizer, batches


def compute_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("steps", [0, 3])
def test_everything_is_put_back_bit_for_bit(steps: int) -> None:
    model, optimizer, batches = prepared(steps)
    identities = [id(p) for p in model.parameters()]
    before = everything(model, optimizer)
    found = find_lr(model, optimizer, batches, compute_loss, num_steps=30)
    assert len(set(found.losses)) > 10  # it did train
    assert everything(model, optimizer) == before
    assert [id(p) for p in model.parameters()] == identities
    other = find_lr(model, optimizer, batches, compute_loss, num_steps=30)
    assert other == found


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_everything_is_put_back_after_an_error_too(error: type[BaseException]) -> None:
    model, optimizer, batches = prepared()
    before = everything(model, optimizer)
    calls = iter(range(100))

    def failing(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        if next(calls) == 7:
            raise error
        return compute_loss(model, batch)

    with pytest.raises(error):
        find_lr(model, optimizer, batches, failing)
    assert everything(model, optimizer) == before


def test_a_loss_with_a_memory_is_put_back() -> None:
    model, optimizer, batches = prepared()
    elr = make_loss("elr", [5, 5, 5], num_items=16)
    find_lr(
        model, optimizer, batches, lambda m, b: elr(m(b[0]), b[1], indices=torch.arange(16)), num_steps=10, also=[elr]
    )
    assert not elr.remembered.any()


def test_groups_keep_their_ratio_and_rates_rise_evenly() -> None:
    model, optimizer, batches = prepared()
    seen: list[list[float]] = []

    def watched(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        seen.append([group["lr"] for group in optimizer.param_groups])
        return 0 * compute_loss(model, batch) + 1.0

    found = find_lr(model, optimizer, batches, watched, low=1e-4, high=1e-1, num_steps=7)
    np.testing.assert_allclose([head for _, head in seen], np.geomspace(1e-4, 1e-1, 7))
    np.testing.assert_allclose([body / head for body, head in seen], 0.1)
    np.testing.assert_allclose(found.lrs, np.geomspace(1e-4, 1e-1, 7))
    assert found.valley is None
    assert "nothing is proposed" in found.reason


def test_it_ends_at_nan_and_at_divergence() -> None:
    model, optimizer, batches = prepared()

    def scripted(values: list[float]) -> Any:
        script = iter(values)
        return lambda m, b: 0 * compute_loss(m, b) + next(script)

    found = find_lr(model, optimizer, batches, scripted([3.0, 2.5, 2.0, math.nan]))
    assert len(found.losses) == 3
    assert "became nan" in found.reason
    found = find_lr(model, optimizer, batches, scripted([1.0] * 20 + [50.0] * 20))
    assert 20 < len(found.losses) < 24
    assert "times its best" in found.reason
    with pytest.raises(DataError, match="three finite losses"):
        find_lr(model, optimizer, batches, scripted([math.inf]))


def test_a_real_divergence_is_survived_and_the_proposal_learns() -> None:
    torch.manual_seed(1)
    model = nn.Linear(4, 1)
    x = torch.randn(64, 4)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    start = copy.deepcopy(model.state_dict())

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.mse_loss(model(batch[0]), batch[1])

    found = find_lr(model, optimizer, [(x, y)], loss, low=1e-5, high=100.0)
    assert found.lrs[-1] < 100.0
    assert all(torch.equal(v, start[k]) for k, v in model.state_dict().items())
    assert found.valley is not None
    first = loss(model, (x, y)).item()
    for group in optimizer.param_groups:
        group["lr"] = found.valley
    for _ in range(100):
        optimizer.zero_grad()
        loss(model, (x, y)).backward()
        optimizer.step()
    assert loss(model, (x, y)).item() < 0.2 * first


def test_suggestions_on_a_drawn_curve() -> None:
    lrs = np.geomspace(1e-6, 1, 61)
    logs = np.log10(lrs)
    curve = np.where(logs < -4, 2.0, np.where(logs < -2, 2.0 - (logs + 4) * 0.5, 1.0 + 3 * (logs + 2)))
    valley, steepest = suggest(lrs.tolist(), curve.tolist())
    assert valley == pytest.approx(1e-3, rel=0.2)
    assert steepest is not None
    assert 1e-4 <= steepest <= 1e-2
    noisy = curve + 0.02 * (-1.0) ** np.arange(61)
    assert suggest(lrs.tolist(), noisy.tolist())[0] == pytest.approx(1e-3, rel=0.8)
    assert suggest(lrs.tolist(), np.arange(61.0).tolist()) == (None, None)


def test_an_iterator_that_ends_is_used_as_far_as_it_goes() -> None:
    model, optimizer, batches = prepared()
    found = find_lr(model, optimizer, iter(batches), compute_loss, num_steps=20)
    assert len(found.losses) == len(batches)
    with pytest.raises(DataError, match="there is none"):
        find_lr(model, optimizer, [], compute_loss)


@pytest.mark.parametrize(
    "wrong", [{"low": 0.0}, {"low": 2.0}, {"high": math.inf}, {"num_steps": 2}, {"stop_factor": 1.0}]
)
def test_wrong_arguments(wrong: dict[str, Any]) -> None:
    model, optimizer, batches = prepared(0)
    with pytest.raises(UsageError, match="a range test goes up"):
        find_lr(model, optimizer, batches, compute_loss, **wrong)


def test_the_drawing_is_well_formed_and_says_the_proposal() -> None:
    lrs = tuple(np.geomspace(1e-6, 1, 50).tolist())
    for losses in (tuple(np.linspace(2, 1, 50).tolist()), (1.0,) * 50, tuple(np.geomspace(1, 1e30, 50).tolist())):
        valley, steepest = suggest(lrs, losses)
        found = LearningRates(
            lrs=lrs, losses=losses, smoothed=losses, valley=valley, steepest=steepest, reason="a < b & c"
        )
        svg = found.svg()
        root = ET.fromstring(svg)
        assert "nan" not in svg.lower()
        assert (f"{valley:.1e}" in svg) if valley else ("chosen" not in svg)
        assert next(root.iter("{http://www.w3.org/2000/svg}desc")).text == "a < b & c"
