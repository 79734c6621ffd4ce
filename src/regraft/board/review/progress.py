"""How it goes: how many looks found something, how many errors the data hold, and whether to go on.

An image is wrong where the verdict is to relabel or to exclude it. What is reviewed is known exactly; what is not
falls into two strata:

    passed over    nothing was found on them: the controls, drawn uniformly, say how many are wrong
    suspects left  not yet looked at: wrong no more often than the last looks at suspects, as the order is by suspicion,
                   and no less often than what was passed over; in between by the audit's probabilities, scaled by how
                   often these were right so far

Each stratum has its own limits, exact ones where controls are few; MOVER puts them together (Zou & Donner 2008: each
brings the distance from its estimate to its own limit).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from regraft.board.review.desk import Desk
from regraft.board.review.exact import exact
from regraft.board.review.history import CODES, SKIP, History
from regraft.evaluate.proportions import wilson
from regraft.types import JSON, Interval

WINDOW = 30
"""How many of the last looks say what the next ones are worth."""
WORTH = 0.1
"""It pays to look while more than one look in ten finds something. Of 30 looks without a find, the one-sided limit
is 0.083."""
_WRONG = (CODES["relabel"], CODES["exclude"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How it goes.

    Attributes:
        reviewed: images of the order that are decided.
        left: images that this reviewer is still to look at.
        hits: suspects that were wrong.
        hit_rate: of suspects decided so far, or None before the first.
        controls: how many were decided, and how many of them were wrong.
        error_rate: of the whole data set, or None before the first control.
        hint: whether to stop, in words, or None.
        conflicts: images that reviewers disagree on.
        reviewers: name and number of images decided by each.
        stretch_seconds: how long this reviewer has been looking without a break of two minutes.
        seq: number of the last event that is counted.
    """

    reviewed: int
    left: int
    hits: int
    hit_rate: Interval | None
    controls: dict[str, int]
    error_rate: Interval | None
    hint: str | None
    conflicts: int
    reviewers: list[JSON]
    stretch_seconds: float
    seq: int

    def as_dict(self) -> JSON:
        """The JSON object of the page."""
        return asdict(self)


def progress(desk: Desk, history: History, reviewer: str, *, now: float) -> Progress:
    """Count.

    Args:
        desk: what is under review.
        history: what was decided; refreshed by the caller.
        reviewer: whose queue and whose stretch.
        now: POSIX seconds.
    """
    with history.lock:
        judged = (history.action > 0) & ~history.conflict & ~history.back
        wrong = judged & np.isin(history.action, _WRONG)
        suspect = desk.queued & ~desk.controls
        seen, found = judged & suspect, wrong & suspect
        asked, missed = int((judged & desk.controls).sum()), int((wrong & desk.controls).sum())
        num_seen, num_found = int(seen.sum()), int(found.sum())
        last = last_looks(history.latest, seen)
        recent = int(found[last].sum()), len(last)
        return Progress(
            reviewed=int((judged & desk.queued).sum()), left=int(open_rows(desk, history, reviewer).sum()),
            hits=num_found, hit_rate=_rate(num_found, num_seen), controls={"reviewed": asked, "wrong": missed},
            error_rate=error_rate(
                wrong=int(wrong.sum()), num_images=len(desk), asked=asked, missed=missed,
                passed_over=int((~suspect & ~judged).sum()), left=int((suspect & ~judged).sum()), recent=recent,
                expected=_expected(desk, suspect & ~judged), expected_seen=_expected(desk, seen), found=num_found,
            ),
            hint=hint(recent=recent, left=int((suspect & ~judged).sum()), asked=asked, missed=missed),
            conflicts=int(history.conflict.sum() + history.pair_conflict.sum()),
            reviewers=[{"name": name, "reviewed": count} for name, count in history.reviewers.items()],
            stretch_seconds=round(history.pace[reviewer].stretch(now), 1), seq=history.seq,
        )  # fmt: skip


