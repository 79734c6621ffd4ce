"""The resize policy: measured where it can matter, squash unless another is surely better."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from studies_fake import backbone

from drawn import encode
from regraft.data import read, split
from regraft.evaluate.metrics import evaluate_predictions
from regraft.features.engines import choose
from regraft.studies.resize import SAMPLE, choose_policy, compare_policies, measuring_is_idle, sample


def drawn(root, kinds, *, per_class=60, seed=0):
    """Images uint8 by kind(rng) → class folders; returns the development images and their groups."""
    rng = np.random.default_rng(seed)
    for name, kind in kinds.items():
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            (root / name / f"{number:03d}.png").write_bytes(encode(kind(rng).astype(np.uint8)))
    manifest = read(root, cache_dir=root.parent / "cache").manifest
    halves = split(manifest, test=0.0)
    return manifest.select(halves.development), halves.group_ids[halves.development]


def at_the_ends(level):
    """A grey noise picture, three times as wide as high, whose class shows only in its left and right sixths."""

    def draw(rng):
        picture = rng.integers(90, 160, (24, 72, 3))
        picture[:, :12] = picture[:, -12:] = level + rng.integers(-60, 60, (1, 1, 3))
        return picture

    return draw


def by_shape(high, wide):
    """Noise of any colour whose class is its aspect ratio alone."""

    def draw(rng):
        return rng.integers(0, 160, (1, 1, 3)) + rng.integers(0, 40, (high, wide, 3))

    return draw


def everywhere(level):
    def draw(rng):
        return np.full((24, 48, 3), level) + rng.integers(-90, 90, (24, 48, 1))

    return draw


def compared(tmp_path, kinds, **options):
    manifest, group_ids = drawn(tmp_path / "data", kinds)
    assert measuring_is_idle(manifest.sizes, group_ids) is None
    return compare_policies(
        manifest, group_ids, backbone("grid", width=4), choice=choose("torch", "fp32"), cache_dir=tmp_path / "cache",
        **options,
    )  # fmt: skip


def test_a_crop_that_cuts_the_object_loses(tmp_path):
    found = compared(tmp_path, {"dark": at_the_ends(80), "light": at_the_ends(180)})
    assert found.policy != "crop"
    assert found.values["squash"] > 0.85
    assert found.values["crop"] < 0.65
    assert found.differences["crop"].high < -0.1
    assert found.p_better["crop"] == 0
    assert found.num_images == 120
    assert "crop -" in found.reason
    assert "on 120 images" in found.reason


def test_where_squash_destroys_the_class_pad_is_taken(tmp_path):
    found = compared(tmp_path, {"tall": by_shape(60, 20), "wide": by_shape(20, 60)}, metric="accuracy")
    assert found.policy == "pad"
    assert found.differences["pad"].low > 0.1
    assert found.reason.startswith("accuracy +")
    assert "over squash on 120 images, better in 100% of resamples" in found.reason


def test_where_the_policies_agree_squash_stays(tmp_path):
    found = compared(tmp_path, {"dark": everywhere(100), "light": everywhere(150)})
    assert found.policy == "squash"
    assert abs(found.differences["crop"].estimate) < 0.1
    assert "no other is surely better" in found.reason


def test_features_are_cached_and_progress_is_of_all_passes(tmp_path):
    heard = []
    found = compared(
        tmp_path, {"a": everywhere(90), "b": everywhere(160)}, progress=lambda *counts: heard.append(counts)
    )
    assert heard[0] == (0, 360)
    assert heard[-1] == (360, 360)
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    heard.clear()
    manifest = read(tmp_path / "data", cache_dir=tmp_path / "cache").manifest
    again = compare_policies(
        manifest, split(manifest, test=0.0).group_ids, backbone("grid", width=4), choice=choose("torch", "fp32"),
        cache_dir=tmp_path / "cache", progress=lambda *counts: heard.append(counts),
    )  # fmt: skip
    assert (again, heard) == (found, [])


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_differences_are_those_of_the_metric(metric):
    rng = np.random.default_rng(1)
    labels = rng.integers(3, size=300)
    answers = {
        policy: np.where(rng.random(300) < share, labels, rng.integers(3, size=300))
        for policy, share in (("squash", 0.5), ("crop", 0.2), ("pad", 0.9))
    }
    found = choose_policy(labels, answers, group_ids=np.arange(300), num_classes=3, metric=metric)
    exact = {
        policy: getattr(evaluate_predictions(labels, np.eye(3)[answer]), metric) for policy, answer in answers.items()
    }
    assert found.policy == "pad"
    for policy in ("crop", "pad"):
        gain = found.differences[policy]
        assert gain.estimate == pytest.approx(exact[policy] - exact["squash"])
        assert gain.low < gain.estimate < gain.high
    assert found.values == pytest.approx(exact)


def test_squash_is_seldom_left_by_chance():
    rng = np.random.default_rng(0)
    left = 0
    for trial in range(100):
        labels = rng.integers(4, size=150)
        shared = np.where(rng.random(150) < 0.8, labels, rng.integers(4, size=150))
        answers = {
            policy: np.where(rng.random(150) < 0.8, shared, rng.integers(4, size=150))
            for policy in ("squash", "crop", "pad")
        }
        found = choose_policy(
            labels, answers, group_ids=np.arange(150), num_classes=4, metric="accuracy", seed=trial
        )  # fmt: skip
        left += found.policy != "squash"
    assert left <= 20  # 0.1 expected, 3.3 standard errors


def test_groups_are_drawn_together():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=100)
    better = labels.copy()
    worse = np.where(np.arange(100) < 10, 1 - labels, labels)
    answers = {"squash": worse, "crop": better, "pad": worse}
    alone = choose_policy(labels, answers, group_ids=np.arange(100), num_classes=2, metric="accuracy")
    assert alone.policy == "crop"
    together = choose_policy(labels, answers, group_ids=np.arange(100) // 10, num_classes=2, metric="accuracy")
    assert together.policy == "squash"  # all ten that differ are one group, absent from a third of the resamples


def test_the_sample_is_stratified_whole_groups_and_independent_of_order(tmp_path):
    manifest, _ = drawn(tmp_path / "data", {"a": everywhere(100), "b": everywhere(150)}, per_class=3)
    rng = np.random.default_rng(0)
    n = 6000
    many = replace(
        manifest.select(np.zeros(n, np.int64)), labels=np.repeat([0, 1], [5000, 1000]),
        hashes=rng.integers(256, size=(n, 32)).astype(np.uint8), class_names=("a", "b"),
    )  # fmt: skip
    groups = np.arange(n) // 2
    rows = sample(many, groups, 0)
    assert len(rows) == pytest.approx(SAMPLE, abs=4)
    assert (many.labels[rows] == 1).sum() == pytest.approx(SAMPLE / 6, abs=4)
    assert set(np.bincount(groups[rows])) == {0, 2}
    order = rng.permutation(n)
    assert set(order[sample(many.select(order), groups[order], 0)]) == set(rows)
    assert set(sample(many, groups, 1)) != set(rows)


class TestIdle:
    def test_square_images(self):
        sizes = np.full((500, 2), 64, np.int32)
        assert "all images are square:" in (measuring_is_idle(sizes, np.arange(500)) or "")
        sizes[:300, 1] = 70
        assert "all images are nearly square:" in (measuring_is_idle(sizes, np.arange(500)) or "")
        sizes[:20, 1] = 100
        assert "96% of the images" in (measuring_is_idle(sizes, np.arange(500)) or "")
        sizes[:40, 1] = 100
        assert measuring_is_idle(sizes, np.arange(500)) is None

    def test_few_independent_images(self):
        sizes = np.full((500, 2), (60, 90), np.int32)
        assert "99 independent images are too few" in (measuring_is_idle(sizes[:99], np.arange(99)) or "")
        assert "50 independent images" in (measuring_is_idle(sizes, np.arange(500) // 10) or "")
        assert measuring_is_idle(sizes[:100], np.arange(100)) is None
