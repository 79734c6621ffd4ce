"""The issues table of a scan: one row per file, the same columns as the audit's."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from regraft.data.kinds import BAD_FILES, printable
from regraft.data.scan import Scan
from regraft.errors import UsageError, nearest
from regraft.files import replacing, write_json
from regraft.types import Finding

COLUMNS = (
    "image", "given_label", "suggested_label", "is_label_issue", "label_score", "is_near_duplicate_issue",
    "near_duplicate_score", "near_duplicate_set", "is_leakage_issue", "leakage_score", "is_outlier_issue",
    "outlier_score", "is_odd_image_issue", "odd_image_score", "reason",
)  # fmt: skip

_LABEL = {"unlabelled": 0.0, "conflicting_duplicate": 0.0, "similar_label": 0.5}
_DUPLICATE = {"exact_duplicate": 0.0, "leaked_duplicate": 0.0, "conflicting_duplicate": 0.0}
_LEAKAGE = {"leaked_duplicate": 0.0}
_ODD = {**dict.fromkeys(BAD_FILES, 0.0), "wrong_extension": 0.5, "animated": 0.5}


def issues_rows(scan: Scan) -> Iterator[dict[str, Any]]:
    """The issues table, a dict a file, sorted by path.

    Scores are in [0, 1], 1 is clean: 0 where the scan left the image out for that reason, 0.5 for a remark (whose
    `is_..._issue` is True for labels and False for odd images, which were used). Outliers are not looked for by a
    scan: None. Of identical images, the one that stays has the set's number and no flag.
    """
    findings: dict[str, list[Finding]] = defaultdict(list)
    stands_for: dict[str, int] = {}
    for finding in scan.findings:
        findings[finding.image].append(finding)
        if finding.duplicate_set is not None and finding.same_as is not None:
            stands_for[finding.same_as] = finding.duplicate_set
    names = scan.manifest.class_names
    labels: dict[str, str | None] = {
        printable(image): names[label] if label >= 0 else None
        for image, label in zip(scan.manifest.images.tolist(), scan.manifest.labels.tolist(), strict=True)
    }
    for finding in scan.findings:
        labels.setdefault(finding.image, finding.label)
    for image in sorted(labels):
        yield _row(image, labels[image], findings.get(image, ()), stands_for.get(image))


def write_issues(scan: Scan, path: str | Path) -> Path:
    """Write the issues table as CSV, Parquet or JSON, by the ending; an existing file is replaced.

    Raises:
        UsageError: the ending is another.
    """
    return write_rows(issues_rows(scan), Path(path))


def write_rows(rows: Iterable[dict[str, Any]], path: Path) -> Path:
    """Write rows of the issues table by the ending of `path`."""
    ending = path.suffix.lower()
    if ending not in (".csv", ".parquet", ".json"):
        known = nearest(ending, [".csv", ".parquet", ".json"])
        raise UsageError(f"an issues table ends in .csv, .parquet or .json: {path.name!r} does not{known}")
    if ending == ".json":
        write_json(path, list(rows))
    elif ending == ".csv":
        with replacing(path) as aside, aside.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow
        import pyarrow.parquet

        text, flag, score = pyarrow.string(), pyarrow.bool_(), pyarrow.float64()
        types = {name: score if name.endswith("_score") else text for name in COLUMNS}
        types |= {name: flag for name in COLUMNS if name.startswith("is_")}
        types["near_duplicate_set"] = pyarrow.int64()
        table = pyarrow.Table.from_pylist(list(rows), pyarrow.schema(list(types.items())))
        with replacing(path) as aside:
            pyarrow.parquet.write_table(table, aside)
    return path


def _row(image: str, label: str | None, findings: Sequence[Finding], stands_for: int | None) -> dict[str, Any]:
    def score(table: dict[str, float]) -> float:
        return min((table[finding.kind] for finding in findings if finding.kind in table), default=1.0)

    duplicate_set = next((f.duplicate_set for f in findings if f.duplicate_set is not None), stands_for)
    label_score, duplicate, leakage, odd = score(_LABEL), score(_DUPLICATE), score(_LEAKAGE), score(_ODD)
    return {
        "image": image,
        "given_label": label,
        "suggested_label": next((f.same_as for f in findings if f.kind == "similar_label"), None),
        "is_label_issue": label_score < 1,
        "label_score": label_score,
        "is_near_duplicate_issue": duplicate < 1,
        "near_duplicate_score": duplicate,
        "near_duplicate_set": duplicate_set,
        "is_leakage_issue": leakage < 1,
        "leakage_score": leakage,
        "is_outlier_issue": None,
        "outlier_score": None,
        "is_odd_image_issue": odd == 0,
        "odd_image_score": odd,
        "reason": "; ".join(dict.fromkeys(finding.reason for finding in findings)),
    }
