"""One self-contained `report.html`: what was learnt, how good it is, and how far that can be trusted.

    ReportContents   everything the report is made of: values only, no files, no models
    write_report     contents → one HTML file

The page loads nothing: style, script, charts and thumbnails are inside, and its content security policy allows
no other. Class names, paths and messages are strangers' input: the template escapes all of them, and only the
SVG made by `charts` and the files next to this one are put in as they are.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from regraft.evaluate import report_facts, report_results, report_training, wording
from regraft.evaluate.metrics import ReliabilityBin
from regraft.evaluate.report_training import Training
from regraft.files import write_bytes
from regraft.types import JSON, Finding, Predictions

THUMBNAIL_PIXELS = 160
MAX_EXAMPLES = 36
"""Thumbnails of the data, over all classes."""

MAX_MISTAKES = 24
"""Pictures in the gallery of mistakes."""

MAX_THUMBNAIL_BYTES = 1_500_000
"""All thumbnails together, as JPEG; later ones are left out. Base64 makes 2 MB of it."""

_HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True, eq=False)
class ReportContents:
    """What the report is made of.

    Attributes:
        title: the data's or the run's name.
        command: the command line that makes this run again.
        result: as `result.json`, with `class_counts` {class: {"development", "test"}}, and where known
            `temperature` and `warnings` [text].
        config: {option: {"value", "reason"}}: what every option was, what `auto` became, and why.
        env: versions and machine, nested as it likes.
        understood: sentences on the data and the split.
        findings: what the scan had to say, excluded images and remarks.
        predictions: of the evaluated images (the locked test set, or out of fold), with labels.
        confusion: int (K, K), rows are labels and columns predictions, in the order of `predictions.class_names`.
        reliability: the bins that hold images.
        path: {"strength", "log_loss", "log_loss_se", "accuracy", "macro_f1"} per strength; empty without a path.
        chosen: which entry of `path` was chosen.
        choice: how strength and logit adjustment were chosen, in words.
        training: the course of a training, or None where only a head was solved.
        race: the decision card of a race as a `<section>`: trusted HTML; "" without a race.
        thumbnail: (path, most pixels a side) → JPEG bytes, or None where the image cannot be shown.
        image_examples: a few paths per class.
    """

    title: str
    command: str
    result: JSON
    config: JSON
    env: JSON
    understood: Sequence[str]
    findings: Sequence[Finding]
    predictions: Predictions
    confusion: NDArray[np.int64]
    reliability: Sequence[ReliabilityBin]
    path: Sequence[Mapping[str, Any]] = ()
    chosen: int | None = None
    choice: str = ""
    training: Training | None = None
    race: str = ""
    thumbnail: Callable[[str, int], bytes | None] = field(default=lambda _path, _pixels: None)
    image_examples: Mapping[str, Sequence[str]] = field(default_factory=dict)


def write_report(path: Path, contents: ReportContents) -> None:
    """Write the report, atomically; below 3 MB even for 1,000 classes and 100,000 images."""
    write_bytes(path, render(contents).encode("utf-8", errors="replace"))


def render(contents: ReportContents) -> str:
    """The report as one HTML text."""
    return page("report.html.jinja", _view(contents))


def page(template: str, view: JSON) -> str:
    """A template of this folder with every text escaped; what it names and the view lacks is an error."""
    import jinja2  # 60 ms, and only this function needs it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(view)


def _view(contents: ReportContents) -> JSON:
    result, predictions = contents.result, contents.predictions
    evaluated = len(predictions) if predictions.labels is None else int((predictions.labels >= 0).sum())
    mistakes = report_results.worst_mistakes(predictions, most=MAX_MISTAKES)
    examples = _examples(contents)
    pictures = Pictures(contents.thumbnail)
    for item in mistakes["items"]:  # first: where the budget is short, mistakes say more than examples
        item["picture"] = pictures.data_url(item.pop("path"))
    for group in examples["groups"]:
        found = [pictures.data_url(path) for path in group.pop("paths")]
        group["pictures"] = [picture for picture in found if picture]
    excluded = report_facts.findings(contents.findings, excluded=True)
    remarks = report_facts.findings(contents.findings, excluded=False)
    css, script = (_HERE / "report.css").read_text("utf-8"), (_HERE / "report.js").read_text("utf-8")
    return {
        "title": wording.clipped(contents.title, 120),
        "css": Markup(css),
        "script": Markup(script),
        "policy": f"default-src 'none'; img-src data:; style-src '{digest(css)}'; script-src '{digest(script)}'; "
        "base-uri 'none'; form-action 'none'",
        "headline": wording.headline(result, evaluated),
        "reservations": wording.reservations(result, evaluated),
        "facts": _facts(result, evaluated),
        "measures": report_results.measures(result),
        "understood": [wording.clipped(sentence, 600) for sentence in contents.understood],
        "classes": report_facts.class_counts(result),
        "examples": examples,
        "excluded": excluded,
        "remarks": remarks,
        "num_excluded": wording.count(sum(f.excluded for f in contents.findings), "image"),
        "confusion": report_results.confusion(contents.confusion, predictions.class_names),
        "reliability": report_results.reliability(contents.reliability),
        "temperature": _temperature(result),
        "per_class": report_results.per_class(result),
        "many_classes": len(result.get("per_class") or {}) > 30,
        "few": wording.FEW,
        "mistakes": mistakes,
        "path": report_results.path(contents.path, contents.chosen),
        "training": report_training.training(contents.training),
        "race": Markup(contents.race),
        "has_head": contents.training is None or bool(contents.path or contents.choice),
        "choice": wording.sentence(wording.clipped(contents.choice, 1000)),
        "timing": report_facts.timing(result.get("seconds") or {}),
        "options": report_facts.options(contents.config),
        "env": report_facts.flattened(contents.env),
        "command": contents.command,
    }


def _facts(result: JSON, evaluated: int) -> list[tuple[str, str]]:
    """The few words on top that say what this is about: (name, value)."""
    used, left_out = int(result.get("num_images") or 0), int(result.get("num_excluded") or 0)
    total = report_facts.timing(result.get("seconds") or {})["total"]
    facts = [
        ("images used", f"{used:,}"),
        ("evaluated on", f"{evaluated:,}"),
        ("left out", f"{left_out:,}"),
        ("classes", f"{len(result.get('class_counts') or result.get('per_class') or {}):,}"),
        ("backbone", wording.clipped(str(result.get("backbone") or ""), 60)),
        ("strategy", str(result.get("strategy") or "").replace("_", " ")),
        ("took", total),
    ]
    return [(name, value) for name, value in facts if value]


def _temperature(result: JSON) -> str:
    temperature = wording.number(result.get("temperature"))
    if temperature is None:
        return ""
    sense = "too sure of itself" if temperature > 1.1 else "too timid" if temperature < 0.9 else "about right"
    return f"The probabilities are scaled with temperature {temperature:.2f} (before that the head was {sense})."


def _examples(contents: ReportContents) -> JSON:
    """Which example images to show: all classes where they fit, else evenly from the largest to the smallest."""
    counts = contents.result.get("class_counts") or {}
    names = [name for name, paths in contents.image_examples.items() if paths]
    names.sort(key=lambda name: -sum(int(n or 0) for n in counts.get(name, {}).values()))
    shown = names
    if len(names) > MAX_EXAMPLES:
        shown = [names[round(i * (len(names) - 1) / (MAX_EXAMPLES - 1))] for i in range(MAX_EXAMPLES)]
    each = min(3, max(1, MAX_EXAMPLES // len(shown))) if shown else 0
    told = (
        f"{len(shown)} of {len(names):,} classes, from the largest to the smallest." if len(shown) < len(names) else ""
    )
    groups = [
        {"name": wording.clipped(name, 60), "paths": [str(p) for p in contents.image_examples[name][:each]]}
        for name in shown
    ]
    return {"groups": groups, "told": told, "single": each == 1}


class Pictures:
    """Thumbnails as data URLs, until the report is large enough."""

    def __init__(
        self, thumbnail: Callable[[str, int], bytes | None], max_bytes: int = MAX_THUMBNAIL_BYTES
    ) -> None:  # fmt: skip
        self._thumbnail = thumbnail
        self._left = max_bytes

    def data_url(self, path: str) -> str:
        """`data:image/jpeg;base64,…`, or an empty string where there is no picture, or no room for it."""
        data = self._thumbnail(path, THUMBNAIL_PIXELS) if self._left > 0 else None
        if not data or len(data) > self._left:
            return ""
        self._left -= len(data)
        return f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"


def digest(text: str) -> str:
    """How a content security policy names the one inline block that it allows."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}"
