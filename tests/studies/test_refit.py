"""What decisions are worth: on drawn features with planted label errors, the heads before and after."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from planted_errors import Planted, key, planted

from regraft.data import part
from regraft.data.corrected import Decisions
from regraft.data.scan import Scan
from regraft.errors import DataError
from regraft.studies.refit import Refit, refit
from regraft.types import Verdict


def run(data: Planted, verdicts: dict[tuple[str, str], Verdict], **options) -> Refit:
    scan = Scan(
        manifest=data.manifest, findings=(), num_files=len(data.manifest), source="a test", formats={}, seconds=0.0,
        num_decoded=0, decisions=Decisions(verdicts=verdicts),
    )  # fmt: skip
    given = part(dataclasses.replace(scan, decisions=None))
    corrected = part(scan).corrected
    assert corrected is not None
    return refit(data.features, data.manifest, given.split, corrected, **options)


def test_right_labels_help_and_the_other_images_too():
    data = planted()
    found = run(data, data.right(data.wrong))
    assert found.num_applied == len(data.wrong)
    assert found.development.difference.low > 0
    assert found.development.num_images == 240
    assert found.untouched is not None
    assert found.untouched.num_images == 240 - len(data.wrong)
    assert found.untouched.difference.estimate > 0
    assert found.as_given is not None  # judged by the wrong labels, the better head gains less
    assert found.as_given.difference.estimate < found.development.difference.estimate
    assert "better" in found.words[0]
    assert "lean towards what models say" in found.words[1]


def test_wrong_decisions_hurt_the_images_they_did_not_touch():
    data = planted(share=0.0, n=300)
    rows = [row for row in range(300) if data.truth[row] == 0][:60]
    verdicts = {(key(row), ""): Verdict(item=key(row), action="relabel", label="b") for row in rows}
    found = run(data, verdicts)
    assert found.untouched is not None
    assert found.untouched.difference.high < 0


def test_the_test_set_is_judged_both_ways_and_never_changed():
    data = planted(300, given_test=90)
    found = run(data, data.right(data.wrong))
    assert found.test_as_given is not None
    assert found.test_as_corrected is not None
    assert (found.test_as_given.num_images, found.test_as_corrected.num_images) == (90, 90)
    assert found.test_as_corrected.after.estimate > found.test_as_given.after.estimate
    assert found.development.num_images == 210
    alone = run(data, data.right([row for row in data.wrong if row < 210]))
    assert alone.test_as_corrected is None
    assert alone.test_as_given is not None
    # the head does not know of what was decided about test images
    assert alone.test_as_given.after.estimate == found.test_as_given.after.estimate


def test_nothing_decided_is_no_difference():
    data = planted(60)
    found = run(data, {(key(0), ""): Verdict(item=key(0), action="keep")})
    assert found.development.difference.estimate == 0
    assert found.untouched is None
    assert found.words[0].startswith("No decision changes")


def test_left_out_images_are_not_judged_and_classes_may_come_and_go():
    data = planted(120)
    verdicts = {(key(row), ""): Verdict(item=key(row), action="exclude") for row in range(10)}
    rows = [row for row in range(10, 120) if data.manifest.labels[row] == 2]
    verdicts |= {(key(row), ""): Verdict(item=key(row), action="relabel", label="wasp") for row in rows}
    found = run(data, verdicts)
    assert found.development.num_images == 110
    assert found.corrected.manifest.class_names == ("a", "b", "wasp")
    assert found.development.before.estimate < found.development.after.estimate


def test_one_picture_is_in_one_fold_before_and_after():
    """40 pictures twice under random labels: a head that sees the twin knows the label, and must not."""
    rng = np.random.default_rng(1)
    base = planted(40, share=0.0)
    features = np.concatenate([rng.normal(size=(40, 8))] * 2).astype(np.float32)
    labels = np.tile(rng.integers(0, 2, 40), 2)
    data = planted(80)
    data = Planted(features, labels, dataclasses.replace(data.manifest, labels=labels.astype(np.int64)))
    assert len(base.manifest) == 40
    verdicts = {
        (key(row), key(row + 40)): Verdict(item=key(row), other=key(row + 40), action="duplicate") for row in range(40)
    }
    found = run(data, verdicts, metric="accuracy")
    assert found.development.num_images == 40
    assert found.development.before.estimate < 0.75


def test_a_copy_of_a_test_image_helps_neither_head():
    data = planted(120, given_test=30, share=0.0)
    copy = 0
    features = data.features.copy()
    features[copy] = features[100]
    verdicts = {(key(0), key(100)): Verdict(item=key(0), other=key(100), action="duplicate")}
    found = run(Planted(features, data.truth, data.manifest), verdicts)
    assert found.test_as_given is not None
    assert found.test_as_given.difference.estimate == 0
    assert found.development.num_images == 89


def test_json_and_progress():
    data = planted(90)
    seen: list[tuple[int, int]] = []
    found = run(data, data.right(data.wrong), progress=lambda done, total: seen.append((done, total)))
    record = found.as_dict()
    assert {"metric", "before", "after", "difference", "test", "num_applied", "seconds", "words"} <= set(record)
    assert record["test"] is None
    assert set(record["before"]) == {"estimate", "low", "high", "level"}
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_all_in_one_group_is_refused():
    data = planted(30)
    groups = np.full(30, "one", dtype=np.str_)
    with pytest.raises(DataError, match="two groups"):
        run(Planted(data.features, data.truth, dataclasses.replace(data.manifest, groups=groups)), {})
