"""Gathers what an audit found into its page, and into the few lines that a terminal shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regraft.audit_tables import queue
from regraft.errors import UsageError
from regraft.evaluate.audit_page import AuditContents, ClassLabels, Gallery, Kind, Picture, write_audit_page
from regraft.evaluate.wording import MEASURES, count, listed, percent
from regraft.reporting import thumbnail
from regraft.types import Finding, Interval, IssueColumn, printable

if TYPE_CHECKING:
    from regraft.auditing import Audit

MAX_SUSPECTS = 60
MAX_SETS = 30
MAX_SINGLES = 24
MAX_TWINS = 6
"""Pictures of one set that are shown side by side."""
_GENERATOR = b'<meta name="generator" content="regraft">'


def check_report(path: Path) -> None:
    """Refuse to replace a file that is no report of ours, before any work.

    Raises:
        UsageError: so it is, or the ending is not .html.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"the report of an audit ends in .html: {str(path)!r} does not")
    if path.is_dir():
        raise UsageError(f"the report of an audit is a file: {str(path)!r} is a folder")
    if path.exists():
        with path.open("rb") as stream:
            if _GENERATOR not in stream.read(4096):
                raise UsageError(
                    f"only a report of regraft's is replaced: {str(path)!r} is none; give another --output"
                )


def headline(found: Audit) -> str:
    """The answer in one sentence."""
    pieces = _headline(found)
    return f"{pieces['lead']}{pieces['figure']}{pieces['tail']}"


def kinds(found: Audit) -> list[Kind]:
    """How many images there are of each kind of issue."""
    columns, duplicates = found.issues.columns, found.duplicates
    counts = {name: int(column.is_issue.sum()) for name, column in columns.items()}
    by_kind = found.scan.counts_by_kind
    told = []
    if found.labels is not None:
        flagged = found.labels.column.is_issue
        sure, in_test = int((found.labels.tier == 2).sum()), int((flagged & (found.roles == "test")).sum())
        detail = f"on {sure:,} of them all judges agree"
        detail += f"; {in_test:,} are test images" if in_test else ""
        told.append(Kind(title="labels", count=counts["label"], detail=detail, anchor="labels"))
    identical = by_kind.get("exact_duplicate", 0) + by_kind.get("leaked_duplicate", 0)
    conflicting = by_kind.get("conflicting_duplicate", 0)
    told.append(
        Kind(
            title="identical files", count=identical + conflicting, anchor="duplicates",
            detail=f"{conflicting:,} of them under different labels; left out by the scan" if conflicting
            else "the copies were left out by the scan" if identical else "",
        )
    )  # fmt: skip
    num_sets, num_conflicts = int(duplicates.sets.max(initial=-1)) + 1, int(duplicates.conflicting.sum())
    detail = (
        f"{count(num_sets, 'set')}, {count(len(duplicates.pairs), 'pair')}; {num_conflicts:,} with different labels"
    )
    told.append(
        Kind(
            title="near-duplicates", count=counts["near_duplicate"], detail=detail if len(duplicates.pairs) else "",
            anchor="duplicates",
        )
    )  # fmt: skip
    crossing = ", ".join(
        f"{number:,} of {here} in {there}" for (here, there), number in found.leaks.leaked.items()
    )  # fmt: skip
    borders = "across the given splits: " if found.given else "across the split that fit draws: "
    told.append(
        Kind(
            title="leaks", count=counts["leakage"], anchor="leaks",
            detail=borders + crossing if crossing else "" if (found.roles != "").any() else "there are no splits",
        )
    )  # fmt: skip
    off_topic = int(found.outliers.off_topic.sum())
    told.append(
        Kind(
            title="outliers", count=counts["outlier"], anchor="outliers",
            detail=f"{off_topic:,} unlike all images, the others unlike their class" if counts["outlier"] else "",
        )
    )  # fmt: skip
    odd = ", ".join(f"{int(rows.sum()):,} {kind}" for kind, rows in found.odd.kinds.items() if rows.any())
    told.append(Kind(title="odd images", count=counts["odd_image"], detail=odd, anchor="odd"))
    left = ", ".join(f"{number:,} {kind.replace('_', ' ')}" for kind, number in by_kind.items())
    told.append(Kind(title="left out by the scan", count=found.scan.num_excluded, detail=left, anchor="left-out"))
    return told


def sentences(found: Audit) -> list[str]:
    """What could not be judged, and what to bear in mind."""
    said = []
    if found.too_small:
        groups = {one.name: one.num_groups for one in found.imbalance.classes}
        named = [f"{printable(name)} ({groups.get(printable(name), 0)})" for name in found.too_small]
        said.append(
            f"classes too small to judge, their labels are ranked but never flagged; look at all of them: "
            f"{listed(named, most=12)}"
        )
    if found.price is not None:
        said.append(f"the price of leaks: {found.price.reason}")
    return [*said, *found.notes]


