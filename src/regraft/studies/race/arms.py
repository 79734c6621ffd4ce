"""What races: a strategy on a backbone that can be trained on some images and asked about others."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from regraft.data.folds import assign_folds
from regraft.features.engines import num_cores
from regraft.fit.linear_probe import fit_linear_probe
from regraft.fit.ridge import fit_ridge
from regraft.studies.decide import Metric
from regraft.studies.race.evidence import ArmKey

NUM_STRENGTHS = 6
"""From 0.3 to 0.0003 of the ridge's penalty: there the out-of-fold loss is lowest, for a third of the head's own 20."""

INNER_FOLDS = 3
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """What a trained arm says.

    Attributes:
        predicted: int (m,), its answer for each row that was asked about.
        seconds: of training and answering.
    """

    predicted: NDArray[np.int64]
    seconds: float


class Arm(Protocol):
    """A strategy on a backbone.

    Attributes:
        name: strategy: linear_probe, light, lp_ft, full or scratch.
        backbone: name of the backbone.
        version: names the settings, weights and transform: evidence of others does not count.
    """

    @property
    def name(self) -> str: ...

    @property
    def backbone(self) -> str: ...

    @property
    def version(self) -> str: ...

    def estimate_seconds(self, num_train: int) -> float:
        """What training on so many images and answering about the others will take, before any was measured."""
        ...

    def measure(self, train_rows: NDArray[np.int64], eval_rows: NDArray[np.int64], seed: int) -> Answers:
        """Train on some development images and answer about others; what they are called is not to be looked at."""
        ...


def key_of(arm: Arm) -> ArmKey:
    """What an arm is known by in the evidence."""
    return ArmKey(strategy=arm.name, backbone=arm.backbone, version=arm.version)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearProbeArm:
    """The solved head on cached features: exact, so a seed matters by its inner folds alone.

    Attributes:
        features: float (N, D) of the development images.
        labels: int64 (N,).
        num_classes: K.
        group_ids: int64 (N,).
        hashes: uint8 (N, 32).
        backbone: its name.
        metric: what the correction for rare classes is chosen for.
        version: the features' fingerprint.
        name: the strategy.
    """

    features: NDArray[Any]
    labels: NDArray[np.int64]
    num_classes: int
    group_ids: NDArray[np.int64]
    hashes: NDArray[np.uint8]
    backbone: str
    metric: Metric = "macro_f1"
    version: str = ""
    name: str = field(default="linear_probe", init=False)

    def estimate_seconds(self, num_train: int) -> float:
        """Some 15 s for 10,000 x 1280 and 10 classes on two cores, and a tenth of a second for nothing at all."""
        width = int(self.features.shape[1])
        return 0.1 + 15.0 * (num_train / 10_000) * (width / 1280) * max(1.0, self.num_classes / 10)

    def measure(self, train_rows: NDArray[np.int64], eval_rows: NDArray[np.int64], seed: int) -> Answers:
        """As `Arm.measure`. Classes that the rows lack are never answered."""
        began = time.perf_counter()
        present, dense = np.unique(self.labels[train_rows], return_inverse=True)
        features = np.asarray(self.features[train_rows], np.float32)
        groups = self.group_ids[train_rows]
        if len(present) < 2:
            predicted = np.full(len(eval_rows), present[0] if len(present) else 0, np.int64)
            return Answers(predicted=predicted, seconds=time.perf_counter() - began)
        with threadpool_limits(limits=num_cores()):
            ridge = fit_ridge(features, dense.astype(np.int64), num_classes=len(present), group_ids=groups)
            num_folds = min(INNER_FOLDS, len(np.unique(groups)))
            scores: NDArray[np.floating[Any]]
            if num_folds < 2:
                scores = ridge.predict_scores(np.asarray(self.features[eval_rows], np.float32))
            else:
                folds = assign_folds(dense, groups, self.hashes[train_rows], num_folds=num_folds, seed=seed)
                strengths = float(ridge.strengths[ridge.chosen]) * np.geomspace(0.3, 0.0003, NUM_STRENGTHS)
                probe = fit_linear_probe(
                    features, dense.astype(np.int64), num_classes=len(present), folds=folds, group_ids=groups,
                    strengths=strengths.tolist(), metric=self.metric, tolerance=TOLERANCE,
                )  # fmt: skip
                scores = probe.predict_logits(self.features[eval_rows])
        return Answers(predicted=present[np.argmax(scores, axis=1)], seconds=time.perf_counter() - began)
