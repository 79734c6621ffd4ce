"""The board as one ASGI application: the guard in front, the entrance, the pictures, and each part's own routes.

request → Guard (security.py) → /login /who (entrance.py) · /static (assets.py) · /pictures (pictures.py)
                              → /review · /runs · /journal (each part's routes.py)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from regraft.board import assets, entrance, pictures
from regraft.board.journal import routes as journal
from regraft.board.keys import open_keys
from regraft.board.pages import render
from regraft.board.review import routes as review
from regraft.board.runs import routes as runs
from regraft.board.security import Guard, allowed_names, wants_page
from regraft.board.site import Site, is_loopback
from regraft.board.visitors import MIN_TOKEN, Door, os_user
from regraft.errors import DataError, RegraftError, UsageError

_ROUTERS: dict[str, Callable[[Site], APIRouter]] = {
    "review": review.router, "runs": runs.router, "journal": journal.router,
}  # fmt: skip
PARTS = tuple(_ROUTERS)
"""What a board has; the pages of a part begin with its name."""

TITLES = {
    400: "That cannot be read", 401: "Come in", 403: "Not allowed", 404: "There is nothing here", 405: "Not allowed",
    408: "Too slow", 410: "It has left", 413: "Too much at once", 414: "Too long an address", 421: "Another address",
    431: "Too many headers", 500: "Something went wrong", 503: "Busy",
}  # fmt: skip


def create_app(site: Site, *, parts: tuple[str, ...] = PARTS) -> FastAPI:
    """The application that serves a site.

    Args:
        site: what is served.
        parts: which of `PARTS` it has.

    Raises:
        UsageError: the board is to be reached from other machines without a token, or the token is too short.
    """
    from regraft import __version__

    if site.token is None and not is_loopback(site.host):
        raise UsageError(f"a board that other machines reach needs a token: host={site.host!r}; give one, or 127.0.0.1")
    if site.token is not None and (len(site.token) < MIN_TOKEN or not site.token.isascii()):
        raise UsageError(f"a token has at least {MIN_TOKEN} ASCII characters, not {len(site.token)}")
    app = FastAPI(title="regraft", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    door = Door(
        open_keys(site.cache_dir, site.token), token=site.token,
        default_name=(site.reviewer or os_user()) if is_loopback(site.host) else "",
    )  # fmt: skip
    app.state.site, app.state.parts = site, parts
    app.include_router(entrance.router(door))
    app.include_router(assets.router)
    app.include_router(pictures.router(site))
    for name in parts:
        app.include_router(_ROUTERS[name](site))

    @app.get("/")
    def home() -> Response:
        return RedirectResponse("/review" if site.desk is not None and "review" in parts else "/runs", 303)

    @app.get("/healthz")
    def health() -> dict[str, object]:
        return {"regraft": __version__, "pid": os.getpid()}

    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(RegraftError, _own_error)
    app.add_exception_handler(UnicodeEncodeError, _no_text)
    app.add_middleware(
        Guard, door=door, names=allowed_names(site.host), addresses=not is_loopback(site.host), refuse=_answer
    )
    return app


def _answer(request: Request, status: int, words: str) -> Response:
    """A page for a person, `{"error": …}` for a script."""
    query = request.scope["query_string"].decode("latin-1")
    address = quote(request.scope["path"]) + (f"?{query}" if query else "")
    if status == 303:
        return RedirectResponse(f"/who?next={_quoted(address)}", 303)
    if not wants_page(request):
        return JSONResponse({"error": words}, status)
    if status == 401:
        return entrance.login(request, next=address)
    return render(
        request, "error.html.jinja", status_code=status, status=status, title=TITLES.get(status, "Not possible"),
        words=words,
    )  # fmt: skip


def _quoted(address: str) -> str:
    return quote(entrance.local(address), safe="/")


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = str(error.detail) if error.detail != "Not Found" else "No page has this address."
    response = _answer(request, error.status_code, words)
    response.headers.update(error.headers or {})
    return response


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("query", "body", "path"))
    return _answer(request, 400, f"{where or 'the request'}: {first['msg']}"[:300])


async def _own_error(request: Request, error: Exception) -> Response:
    status = 400 if isinstance(error, DataError | UsageError) else 500
    return _answer(request, status, str(error))


async def _no_text(request: Request, error: Exception) -> Response:
    """JSON can carry half a character (`"\\ud800"`), which neither a database nor a page can."""
    return _answer(request, 400, "a text holds half of a character (a lone surrogate)")
