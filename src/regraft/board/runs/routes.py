"""Results over HTTP: the leaderboard, a run, two runs beside each other, and what people say of them.

GET  /runs?metric=&sort=&q=&project=&…           the leaderboard (with HX-Request: its table alone)
GET  /runs/compare?run=P/N&run=P/N               two runs
GET  /runs/PROJECT/NAME                          one run
GET  /runs/PROJECT/NAME/report                   its report, as a stranger's page
GET  /runs/PROJECT/NAME/files/PATH               a file that a run has, to be saved
POST /runs/PROJECT/NAME/star|tag|untag|note|unnote
GET  /api/runs                                   all runs as JSON
GET  /api/runs/PROJECT/NAME/curves?width=        what its page draws
POST /api/sync/…                                 runs and decisions of other machines (`sync.py`)
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from regraft.board.forms import fields_of
from regraft.board.pages import render
from regraft.board.runs import compare, leaderboard, run_page, sync
from regraft.board.runs.curves import Curves
from regraft.board.runs.files import send_file
from regraft.board.runs.leaderboard import View
from regraft.board.runs.standing import Standings
from regraft.board.security import STRANGERS_PAGE_POLICY, reviewer_of
from regraft.evaluate.wording import MEASURES
from regraft.store import runs as run_store
from regraft.store.annotations import Annotations
from regraft.store.run_index import RunFacts, RunIndex

if TYPE_CHECKING:
    from regraft.board.site import Site

MAX_WIDTH = 2000


def router(site: Site) -> APIRouter:
    """The routes of a site's results."""
    index = RunIndex.kept(site.runs_dir, site.cache_dir)
    standings, curves, annotations = Standings(index), Curves(), Annotations(site.database)

    threading.Thread(target=index.warm, name="run-index", daemon=True).start()
    routes = APIRouter()
    routes.include_router(sync.router(site, index))

    def found(project: str, name: str) -> RunFacts:
        facts = index.get(project, name)
        if facts is None:
            raise HTTPException(404, "There is no such run here.")
        return facts

    @routes.get("/runs")
    def show_leaderboard(request: Request) -> HTMLResponse:
        view, person = View.of(request.query_params), reviewer_of(request)
        everything = index.refresh()
        board = leaderboard.build(
            view, everything, annotations.all(), person=person, now=time.time(), judge=standings.judge
        )
        is_part = "hx-request" in request.headers and "hx-history-restore-request" not in request.headers
        template = "runs_table.html.jinja" if is_part else "runs.html.jinja"
        return render(
            request, template, view=view, board=board, measures=MEASURES, runs_dir=str(site.runs_dir),
            num_odd=index.num_odd, headers={"vary": "HX-Request"},
        )  # fmt: skip

    @routes.get("/api/runs")
    def list_runs() -> JSONResponse:
        rows = [dataclasses.asdict(facts) for facts in index.refresh()]
        for row in rows:
            del row["stamp"]
        return JSONResponse({"runs": rows})

    @routes.get("/runs/compare")
    def show_comparison(request: Request, run: Annotated[list[str], Query(max_length=10)] = []) -> HTMLResponse:  # noqa: B006
        if len(run) != 2 or any("/" not in key for key in run):
            raise HTTPException(400, "Choose two runs on the leaderboard to compare them.")
        a, b = (found(*key.split("/", 1)) for key in run)
        from regraft.studies.compare_runs import compare_runs

        result = compare_runs(a, b, index.folder(a), index.folder(b))
        groups = compare.flips(result, {})
        wanted = {entry["flip"].image for group in groups for entry in group["flips"]}
        if wanted and a.project == b.project and (known := compare.pictures_of(site, a.project, wanted)):
            groups = compare.flips(result, known)
        return render(
            request, "runs_compare.html.jinja", found=result, measures=compare.measures(result), flips=groups,
            sentence=compare.sentence(result), texts=compare.difference_texts, verdict=compare.verdict,
            most_classes=compare.MAX_CLASSES, address=leaderboard.run_address,
            swapped=f"/runs/compare?run={quote(b.key, safe='')}&run={quote(a.key, safe='')}",
        )  # fmt: skip

    @routes.get("/runs/{project}")
    def show_project(project: str) -> Response:
        return RedirectResponse(View(project=project).address(), 303)

    @routes.get("/runs/{project}/{name}")
    def show_run(request: Request, project: str, name: str) -> HTMLResponse:
        facts = found(project, name)
        folder, everything = index.folder(facts), index.refresh()
        mates = {run.key: run for run in everything if run.project == facts.project} | {facts.key: facts}
        groups = leaderboard.grouped(list(mates.values()))
        group, members = next(item for item in groups.items() if facts in item[1])
        leader = leaderboard.best_first(members, "macro_f1")[0]
        return render(
            request, "runs_run.html.jinja", facts=facts, running=facts.is_running(time.time()),
            measures=run_page.measures(folder, facts), classes=run_page.classes(folder),
            warnings=run_page.warnings(folder), stages=run_page.stages(folder), options=run_page.options(folder),
            environment=run_page.environment(folder), files=run_page.files(folder, facts),
            data=run_page.data_source(folder), decided=run_page.decisions(folder), origin=run_page.origin(folder),
            parents=run_page.parents(facts, everything, site.runs_dir), base=leaderboard.run_address(project, name),
            marks=annotations.of(project, name),
            leader=leader if leader is not facts and leader.metrics and facts.metrics else None,
            group=View(project=facts.project, group=leaderboard.group_id(group)).address(),
        )  # fmt: skip

    @routes.get("/runs/{project}/{name}/report")
    def show_report(project: str, name: str) -> Response:
        facts = found(project, name)
        return send_file(
            index.folder(facts), run_store.REPORT, media_type="text/html; charset=utf-8",
            headers={"content-security-policy": STRANGERS_PAGE_POLICY, "referrer-policy": "no-referrer"},
        )  # fmt: skip

    @routes.get("/runs/{project}/{name}/files/{path:path}")
    def fetch_file(project: str, name: str, path: str) -> Response:
        facts = found(project, name)
        saved = f"{facts.project}-{facts.name}-{path.replace('/', '-')}"
        return send_file(
            index.folder(facts), path, media_type="application/octet-stream",
            headers={"content-disposition": f"attachment; filename*=UTF-8''{quote(saved, safe='')}"},
        )  # fmt: skip

    @routes.get("/api/runs/{project}/{name}/curves")
    def draw(request: Request, project: str, name: str, width: Annotated[int, Query(ge=10)] = 700) -> Response:
        facts = found(project, name)
        folder = index.folder(facts)
        state = "running" if facts.is_running(time.time()) else facts.state
        tag = f'"{_curve_tag(folder)}-{min(width, MAX_WIDTH)}-{state}"'
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers={"etag": tag})
        charts = curves.charts(folder, width=min(width, MAX_WIDTH))
        return JSONResponse(charts | {"state": state}, headers={"etag": tag, "cache-control": "private, no-cache"})

    def change(verb: str, act: Callable[[str, str, str, dict[str, str]], Any]) -> None:
        @routes.post(f"/runs/{{project}}/{{name}}/{verb}", name=verb)
        async def changed(request: Request, project: str, name: str) -> Response:
            facts, person, fields = found(project, name), reviewer_of(request), await fields_of(request)
            await run_in_threadpool(act, facts.project, facts.name, person, fields)
            marks = await run_in_threadpool(annotations.of, facts.project, facts.name)
            part = "runs_star.html.jinja" if verb == "star" else "runs_marks.html.jinja"
            return render(
                request, part, marks=marks, mine=person in marks.stars, base=leaderboard.run_address(project, name)
            )

    change("star", lambda p, n, who, f: annotations.star(p, n, who, on=f.get("on") == "1"))
    change("tag", lambda p, n, who, f: annotations.tag(p, n, who, f.get("tag", "")))
    change("untag", lambda p, n, who, f: annotations.tag(p, n, who, f.get("tag", ""), on=False))
    change("note", lambda p, n, who, f: annotations.note(p, n, who, f.get("note", "")))
    change("unnote", lambda p, n, who, f: annotations.remove_note(p, n, who, f.get("note_id", "")))
    return routes


def _curve_tag(folder: Path) -> str:
    try:
        status = (folder / run_store.METRICS).lstat()
    except OSError:
        return "none"
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
