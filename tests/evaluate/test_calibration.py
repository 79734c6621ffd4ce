from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.errors import DataError
from regraft.evaluate.calibration import COLDEST, HOTTEST, fit_temperature, softmax
from regraft.evaluate.metrics import evaluate_predictions


def drawn(n, k, temperature, seed=0, scale=2.0):
    """Logits whose labels were drawn from softmax(logits / temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * scale * temperature
    probs = softmax(logits, temperature=temperature)
    return logits, np.array([rng.choice(k, p=p) for p in probs])


def loss(logits, labels, temperature):
    return evaluate_predictions(labels, softmax(logits, temperature=temperature)).log_loss


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_finds_the_temperature_that_labels_were_drawn_with(temperature):
    logits, labels = drawn(4000, 5, temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.08)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(2, 5), st.floats(0.2, 5), st.integers(0, 1000))
def test_no_temperature_on_a_grid_is_better(n, k, temperature, seed):
    logits, labels = drawn(n, k, temperature, seed)
    found = fit_temperature(logits, labels)
    assert COLDEST <= found <= HOTTEST
    if (logits.argmax(axis=1) != labels).any():
        best = min(loss(logits, labels, t) for t in np.geomspace(COLDEST, HOTTEST, 200))
        assert loss(logits, labels, found) <= best + 1e-9


def test_agrees_with_scikit_learn():
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Given(ClassifierMixin, BaseEstimator):
        def fit(self, X, y):
            self.classes_ = np.unique(y)
            return self

        def decision_function(self, X):
            return X

        def predict(self, X):
            return X.argmax(axis=1)

    logits, labels = drawn(500, 4, 2.5)
    theirs = CalibratedClassifierCV(FrozenEstimator(Given().fit(logits, labels)), method="temperature")
    theirs.fit(logits, labels)
    ours = softmax(logits, temperature=fit_temperature(logits, labels))
    np.testing.assert_allclose(ours, theirs.predict_proba(logits), atol=1e-4)


def test_weights_repeat_rows():
    logits, labels = drawn(50, 3, 2.0)
    weights = np.arange(50) % 3
    repeated = fit_temperature(np.repeat(logits, weights, axis=0), np.repeat(labels, weights))
    assert fit_temperature(logits, labels, weights) == pytest.approx(repeated)


@pytest.mark.parametrize(("n", "scale"), [(1, 1.0), (5, 0.1), (20, 3.0), (2000, 3.0)])
def test_all_right_earns_the_confidence_of_so_many_rows(n, scale):
    labels = np.arange(n) % 3
    logits = np.eye(3)[labels] * scale
    confidence = softmax(logits, temperature=fit_temperature(logits, labels)).max()
    assert confidence < 1 - 0.2 / (n + 2)
    assert confidence > 1 - 2 / (n + 2) or fit_temperature(logits, labels) == COLDEST


def test_degenerate_logits():
    assert fit_temperature(np.zeros((5, 3)), np.zeros(5, int)) == 1.0
    assert fit_temperature(np.empty((0, 3)), np.empty(0, int)) == 1.0
    assert fit_temperature(np.array([[9.0, 0.0]]), np.array([1])) == HOTTEST
    assert np.isfinite(fit_temperature(np.array([[1e6, -1e6], [1e6, 0.0]]), np.array([0, 1])))


def test_bad_input():
    with pytest.raises(DataError, match="finite"):
        fit_temperature(np.array([[np.inf, 0.0]]), np.array([0]))
    with pytest.raises(DataError, match="unlabelled"):
        fit_temperature(np.zeros((1, 2)), np.array([-1]))
