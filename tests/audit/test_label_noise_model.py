"""The noise model against a slow one, and against noise that is known."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.audit.noise_matrix import estimate_noise, fit_on_part
from regraft.audit.noise_model import fit_noise_model

TRUTH = np.array([[0.8, 0.2, 0.0], [0.05, 0.9, 0.05], [0.0, 0.0, 1.0]])


def simulate(num=6000, seed=0, transition=TRUTH):
    """Right classes drawn from known probabilities, labels from a known matrix; two judges: the truth, and chance."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((num, 3)) * 4
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    right = (probs.cumsum(axis=1) > rng.random((num, 1))).argmax(axis=1)
    given = (transition[right].cumsum(axis=1) > rng.random((num, 1))).argmax(axis=1)
    return [logits.astype(np.float32), rng.standard_normal((num, 3)).astype(np.float32)], right, given


def test_finds_the_matrix_the_number_and_who_is_to_be_trusted():
    judges, right, given = simulate()
    model = fit_noise_model(judges, given)
    np.testing.assert_allclose(model.transition, TRUTH, atol=0.03)
    assert model.noise_rate == pytest.approx((right != given).mean(), abs=0.015)
    assert model.weights[0] / model.scales[0] == pytest.approx(1, abs=0.15)  # the judge's scores are the logits
    assert model.weights[1] < 0.1 * model.weights[0]


def test_the_posterior_is_bayes_rule():
    judges, _, given = simulate(num=50)
    model = fit_noise_model(judges, given)
    posterior = model.posterior(judges, given)
    for row in range(50):
        pooled = sum(w * (j[row] - j[row].mean()) / s for w, j, s in zip(model.weights, judges, model.scales))  # noqa: B905
        prior = np.exp(pooled) / np.exp(pooled).sum()
        joint = prior * model.transition[:, given[row]]
        np.testing.assert_allclose(posterior[row], joint / joint.sum(), atol=1e-5)


def test_the_fit_is_a_maximum_of_the_penalised_likelihood():
    judges, _, given = simulate(num=800)
    model = fit_noise_model(judges, given, iterations=200)

    def objective(weights):
        pooled = sum(w * j / s for w, j, s in zip(weights, judges, model.scales))  # noqa: B905
        probs = np.exp(pooled - pooled.max(axis=1, keepdims=True))
        probs /= probs.sum(axis=1, keepdims=True)
        likelihood = np.log((probs @ model.transition)[np.arange(len(given)), given]).sum()
        return likelihood - np.square(weights).sum() / 18

    best = objective(model.weights)
    for change in ([0.3, 0], [-0.3, 0], [0, 0.3]):
        assert objective(np.maximum(model.weights + change, 0)) < best


def test_a_weight_of_two_is_the_row_twice():
    judges, _, given = simulate(num=300)
    twice = np.arange(300) < 100
    rows = np.concatenate([np.arange(300), np.flatnonzero(twice)])
    repeated = fit_noise_model([judge[rows] for judge in judges], given[rows])
    plain = fit_noise_model(judges, given)
    weighted = fit_noise_model(judges, given, row_weight=1.0 + twice)
    np.testing.assert_allclose(weighted.transition, repeated.transition, atol=0.02)
    assert abs(weighted.transition - repeated.transition).max() < abs(plain.transition - repeated.transition).max()


def test_images_of_a_group_count_as_one_observation():
    judges, _, given = simulate(num=400)
    alone = np.arange(400)
    copies = np.repeat(alone, 5)
    widths = []
    for rows, groups in ((alone, alone), (copies, copies), (copies, np.arange(2000))):
        seen = [judges[0][rows]]
        model = fit_on_part(seen, given[rows], groups=groups, seed=0)
        wrong = estimate_noise(
            model, model.posterior(seen, given[rows]), seen, given[rows], groups=groups, seed=0
        ).num_wrong
        widths.append((wrong.high - wrong.low) / len(rows))
    assert widths[1] == pytest.approx(widths[0], rel=0.5)
    assert widths[2] < 0.7 * widths[1]


@pytest.mark.parametrize("seed", range(4))
def test_intervals_hold_the_truth(seed):
    judges, right, given = simulate(num=4000, seed=seed)
    judges = [judges[0], judges[0] + np.float32(2) * judges[1]]
    model = fit_on_part(judges, given, groups=np.arange(4000), seed=seed)
    noise = estimate_noise(model, model.posterior(judges, given), judges, given, groups=np.arange(4000), seed=seed)
    assert noise.num_wrong.low <= (right != given).sum() <= noise.num_wrong.high
    assert noise.num_wrong.high < 1.5 * noise.num_wrong.low
    assert ((noise.low <= TRUTH + 0.01) & (noise.high >= TRUTH - 0.01)).mean() >= 7 / 9
