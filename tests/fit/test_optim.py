"""Optimisers, schedules against torch's, timm's and the papers' formulas, re-planning, exact resume; recipes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from regraft.errors import UsageError
from regraft.fit.optim import Schedule, make_optimizer
from regraft.fit.recipes import bit_hyperrule, fastai_fine_tune, lp_ft

SHAPES = ("cosine", "one_cycle", "staircase", "constant")


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def test_no_decay_on_vectors_and_smaller_rates_towards_the_input() -> None:
    model = small()
    optimizer = make_optimizer(model, lr=0.1, weight_decay=0.05, layer_decay=0.5)
    assert type(optimizer) is torch.optim.AdamW
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert found == {
        id(model[0].weight): (0.05, 0.05), id(model[0].bias): (0.05, 0.0),
        id(model[1].weight): (0.05, 0.0), id(model[1].bias): (0.05, 0.0),
        id(model[3].weight): (0.1, 0.05), id(model[3].bias): (0.1, 0.0),
    }  # fmt: skip


def test_groups_keep_their_own_values_and_options_arrive() -> None:
    model = small()
    groups = [{"params": [model[0].weight], "lr": 0.3, "weight_decay": 0.7}, {"params": [model[3].weight]}]
    optimizer = make_optimizer(groups, "sgd", lr=0.1, weight_decay=0.2, momentum=0.8)
    assert [(g["lr"], g["weight_decay"], g["momentum"]) for g in optimizer.param_groups] == [
        (0.3, 0.7, 0.8), (0.1, 0.2, 0.8)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adamww", {}, "did you mean 'adamw'"),
        ("adamw", {"beta": 1}, "does not take"),
        ("adamw", {"betas": (2.0, 0.9)}, "does not take"),
        ("adamw", {"lr": 0.0}, "lr is above 0"),
        ("adamw", {"lr": math.nan}, "lr is above 0"),
        ("adamw", {"weight_decay": -1.0}, "weight_decay at least 0"),
    ],
)
def test_wrong_optimisers(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_optimizer(small(), name, **{"lr": 0.1, **options})


def test_layer_decay_needs_a_module() -> None:
    with pytest.raises(UsageError, match="pass the module"):
        make_optimizer([{"params": list(small().parameters())}], lr=0.1, layer_decay=0.5)


def test_one_cycle_is_torchs_where_both_reach_the_same_step() -> None:
    total = 41
    optimizer = torch.optim.SGD(small().parameters(), lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total + 1, pct_start=(0.3 * total + 1) / (total + 1), div_factor=5, final_div_factor=1e5 / 5,
        cycle_momentum=False,
    )  # fmt: skip
    plan = Schedule("one_cycle", total)
    for step in range(total + 1):
        assert plan(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        if step < total:
            theirs.step()


def test_cosine_is_timms_after_the_warm_up() -> None:
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD(small().parameters(), lr=1.0)
    theirs = CosineLRScheduler(optimizer, t_initial=90, lr_min=0.1, warmup_t=10, warmup_prefix=True, t_in_epochs=False)
    plan = Schedule("cosine", 100, warmup_steps=10, final=0.1)
    for step in range(10, 100):
        assert plan(step) == pytest.approx(theirs._get_lr(step)[0])


def test_warm_up_rises_evenly_to_one() -> None:
    for shape in ("cosine", "staircase", "constant"):
        plan = Schedule(shape, 50, warmup_steps=4)  # type: ignore[arg-type]
        assert [plan(s) for s in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_staircase_is_bits() -> None:
    plan = Schedule("staircase", 10_000, warmup_steps=500, milestones=(0.3, 0.6, 0.9))
    assert [plan(s) for s in (500, 2999, 3000, 5999, 6000, 8999, 9000, 9999)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(SHAPES), st.integers(1, 500), st.integers(0, 50), st.integers(0, 600), st.integers(1, 800),
    st.integers(0, 900),
)  # fmt: skip
def test_replanning_keeps_the_past_and_the_value_and_ends_in_time(
    shape: Any, total: int, warmup: int, at: int, more: int, probe: int
) -> None:
    plan, old = (Schedule(shape, total, warmup_steps=min(warmup, total)) for _ in range(2))
    plan.replan(at + more, at_step=at)
    assert plan.total_steps == at + more
    for step in {0, at // 2, max(at - 1, 0), at}:
        assert plan(step) == pytest.approx(old(step), abs=1e-12)
    assert plan(at + more) == pytest.approx(old(total), abs=1e-12)
    assert 0.0 <= plan(probe) <= 1.0
    assert plan.progress(probe) <= plan.progress(probe + 1) <= 1.0
    if at < total and more == total - at:  # the same end: nothing changes
        assert plan(probe) == pytest.approx(old(probe), abs=1e-9)
    plan.replan(at + more + 7, at_step=at)  # again, from the same step
    assert plan(at) == pytest.approx(old(at), abs=1e-12)
    state = json.loads(json.dumps(plan.state_dict()))
    other = Schedule("constant", 3)
    other.load_state_dict(state)
    assert other(probe) == plan(probe)


def test_replanning_into_the_past_is_refused() -> None:
    with pytest.raises(UsageError, match="end after this step"):
        Schedule("cosine", 10).replan(5, at_step=5)


def train(steps: int, folder: Path | None = None, *, stop: int | None = None, resume: bool = False) -> list[float]:
    """Rates and weights of a run that may be stopped after `stop` steps and resumed from its folder."""
    model = small()
    optimizer = make_optimizer(model, lr=0.1, weight_decay=0.01, layer_decay=0.5)
    plan = Schedule("one_cycle", 100)
    scheduler = plan.attach(optimizer)
    first = 0
    if resume and folder is not None:
        state = torch.load(folder / "state.pt")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        first = state["step"]
    trace: list[float] = []
    for step in range(first, steps):
        if step == 10:
            plan.replan(30, at_step=10)
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        trace += [group["lr"] for group in optimizer.param_groups]
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        trace.append(model[0].weight.sum().item())
        if step + 1 == stop and folder is not None:
            torch.save(
                {
                    "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(), "step": step + 1,
                },
                folder / "state.pt",
            )  # fmt: skip
            return trace
    return trace


@pytest.mark.parametrize("stop", [1, 9, 10, 11, 29])
def test_a_resume_is_bitwise_exact(tmp_path: Path, stop: int) -> None:
    whole = train(30)
    assert train(30, tmp_path, stop=stop) + train(30, tmp_path, resume=True) == whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": "linear"}, "a schedule is one of"),
        ({"total_steps": 0}, "a step at least"),
        ({"warmup_steps": 11}, "warmup_steps"),
        ({"final": 2.0}, "final is in"),
        ({"pct_start": 0.0}, "pct_start"),
        ({"milestones": (0.5, 0.2)}, "rising order"),
        ({"shape": "linear", "final": -1.0}, "a schedule is one of.*; final"),
    ],
)
def test_wrong_schedules(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Schedule(**{"shape": "cosine", "total_steps": 10, **arguments})


def test_bit_hyperrule() -> None:
    def facts(num: int, side: int) -> list[Any]:
        rule = bit_hyperrule(num, (side, side))
        return [rule[k].value for k in ("total_steps", "warmup_steps", "resize_size", "crop_size", "mixup_alpha", "lr")]

    assert facts(19_999, 95) == [500, 100, 160, 128, 0.0, 0.003]
    assert facts(20_000, 96) == [10_000, 500, 512, 480, 0.1, 0.003]
    assert facts(500_000, 300) == [20_000, 500, 512, 480, 0.1, 0.003]
    small_data = bit_hyperrule(100, (32, 32), batch_size=64)
    assert small_data["lr"].value == 0.003 / 8
    steps = small_data["total_steps"].value
    assert [m * steps for m in small_data["milestones"].value] == [200, 300, 400]
    assert "20,000" in str(small_data["total_steps"])


def test_fastai_fine_tune() -> None:
    frozen, thawed = fastai_fine_tune(5)
    assert [frozen[k].value for k in ("epochs", "lr", "freeze_backbone", "pct_start", "div")] == [
        1, 2e-3, True, 0.99, 25.0
    ]  # fmt: skip
    assert [thawed[k].value for k in ("epochs", "lr", "lr_first_layer", "pct_start", "div", "div_final")] == [
        5, 1e-3, 1e-5, 0.3, 5.0, 1e5
    ]  # fmt: skip


def test_lp_ft_makes_a_schedule_at_every_size() -> None:
    for num, epochs in [(1, 1), (33, 1), (100, 10), (50_000, 3)]:
        rule = lp_ft(num, epochs)
        plan = Schedule(rule["schedule"].value, rule["total_steps"].value, warmup_steps=rule["warmup_steps"].value)
        assert plan.total_steps == epochs * math.ceil(num / 32)
        assert all(choice.reason for choice in rule.values())


def test_recipes_refuse_nothing() -> None:
    with pytest.raises(UsageError, match="num_images=0"):
        bit_hyperrule(0, (10, 10))
    with pytest.raises(UsageError, match="epochs=0"):
        lp_ft(10, 0)
    with pytest.raises(UsageError, match="freeze_epochs"):
        fastai_fine_tune(1, freeze_epochs=-1)
