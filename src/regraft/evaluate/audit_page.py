"""One self-contained `audit.html`: what a person should look at, in the order of looking.

As with the report of a run: the page loads nothing, its content security policy allows no other, and every text of
strangers is escaped by the template.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from regraft.evaluate import charts, report_facts
from regraft.evaluate.report import Pictures, digest, page
from regraft.evaluate.wording import clipped, count, percent, percent_range
from regraft.files import write_bytes
from regraft.types import JSON, Finding, Interval

MAX_THUMBNAIL_BYTES = 2_500_000
"""All thumbnails together, as JPEG; the last sections go without where it does not reach."""
MAX_MATRIX_CLASSES = 16
NUM_FLOWS = 24
_LEVELS = 8
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image on the page.

    Attributes:
        path: where the thumbnail comes from.
        name: as shown.
        given: its label.
        other: the suggested label, or "".
        split: its split, or "".
        figure: a few words beside the label, such as a probability.
        reason: why it is here.
    """

    path: str
    name: str
    given: str
    other: str = ""
    split: str = ""
    figure: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Pictures of one kind, each alone or side by side with its twins.

    Attributes:
        items: one, or two and more that belong together, in order.
        told: how many there are, and how many of them are shown.
    """

    items: Sequence[Sequence[Picture]] = ()
    told: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A line of the overview: title, number of images, detail, and the section's anchor."""

    title: str
    count: int
    detail: str
    anchor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLabels:
    """A class: its images, how many labels are wrong by estimate, how many are suspects, whether it could be judged."""

    name: str
    num_images: int
    wrong: Interval | None
    suspects: int
    judged: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditContents:
    """What the page is made of.

    Attributes:
        title: the data's name.
        command: the command line that makes it again.
        headline: the answer in one sentence, in pieces `lead`, `figure`, `tail`.
        facts: (name, value).
        kinds: the overview.
        sentences: what could not be judged, and what to bear in mind.
        suspects: labels, in queue order.
        identical: files with the same bytes under different labels.
        duplicates: near-duplicates, those with different labels first.
        leaks: twins across splits.
        price: (measure, with the leaks, without, difference): intervals; empty where it was not measured.
        price_told: what follows from it.
        outliers: images that belong nowhere.
        odd: dark, blank, … images.
        class_names: K names.
        matrix: float (K, K), P(given = j | right = k), or None; with low and high ends.
        low: lower ends.
        high: upper ends.
        classes: a row a class.
        findings: what the scan left out.
        seconds: stage to wall seconds.
        thumbnail: (path, most pixels a side) → JPEG bytes, or None.
    """

    title: str
    command: str
    headline: Mapping[str, str]
    facts: Sequence[tuple[str, str]]
    kinds: Sequence[Kind]
    sentences: Sequence[str]
    suspects: Gallery
    identical: Gallery
    duplicates: Gallery
    leaks: Gallery
    price: Sequence[tuple[str, Interval, Interval, Interval]]
    price_told: str
    outliers: Gallery
    odd: Gallery
    class_names: Sequence[str]
    matrix: NDArray[np.float64] | None
    low: NDArray[np.float64] | None
    high: NDArray[np.float64] | None
    classes: Sequence[ClassLabels]
    findings: Sequence[Finding]
    seconds: Mapping[str, float]
    thumbnail: Callable[[str, int], bytes | None] = field(default=lambda _path, _pixels: None)


def write_audit_page(path: Path, contents: AuditContents) -> None:
    """Write the page, atomically."""
    write_bytes(path, render(contents).encode("utf-8", errors="replace"))


def render(contents: AuditContents) -> str:
    """The page as one HTML text."""
    return page("audit.html.jinja", _view(contents))


