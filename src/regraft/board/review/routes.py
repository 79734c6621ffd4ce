"""Review over HTTP: what is to be looked at, what was decided, and how it goes.

The pages are /review, /review/grid, /review/pairs and /review/conflicts. The rest is under /api/review; an error is
`{"error": "…"}` with 400 for what was asked wrongly and 404 for what is not there.

    GET  queue?state=&issue=&class=&pair=&split=&group=&q=&after=&limit=&blind=   {"total", "left", "next", "items"}
    GET  item/ID?blind=                     one card
    GET  filters                            {"issues", "classes", "pairs", "splits", "groups"}
    GET  pairs?state=&after=&limit=&blind=  {"total", "left", "next", "items"}
    POST decisions {"events": […]}          {"accepted", "known", "rejected", "progress"}
    GET  progress                           how it goes
    GET  last                               {"event"}: what this reviewer can undo next, or null
    GET  events?after=SEQ                   {"seq", "events", "progress"}: what others did since
    POST refit, GET refit                   the score before and after
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import APIRouter, Body, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse
from numpy.typing import NDArray

from regraft.board.review.cards import card, pair_card
from regraft.board.review.events import MOST_EVENTS, Refused, decision, same, shown_id, shown_issue
from regraft.board.review.history import History
from regraft.board.review.listing import Filters, choices, filtered, in_state
from regraft.board.review.progress import progress
from regraft.board.review.refit import Refits
from regraft.errors import RegraftError, UsageError
from regraft.store.decisions import Ledger
from regraft.types import JSON, Decision

if TYPE_CHECKING:
    from regraft.board.review.desk import Desk
    from regraft.board.site import Site

MOST_CARDS = 200
MOST_NEWS = 500

State = Annotated[str, Query(max_length=20)]
Text = Annotated[str, Query(max_length=1000)]
After = Annotated[int, Query(ge=-1)]
Limit = Annotated[int, Query(ge=1, le=MOST_CARDS)]


def router(site: Site, *, who: Callable[[Request], str] | None = None, refits: Refits | None = None) -> APIRouter:
    """The routes of a site that has a desk; without one, none.

    Args:
        site: what the board serves.
        who: the reviewer behind a request; by default, as the board's security knows them.
        refits: what runs a refit; by default one for this desk.
    """
    whole = APIRouter()
    if site.desk is None:
        return whole
    api, project = APIRouter(prefix="/api/review"), site.desk.project
    if who is None:
        from regraft.board.security import reviewer_of

        who = reviewer_of
    review = Review(
        site.desk, Ledger(site.database, site.desk.project), refits or Refits(site.desk, site.cache_dir),
        blind=site.blind,
    )  # fmt: skip

    @api.get("/queue")
    def queue(
        request: Request,
        state: State = "open",
        issue: Text = "",
        class_: Annotated[str, Query(alias="class", max_length=1000)] = "",
        pair: Annotated[str, Query(max_length=2001)] = "",
        split: Text = "",
        group: Text = "",
        q: Text = "",
        after: After = -1,
        limit: Limit = 20,
        blind: bool = False,
    ) -> JSONResponse:
        filters = Filters(issue=issue, label=class_, pair=pair, split=split, group=group, words=q)
        return answer(lambda: review.queue(who(request), state, filters, after, limit, blind))

    @api.get("/item/{item}")
    def item(request: Request, item: str, blind: bool = False) -> JSONResponse:
        row = review.desk.row_of(item)
        if row is None:
            return refused("no image of these data has this hash", 404)
        return answer(lambda: review.item(row, who(request), blind))

    @api.get("/filters")
    def filters(request: Request) -> JSONResponse:
        return answer(lambda: review.filters(who(request)))

    @api.get("/pairs")
    def pairs(
        request: Request, state: State = "open", after: After = -1, limit: Limit = 20, blind: bool = False
    ) -> JSONResponse:
        return answer(lambda: review.pairs(who(request), state, after, limit, blind))

    @api.post("/decisions")
    def decisions(request: Request, body: Annotated[Any, Body()]) -> JSONResponse:
        return answer(lambda: review.decide(who(request), body))

    @api.get("/progress")
    def now(request: Request) -> JSONResponse:
        return answer(lambda: review.progress(who(request)))

    @api.get("/last")
    def last(request: Request) -> JSONResponse:
        return answer(lambda: review.last(who(request)))

    @api.get("/events")
    def events(request: Request, after: Annotated[int, Query(ge=0)] = 0) -> JSONResponse:
        return answer(lambda: review.news(who(request), after))

    @api.post("/refit")
    def start_refit() -> JSONResponse:
        return answer(review.start_refit, status=202)

    @api.get("/refit")
    def refit() -> JSONResponse:
        return answer(review.refits.state)

    def page(address: str, template: str, **values: Any) -> None:
        @whole.get(address)
        def shown(request: Request) -> HTMLResponse:
            from regraft.board.pages import render

            return render(request, template, project=project, **values)

    page("/review", "review.html.jinja", view="queue")
    page("/review/conflicts", "review.html.jinja", view="conflicts")
    page("/review/grid", "review_grid.html.jinja")
    page("/review/pairs", "review_pairs.html.jinja")
    whole.include_router(api)
    return whole


def answer(make: Callable[[], JSON], *, status: int = 200) -> JSONResponse:
    """What was asked for, or why not."""
    try:
        return JSONResponse(make(), status, headers={"Cache-Control": "no-store"})
    except UsageError as error:
        return refused(str(error), 400)
    except RegraftError as error:
        return refused(str(error), 503)


def refused(reason: str, status: int) -> JSONResponse:
    """An error, in words."""
    return JSONResponse({"error": reason}, status, headers={"Cache-Control": "no-store"})


class Review:
    """One desk and its history, as the routes ask for them. Safe to call from several threads."""

    def __init__(
        self,
        desk: Desk,
        ledger: Ledger,
        refits: Refits,
        *,
        blind: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.desk, self.ledger, self.refits, self.blind, self.clock = desk, ledger, refits, blind, clock
        self.history = History(desk, ledger)

    def queue(self, reviewer: str, state: str, filters: Filters, after: int, limit: int, blind: bool) -> JSON:
        """Cards behind a position, in the order of looking."""
        desk, history = self.desk, self.history
        history.refresh()
        with history.lock:
            fits = filtered(desk, filters)
            rows = desk.by_position[(fits & in_state(desk, history, state, reviewer))[desk.by_position]]
            left = int((fits & in_state(desk, history, "open", reviewer)).sum())
            shown, following = _page(rows, desk.positions[rows], after, limit)
            alone = state == "second"
            items = [
                card(desk, history, row, reviewer, blind=blind or self.blind, alone=alone) for row in shown.tolist()
            ]
        total = int((fits & desk.queued).sum()) if state == "open" else len(rows)
        return {"total": total, "left": left, "next": following, "items": items}

    def item(self, row: int, reviewer: str, blind: bool) -> JSON:
        """One card."""
        self.history.refresh()
        return card(self.desk, self.history, row, reviewer, blind=blind or self.blind)

    def filters(self, reviewer: str) -> JSON:
        """What can be filtered by."""
        self.history.refresh()
        with self.history.lock:
            return choices(self.desk, self.history, reviewer)

    def pairs(self, reviewer: str, state: str, after: int, limit: int, blind: bool) -> JSON:
        """Pairs of near-duplicates behind a position."""
        desk, history = self.desk, self.history
        history.refresh()
        with history.lock:
            masks = {
                "open": (history.pair_action == 0) & ~history.pair_conflict,
                "done": (history.pair_action > 0) & ~history.pair_conflict,
                "conflict": history.pair_conflict, "all": np.ones(len(desk.pairs), np.bool_),
            }  # fmt: skip
            if state not in masks:
                raise UsageError(f"a state of pairs is one of {', '.join(masks)}: {state!r} is not")
            numbers = np.flatnonzero(masks[state])
            shown, following = _page(numbers, numbers, after, limit)
            items = [pair_card(desk, history, number, reviewer, blind=blind or self.blind) for number in shown.tolist()]
            left = int(masks["open"].sum())
        return {
            "total": len(desk.pairs) if state == "open" else len(numbers), "left": left, "next": following,
            "items": items,
        }  # fmt: skip

    def decide(self, reviewer: str, body: Any) -> JSON:
        """Append what can be appended, and say of the rest why not; it is saved when this returns."""
        sent = body.get("events") if isinstance(body, dict) else None
        if not isinstance(sent, list) or len(sent) > MOST_EVENTS:
            raise UsageError(f"decisions are an object with a list of at most {MOST_EVENTS:,} events")
        self.history.refresh()
        made: dict[str, Decision] = {}
        known: list[str] = []
        rejected: list[JSON] = []
        for event in sent:
            try:
                found = decision(event, self.desk, self.history, reviewer, self.clock(), made)
                before = made.get(found.event_id) or self.history.event(found.event_id)
                if before is None:
                    made[found.event_id] = found
                elif not same(before, found):
                    raise Refused("event_id: another decision has it")
                elif found.event_id not in made:
                    known.append(found.event_id)
            except Refused as refusal:
                rejected.append({"event_id": shown_id(event), "reason": str(refusal)})
        done = self.ledger.append(list(made.values()), partial=True)
        rejected += [{"event_id": one.event_id, "reason": one.reason} for one in done.refused]
        self.history.refresh()
        return {
            "accepted": list(done.accepted), "known": [*known, *done.known], "rejected": rejected,
            "progress": self._progress(reviewer),
        }  # fmt: skip

    def progress(self, reviewer: str) -> JSON:
        """How it goes."""
        self.history.refresh()
        return self._progress(reviewer)

    def last(self, reviewer: str) -> JSON:
        """What this reviewer would take back next."""
        self.history.refresh()
        event = self.history.last_of(reviewer)
        if event is None:
            return {"event": None}
        names = ("event_id", "item", "other", "action", "label", "batch", "path")
        return {"event": {name: getattr(event, name) for name in names} | {"issue": shown_issue(event)}}

    def news(self, reviewer: str, after: int) -> JSON:
        """What others did since, without what they decided: who looks at the same image is not to know."""
        self.history.refresh()
        fresh = self.history.events_since(after, MOST_NEWS)
        seq = fresh[-1][0] if fresh else max(after, self.history.seq)
        told = [
            {"seq": number, "reviewer": event.reviewer, "item": event.item, "other": event.other, "time": event.time}
            for number, event in fresh if event.reviewer != reviewer
        ]  # fmt: skip
        return {"seq": seq, "events": told, "progress": self._progress(reviewer)}

    def start_refit(self) -> JSON:
        """Begin a refit with the decisions so far, unless one is running."""
        self.history.refresh()
        return self.refits.start(self.history.verdicts())

    def _progress(self, reviewer: str) -> JSON:
        return progress(self.desk, self.history, reviewer, now=self.clock()).as_dict()


def _page(
    rows: NDArray[np.int64], positions: NDArray[np.int64], after: int, limit: int
) -> tuple[NDArray[np.int64], int | None]:
    """The rows behind a position, and the position to go on from, or None at the end."""
    begin = int(np.searchsorted(positions, after, side="right"))
    shown = rows[begin : begin + limit]
    return shown, int(positions[begin + limit - 1]) if begin + limit < len(rows) else None
