"""The closed form against refitting without the group, the slow and obvious way."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.errors import DataError, UsageError
from regraft.fit import ridge as ridge_module
from regraft.fit.ridge import fit_ridge

STRENGTHS = (10.0, 0.5, 0.01)


def standardise(features):
    x = features.astype(np.float64)
    spread = x.std(axis=0)
    return (x - x.mean(axis=0)) / (np.sqrt(spread**2 + np.square(spread).mean() / 4) if spread.max() > 1e-9 else 1)


def refit(features, labels, num_classes, together, strength):
    """Held-out scores by solving the normal equations on the other rows, an intercept unpenalised."""
    x = standardise(features)
    y = np.eye(num_classes)[labels]
    scores = np.empty_like(y)
    for group in np.unique(together):
        train = together != group
        mean, level = x[train].mean(axis=0), y[train].mean(axis=0)
        centred = x[train] - mean
        gram = centred.T @ centred + len(x) * strength * np.eye(x.shape[1])
        scores[~train] = level + (x[~train] - mean) @ np.linalg.solve(gram, centred.T @ (y[train] - level))
    return scores


def check(features, labels, num_classes, together, **how):
    for strength in STRENGTHS:
        ridge = fit_ridge(features, labels, num_classes=num_classes, strengths=[strength], **how)
        want = refit(features, labels, num_classes, together, strength)
        np.testing.assert_allclose(ridge.oof_scores, want, rtol=0, atol=1e-8)
        assert ridge.errors[0] == pytest.approx(np.square(want - np.eye(num_classes)[labels]).sum(axis=1).mean())


@settings(max_examples=60, deadline=None)
@given(
    num=st.integers(6, 60), width=st.integers(1, 40), num_classes=st.integers(2, 5), num_folds=st.integers(2, 8),
    duplicates=st.booleans(), constant=st.booleans(), seed=st.integers(0, 9999),
)  # fmt: skip
def test_folds_groups_and_single_rows_equal_refitting(num, width, num_classes, num_folds, duplicates, constant, seed):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((num, width)) * rng.lognormal(0, 2, width) + rng.normal(0, 5, width)
    if duplicates:
        features[num // 2 :] = features[: num - num // 2]
    if constant:
        features[:, 0] = 3.7
    labels = rng.integers(0, num_classes, num)
    labels[:2] = 0, 1
    folds = rng.permutation(num) % num_folds
    check(features, labels, num_classes, folds, folds=folds)
    check(features, labels, num_classes, folds, group_ids=folds * 7)
    check(features, labels, num_classes, np.arange(num))


def test_folds_that_are_one_class_each():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 12)
    for width in (5, 80):
        check(rng.standard_normal((36, width)), labels, 3, labels, folds=labels)


def test_uneven_groups_and_half_precision():
    rng = np.random.default_rng(1)
    groups = np.array([0] * 30 + [1] * 3 + [2] * 3 + [3, 4, 5])
    features = rng.standard_normal((39, 20)).astype(np.float16)
    check(features, rng.permutation(39) % 3, 3, groups, group_ids=groups)


def test_the_head_predicts_what_a_plain_solution_predicts():
    rng = np.random.default_rng(2)
    features, labels = rng.standard_normal((50, 8)) * 3 + 1, rng.permutation(50) % 3
    ridge = fit_ridge(features, labels, num_classes=3)
    x = standardise(features)
    y = np.eye(3)[labels]
    weights = np.linalg.solve(x.T @ x + 50 * ridge.strengths[ridge.chosen] * np.eye(8), x.T @ (y - y.mean(axis=0)))
    np.testing.assert_allclose(ridge.predict_scores(features), x @ weights + y.mean(axis=0), atol=1e-10)
    assert len(ridge.strengths) == 20
    assert ridge.chosen == np.argmin(ridge.errors)


def test_scores_recomputed_when_the_path_does_not_fit_equal_those_kept(monkeypatch):
    rng = np.random.default_rng(3)
    features, labels = rng.standard_normal((60, 10)), rng.permutation(60) % 3
    kept = fit_ridge(features, labels, num_classes=3)
    monkeypatch.setattr(ridge_module, "_MAX_KEPT_ELEMENTS", 1)
    again = fit_ridge(features, labels, num_classes=3)
    np.testing.assert_allclose(again.oof_scores, kept.oof_scores, atol=1e-12)


def test_bad_arguments_get_one_line():
    features, labels = np.ones((4, 2)), np.array([0, 0, 1, 1])
    with pytest.raises(DataError, match="two classes"):
        fit_ridge(features, np.zeros(4, np.int64), num_classes=2)
    with pytest.raises(UsageError, match="share a fold"):
        fit_ridge(features, labels, num_classes=2, folds=np.array([0, 1, 0, 1]), group_ids=np.array([0, 0, 1, 1]))
    with pytest.raises(DataError, match="to train on"):
        fit_ridge(features, labels, num_classes=2, folds=np.zeros(4, int))
    with pytest.raises(DataError, match="finite"):
        fit_ridge(np.full((4, 2), np.nan), labels, num_classes=2)
