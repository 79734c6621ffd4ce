"""Losses against slow references, item by item in plain Python floats; gradients; extremes; soft targets."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from regraft.errors import UsageError
from regraft.fit.losses import LOSSES, make_loss
from regraft.fit.weighted_loss import class_weights

COUNTS = (100, 20, 5, 0)
K, N = len(COUNTS), 7
OPTIONS: dict[str, dict[str, Any]] = {"elr": {"num_items": N}}
LINEAR = ("cross_entropy", "balanced_softmax", "logit_adjusted", "focal", "gce")
"""Defined on soft targets."""


def batch(seed: int = 0, num: int = N) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num, K, generator=g, dtype=torch.float64)
    return logits, torch.randint(K - 1, (num,), generator=g), torch.rand(num, generator=g, dtype=torch.float64) + 0.1


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    exps = [math.exp(v - top) for v in row]
    return [e / sum(exps) for e in exps]


def floored() -> list[float]:
    return [max(c, 1) for c in COUNTS]


def ref_cross_entropy(row: list[float], y: int) -> float:
    return -math.log(softmax(row)[y])


def ref_adjusted(row: list[float], y: int, tau: float = 1.0) -> float:
    prior = [c / sum(floored()) for c in floored()]
    return ref_cross_entropy([v + tau * math.log(p) for v, p in zip(row, prior, strict=True)], y)


def ref_focal(row: list[float], y: int, gamma: float = 2.0) -> float:
    p = softmax(row)[y]
    return -((1 - p) ** gamma) * math.log(p)


def ref_gce(row: list[float], y: int, q: float = 0.7) -> float:
    return (1 - softmax(row)[y] ** q) / q


def ref_ldam(row: list[float], y: int) -> float:
    margins = [c**-0.25 for c in floored()]
    return ref_cross_entropy([v - (0.5 * margins[k] / max(margins) if k == y else 0) for k, v in enumerate(row)], y)


REFERENCE: dict[str, Callable[..., float]] = {
    "cross_entropy": ref_cross_entropy, "balanced_softmax": ref_adjusted, "logit_adjusted": ref_adjusted,
    "focal": ref_focal, "gce": ref_gce, "ldam": ref_ldam,
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCE)
def test_a_weighted_mean_of_the_papers_formula(name: str) -> None:
    logits, labels, weight = batch()
    items = [REFERENCE[name](row, y) for row, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    loss = make_loss(name, COUNTS)
    assert loss(logits, labels).item() == pytest.approx(np.mean(items), rel=1e-6)
    assert loss(logits, labels, weight).item() == pytest.approx(np.average(items, weights=weight.numpy()), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "reference"),
    [
        ("logit_adjusted", {"tau": 0.4}, lambda row, y: ref_adjusted(row, y, 0.4)),
        ("focal", {"gamma": 0.5}, lambda row, y: ref_focal(row, y, 0.5)),
        ("gce", {"q": 0.2}, lambda row, y: ref_gce(row, y, 0.2)),
    ],
)
def test_options_are_the_papers_symbols(
    name: str, options: dict[str, float], reference: Callable[[list[float], int], float]
) -> None:
    logits, labels, _ = batch(1)
    items = [reference(row, y) for row, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert make_loss(name, COUNTS, **options)(logits, labels).item() == pytest.approx(np.mean(items), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("how", [None, "balanced", "sqrt", "effective"])
def test_cross_entropy_is_torchs(smoothing: float, how: Any) -> None:
    logits, labels, _ = batch(2)
    weights = class_weights(COUNTS, how)
    theirs = functional.cross_entropy(
        logits, labels, None if weights is None else torch.tensor(weights), label_smoothing=smoothing
    )
    ours = make_loss("cross_entropy", COUNTS, class_weight=how, label_smoothing=smoothing)(logits, labels)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)


def test_limits_of_the_families_are_cross_entropy() -> None:
    logits, labels, weight = batch(3)
    plain = make_loss("cross_entropy", COUNTS)(logits, labels, weight).item()
    for name, options in [("logit_adjusted", {"tau": 0}), ("focal", {"gamma": 0}), ("ldam", {"max_margin": 0})]:
        assert make_loss(name, COUNTS, **options)(logits, labels, weight).item() == pytest.approx(plain)
    assert make_loss("gce", COUNTS, q=1e-6)(logits, labels, weight).item() == pytest.approx(plain, rel=1e-4)


def test_class_weights_have_mean_one_over_the_images() -> None:
    counts = np.array(COUNTS, float)
    for how, formula in (
        ("balanced", lambda n: 1 / n),
        ("sqrt", lambda n: n**-0.5),
        ("effective", lambda n: (1 - 0.9999) / (1 - 0.9999**n)),
    ):
        weights = class_weights(COUNTS, how)  # type: ignore[arg-type]
        assert weights is not None
        assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
        np.testing.assert_allclose(weights / weights[0], [formula(n) / formula(COUNTS[0]) for n in floored()])
    assert class_weights(COUNTS, [1, 2, 3, 4]).tolist() == [1, 2, 3, 4]  # type: ignore[union-attr]
    np.testing.assert_allclose(class_weights(COUNTS, "effective", beta=0.0), np.ones(K))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", LOSSES)
def test_gradients(name: str) -> None:
    logits, labels, weight = batch(4)
    loss = make_loss(name, COUNTS, **OPTIONS.get(name, {}))
    if name == "elr":  # what is remembered is a constant of the step
        loss.remembered = torch.rand(N, K, dtype=torch.float64) / K
        loss.remember = lambda indices, p: None
    elif name == "ldam":
        loss = make_loss(name, COUNTS, drw_epoch=0)
        loss.set_epoch(0)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, labels, weight, indices=torch.arange(N)), logits)


@pytest.mark.parametrize("name", LINEAR)
def test_soft_targets_are_the_mixed_loss(name: str) -> None:
    logits, labels, _ = batch(5)
    loss = make_loss(name, COUNTS)
    hot = functional.one_hot(labels, K).double()
    assert loss(logits, hot).item() == pytest.approx(loss(logits, labels).item(), rel=1e-6)
    other = labels.flip(0)
    mixed = loss(logits, 0.3 * hot + 0.7 * hot.flip(0))
    assert mixed.item() == pytest.approx((0.3 * loss(logits, labels) + 0.7 * loss(logits, other)).item(), rel=1e-6)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, 0.3 * hot + 0.7 * hot.flip(0)), logits)


@pytest.mark.parametrize("name", ["ldam", "elr"])
def test_soft_targets_are_refused_with_the_reason(name: str) -> None:
    logits, labels, _ = batch(5)
    loss = make_loss(name, COUNTS, **OPTIONS.get(name, {}))
    with pytest.raises(UsageError, match=r"soft targets .* mixup_alpha=0"):
        loss(logits, functional.one_hot(labels, K).double(), indices=torch.arange(N))


@pytest.mark.parametrize("size", [1e4, 1e30])
@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_stay_finite(name: str, size: float) -> None:
    for sign in (1, -1):
        logits = torch.zeros(N, K)
        logits[:, 0] = sign * size
        logits.requires_grad_()
        labels = torch.tensor([0, 1, 2, 3, 0, 1, 2])
        loss = make_loss(name, COUNTS, **OPTIONS.get(name, {}))(logits, labels, indices=torch.arange(N))
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


def test_focal_with_a_small_gamma_has_a_finite_gradient_at_certainty() -> None:
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    make_loss("focal", (1, 1), gamma=0.5)(logits, torch.tensor([0])).backward()
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_changes_nothing_but_the_rounding_of_the_logits(name: str) -> None:
    logits, labels, weight = batch(6)
    low = logits.to(torch.bfloat16)
    exact = make_loss(name, COUNTS, **OPTIONS.get(name, {}))(
        low.float(), labels, weight.float(), indices=torch.arange(N)
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = make_loss(name, COUNTS, **OPTIONS.get(name, {}))(low, labels, weight.float(), indices=torch.arange(N))
    assert found.dtype == torch.float32
    assert found.item() == exact.item()


@pytest.mark.parametrize("name", LOSSES)
def test_an_item_of_weight_zero_leaves_no_trace(name: str) -> None:
    logits, labels, weight = batch(7)
    weight[2] = 0
    logits.requires_grad_()
    loss = make_loss(name, COUNTS, **OPTIONS.get(name, {}))(logits, labels, weight, indices=torch.arange(N))
    loss.backward()
    keep = torch.arange(N) != 2
    fewer = make_loss(name, COUNTS, **OPTIONS.get(name, {}))(
        logits[keep], labels[keep], weight[keep], indices=torch.arange(N)[keep]
    )
    assert loss.item() == pytest.approx(fewer.item())
    assert logits.grad is not None
    assert (logits.grad[2] == 0).all()
    none = make_loss(name, COUNTS, **OPTIONS.get(name, {}))(logits, labels, 0 * weight, indices=torch.arange(N))
    assert none.item() == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, N - 1), st.sampled_from([*LINEAR, "ldam"]))
def test_total_weight_makes_the_gradient_independent_of_the_cut(seed: int, cut: int, name: str) -> None:
    logits, labels, weight = batch(seed)
    loss = make_loss(name, COUNTS, **({"class_weight": "sqrt"} if name in ("cross_entropy", "focal", "gce") else {}))
    total = loss.item_weight(labels, weight).sum()
    parts = [
        loss(logits[part], labels[part], weight[part], total_weight=total) for part in (slice(cut), slice(cut, None))
    ]
    assert sum(parts).item() == pytest.approx(loss(logits, labels, weight).item(), rel=1e-9)  # type: ignore[union-attr]


def test_ldam_reweights_from_its_epoch_on() -> None:
    logits, labels, _ = batch(8)
    loss = make_loss("ldam", COUNTS, num_epochs=10)
    values = []
    for epoch in range(10):
        loss.set_epoch(epoch)
        values.append(loss(logits, labels).item())
    assert len(set(values[:8])) == 1
    assert len(set(values[8:])) == 1
    weights = class_weights(COUNTS, "effective")
    assert weights is not None
    items = [ref_ldam(row, y) for row, y in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert values[9] == pytest.approx(np.average(items, weights=weights[labels.numpy()]), rel=1e-6)
    loss.set_epoch(0)
    assert loss(logits, labels).item() == values[0]


def test_elr_follows_its_definition_over_several_visits() -> None:
    loss = make_loss("elr", COUNTS, num_items=10, beta=0.6, lam=2.0)
    memory = np.zeros((10, K))
    for step, items in enumerate([[0, 3, 5], [3, 9], [5, 0, 1]]):
        logits, labels, _ = batch(step, len(items))
        expected = []
        for item, row, y in zip(items, logits.tolist(), labels.tolist(), strict=True):
            p = np.clip(softmax(row), 1e-4, 1 - 1e-4)
            memory[item] = 0.6 * memory[item] + 0.4 * p / p.sum()
            expected.append(ref_cross_entropy(row, y) + 2.0 * math.log(1 - p @ memory[item]))
        found = loss(logits, labels, indices=torch.tensor(items))
        assert found.item() == pytest.approx(np.mean(expected), rel=1e-5)
    np.testing.assert_allclose(loss.remembered.numpy(), memory, atol=1e-6)


def test_elr_resumes_exactly_and_is_cross_entropy_in_evaluation(tmp_path: Path) -> None:
    first, second = make_loss("elr", COUNTS, num_items=N), make_loss("elr", COUNTS, num_items=N)
    logits, labels, _ = batch(9)
    first(logits, labels, indices=torch.arange(N))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    later = batch(10)[0]
    assert torch.equal(first(later, labels, indices=torch.arange(N)), second(later, labels, indices=torch.arange(N)))
    before = first.remembered.clone()
    assert first.eval()(logits, labels).item() == pytest.approx(functional.cross_entropy(logits, labels).item())
    assert torch.equal(first.remembered, before)


def test_elr_takes_the_mean_of_an_item_that_is_drawn_twice() -> None:
    loss = make_loss("elr", COUNTS, num_items=3, beta=0.5)
    p = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]])
    loss.remember(torch.tensor([2, 2]), p)
    torch.testing.assert_close(loss.remembered[2], torch.tensor([0.2, 0.2, 0.05, 0.05]))


def _rank(rank: int, port_file: str, out: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{port_file}", rank=rank, world_size=2)
    logits, labels, _ = batch(11)
    mine = slice(0, 4) if rank == 0 else slice(4, N)  # of different length
    loss = make_loss("elr", COUNTS, num_items=N)
    loss(logits[mine], labels[mine], indices=torch.arange(N)[mine])
    torch.save(loss.remembered, f"{out}{rank}")
    dist.destroy_process_group()


def test_elr_remembers_the_same_in_every_process(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_rank, (str(tmp_path / "meet"), str(tmp_path / "out")), nprocs=2)
    logits, labels, _ = batch(11)
    alone = make_loss("elr", COUNTS, num_items=N)
    alone(logits, labels, indices=torch.arange(N))
    for rank in (0, 1):
        assert torch.equal(torch.load(tmp_path / f"out{rank}"), alone.remembered)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("crossentropy", {}, "did you mean 'cross_entropy'"),
        ("focal", {"gama": 1}, "did you mean 'gamma'"),
        ("focal", {"gamma": -1}, "gamma is in"),
        ("gce", {"q": 0}, "q of GCE"),
        ("cross_entropy", {"label_smoothing": 1.0}, "label_smoothing is in"),
        ("cross_entropy", {"class_weight": "equal"}, "class_weight is balanced, sqrt, effective"),
        ("cross_entropy", {"class_weight": [1, 2]}, "one finite number"),
        ("elr", {}, "num_items"),
    ],
)
def test_wrong_words(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_loss(name, COUNTS, **options)


@pytest.mark.parametrize("counts", [[], [0, 0], [1, -1], [1, math.nan]])
def test_wrong_counts(counts: list[float]) -> None:
    with pytest.raises(UsageError, match="class_counts"):
        make_loss("cross_entropy", counts)


def test_wrong_shapes() -> None:
    logits, labels, weight = batch()
    loss = make_loss("cross_entropy", COUNTS)
    for arguments in (
        (logits[:, :2], labels),
        (logits, labels[:3]),
        (logits, labels, weight[:2]),
        (logits, logits[:3]),
    ):
        with pytest.raises(UsageError):
            loss(*arguments)
    with pytest.raises(UsageError, match="indices"):
        make_loss("elr", COUNTS, num_items=N)(logits, labels)
