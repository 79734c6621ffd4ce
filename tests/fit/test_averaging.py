"""Soup and WiSE-FT: means against plain arithmetic, and a choice that needs more than noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from regraft.fit.averaging import candidates, choose_weights, mean_of


def test_means_are_plain_weighted_means_and_counters_are_the_last_ones():
    a = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}
    b = {"w": torch.tensor([3.0, 6.0]), "n": torch.tensor(7)}
    mean = mean_of([a, b], [0.25, 0.75])
    assert mean["w"].tolist() == [2.5, 5.0]
    assert mean["w"].dtype == torch.float32
    assert int(mean["n"]) == 7
    assert mean_of([a, b])["w"].tolist() == [2.0, 4.0]


def test_candidates_are_the_soup_and_the_way_from_the_start():
    a, b, start = ({"w": torch.tensor([value])} for value in (1.0, 3.0, -1.0))
    found = {name: float(state["w"]) for name, state in candidates(b, [a, b], start)}
    assert found == {
        "soup of the 2 best epochs": 2.0, "WiSE-FT α = 0": -1.0,
        "WiSE-FT α = 0.25": 0.0, "WiSE-FT α = 0.5": 1.0, "WiSE-FT α = 0.75": 2.0,
    }  # fmt: skip
    assert list(candidates(b, [b], None)) == []


class Scaled(nn.Module):
    """Logits (n, 2) = weight * evidence."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))


def judged(weight: float, tried: list[tuple[str, float]], num: int, noise: float):
    """A model that finds the truth `weight` times, in noise."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, num)
    truth, disturbed = 2 * labels - 1, noise * rng.normal(size=num)
    model = Scaled(weight)
    states = iter([(name, {"weight": torch.tensor([value])}) for name, value in tried])

    def logits(m: nn.Module) -> np.ndarray:
        evidence = float(m.weight.detach()) * truth + disturbed
        return np.stack([-evidence, evidence], 1).astype(np.float32)

    return choose_weights(model, logits, labels, states), model


def test_better_weights_are_taken_and_stay_in_the_model():
    found, model = judged(0.1, [("worse", -1.0), ("better", 1.0), ("best", 2.0)], 400, 0.5)
    assert found.name == "best"
    assert float(model.weight.detach()) == 2.0
    assert min(found.losses, key=found.losses.get) == "best"
    assert "more than one standard error" in found.reason


def test_the_way_from_the_start_is_not_dragged_along_by_what_is_tried():
    """The best weights come as the model's own, live state."""
    model, seen = Scaled(3.0), []

    def logits(tried: nn.Module) -> np.ndarray:
        seen.append(float(tried.weight.detach()))
        return np.zeros((4, 2), np.float32)

    tried = candidates(model.state_dict(), [], {"weight": torch.tensor([-1.0])})
    choose_weights(model, logits, np.zeros(4, np.int64), tried)
    assert seen == [3.0, -1.0, 0.0, 1.0, 2.0]
    assert float(model.weight.detach()) == 3.0


def test_being_less_sure_is_no_merit():
    """The same answers with smaller logits lose less where the model is too sure; a temperature does as much."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    evidence = (2 * labels - 1) + rng.normal(size=400)
    model = Scaled(4.0)

    def logits(tried: nn.Module) -> np.ndarray:
        return np.stack([-evidence, evidence], 1).astype(np.float32) * float(tried.weight.detach())

    found = choose_weights(model, logits, labels, iter([("softer", {"weight": torch.tensor([1.0])})]))
    assert found.losses["softer"] == pytest.approx(found.losses["best epoch"], rel=0.01)
    assert found.name == "best epoch"


def test_a_lower_loss_with_a_worse_metric_is_not_taken():
    labels = np.array([0] * 60 + [1] * 40)
    rng = np.random.default_rng(0)
    sharp = np.where(np.arange(100) % 10 == 0, -3.0, 0.2) * np.where(labels == 0, -1, 1)  # 90 % right, and some far off
    flat = np.where(np.arange(100) % 5 == 0, -0.1, 1.0) * np.where(labels == 0, -1, 1) + 0.01 * rng.normal(size=100)
    model = Scaled(0.0)

    def logits(tried: nn.Module) -> np.ndarray:
        evidence = flat if float(tried.weight.detach()) else sharp
        return np.stack([-evidence, evidence], 1).astype(np.float32)

    found = choose_weights(model, logits, labels, iter([("flat", {"weight": torch.tensor([1.0])})]))
    assert found.losses["flat"] < found.losses["best epoch"]
    assert found.name == "best epoch"


def test_equally_good_weights_are_seldom_taken():
    """One standard error lets one of six by; the metric, that must be no worse, some of those not."""
    taken = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 50)
        noise = rng.normal(size=(2, 50))

        def logits(tried: nn.Module, labels=labels, noise=noise) -> np.ndarray:
            evidence = (2 * labels - 1) + noise[int(tried.weight.detach())]
            return np.stack([-evidence, evidence], 1).astype(np.float32)

        other = iter([("other", {"weight": torch.tensor([1.0])})])
        taken += choose_weights(Scaled(0.0), logits, labels, other).name == "other"
    assert 1 <= taken <= 20
