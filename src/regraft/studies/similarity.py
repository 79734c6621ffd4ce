"""How far the images are from what a backbone was trained on, without having those data. It explains, never decides.

    drift        batch-norm inputs against the running statistics, KL of Gaussians per channel (arXiv 2107.00191)
    source fit   (LEEP + H(Y)) / H(Y): how much the original classifier's answers tell about the labels
    reuse gain   held-out accuracy, pretrained minus the same network with random weights
    depth gain   held-out accuracy, last features minus the best stage before: early stages win far from photographs

Each has an interval, and where it can be, a place between ordinary photographs (0: crops of the two that scikit-learn
brings, the only ones always at hand) and pixel noise (1). One pass of at most 256 images; this needs torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regraft import data as data_stage
from regraft.data import Scan
from regraft.errors import BackboneError, DataError, ImageError
from regraft.evaluate.calibration import softmax
from regraft.evaluate.groups import Groups
from regraft.evaluate.intervals import group_bootstrap, paired_difference
from regraft.files import default_cache_dir
from regraft.fit.ridge import fit_ridge
from regraft.images import Transform, preprocess
from regraft.models.backbones import Backbone, resolve
from regraft.progress import Listener, Stopwatch
from regraft.studies.activations import Seen, look, look_untrained
from regraft.studies.profile import Measure, Profile
from regraft.studies.references import NUM_REFERENCES, Pixels, noise, photographs
from regraft.studies.source_head import Head, source_head, source_probs
from regraft.studies.transferability import leep
from regraft.types import JSON, Interval

NUM_RESAMPLES = 300


def similarity_profile(
    data: str | Path | Scan,
    backbone: str | Backbone = "tf_efficientnet_lite0",
    *,
    max_images: int = 256,
    seed: int = 0,
    cache_dir: Path | None = None,
    listener: Listener | None = None,
) -> Profile:
    """Measure how far labelled images are from a backbone's training data.

    Args:
        data: what `read` takes, or what it gave; development images alone are looked at.
        backbone: whose training data are meant.
        max_images: drawn by seed where there are more; several hundred say it well enough.
        seed: of the draw, the noise and the random weights.
        cache_dir: where scans are remembered.
        listener: hears of progress.

    Raises:
        DataError: fewer than two classes, or no image that can be read.
        BackboneError: the backbone is not to be had.
    """
    listener = listener if listener is not None else Listener()
    cache_dir = cache_dir if cache_dir is not None else default_cache_dir()
    watch = Stopwatch(listener)
    with watch.stage("scan"):
        scan = data if isinstance(data, Scan) else data_stage.read(
            data, cache_dir=cache_dir, progress=listener.progress
        )  # fmt: skip
    manifest = scan.manifest.select(scan.manifest.labels >= 0)
    split = data_stage.split(manifest, seed=seed)
    rng = np.random.default_rng(seed)
    rows = split.development[np.sort(rng.permutation(len(split.development))[:max_images])]
    found, notes = _staged(backbone, cache_dir)
    transform = dataclasses.replace(found.transform, policy="squash")
    found = found.at(transform)
    pixels, kept = [], []
    for row in rows.tolist():
        try:
            pixels.append(preprocess(manifest.path(row).read_bytes(), transform))
            kept.append(row)
        except (OSError, ImageError):
            continue
    labels = np.unique(manifest.labels[kept], return_inverse=True)[1].astype(np.int64)
    if len(kept) < 2 or labels.max(initial=0) < 1:
        raise DataError(f"a similarity profile needs two classes of readable images: {len(kept)} could be read")
    with watch.stage("look"):
        return _profile(
            found, np.stack(pixels), labels, split.group_ids[kept], transform, seed, cache_dir, notes, listener.progress
        )


def _staged(backbone: str | Backbone, cache_dir: Path) -> tuple[Backbone, list[str]]:
    if isinstance(backbone, Backbone):
        return backbone, []
    try:
        return resolve(f"{backbone.removesuffix('+stages')}+stages", cache_dir=cache_dir), []
    except BackboneError as error:
        return resolve(backbone, cache_dir=cache_dir), [f"no accuracy by depth: {error}"]


def _profile(
    backbone: Backbone, pixels: Pixels, labels: NDArray[np.int64], groups: NDArray[np.int64], transform: Transform,
    seed: int, cache_dir: Path, notes: list[str], progress: Callable[[int, int], None],
) -> Profile:  # fmt: skip
    module = backbone.build()
    sets = {
        "given": (pixels, labels, groups),
        "photographs": (*photographs(transform, seed=seed), np.arange(NUM_REFERENCES)),
        "noise": (*noise(transform, seed=seed), np.arange(NUM_REFERENCES)),
    }
    total = 2 * sum(len(images) for images, _, _ in sets.values())
    done = 0
    seen: dict[str, Seen] = {}
    untrained: dict[str, NDArray[np.float32]] = {}
    for name, (images, _, _) in sets.items():
        seen[name] = look(module, images, transform)
        progress(done := done + len(images), total)
    random = look_untrained(module, transform, seed=seed)
    for name, (images, _, _) in sets.items():
        untrained[name] = random(images)
        progress(done := done + len(images), total)
    slices = dict(backbone.slices)
    low, high = slices["final"]
    head = source_head(backbone, cache_dir=cache_dir)
    measures = []
    layers: tuple[JSON, ...] = ()
    if seen["given"].layers:
        drift, layers = _drift(seen, groups)
        measures.append(drift)
    else:
        notes.append("no drift: this network has no batch norm, so it kept no statistics of its training data")
    if head is not None and head[0].shape[1] == high - low:
        measures.append(_source_fit({k: (seen[k].features[:, low:high], *sets[k][1:]) for k in sets}, head))
    else:
        notes.append("no source fit: the original classifier is not at hand")
    judged = {
        name: {stage: _held_out(seen[name].features[:, a:b], *sets[name][1:]) for stage, (a, b) in slices.items()}
        for name in sets
    }
    blind = {name: _held_out(untrained[name][:, low:high], *sets[name][1:]) for name in sets}
    pairs = {name: (judged[name]["final"], blind[name]) for name in sets}
    measures.append(
        _difference("reuse_gain", pairs, sets, "accuracy that is owed to the pretrained weights, not to the network")
    )
    stages: list[tuple[str, Interval]] = []
    if len(slices) > 1:
        early = {name: _best_early(judged[name], sets[name][1]) for name in sets}
        pairs = {name: (judged[name]["final"], judged[name][early[name]]) for name in sets}
        measures.append(
            _difference(
                "depth_gain", pairs, sets,
                f"accuracy of the end over the best stage before ({early['given']}); below 0 early stages win",
            )
        )  # fmt: skip
        stages = [
            (stage, group_bootstrap(labels, probs, group_ids=groups, num_resamples=NUM_RESAMPLES)["accuracy"])
            for stage, probs in judged["given"].items()
        ]
    return Profile(
        backbone=backbone.name.removesuffix("+stages"), num_images=len(labels), measures=tuple(measures),
        layers=layers, stages=tuple(stages), notes=tuple(notes),
    )  # fmt: skip


def kl_of_moments(
    mean: NDArray[np.float64], square: NDArray[np.float64], run_mean: NDArray[np.float64], run_var: NDArray[np.float64]
) -> NDArray[np.float64]:
    """KL(N(mean, square - mean²) ‖ N(run_mean, run_var)) per channel, (..., C)."""
    # A channel that is constant here, or was in training, is far but not infinitely so.
    variance = np.maximum(square - mean**2, 1e-5 * np.maximum(run_var, 1e-8))
    scale = np.maximum(run_var, 1e-8)
    return np.asarray(0.5 * (np.log(scale / variance) + (variance + (mean - run_mean) ** 2) / scale - 1))


def _drift(seen: dict[str, Seen], groups: NDArray[np.int64]) -> tuple[Measure, tuple[JSON, ...]]:
    members = Groups.of(groups, len(groups))
    weights = np.stack([counts[members.index] for counts in members.resample(NUM_RESAMPLES, 0)])
    weights /= weights.sum(axis=1, keepdims=True)
    rows = []
    draws = np.zeros(NUM_RESAMPLES)
    totals = dict.fromkeys(seen, 0.0)
    for number, layer in enumerate(seen["given"].layers):
        values = {}
        for name, one in seen.items():
            here = one.layers[number]
            values[name] = float(
                kl_of_moments(here.means.mean(axis=0), here.squares.mean(axis=0), here.run_mean, here.run_var).mean()
            )
            totals[name] += np.log(values[name])
        drawn = kl_of_moments(weights @ layer.means, weights @ layer.squares, layer.run_mean, layer.run_var).mean(
            axis=1
        )
        draws += np.log(drawn)
        rows.append({"layer": layer.name, "drift": _pivotal(values["given"], drawn).as_dict()} | {
            name: values[name] for name in ("photographs", "noise")
        })  # fmt: skip
    count = len(rows)
    value = {name: float(np.exp(total / count)) for name, total in totals.items()}
    measure = _placed(
        "drift", _pivotal(value["given"], np.exp(draws / count)), value["photographs"], value["noise"],
        "distance of the layers' inputs from those in training, in nats, geometric mean over layers", logarithmic=True,
    )  # fmt: skip
    return measure, tuple(rows)


def _source_fit(
    sets: dict[str, tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]], head: Head
) -> Measure:
    values = {}
    for name, (features, labels, _) in sets.items():
        values[name] = source_fit(source_probs(features, head), labels)
    features, labels, groups = sets["given"]
    probs = source_probs(features, head)
    members = Groups.of(groups, len(groups))
    draws = []
    for counts in members.resample(NUM_RESAMPLES, 0):
        rows = np.repeat(np.arange(len(labels)), counts[members.index].astype(np.int64))
        draws.append(source_fit(probs[rows], labels[rows]))
    return _placed(
        "source_fit", _pivotal(values["given"], np.array(draws)), values["photographs"], values["noise"],
        "share of what there is to know about the labels that the original classifier's answers tell",
    )  # fmt: skip


def source_fit(probs: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """(LEEP + H(Y)) / H(Y), in [0, 1]; 0 where there is one class only."""
    share = np.bincount(labels) / len(labels)
    entropy = -float((share[share > 0] * np.log(share[share > 0])).sum())
    return (leep(probs, labels, len(share)) + entropy) / entropy if entropy > 0 else 0.0


def _held_out(
    features: NDArray[np.float32], labels: NDArray[np.int64], groups: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Leave-one-group-out scores of the ridge as something that sums to 1."""
    return softmax(fit_ridge(features, labels, num_classes=int(labels.max()) + 1, group_ids=groups).oof_scores)


