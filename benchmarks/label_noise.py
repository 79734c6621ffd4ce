"""Planted label errors: the label audit beside cleanlab, on the same out-of-fold probabilities and features.

    python benchmarks/label_noise.py WORK                       # all cells, 3 seeds; finished ones are not run again
    python benchmarks/label_noise.py WORK --only fashion-100-1- # some of them
    python benchmarks/label_noise.py WORK --table               # only the table of what is finished

Fashion-MNIST (Debian: dataset-fashion-mnist; 10,000 images) and openclipart as it is (openclipart-png) through the
default backbone; the cells are in planted_noise.py. WORK keeps images, features and a JSON file per finished cell; the
table is printed and written to WORK/label_noise.md. Datalab takes part where `datasets` is installed.

The audit gets the head's out-of-fold probabilities, ridge's leave-one-out scores and the features. cleanlab gets the
same probabilities (the features too, in Datalab): every `filter_by` (its flags first, all by self-confidence), every
label quality score, and Datalab on probabilities and on features. "Best" is the best of them in that row, chosen with
hindsight.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import time
import warnings
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from planted_noise import Cell, all_cells, choose_rows, plant
from threadpoolctl import threadpool_limits

from regraft.audit.label_noise import SURE, audit_labels
from regraft.data import assign_folds
from regraft.evaluate.calibration import fit_temperature, softmax
from regraft.fit.linear_probe import fit_linear_probe
from regraft.fit.ridge import fit_ridge

FILTERS = (
    "prune_by_noise_rate", "prune_by_class", "both", "confident_learning", "predicted_neq_given",
    "low_normalized_margin", "low_self_confidence",
)  # fmt: skip
SCORES = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
DATALAB = importlib.util.find_spec("datasets") is not None
JSON = dict[str, Any]


def prepare(work: Path) -> None:
    """Features, labels, hashes and the confusions of a clean model, once."""
    from images import write_clipart, write_fashion

    from regraft.features.engines import choose
    from regraft.features.extract import extract
    from regraft.files import default_cache_dir
    from regraft.models.backbones import resolve
    from regraft.pipeline import read

    for data, write in (("fashion", lambda to: write_fashion(to, 10_000)), ("openclipart", write_clipart)):
        if (work / f"{data}.npz").exists():
            continue
        folder = work / "images" / data
        if not folder.exists():
            write(folder)
        manifest = read(folder, cache_dir=default_cache_dir()).manifest
        backbone = resolve("tf_efficientnet_lite0")
        found = extract(
            manifest, backbone, transform=backbone.transform, choice=choose(), cache_dir=default_cache_dir()
        )
        keep = np.setdiff1d(np.arange(len(manifest)), found.failed)
        labels, hashes, features = manifest.labels[keep], manifest.hashes[keep], found.values[keep]
        probs, _ = held_out(features, labels, hashes, num_classes=manifest.num_classes, seed=0)
        mean = probs.mean(axis=0)
        confusion = np.stack([mean[labels == k].mean(axis=0) for k in range(manifest.num_classes)])
        np.savez(work / f"{data}.npz", features=features, labels=labels, hashes=hashes, confusion=confusion)


def held_out(
    features: np.ndarray, labels: np.ndarray, hashes: np.ndarray, *, num_classes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated out-of-fold probabilities (R, N, K) and the folds (R, N), as many repeats as a fit takes by itself."""
    num = len(labels)
    repeats = 5 if num < 500 else 3 if num < 2000 else 1
    folds = assign_folds(labels, np.arange(num), hashes, num_folds=5, num_repeats=repeats, seed=seed)
    logits = fit_linear_probe(features, labels, num_classes=num_classes, folds=folds).oof_chosen_logits()
    temperature = fit_temperature(logits.reshape(-1, num_classes), np.tile(labels, repeats))
    return softmax(logits, temperature=temperature), folds


