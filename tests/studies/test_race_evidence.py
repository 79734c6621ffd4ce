"""Finished measurements survive a kill, and nothing else is taken for one."""

import numpy as np
from race_fake import run

from regraft.studies.race.evidence import ArmKey, Evidence, Measurement
from regraft.studies.race.subsets import Cell

CURVES = {"linear_probe": lambda m: 0.1 + 0.9 * m**-0.5, "lp_ft": lambda m: 0.05 + 2 * m**-0.5}


def measured(strategy="lp_ft", backbone="weird/näme\udcff", fold=0):
    return Measurement(
        arm=ArmKey(strategy=strategy, backbone=backbone), cell=Cell(halvings=1, repeat=0, fold=fold, seed=7),
        num_train=12, rows=np.arange(5), predicted=np.array([0, 1, 2, 1, 0], np.int32), seconds=1.5,
    )  # fmt: skip


def test_round_trip(tmp_path):
    first = Evidence(tmp_path, data="mine")
    first.add(measured())
    first.add(measured(fold=1))
    again = Evidence(tmp_path, data="mine")
    assert len(again) == 2
    found = again.get(ArmKey(strategy="lp_ft", backbone="weird/näme\udcff"), measured().cell)
    assert found.num_train == 12
    assert found.seconds == 1.5
    np.testing.assert_array_equal(found.predicted, [0, 1, 2, 1, 0])
    assert not list(tmp_path.glob("*.tmp"))
    assert all(path.name.isascii() for path in tmp_path.iterdir())


def test_other_data_and_damage_are_not_evidence(tmp_path):
    ours, theirs = Evidence(tmp_path, data="mine"), Evidence(tmp_path, data="theirs")
    ours.add(measured())
    theirs.add(measured(fold=1))
    assert len(Evidence(tmp_path, data="mine")) == len(Evidence(tmp_path, data="theirs")) == 1
    for number, path in enumerate(sorted(tmp_path.glob("*.npz"))):
        path.write_bytes(path.read_bytes()[: 60 * (number + 1)])
    (tmp_path / "empty.npz").write_bytes(b"")
    again = Evidence(tmp_path, data="mine")
    assert len(again) == 0
    assert len(again.unreadable) == 3


def test_killed_and_resumed_repeats_nothing(tmp_path):
    class Killed(Exception):
        pass

    class Dies(Evidence):
        def add(self, measurement):
            super().add(measurement)
            if len(self) == 34:
                raise Killed

    whole = run(CURVES, evidence=Evidence(tmp_path / "whole", data="d"))
    try:
        run(CURVES, evidence=Dies(tmp_path / "killed", data="d"))
    except Killed:
        pass
    else:
        raise AssertionError("it was not killed")
    before = {path.name for path in (tmp_path / "killed").iterdir()}
    learners = []
    again = run(CURVES, evidence=Evidence(tmp_path / "killed", data="d"), learners=learners)
    trained = sum(len(one.trained) for one in learners)
    assert trained == len(list((tmp_path / "killed").iterdir())) - len(before)
    assert again.as_dict() | {"wall_seconds": 0} == whole.as_dict() | {"wall_seconds": 0}
    learners.clear()
    third = run(CURVES, evidence=Evidence(tmp_path / "killed", data="d"), learners=learners)
    assert not any(one.trained for one in learners)
    assert third.chosen == whole.chosen