def _best_early(judged: dict[str, NDArray[np.float64]], labels: NDArray[np.int64]) -> str:
    early = [stage for stage in judged if stage != "final"]
    return max(early, key=lambda stage: float((judged[stage].argmax(axis=1) == labels).mean()))


def _difference(
    name: str, pairs: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    sets: dict[str, tuple[Pixels, NDArray[np.int64], NDArray[np.int64]]], meaning: str,
) -> Measure:  # fmt: skip
    found = {}
    for which, (a, b) in pairs.items():
        _, labels, groups = sets[which]
        found[which] = paired_difference(labels, a, b, group_ids=groups, num_resamples=NUM_RESAMPLES)["accuracy"]
    separate = found["photographs"].low > found["noise"].high or found["photographs"].high < found["noise"].low
    ends = found["photographs"].estimate, found["noise"].estimate
    return _placed(name, found["given"], *ends, meaning, known=separate)


def _placed(
    name: str, value: Interval, photo: float, noisy: float, meaning: str, *, logarithmic: bool = False,
    known: bool = True,
) -> Measure:  # fmt: skip
    to = (lambda v: float(np.log(max(v, 1e-12)))) if logarithmic else float
    span = to(noisy) - to(photo)
    place = None
    if known and abs(span) > 1e-9:
        at, *ends = ((to(v) - to(photo)) / span for v in (value.estimate, value.low, value.high))
        place = Interval(estimate=at, low=min(ends), high=max(ends), level=value.level)
    return Measure(name=name, value=value, photographs=photo, noise=noisy, place=place, meaning=meaning)


def _pivotal(estimate: float, draws: NDArray[np.float64]) -> Interval:
    """2 × estimate − percentiles, in the logarithm where all is positive: a resample of n images drifts further than
    they do, by as much as they drift further than all images would."""
    if estimate > 0 and (draws > 0).all():
        low, high = np.exp(2 * np.log(estimate) - np.quantile(np.log(draws), [0.975, 0.025]))
    else:
        low, high = 2 * estimate - np.quantile(draws, [0.975, 0.025])
    return Interval(estimate=estimate, low=min(float(low), estimate), high=max(float(high), estimate))
