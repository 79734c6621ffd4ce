"""Odd data end in a card or in a clear refusal."""

import json
import re

import numpy as np
import pytest
from race_fake import run

from regraft.errors import DataError
from regraft.studies.race.arms import LinearProbeArm
from regraft.studies.race.card_html import html_fragment
from regraft.studies.race.card_png import card_png
from regraft.studies.race.evidence import Evidence
from regraft.studies.race.race import race
from regraft.studies.race.subsets import plan
from regraft.studies.race.words import lines, paragraph

CURVES = {
    "linear_probe": lambda m: np.clip(0.1 + 0.9 * m**-0.5, 0, 0.95),
    "light": lambda m: np.clip(0.1 + 0.8 * m**-0.5, 0, 0.95),
    "lp_ft": lambda m: np.clip(0.05 + 2 * m**-0.5, 0, 0.95),
}


@pytest.mark.parametrize(
    ("counts", "num_classes"),
    [(40, 2), (3, 5), ([30, 30, 1], 3), (2, 2), (2, 500), ([300, 4, 2, 1], 4)],
    ids=["two classes", "three a class", "one of one", "four images", "500 classes", "long tail"],
)
def test_a_card(counts, num_classes):
    found = run(CURVES, per_class=counts, num_classes=num_classes, num_repeats=1, budget=300.0, cost=0.02)
    text = json.dumps(found.as_dict(), allow_nan=False)
    assert json.loads(text)["choice"] in CURVES
    assert paragraph(found)
    assert lines(found)
    assert html_fragment(found).endswith("</section>")
    assert card_png(found, title="x")[:4] == b"\x89PNG"
    if len(np.atleast_1d(counts)) == 1 and counts <= 3 and num_classes < 10:
        assert found.crossing.as_dict() is None


def test_four_images_are_not_enough_to_know():
    found = run(CURVES, per_class=2, num_classes=2, num_repeats=1)
    assert not found.resolved
    assert found.choice.actions


@pytest.mark.parametrize("counts", [[5, 1], [1, 1], [9]])
def test_a_refusal(counts):
    with pytest.raises(DataError, match="two classes with two images each"):
        run(CURVES, per_class=counts)


def test_perfect_arms_are_not_certain_of_little():
    found = run({"linear_probe": lambda m: 0.0011, "lp_ft": lambda m: 0.0011}, per_class=6, num_classes=2)
    assert all(one.value.high - one.value.low > 0.02 for one in found.arms if one.arm.strategy == "lp_ft")


def test_the_linear_probe_learns(tmp_path):
    rng = np.random.default_rng(0)
    counts = [40, 30, 2, 1]
    labels = np.repeat(np.arange(4), counts).astype(np.int64)
    features = (rng.standard_normal((4, 6))[labels] + 0.5 * rng.standard_normal((73, 6))).astype(np.float16)
    hashes = rng.integers(0, 256, (73, 32)).astype(np.uint8)
    groups = np.arange(73)
    probes = [
        LinearProbeArm(features=part, labels=labels, num_classes=4, group_ids=groups, hashes=hashes, backbone=name)
        for name, part in (("all", features), ("noise", rng.standard_normal((73, 2)).astype(np.float16)))
    ]
    made = plan(labels, groups, hashes, num_classes=4, num_repeats=1)
    found = race(made, probes, Evidence(tmp_path), budget_seconds=60.0, class_names=list("abcd"), metric="accuracy")
    by_name = {one.arm.backbone: one for one in found.arms}
    assert by_name["all"].value.estimate > 0.8 > by_name["noise"].value.estimate
    assert found.chosen.backbone == "all"
    assert len(list(tmp_path.glob("*.npz"))) == 2 * len(made.halvings) * made.num_folds


def test_where_only_the_probe_could_be_measured_nothing_is_decided():
    found = run(CURVES, budget=1.0, cost=10.0)
    assert [one.arm.strategy for one in found.arms] == ["linear_probe"]
    assert not found.resolved
    assert not found.as_dict()["resolved"]
    assert found.arms[0].p_best == found.arms[0].p_within == pytest.approx(1 / 3)
    said = paragraph(found)
    assert "nothing but feature extraction could be measured in 1 s" in said
    minutes = int(re.search(r"--budget (\d+)m measures", said).group(1))
    enough = run(CURVES, budget=60.0 * minutes, cost=10.0)
    assert len(enough.arms) > 1
