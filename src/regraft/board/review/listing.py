"""Which images are asked for: the states and filters of the queue, as masks over all rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regraft.board.review.desk import SPLITS, Desk
from regraft.board.review.history import SKIP, History
from regraft.board.review.progress import open_rows
from regraft.errors import UsageError
from regraft.types import JSON

STATES = ("open", "done", "conflict", "all", "skipped", "second")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What is asked for; "" and None mean everything.

    Attributes:
        issue: a check's name.
        label: a given class.
        pair: `given>suggested`, both classes.
        split: train, val, test, or "none" for images without one.
        group: a given group.
        words: part of the path.
    """

    issue: str = ""
    label: str = ""
    pair: str = ""
    split: str = ""
    group: str = ""
    words: str = ""


def in_state(desk: Desk, history: History, state: str, reviewer: str) -> NDArray[np.bool_]:
    """bool (N,): the images in a state, as this reviewer sees them.

    `second` are images that exactly one other reviewer has decided.

    Raises:
        UsageError: there is no such state.
    """
    if state not in STATES:
        raise UsageError(f"a state is one of {', '.join(STATES)}: {state!r} is not")
    if state == "all":
        return np.ones(len(desk), np.bool_)
    if state == "open":
        return open_rows(desk, history, reviewer)
    looks = history.looks(reviewer)
    decided = (history.action > 0) & ~history.conflict & ~history.back
    found = {
        "done": decided, "conflict": history.conflict,
        "skipped": (looks == SKIP) & ((history.action == 0) | history.back),
        "second": decided & (history.deciders == 1) & (looks == 0),
    }  # fmt: skip
    return np.asarray(found[state], np.bool_)


def filtered(desk: Desk, filters: Filters) -> NDArray[np.bool_]:
    """bool (N,): the images that all filters let through.

    Raises:
        UsageError: a filter names what is not there.
    """
    found = np.ones(len(desk), np.bool_)
    if filters.issue:
        column = desk.issues.get(filters.issue)
        if column is None:
            raise UsageError(f"an issue is one of {', '.join(desk.issues) or 'none'}: {filters.issue!r} is not")
        found &= (column | desk.controls) if filters.issue == "label" else column
    if filters.label:
        found &= desk.given == _number(desk, filters.label)
    if filters.pair:
        given, guess = _pair(desk, filters.pair)
        found &= (desk.given == given) & (desk.guesses == guess)
    if filters.split:
        name = "" if filters.split == "none" else filters.split
        if name not in SPLITS:
            raise UsageError(f"a split is one of train, val, test, none: {filters.split!r} is not")
        found &= desk.splits == SPLITS.index(name)
    if filters.group:
        numbers = [number for number, name in enumerate(desk.group_names) if name == filters.group]
        found &= np.isin(desk.groups, numbers)
    if filters.words:
        found &= desk.paths.containing(filters.words)
    return found


def choices(desk: Desk, history: History, reviewer: str) -> JSON:
    """What can be filtered by, and how many images of each are open for this reviewer."""
    open_ = open_rows(desk, history, reviewer)
    issues = {name: int((open_ & filtered(desk, Filters(issue=name))).sum()) for name in desk.issues}
    rows = np.flatnonzero(open_)
    given = np.bincount(desk.given[rows], minlength=len(desk.names))
    with_guess = rows[desk.guesses[rows] >= 0]
    codes, counts = np.unique(
        desk.given[with_guess].astype(np.int64) * len(desk.names) + desk.guesses[with_guess], return_counts=True
    )
    most = np.argsort(-counts, kind="stable")
    splits = np.bincount(desk.splits[rows], minlength=len(SPLITS))
    groups = np.bincount(desk.groups[rows], minlength=len(desk.group_names))
    return {
        "issues": [{"name": name, "count": count} for name, count in issues.items() if count],
        "classes": [
            {"name": name, "count": count} for name, count in zip(desk.names, given.tolist(), strict=True)
        ],
        "pairs": [
            {
                "given": desk.names[codes[at] // len(desk.names)], "suggested": desk.names[codes[at] % len(desk.names)],
                "count": int(counts[at]),
            }
            for at in most.tolist()
        ],
        "splits": [
            {"name": name or "none", "count": count}
            for name, count in zip(SPLITS, splits.tolist(), strict=True) if count
        ],
        "groups": [
            {"name": desk.group_names[at], "count": int(groups[at])}
            for at in np.argsort(-groups, kind="stable").tolist()[:1_000] if groups[at] and desk.group_names[at]
        ],
    }  # fmt: skip


def _number(desk: Desk, name: str) -> int:
    number = desk.label_number(name)
    if number is None:
        raise UsageError(f"a class is one of these data's: {name!r} is not")
    return number


def _pair(desk: Desk, pair: str) -> tuple[int, int]:
    """Both classes of `given>suggested`, whose names may hold a `>` themselves."""
    for at, sign in enumerate(pair):
        if sign == ">":
            given, guess = desk.label_number(pair[:at]), desk.label_number(pair[at + 1 :])
            if given is not None and guess is not None:
                return given, guess
    raise UsageError(f"a pair is given>suggested, both of them classes of these data: {pair!r} is not")