def _view(contents: AuditContents) -> JSON:
    css = (_HERE / "report.css").read_text("utf-8") + (_HERE / "audit.css").read_text("utf-8")
    script = (_HERE / "report.js").read_text("utf-8")
    pictures = Pictures(contents.thumbnail, MAX_THUMBNAIL_BYTES)
    galleries = {
        name: _gallery(getattr(contents, name), pictures)
        for name in (
            "suspects",
            "identical",
            "duplicates",
            "leaks",
            "outliers",
            "odd",
        )  # in the order of what says most
    }
    return {
        "title": clipped(contents.title, 120),
        "css": Markup(css),
        "script": Markup(script),
        "policy": f"default-src 'none'; img-src data:; style-src '{digest(css)}'; script-src '{digest(script)}'; "
        "base-uri 'none'; form-action 'none'",
        "headline": contents.headline,
        "facts": contents.facts,
        "kinds": contents.kinds,
        "sentences": [clipped(sentence, 1000) for sentence in contents.sentences],
        **galleries,
        "price": [(name, str(a), str(b), _signed(c)) for name, a, b, c in contents.price],
        "price_told": contents.price_told,
        "matrix": _matrix(contents),
        "flows": _flows(contents),
        "classes": _classes(contents),
        "excluded": report_facts.findings(contents.findings, excluded=True),
        "num_excluded": count(len({f.image for f in contents.findings if f.excluded}), "image"),
        "timing": report_facts.timing(contents.seconds),
        "command": contents.command,
    }


def _gallery(gallery: Gallery, pictures: Pictures) -> JSON:
    return {
        "told": gallery.told,
        "items": [
            [
                {
                    "url": pictures.data_url(one.path),
                    "name": clipped(one.name, 200),
                    "file": clipped(one.name, 60),
                    "given": clipped(one.given, 60),
                    "other": clipped(one.other, 60),
                    "split": one.split,
                    "figure": one.figure,
                    "reason": clipped(one.reason, 300),
                }
                for one in item
            ]
            for item in gallery.items
        ],
    }


def _signed(interval: Interval) -> str:
    return f"{interval.estimate:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def _matrix(contents: AuditContents) -> JSON | None:
    """The noise matrix as rows of shaded cells; None without one, or for more classes than a page can show."""
    matrix, low, high = contents.matrix, contents.low, contents.high
    if matrix is None or low is None or high is None or len(contents.class_names) > MAX_MATRIX_CLASSES:
        return None
    names = [(clipped(name, 18), clipped(name)) for name in contents.class_names]
    return {
        "columns": names,
        "rows": [
            {
                "short": names[k][0],
                "name": names[k][1],
                "cells": [
                    {
                        "share": _share(matrix[k, j]),
                        "shade": _shade(float(matrix[k, j]), right=k == j),
                        "range": percent_range(float(low[k, j]), float(high[k, j])),
                    }
                    for j in range(len(names))
                ],
            }
            for k in range(len(names))
        ],
        "dense": len(names) > 10,
    }


def _share(value: Any) -> str:
    return "" if value < 0.0005 else "<1" if value < 0.01 else f"{100 * value:.0f}"


def _shade(share: float, *, right: bool) -> str:
    level = math.ceil(_LEVELS * min(share if right else math.sqrt(share), 1.0)) if share >= 0.0005 else 0
    return f"{'r' if right else 'w'}{level}"


def _flows(contents: AuditContents) -> list[JSON]:
    """What is labelled as what, most often first, with intervals."""
    matrix, low, high = contents.matrix, contents.low, contents.high
    if matrix is None or low is None or high is None:
        return []
    off = np.where(np.eye(len(matrix), dtype=bool), 0.0, matrix)
    order = np.argsort(-off, axis=None, kind="stable")[:NUM_FLOWS]
    places = [divmod(int(flat), len(matrix)) for flat in order]
    return [
        {
            "right": clipped(contents.class_names[k]),
            "given": clipped(contents.class_names[j]),
            "share": percent(float(off[k, j])),
            "range": percent_range(float(low[k, j]), float(high[k, j])),
        }
        for k, j in places
        if off[k, j] >= 0.001
    ]


def _classes(contents: AuditContents) -> list[JSON]:
    rows = []
    for one in contents.classes:
        wrong, images = one.wrong, max(one.num_images, 1)
        bar = ""
        if wrong is not None:
            bar = charts.range_bar(wrong.estimate / images, wrong.low / images, min(wrong.high / images, 1.0))
        rows.append(
            {
                "name": clipped(one.name, 60),
                "images": one.num_images,
                "wrong": -1.0 if wrong is None else round(wrong.estimate, 3),
                "wrong_text": "–" if wrong is None else f"{wrong.estimate:,.0f}",
                "range": "" if wrong is None else f"{wrong.low:,.0f}–{wrong.high:,.0f}",
                "share": -1.0 if wrong is None else round(wrong.estimate / images, 6),
                "share_text": "–" if wrong is None else percent(wrong.estimate / images),
                "bar": Markup(bar),
                "suspects": one.suspects,
                "judged": one.judged,
            }
        )
    return rows
