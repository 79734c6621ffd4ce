"""One run as values for its page: measures, classes, what `auto` became and why, environment, files, lineage."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from regraft.board.runs.leaderboard import run_address, value_texts
from regraft.evaluate.wording import MEASURES
from regraft.store import runs
from regraft.store.run_files import EVENTS, KNOWN, ORIGIN, listed, number, part, read_config, read_json, run_files, text
from regraft.store.run_index import RunFacts
from regraft.types import JSON

MAX_PAIRS = 200
MAX_CLASSES = 500

WORDS = {
    runs.CONFIG: "every option, resolved", runs.ENV: "versions and processor", runs.RESULT: "the measures",
    runs.METRICS: "the curves", EVENTS: "what trackers were told",
    runs.PREDICTIONS: "held-out probabilities of every image", runs.REPORT: "the report",
    runs.RANKING: "the ranking of backbones", runs.RACE: "the race of strategies",
    runs.RACE_CARD: "its card",
}  # fmt: skip
"""What the files at the top of a run folder are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option of the fit.

    Attributes:
        name: of the option.
        value: what it was.
        asked: what was asked for, "" where that is the same.
        reason: why it became what it is.
    """

    name: str
    value: str
    asked: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A run that this one began with, or that began with this one."""

    words: str
    href: str


def measures(folder: Path, facts: RunFacts) -> list[JSON]:
    """The five measures with intervals and what always guessing the largest class would give."""
    baseline = part(read_json(folder, runs.RESULT), "baseline")
    rows = []
    for name, (title, words) in MEASURES.items():
        if (value := facts.metrics.get(name)) is not None:
            shown, span = value_texts(name, value)
            base = number(part(baseline, name))
            rows.append(
                {
                    "name": name, "title": title, "words": words, "text": shown, "range_text": span,
                    "value": dict(zip(("estimate", "low", "high"), value, strict=True)),
                    "top": 1.0 if name != "log_loss" else max(1.0, value[2]),
                    "baseline": "" if base is None else value_texts(name, (base, base, base))[0],
                }
            )  # fmt: skip
    return rows


def classes(folder: Path) -> list[JSON]:
    """Precision, recall and F1 of each class, the weakest first."""
    table = part(read_json(folder, runs.RESULT), "per_class")
    rows = []
    for name, row in list(table.items())[:MAX_CLASSES] if isinstance(table, dict) else []:
        values = {measure: number(part(row, measure)) for measure in ("precision", "recall", "f1", "support")}
        rows.append({"name": text(name, 200), **values})
    return sorted(rows, key=lambda row: (row["f1"] is None, row["f1"] or 0.0, row["name"]))


def warnings(folder: Path) -> list[str]:
    """What the fit warned of."""
    return [text(word, 400) for word in listed(part(read_json(folder, runs.RESULT), "warnings"), 20) if word]


def decisions(folder: Path) -> list[str]:
    """What the review decisions did to this run, in sentences."""
    return [text(word, 400) for word in listed(part(read_json(folder, runs.RESULT), "decisions", "words"), 10) if word]


def stages(folder: Path) -> list[JSON]:
    """Seconds of each stage, in order, with their share of the longest."""
    table = part(read_json(folder, runs.RESULT), "seconds")
    found = [
        (text(name, 60), seconds) for name, value in (table.items() if isinstance(table, dict) else ())
        if (seconds := number(value)) is not None and seconds >= 0
    ]  # fmt: skip
    longest = max((seconds for _, seconds in found), default=0.0) or 1.0
    return [
        {"name": name, "seconds": seconds, "share": round(100 * seconds / longest, 1)} for name, seconds in found[:40]
    ]


def options(folder: Path) -> list[Option]:
    """Every option, what was asked and what it became; those that were settled for you come first."""
    config = read_config(folder) or {}
    resolved, asked, reasons = (
        value if isinstance(value := config.get(name), Mapping) else {} for name in ("options", "asked", "reasons")
    )
    rows = []
    for name in list(dict.fromkeys([*resolved, *asked, *reasons]))[:MAX_PAIRS]:
        value, was = shown(resolved.get(name)), shown(asked.get(name))
        rows.append(
            Option(
                name=shown(name), value=value, asked=was if name in asked and was != value else "",
                reason=shown(reasons[name]) if name in reasons else "",
            )
        )  # fmt: skip
    return sorted(rows, key=lambda row: not (row.asked or row.reason))


