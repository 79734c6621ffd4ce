import numpy as np
import pytest

from regraft.errors import DataError, UsageError
from regraft.fit.bench import STRENGTHS, Bench
from regraft.fit.decoupled import class_mean_heads, fit_scales, tau_normalised
from regraft.fit.nested import Nested, log_prior
from regraft.fit.remedies import REMEDIES, remedies_for, try_remedy
from regraft.fit.thresholds import SHIFTS, fit_thresholds

BY_NAME = {remedy.name: remedy for remedy in REMEDIES}


def skewed(counts, width=12, seed=0, apart=0.8):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = np.random.default_rng(99).standard_normal((len(counts), width)) * apart
    return (centres[labels] + rng.standard_normal((len(labels), width))).astype(np.float32), labels


def dealt(labels, num_folds=4):
    """Stratified folds."""
    folds = np.empty(len(labels), np.int64)
    for k in np.unique(labels):
        rows = np.flatnonzero(labels == k)
        folds[rows] = (np.arange(len(rows)) + k) % num_folds
    return folds


@pytest.fixture(scope="module")
def bench():
    x, labels = skewed([160, 50, 15])
    return Bench(x, labels, num_classes=3, folds=dealt(labels), metric="balanced_accuracy", device="cpu")


def balanced(labels, predicted):
    return np.mean([(predicted[labels == k] == k).mean() for k in np.unique(labels)])


