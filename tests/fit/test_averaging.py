"""Soup and WiSE-FT: means against plain arithmetic, and a choice that needs more than noise."""

from __future__ import annotations

import numpy as np
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
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, num)
    evidence = (2 * labels - 1) + noise * rng.normal(size=num)
    logits = np.stack([-evidence, evidence], 1).astype(np.float32)
    model = Scaled(weight)
    states = iter([(name, {"weight": torch.tensor([value])}) for name, value in tried])
    return choose_weights(model, lambda m: logits * float(m.weight.detach()), labels, states), model


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


def test_a_difference_within_noise_changes_nothing():
    found, model = judged(1.0, [("almost the same", 1.001)], 20, 2.0)
    assert found.name == "best epoch"
    assert float(model.weight.detach()) == 1.0
    assert found.logits.shape == (20, 2)
