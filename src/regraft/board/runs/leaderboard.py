"""The leaderboard: runs filtered, put into groups that may be compared, and ordered; no winner that is none.

Runs of other data, of other review decisions, or judged in another way never stand in one group. Within a group the
best estimate leads, and whoever is not clearly behind it is tied with it (`standing.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any
from urllib.parse import quote, urlencode

from regraft.board.runs.standing import Standing
from regraft.evaluate.wording import LOWER_IS_BETTER, MEASURES, percent, percent_range
from regraft.store.annotations import NO_MARKS, Marks
from regraft.store.run_index import RunFacts

ROWS_PER_GROUP = 20
ROWS_PER_PAGE = 100
MAX_SEARCH = 200

Marked = Mapping[tuple[str, str], Marks]
Group = tuple[str, str, str, str]

SORTS: dict[str, Callable[[RunFacts], Any]] = {
    "run": lambda run: (not run.name.isdecimal(), int(run.name) if run.name.isdecimal() else 0, run.name),
    "strategy": lambda run: run.strategy,
    "backbone": lambda run: run.backbone,
    "images": lambda run: run.num_images or 0,
    "seconds": lambda run: run.seconds or 0.0,
    "who": lambda run: run.who,
    "changed": lambda run: run.changed,
}
"""Columns that can be sorted by, besides the metric."""

CHOICES: dict[str, Callable[[RunFacts], str]] = {
    "project": lambda run: run.project,
    "strategy": lambda run: run.strategy,
    "backbone": lambda run: run.backbone,
    "who": lambda run: run.who,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How the leaderboard is looked at: the query of its address.

    Attributes:
        metric: one of the five measures.
        sort: "metric" or one of `SORTS`.
        reverse: the other way round.
        q: words that must all occur in the run, its tags or notes.
        project, strategy, backbone, who, tag: only these; "" for all.
        starred: only what the visitor starred.
        state: "", "finished", "running" or "unfinished".
        group: id of the one group to show in full, "" for all in short.
        page: of groups, from 0.
    """

    metric: str = "macro_f1"
    sort: str = "metric"
    reverse: bool = False
    q: str = ""
    project: str = ""
    strategy: str = ""
    backbone: str = ""
    who: str = ""
    tag: str = ""
    starred: bool = False
    state: str = ""
    group: str = ""
    page: int = 0

    @classmethod
    def of(cls, query: Mapping[str, str]) -> View:
        """From an address; what is not understood is left at its default."""
        texts = {name: query[name][:MAX_SEARCH] for name in ("q", *CHOICES, "tag", "group") if name in query}
        page = query.get("page", "0")
        return cls(
            metric=query.get("metric", "") if query.get("metric") in MEASURES else "macro_f1",
            sort=query.get("sort", "") if query.get("sort") in SORTS else "metric",
            reverse=query.get("reverse") == "1",
            starred=query.get("starred") == "1",
            state=query.get("state", "") if query.get("state") in ("finished", "running", "unfinished") else "",
            page=int(page) if page.isdecimal() and len(page) < 6 else 0,
            **texts,
        )

    def address(self, **changes: Any) -> str:
        """The address of this view, or of one that differs in `changes`."""
        view, default = replace(self, **changes), View()
        values = {
            name: "1" if getattr(view, name) is True else str(getattr(view, name))
            for name in View.__dataclass_fields__ if getattr(view, name) != getattr(default, name)
        }  # fmt: skip
        return "/runs" + (f"?{urlencode(values)}" if values else "")

    def sorted_by(self, column: str) -> str:
        """The address after a click on a heading."""
        return self.address(sort=column, reverse=not self.reverse if self.sort == column else False, page=0)

    @property
    def is_filtered(self) -> bool:
        """Whether anything is left out."""
        return any((self.q, self.project, self.strategy, self.backbone, self.who, self.tag, self.starred, self.state))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A run as a line of the table."""

    facts: RunFacts
    marks: Marks
    mine: bool
    running: bool
    value: dict[str, float] | None
    text: str
    range_text: str
    standing: Standing | None

    @property
    def href(self) -> str:
        return run_address(self.facts.project, self.facts.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Runs that may be compared, best first.

    Attributes:
        id: short name of the group in an address.
        project, data_version, decisions, split: what they have in common.
        rows: that are shown.
        num_runs: that there are.
        low, high: ends of the scale of the bars.
        num_tied: with the best, itself left out, among those shown.
    """

    id: str
    project: str
    data_version: str
    decisions: str
    split: str
    rows: tuple[Row, ...]
    num_runs: int
    low: float
    high: float
    num_tied: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """What the page shows.

    Attributes:
        sections: groups, the one with the latest change first.
        num_runs, num_found: in all, and after filtering.
        more: whether there is another page.
        choices: filter to its values.
        tags: in use.
        num_pending: pairs whose difference is still being reckoned.
        num_running: runs shown that are running.
    """

    sections: tuple[Section, ...]
    num_runs: int
    num_found: int
    more: bool
    choices: dict[str, list[str]]
    tags: list[str]
    num_pending: int
    num_running: int