def test_a_pair_serves_two_folds_and_no_head_sees_what_it_is_asked():
    labels = np.arange(40) // 20
    folds = np.stack([np.arange(40) % 4, np.arange(40) // 2 % 4])
    nested = Nested(labels, 2, folds)
    assert nested.num_problems == 2 * (4 + 6) + 1
    assert nested.without(0, 1, 3) == nested.without(0, 3, 1)
    # heads that answer with their own number: inner and outer must ask those that saw neither fold
    inputs = np.ones((40, 1), np.float32)
    heads = np.zeros((nested.num_problems, 2, 1), np.float32)
    heads[:, 0, 0] = np.arange(nested.num_problems)
    outer = nested.outer(heads, inputs)[:, :, 0].astype(int)
    for r in range(2):
        assert not nested.train[outer[r], np.arange(40)].any()
        for f in range(4):
            rows = np.flatnonzero(folds[r] != f)
            asked = nested.inner(heads, inputs, r, f)[:, 0].astype(int)
            assert not nested.train[asked, rows].any()
            assert not nested.train[asked][:, folds[r] == f].any()
    assert nested.train[-1].all()


def test_views_stay_in_the_fold_of_their_image():
    labels, folds = np.arange(12) % 2, np.arange(12) % 3
    nested = Nested(labels, 2, folds, origin=np.array([4, 4, 7]))
    np.testing.assert_array_equal(nested.train[:, 12:], nested.train[:, [4, 4, 7]])
    assert nested.counts[-1].sum() == 12


def test_two_folds_are_too_few():
    with pytest.raises(UsageError, match="three"):
        Nested(np.arange(10) % 2, 2, np.arange(10) % 2)


def test_the_adjusted_loss_and_the_adjusted_head_are_the_same():
    """Menon et al. 2021: training with f + tau log prior; with a free intercept that is a shift of it."""
    from scipy.optimize import minimize

    x, labels = skewed([40, 12, 6], width=4)
    prior = np.log(np.bincount(labels) / len(labels))

    def solve(offset):
        def loss(flat):
            head = flat.reshape(3, 5)
            logits = x @ head[:, :4].T + head[:, 4] + offset
            top = logits.max(axis=1, keepdims=True)
            total = top[:, 0] + np.log(np.exp(logits - top).sum(axis=1))
            return (total - logits[np.arange(len(labels)), labels]).mean() + 0.05 * np.square(head[:, :4]).sum()

        return minimize(loss, np.zeros(15), tol=1e-12).x.reshape(3, 5)

    plain, adjusted = solve(0), solve(prior)
    expected = plain.copy()
    expected[:, 4] -= prior
    centred = [head - head.mean(axis=0) for head in (adjusted, expected)]
    np.testing.assert_allclose(centred[0], centred[1], atol=1e-3)


def test_every_remedy_answers_and_its_head_is_linear(bench):
    fresh, fresh_labels = skewed([200, 200, 200], seed=7)
    scores = {}
    remedies, left_out = remedies_for(bench)
    assert "views" not in [remedy.name for remedy in remedies]
    assert not left_out
    for remedy in remedies:
        tried = try_remedy(remedy, bench)
        assert tried.oof_logits.shape == (1, 225, 3)
        assert np.isfinite(tried.oof_logits).all()
        assert tried.weight.shape == (3, 12)
        assert tried.setting in remedy.settings
        answers = (fresh @ tried.weight.T + tried.bias).argmax(axis=1)
        scores[remedy.name] = balanced(fresh_labels, answers)
    for name, value in scores.items():  # all are about the rare class, and the test is balanced
        assert value > scores["nothing"] - 0.02, (name, scores)
    assert scores["logit_adjustment"] > scores["nothing"] + 0.03


def test_nothing_is_plain_cross_validation(bench):
    """Penalty within a fold chosen without it; checked against solving the pieces one by one."""
    from sklearn.linear_model import LogisticRegression

    tried = try_remedy(BY_NAME["nothing"], bench)
    nested, path = bench.nested, bench.plain()
    fold = 2
    held = nested.folds[0] == fold
    strength = path.strengths[path.choose(0, fold)]
    assert any(np.isclose(strength, share * bench.variance[0]) for share in STRENGTHS)
    model = LogisticRegression(C=1 / (strength * (~held).sum()), max_iter=5000, tol=1e-8)
    model.fit(bench.inputs[~held, :-1], nested.labels[~held])
    theirs = model.predict_log_proba(bench.inputs[held, :-1])
    ours = tried.oof_logits[0, held]
    ours = ours - np.log(np.exp(ours).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(np.exp(ours), np.exp(theirs), atol=0.02)


def test_held_out_labels_change_nothing_that_is_said_of_them():
    """The whole of a fold's treatment must be blind to the fold's own labels."""
    x, labels = skewed([60, 30, 15])
    folds = dealt(labels)
    swapped = labels.copy()
    inside = np.flatnonzero(folds == 1)
    swapped[inside] = np.random.default_rng(0).permutation(swapped[inside])
    for name in ("nothing", "logit_adjustment", "thresholds", "learnable_scale", "nearest_mean", "class_weight"):
        said = []
        for given in (labels, swapped):
            bench = Bench(x, given, num_classes=3, folds=folds, device="cpu")
            said.append(try_remedy(BY_NAME[name], bench).oof_logits[0, inside])
        np.testing.assert_allclose(said[0], said[1], atol=2e-2, err_msg=name)


def test_tau_normalised_heads():
    heads = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)
    plain, unit = tau_normalised(heads, 0.0), tau_normalised(heads, 1.0)
    np.testing.assert_allclose(plain[:, :, :-1], heads[:, :, :-1], rtol=1e-6)
    assert (plain[:, :, -1] == 0).all()
    norms = np.linalg.norm(unit[:, :, :-1], axis=2)
    np.testing.assert_allclose(norms, norms[:, :1].repeat(4, axis=1), rtol=1e-5)
    cosine = (unit * plain).sum(axis=2) / np.linalg.norm(unit, axis=2) / np.linalg.norm(plain, axis=2)
    np.testing.assert_allclose(cosine, 1, rtol=1e-5)


def test_scales_are_a_minimum():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [80, 30, 10])
    logits = rng.standard_normal((120, 3)) + 2 * np.eye(3)[labels] * [3, 1, 0.5]
    scale = fit_scales(logits, labels, 3, 1.0)

    def loss(s):
        z = logits * s
        each = np.log(np.exp(z).sum(axis=1)) - z[np.arange(120), labels]
        weight = 1 / np.bincount(labels)[labels] / 3
        return weight @ each + 3 / 120 / 2 * np.square(s - 1).mean()

    for k in range(3):
        for step in (0.97, 1.03):
            moved = scale.copy()
            moved[k] *= step
            assert loss(moved) >= loss(scale) - 1e-7


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1"])
def test_thresholds_against_trying_every_shift(metric):
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

    scores = {
        "accuracy": accuracy_score,
        "balanced_accuracy": balanced_accuracy_score,
        "macro_f1": lambda y, p: f1_score(y, p, average="macro"),
    }
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], [90, 15])
    logits = rng.standard_normal((105, 2)) + np.eye(2)[labels] + [1.5, 0]
    shift = fit_thresholds(logits, labels, 2, metric)
    ours = scores[metric](labels, (logits + shift).argmax(axis=1))
    best = max(scores[metric](labels, (logits + np.array([0, move])).argmax(axis=1)) for move in SHIFTS)
    assert ours == pytest.approx(max(best, ours))  # two classes: one shift is all there is
    assert ours >= best - 1e-9
    assert abs(shift.sum()) < 1e-9