def write_audit_report(path: Path, found: Audit, *, title: str, command: str) -> None:
    """Write the page of an audit."""
    manifest, labels = found.manifest, found.labels
    names = [printable(name) for name in manifest.class_names]
    counts = manifest.class_counts()
    classes = []
    if labels is not None:
        for k in np.argsort([-each.estimate for each in labels.noise.per_class], kind="stable").tolist():
            if counts[k]:
                suspects = int((labels.column.is_issue & (manifest.labels == k)).sum())
                classes.append(
                    ClassLabels(
                        name=names[k], num_images=int(counts[k]), wrong=labels.noise.per_class[k], suspects=suspects,
                        judged=k not in labels.too_small,
                    )
                )  # fmt: skip
    contents = AuditContents(
        title=title, command=command, headline=_headline(found),
        facts=[
            ("images judged", f"{len(manifest):,}"), ("left out", f"{found.scan.num_excluded:,}"),
            ("classes", f"{manifest.num_classes:,}"), ("backbone", found.backbone),
        ],
        kinds=kinds(found), sentences=sentences(found), suspects=_suspects(found), identical=_identical(found),
        duplicates=_pairs(found, np.arange(len(found.duplicates.pairs)), "pair"),
        leaks=_leaks(found), price=_price(found), price_told="" if found.price is None else found.price.reason,
        outliers=_singles(found, found.outliers.column), odd=_singles(found, found.odd.column), class_names=names,
        matrix=None if labels is None else labels.noise.matrix, low=None if labels is None else labels.noise.low,
        high=None if labels is None else labels.noise.high, classes=classes, findings=found.scan.findings,
        seconds=found.seconds, thumbnail=lambda image, pixels: thumbnail(manifest.root / image, pixels),
    )  # fmt: skip
    write_audit_page(path, contents)


def _headline(found: Audit) -> dict[str, str]:
    num = len(found.manifest)
    if found.labels is None:
        return {"lead": "The labels ", "figure": "could not be judged", "tail": "", "more": ""}
    wrong = found.labels.noise.num_wrong
    if wrong.high - wrong.low > 0.5 * num:
        interval = f"{100 * wrong.level:g} % interval {wrong.low:,.0f} to {wrong.high:,.0f}"
        more = f"Too few images, or too hard to tell apart ({interval}); the suspects are in the order of looking."
        return {"lead": f"How many of {num:,} labels are wrong ", "figure": "cannot be told", "tail": "", "more": more}
    figure = f"about {wrong.estimate:,.0f}" if wrong.estimate >= 0.5 else "hardly any"
    return {
        "lead": f"Of {num:,} labels ",
        "figure": figure,
        "tail": f" are wrong ({100 * wrong.level:g} % interval {wrong.low:,.0f} to {wrong.high:,.0f})",
        "more": f"That is {percent(wrong.estimate / num)}. Each label was judged by models that had not seen it.",
    }


def _suspects(found: Audit) -> Gallery:
    if found.labels is None:
        return Gallery(told="The labels could not be judged.")
    flagged = found.labels.column.is_issue
    rows = [row for row in queue(found).tolist() if flagged[row]]
    score = found.labels.column.score
    pictures = [
        [_picture(found, row, f"right: {score[row]:.0%}", found.labels.column.reasons[row])]
        for row in rows[:MAX_SUSPECTS]
    ]
    return Gallery(items=pictures, told=_told(len(rows), len(pictures), "label") if rows else "None stands out.")


def _identical(found: Audit) -> Gallery:
    """Files with the same bytes under different labels, which the scan left out."""
    sets: dict[int, list[Finding]] = {}
    for finding in found.scan.findings:
        if finding.kind == "conflicting_duplicate" and finding.duplicate_set is not None:
            sets.setdefault(finding.duplicate_set, []).append(finding)
    items = [
        [
            Picture(path=one.image, name=one.image, given=one.label or "", reason=one.reason)
            for one in members[:MAX_TWINS]
        ]
        for members in list(sets.values())[:MAX_SETS]
    ]
    return Gallery(items=items, told=_told(len(sets), len(items), "set"))


def _pairs(found: Audit, numbers: NDArray[np.int64], noun: str) -> Gallery:
    items = []
    for number in numbers[:MAX_SETS].tolist():
        a, b = found.duplicates.pairs[number].tolist()
        reason = found.duplicates.column.reasons[a] or found.duplicates.column.reasons[b]
        if printable(str(found.manifest.images[b])) not in reason:  # told of another pair, which matters more
            reason = ""
        items.append([_picture(found, a, "", reason), _picture(found, b)])
    return Gallery(items=items, told=_told(len(numbers), len(items), noun))


def _leaks(found: Audit) -> Gallery:
    if len(found.leaks.pairs):
        return _pairs(found, found.leaks.pairs, "pair")
    others = np.flatnonzero(found.leaks.column.is_issue)
    if len(others):
        items = [[_picture(found, row, "", found.leaks.column.reasons[row])] for row in others[:MAX_SETS].tolist()]
        return Gallery(items=items, told=_told(len(others), len(items), "image"))
    split = (
        "None were found."
        if (found.roles != "").any()
        else f"There are no splits to leak across: {found.split.reason}."
    )
    return Gallery(told=split)


def _price(found: Audit) -> list[tuple[str, Interval, Interval, Interval]]:
    if found.price is None:
        return []
    price = found.price
    return [
        (MEASURES[name][0], price.leaky[name], price.corrected[name], price.price[name]) for name in price.price
    ]  # fmt: skip


def _singles(found: Audit, column: IssueColumn) -> Gallery:
    rows = np.flatnonzero(column.is_issue)
    rows = rows[np.argsort(column.score[rows], kind="stable")]
    items = [[_picture(found, row, "", column.reasons[row])] for row in rows[:MAX_SINGLES].tolist()]
    return Gallery(items=items, told=_told(len(rows), len(items), "image"))


def _picture(found: Audit, row: int, figure: str = "", reason: str = "") -> Picture:
    manifest = found.manifest
    better = int(found.issues.suggested_labels[row]) if figure else -1
    return Picture(
        path=str(manifest.images[row]), name=manifest.names[row],
        given=printable(manifest.class_names[manifest.labels[row]]),
        other=printable(manifest.class_names[better]) if better >= 0 else "", split=str(found.roles[row]),
        figure=figure, reason=reason,
    )  # fmt: skip


def _told(total: int, shown: int, noun: str) -> str:
    if shown == total:
        return f"{count(total, noun)}."
    return f"The first {shown:,} of {count(total, noun)}; the issues table has all."