def build(
    view: View,
    runs: Sequence[RunFacts],
    marked: Marked,
    *,
    person: str,
    now: float,
    judge: Callable[[Sequence[RunFacts], str], tuple[dict[str, Standing], int]],
) -> Board:
    """The page of a view.

    Args:
        view: what is asked for.
        runs: all of them.
        marked: what people say of them.
        person: who looks.
        now: POSIX seconds.
        judge: (runs of a group best first, metric) to (key to standing, pairs still being reckoned).
    """
    found = [run for run in runs if _is_wanted(run, view, marked.get((run.project, run.name), NO_MARKS), person, now)]
    groups = grouped(found)
    ranked = sorted(groups.items(), key=lambda item: (-max(run.changed for run in item[1]), item[0]))
    if view.group:
        ranked = [(group, members) for group, members in ranked if group_id(group) == view.group]
    sections: list[Section] = []
    room, skipped, more, pending = ROWS_PER_PAGE, 0, False, 0
    for group, members in ranked:
        size = len(members) if view.group else min(len(members), ROWS_PER_GROUP)
        if not view.group and skipped + size <= view.page * ROWS_PER_PAGE and view.page:
            skipped += size
            continue
        if room <= 0 and not view.group:
            more = True
            break
        room -= size
        section, left = _section(group, members, size, view, marked, person, now, judge)
        sections.append(section)
        pending += left
    return Board(
        sections=tuple(sections), num_runs=len(runs), num_found=len(found), more=more,
        choices={name: sorted({value for run in runs if (value := pick(run))}) for name, pick in CHOICES.items()},
        tags=sorted({tag for marks in marked.values() for tag in marks.tags}), num_pending=pending,
        num_running=sum(row.running for section in sections for row in section.rows),
    )  # fmt: skip


def grouped(runs: Sequence[RunFacts]) -> dict[Group, list[RunFacts]]:
    """Runs by (project, data version, decisions, split): what two must have in common to stand in one group.

    A run that is not judged yet stands with the others on its data.
    """
    groups: dict[Group, list[RunFacts]] = {}
    for run in sorted(runs, key=lambda run: not run.split):
        group = (run.project, run.data_version, run.decisions, run.split)
        if not run.split:
            group = max((g for g in groups if g[:3] == group[:3]), key=lambda g: len(groups[g]), default=group)
        groups.setdefault(group, []).append(run)
    return groups


def group_id(group: Group) -> str:
    """A short name of a group for addresses."""
    return sha256("\0".join(group).encode()).hexdigest()[:12]


def best_first(runs: Sequence[RunFacts], metric: str) -> list[RunFacts]:
    """By the estimate; runs without one last, the latest of them first."""
    sign = 1 if metric in LOWER_IS_BETTER else -1
    return sorted(
        runs, key=lambda run: (metric not in run.metrics, sign * run.metrics.get(metric, (0.0,))[0], -run.changed)
    )


def run_address(project: str, name: str) -> str:
    """The page of a run."""
    return f"/runs/{quote(project, safe='')}/{quote(name, safe='')}"


def value_texts(metric: str, value: tuple[float, float, float]) -> tuple[str, str]:
    """An estimate and its interval in words: shares in percent, losses as numbers."""
    estimate, low, high = value
    if metric == "log_loss":
        return f"{estimate:.3f}", f"{low:.3f}–{high:.3f}"
    return percent(estimate), percent_range(low, high)


def _section(
    group: Group, members: list[RunFacts], size: int, view: View, marked: Marked, person: str, now: float,
    judge: Callable[[Sequence[RunFacts], str], tuple[dict[str, Standing], int]],
) -> tuple[Section, int]:  # fmt: skip
    ranked = best_first(members, view.metric)
    if view.sort == "metric":
        shown = ranked[::-1] if view.reverse else ranked
    else:
        shown = sorted(ranked, key=SORTS[view.sort], reverse=view.reverse != (view.sort == "changed"))
    shown = shown[:size]
    standings, pending = judge([run for run in ranked if run in shown or run is ranked[0]], view.metric)
    rows = tuple(_row(run, view, marked, person, now, standings.get(run.key)) for run in shown)
    ends = [row.value for row in rows if row.value is not None]
    low, high = min((e["low"] for e in ends), default=0.0), max((e["high"] for e in ends), default=1.0)
    pad = 0.04 * (high - low) or 0.01
    project, version, decisions, split = group
    section = Section(
        id=group_id(group), project=project, data_version=version, decisions=decisions, split=split, rows=rows,
        num_runs=len(members), low=low - pad, high=high + pad,
        num_tied=sum(row.standing is not None and row.standing.kind == "tied" for row in rows),
    )  # fmt: skip
    return section, pending


def _row(run: RunFacts, view: View, marked: Marked, person: str, now: float, standing: Standing | None) -> Row:
    marks = marked.get((run.project, run.name), NO_MARKS)
    value = run.metrics.get(view.metric)
    text, range_text = value_texts(view.metric, value) if value is not None else ("", "")
    return Row(
        facts=run, marks=marks, mine=person in marks.stars, running=run.is_running(now), text=text,
        range_text=range_text, standing=standing,
        value=None if value is None else dict(zip(("estimate", "low", "high"), value, strict=True)),
    )  # fmt: skip


def _is_wanted(run: RunFacts, view: View, marks: Marks, person: str, now: float) -> bool:
    if any(getattr(view, name) not in ("", pick(run)) for name, pick in CHOICES.items()):
        return False
    if (view.tag and view.tag not in marks.tags) or (view.starred and person not in marks.stars):
        return False
    if view.state:
        state = "running" if run.is_running(now) else "finished" if run.state == "finished" else "unfinished"
        if state != view.state:
            return False
    if not view.q:
        return True
    whole = " ".join(
        (run.key, run.strategy, run.backbone, run.who, run.data_version, run.decisions, *marks.tags,
         *(note.note for note in marks.notes))
    ).casefold()  # fmt: skip
    return all(word in whole for word in view.q.casefold().split())