def open_rows(desk: Desk, history: History, reviewer: str) -> NDArray[np.bool_]:
    """bool (N,): what this reviewer is to look at: undecided, not skipped by them, or come back."""
    undecided = desk.queued & (history.action == 0)
    return np.asarray((undecided | history.back) & (history.looks(reviewer) != SKIP) & ~history.conflict, np.bool_)


def last_looks(latest: NDArray[np.int64], seen: NDArray[np.bool_], most: int = WINDOW) -> NDArray[np.int64]:
    """Rows of the last decisions, int64, at most `most`."""
    rows = np.flatnonzero(seen)
    if len(rows) > most:
        rows = rows[np.argpartition(latest[rows], -most)[-most:]]
    return rows


def error_rate(
    *,
    wrong: int,
    num_images: int,
    asked: int,
    missed: int,
    passed_over: int,
    left: int,
    recent: tuple[int, int],
    expected: float,
    expected_seen: float,
    found: int,
    level: float = 0.95,
) -> Interval | None:
    """Share of all images that are wrong, or None where no control was looked at or no suspect of any.

    Args:
        wrong: images known to be wrong.
        num_images: N.
        asked: controls decided.
        missed: of them wrong.
        passed_over: images that are neither suspects nor decided: what the controls stand for.
        left: suspects not decided.
        recent: of the last suspects decided, how many were wrong, and how many that are.
        expected: wrong ones among the suspects left, by the audit's probabilities.
        expected_seen: the same among those decided.
        found: of those decided, wrong.
        level: coverage that is aimed at.
    """
    if not asked or not num_images or (left and not recent[1]):
        return None
    rate = missed / asked
    low, high = exact(missed, asked, level)
    strata = [(passed_over, rate, low, high)]
    if left:
        upper = recent[0] / recent[1]
        scaled = expected * found / expected_seen / left if expected_seen > 0 else upper
        likely = min(max(scaled, min(rate, upper)), max(rate, upper))
        top = exact(*recent, level)[1]
        strata.append((left, likely, min(low, likely), max(top, likely)))
    estimate = wrong + sum(size * likely for size, likely, _, _ in strata)
    below = sqrt(sum((size * (likely - low)) ** 2 for size, likely, low, _ in strata))
    above = sqrt(sum((size * (high - likely)) ** 2 for size, likely, _, high in strata))
    most = wrong + passed_over + left
    return Interval(
        estimate=estimate / num_images, low=max(estimate - below, wrong) / num_images,
        high=min(estimate + above, most) / num_images, level=level,
    )  # fmt: skip


def hint(*, recent: tuple[int, int], left: int, asked: int, missed: int) -> str | None:
    """Whether to stop, in words, or None where the looks so far do not say."""
    found, looks = recent
    if asked >= WINDOW and wilson(missed / asked, asked, 0.9)[0] > WORTH:
        return (
            f"{missed} of {asked} images drawn by chance were wrong: the suspects are not all of it; look through "
            "whole classes"
        )
    if looks < WINDOW or not left:
        return None
    limit = wilson(found / looks, looks, 0.9)[1]  # the upper end of a 90 % interval is a one-sided 95 % limit
    if limit >= WORTH:
        return None
    told = "none" if not found else f"{found}"
    return (
        f"of the last {looks} suspects {told} {'was' if found < 2 else 'were'} wrong, so at most {100 * limit:.0f} % "
        f"of such looks find something: it may pay to stop here, {left:,} suspects are left"
    )


def _expected(desk: Desk, rows: NDArray[np.bool_]) -> float:
    return float((1.0 - desk.scores["label"][rows].astype(np.float64)).sum()) if "label" in desk.scores else 0.0


def _rate(count: int, total: int) -> Interval | None:
    if not total:
        return None
    low, high = wilson(count / total, total)
    return Interval(estimate=count / total, low=low, high=high)
