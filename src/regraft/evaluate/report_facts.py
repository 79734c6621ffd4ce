"""What the report shows of the data and of the run: values in, plain dicts of texts and bars out.

The template places them and escapes every text; it computes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from regraft.evaluate import charts
from regraft.evaluate.wording import clipped, count, duration, number, percent
from regraft.types import JSON, Finding

MAX_BARS = 40
"""More classes than this and the class counts show both ends of the ranking only."""

MAX_LISTED = 50
"""Findings of one kind that are listed; the rest is counted."""


def class_counts(result: JSON) -> JSON:
    """Images per class, most first, as bars of development and test images."""
    table = {
        name: (int(number(row.get("development")) or 0), int(number(row.get("test")) or 0))
        for name, row in (result.get("class_counts") or {}).items()
    }
    ranked = sorted(table.items(), key=lambda item: (-sum(item[1]), item[0]))
    most = max((sum(row) for row in table.values()), default=0) or 1
    bars = [
        {
            "name": clipped(name),
            "short": clipped(name, 32),
            "development": f"{development:,}",
            "test": f"{test:,}",
            "total": f"{development + test:,}",
            "bar": Markup(charts.bar(development / most, test / most)),
        }
        for name, (development, test) in ranked
    ]
    gap = ""
    head, tail = bars, []
    if len(bars) > MAX_BARS:
        half = MAX_BARS // 2
        head, tail = bars[:half], bars[-half:]
        between = [sum(row) for _, row in ranked[half:-half]]
        gap = (
            f"{count(len(between), 'class', 'classes')} with {between[0]:,} down to {count(between[-1], 'image')} each"
        )
    smallest = sum(ranked[-1][1]) if ranked else 0
    told = ""
    if len(ranked) > 1:
        told = f"{count(len(ranked), 'class', 'classes')}. "
        if smallest == most:
            told += f"All have {count(most, 'image')}."
        elif smallest:
            told += f"The largest has {most / smallest:.3g} times as many images as the smallest."
        else:
            told += "Some have no image at all."
    return {
        "head": head,
        "gap": gap,
        "tail": tail,
        "told": told,
        "has_test": any(test for _, test in table.values()),
    }


def findings(found: Sequence[Finding], *, excluded: bool) -> list[JSON]:
    """Findings by kind, the most frequent first, each list capped."""
    kinds: dict[str, list[Finding]] = defaultdict(list)
    for finding in found:
        if finding.excluded == excluded:
            kinds[finding.kind].append(finding)
    groups = []
    for kind, members in sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0])):
        rest = len(members) - MAX_LISTED
        groups.append(
            {
                "kind": clipped(kind.replace("_", " ")),
                "count": count(len(members), "image"),
                "listed": [
                    {
                        "image": clipped(f.image, 120),
                        "label": clipped(f.label) if f.label is not None else "",
                        "reason": clipped(f.reason, 240),
                    }
                    for f in members[:MAX_LISTED]
                ],
                "rest": f"… and {rest:,} more" if rest > 0 else "",
            }
        )
    return groups


def timing(seconds: Mapping[str, Any]) -> JSON:
    """Wall time of every stage, in the order they ran."""
    stages = {str(name): number(value) or 0.0 for name, value in seconds.items() if name != "total"}
    whole = number(seconds.get("total"))
    total = max(sum(stages.values()), whole or 0.0)
    longest = max(stages.values(), default=0.0) or 1.0
    return {
        "total": duration(total) if total else "",
        "rows": [
            {
                "name": clipped(name.replace("_", " ")),
                "time": duration(value),
                "share": percent(value / total) if total else "–",
                "bar": Markup(charts.bar(value / longest)),
            }
            for name, value in stages.items()
        ],
    }


def options(config: JSON) -> list[JSON]:
    """Every option, its value, and why it has it."""
    rows = []
    for name, record in config.items():
        known = isinstance(record, Mapping) and "value" in record
        rows.append(
            {
                "name": clipped(str(name)),
                "value": clipped(_plain(record["value"] if known else record), 200),
                "reason": clipped(_plain(record.get("reason", "")), 300) if known else "",
            }
        )
    return rows


def flattened(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested JSON object as (dotted name, text) pairs."""
    pairs: list[tuple[str, str]] = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            pairs += flattened(value, f"{prefix}{name}.")
        else:
            pairs.append((clipped(f"{prefix}{name}"), clipped(_plain(value), 300)))
    return pairs


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return str(value)
