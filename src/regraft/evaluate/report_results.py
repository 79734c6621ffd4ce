"""What the report shows of the classifier's results: values in, plain dicts of texts and charts out.

The template places them and escapes every text; it computes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from regraft.evaluate import charts
from regraft.evaluate.charts import Point
from regraft.evaluate.metrics import ReliabilityBin
from regraft.evaluate.proportions import wilson
from regraft.evaluate.wording import (
    FEW,
    LOWER_IS_BETTER,
    MEASURES,
    clipped,
    count,
    number,
    percent,
    percent_range,
)
from regraft.types import JSON, Predictions

MAX_MATRIX_CLASSES = 25
"""More classes than this and the confusion matrix shows only those that are mixed up most."""

NUM_MATRIX_CLASSES = 18
"""Rows of that smaller matrix; with the column for all other classes it fits on a screen of 1280 pixels."""

NUM_PAIRS = 15
"""Pairs of classes in the table of the most frequent confusions."""

NUM_LEVELS = 8
"""Shades of the confusion matrix; `report.css` has as many of blue and of orange."""


def measures(result: JSON) -> list[JSON]:
    """One row per measure, with its interval as a bar beside the baseline."""
    rows = []
    for name, (title, meaning) in MEASURES.items():
        record = result.get("metrics", {}).get(name)
        estimate = number(record)
        if estimate is None:
            continue
        low, high = estimate, estimate
        if isinstance(record, Mapping):
            low = _or(number(record.get("low")), estimate)
            high = _or(number(record.get("high")), estimate)
        base = number(result.get("baseline", {}).get(name))
        rate = name != "log_loss"
        top = 1.0
        if name in LOWER_IS_BETTER:
            top = 1.08 * max(high, base or 0.0, 0.01)
        rows.append(
            {
                "title": title,
                "meaning": meaning,
                "estimate": percent(estimate) if rate else f"{estimate:.3f}",
                "range": percent_range(low, high) if rate else f"{low:.3f}–{high:.3f}",
                "baseline": "–" if base is None else percent(base) if rate else f"{base:.3f}",
                "bar": Markup(charts.range_bar(estimate, low, high, top=top, reference=base)),
            }
        )
    return rows


def confusion(matrix: NDArray[np.int64], names: Sequence[str]) -> JSON:
    """The matrix as rows of shaded cells; for many classes the most frequent confusions and their classes only."""
    k = len(names)
    wrong = matrix.astype(np.int64, copy=True)
    np.fill_diagonal(wrong, 0)
    totals = matrix.sum(axis=1)
    flat = wrong.ravel()
    order = np.argsort(-flat, kind="stable")[: 4 * NUM_PAIRS] if flat.size else np.empty(0, np.int64)
    pairs = [(int(i) // k, int(i) % k) for i in order if flat[i] > 0]
    table = [
        {
            "given": clipped(names[given]),
            "predicted": clipped(names[predicted]),
            "count": f"{int(wrong[given, predicted]):,}",
            "share": percent(wrong[given, predicted] / totals[given]),
        }
        for given, predicted in pairs[:NUM_PAIRS]
    ]
    limited = k > MAX_MATRIX_CLASSES
    kept = list(range(k))
    if limited:
        involved = dict.fromkeys(c for pair in pairs for c in pair)
        kept = sorted(list(involved)[:NUM_MATRIX_CLASSES])
    rows = []
    for given in kept:
        total = int(totals[given])
        cells = [_cell(int(matrix[given, predicted]), total, right=given == predicted) for predicted in kept]
        if limited:
            cells.append(_cell(total - int(matrix[given, kept].sum()), total, right=False))
        rows.append(
            {"name": clipped(names[given]), "short": clipped(names[given], 18), "cells": cells, "total": f"{total:,}"}
        )
    columns = [(clipped(names[c], 18), clipped(names[c])) for c in kept]
    if limited and kept:
        columns.append(("any other class", "any class that is not shown"))
    return {
        "rows": rows,
        "columns": columns,
        "pairs": table,
        "limited": limited,
        "dense": len(columns) > 16,
        "wrong": count(int(wrong.sum()), "mistake"),
        "num_classes": f"{k:,}",
        "num_shown": f"{len(kept):,}",
        "perfect": not wrong.any(),
        "empty": not matrix.any(),
    }


def _cell(value: int, total: int, *, right: bool) -> JSON:
    share = value / total if total else 0.0
    # Mistakes are rarely more than a few percent of a class: a square root keeps 2 % apart from 0.
    level = math.ceil(NUM_LEVELS * (share if right else math.sqrt(share)))
    text = "" if not value else "<1" if share < 0.01 else "99" if right and 0.985 < share < 1 else f"{100 * share:.0f}"
    return {"share": text, "count": f"{value:,}" if value else "", "shade": f"{'r' if right else 'w'}{level}"}


def reliability(bins: Sequence[ReliabilityBin]) -> JSON | None:
    """The reliability curve and the numbers behind it; None without any."""
    held = [b for b in bins if b.count]
    if not held:
        return None
    most = max(b.count for b in held)
    points = [
        Point(
            x=b.confidence,
            y=b.accuracy.estimate,
            low=b.accuracy.low,
            high=b.accuracy.high,
            weight=b.count / most,
            label=f"{count(b.count, 'image')}: {percent(b.confidence)} sure, {percent(b.accuracy.estimate)} right",
        )
        for b in held
    ]
    return {
        "chart": Markup(charts.reliability(points, [b.count for b in held])),
        "rows": [
            {
                "bin": percent_range(b.low, b.high),
                "confidence": percent(b.confidence),
                "accuracy": percent(b.accuracy.estimate),
                "range": percent_range(b.accuracy.low, b.accuracy.high),
                "count": f"{b.count:,}",
            }
            for b in held
        ],
    }


def per_class(result: JSON) -> list[JSON]:
    """One row per class, the lowest F1 first; recall with Wilson's interval."""
    rows = []
    for name, record in result.get("per_class", {}).items():
        support = int(number(record.get("support")) or 0)
        recall, precision, f1 = (number(record.get(key)) for key in ("recall", "precision", "f1"))
        row: JSON = {
            "name": clipped(name),
            "support": support,
            "support_text": f"{support:,}",
            "few": support < FEW,
            "precision": _or(precision, -1.0),
            "precision_text": percent(precision),
            "recall": -1.0,
            "recall_text": "–",
            "range": "",
            "bar": "",
            "f1": -1.0,
            "f1_text": "–",
        }
        if support and recall is not None:
            low, high = wilson(recall, support)
            row |= {
                "recall": recall,
                "recall_text": percent(recall),
                "range": percent_range(low, high),
                "bar": Markup(charts.range_bar(recall, low, high)),
                "f1": _or(f1, -1.0),
                "f1_text": percent(f1),
            }
        rows.append(row)
    return sorted(rows, key=lambda row: (row["f1"], row["name"]))


