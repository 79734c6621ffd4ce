"""Which class's next images help most, and what cleaning buys, where the truth is known."""

import numpy as np
from race_fake import Clock, data, run

from regraft.studies.race.arms import Answers
from regraft.studies.race.classes import next_images
from regraft.studies.race.evidence import ArmKey, Evidence, Measurement
from regraft.studies.race.subsets import plan
from regraft.studies.race.values import Resampled


class Unequal:
    """A probe whose class 2 alone still learns; what it is wrong about is spread over the other classes."""

    name, backbone, version = "linear_probe", "drawn", ""

    def __init__(self, labels):
        self.labels = labels

    def measure(self, train_rows, eval_rows, seed):
        rng = np.random.default_rng(seed)
        own = np.bincount(self.labels[train_rows], minlength=4)
        error = np.array([0.1, 0.1, 3 * max(own[2], 1) ** -0.5, 0.1]).clip(0, 0.9)
        labels = self.labels[eval_rows]
        wrong = rng.random(len(labels)) < error[labels]
        return Answers(predicted=np.where(wrong, (labels + rng.integers(1, 4, len(labels))) % 4, labels), seconds=1.0)


def test_the_class_that_still_learns_is_found():
    first = 0
    for seed in range(10):
        labels, ids, hashes = data(60, num_classes=4, seed=seed)
        made = plan(labels, ids, hashes, num_classes=4, num_repeats=3, seed=seed)
        arm, evidence = Unequal(labels), Evidence()
        key = ArmKey(strategy="linear_probe", backbone="drawn")
        for halvings in made.halvings:
            for cell in made.cells(halvings):
                train, judged = made.rows(cell)
                said = arm.measure(train, judged, cell.seed * 10 + halvings)
                evidence.add(
                    Measurement(arm=key, cell=cell, num_train=len(train), rows=judged,
                                predicted=said.predicted.astype(np.int32), seconds=1.0)
                )  # fmt: skip
        resampled = Resampled(labels, ids, 4, "macro_f1", num_draws=100)
        found = next_images(made, evidence, key, resampled, list("abcd"))
        assert {one.class_name for one in found} == set("abcd")
        assert all(0 <= one.gain.low <= one.gain.estimate <= one.gain.high for one in found)
        first += found[0].class_name == "c"
    assert first >= 9


def test_one_size_says_nothing_of_classes():
    found = run({"linear_probe": lambda m: 0.2}, per_class=2, num_classes=4, num_repeats=1)
    assert found.classes == ()


def test_cleaning_is_measured_on_clean_images():
    """A probe that is 10 points better where it does not learn from the suspects."""
    labels, ids, hashes = data(120)
    suspects = np.zeros(360, bool)
    suspects[::6] = True
    clock = Clock()

    class Misled:
        name, backbone, version = "linear_probe", "drawn", ""

        def estimate_seconds(self, num_train):
            return 0.1

        def measure(self, train_rows, eval_rows, seed):
            clock.now += 0.1
            rng = np.random.default_rng([seed, len(train_rows)])
            error = 0.25 if suspects[train_rows].any() else 0.15
            wrong = (rng.random(len(eval_rows)) < error) | suspects[eval_rows]
            return Answers(predicted=np.where(wrong, (labels[eval_rows] + 1) % 3, labels[eval_rows]), seconds=0.1)

    from regraft.studies.race.race import race

    made = plan(labels, ids, hashes, num_classes=3, num_repeats=1)
    found = race(
        made, [Misled()], Evidence(), budget_seconds=100.0, class_names=list("abc"), clock=clock, suspects=suspects
    )  # fmt: skip
    assert found.num_suspects == 60
    assert found.cleaning.low < 0.1 < found.cleaning.high
    assert found.cleaning.low > 0
    assert found[found.reference].value.estimate < 0.7
