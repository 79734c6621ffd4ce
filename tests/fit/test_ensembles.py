import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.fit.backend import choose_backend
from regraft.fit.ensembles import HeadSolver, average_heads, draw_rows, target_sizes
from regraft.fit.nested import Nested
from regraft.fit.spectrum import decompose


def skewed(counts, width=20, seed=0, apart=1.0):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centres = rng.standard_normal((len(counts), width)) * apart
    return (centres[labels] + rng.standard_normal((len(labels), width))).astype(np.float32), labels


def softmax(logits):
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def test_mean_log_probability_is_one_linear_head():
    rng = np.random.default_rng(0)
    members = [rng.standard_normal((4, 6)).astype(np.float32) for _ in range(5)]
    x = rng.standard_normal((30, 6))
    mean_log = np.mean([np.log(softmax(x @ member.T)) for member in members], axis=0)
    np.testing.assert_allclose(softmax(x @ average_heads(members).T), softmax(mean_log), atol=1e-6)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=2, max_size=5).filter(lambda counts: sum(c > 0 for c in counts) >= 2),
    st.sampled_from(["smallest", "largest", "middle"]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.booleans(),
    st.integers(0, 99),
)
def test_every_problem_gets_the_sizes_it_asked_for(counts, anchor, strength, replacement, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    train = rng.random((3, len(labels))) < 0.7
    have = np.stack([np.bincount(labels[row], minlength=len(counts)) for row in train]).astype(float)
    if (have.sum(axis=1) == 0).any():
        return
    sizes = target_sizes(have, anchor, strength)
    drawn = draw_rows(labels, train, sizes, replacement=replacement, rng=rng)
    assert (drawn[~train] == 0).all()
    got = np.stack([np.bincount(labels, row, len(counts)) for row in drawn])
    np.testing.assert_array_equal(got, sizes)
    np.testing.assert_array_equal(sizes > 0, have > 0)
    if strength == 0:
        np.testing.assert_array_equal(sizes, have)
    if not replacement:  # no row a second time before all had their first
        for row, may in zip(drawn, train, strict=True):
            for k in range(len(counts)):
                times = row[may & (labels == k)]
                assert len(times) == 0 or times.max() - times.min() <= 1


def test_under_sampling_ignores_classes_that_are_too_small():
    sizes = target_sizes(np.array([[100.0, 20.0, 1.0, 0.0]]), "smallest", 1.0)
    np.testing.assert_array_equal(sizes, [[20, 20, 20, 0]])


def test_sizes_are_those_of_imbalanced_learn():
    over_sampling = pytest.importorskip("imblearn.over_sampling")
    under_sampling = pytest.importorskip("imblearn.under_sampling")
    x, labels = skewed([60, 25, 9])
    counts = np.array([[60.0, 25.0, 9.0]])
    for sampler, anchor in (
        (under_sampling.RandomUnderSampler(random_state=0), "smallest"),
        (over_sampling.RandomOverSampler(random_state=0), "largest"),
    ):
        _, theirs = sampler.fit_resample(x, labels)
        np.testing.assert_array_equal(np.bincount(theirs), target_sizes(counts, anchor, 1.0)[0])


def solved(x, labels, weights, strength):
    spectrum = decompose(x)
    solver = HeadSolver(
        choose_backend("cpu"), spectrum.rotated, spectrum.variance, labels, int(labels.max()) + 1, tolerance=1e-9
    )
    (head,) = solver.path(weights, [strength])
    return spectrum, head


@pytest.mark.parametrize("num", [40, 200])  # fewer rows than columns, and more
def test_weighted_heads_are_scikit_learns(num):
    from sklearn.linear_model import LogisticRegression

    x, labels = skewed([num // 2, num // 4, num // 4], width=60)
    weights = np.random.default_rng(1).integers(0, 3, (1, len(labels))).astype(float)
    weights[0, : num // 3] = 0
    weights[0, np.flatnonzero(labels == 0)[-5:]] = 1
    strength = 0.05
    spectrum, head = solved(x, labels, weights, strength)
    total = weights.sum()
    reference = LogisticRegression(C=1 / (strength * total), max_iter=5000, tol=1e-8)
    reference.fit((x - spectrum.mean) / spectrum.scale, labels, sample_weight=weights[0])
    theirs = reference.predict_proba((x - spectrum.mean) / spectrum.scale)
    np.testing.assert_allclose(softmax(spectrum.rotated @ head[0].T), theirs, atol=0.003)


def test_the_ensemble_agrees_with_imbalanced_learn():
    ensemble = pytest.importorskip("imblearn.ensemble")
    from sklearn.linear_model import LogisticRegression

    counts = [300, 60, 20]
    x, labels = skewed(counts, apart=0.6)
    fresh, fresh_labels = skewed([300, 300, 300], apart=0.6, seed=0)
    folds = np.arange(len(labels)) % 3
    spectrum = decompose(x)
    standard = (x - spectrum.mean) / spectrum.scale
    strength = 0.1
    nested = Nested(labels, 3, folds)
    sizes = target_sizes(nested.counts, "smallest", 1.0)
    solver = HeadSolver(choose_backend("cpu"), spectrum.rotated, spectrum.variance, labels, 3)
    rng = np.random.default_rng(0)
    members = []
    for _ in range(20):
        drawn = draw_rows(labels, nested.train, sizes, replacement=True, rng=rng)
        members += list(solver.path(drawn, [strength]))
    weight, bias = spectrum.to_raw(average_heads(members)[-1])
    ours = fresh @ weight.T + bias
    reference = ensemble.BalancedBaggingClassifier(
        estimator=LogisticRegression(C=1 / (strength * 60)), n_estimators=20, replacement=True, random_state=0
    ).fit(standard, labels)
    theirs = reference.predict((fresh - spectrum.mean) / spectrum.scale)
    assert (ours.argmax(axis=1) == theirs).mean() > 0.93
    balanced = [(predicted == fresh_labels).mean() for predicted in (ours.argmax(axis=1), theirs)]
    assert abs(balanced[0] - balanced[1]) < 0.03
