"""Near-duplicates: evidence, thresholds, sets, and the search as a whole on drawn pictures."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.audit import near_duplicates
from regraft.audit.calibration import calibrate
from regraft.audit.clusters import clusters, numbered
from regraft.audit.near_duplicates import Views, find_near_duplicates, sample_for_views
from regraft.audit.neighbours import nearest
from regraft.audit.pair_evidence import pair_evidence
from regraft.audit.perceptual_hash import thumbnail
from regraft.audit.views import KINDS, duplicate_views
from regraft.errors import DataError, UsageError

WIDTH = 48
PROJECTION = np.random.default_rng(5).standard_normal((12 * 12 * 3, WIDTH)) / 12


def picture(seed, size=(96, 128)):
    rng = np.random.default_rng(seed)
    image = np.zeros((*size, 3), np.float32)
    for side in (3, 7, 15):
        coarse = rng.uniform(0, 255, (side, side, 3)).astype(np.float32)
        image += cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC) / 3
    return np.clip(image, 0, 255).astype(np.uint8)


def features_of(image):
    """A backbone for a test: random directions of a small picture, the same for its mirror image."""
    small = cv2.resize(image, (12, 12), interpolation=cv2.INTER_AREA).astype(np.float64)
    small = (small - small.mean()) / small.std()
    return np.abs(small.ravel() @ PROJECTION) + np.abs(small[:, ::-1].ravel() @ PROJECTION)


def seen(images):
    return np.array([features_of(image) for image in images]), np.stack([thumbnail(image) for image in images])


def views_of(images, rows):
    made = [(row, kind, view) for row in rows for kind, view in duplicate_views(images[row], seed=row).items()]
    features, thumbnails = seen([view for _, _, view in made])
    numbers, kinds = np.array([row for row, _, _ in made]), np.array([kind for _, kind, _ in made])
    return Views(rows=numbers, kinds=kinds, features=features, thumbnails=thumbnails)


@pytest.fixture(scope="module")
def planted():
    """300 pictures, and of five of them one more view of each kind, drawn with another seed."""
    images = [picture(seed) for seed in range(300)]
    truth = {}
    for row in range(40, 45):
        for view in duplicate_views(images[row], seed=1000 + row).values():
            truth[len(images)] = row
            images.append(view)
    features, thumbnails = seen(images)
    return images, features, thumbnails, truth


def test_planted_views_are_found_and_nothing_else(planted):
    images, features, thumbnails, truth = planted
    labels = np.arange(len(images)) % 3
    found = find_near_duplicates(
        features, thumbnails, labels=labels, views=views_of(images, range(40)), images=[f"{i}.png" for i in range(325)]
    )
    source = np.arange(len(images))
    source[list(truth)] = list(truth.values())
    assert (source[found.pairs[:, 0]] == source[found.pairs[:, 1]]).all()
    assert (found.pairs[:, 0] < found.pairs[:, 1]).all()
    recall = found.column.is_issue[300:].mean()
    assert recall >= 0.6
    assert not found.column.is_issue[:40].any()
    inside = np.flatnonzero(found.sets >= 0)
    assert set(source[inside]) <= set(range(40, 45))
    assert (found.column.is_issue == (found.column.score < 0.5)).all()
    ranks = found.conflicting.astype(int)
    assert (np.diff(ranks) <= 0).all()
    assert (found.conflicting == (labels[found.pairs[:, 0]] != labels[found.pairs[:, 1]])).all()
    first = found.pairs[0]
    assert f"{first[1]}.png" in found.column.reasons[first[0]]
    assert "under another label" in found.column.reasons[first[0]]


def test_the_answer_does_not_depend_on_the_order_of_rows(planted):
    images, features, thumbnails, _ = planted
    views = views_of(images, range(20))
    order = np.random.default_rng(3).permutation(len(images))
    back = np.argsort(order)
    moved = Views(rows=back[views.rows], kinds=views.kinds, features=views.features, thumbnails=views.thumbnails)
    one = find_near_duplicates(features, thumbnails, views=views)
    other = find_near_duplicates(features[order], thumbnails[order], views=moved)
    pairs = {frozenset(pair) for pair in one.pairs.tolist()}
    assert pairs
    moved_pairs = {frozenset(order[pair].tolist()) for pair in other.pairs}
    assert len(pairs ^ moved_pairs) <= 0.2 * len(pairs)  # of twins that are alike, another may be the nearest
    assert (one.column.is_issue[order] == other.column.is_issue).mean() > 0.95


def test_identical_files_are_pairs_without_a_search(planted):
    images, features, thumbnails, _ = planted
    rows = np.r_[np.arange(30), 3, 3, 8]
    content = rows.copy()
    found = find_near_duplicates(
        features[rows], thumbnails[rows], content_ids=content, views=views_of(images, range(20)), labels=np.zeros(33)
    )
    assert {tuple(pair) for pair in found.pairs.tolist()} == {(3, 30), (3, 31), (8, 32)}
    assert (found.similarity == 1).all()
    assert found.sets[[3, 30, 31, 8, 32]].tolist() == [0, 0, 0, 1, 1]
    assert found.column.reasons[31] == "identical to image 3"
    assert found.column.score[8] == 0


def test_features_alone_will_do_with_and_without_views(planted):
    images, features, _, _ = planted
    views = views_of(images, range(40))
    found = find_near_duplicates(features, views=views)
    assert found.evidence.shape[1] == 1
    assert [rule.kind for rule in found.calibration.rules] == ["any"]
    fixed = find_near_duplicates(np.eye(6)[[0, 1, 2, 2, 3, 4]])
    assert fixed.pairs.tolist() == [[2, 3]]
    assert "no views were given" in fixed.calibration.reason


def test_few_images_and_wrong_columns():
    for num in (0, 1, 2):
        found = find_near_duplicates(np.eye(4)[:num], np.zeros((num, 32, 32), np.uint8))
        assert (len(found.pairs), len(found.sets), len(found.column.reasons)) == (0, num, num)
    with pytest.raises(DataError, match="'labels': 2"):
        find_near_duplicates(np.eye(3), labels=np.zeros(2))
    assert sample_for_views(10, num=30).tolist() == list(range(10))


def test_evidence_sees_through_crops_mirrors_and_brightness():
    images = [picture(seed) for seed in range(20)]
    features, thumbnails = seen(images)
    other = pair_evidence(features[:10], features[10:], thumbnails[:10], thumbnails[10:])
    for kind in KINDS:
        made = [duplicate_views(images[row], seed=row)[kind] for row in range(10)]
        f, t = seen(made)
        same = pair_evidence(features[:10], f, thumbnails[:10], t)
        assert same.shape == (10, 4)
        assert same[:, 3].min() > other[:, 3].max() + 0.5
        assert (same[:, 3] >= same[:, 2] - 1e-6).all()
    itself = pair_evidence(features, features, thumbnails, thumbnails)
    np.testing.assert_allclose(itself, [[3, 0, 3, 3]] * 20, atol=0.01)


def test_pictures_of_one_colour_are_no_evidence():
    flat = np.full((2, 32, 32), 200, np.uint8)
    seen_ = pair_evidence(np.ones((2, 3)), np.ones((2, 3)), flat, flat)
    assert seen_[:, 2:].tolist() == [[pytest.approx(0, abs=1e-3)] * 2] * 2


def evidence(rng, num, centre):
    return np.asarray(rng.normal(centre, 0.3, (num, 2)), np.float32)


def test_the_false_positive_level_holds_on_clean_data_and_duplicates_are_found_in_others():
    rng = np.random.default_rng(0)
    views, others = evidence(rng, 300, 1.2), evidence(rng, 5000, 0.3)
    kinds, owners = np.array(["a", "b"])[np.arange(300) % 2], np.arange(5000)
    clean = calibrate(views, kinds, others, owners, level=0.01)
    fresh = evidence(rng, 20_000, 0.3)
    assert (clean.similarity(fresh) > 0.5).mean() < 0.015
    others[:1000] = evidence(rng, 1000, 1.2)
    full = calibrate(views, kinds, others, owners, level=0.01)
    assert full.duplicates > 0.01
    assert (full.similarity(fresh) > 0.5).mean() < 0.1
    assert (full.similarity(others[:1000]) > 0.5).mean() > (clean.similarity(others[:1000]) > 0.5).mean() - 0.02


def test_similarity_rises_with_every_measure():
    rng = np.random.default_rng(1)
    rules = calibrate(evidence(rng, 100, 1.0), ["a"] * 100, evidence(rng, 500, 0.4), np.arange(500))
    pairs = rng.uniform(0, 2, (300, 2)).astype(np.float32)
    assert (rules.similarity(pairs + np.array([0.1, 0])) >= rules.similarity(pairs)).all()
    assert rules.similarity(np.full((1, 2), 9.0))[0] == 1
    assert rules.similarity(np.full((1, 2), -9.0))[0] == 0


def test_calibration_says_what_it_lacks():
    rng = np.random.default_rng(1)
    with pytest.raises(UsageError, match="level=0"):
        calibrate(evidence(rng, 20, 1), ["a"] * 20, evidence(rng, 20, 0), np.arange(20), level=0)
    with pytest.raises(DataError, match="4 views"):
        calibrate(evidence(rng, 4, 1), ["a"] * 4, evidence(rng, 20, 0), np.arange(20))
    with pytest.raises(DataError, match="len\\(kinds\\)=3"):
        calibrate(evidence(rng, 4, 1), ["a"] * 3, evidence(rng, 20, 0), np.arange(20))


def test_a_chain_is_cut_and_a_clique_is_not():
    chain = np.array([[i, i + 1] for i in range(30)])
    sets = clusters(31, chain, np.linspace(1, 0.6, 30), lambda a, b: abs(a - b) <= 1)
    assert np.bincount(sets[sets >= 0]).max() <= 4
    clique = np.array([[i, (i + 1) % 12] for i in range(12)])
    assert clusters(13, clique, np.ones(12), lambda a, b: True).tolist() == [0] * 12 + [-1]
    assert clusters(3, np.empty((0, 2), np.int64), np.empty(0), lambda a, b: True).tolist() == [-1] * 3


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 25), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_sets_lie_within_the_connected_components(num, num_pairs, seed):
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rng = np.random.default_rng(seed)
    pairs = np.sort(rng.integers(0, num, (num_pairs, 2)), axis=1)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    _, component = connected_components(coo_array((np.ones(len(pairs)), pairs.T), shape=(num, num)), directed=False)
    strength = rng.random(len(pairs))
    assert clusters(num, pairs, strength, lambda a, b: True).tolist() == numbered(component).tolist()
    cut = clusters(num, pairs, strength, lambda a, b: False)
    for number in range(cut.max() + 1):
        assert len(set(component[cut == number])) == 1
        assert (cut == number).sum() >= 2


def test_pairs_that_are_not_aligned_could_not_have_passed(planted, monkeypatch):
    images, features, thumbnails, _ = planted
    views = views_of(images, range(40))
    found = find_near_duplicates(features, thumbnails, views=views)
    monkeypatch.setattr(near_duplicates, "worth_aligning", lambda positive, kinds, cheap: np.ones(len(cheap), bool))
    slow = find_near_duplicates(features, thumbnails, views=views, neighbours=nearest(features, 9)[0])
    assert len(found.pairs) >= 20
    assert np.array_equal(found.pairs, slow.pairs)
    np.testing.assert_allclose(found.similarity, slow.similarity, atol=1e-9)
    assert np.array_equal(found.sets, slow.sets)
