"""Outliers among clouds of features; the shrunk covariance against scikit-learn's."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf as reference

from regraft.audit import mahalanobis
from regraft.audit.mahalanobis import class_distances, ledoit_wolf
from regraft.audit.neighbours import nearest
from regraft.audit.outlier_plugin import pyod_detector
from regraft.audit.outliers import find_outliers
from regraft.audit.robust import score_of, unusual
from regraft.errors import DataError, MissingExtraError, UsageError


def clouds(num=120, num_classes=3, width=16, seed=0):
    rng = np.random.default_rng(seed)
    centres = 3 * rng.standard_normal((num_classes, width))
    labels = np.repeat(np.arange(num_classes), num)
    return (centres[labels] + rng.standard_normal((len(labels), width))).astype(np.float32), labels, rng


@pytest.mark.parametrize(("num", "width"), [(500, 12), (30, 80)])
def test_the_covariance_is_scikit_learns_whatever_the_blocks(num, width, monkeypatch):
    rng = np.random.default_rng(1)
    values = rng.standard_normal((num, width)) * np.linspace(0.2, 3, width)
    monkeypatch.setattr(mahalanobis, "_ROWS", 7)
    found = ledoit_wolf(values, np.zeros(num, np.int64), np.zeros((1, width)))
    np.testing.assert_allclose(found, reference(values, assume_centered=True)[0], rtol=1e-5, atol=1e-5)


def test_distances_are_mahalanobis_to_the_nearest_and_the_own_centre():
    features, labels, _ = clouds()
    given = labels.copy()
    given[:4] = -1
    nearest, own = class_distances(features, given)
    known = given >= 0
    centres = np.stack([features[known & (given == k)].mean(axis=0) for k in range(3)]).astype(np.float64)
    covariance = ledoit_wolf(features, given, centres)
    apart = features.astype(np.float64)[:, None] - centres
    wanted = np.sqrt(np.einsum("nkd,de,nke->nk", apart, np.linalg.inv(covariance), apart))
    counts = np.bincount(given[known])
    wanted[known, given[known]] *= (counts / (counts - 1))[given[known]]
    np.testing.assert_allclose(nearest, wanted.min(axis=1), rtol=1e-5)
    np.testing.assert_allclose(own[known], wanted[known, given[known]], rtol=1e-5)
    assert np.isnan(own[~known]).all()


def test_an_image_that_belongs_nowhere_and_one_in_the_wrong_class_are_told_apart():
    features, labels, rng = clouds()
    features[5] = 6 * rng.standard_normal(16)
    labels[200] = 0  # it looks like class 1
    found = find_outliers(features, labels, class_names=["cat", "dog", "emu"])
    assert found.off_topic[5]
    assert not found.off_topic[200]
    assert found.column.is_issue[[5, 200]].all()
    assert found.column.is_issue.mean() < 0.05
    assert "unlike the other images" in found.column.reasons[5]
    assert "unlike its class 'cat'" in found.column.reasons[200]
    assert ((found.column.score < 0.5) == found.column.is_issue).all()


def test_copies_do_not_vouch_for_each_other():
    features, labels, rng = clouds()
    strange = 6 * rng.standard_normal(16)
    features[:12] = strange + 0.01 * rng.standard_normal((12, 16))
    groups = np.arange(len(labels))
    groups[:12] = 0
    alone = find_outliers(features, labels)
    grouped = find_outliers(features, labels, group_ids=groups)
    assert not (alone.measures["neighbours"][:12] > 0).any()
    assert (grouped.measures["neighbours"][:12] > 3).all()


def test_classes_too_small_to_judge_are_said_so_and_unlabelled_images_still_count():
    features, labels, _ = clouds(num=30)
    labels[labels == 2] = np.r_[np.full(10, 2), np.full(20, -1)]
    found = find_outliers(features, labels)
    assert found.too_small.tolist() == [2]
    assert (found.measures["class_centre"][labels < 2] != 0).any()
    assert (found.measures["class_centre"][labels == 2] == 0).all()
    assert find_outliers(features, np.full(90, -1)).column.score.shape == (90,)
    assert find_outliers(features[:0], labels[:0]).column.score.shape == (0,)


def test_a_detector_of_ones_own_takes_part():
    class Norm:
        def fit(self, X):
            self.decision_scores_ = np.linalg.norm(X, axis=1)

    features, labels, _ = clouds()
    features[9] *= 5
    found = find_outliers(features, labels, detectors={"norm": Norm()})
    assert found.off_topic[9]
    assert int(np.argmax(found.measures["norm"])) == 9

    class Wrong(Norm):
        def fit(self, X):
            self.decision_scores_ = np.zeros(3)

    with pytest.raises(DataError, match="'wrong' gave"):
        find_outliers(features, labels, detectors={"wrong": Wrong()})


def test_a_missing_pyod_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyod.models.ecod", None)
    with pytest.raises(MissingExtraError, match=r"regraft\[pyod\]"):
        pyod_detector("ecod")
    with pytest.raises(UsageError, match="did you mean 'lof'"):
        pyod_detector("loff")


def test_wrong_arguments_are_named():
    features, labels, _ = clouds(num=5)
    with pytest.raises(UsageError, match="limit=0"):
        find_outliers(features, labels, limit=0)
    with pytest.raises(DataError, match="15 rows"):
        find_outliers(features, labels[:3])


def test_unusual_is_in_standard_deviations_of_the_upper_half():
    values = np.random.default_rng(0).standard_normal(200_000) * 3 + 7
    np.testing.assert_allclose(unusual(values), (values - 7) / 3, atol=0.1)
    assert unusual(np.full(9, 2.0)).tolist() == [0.0] * 9
    assert unusual(np.array([1.0, 2, 3, 4, np.nan]))[4] == 0
    assert score_of(np.array([-1.0, 0, 1, 2])).tolist() == [1, 1, 0.5, 0.25]


@pytest.mark.parametrize("group_size", [1, 3, 40])
def test_neighbours_that_are_known_give_the_same_whatever_the_groups(group_size):
    features, labels, _ = clouds(num=60)
    groups = np.arange(len(labels)) // group_size  # of the largest, the nearest 16 are mostly of the own group
    known = nearest(features, 16)
    plain = find_outliers(features, labels, group_ids=groups)
    found = find_outliers(features, labels, group_ids=groups, neighbours=known)
    for name, values in plain.measures.items():
        np.testing.assert_allclose(found.measures[name], values, atol=1e-6)
