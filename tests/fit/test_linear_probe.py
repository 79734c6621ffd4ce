"""The batched solver against scikit-learn's, problem by problem, and the choice against an obvious replay."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from regraft.errors import DataError, UsageError
from regraft.fit import multinomial
from regraft.fit.backend import Backend
from regraft.fit.linear_probe import fit_linear_probe
from regraft.fit.path import FoldProblems
from regraft.fit.spectrum import decompose

STRENGTHS = (3.0, 0.3, 0.03, 0.003)


def make_data(num, width, num_classes, *, spread=1.5, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, num - num_classes)])
    features = rng.standard_normal((num, width)) + spread * rng.standard_normal((num_classes, width))[labels]
    features = features * rng.lognormal(0, 1, width) + rng.normal(0, 3, width)
    return features.astype(np.float32), labels


def standardise(features):
    x = features.astype(np.float64)
    spread = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.sqrt(spread**2 + np.square(spread).mean() / 4)


def reference(x, labels, weight, strength, num_classes):
    """Probabilities (N, K) of all rows by scikit-learn in float64; classes without rows get zero."""
    used = weight > 0
    if len(np.unique(labels[used])) == 1:
        return np.eye(num_classes)[np.full(len(x), labels[used][0])]
    # of two classes scikit-learn penalises one weight vector, we penalise two that mirror each other
    double = 2 if len(np.unique(labels[used])) == 2 else 1
    model = LogisticRegression(C=double / (strength * weight.sum()), tol=1e-10, max_iter=20_000)
    model.fit(x[used], labels[used], sample_weight=weight[used])
    probs = np.zeros((len(x), num_classes))
    probs[:, model.classes_] = model.predict_proba(x)
    return probs


CASES = {
    "fewer rows than features": {"num": 60, "width": 150, "num_classes": 4},
    "more rows than features": {"num": 400, "width": 20, "num_classes": 5, "spread": 0.4},
    "two classes": {"num": 120, "width": 15, "num_classes": 2, "spread": 0.3},
    "thirty classes": {"num": 300, "width": 40, "num_classes": 30, "spread": 0.7},
    "separable": {"num": 100, "width": 10, "num_classes": 3, "spread": 6.0},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("twist", ["plain", "weights", "constant", "duplicates"])
def test_held_out_probabilities_equal_scikit_learns(case, twist):
    features, labels = make_data(**CASES[case])
    num, num_classes = len(labels), CASES[case]["num_classes"]
    rng = np.random.default_rng(1)
    folds = rng.permutation(num) % 3
    weight = np.ones(num)
    if twist == "weights":
        weight = rng.uniform(0, 2, num) * (rng.random(num) > 0.2)
    if twist == "constant":
        features[:, ::4] = np.float32(2.3)
    if twist == "duplicates":
        features[num // 2 :], labels[num // 2 :] = features[: num - num // 2], labels[: num - num // 2]
    probe = fit_linear_probe(
        features, labels, num_classes=num_classes, folds=folds, strengths=STRENGTHS, tolerance=1e-10,
        sample_weight=weight, device="cpu",
    )  # fmt: skip
    x = standardise(features)
    for index, strength in enumerate(STRENGTHS):
        ours = np.exp(probe.oof_logits[index, 0])
        held = folds == index % 3
        want = reference(x, labels, np.where(held, 0, weight), strength, num_classes)[held]
        seen = want.max(axis=0) > 0  # a class without rows gets half a row's share from us, nothing from scikit-learn
        lost = 1 - ours[held][:, seen].sum(axis=1, keepdims=True)
        assert lost.max() < 0.01 * num_classes
        np.testing.assert_allclose(ours[held][:, seen] / (1 - lost), want[:, seen], atol=2e-4)
    want = reference(x, labels, weight, STRENGTHS[probe.chosen_strength], num_classes)
    logits = probe.predict_logits(features) - probe.prior_adjustment
    ours = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(ours / ours.sum(axis=1, keepdims=True), want, atol=3e-4)


def test_a_class_absent_from_a_fold_is_nearly_ruled_out_and_a_fold_of_one_class_works():
    features, labels = make_data(60, 8, 3)
    folds = (labels == 2).astype(int)  # the head that is asked about class 2 never saw it
    probe = fit_linear_probe(features, labels, num_classes=4, folds=folds, strengths=STRENGTHS)
    assert np.isfinite(probe.oof_losses).all()
    probs = np.exp(probe.oof_logits[0, 0])
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
    assert 0 < probs[folds == 1, 2].max() < 0.02
    assert (probe.oof_predictions(0, 0)[0][folds == 0] == 2).all()  # trained on class 2 alone
    assert not np.isin(probe.predict_logits(features).argmax(axis=1), 3).any()  # class 3 has no row at all


def test_each_repeat_is_what_it_would_be_alone():
    features, labels = make_data(90, 6, 3, spread=0.5)
    rng = np.random.default_rng(0)
    folds = np.stack([rng.permutation(90) % 3 for _ in range(3)])
    how = {"num_classes": 3, "strengths": STRENGTHS, "tolerance": 1e-9}
    each = [np.exp(fit_linear_probe(features, labels, folds=row, **how).oof_logits) for row in folds]
    both = fit_linear_probe(features, labels, folds=folds, **how)
    np.testing.assert_allclose(np.exp(both.oof_logits), np.concatenate(each, axis=1), atol=1e-4)


def test_what_repeats_say_of_a_row_is_one_observation():
    features, labels = make_data(120, 6, 3, spread=0.7)
    folds = np.random.default_rng(1).permutation(120) % 4
    how = {"num_classes": 3, "strengths": STRENGTHS, "tolerance": 1e-9}
    once = fit_linear_probe(features, labels, folds=folds, **how)
    thrice = fit_linear_probe(features, labels, folds=np.stack([folds] * 3), **how)
    assert thrice.num_repeats == 3
    for one, other in zip(once.path, thrice.path, strict=True):
        assert other.log_loss == pytest.approx(one.log_loss, abs=1e-5)
        assert other.log_loss_se == pytest.approx(one.log_loss_se, rel=1e-3)  # not smaller by sqrt(3)
    assert (thrice.chosen_strength, thrice.chosen_tau) == (once.chosen_strength, once.chosen_tau)
    counts = np.random.default_rng(2).multinomial(120, np.full(120, 1 / 120)).astype(float)
    assert thrice.choose(counts) == once.choose(counts)


def test_little_memory_gives_the_same_with_a_window_of_strengths():
    features, labels = make_data(300, 12, 5, spread=0.6)
    folds = np.random.default_rng(0).permutation(300) % 4
    how = {"num_classes": 5, "folds": folds, "tolerance": 1e-9}
    roomy = fit_linear_probe(features, labels, **how)
    # room for the logits of three strengths, and for one problem at a time
    tight = fit_linear_probe(features, labels, max_memory_gib=2 * 3 * 300 * 5 * 4 / 2**30, **how)
    assert roomy.kept == tuple(range(20))
    assert len(tight.kept) == 3
    assert tight.chosen_strength in tight.kept
    assert tight.chosen_strength == roomy.chosen_strength
    window = list(tight.kept)
    np.testing.assert_allclose(np.exp(tight.oof_logits), np.exp(roomy.oof_logits[window]), atol=2e-4)
    np.testing.assert_allclose(tight.weight, roomy.weight, atol=1e-3 * np.abs(roomy.weight).max())
    assert tight.choose(np.ones(300))[0] in tight.kept


def test_choose_replays_the_fit_and_counts_rows_like_copies():
    features, labels = make_data(200, 10, 4, spread=0.5)
    folds = np.random.default_rng(0).permutation(200) % 5
    weight = np.random.default_rng(2).uniform(0.5, 1.5, 200)
    probe = fit_linear_probe(features, labels, num_classes=4, folds=folds, sample_weight=weight)
    assert probe.choose() == probe.choose(np.ones(200)) == (probe.chosen_strength, probe.chosen_tau)
    for seed in range(20):
        counts = np.random.default_rng(seed).multinomial(200, np.full(200, 1 / 200))
        copies = np.repeat(np.arange(200), counts)
        drawn = replace(
            probe, labels=labels[copies], row_weight=weight[copies], oof_losses=probe.oof_losses[:, :, copies],
            oof_logits=probe.oof_logits[:, :, copies], _predicted={},
        )  # fmt: skip
        assert probe.choose(counts) == drawn.choose()


def test_weight_and_bias_carry_the_prior_adjustment():
    rng = np.random.default_rng(0)
    labels = np.array([0] * 180 + [1] * 20)
    features = (rng.standard_normal((200, 5)) + labels[:, None] * 0.6).astype(np.float32)
    folds = rng.permutation(200) % 4
    how = {"num_classes": 2, "folds": folds, "strengths": (0.1,)}
    plain = fit_linear_probe(features, labels, taus=(0.0,), **how)
    adjusted = fit_linear_probe(features, labels, taus=(1.0,), **how)
    shift = adjusted.predict_logits(features) - plain.predict_logits(features)
    np.testing.assert_allclose(shift[:, 1] - shift[:, 0], np.log(180 / 20), atol=1e-4)
    np.testing.assert_allclose(shift, np.broadcast_to(adjusted.prior_adjustment, shift.shape), atol=1e-4)
    assert (adjusted.oof_chosen_logits().argmax(axis=2) == adjusted.oof_predictions(0, 0)).all()
    chosen = fit_linear_probe(features, labels, **how)
    assert chosen.taus[chosen.chosen_tau] > 0  # the rare class is forgotten otherwise
    assert "macro_f1" in chosen.reason


def test_the_input_is_left_alone_and_half_precision_is_taken():
    features, labels = make_data(80, 10, 3)
    features = features.astype(np.float16)
    before = features.copy()
    seen = []
    probe = fit_linear_probe(
        features,
        labels,
        num_classes=3,
        folds=np.arange(80) % 2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert (features == before).all()
    assert seen[-1] == (60, 60)
    assert len(seen) == 60
    assert all(row.converged for row in probe.path)
    assert probe.strengths[0] / probe.strengths[-1] == pytest.approx(1e5)


def test_torch_and_many_classes_take_the_same_way(monkeypatch):
    torch = pytest.importorskip("torch")
    features, labels = make_data(150, 20, 6)
    folds = np.random.default_rng(0).permutation(150)[None] % 3
    spectrum = decompose(features)

    def held_out(backend):
        problems = FoldProblems(backend, spectrum, labels, 6, folds, None, 1.0)
        return [np.exp(solved.held_out) for solved in problems.path(STRENGTHS, 1e-10, lambda: None)]

    numpy_way = held_out(Backend(np, None, 1 << 10, ""))
    torch_way = held_out(Backend(torch, "cpu", 1 << 10, ""))
    np.testing.assert_allclose(numpy_way, torch_way, atol=1e-4)
    monkeypatch.setattr(multinomial, "_MAX_KRONECKER_CLASSES", 3)
    np.testing.assert_allclose(held_out(Backend(np, None, 1 << 17, "")), numpy_way, atol=1e-4)


def test_bad_arguments_are_named_all_at_once():
    features, labels = make_data(20, 3, 2)
    folds = np.arange(20) % 2
    with pytest.raises(UsageError, match=r"labels must be 0\.\.1.*sample_weight must be"):
        fit_linear_probe(features, labels + 1, num_classes=2, folds=folds, sample_weight=np.full(20, -1.0))
    with pytest.raises(UsageError, match="did you mean 'accuracy'"):
        fit_linear_probe(features, labels, num_classes=2, folds=folds, metric="acuracy")
    with pytest.raises(UsageError, match="share a fold"):
        fit_linear_probe(features, labels, num_classes=2, folds=folds, group_ids=np.arange(20) // 2)
    with pytest.raises(DataError, match="two classes"):
        fit_linear_probe(features, labels * 0, num_classes=2, folds=folds)


def test_nearly_balanced_classes_are_not_adjusted_and_rare_ones_are():
    features, labels = make_data(400, 6, 2, spread=1.2)
    folds = np.arange(400) % 5
    balanced = fit_linear_probe(features, labels, num_classes=2, folds=folds, strengths=STRENGTHS)
    assert balanced.taus == (0.0,)
    rare = np.flatnonzero((labels == 0) | (np.arange(400) % 20 < 3))
    adjusted = fit_linear_probe(
        features[rare], labels[rare], num_classes=2, folds=folds[rare], strengths=STRENGTHS, metric="balanced_accuracy"
    )
    assert len(adjusted.taus) == 9
    assert adjusted.taus[adjusted.chosen_tau] > 0
