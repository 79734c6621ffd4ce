"""How an image becomes a square, measured: squash, crop and pad of the same images by the same backbone and head.

skip where nothing can be told → a sample of the development images → their features under each policy → held-out
predictions of the ridge, one group left out at a time → paired differences to squash → one policy, with its reason

The cost is two further passes of the backbone over the sample (1,000 images at 300 a second: seven seconds) and three
ridges (about a second each); the third pass is of the policy that is used, and is not made again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft.data.folds import deal
from regraft.evaluate.groups import Groups
from regraft.evaluate.resampled import percentiles
from regraft.features.engines import Choice
from regraft.features.extract import extract
from regraft.fit.ridge import fit_ridge
from regraft.images import ResizePolicy
from regraft.models.backbones import Backbone
from regraft.studies.decide import Metric, measure
from regraft.studies.scores import each
from regraft.types import Interval, Manifest

DEFAULT: ResizePolicy = "squash"
"""What is taken unless another is shown to be better: the whole image, and no pixel spent on bars."""

OTHERS: tuple[ResizePolicy, ...] = ("crop", "pad")

SAMPLE = 1000
"""Images that are compared: where a tenth of the answers differ, 1,000 show a gain of 1.6 points."""

FEWEST = 100
"""Independent images (groups); with fewer, differences below five points drown in noise."""

ELONGATED, ELONGATED_SHARE = 1.1, 0.05
"""Stretching by a tenth changes less than the mildest augmentation does (5/4); and if fewer than one image in twenty is
longer than that, not even all of them turning right would move the accuracy by more than some points."""

SURE = 0.95
"""Two others are tried, so that of ten data sets on which all three are equally good one leaves squash by chance
(simulated, 100 to 1,000 images: 0.08 to 0.11). The estimate of such a run is then too high by a fifth of its standard
error on average (0.2 points at 1,000 images, 0.7 at 100), unless a test set is locked away."""

RESAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeChoice:
    """Which policy, and why.

    Attributes:
        policy: squash, crop or pad.
        reason: in words, with the figures.
        values: policy to its held-out metric; empty where nothing was measured.
        differences: crop and pad to their paired difference to squash, with interval.
        p_better: crop and pad to the share of resamples in which they are better than squash.
        num_images: compared.
    """

    policy: ResizePolicy
    reason: str
    values: Mapping[ResizePolicy, float] = field(default_factory=dict)
    differences: Mapping[ResizePolicy, Interval] = field(default_factory=dict)
    p_better: Mapping[ResizePolicy, float] = field(default_factory=dict)
    num_images: int = 0


def measuring_is_idle(sizes: NDArray[np.int32], group_ids: NDArray[np.int64]) -> str | None:
    """Why the policies need not or cannot be compared on these images, in words; None where they can.

    Args:
        sizes: int32 (n, 2), height and width of the development images.
        group_ids: int64 (n,).
    """
    sides = np.maximum(sizes, 1).astype(np.float64)
    ratios = sides.max(axis=1) / sides.min(axis=1)
    if (ratios == 1).all():
        return "all images are square: nothing is stretched, cut off or framed"
    nearly = float((ratios <= ELONGATED).mean())
    if nearly >= 1 - ELONGATED_SHARE:
        which = "all images" if nearly == 1 else f"{nearly:.0%} of the images"
        return f"{which} are nearly square: nothing is much stretched, and nothing is cut off"
    num_groups = len(np.unique(group_ids))
    if num_groups < FEWEST:
        return (
            f"the whole image is used, nothing is cut off ({num_groups:,} independent images are too few to measure "
            f"another by, {FEWEST} are needed)"
        )
    return None


def compare_policies(
    manifest: Manifest,
    group_ids: NDArray[np.int64],
    backbone: Backbone,
    *,
    choice: Choice,
    cache_dir: Path,
    metric: Metric = "macro_f1",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ResizeChoice:
    """Measure the three policies on a sample and choose one.

    Args:
        manifest: development images only; test images take no part.
        group_ids: int64 (n,); images of one group are in the sample together, and held out together.
        backbone: with the transform that is used, but for its policy.
        choice: engine and precision.
        cache_dir: where features are kept.
        metric: what is compared.
        seed: of the sample and the resamples.
        progress: called with (images done, images to do).
    """
    rows = sample(manifest, group_ids, seed)
    some, groups = manifest.select(rows), group_ids[rows]
    if choice.engine == "compiled":  # compiling for each pass would take longer than the passes
        choice = dataclasses.replace(choice, engine="torch")
    values, failed = {}, np.zeros(len(some), bool)
    for done, policy in enumerate((DEFAULT, *OTHERS)):
        transform = dataclasses.replace(backbone.transform, policy=policy)
        share = None if progress is None else _share(progress, done)
        found = extract(some, backbone, transform=transform, choice=choice, cache_dir=cache_dir, progress=share)
        values[policy] = found.values
        failed[found.failed] = True
    classes, labels = np.unique(some.labels[~failed], return_inverse=True)
    groups, labels = groups[~failed], labels.reshape(-1).astype(np.int64)
    if len(classes) < 2:
        return ResizeChoice(policy=DEFAULT, reason="the whole image is used, nothing is cut off")

    def predicted(policy: ResizePolicy) -> NDArray[np.int64]:
        ridge = fit_ridge(values[policy][~failed], labels, num_classes=len(classes), group_ids=groups)
        return np.asarray(ridge.oof_scores.argmax(axis=1), np.int64)

    policies = (DEFAULT, *OTHERS)
    answers = dict(zip(policies, each(predicted, policies), strict=True))
    return choose_policy(labels, answers, group_ids=groups, num_classes=len(classes), metric=metric, seed=seed)


def choose_policy(
    labels: NDArray[np.int64],
    predicted: Mapping[ResizePolicy, NDArray[np.int64]],
    *,
    group_ids: NDArray[np.int64],
    num_classes: int,
    metric: Metric,
    seed: int = 0,
) -> ResizeChoice:
    """Squash, unless another is better in 95 of 100 resamples of the groups; of two such the one with more.

    Args:
        labels: int64 (n,), 0..K-1.
        predicted: policy to held-out predictions, int64 (n,).
        group_ids: int64 (n,); drawn together, all policies alike.
        num_classes: K.
        metric: what is compared.
        seed: of the resamples.
    """
    groups = Groups.of(group_ids, len(labels))
    weights = np.stack(list(groups.resample(RESAMPLES, seed)))[:, groups.index]
    weights = np.concatenate([np.ones((1, len(labels))), weights])  # the first is the estimate
    found = {policy: measure(metric, labels, answer, weights, num_classes) for policy, answer in predicted.items()}
    differences: dict[ResizePolicy, Interval] = {}
    p_better: dict[ResizePolicy, float] = {}
    for policy in OTHERS:
        gains = found[policy] - found[DEFAULT]
        estimate, draws = float(gains[0]), gains[1:]
        low, high = (float(end) for end in percentiles(draws, groups.number, 0.95))
        differences[policy] = Interval(estimate=estimate, low=min(low, estimate), high=max(high, estimate))
        p_better[policy] = float((draws > 1e-12).mean() + (np.abs(draws) <= 1e-12).mean() / 2)
    better = [policy for policy in OTHERS if p_better[policy] >= SURE and differences[policy].estimate > 0]
    best = max(better, key=lambda policy: differences[policy].estimate) if better else DEFAULT
    return ResizeChoice(
        policy=best,
        reason=_reason(best, differences, p_better, metric, len(labels)),
        values={policy: float(values[0]) for policy, values in found.items()},
        differences=differences,
        p_better=p_better,
        num_images=len(labels),
    )


def sample(manifest: Manifest, group_ids: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Up to about 1,000 rows, in order: classes in proportion, groups whole, decided by content and seed."""
    num = len(manifest)
    if num <= SAMPLE:
        return np.arange(num)
    shares = np.array([SAMPLE / num, 1 - SAMPLE / num])
    return np.flatnonzero(deal(manifest.labels, group_ids, manifest.hashes, shares, seed=seed) == 0)


def _reason(
    best: ResizePolicy,
    differences: Mapping[ResizePolicy, Interval],
    p_better: Mapping[ResizePolicy, float],
    metric: Metric,
    num: int,
) -> str:
    name = metric.replace("_", " ").replace("f1", "F1")

    def points(policy: ResizePolicy) -> str:
        gain = differences[policy]
        return f"{100 * gain.estimate:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"

    if best != DEFAULT:
        return f"{name} {points(best)} over {DEFAULT} on {num:,} images, better in {p_better[best]:.0%} of resamples"
    against = ", ".join(f"with {policy} {points(policy)}" for policy in OTHERS)
    return f"nothing is cut off, and no other is surely better: {name} {against} on {num:,} images"


def _share(progress: Callable[[int, int], None], passes_done: int) -> Callable[[int, int], None]:
    total_passes = 1 + len(OTHERS)
    return lambda done, total: progress(passes_done * total + done, total_passes * total)
