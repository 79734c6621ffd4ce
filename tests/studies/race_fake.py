"""Learners whose learning curves are known, and data that hold nothing but labels."""

from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from regraft.studies.race.arms import Answers
from regraft.studies.race.evidence import Evidence
from regraft.studies.race.race import race
from regraft.studies.race.subsets import plan

_inverse = np.vectorize(NormalDist().inv_cdf)


class Clock:
    """Time that passes when somebody works."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@dataclass
class Learner:
    """Answers rightly with probability 1 - error(number of training images), each image with a difficulty of its own.

    What an image is, all learners share to `alike`; what a training is, moves the error by `training_sd`.
    """

    name: str
    error: object
    labels: np.ndarray
    num_classes: int
    clock: Clock
    seconds_per_image: float = 0.01
    training_sd: float = 0.004
    alike: float = 0.7
    wrong_estimate: float = 1.0
    backbone: str = "drawn"
    version: str = ""
    images: int = 0
    trained: list = field(default_factory=list)

    def estimate_seconds(self, num_train):
        return self.seconds_per_image * num_train / self.wrong_estimate

    def measure(self, train_rows, eval_rows, seed):
        assert not set(train_rows.tolist()) & set(eval_rows.tolist())
        self.trained.append((len(train_rows), seed))
        rng = np.random.default_rng([seed, len(train_rows), sum(self.name.encode())])
        shared = np.random.default_rng(self.images).standard_normal(len(self.labels))[eval_rows]
        error = np.clip(self.error(len(train_rows)) + self.training_sd * rng.standard_normal(), 1e-3, 0.999)
        hard = np.sqrt(self.alike) * shared + np.sqrt(1 - self.alike) * rng.standard_normal(len(eval_rows))
        right = hard < _inverse(1 - error)
        other = (self.labels[eval_rows] + rng.integers(1, self.num_classes, len(eval_rows))) % self.num_classes
        seconds = self.seconds_per_image * len(train_rows)
        self.clock.now += seconds
        return Answers(predicted=np.where(right, self.labels[eval_rows], other), seconds=seconds)


def data(per_class, num_classes=3, seed=0, groups=None):
    """labels, group ids, hashes."""
    counts = np.full(num_classes, per_class) if np.isscalar(per_class) else np.asarray(per_class)
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    hashes = np.random.default_rng(seed).integers(0, 256, (len(labels), 32)).astype(np.uint8)
    ids = np.arange(len(labels)) if groups is None else np.arange(len(labels)) // groups
    return labels, ids.astype(np.int64), hashes


def run(
    curves, *, per_class=100, num_classes=3, budget=1000.0, seed=0, cost=0.2, folder=None, learners=None, **options
):
    """A race of learners: `curves` are name → error; the first is the probe, the others cost `cost` s an image."""
    labels, groups, hashes = data(per_class, num_classes, seed=seed)
    num_classes = int(labels.max()) + 1
    made = plan(labels, groups, hashes, num_classes=num_classes, num_repeats=options.pop("num_repeats", 2), seed=seed)
    clock = Clock()
    arms = [
        Learner(name, error, labels, num_classes, clock, 0.001 if name == "linear_probe" else cost, images=seed)
        for name, error in curves.items()
    ]
    if learners is not None:
        learners.extend(arms)
    evidence = options.pop("evidence", None)
    evidence = Evidence(folder, data="drawn") if evidence is None else evidence  # an empty one is false
    return race(
        made, arms, evidence, budget_seconds=budget, class_names=[f"class {k}" for k in range(num_classes)],
        clock=clock, **options,
    )  # fmt: skip
