"""The journal over HTTP.

GET  /journal?day=&person=&zone=     a day (with HX-Request: its content alone)
GET  /journal/markdown?…             the same as a file for a retrospective
GET  /api/journal?…                  the same as JSON
POST /journal/notes?…                words, kind: write down
POST /journal/notes/ID/remove?…      take back what one wrote
POST /journal/share?…                on=1 or 0: show others one's stretches
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool

from regraft.board.forms import fields_of
from regraft.board.journal.day import DayJournal, journal_of
from regraft.board.journal.days import Day, day_of, zone_of
from regraft.board.journal.markdown import markdown, measure
from regraft.board.pages import render
from regraft.board.runs.leaderboard import run_address, value_texts
from regraft.board.security import reviewer_of
from regraft.errors import UsageError
from regraft.evaluate.wording import MEASURES
from regraft.store.journal import Journal
from regraft.store.run_index import RunIndex

if TYPE_CHECKING:
    from regraft.board.site import Site

MAX_FIELDS = 10
Word = Annotated[str, Query(max_length=100)]


def router(site: Site, *, clock: Callable[[], float] | None = None) -> APIRouter:
    """The routes of a site's journal.

    Args:
        site: whose runs and database.
        clock: POSIX seconds.
    """
    import time

    now = clock or time.time
    index = RunIndex.kept(site.runs_dir, site.cache_dir)
    journal = Journal(site.database, clock=now)
    routes = APIRouter()

    def found(request: Request, day: str, person: str, zone: str) -> DayJournal:
        when = day_of(day, now=now(), zone=zone_of(zone))
        return journal_of(
            when, index=index, database=site.database, viewer=reviewer_of(request), person=person, now=now()
        )

    def page(request: Request, day: str, person: str, zone: str, problem: str = "") -> HTMLResponse:
        is_part = "hx-request" in request.headers
        one = found(request, day, person, zone)
        return render(
            request, "journal_day.html.jinja" if is_part else "journal.html.jinja", found=one, problem=problem,
            metric=MEASURES[one.metric][0], measure=measure(one.metric),
            value=lambda run: value_texts(one.metric, run.metrics[one.metric]), address=run_address,
            strip=lambda spans: _strip(one.day, spans), hours=_hours(one.day),
            link=lambda **changes: _link(one, changes), is_today=now() in one.day, headers={"vary": "HX-Request"},
        )  # fmt: skip

    @routes.get("/journal")
    def show_day(request: Request, day: Word = "today", person: Word = "", zone: Word = "") -> HTMLResponse:
        return page(request, day, person, zone)

    @routes.get("/journal/markdown")
    def export(request: Request, day: Word = "today", person: Word = "", zone: Word = "") -> Response:
        one = found(request, day, person, zone)
        return PlainTextResponse(
            markdown(one), media_type="text/markdown; charset=utf-8",
            headers={"content-disposition": f'attachment; filename="journal-{one.day.date.isoformat()}.md"'},
        )  # fmt: skip

    @routes.get("/api/journal")
    def as_json(request: Request, day: Word = "today", person: Word = "", zone: Word = "") -> JSONResponse:
        return JSONResponse(found(request, day, person, zone).as_dict())

    def change(address: str, act: Callable[[str, dict[str, str]], None]) -> None:
        @routes.post(address)
        async def changed(
            request: Request, day: Word = "today", person: Word = "", zone: Word = "", note_id: str = ""
        ) -> HTMLResponse:
            fields = await fields_of(request, MAX_FIELDS) | {"note_id": note_id}
            problem = ""
            try:
                await run_in_threadpool(act, reviewer_of(request), fields)
            except UsageError as error:
                problem = str(error)
            return await run_in_threadpool(page, request, day, person, zone, problem)

    def write(person: str, fields: dict[str, str]) -> None:
        journal.write(person, fields.get("words", ""), kind=fields.get("kind", "note"), project=site.project or "")

    change("/journal/notes", write)
    change("/journal/notes/{note_id}/remove", lambda person, fields: _removed(journal, person, fields["note_id"]))
    change("/journal/share", lambda person, fields: journal.share(person, on=fields.get("on") == "1"))
    return routes


def _removed(journal: Journal, person: str, note_id: str) -> None:
    if not journal.remove(person, note_id):
        raise HTTPException(404, "There is no such note of yours.")


def _link(found: DayJournal, changes: dict[str, object]) -> str:
    """The query of this page with some values changed."""
    now = {
        "day": found.day.date.isoformat(), "person": found.person, "zone": found.day.zone.key if found.day.zone else "",
    }  # fmt: skip
    return "?" + urlencode({name: value for name, value in (now | changes).items() if value != ""})


def _strip(day: Day, spans: object) -> list[dict[str, float]]:
    """Where stretches lie on a strip from 0 to 100 that stands for the day."""
    length = day.end - day.begin
    return [
        {
            "x": round(100 * (span.begin - day.begin) / length, 3),
            "width": round(max(100 * span.seconds / length, 0.15), 3),
        }
        for span in spans  # type: ignore[attr-defined]
    ]


def _hours(day: Day) -> list[dict[str, object]]:
    """Marks of the strip: every sixth hour as the clock there shows it."""
    length = day.end - day.begin
    return [
        {"x": round(100 * 3600 * hour / length, 3), "clock": day.clock(day.begin + 3600 * hour)}
        for hour in range(0, math.floor(length / 3600), 6)
    ]
