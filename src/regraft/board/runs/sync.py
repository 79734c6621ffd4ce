"""What comes in from other machines: archives of runs, and decisions; sending anything again changes nothing.

    POST /api/sync/known      {"ids": […]}                     -> {"known": […]}: runs that need not be sent
    POST /api/sync/runs       a zip file of `regraft runs export` -> {"runs": [{"project", "name", "as", "known"}]}
    POST /api/sync/decisions  {"project", "events": […]}       -> {"accepted", "known", "refused": [{"event_id", …}]}

Who may come in at all is decided in front of these routes (`board/security.py`). Decisions keep the reviewer and the
time that the other machine recorded.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, HTTPException, Request
from starlette.concurrency import run_in_threadpool

from regraft.store.decisions import Ledger
from regraft.store.run_files import ORIGIN, is_plain_name, read_json
from regraft.store.run_import import import_runs
from regraft.store.run_index import RunIndex
from regraft.types import JSON, Decision

if TYPE_CHECKING:
    from regraft.board.site import Site

MAX_EVENTS = 1000
MAX_IDS = 10_000
MAX_UNPACKED = 2 << 30

_FIELDS = tuple(field.name for field in dataclasses.fields(Decision))


def router(site: Site, index: RunIndex) -> APIRouter:
    """The routes under /api/sync."""
    routes = APIRouter(prefix="/api/sync")
    ids: dict[str, tuple[tuple[int, ...], str]] = {}

    def known_ids() -> set[str]:
        """Ids of the imported runs; each `origin.json` is read once."""
        found = set()
        for facts in index.refresh(max_age=0):
            if ids.get(facts.key, ((), ""))[0] != facts.stamp:
                told = (read_json(index.folder(facts), ORIGIN) or {}).get("id")
                ids[facts.key] = (facts.stamp, told if isinstance(told, str) else "")
            found.add(ids[facts.key][1])
        return found - {""}

    @routes.post("/known")
    async def known(request: Request) -> JSON:
        sent = await _json(request)
        asked = sent.get("ids")
        if not isinstance(asked, list) or len(asked) > MAX_IDS:
            raise HTTPException(400, f"ids are a list of at most {MAX_IDS:,}")
        here = await run_in_threadpool(known_ids)
        return {"known": [one for one in asked if isinstance(one, str) and one in here]}

    @routes.post("/runs")
    async def take_runs(request: Request) -> JSON:
        with tempfile.NamedTemporaryFile(suffix=".zip") as sink:
            async for block in request.stream():
                sink.write(block)
            sink.flush()
            done = await run_in_threadpool(import_runs, Path(sink.name), site.runs_dir, max_bytes=MAX_UNPACKED)
        return {
            "runs": [
                {"project": run.project, "name": run.name, "as": run.path.name, "known": run.known} for run in done
            ]
        }

    @routes.post("/decisions")
    async def take_decisions(request: Request) -> JSON:
        sent = await _json(request)
        project, rows = sent.get("project"), sent.get("events")
        if not isinstance(project, str) or not is_plain_name(project):
            raise HTTPException(400, "decisions belong to a project: its name is missing or cannot be used")
        if not isinstance(rows, list) or len(rows) > MAX_EVENTS:
            raise HTTPException(400, f"events are a list of at most {MAX_EVENTS:,}")
        events = [_event(row) for row in rows]
        appended = await run_in_threadpool(Ledger(site.database, project).append, events, partial=True)
        return {
            "accepted": list(appended.accepted),
            "known": list(appended.known),
            "refused": [dataclasses.asdict(one) for one in appended.refused],
        }

    return routes


def _event(row: Any) -> Decision:
    """A decision as it was recorded elsewhere; whether it makes sense is for the ledger to say."""
    try:
        return Decision(**{name: row[name] for name in _FIELDS if name in row})
    except (TypeError, AttributeError):
        raise HTTPException(400, "an event is an object with the fields of a decision") from None


async def _json(request: Request) -> JSON:
    try:
        sent = await request.json()
    except (ValueError, RecursionError):
        raise HTTPException(400, "the request holds no JSON") from None
    if not isinstance(sent, dict):
        raise HTTPException(400, "the request holds a JSON object")
    return sent
