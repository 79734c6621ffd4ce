"""The pages of the review: each is a frame that static/review.js fills from the API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from regraft.board.pages import render

if TYPE_CHECKING:
    from regraft.board.site import Site

VIEWS = {"": "queue", "/grid": "grid", "/pairs": "pairs", "/conflicts": "conflicts"}
TEMPLATES = {"grid": "review_grid.html.jinja", "pairs": "review_pairs.html.jinja"}


def router(site: Site) -> APIRouter:
    """The pages of a site that has a desk; without one, none."""
    pages = APIRouter()
    if site.desk is None:
        return pages
    project = site.desk.project
    for address, view in VIEWS.items():
        pages.add_api_route(f"/review{address}", _page(view, project), methods=["GET"], response_class=HTMLResponse)
    return pages


def _page(view: str, project: str):  # type: ignore[no-untyped-def]
    def page(request: Request) -> HTMLResponse:
        return render(request, TEMPLATES.get(view, "review.html.jinja"), view=view, project=project)

    return page