def environment(folder: Path) -> list[tuple[str, str]]:
    """`env.json` as (dotted name, text) pairs."""
    return flattened(read_json(folder, runs.ENV) or {})[:MAX_PAIRS]


def files(folder: Path, facts: RunFacts) -> list[JSON]:
    """Files that can be fetched: those on the list of what a run has, never a link."""
    order = {name: place for place, name in enumerate(KNOWN)}
    found = sorted(run_files(folder), key=lambda file: (order.get(file[0], len(order)), file[0]))
    base = run_address(facts.project, facts.name)
    return [
        {"path": path, "size": size, "words": WORDS.get(path, ""), "href": f"{base}/files/{path}"}
        for path, size in found[:500]
    ]


def data_source(folder: Path) -> str:
    """Where the images lay."""
    return text((read_config(folder) or {}).get("data"), 300)


def origin(folder: Path) -> str:
    """Where an imported run comes from, in words; "" for one that was made here."""
    found = read_json(folder, ORIGIN)
    if found is None:
        return ""
    name = f"{text(found.get('project'), 80)}/{text(found.get('name'), 80)}"
    return f"imported; it was {name} of {text(found.get('who'), 80) or 'somebody unnamed'}"


def parents(facts: RunFacts, everything: Sequence[RunFacts], runs_dir: Path) -> list[Parent]:
    """The run whose weights this one began with, and those that began with this one's."""
    found = []
    if facts.init_from:
        place = _place(_resolved(facts.init_from, runs_dir))
        run = next((run for run in everything if _place(runs_dir / run.project / run.name) == place), None)
        if run is not None:
            found.append(Parent(words=f"began with the weights of {run.key}", href=run_address(run.project, run.name)))
        else:
            found.append(Parent(words=f"began with the weights of {facts.init_from}, which is not here", href=""))
    if facts.resumed:
        found.append(Parent(words="was interrupted, and went on with its own options", href=""))
    here = _place(runs_dir / facts.project / facts.name)
    found += [
        Parent(words=f"{run.key} began with its weights", href=run_address(run.project, run.name))
        for run in everything if run.init_from and _place(_resolved(run.init_from, runs_dir)) == here
    ]  # fmt: skip
    return found


def flattened(record: Mapping[Any, Any], prefix: str = "", depth: int = 4) -> list[tuple[str, str]]:
    """A nested JSON object as (dotted name, text) pairs, no deeper than `depth`."""
    pairs: list[tuple[str, str]] = []
    for name, value in list(record.items())[:MAX_PAIRS]:
        if isinstance(value, Mapping) and depth > 1:
            pairs += flattened(value, f"{prefix}{shown(name)}.", depth - 1)
        else:
            pairs.append((f"{prefix}{shown(name)}", shown(value)))
    return pairs


_short = reprlib.Repr()
_short.maxstring, _short.maxother, _short.maxlist, _short.maxdict, _short.maxlevel = 200, 200, 12, 12, 3


def shown(value: Any) -> str:
    """Any value as one short line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    plain = value[:300] if isinstance(value, str) else _short.repr(value)
    return "".join(ch if ch.isprintable() else "\ufffd" for ch in plain)


def _resolved(path: str, runs_dir: Path) -> Path:
    """A path of a config; a relative one was given where `runs_dir` lies too."""
    given = Path(path)
    return given if given.is_absolute() else runs_dir.resolve().parent / given


def _place(path: Path) -> str:
    """A run's folder, or the one of the bundle or checkpoint within it, without asking the disk."""
    parts = [part_ for part_ in path.parts if part_ not in (".",)]
    for inner in (runs.MODEL, runs.CHECKPOINTS):
        if inner in parts[-3:]:
            parts = parts[: len(parts) - parts[::-1].index(inner) - 1]
    return "/".join(parts[-2:])
