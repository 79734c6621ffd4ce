"""The scikit-learn estimator: clone, parameters, cross-validation, and labels of any kind."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score

from regraft import ImageClassifier
from regraft.errors import DataError, UsageError


@pytest.fixture
def photos(trained, cache_dir):
    paths = sorted(trained.data.rglob("*.png"))
    return [str(path) for path in paths], np.array([path.parent.name for path in paths])


def model() -> ImageClassifier:
    return ImageClassifier(image_size=32)


def test_parameters_and_clone():
    first = ImageClassifier(seed=3, engine="torch")
    assert first.get_params()["seed"] == 3
    second = clone(first).set_params(seed=4)
    assert (first.seed, second.seed, second.engine) == (3, 4, "torch")
    assert is_classifier(first)
    with pytest.raises(NotFittedError):
        first.predict(["a.png"])


def test_fit_predict_and_metrics(photos):
    X, y = photos
    fitted = model().fit(X, y)
    assert fitted.classes_.tolist() == ["circle", "square", "star"]
    assert set(fitted.metrics_) == {"accuracy", "balanced_accuracy", "macro_f1", "log_loss", "ece"}
    probs = fitted.predict_proba(X)
    np.testing.assert_allclose(probs.sum(axis=1), 1)
    assert fitted.predict(X).tolist() == y.tolist()
    assert fitted.score(X, y) == 1


def test_cross_val_score(photos):
    X, y = photos
    scores = cross_val_score(model(), X, y, cv=2, error_score="raise")
    assert scores.shape == (2,)
    assert scores.min() > 0.8


@pytest.mark.parametrize(
    "words",
    [
        [" a", "a ", "A"], ["", "nan", "None"], ["x\ny", "x\ty", 'q"'], [10, 9, 100], [1.5, -2.0, 0.0],
        ["train", "test", "val"], ["\x1b", "🐈", "ü"],
    ],
)  # fmt: skip
def test_labels_of_any_kind_come_back_as_they_were(photos, words):
    X, y = photos
    labels = np.array(words)[np.unique(y, return_inverse=True)[1]]
    fitted = model().fit(X, labels)
    assert fitted.classes_.tolist() == sorted(words)
    assert fitted.predict(X).tolist() == labels.tolist()
    np.testing.assert_array_equal(fitted.classes_[fitted.predict_proba(X).argmax(axis=1)], labels)


def test_true_and_false(photos):
    X, y = photos
    fitted = model().fit(X, y == "star")
    assert fitted.classes_.tolist() == [False, True]
    assert fitted.predict(X[:1]).dtype == bool


def test_a_class_without_enough_images_has_probability_0(photos):
    X, y = photos
    y = y.copy().astype(object)
    y[0] = "lonely"
    probs = model().fit(X, y.astype(str)).predict_proba(X)
    assert probs.shape == (24, 4)
    assert probs[:, 1].max() == 0
    np.testing.assert_allclose(probs.sum(axis=1), 1)


def test_refusals(photos, tmp_path):
    X, y = photos
    with pytest.raises(DataError, match="24 images, 23 labels"):
        model().fit(X, y[:-1])
    with pytest.raises(DataError):
        model().fit(X, np.zeros(24))
    with pytest.raises(UsageError, match="warp"):
        ImageClassifier(engine="warp").fit(X, y)
    with pytest.raises(DataError, match=r"missing\.png"):
        model().fit(X, y).predict([X[0], str(tmp_path / "missing.png")])
