"""What the model says of images it has not seen, and how good that is: the honest estimate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate import calibration, intervals
from regraft.export.bundle import Head
from regraft.fit.linear_probe import LinearProbe
from regraft.outcome import Evaluated, evaluated
from regraft.types import JSON, Features, Manifest, Predictions, Split

if TYPE_CHECKING:
    from regraft.studies.bakeoff import BakeOff


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solved:
    """A solved head, and what is needed to judge it honestly: also how it was chosen.

    Attributes:
        head: on all development images, calibrated.
        oof_logits: float32 (R, n, K), of the choice, by heads that never saw the image; each repeat by itself.
        choose: weights of the images (n,), such as a bootstrap's counts → what would have been chosen on them.
        logits_of: that choice → its out-of-fold logits (R, n, K).
        reason: the choice in words.
        remedies: the comparison of remedies for rare classes, or None.
    """

    head: Head
    oof_logits: NDArray[np.float32]
    choose: Callable[[NDArray[np.float64]], tuple[int, int]]
    logits_of: Callable[[int, int], NDArray[np.float32]]
    reason: str
    remedies: JSON | None = None


def solved_probe(probe: LinearProbe) -> Solved:
    """The linear probe, with the temperature that its held-out logits ask for, each repeat by itself."""
    logits = probe.oof_chosen_logits()
    flat = logits.reshape(-1, logits.shape[-1])
    temperature = calibration.fit_temperature(flat, np.tile(probe.labels, probe.num_repeats))
    return Solved(
        head=Head(weight=probe.weight, bias=probe.bias, temperature=temperature), oof_logits=logits,
        choose=probe.choose, logits_of=probe.oof_adjusted_logits, reason=probe.reason,
    )  # fmt: skip


def solved_remedy(found: BakeOff) -> Solved:
    """The remedy for rare classes that the comparison picked."""
    return Solved(
        head=found.head(), oof_logits=found.oof_logits(), choose=lambda weights: (found.choose(weights), 0),
        logits_of=lambda number, _: found.oof_logits(found.rows[number].name), reason=found.reason,
        remedies=found.as_dict(),
    )  # fmt: skip


def held_out_predictions(manifest: Manifest, split: Split, features: Features, solved: Solved) -> Predictions:
    """Probabilities of every image by a model that has not seen it: out of fold, or on the locked test set."""
    rows = np.concatenate([split.development, split.test])  # a leaking or test-only image is in neither
    out_of_fold = np.arange(len(rows)) < len(split.development)
    held_out = calibration.softmax(solved.oof_logits, temperature=solved.head.temperature).mean(axis=0)
    return Predictions(
        images=np.array(manifest.names, dtype=object)[rows],
        pred_probs=np.concatenate([held_out, solved.head.pred_probs(features.values[split.test])]),
        class_names=manifest.class_names,
        labels=manifest.labels[rows],
        split=np.where(out_of_fold, "train", "test"),
        out_of_fold=out_of_fold,
        group_ids=split.group_ids[rows],
    )


def estimate(manifest: Manifest, split: Split, predictions: Predictions, solved: Solved, seed: int) -> Evaluated:
    """On the locked test set, touched here and only here; without one, out of fold with the choice bootstrapped too."""
    development = manifest.labels[split.development]
    assert predictions.out_of_fold is not None
    assert predictions.labels is not None
    rows = split.test if len(split.test) else split.development
    chosen = predictions.out_of_fold == (len(split.test) == 0)
    part = Predictions(
        images=np.asarray(predictions.images)[chosen],
        pred_probs=predictions.pred_probs[chosen],
        class_names=predictions.class_names,
        labels=predictions.labels[chosen],
    )
    if len(split.test):
        found = intervals.group_bootstrap(
            manifest.labels[rows], part.pred_probs, group_ids=split.group_ids[rows], seed=seed
        )
        return evaluated("test", found, part, development)

    # Every repeat is judged by itself, since one head is used, not the mean of several; a row's repeats are one group.
    repeats, num_classes = len(solved.oof_logits), manifest.num_classes

    def probabilities(*choice: int) -> NDArray[np.float64]:
        logits = solved.logits_of(*choice).reshape(-1, num_classes)
        return calibration.softmax(logits, temperature=solved.head.temperature)

    found = intervals.selection_bootstrap(
        np.tile(development, repeats),
        choose=lambda weights: solved.choose(weights[: len(rows)]),
        probabilities=probabilities,
        group_ids=np.tile(split.group_ids[rows], repeats),
        seed=seed,
    )
    return evaluated("cv", found, part, development)
