"""The audit from Python: who is judged by what, kept measures, groups for a fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from drawn import draw_folder, encode
from regraft import audit_tables, data
from regraft.audit import label_noise
from regraft.auditing import AuditOptions, audit
from regraft.errors import MissingExtraError, UsageError
from regraft.progress import Listener
from regraft.studies import duplicate_groups, pixel_records
from regraft.studies.duplicate_groups import group_near_duplicates, keep_together, kept_sets
from regraft.studies.leak_price import join_groups
from regraft.types import Manifest, Split
from studies.studies_fake import backbone as colours
from test_audit_verb import CLASSES, draw, drawing


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AuditOptions:
    found = colours("colours", noise=0.01, width=4)
    monkeypatch.setattr("regraft.auditing.resolve", lambda name, **_: found)
    return AuditOptions(cache_dir=tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = draw(tmp_path / "photos")
    for number in range(3):  # three copies of blue images, under their own label
        from PIL import Image

        small = Image.fromarray(drawing(number, 0)).resize((34, 34), Image.Resampling.BILINEAR)
        (root / "blue" / f"copy{number}.png").write_bytes(encode(np.asarray(small)))
    return root


class Stages(Listener):
    def __init__(self) -> None:
        self.done: dict[str, int] = {}
        self.stage = ""

    def stage_began(self, name: str) -> None:
        self.stage = name

    def progress(self, done: int, total: int) -> None:
        self.done[self.stage] = total


def test_labels_are_judged_by_heads_that_saw_neither_the_image_nor_its_twin(folder, options, monkeypatch):
    seen = {}

    def spy(labels, pred_probs, **options):
        seen.update(options, pred_probs=pred_probs)
        return label_noise.audit_labels(labels, pred_probs, **options)

    monkeypatch.setattr("regraft.auditing.audit_labels", spy)
    found = audit(data.read(folder), options)
    folds, groups = seen["folds"], seen["group_ids"]
    assert folds.shape == seen["pred_probs"].shape[:2] == (5, 51)  # repeated, each repeat by itself
    sets = found.duplicates.sets
    assert sets.max() == 2
    for number in range(3):
        twins = np.flatnonzero(sets == number)
        assert len(set(groups[twins].tolist())) == 1
        assert (folds[:, twins] == folds[:, twins[:1]]).all()
    assert set(seen["scores"]) == {"ridge"}
    assert not np.array_equal(seen["pred_probs"][0], seen["pred_probs"][1])


def test_a_second_audit_decodes_and_forwards_nothing(folder, options):
    first, again = Stages(), Stages()
    found = audit(data.read(folder), options, listener=first)
    assert first.done["pixels"] == 51
    assert first.done["views"] == 5 * 51
    repeated = audit(data.read(folder), options, listener=again)
    assert "pixels" not in again.done
    assert "views" not in again.done
    assert "extract" not in again.done
    assert list(audit_tables.rows(repeated)) == list(audit_tables.rows(found))


def test_records_survive_the_cache_bit_by_bit(folder, tmp_path):
    manifest = data.read(folder).manifest
    fresh = pixel_records.pixel_records(manifest, cache_dir=tmp_path / "cache")
    kept = pixel_records.pixel_records(manifest, cache_dir=tmp_path / "cache")
    assert fresh.tobytes() == kept.tobytes()
    assert fresh["valid"].all()
    assert fresh["thumbnail"].std(axis=(1, 2)).min() > 0


def test_a_file_that_changed_since_the_scan_is_no_record(folder, tmp_path):
    manifest = data.read(folder).manifest
    manifest.path(4).write_bytes(encode(drawing(77, 1)))
    records = pixel_records.pixel_records(manifest, cache_dir=tmp_path / "cache")
    assert np.flatnonzero(~records["valid"]).tolist() == [4]


def test_images_for_views_depend_on_content_alone(folder):
    manifest = data.read(folder).manifest
    rows = pixel_records.sampled_for_views(manifest, num=20)
    turned = manifest.select(np.arange(len(manifest))[::-1].copy())
    again = pixel_records.sampled_for_views(turned, num=20)
    assert {manifest.hashes[r].tobytes() for r in rows} == {turned.hashes[r].tobytes() for r in again}


def test_options_are_checked_at_once():
    with pytest.raises(UsageError, match="folds"):
        AuditOptions(folds=1)
    with pytest.raises(UsageError, match="metric"):
        AuditOptions(metric="f1")


def test_an_unknown_or_missing_detector_is_refused_before_any_work(folder, options):
    with pytest.raises((UsageError, MissingExtraError)):
        audit(data.read(folder), dataclasses.replace(options, detector="no such"))


def manifest_of(num: int, *, num_classes: int = 2) -> Manifest:
    hashes = np.zeros((num, 32), np.uint8)
    hashes[:, 0] = np.arange(num)
    empty = np.full(num, "", dtype="U1")
    return Manifest(
        root=Path("/nowhere"), images=np.array([f"{i}.png" for i in range(num)]), hashes=hashes,
        labels=np.arange(num) % num_classes, class_names=tuple("abcdef"[:num_classes]), given_splits=empty,
        groups=empty, sizes=np.full((num, 2), 8, np.int32), source="a test",
    )  # fmt: skip


class TestGroupsForAFit:
    def split(self, num: int, test: list[int]) -> Split:
        rows = np.arange(num)
        return Split(
            development=np.setdiff1d(rows, test), test=np.array(test, np.int64), group_ids=rows.copy(), reason="drawn"
        )

    def test_twins_share_a_group_and_twins_of_test_images_leave_development(self):
        sets = np.full(12, -1)
        sets[[0, 2]] = 0  # both in development
        sets[[4, 5, 10]] = 1  # 10 is a test image
        split, words = keep_together(manifest_of(12), self.split(12, [10, 11]), sets)
        assert split.group_ids[0] == split.group_ids[2]
        assert split.development.tolist() == [0, 1, 2, 3, 6, 7, 8, 9]
        assert split.test.tolist() == [10, 11]
        assert [(leak.image, leak.same_as, leak.excluded) for leak in split.leaks] == [
            ("4.png", "10.png", True), ("5.png", "10.png", True),
        ]  # fmt: skip
        assert "2 development images in 1 set" in words
        assert "2 near-duplicates of test images were left out" in words

    def test_the_last_images_of_a_class_stay(self):
        sets = np.full(9, -1)
        sets[[0, 8]] = 0
        sets[[1, 7]] = 1
        manifest = manifest_of(9, num_classes=2)
        manifest = dataclasses.replace(manifest, labels=np.array([0, 1, 1, 1, 1, 1, 1, 1, 0]))
        split, _ = keep_together(manifest, self.split(9, [7, 8]), sets)
        assert 0 in split.development  # the only one of its class
        assert 1 not in split.development

    def test_without_sets_nothing_changes(self):
        split = self.split(6, [5])
        assert keep_together(manifest_of(6), split, np.full(6, -1))[0] is split

    def test_a_fit_reads_what_an_audit_kept(self, folder, options):
        scan = data.read(folder)
        split = data.split(scan.manifest, test=0.2, seed=0)
        before, words = group_near_duplicates(scan.manifest, split, cache_dir=options.cache_dir)
        assert before is split
        assert "regraft audit" in words
        found = audit(scan, options)
        after, words = group_near_duplicates(scan.manifest, split, cache_dir=options.cache_dir)
        assert np.array_equal(kept_sets(options.cache_dir, scan.manifest), found.duplicates.sets)
        joined = join_groups(split.group_ids, found.duplicates.sets)
        assert np.array_equal(after.group_ids, joined)
        assert not set(joined[after.development].tolist()) & set(joined[after.test].tolist())
        assert "near-duplicates" in words

    def test_kept_sets_are_of_exactly_these_images_in_any_order(self, tmp_path):
        manifest = manifest_of(8)
        sets = np.array([0, -1, 0, 1, 1, -1, -1, -1])
        duplicate_groups.keep_sets(tmp_path, manifest, sets)
        order = np.array([3, 1, 4, 0, 2, 7, 6, 5])
        assert kept_sets(tmp_path, manifest.select(order)).tolist() == sets[order].tolist()
        assert kept_sets(tmp_path, manifest.select(order[:7])) is None

    def test_a_damaged_file_of_sets_counts_as_none(self, tmp_path):
        manifest = manifest_of(4)
        duplicate_groups.keep_sets(tmp_path, manifest, np.array([0, 0, -1, -1]))
        (path,) = (tmp_path / "near-duplicates").iterdir()
        path.write_bytes(path.read_bytes()[:20])
        assert kept_sets(tmp_path, manifest) is None


def test_every_row_is_judged_whatever_its_split(tmp_path, options):
    root = draw_folder(tmp_path / "photos", classes=CLASSES, per_class=10, size=(40, 40))
    found = audit(data.read(root), dataclasses.replace(options, test=0.3))
    assert set(found.roles.tolist()) == {"train", "test"}
    assert not found.given
    assert len(found.labels.queue) == 30
    assert sorted(found.labels.queue.tolist()) == list(range(30))
