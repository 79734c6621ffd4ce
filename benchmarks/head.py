"""The solved head against scikit-learn's LogisticRegressionCV: the same rows, folds and strengths.

    python benchmarks/head.py                                   # made-up features, 10,000 x 1280, 10 classes
    python benchmarks/head.py --features F.npz --sklearn-strengths 4

F.npz holds `features` (N, D) and `labels` (N,); the last `--test` rows are for the accuracy. scikit-learn's time
grows with the number of strengths, so it may be given fewer, evenly spread ones; its time is then scaled, and said so.

Last seen (2 cores, Fashion-MNIST through lite0 at 96 px, 10 classes, 5 folds, 20 strengths):

    10,000 rows, idle machine      4.7 s (410 problem iterations; 3.1 s are matrix products, 0.9 s the spectrum)
    4,000 rows, busy machine       10.1 s, accuracy .8580; LogisticRegressionCV 202.6 s for 3 strengths, .8575:
                                   ratio 20 as it is, 134 scaled to 20 strengths
    solved to 1e-8 instead of 1e-5 +0.01 standard errors of the log loss, same choice
    each fold's own statistics     +0.01 standard errors of the log loss
    a replay of the choice         0.7 ms (10,000 rows); ridge with leave-one-out 1.4 s (10,000 rows)

On a machine that others use both are slower by several times, the more so the more threads wait for each other;
compare the ratio.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from regraft.fit.linear_probe import LinearProbe, fit_linear_probe
from regraft.fit.ridge import fit_ridge


def make_features(num: int, width: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features like a backbone's: positive, a heavy-tailed spectrum, classes that differ in a few directions."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num)
    spectrum = np.arange(1, width + 1) ** -0.55
    centres = rng.standard_normal((num_classes, 40)) * 0.75
    latent = rng.standard_normal((num, width)).astype(np.float32)
    latent[:, :40] += centres[labels]
    mixed = (latent * spectrum) @ np.linalg.qr(rng.standard_normal((width, width)))[0].T
    return np.clip(mixed / mixed.std() * 0.7 + 0.5, 0, 6).astype(np.float16), labels


def timed(work: Callable[[], Any], repeats: int = 1) -> tuple[Any, float]:
    """The result and the shortest of some runs, in seconds."""
    best, result = np.inf, None
    for _ in range(repeats):
        began = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - began)
    return result, best


def accuracy(labels: np.ndarray, logits: np.ndarray) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def per_fold_statistics(probe: LinearProbe, features: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Held-out losses (N,) at the chosen strength with the mean and scale of each fold's training part alone."""
    losses = np.empty(len(labels))
    for fold in np.unique(folds):
        train, held = folds != fold, folds == fold
        alone = fit_linear_probe(
            features[train], labels[train], num_classes=len(probe.bias), folds=np.arange(train.sum()) % 2,
            strengths=[probe.strengths[probe.chosen_strength]], taus=[0.0], device="cpu",
        )  # fmt: skip
        logits = alone.predict_logits(features[held]).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        losses[held] = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(held.sum()), labels[held]]
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, help="an .npz with `features` and `labels`; made up unless given")
    parser.add_argument("--num", type=int, default=10_000, help="rows to fit on")
    parser.add_argument("--test", type=int, default=4_000, help="rows for the accuracy")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--strengths", type=int, default=20)
    parser.add_argument("--sklearn-strengths", type=int, default=4, help="0 leaves scikit-learn out")
    parser.add_argument("--repeats", type=int, default=3, help="runs of ours; the shortest counts")
    args = parser.parse_args()

    if args.features:
        with np.load(args.features) as file:
            features, labels = file["features"], file["labels"]
    else:
        features, labels = make_features(args.num + args.test, 1280, 10)
    features, labels = features[: args.num + args.test], labels[: args.num + args.test]
    fresh, fresh_labels = features[args.num :], labels[args.num :]
    features, labels = features[: args.num], labels[: args.num]
    num_classes = int(labels.max()) + 1
    folds = np.random.default_rng(0).permutation(len(labels)) % args.folds
    print(f"{features.shape[0]:,} x {features.shape[1]:,}, {num_classes} classes, {args.folds} folds")

    how = {"num_classes": num_classes, "folds": folds, "device": "cpu"}
    first = fit_linear_probe(features, labels, strengths=[1.0], **how)  # warms the BLAS up
    strengths: object = "auto"
    if args.strengths != 20:
        strengths = np.geomspace(1, 1e-5, args.strengths) * first.strengths[0]
    probe, seconds = timed(lambda: fit_linear_probe(features, labels, strengths=strengths, **how), args.repeats)
    chosen = probe.path[probe.chosen_strength]
    ours = accuracy(fresh_labels, probe.predict_logits(fresh))
    print(f"linear probe, {len(probe.strengths)} strengths: {seconds:.2f} s, accuracy {ours:.4f}; {probe.reason}")
    _, replay = timed(lambda: probe.choose(np.random.default_rng(0).poisson(1, len(labels))), 20)
    print(f"  a bootstrap replay of the choice: {1000 * replay:.2f} ms")

    exact = fit_linear_probe(features, labels, strengths=probe.strengths, tolerance=1e-8, **how)
    moved = exact.path[probe.chosen_strength].log_loss - chosen.log_loss
    same = exact.chosen_strength == probe.chosen_strength
    print(f"  solved to 1e-8: log loss {moved / chosen.log_loss_se:+.4f} standard errors, {same=}")
    apart = per_fold_statistics(probe, features, labels, folds).mean() - chosen.log_loss
    print(f"  statistics of each fold's training part: log loss {apart / chosen.log_loss_se:+.4f} standard errors")

    ridge, ridge_seconds = timed(lambda: fit_ridge(features, labels, num_classes=num_classes), args.repeats)
    plain = accuracy(fresh_labels, ridge.predict_scores(fresh))
    print(f"ridge, leave-one-out: {ridge_seconds:.2f} s, accuracy {plain:.4f}")

    if args.sklearn_strengths:
        from sklearn.linear_model import LogisticRegressionCV
        from sklearn.model_selection import PredefinedSplit

        few = np.unique(np.linspace(0, len(probe.strengths) - 1, args.sklearn_strengths).round().astype(int))
        near = np.unique(np.append(few, probe.chosen_strength))  # it gets the strength that matters, too
        x = ((features - probe.mean) / probe.scale).astype(np.float32)
        model = LogisticRegressionCV(
            Cs=1 / (np.array(probe.strengths)[near] * len(labels) * (1 - 1 / args.folds)),
            cv=PredefinedSplit(folds), scoring="neg_log_loss", use_legacy_attributes=False, l1_ratios=(0.0,),
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it stops at 100 iterations, which only flatters its time
            _, theirs_seconds = timed(lambda: model.fit(x, labels))
        theirs = accuracy(fresh_labels, model.decision_function((fresh - probe.mean) / probe.scale))
        scaled = theirs_seconds * len(probe.strengths) / len(near)
        print(
            f"LogisticRegressionCV, {len(near)} strengths: {theirs_seconds:.1f} s, accuracy {theirs:.4f}; "
            f"scaled to {len(probe.strengths)}: {scaled:.0f} s"
        )
        print(
            f"ratio {scaled / seconds:.1f} (unscaled {theirs_seconds / seconds:.1f}), "
            f"accuracy {100 * (ours - theirs):+.2f} points"
        )


if __name__ == "__main__":
    main()
