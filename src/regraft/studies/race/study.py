"""From a folder of images to the decision card: which strategy, how sure, and what would change the answer.

scan → split (the test set is locked) → up to three backbones → features once each → suspects → similarity → race
→ the winner, and the probe beside it, on the test set: once
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from regraft import data as data_stage
from regraft.data import Scan
from regraft.errors import DataError, UsageError, nearest
from regraft.evaluate.intervals import group_bootstrap
from regraft.features.engines import choose
from regraft.files import default_cache_dir, write_json
from regraft.fit.strategies import STRATEGIES
from regraft.models.backbones import resolve
from regraft.progress import Listener, Stopwatch
from regraft.studies.decide import Metric
from regraft.studies.options import RankOptions
from regraft.studies.passes import Pass, run_pass
from regraft.studies.race.arms import Arm, LinearProbeArm, key_of
from regraft.studies.race.evidence import ArmKey, Evidence, Measurement
from regraft.studies.race.outcome import Outcome
from regraft.studies.race.race import OVERRUN, race
from regraft.studies.race.subsets import Cell, plan
from regraft.studies.race.tuned_arm import TunedArm
from regraft.types import Interval, Manifest, Split

BUDGET_PASSES = 10.0
"""The default budget, in passes of the first backbone over the development images."""

MOST_BACKBONES = 3

Judge = Callable[[Manifest, NDArray[np.float16], NDArray[np.int64]], NDArray[np.bool_] | None]
"""Of images, their features (N, D) and groups (N,): which labels are likely wrong, or None where it cannot say."""


def race_study(
    data: str | Path | Scan,
    *,
    backbones: str = "tf_efficientnet_lite0",
    strategies: Sequence[str] = STRATEGIES,
    budget_seconds: float | None = None,
    metric: Metric = "macro_f1",
    delta: float = 0.01,
    image_size: int | None = None,
    measure_similarity: bool = True,
    num_repeats: int = 3,
    test: float | str = "auto",
    seed: int = 0,
    cache_dir: Path | None = None,
    judge: Judge | None = None,
    touch_test: bool = True,
    listener: Listener | None = None,
) -> Outcome:
    """Race the strategies on labelled images.

    Args:
        data: what `read` takes, or what it gave.
        backbones: names with commas between, up to three; or `auto` or `offline`, which rank first.
        strategies: that race against the linear probe.
        budget_seconds: for all trainings; by default 10 passes of the first backbone over the images.
        metric: accuracy, balanced_accuracy or macro_f1.
        delta: how far below the best is good enough.
        image_size: of the input; by default what the backbone was trained with.
        measure_similarity: to place the data on the card.
        num_repeats: assignments of folds; the probe meets them all where the budget allows.
        test: share that is locked away, as in `fit`.
        seed: of split, folds and trainings.
        cache_dir: for features and the race's evidence.
        judge: finds likely label errors among the development images, to tell what cleaning would buy.
        touch_test: predict the locked test images, once, by the winner and the probe.
        listener: hears of progress.

    Raises:
        DataError: the data do not allow it.
        UsageError: wrong words.
        BackboneError: a backbone that is not to be had.
    """
    wrong = [f"{name!r} is not a strategy{nearest(name, STRATEGIES)}" for name in strategies if name not in STRATEGIES]
    if wrong:
        raise UsageError(f"strategies are {', '.join(STRATEGIES)}: {'; '.join(wrong)}")
    listener = listener if listener is not None else Listener()
    cache_dir = cache_dir if cache_dir is not None else default_cache_dir()
    watch = Stopwatch(listener)
    with watch.stage("scan"):
        scan = data if isinstance(data, Scan) else data_stage.read(
            data, cache_dir=cache_dir, progress=listener.progress
        )  # fmt: skip
    parted = data_stage.part(scan, test=test, seed=seed, say=listener.say)  # type: ignore[arg-type]
    manifest, split = parted.manifest, parted.split
    listener.say(split.reason)
    names = _backbones(manifest, split, backbones, metric, seed, cache_dir, listener)

    # development first, so that the plan's rows are the arms' rows; the test images follow
    order = np.concatenate([split.development, split.test])
    manifest, groups = manifest.select(order), split.group_ids[order]
    number = len(split.development)
    with watch.stage("extract"):
        passes = [_pass(manifest, name, image_size, cache_dir, listener) for name in names]
    failed = np.unique(np.concatenate([one.failed for one in passes]))
    if len(failed):
        raise DataError(
            f"images must stay as they are during a race: {len(failed):,} changed or vanished, such as "
            f"{manifest.names[int(failed[0])]!r}; run it again when the files are at rest"
        )
    made = plan(
        manifest.labels[:number], groups[:number], manifest.hashes[:number], num_classes=manifest.num_classes,
        num_repeats=num_repeats, seed=seed,
    )  # fmt: skip
    arms = _arms(manifest, groups, passes, strategies, metric, cache_dir)
    evidence = Evidence(cache_dir / "race" / (name := _name(manifest, groups, number, seed)), data=name)
    if len(evidence):
        listener.say(f"{len(evidence)} measurements were made before and are not repeated")
    suspects = None
    if judge is not None:
        with watch.stage("labels"):
            suspects = judge(manifest.select(np.arange(number)), passes[0].values[:number], groups[:number])
    similarity = None
    if measure_similarity:
        kept = cache_dir / "race" / name / f"similarity-{passes[0].backbone.weights_hash[:16]}.json"
        similarity = _similarity(scan, names[0], seed, cache_dir, kept, listener)
    if budget_seconds is None:
        budget_seconds = BUDGET_PASSES * number / passes[0].images_per_second
        listener.say(f"budget = {budget_seconds:,.0f} s: {BUDGET_PASSES:g} passes of {names[0]} over the images")
    with watch.stage("a few training steps, timed"):  # they are no training that the budget is for
        for arm in arms:
            arm.estimate_seconds(number)
    with watch.stage("race"):
        outcome = race(
            made, arms, evidence, budget_seconds=budget_seconds, class_names=manifest.class_names, metric=metric,
            delta=delta, similarity=similarity, suspects=suspects,
            listener=listener,
        )  # fmt: skip
        return _tested(outcome, arms, evidence, manifest, groups, number, seed) if touch_test else outcome


def _backbones(
    manifest: Manifest, split: Split, words: str, metric: Metric, seed: int, cache_dir: Path, listener: Listener
) -> list[str]:
    """Names as given, or the pick of a ranking and those tied with it."""
    if words not in ("auto", "offline"):
        names = list(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))
        if not 1 <= len(names) <= MOST_BACKBONES:
            raise UsageError(f"a race takes 1 to {MOST_BACKBONES} backbones: got {len(names)} ({words!r})")
        return names
    from regraft.studies.rank import rank_split

    ranking = rank_split(
        manifest, split, words, RankOptions(metric=metric, seed=seed, cache_dir=cache_dir), listener=listener
    )
    tied = [row for row in ranking.rows if row.tied or row.name == ranking.pick]
    tied.sort(key=lambda row: row.name != ranking.pick)
    names = list(dict.fromkeys(row.backbone for row in tied))[:MOST_BACKBONES]
    listener.say(f"backbones: {', '.join(names)} (the pick of the ranking, then those tied with the best)")
    return names


def _pass(manifest: Manifest, name: str, image_size: int | None, cache_dir: Path, listener: Listener) -> Pass:
    backbone = resolve(name, cache_dir=cache_dir)
    # squashed, as `rank` does: centre crops cut objects
    transform = dataclasses.replace(backbone.transform, policy="squash", size=image_size or backbone.transform.size)
    return run_pass(
        manifest, backbone, transform, choice=choose("auto", "auto"), cache_dir=cache_dir, progress=listener.progress
    )


def _arms(
    manifest: Manifest, groups: NDArray[np.int64], passes: Sequence[Pass], strategies: Sequence[str], metric: Metric,
    cache_dir: Path,
) -> list[Arm]:  # fmt: skip
    arms: list[Arm] = []
    for one in passes:
        told = f"{one.backbone.weights_hash} {one.transform.as_dict()} {metric}"
        arms.append(
            LinearProbeArm(
                features=one.values, labels=manifest.labels, num_classes=manifest.num_classes, group_ids=groups,
                hashes=manifest.hashes, backbone=one.backbone.name, metric=metric,
                version=blake3(told.encode("utf-8")).hexdigest()[:12],
            )
        )  # fmt: skip
        arms += [
            TunedArm(
                name=strategy, manifest=manifest, features=one.values, group_ids=groups, trunk=one.backbone,
                images_per_second=one.images_per_second, metric=metric, cache_dir=cache_dir,
            )
            for strategy in strategies
        ]  # fmt: skip
    return arms


def _name(manifest: Manifest, groups: NDArray[np.int64], number: int, seed: int) -> str:
    """Of the development images, their labels and groups, and the folds: what evidence must agree in."""
    told = blake3()
    for part in (manifest.hashes[:number], manifest.labels[:number], groups[:number]):
        told.update(np.ascontiguousarray(part).tobytes())
    told.update("\0".join(manifest.class_names).encode("utf-8", "surrogateescape"))
    told.update(f"seed {seed}".encode())
    return told.hexdigest()[:16]


def _similarity(
    scan: Scan, backbone: str, seed: int, cache_dir: Path, kept: Path, listener: Listener
) -> Interval | None:
    """As it was found before on the same images, labels and weights, or measured now."""
    from regraft.studies.similarity import similarity_profile

    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(kept.read_text("utf-8"))
        return Interval(**known["similarity"]) if known["similarity"] is not None else None
    profile = similarity_profile(
        scan, backbone, max_images=128, seed=seed, cache_dir=cache_dir, listener=listener
    )  # fmt: skip
    found = profile.similarity
    with contextlib.suppress(OSError):  # a cache that cannot be written measures again next time
        write_json(kept, {"similarity": None if found is None else found.as_dict()})
    return found


def _tested(
    outcome: Outcome, arms: Sequence[Arm], evidence: Evidence, manifest: Manifest, groups: NDArray[np.int64],
    number: int, seed: int,
) -> Outcome:  # fmt: skip
    """The winner, and the probe beside it, trained on all development images and asked about the test set."""
    rows = np.arange(len(manifest), dtype=np.int64)
    train, test = rows[:number], rows[number:]
    if not len(test):
        return outcome
    left = outcome.budget_seconds - outcome.seconds
    cost = outcome[outcome.chosen].seconds * number / max(outcome.num_train, 1)
    how = f"regraft fit DATA --strategy {outcome.chosen.strategy}"
    if not outcome.resolved or cost > left + OVERRUN * outcome.budget_seconds:
        why = "the choice is unresolved" if not outcome.resolved else f"it takes some {cost:,.0f} s more"
        note = f"The test set of {len(test):,} images was not touched, for {why}: {how} does it."
        return dataclasses.replace(outcome, notes=(*outcome.notes, note))
    tested: dict[ArmKey, Interval] = {}
    for arm in arms:
        key = key_of(arm)
        if key not in (outcome.chosen, outcome.reference):
            continue
        once = ArmKey(strategy=key.strategy, backbone=key.backbone, version=f"{key.version} on the test set")
        cell = Cell(halvings=0, repeat=0, fold=0, seed=seed)
        found = evidence.get(once, cell)
        if found is None:
            answers = arm.measure(train, test, seed)
            found = Measurement(
                arm=once, cell=cell, num_train=len(train), rows=test,
                predicted=np.asarray(answers.predicted, np.int32), seconds=answers.seconds,
            )  # fmt: skip
            evidence.add(found)
        answers_as_probs = np.eye(manifest.num_classes)[found.predicted]
        tested[key] = group_bootstrap(
            manifest.labels[test], answers_as_probs, group_ids=groups[test], level=0.8, seed=seed
        )[outcome.metric]
    said = "; ".join(f"{key.strategy} {100 * value.estimate:.1f} % ({100 * value.low:.1f}–{100 * value.high:.1f})"
                     for key, value in tested.items())  # fmt: skip
    note = f"On the locked test set of {len(test):,} images, touched once: {said}."
    return dataclasses.replace(outcome, tested=tested, notes=(*outcome.notes, note))