def run(cell: Cell, work: Path) -> JSON:
    """One cell: what every method finds."""
    warnings.simplefilter("ignore")
    stored = np.load(work / f"{cell.data}.npz")
    rows = choose_rows(cell, stored["labels"])
    right, features, hashes = stored["labels"][rows], stored["features"][rows], stored["hashes"][rows]
    given = plant(cell, right, stored["confusion"])
    num_classes = len(stored["confusion"])
    began = time.perf_counter()
    probs, folds = held_out(features, given, hashes, num_classes=num_classes, seed=cell.seed)
    ridge = fit_ridge(features, given, num_classes=num_classes).oof_scores
    fitted = time.perf_counter()
    audit = audit_labels(given, probs, folds=folds, features=features, scores={"ridge": ridge}, seed=cell.seed)
    audited = time.perf_counter()
    wrong = given != right
    place = np.empty(len(given))
    place[audit.queue] = np.arange(len(given))
    found: JSON = {"regraft": measured(wrong, right, place, audit.column.is_issue)}
    sure, noise = audit.tier == SURE, audit.noise.num_wrong
    found["regraft"] |= {
        "sure": int(sure.sum()),
        "sure_wrong": int(wrong[sure].sum()),
        "wrong": int(wrong.sum()),
        "estimate": [noise.estimate, noise.low, noise.high],
        "suggested_right": share((audit.suggested_labels == right)[audit.column.is_issue & wrong]),
        "seconds": [fitted - began, audited - fitted],
        "num": len(given),
    }
    for name, (order, flags) in peers(given, probs.mean(axis=0), features).items():
        found[name] = measured(wrong, right, order, flags)
    return found


