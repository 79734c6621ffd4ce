"""Arms that train a network: `light`, `lp_ft`, `full` and `scratch`, each with the settings that `fit` gives it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from regraft.data.folds import assign_folds
from regraft.fit.linear_probe import fit_linear_probe
from regraft.fit.recipes import Recipe
from regraft.fit.strategies import Facts, settings_for
from regraft.models.backbones import Backbone, untrained
from regraft.studies.decide import Metric
from regraft.studies.race.arms import INNER_FOLDS, Answers
from regraft.types import Manifest

if TYPE_CHECKING:
    from regraft.studies.race.pace import Pace

START_SECONDS = 5.0
"""Of a training: the network is built, the head solved, the loop set up."""

_TIMED: dict[tuple[str, str, int, bool], tuple[Pace, int | None]] = {}

ABSENT = -30.0
"""Bias of a class that the training images lack: it is never answered, and the loss stays finite."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TunedArm:
    """A strategy of the ladder on a backbone.

    Nothing is chosen on the images that are judged: there is no validation part, and the last epoch is taken, as `fit`
    does where it cross-validates. Every arm has the settings that published recipes give it, and no other tuning.

    Attributes:
        name: light, lp_ft, full or scratch.
        manifest: the images; rows are its rows.
        features: float (N, D) of the backbone before training, for the solved head that `light` and `lp_ft` begin with.
        group_ids: int64 (N,).
        trunk: the backbone with the transform that is used.
        images_per_second: of the extraction, an image read from its file included.
        metric: accuracy, balanced_accuracy or macro_f1.
        cache_dir: where facts about backbones are kept.
        asked: settings that are not left to `auto`.
    """

    name: str
    manifest: Manifest
    features: NDArray[Any]
    group_ids: NDArray[np.int64]
    trunk: Backbone
    images_per_second: float
    metric: Metric
    cache_dir: Path
    asked: dict[str, Any] = field(default_factory=dict)

    @property
    def backbone(self) -> str:
        return self.trunk.name

    @property
    def version(self) -> str:
        """Of weights, transform and the settings for all images."""
        recipe = self._recipe(len(self.manifest), None)
        told = {
            "weights": self.trunk.weights_hash, "transform": self.trunk.transform.as_dict(), "metric": self.metric,
            "settings": {name: choice.value for name, choice in recipe.items() if name != "cached_views"},
        }  # fmt: skip
        return blake3(json.dumps(told, sort_keys=True, default=str).encode("utf-8")).hexdigest()[:12]

    def estimate_seconds(self, num_train: int) -> float:
        """From a few steps, taken once: by the time of one on noise, and that of reading an image."""
        pace, kept = self._pace()
        recipe = self._recipe(num_train, kept)
        epochs, views = int(recipe["epochs"].value), int(recipe["cached_views"].value)
        read = 1 / max(self.images_per_second, 1e-6)
        each = epochs * pace.train + (views * (pace.prefix + read) if views else epochs * read)
        answered = len(self.manifest) / 5  # the images of a fold
        return START_SECONDS + num_train * each + answered * (pace.answer + read)

    def _pace(self) -> tuple[Pace, int | None]:
        """What an image costs in training, and the bytes of its kept activations; timed once in a process."""
        # whatever trains the whole network costs the same
        part = (self.trunk.name, self.trunk.weights_hash, self.trunk.transform.size, self.name == "light")
        if part not in _TIMED:
            import torch

            from regraft.fit.fine_tune import activation_bytes
            from regraft.fit.strategies import settled
            from regraft.studies.race.pace import training_pace

            with torch.random.fork_rng(devices=[]):
                module = self.trunk.build()
                kept = activation_bytes(module, self.trunk.transform.size) if self.name == "light" else None
                settings = settled(self._recipe(len(self.manifest), kept))
                _TIMED[part] = training_pace(module, settings, self.trunk.transform), kept
        return _TIMED[part]

    def measure(self, train_rows: NDArray[np.int64], eval_rows: NDArray[np.int64], seed: int) -> Answers:
        """As `Arm.measure`. Imports come before the clock: they are no part of what the next training costs."""
        import torch

        from regraft.fit.fine_tune import activation_bytes, fine_tune
        from regraft.fit.inputs import Images

        began = time.perf_counter()
        with torch.random.fork_rng(devices=[]):
            module = self._begin(seed).build()
        size = self.trunk.transform.size
        recipe = self._recipe(len(train_rows), activation_bytes(module, size) if self.name == "light" else None)
        labels = self.manifest.labels

        tuned = fine_tune(
            module, recipe, Images.of(self.manifest, train_rows), None, test=Images.of(self.manifest, eval_rows),
            num_classes=self.manifest.num_classes, transform=self.trunk.transform, metric=self.metric, seed=seed,
            head=self._head(train_rows, seed) if self.name in ("light", "lp_ft") else None,
        )  # fmt: skip
        assert tuned.test_logits is not None
        logits = tuned.test_logits.copy()
        present = np.bincount(labels[train_rows], minlength=logits.shape[1]) > 0
        logits[:, ~present] = -np.inf
        return Answers(predicted=np.argmax(logits, axis=1), seconds=time.perf_counter() - began)

    def _recipe(self, num_train: int, activation_bytes: int | None) -> Recipe:
        facts = Facts(
            num_images=num_train, num_classes=self.manifest.num_classes, image_size=self.trunk.transform.size,
            device=_device(), activation_bytes=activation_bytes, has_validation=False,
        )  # fmt: skip
        return settings_for(self.name, facts, self.asked)

    def _begin(self, seed: int) -> Backbone:
        return self.trunk if self.name != "scratch" else untrained(self.trunk, cache_dir=self.cache_dir, seed=seed)

    def _head(self, rows: NDArray[np.int64], seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Solved on these rows alone, for all classes."""
        present, dense = np.unique(self.manifest.labels[rows], return_inverse=True)
        weight = np.zeros((self.manifest.num_classes, self.features.shape[1]), np.float32)
        bias = np.full(self.manifest.num_classes, ABSENT, np.float32)
        groups = self.group_ids[rows]
        num_folds = min(INNER_FOLDS, len(np.unique(groups)))
        if len(present) < 2 or num_folds < 2:
            bias[present] = 0.0
            return weight, bias
        folds = assign_folds(dense, groups, self.manifest.hashes[rows], num_folds=num_folds, seed=seed)
        probe = fit_linear_probe(
            self.features[rows], dense.astype(np.int64), num_classes=len(present), folds=folds, group_ids=groups,
            metric=self.metric, taus=(0.0,),
        )  # fmt: skip
        weight[present], bias[present] = probe.weight, probe.bias - probe.prior_adjustment
        return weight, bias


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