def worst_mistakes(predictions: Predictions, *, most: int) -> JSON:
    """The most confident wrong predictions first; images without a label are no mistakes."""
    if predictions.labels is None or not len(predictions):
        return {"items": [], "told": "", "known": False}
    labels, predicted, confidence = predictions.labels, predictions.predicted, predictions.confidence
    wrong = np.flatnonzero((labels >= 0) & (predicted != labels))
    order = wrong[np.lexsort((predictions.pred_probs[wrong, labels[wrong]], -confidence[wrong]))][:most]
    items = [
        {
            "path": str(predictions.images[i]),
            "image": clipped(str(predictions.images[i]), 120),
            "file": _file(str(predictions.images[i])),
            "given": clipped(predictions.class_names[labels[i]], 60),
            "predicted": clipped(predictions.class_names[predicted[i]], 60),
            "confidence": percent(float(confidence[i])),
            "given_prob": percent(float(predictions.pred_probs[i, labels[i]])),
        }
        for i in order
    ]
    told = count(len(wrong), "mistake")
    if len(wrong) > len(items):
        told = f"The {len(items)} most confident of {told}"
    return {"items": items, "told": told, "known": bool((labels >= 0).any())}


def _file(path: str) -> str:
    """The end of a path, which says more than its beginning."""
    parts = path.replace("\\", "/").rsplit("/", 2)
    return clipped("/".join(parts[-2:]), 48)


def path(points: Sequence[Mapping[str, Any]], chosen: int | None) -> JSON | None:
    """The regularisation path, by rising strength; None without any usable point."""
    usable = [
        (i, p)
        for i, p in enumerate(points)
        if number(p.get("strength")) is not None and number(p.get("log_loss")) is not None
    ]
    if not usable:
        return None
    usable.sort(key=lambda item: item[1]["strength"])
    losses, rows = [], []
    for i, p in usable:
        loss, se = float(p["log_loss"]), number(p.get("log_loss_se"))
        losses.append(
            Point(
                x=float(p["strength"]),
                y=loss,
                low=loss - (se or 0.0),
                high=loss + (se or 0.0),
                label=f"strength {p['strength']:.3g}: log loss {loss:.4f}",
            )
        )
        rows.append(
            {
                "strength": f"{p['strength']:.3g}",
                "log_loss": f"{loss:.4f}" + (f" ± {se:.4f}" if se is not None else ""),
                "accuracy": percent(number(p.get("accuracy"))),
                "macro_f1": percent(number(p.get("macro_f1"))),
                "chosen": i == chosen,
            }
        )
    rates = []
    for key, title in (("accuracy", "accuracy"), ("macro_f1", "macro-F1")):
        values = [number(p.get(key)) for _, p in usable]
        if any(v is not None for v in values):
            series = [
                Point(x=q.x, y=_or(v, math.nan), low=math.nan, high=math.nan, label=f"{title} {percent(v)}")
                for q, v in zip(losses, values, strict=True)
            ]
            rates.append((title, series))
    at = next((place for place, (i, _) in enumerate(usable) if i == chosen), None)
    return {"chart": Markup(charts.regularisation_path(losses, rates, at)), "rows": rows}


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
