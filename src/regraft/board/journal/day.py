"""All that a day brought, in one value."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from regraft.board.journal.days import Day
from regraft.board.journal.stretches import Stretch, clipped, stretches
from regraft.board.runs.leaderboard import grouped
from regraft.errors import UsageError
from regraft.evaluate.wording import LOWER_IS_BETTER
from regraft.store.annotations import Annotations
from regraft.store.db import Database
from regraft.store.journal import Journal, JournalNote
from regraft.store.run_files import read_config
from regraft.store.run_index import MEASURES, RunFacts, RunIndex
from regraft.types import JSON

MARGIN = 3600.0
"""Seconds around a day whose decisions are read too: a stretch over midnight, decisions that arrive late."""

MAX_CHANGES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLine:
    """A run that was started that day.

    Attributes:
        facts: what its folder says.
        began: POSIX seconds.
        seconds: machine time so far.
        running: whether it still does.
    """

    facts: RunFacts
    began: float
    seconds: float
    running: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A run that became the best of those it can be compared with.

    Attributes:
        facts: of the run.
        before: the best until then, or None where it is the first.
        apart: whether the two intervals do not overlap; else it may be a tie.
        changes: (option, value before, value now), where they differ.
    """

    facts: RunFacts
    before: RunFacts | None
    apart: bool
    changes: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best of the runs on the same data, at the end of the day.

    Attributes:
        project: of the runs.
        facts: the best one.
        steps: how it came to that, of that day; () where an earlier one is still the best.
    """

    project: str
    facts: RunFacts
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewing:
    """What one person reviewed that day.

    Attributes:
        person: who.
        actions: action to how often; undos included.
        num_decisions: all of them but undos.
        stretches: of uninterrupted looking; None where this person does not share them with who asks.
    """

    person: str
    actions: dict[str, int]
    num_decisions: int
    stretches: tuple[Stretch, ...] | None

    @property
    def seconds(self) -> float | None:
        """Time of looking, or None."""
        return None if self.stretches is None else sum(one.seconds for one in self.stretches)


@dataclass(frozen=True, slots=True, kw_only=True)
class DayJournal:
    """All of a day.

    Attributes:
        day: which.
        viewer: who asks; stretches of others are only there where these share them.
        person: whose day, or "" for everybody's.
        people: who did anything that day, sorted.
        metric: what best means.
        runs: started that day, in order.
        bests: by project, for runs of that day.
        reviews: by person.
        notes: written that day, in order; those beside runs included.
        shares: whether the viewer shows others the own stretches.
    """

    day: Day
    viewer: str
    person: str
    people: tuple[str, ...]
    metric: str
    runs: tuple[RunLine, ...]
    bests: tuple[Best, ...]
    reviews: tuple[Reviewing, ...]
    notes: tuple[JournalNote, ...]
    shares: bool

    @property
    def machine_seconds(self) -> float:
        """Of all runs of the day."""
        return sum(run.seconds for run in self.runs)

    def as_dict(self) -> JSON:
        """As `regraft journal --json` prints it; times are POSIX seconds."""
        return {
            "day": self.day.date.isoformat(), "zone": self.day.zone.key if self.day.zone else None,
            "begin": self.day.begin, "end": self.day.end, "person": self.person, "people": list(self.people),
            "metric": self.metric, "machine_seconds": round(self.machine_seconds, 3),
            "runs": [
                {
                    "run": line.facts.key, "who": line.facts.who, "began": line.began, "state": line.facts.state,
                    "running": line.running, "seconds": round(line.seconds, 3), "strategy": line.facts.strategy,
                    "backbone": line.facts.backbone, self.metric: _interval(line.facts, self.metric),
                }
                for line in self.runs
            ],
            "best": [
                {
                    "project": best.project, "run": best.facts.key, "data_version": best.facts.data_version,
                    "split": best.facts.split, self.metric: _interval(best.facts, self.metric),
                    "steps": [
                        {
                            "run": step.facts.key, "before": step.before.key if step.before else None,
                            "apart": step.apart, "changes": [list(change) for change in step.changes],
                        }
                        for step in best.steps
                    ],
                }
                for best in self.bests
            ],
            "reviews": [
                {
                    "person": one.person, "num_decisions": one.num_decisions, "actions": one.actions,
                    "seconds": None if one.seconds is None else round(one.seconds, 1),
                    "stretches": None if one.stretches is None else [dataclasses.asdict(s) for s in one.stretches],
                }
                for one in self.reviews
            ],
            "notes": [dataclasses.asdict(note) for note in self.notes],
        }  # fmt: skip


def journal_of(
    day: Day,
    *,
    index: RunIndex,
    database: Database,
    viewer: str,
    person: str = "",
    metric: str = "macro_f1",
    now: float | None = None,
) -> DayJournal:
    """What a day brought.

    Args:
        day: which.
        index: the runs.
        database: decisions, notes, who shares.
        viewer: who asks.
        person: whose day; "" for everybody's.
        metric: what best means.
        now: POSIX seconds.

    Raises:
        UsageError: no such metric.
    """
    if metric not in MEASURES:
        raise UsageError(f"a metric is one of {', '.join(MEASURES)}: {metric!r} is not")
    now = time.time() if now is None else now
    journal, everything = Journal(database), index.refresh()
    lines = [line for run in everything if (line := _line(run, now)).began in day]
    notes = sorted([*journal.notes(day.begin, day.end), *_beside_runs(database, day)], key=lambda note: note.time)
    sharing = journal.sharing()
    reviews = _reviews(journal, day, visible=sharing | {viewer})
    people = {line.facts.who for line in lines} | {note.person for note in notes} | {one.person for one in reviews}
    return DayJournal(
        day=day, viewer=viewer, person=person, people=tuple(sorted(people - {""})), metric=metric,
        runs=tuple(
            sorted((line for line in lines if person in ("", line.facts.who)), key=lambda line: line.began)
        ),
        bests=_bests(everything, day, index, metric, started={line.facts.key for line in lines}),
        reviews=tuple(one for one in reviews if person in ("", one.person)),
        notes=tuple(note for note in notes if person in ("", note.person)), shares=viewer in sharing,
    )  # fmt: skip


def _line(run: RunFacts, now: float) -> RunLine:
    """The files of a run are first written when its options are settled: where it told its seconds, these say more."""
    running = run.is_running(now)
    if run.finished is not None and run.seconds is not None:
        return RunLine(facts=run, began=min(run.began, run.finished - run.seconds), seconds=run.seconds, running=False)
    last = now if running else run.changed
    return RunLine(facts=run, began=run.began, seconds=max(last - run.began, 0.0), running=running)


def _bests(
    everything: Sequence[RunFacts], day: Day, index: RunIndex, metric: str, *, started: set[str]
) -> tuple[Best, ...]:
    """Only runs on the same data, decisions and split are compared."""
    sign = -1 if metric in LOWER_IS_BETTER else 1
    found = []
    for _, members in sorted(grouped(everything).items()):
        judged = [run for run in members if run.finished is not None and run.finished < day.end]
        judged = [run for run in judged if metric in run.metrics]
        best: RunFacts | None = None
        steps: list[Step] = []
        for run in sorted(judged, key=lambda run: run.finished or 0.0):
            if best is not None and sign * run.metrics[metric][0] <= sign * best.metrics[metric][0]:
                continue
            if (run.finished or 0.0) in day:
                steps.append(_step(run, best, index, metric))
            best = run
        if best is not None and (steps or any(run.key in started for run in members)):
            found.append(Best(project=best.project, facts=best, steps=tuple(steps)))
    return tuple(found)


def _step(run: RunFacts, before: RunFacts | None, index: RunIndex, metric: str) -> Step:
    if before is None:
        return Step(facts=run, before=None, apart=False, changes=())
    from regraft.studies.compare_runs import config_changes

    changes = config_changes(read_config(index.folder(before)) or {}, read_config(index.folder(run)) or {})
    (_, low, high), (_, low_before, high_before) = run.metrics[metric], before.metrics[metric]
    return Step(
        facts=run, before=before, apart=low > high_before or high < low_before,
        changes=tuple((change.name, change.before, change.after) for change in changes[:MAX_CHANGES]),
    )  # fmt: skip


def _reviews(journal: Journal, day: Day, *, visible: set[str]) -> list[Reviewing]:
    looks: dict[str, list[tuple[float, float]]] = defaultdict(list)
    actions: dict[str, Counter[str]] = defaultdict(Counter)
    for look in journal.looks(day.begin - MARGIN, day.end + MARGIN):
        looks[look.person].append((look.time, look.duration))
        if look.time in day:
            actions[look.person][look.action] += 1
    found = []
    for person in sorted(looks):
        spans = clipped(stretches(looks[person]), day.begin, day.end)
        if not actions[person] and not (spans and person in visible):
            continue
        found.append(
            Reviewing(
                person=person, actions=dict(actions[person].most_common()),
                num_decisions=actions[person].total() - actions[person]["undo"],
                stretches=tuple(spans) if person in visible else None,
            )
        )  # fmt: skip
    return found


def _beside_runs(database: Database, day: Day) -> list[JournalNote]:
    """Notes that were written on the pages of runs."""
    return [
        JournalNote(
            note_id="", time=note.time, person=note.person, kind="note", project=project, run=run, words=note.note
        )
        for (project, run), marks in Annotations(database).all().items()
        for note in marks.notes
        if note.time in day
    ]


def _interval(run: RunFacts, metric: str) -> JSON | None:
    if metric not in run.metrics:
        return None
    return dict(zip(("estimate", "low", "high"), run.metrics[metric], strict=True))
