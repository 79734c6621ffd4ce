"""A day as Markdown, for the team's retrospective."""

from __future__ import annotations

import re

from regraft.board.journal.day import Best, DayJournal, Reviewing, RunLine, Step
from regraft.board.runs.leaderboard import value_texts
from regraft.evaluate.wording import MEASURES, clipped, count, duration
from regraft.store.journal import MAX_WORDS
from regraft.store.run_index import RunFacts

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!&])")


def markdown(found: DayJournal) -> str:
    """The day as GitHub-flavoured Markdown; names and notes are shown as they are, whatever is in them."""
    day, where = found.day, f" ({found.day.zone.key})" if found.day.zone else ""
    of = f", {_plain(found.person)}" if found.person else ""
    lines = [f"# {day.title}{of}", "", f"Times are local{where}.", ""]
    lines += ["## Best so far", "", *_best_lines(found), ""] if found.bests else []
    lines += [f"## Runs: {_runs_title(found)}", "", *_run_lines(found), ""]
    lines += ["## Review", "", *(_review_line(one, found) for one in found.reviews), ""] if found.reviews else []
    for kind, title in (("question", "Questions"), ("note", "Notes")):
        notes = [note for note in found.notes if note.kind == kind]
        if notes:
            lines += [f"## {title}", ""]
            for note in notes:
                about = f" on {_plain('/'.join(filter(None, (note.project, note.run))))}" if note.run else ""
                lines.append(f"- {day.clock(note.time)} **{_plain(note.person)}**{about}: {_indented(note.words)}")
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _best_lines(found: DayJournal) -> list[str]:
    lines = []
    for best in found.bests:
        lines.append(f"- **{_plain(best.project)}**: {_named(best.facts, found.metric)}{_on(best)}")
        lines += [f"  - {_step_words(step, found)}" for step in best.steps]
    return lines


def _on(best: Best) -> str:
    how = {"test": "on the test set", "cv": "by cross-validation"}.get(best.facts.split, "")
    return f", {how}, data {_plain(best.facts.data_version)}" + ("" if best.steps else "; unchanged")


def _step_words(step: Step, found: DayJournal) -> str:
    at = found.day.clock(step.facts.finished or 0.0)
    if step.before is None:
        return f"{at} {_plain(step.facts.key)} is the first on these data: {_value(step.facts, found.metric)}"
    changes = "; ".join(f"{_plain(name)}: {_plain(old)} → {_plain(new)}" for name, old, new in step.changes)
    surely = "" if step.apart else " (the intervals overlap: it may be a tie)"
    before = f"{_plain(step.before.key)}, {_value(step.before, found.metric)}"
    return (
        f"{at} {_plain(step.facts.key)}, {_value(step.facts, found.metric)}, after {before}{surely}; changed: "
        f"{changes or 'no option'}"
    )


def _runs_title(found: DayJournal) -> str:
    if not found.runs:
        return "none was started"
    return f"{count(len(found.runs), 'run')}, {_time(found.machine_seconds)} of machine time"


def _run_lines(found: DayJournal) -> list[str]:
    if not found.runs:
        return []
    name = MEASURES[found.metric][0]
    lines = [f"| began | run | who | strategy | {name} | machine time |", "|---|---|---|---|---|---|"]
    return lines + [_run_line(line, found) for line in found.runs]


def _run_line(line: RunLine, found: DayJournal) -> str:
    run = line.facts
    without = "running" if line.running else run.state
    value = _value(run, found.metric) if found.metric in run.metrics else without
    what = " ".join(filter(None, (run.strategy, f"on {run.backbone}" if run.backbone else "")))
    cells = (
        found.day.clock(line.began), _plain(run.key), _plain(run.who), _plain(what), value,
        _time(line.seconds) + (" so far" if line.running else ""),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _review_line(one: Reviewing, found: DayJournal) -> str:
    actions = ", ".join(f"{name} {number:,}" for name, number in one.actions.items())
    words = f"- **{_plain(one.person)}**: {count(one.num_decisions, 'decision')}" + (f" ({actions})" if actions else "")
    if one.stretches is None:
        return f"{words}; the time is private"
    spans = ", ".join(f"{found.day.clock(span.begin)}–{found.day.clock(span.end)}" for span in one.stretches)
    times = count(len(one.stretches), "uninterrupted stretch", "uninterrupted stretches")
    return f"{words}; {_time(one.seconds or 0.0)} in {times}" + (f": {spans}" if spans else "")


def _named(run: RunFacts, metric: str) -> str:
    return f"run {_plain(run.name)}, {measure(metric)} {_value(run, metric)}"


def measure(metric: str) -> str:
    """A measure's name within a sentence: `macro-F1`."""
    title = MEASURES[metric][0]
    return title[:1].lower() + title[1:]


def _value(run: RunFacts, metric: str) -> str:
    estimate, interval = value_texts(metric, run.metrics[metric])
    return f"{estimate} ({interval})".replace("\u00a0", " ")


def _time(seconds: float) -> str:
    return duration(seconds).replace("\u00a0", " ")


def _plain(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", clipped(text, MAX_WORDS))


def _indented(words: str) -> str:
    """Several lines as one entry of a list; a line of its own begins no heading, list or quote."""
    lines = [_plain(line.strip()) for line in words.split("\n")]
    lines = [re.sub(r"^(\d+)([.)])", r"\1\\\2", re.sub(r"^([-+=])", r"\\\1", line)) for line in lines]
    return "  \n  ".join(filter(None, lines))
