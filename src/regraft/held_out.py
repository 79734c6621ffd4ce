"""What the model says of images it has not seen, and how good that is: the honest estimate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from regraft.evaluate import calibration, intervals
from regraft.export.bundle import Head
from regraft.fit.linear_probe import LinearProbe
from regraft.outcome import Evaluated, evaluated
from regraft.types import Features, Manifest, Predictions, Split


def calibrated_head(probe: LinearProbe) -> Head:
    """The solved head with the temperature that its held-out logits ask for, each repeat by itself."""
    logits = probe.oof_chosen_logits()
    flat = logits.reshape(-1, logits.shape[-1])
    temperature = calibration.fit_temperature(flat, np.tile(probe.labels, probe.num_repeats))
    return Head(weight=probe.weight, bias=probe.bias, temperature=temperature)


def held_out_predictions(
    manifest: Manifest, split: Split, features: Features, probe: LinearProbe, head: Head
) -> Predictions:
    """Probabilities of every image by a model that has not seen it: out of fold, or on the locked test set."""
    rows = np.concatenate([split.development, split.test])  # a leaking or test-only image is in neither
    out_of_fold = np.arange(len(rows)) < len(split.development)
    held_out = calibration.softmax(probe.oof_chosen_logits(), temperature=head.temperature).mean(axis=0)
    return Predictions(
        images=np.array(manifest.names, dtype=object)[rows],
        pred_probs=np.concatenate([held_out, head.pred_probs(features.values[split.test])]),
        class_names=manifest.class_names,
        labels=manifest.labels[rows],
        split=np.where(out_of_fold, "train", "test"),
        out_of_fold=out_of_fold,
    )


def estimate(
    manifest: Manifest, split: Split, predictions: Predictions, probe: LinearProbe, head: Head, seed: int
) -> Evaluated:
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
    repeats, num_classes = probe.num_repeats, manifest.num_classes

    def probabilities(strength: int, tau: int) -> NDArray[np.float64]:
        logits = probe.oof_adjusted_logits(strength, tau).reshape(-1, num_classes)
        return calibration.softmax(logits, temperature=head.temperature)

    found = intervals.selection_bootstrap(
        np.tile(development, repeats),
        choose=lambda weights: probe.choose(weights[: len(rows)]),
        probabilities=probabilities,
        group_ids=np.tile(split.group_ids[rows], repeats),
        seed=seed,
    )
    return evaluated("cv", found, part, development)
