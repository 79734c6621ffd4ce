"""Learning curves against a slow reference, their coverage, and crossings that are there or not."""

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from regraft.studies.race import curves
from regraft.studies.race.crossing import find_crossing
from regraft.studies.race.curves import fit_curve, fit_forms, size_grid
from regraft.studies.race.values import Difference

SIZES = {2: 100, 1: 200, 0: 400}
X = np.array([100.0, 200.0, 400.0])


def measured(values, sd, rng, num_draws=50):
    """What `standing.curve_draws` would give for these values and this doubt."""
    found = {}
    for halvings, value in zip(SIZES, values, strict=True):
        draws = value + sd * rng.standard_normal(num_draws)
        draws += value - draws.mean()
        found[halvings] = Difference(
            values=np.r_[value, draws], images_variance=sd**2, training_variance=0.0, num_trainings=1
        )
    return found


def fitted(error, sd, rng, seed):
    noisy = [1 - error(m) + sd * rng.standard_normal() for m in X]
    return fit_curve(measured(noisy, sd, rng), SIZES, last=400, seed=seed)


def test_fixed_form_is_nonnegative_least_squares():
    rng = np.random.default_rng(0)
    errors = np.concatenate([np.sort(rng.random((30, 3)))[:, ::-1], rng.random((30, 3)), [[0.4, 0.1, 0.02]]])
    variances = np.array([4e-4, 2e-4, 1e-4])
    grid = size_grid(400)
    found, misfit = fit_forms(X, errors, variances, grid, np.zeros(len(errors)))
    root = 1 / np.sqrt(variances)
    for row, ours, off in zip(errors, found[1], misfit[1], strict=True):
        basis = np.stack([np.ones(3), (X / 400) ** -0.5], axis=1)
        exact = lsq_linear(basis * root[:, None], row * root, bounds=(0, np.inf))
        np.testing.assert_allclose(ours, exact.x[0] + exact.x[1] * (grid / 400) ** -0.5, atol=1e-6)
        assert off == pytest.approx(2 * exact.cost, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("form", [0, 1, 2])
def test_each_form_finds_itself(form):
    grid = size_grid(400)
    truth = [
        lambda m: 0.05 + 1.2 * m**-0.5,
        lambda m: 0.05 + 1.2 * m**-0.5,
        lambda m: 1 / (1 + np.exp(-(1.5 - 0.6 * np.log(m)))),
    ][form]
    errors = np.stack([truth(X)] * 2)
    found, _ = fit_forms(X, errors, np.full(3, 1e-8), grid, np.zeros(2))
    np.testing.assert_allclose(found[form, 0], truth(grid), atol=2e-3)


def test_curves_never_get_worse_and_stay_in_range():
    rng = np.random.default_rng(1)
    found, _ = fit_forms(X, rng.random((200, 3)), np.full(3, 1e-3), size_grid(400), rng.random(200))
    assert (np.diff(found, axis=2) <= 1e-9).all()
    assert (found >= 0).all()


def test_a_curve_that_gets_worse_is_called_so():
    rng = np.random.default_rng(2)
    worse = fit_curve(measured([0.9, 0.8, 0.82], 0.01, rng), SIZES, last=400)
    assert not worse.well_behaved
    assert worse.line[-1] < 0.87
    noise = fit_curve(measured([0.80, 0.795, 0.82], 0.01, rng), SIZES, last=400)
    assert noise.well_behaved
    assert find_crossing(noise, worse).as_dict() is None


def test_one_size_is_no_curve():
    found = measured([0.7, 0.8, 0.9], 0.01, np.random.default_rng(0))
    assert fit_curve({0: found[0]}, SIZES, last=400) is None
    assert find_crossing(None, None).median is None


def test_coverage_over_500_simulations():
    """Curves that leave the forms by as much as published ones do: 1.25 points a doubling (sd) beyond n."""
    rng = np.random.default_rng(3)
    hits = np.zeros(2)
    widths = np.zeros(2)
    for seed in range(500):
        alpha, eta, gamma = rng.uniform(0.02, 0.2), rng.uniform(0.5, 3), rng.uniform(0.3, 0.7)
        scale = 100 ** (gamma - 0.5)

        def error(m, a=alpha, e=eta * scale, g=gamma):
            return a + e * m**-g

        curve = fitted(error, 0.01, rng, seed)
        off = 0.0125 * rng.standard_normal()
        for i, doublings in enumerate((1, 2)):
            interval = curve.at(400 * 2**doublings)
            hits[i] += interval.low <= 1 - error(400 * 2**doublings) + off * doublings <= interval.high
            widths[i] += interval.high - interval.low
    assert (hits / 500 >= 0.74).all()
    assert (hits / 500 <= 0.93).all()
    assert (widths / 500 < [0.07, 0.11]).all()


def test_without_the_floor_the_forms_themselves_are_covered(monkeypatch):
    monkeypatch.setattr(curves, "FORM_FLOOR", 0.0)
    rng = np.random.default_rng(4)
    hits = 0
    for seed in range(500):
        interval = fitted(lambda m: 0.08 + 1.5 * m**-0.5, 0.008, rng, seed).at(800)
        hits += interval.low <= 1 - (0.08 + 1.5 * 800**-0.5) <= interval.high
    assert 0.72 <= hits / 500 <= 0.95


def pair(cheap, costly, sd, rng, seed):
    """Two arms on the same images: most of the noise is common."""
    common = sd * rng.standard_normal(3)
    own = 0.4 * sd * rng.standard_normal((2, 3))
    draws = sd * rng.standard_normal((3, 50))
    found = []
    for i, error in enumerate((cheap, costly)):
        per_size = {}
        for j, (halvings, m) in enumerate(SIZES.items()):
            value = 1 - error(m) + common[j] + own[i, j]
            noise = draws[j] + 0.4 * sd * rng.standard_normal(50)
            per_size[halvings] = Difference(
                values=np.r_[value, value + noise - noise.mean()], images_variance=sd**2, training_variance=0.0,
                num_trainings=1,
            )  # fmt: skip
        found.append(fit_curve(per_size, SIZES, last=400, seed=2 * seed + i))
    return found


@pytest.mark.parametrize(("eta", "offset", "true"), [(3.5, 0.02, 400), (4.6, 0.02, 810)])
def test_a_true_crossing_is_found(eta, offset, true):
    rng = np.random.default_rng(5)
    found = [
        find_crossing(*pair(lambda m: 0.15 + 0.9 * m**-0.5, lambda m: offset + eta * m**-0.5, 0.01, rng, s))
        for s in range(40)
    ]
    known = [one for one in found if one.known]
    assert len(known) >= (30 if true == 400 else 9)
    assert np.median([one.median for one in known]) == pytest.approx(true, rel=0.2)
    covered = np.mean([one.low <= true <= (one.high or np.inf) for one in known])
    assert covered >= 0.75


@pytest.mark.parametrize(
    "costly",
    [
        lambda m: 0.10 + 0.9 * m**-0.5,  # the same curve
        lambda m: 0.12 + 0.9 * m**-0.5,  # side by side
        lambda m: 0.12 + 1.8 * m**-0.5,  # nearer and nearer, but never there
        lambda m: 0.02 + 0.9 * m**-0.5,  # better everywhere
    ],
)
def test_a_crossing_is_not_invented(costly):
    rng = np.random.default_rng(6)
    found = [find_crossing(*pair(lambda m: 0.10 + 0.9 * m**-0.5, costly, 0.01, rng, s)) for s in range(30)]
    assert sum(one.known for one in found) <= 3
    assert all(one.as_dict() is None for one in found if not one.known)