def peers(given: np.ndarray, probs: np.ndarray, features: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Order (smallest first) and flags of each way of cleanlab, on the classes that occur."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    present, given = np.unique(given, return_inverse=True)
    probs = probs[:, present] / probs[:, present].sum(axis=1, keepdims=True)
    found = {}
    own = get_label_quality_scores(given, probs)
    for name in FILTERS:
        flags = find_label_issues(given, probs, filter_by=name, n_jobs=1)
        found[f"filter {name}"] = (own - 2.0 * flags, flags)
    usual = found["filter prune_by_noise_rate"][1]
    for name in SCORES:
        for adjusted in (False, True)[: 1 if name == SCORES[2] else 2]:  # entropy cannot be adjusted
            order = get_label_quality_scores(given, probs, method=name, adjust_pred_probs=adjusted)
            found[f"score {name}{' adjusted' * adjusted}"] = (order, usual)
    if DATALAB:
        from cleanlab import Datalab

        for name, inputs in {
            "datalab": {"pred_probs": probs},
            "datalab features": {"features": features.astype(np.float32)},
        }.items():
            lab = Datalab({"label": given}, label_name="label", verbosity=0)
            lab.find_issues(**inputs, issue_types={"label": {}})
            try:
                table = lab.get_issues("label")
            except ValueError:  # it caught an error of its own, and says so only where it prints
                print(f"{name} has no answer", flush=True)
                continue
            flags = table["is_label_issue"].to_numpy(bool)
            found[name] = (table["label_score"].to_numpy() - 2.0 * flags, flags)
    return found


def measured(wrong: np.ndarray, right: np.ndarray, order: np.ndarray, flags: np.ndarray) -> JSON:
    """What an order and flags find of the planted errors."""
    if not wrong.any():
        return {"false_flags": int(flags.sum())}
    hits = wrong[np.argsort(order, kind="stable")]
    looks = min(100, len(hits) // 2)
    classes = [k for k in np.unique(right) if wrong[right == k].any()]
    precision, recall = share(wrong[flags]), float(flags[wrong].mean())
    return {
        "average_precision": float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean()),
        "first_50": share(hits[:50]),
        "per_100": 100 * share(hits[:looks]),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "class_recall": float(np.mean([flags[wrong & (right == k)].mean() for k in classes])),
    }


def share(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def run_and_keep(cell: Cell, work: Path) -> str:
    """Run a cell and write its file, whole or not at all."""
    began = time.perf_counter()
    found = run(cell, work)
    path = work / "cells" / f"{cell.name}.json"
    path.with_suffix(".part").write_text(json.dumps(found), encoding="utf-8")
    path.with_suffix(".part").replace(path)
    return f"{cell.name}: {time.perf_counter() - began:.1f} s"


def table(cells: list[Cell], work: Path) -> str:
    """Means over seeds as markdown, and where cleanlab is better."""
    gathered: dict[Any, list[JSON]] = defaultdict(list)
    for cell in cells:
        path = work / "cells" / f"{cell.name}.json"
        if path.exists():
            gathered[cell.row].append(json.loads(path.read_text(encoding="utf-8")))
    lines = [
        "| data | noise | AP | best cleanlab | per 100 looks | best | P / R / F1 of flags | best F1 | class recall | "
        "sure: P (number) | wrong | estimated | suggestion right |",
        "|" + "---|" * 13,
    ]
    clean = [
        "",
        "| clean data | images | false flags | sure | estimated wrong | fewest of cleanlab |",
        "|" + "---|" * 6,
    ]
    behind: dict[str, list[str]] = {"average_precision": [], "per_100": [], "f1": []}
    num_rows = covered = num_runs = 0
    for (data, kind, rate), runs in gathered.items():
        ours = {key: np.mean([run["regraft"][key] for run in runs], axis=0) for key in runs[0]["regraft"]}
        others = [name for name in runs[0] if name != "regraft" and all(name in run for run in runs)]
        estimate, low, high = ours["estimate"]
        covered += sum(
            run["regraft"]["estimate"][1] <= run["regraft"]["wrong"] <= run["regraft"]["estimate"][2] for run in runs
        )
        num_runs += len(runs)
        if rate == 0:
            least = min(np.mean([run[name]["false_flags"] for run in runs]) for name in others)
            clean.append(f"| {data} | {ours['num']:,.0f} | {ours['false_flags']:.0f} | {ours['sure']:.0f} | "
                         f"{estimate:.0f} ({low:.0f}–{high:.0f}) | {least:.0f} |")  # fmt: skip
            continue
        num_rows += 1
        best = {}
        for key, misses in behind.items():
            means = {name: float(np.mean([run[name][key] for run in runs])) for name in others}
            winner = max(means, key=means.__getitem__)
            best[key] = means[winner]
            if ours[key] < means[winner]:
                misses.append(f"{data}, {kind} {rate:.0%} ({ours[key]:.3g} against {means[winner]:.3g}, {winner})")
        sure = sum(run["regraft"]["sure"] for run in runs)
        each = sure / len(runs)
        right = sum(run["regraft"]["sure_wrong"] for run in runs) / max(sure, 1)
        lines.append(
            f"| {data} | {kind} {rate:.0%} | {ours['average_precision']:.3f} | {best['average_precision']:.3f} | "
            f"{ours['per_100']:.1f} | {best['per_100']:.1f} | {ours['precision']:.2f} / {ours['recall']:.2f} / "
            f"{ours['f1']:.2f} | {best['f1']:.2f} | {ours['class_recall']:.2f} | {right:.2f} ({each:.0f}) | "
            f"{ours['wrong']:.0f} | {estimate:.0f} ({low:.0f}–{high:.0f}) | {ours['suggested_right']:.2f} |"
        )
    said = [f"The interval held the planted number in {covered} of {num_runs} runs."]
    for key, misses in behind.items():
        said.append(
            f"\n{key}: not below the best of cleanlab in {num_rows - len(misses)} of {num_rows} rows; behind in:\n"
        )
        said += [f"- {miss}" for miss in misses]
    largest = [run["regraft"] for runs in gathered.values() for run in runs if run["regraft"]["num"] >= 9000]
    if largest:
        fit, audit = np.median([run["seconds"] for run in largest], axis=0)
        said.append(
            f"\nSeconds for about 10,000 images, one thread (median): head and ridge {fit:.1f}, audit {audit:.1f}."
        )
    return "\n".join([*lines, *clean, "", *said]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", default="", help="cells whose name holds this")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="run nothing")
    options = parser.parse_args()
    cells = [cell for cell in all_cells(options.seeds) if options.only in cell.name]
    (options.work / "cells").mkdir(parents=True, exist_ok=True)
    if not options.table:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:  # its threads do not survive a fork
            alone.submit(prepare, options.work).result()
        missing = [cell for cell in cells if not (options.work / "cells" / f"{cell.name}.json").exists()]
        os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # a process a core
        fork = multiprocessing.get_context("fork")  # in spawned processes Datalab finds nothing
        with ProcessPoolExecutor(options.workers, fork, initializer=threadpool_limits, initargs=(1,)) as pool:
            for done in pool.map(run_and_keep, missing, [options.work] * len(missing)):
                print(done, flush=True)
    page = table(cells, options.work)
    (options.work / "label_noise.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
