"""What an audit found, as tables for others: the issues table, Label Studio's tasks, FiftyOne's labels, the summary.

An ending says which: `.csv`, `.parquet`, `.json`; `.labelstudio.json`; `.fiftyone.json`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from regraft.data.issues import COLUMNS, issues_rows, write_rows
from regraft.errors import UsageError
from regraft.files import write_json
from regraft.types import JSON, printable

if TYPE_CHECKING:
    from regraft.auditing import Audit

KINDS = ("label", "near_duplicate", "leakage", "outlier", "odd_image")
ENDINGS = (".csv", ".parquet", ".json", ".labelstudio.json", ".fiftyone.json")
_SHOWN = 20
_MOST_CLASSES = 100
"""Up to which the summary holds the noise matrix: three times K² numbers."""


def check_export(path: Path) -> None:
    """Refuse an ending that says nothing, before any work.

    Raises:
        UsageError: it is none of `ENDINGS`.
    """
    if not path.name.lower().endswith(ENDINGS):
        raise UsageError(f"an export ends in {', '.join(ENDINGS)}: {path.name!r} does not")


def export(found: Audit, path: Path) -> Path:
    """Write the audit by the ending of `path`; an existing file is replaced.

    Raises:
        UsageError: the ending is another.
    """
    check_export(path)
    name = path.name.lower()
    if name.endswith(".labelstudio.json"):
        write_json(path, label_studio(found))
    elif name.endswith(".fiftyone.json"):
        write_json(path, fiftyone(found))
    else:
        write_rows(rows(found), path)
    return path


def rows(found: Audit) -> Iterator[JSON]:
    """The issues table: a dict an image, those that the scan left out included, sorted by path.

    What was not judged is None: labels where too few groups are left to hold any out, and all but what the scan said of
    an image that it left out.
    """
    manifest, columns = found.manifest, found.issues.columns
    places = {name: row for row, name in enumerate(manifest.names)}
    sets = _sets(found, places)
    for scanned in issues_rows(found.scan):
        image = scanned["image"]
        row = places.get(image)
        if row is None:
            yield scanned | {"near_duplicate_set": sets.get(image)}
            continue
        told = {name: scanned[name] for name in COLUMNS}
        reasons = [scanned["reason"]]
        for kind in KINDS:
            column = columns.get(kind)
            told[f"is_{kind}_issue"] = None if column is None else bool(column.is_issue[row])
            told[f"{kind}_score"] = None if column is None else round(float(column.score[row]), 6)
            reasons.append("" if column is None else column.reasons[row])
        better = int(found.issues.suggested_labels[row])
        if better >= 0:
            told["suggested_label"] = printable(manifest.class_names[better])
        if told["is_label_issue"] and found.roles[row] in ("test", "val"):
            reasons.append(f"it is a {found.roles[row]} image: correct its label only for a reason seen in the image")
        told["near_duplicate_set"] = sets.get(image)
        told["reason"] = "; ".join(dict.fromkeys(reason for reason in reasons if reason))
        yield told


def _sets(found: Audit, places: dict[str, int]) -> dict[str, int]:
    """Image to the number of its set: near-duplicates as numbered by the search, files that are identical joined on."""
    numbers = {name: int(found.duplicates.sets[row]) for name, row in places.items()}
    numbers = {name: number for name, number in numbers.items() if number >= 0}
    following = max(numbers.values(), default=-1) + 1
    identical: dict[int, int] = {}
    for finding in found.scan.findings:
        if finding.duplicate_set is None:
            continue
        if finding.duplicate_set not in identical:
            stays = finding.same_as or ""
            identical[finding.duplicate_set] = numbers.get(stays, following)
            following += identical[finding.duplicate_set] == following
            if stays in places:
                numbers[stays] = identical[finding.duplicate_set]
        numbers[finding.image] = identical[finding.duplicate_set]
    return numbers


def queue(found: Audit) -> NDArray[np.int64]:
    """Rows that a person should look at, in that order: label suspects as queued, then what else was found, worst
    first."""
    columns = found.issues.columns
    flagged = np.any([column.is_issue for column in columns.values()], axis=0)
    worst = np.min([column.score for column in columns.values()], axis=0)
    if found.labels is None:
        ordered = np.empty(0, np.int64)
    else:
        ordered = found.labels.queue[found.labels.column.is_issue[found.labels.queue]]
    rest = np.setdiff1d(np.flatnonzero(flagged), ordered)
    return np.concatenate([ordered, rest[np.argsort(worst[rest], kind="stable")]]).astype(np.int64)


def label_studio(found: Audit) -> list[JSON]:
    """Tasks for Label Studio, in the order of looking, with a prediction each: the suggested label, or the given one.

    Images are named as its local storage serves them, relative to the data folder (set as its document root). The
    labelling set-up needs `<Image name="image" value="$image"/>` and `<Choices name="label" toName="image">`.
    """
    manifest, columns = found.manifest, found.issues.columns
    names = manifest.names
    tasks = []
    for row in queue(found).tolist():
        given, better = int(manifest.labels[row]), int(found.issues.suggested_labels[row])
        kinds = [kind for kind in columns if columns[kind].is_issue[row]]
        label = printable(manifest.class_names[better if better >= 0 else given])
        doubt = 1 - float(columns["label"].score[row]) if "label" in columns else 0.0
        tasks.append(
            {
                "data": {
                    "image": f"/data/local-files/?d={quote(str(manifest.images[row]), errors='surrogateescape')}",
                    "file": names[row],
                    "given_label": printable(manifest.class_names[given]),
                    "split": str(found.roles[row]),
                    "issues": ", ".join(kinds),
                    "reason": _reason(found, row),
                },
                "predictions": [
                    {
                        "model_version": f"regraft audit {found.backbone}",
                        "score": round(doubt if better >= 0 else 1 - doubt, 6),
                        "result": [
                            {
                                "from_name": "label", "to_name": "image", "type": "choices",
                                "value": {"choices": [label]},
                            }
                        ],
                    }
                ],
            }
        )  # fmt: skip
    return tasks


def fiftyone(found: Audit) -> JSON:
    """The labels file of FiftyOne's `FiftyOneImageClassificationDataset`: every image that was judged, by its absolute
    path, with its given label and what the audit says as attributes."""
    manifest, columns = found.manifest, found.issues.columns
    labels = {}
    for row in range(len(manifest)):
        better = int(found.issues.suggested_labels[row])
        attributes: JSON = {"split": str(found.roles[row]), "reason": _reason(found, row)}
        attributes["suggested_label"] = printable(manifest.class_names[better]) if better >= 0 else None
        attributes["near_duplicate_set"] = int(found.duplicates.sets[row])
        for kind, column in columns.items():
            attributes[f"is_{kind}_issue"] = bool(column.is_issue[row])
            attributes[f"{kind}_score"] = round(float(column.score[row]), 6)
        labels[printable(str(manifest.path(row).absolute()))] = {
            "label": printable(manifest.class_names[manifest.labels[row]]),
            "attributes": attributes,
        }
    return {"labels": labels}


def summary(found: Audit) -> JSON:
    """What `regraft audit --json` prints."""
    manifest, columns, labels = found.manifest, found.issues.columns, found.labels
    sets = found.duplicates.sets
    told: JSON = {
        "num_images": len(manifest), "num_left_out": found.scan.num_excluded, "backbone": found.backbone,
        "num_issues": {kind: int(columns[kind].is_issue.sum()) if kind in columns else None for kind in KINDS},
        "num_wrong_labels": None, "wrong_labels_by_class": None, "noise_matrix": None, "label_judges": [],
        "num_sure": None, "too_small_to_judge": [printable(name) for name in found.too_small],
        "near_duplicates": {
            "num_pairs": len(found.duplicates.pairs), "num_sets": int(sets.max(initial=-1)) + 1,
            "num_images": int((sets >= 0).sum()), "num_conflicting": int(found.duplicates.conflicting.sum()),
            "threshold": found.duplicates.calibration.reason,
        },
        "identical_files": {
            kind: found.scan.counts_by_kind.get(kind, 0)
            for kind in ("exact_duplicate", "conflicting_duplicate", "leaked_duplicate")
        },
        "leaks": [
            {"split": here, "into": there, "num_images": number} for (here, there), number in found.leaks.leaked.items()
        ],
        "splits": "given" if found.given else "drawn" if len(found.split.test) else None,
        "price": None,
        "odd_images": {kind: int(rows.sum()) for kind, rows in found.odd.kinds.items()},
        "num_off_topic": int(found.outliers.off_topic.sum()),
        "imbalance": {"ratio": found.imbalance.ratio, "too_small_to_judge": list(found.imbalance.too_small)},
        "suspects": [_suspect(found, row) for row in queue(found).tolist()[:_SHOWN]], "notes": list(found.notes),
        "seconds": {name: round(seconds, 3) for name, seconds in found.seconds.items()},
    }  # fmt: skip
    if labels is not None:
        names = [printable(name) for name in manifest.class_names]
        told["num_wrong_labels"] = labels.noise.num_wrong.as_dict()
        told["wrong_labels_by_class"] = {
            name: each.as_dict() for name, each in zip(names, labels.noise.per_class, strict=True)
        }
        if len(names) <= _MOST_CLASSES:
            told["noise_matrix"] = {
                "rows": "right class", "columns": "given class", "classes": names,
                "estimate": labels.noise.matrix.round(6).tolist(), "low": labels.noise.low.round(6).tolist(),
                "high": labels.noise.high.round(6).tolist(), "level": labels.noise.level,
            }  # fmt: skip
        told["label_judges"] = list(labels.judges)
        told["num_sure"] = int((labels.tier == 2).sum())
    if found.price is not None:
        told["price"] = {
            side: {name: interval.as_dict() for name, interval in getattr(found.price, side).items()}
            for side in ("leaky", "corrected", "price")
        }
    return told


def _suspect(found: Audit, row: int) -> JSON:
    better = int(found.issues.suggested_labels[row])
    names = found.manifest.class_names
    return {
        "image": found.manifest.names[row], "given_label": printable(names[found.manifest.labels[row]]),
        "suggested_label": printable(names[better]) if better >= 0 else None, "split": str(found.roles[row]),
        "reason": _reason(found, row),
    }  # fmt: skip


def _reason(found: Audit, row: int) -> str:
    reasons: list[Any] = [column.reasons[row] for column in found.issues.columns.values()]
    return "; ".join(reason for reason in reasons if reason)