def test_nearest_mean_against_distances():
    x, labels = skewed([30, 20, 10], width=5)
    x -= x.mean(axis=0)
    inputs = np.concatenate([x, np.ones((60, 1), np.float32)], axis=1)
    variance = np.sort(x.var(axis=0))[::-1]
    nested = Nested(labels, 3, dealt(labels, 3))
    heads = class_mean_heads(nested, inputs, variance, 1.0)
    for fold in range(3):
        train, held = nested.folds[0] != fold, nested.folds[0] == fold
        means = np.stack([x[train & (labels == k)].mean(axis=0) for k in range(3)])
        distance = (np.square(x[held][:, None] - means) / (variance + variance[0] / 10)).sum(axis=2)
        answers = nested.outer(heads, inputs)[0, held].argmax(axis=1)
        np.testing.assert_array_equal(answers, distance.argmin(axis=1))


def test_views_take_part_and_are_never_judged():
    x, labels = skewed([80, 20])
    origin = np.repeat(np.flatnonzero(labels == 1), 2)
    views = x[origin] + 0.1 * np.random.default_rng(0).standard_normal((len(origin), 12)).astype(np.float32)
    bench = Bench(x, labels, num_classes=2, folds=dealt(labels), views=(views, origin), device="cpu")
    remedies, _ = remedies_for(bench)
    assert remedies[-1].name == "views"
    assert try_remedy(remedies[-1], bench).oof_logits.shape == (1, 100, 2)
    plain = Bench(x, labels, num_classes=2, folds=dealt(labels), device="cpu")
    np.testing.assert_allclose(
        try_remedy(BY_NAME["nothing"], bench).oof_logits, try_remedy(BY_NAME["nothing"], plain).oof_logits, atol=1e-4
    )


def test_a_class_of_one_image_is_never_the_answer_while_it_is_held_out():
    x, labels = skewed([40, 20, 1])
    bench = Bench(x, labels, num_classes=4, folds=dealt(labels), device="cpu")
    for name in ("nothing", "logit_adjustment", "under_sampling", "nearest_mean", "class_weight"):
        tried = try_remedy(BY_NAME[name], bench)
        assert np.isfinite(tried.oof_logits).all(), name
        assert tried.oof_logits[0, -1].argmax() != 2, name
        answers = (x @ tried.weight.T + tried.bias).argmax(axis=1)
        assert 3 not in answers, name  # a class without images


def test_many_classes_leave_the_slow_remedies_out_and_say_so():
    x, labels = skewed([6] + [3] * 100)
    bench = Bench(x, labels, num_classes=101, folds=np.arange(len(labels)) % 3, device="cpu")
    remedies, left_out = remedies_for(bench)
    assert [remedy.name for remedy in remedies] == [
        "nothing", "logit_adjustment", "class_weight", "tau_normalised", "learnable_scale", "nearest_mean"
    ]  # fmt: skip
    assert "100 classes" in left_out[0]


def test_no_class_or_wrong_features():
    x, labels = skewed([10, 10])
    with pytest.raises(DataError):
        Bench(x, labels * 0, num_classes=2, folds=dealt(labels), device="cpu")


def test_prior_of_an_absent_class_is_finite():
    assert np.isfinite(log_prior(np.array([[5.0, 0.0], [3.0, 3.0]]))).all()
