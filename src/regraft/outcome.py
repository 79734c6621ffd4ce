"""What comes out of a fit or an evaluation, as values and as the files of a run folder."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.config import FitConfig, Settled, without_password
from regraft.data import Scan
from regraft.evaluate import metrics
from regraft.fit.linear_probe import LinearProbe
from regraft.models.backbones import Backbone
from regraft.store import runs
from regraft.types import JSON, Interval, Manifest, Predictions, Split

MEASURES = ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "ece")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluated:
    """The honest estimate.

    Attributes:
        split: "test" or "cv".
        intervals: of the five measures.
        per_class: class name to {"precision", "recall", "f1": Interval, "support": int}.
        point: the measures at the point, with the confusion matrix.
        baseline: always guessing the most frequent class.
        predictions: what was evaluated.
    """

    split: str
    intervals: dict[str, Interval]
    per_class: dict[str, dict[str, Any]]
    point: metrics.Metrics
    baseline: dict[str, float]
    predictions: Predictions


def evaluated(
    split: str, found: dict[str, Interval], predictions: Predictions, development_labels: NDArray[np.int64]
) -> Evaluated:
    assert predictions.labels is not None
    point = metrics.evaluate_predictions(predictions.labels, predictions.pred_probs)
    names = predictions.class_names
    base = metrics.baseline(predictions.labels, development_labels, num_classes=len(names))
    return Evaluated(
        split=split,
        intervals={name: found[name] for name in MEASURES},
        per_class={
            name: {
                **{measure: found[f"{measure}/{k}"] for measure in ("precision", "recall", "f1")},
                "support": int(point.per_class["support"][k]),
            }
            for k, name in enumerate(names)
        },
        point=point,
        baseline=base.as_dict(),
        predictions=predictions,
    )


def evaluation_json(evaluated: Evaluated) -> JSON:
    """The part of `result.json` that `regraft evaluate` shares with `fit`."""
    return {
        "split": evaluated.split,
        "metrics": {name: interval.as_dict() for name, interval in evaluated.intervals.items()},
        "baseline": evaluated.baseline,
        "per_class": {
            name: {key: value.estimate if isinstance(value, Interval) else value for key, value in row.items()}
            for name, row in evaluated.per_class.items()
        },
        "num_images": len(evaluated.predictions),
    }


def result_json(
    scan: Scan,
    manifest: Manifest,
    split: Split,
    estimate: Evaluated,
    version: str,
    *,
    strategy: str,
    backbone: str,
    temperature: float,
) -> JSON:
    """The content of `result.json`; the seconds are filled in when the run ends."""
    counts = {
        part: np.bincount(manifest.labels[rows], minlength=manifest.num_classes).tolist()
        for part, rows in (("development", split.development), ("test", split.test))
    }
    return {
        **evaluation_json(estimate),
        "num_images": int((manifest.labels >= 0).sum()),  # decisions leave images out
        "num_evaluated": len(estimate.predictions),
        "num_excluded": scan.num_excluded,
        "strategy": strategy,
        "backbone": backbone,
        "data_version": version,
        "class_counts": {
            name: {part: counts[part][k] for part in counts} for k, name in enumerate(manifest.class_names)
        },
        "temperature": temperature,
        "warnings": [finding.reason for finding in split.leaks[:20]],
        "seconds": {},
    }


def path_rows(probe: LinearProbe) -> list[JSON]:
    rows = []
    for step, row in enumerate(probe.path):
        values = dataclasses.asdict(row)
        chosen = step == probe.chosen_strength
        rows.append({"step": step, **{f"cv/{key}": value for key, value in values.items()}, "chosen": chosen})
    return rows


def config_yaml(
    source: Path, config: FitConfig, settled: dict[str, Settled], version: str, decisions: JSON | None = None
) -> str:
    """The content of `config.yaml`; `decisions` says whose history was applied, and how far."""
    import yaml

    resolved = {**config.as_dict(), **{name: value.value for name, value in settled.items()}}
    reasons = {name: value.reason for name, value in settled.items()}
    document = {
        "data": str(source.resolve()), "data_version": version, "options": resolved, "reasons": reasons,
        "asked": config.as_dict(), "decisions": decisions,
    }  # fmt: skip
    return str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def as_pairs(settled: dict[str, Settled]) -> dict[str, tuple[Any, str]]:
    """Option to (value, why)."""
    return {name: (value.value, value.reason) for name, value in settled.items()}


def command_line(source: Path, config: FitConfig) -> str:
    default, words = FitConfig(), ["regraft", "fit", shlex.quote(str(source))]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != getattr(default, field.name):
            flag = field.name.replace("_", "-")
            value = without_password(value) if field.name == "database" else value
            for part in value if isinstance(value, tuple) else (value,):
                switched = {True: [f"--{flag}"], False: [f"--no-{flag}"]}
                words += switched[part] if isinstance(part, bool) else [f"--{flag}", shlex.quote(str(part))]
    return " ".join(words)


def model_card(manifest: Manifest, backbone: Backbone, evaluated: Evaluated, config: FitConfig) -> str:
    how = "on images locked away for it" if evaluated.split == "test" else "by cross-validation"
    lines = [
        "# Image classifier",
        "",
        f"{manifest.num_classes} classes, {config.strategy} on `{backbone.name}` ({backbone.source}).",
        "",
        f"Estimated {how}, {len(evaluated.predictions):,} images, 95 % intervals:",
        "",
        *(f"- {name.replace('_', ' ')}: {interval}" for name, interval in evaluated.intervals.items()),
        f"- always guessing the most frequent class: accuracy {evaluated.baseline['accuracy']:.3f}",
        "",
        "Classes: " + ", ".join(manifest.class_names),
        "",
        'Use: `regraft predict RUN IMAGES`, or `regraft.load("RUN").predict(["a.jpg"])`.',
        "",
    ]
    return "\n".join(lines)


def rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {stage: round(value, 3) for stage, value in seconds.items()}


def ranked_runs(runs_dir: Path, metric: str) -> list[JSON]:
    """Rows for `regraft runs`: finished runs best first within their project, unfinished ones last."""
    rows: list[JSON] = []
    for record in runs.list_runs(runs_dir):
        row: JSON = {"run": str(record.path), "project": record.project, "finished": record.finished}
        try:
            facts = _facts(record.result or {}, metric)
        except (KeyError, TypeError, ValueError, AttributeError):  # killed before its end, or not as we wrote it
            facts = {metric: "unfinished"} | dict.fromkeys(_FACTS, "")
            row["finished"] = None
        rows.append(row | facts)
    sign = 1 if metric in ("log_loss", "ece") else -1

    def order(row: JSON) -> tuple[str, bool, float]:
        unfinished = isinstance(row[metric], str)
        return row["project"], unfinished, 0.0 if unfinished else sign * row[metric]

    return sorted(rows, key=order)


_FACTS = ("95 % interval", "accuracy", "by", "images", "strategy", "backbone", "seconds")


def _facts(result: JSON, metric: str) -> JSON:
    interval = Interval(**result["metrics"][metric])
    values = (
        f"{interval.low:.3f}–{interval.high:.3f}",
        round(result["metrics"]["accuracy"]["estimate"], 4),
        result["split"],
        result["num_images"],
        result["strategy"],
        result["backbone"],
        round(sum(result["seconds"].values()), 1),
    )
    return {metric: round(interval.estimate, 4)} | dict(zip(_FACTS, values, strict=True))
