"""Coming in and saying who one is: /login, /logout, /who, and /api/session for scripts."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from regraft.board.forms import fields_of
from regraft.board.keys import same
from regraft.board.pages import render
from regraft.board.security import visitor_of, wants_page
from regraft.board.visitors import SESSION_SECONDS, Door, checked_name, cookie_name
from regraft.errors import UsageError

NAME_SECONDS = 400 * 86_400
"""As long as browsers keep a cookie."""


def router(door: Door) -> APIRouter:
    """The pages of the entrance."""
    routes = APIRouter()

    @routes.get("/login")
    def login_page(request: Request, next: str = "/") -> Response:
        if visitor_of(request).inside:
            return RedirectResponse(local(next), 303)
        return login(request, next=next)

    @routes.post("/login")
    async def log_in(request: Request) -> Response:
        fields = await _fields(request)
        where = local(fields.get("next", "/"))
        if door.token is not None and not door.admits(fields.get("token", "").strip()):
            problem = "That is not this board's token."
            if not wants_page(request):
                return JSONResponse({"error": problem}, 401)
            return login(request, status_code=401, next=where, problem=problem)
        name = fields.get("name", "").strip()
        try:
            sealed = door.sealed_name(checked_name(name)) if name else None
        except UsageError as error:
            return login(request, status_code=400, next=where, problem=str(error))
        answer: Response = RedirectResponse(where, 303) if wants_page(request) else JSONResponse({"next": where})
        if door.token is not None:
            _give(request, answer, "session", door.new_session(), SESSION_SECONDS)
        if sealed is not None:
            _give(request, answer, "reviewer", sealed, NAME_SECONDS)
        return answer

    @routes.post("/logout")
    async def log_out(request: Request) -> Response:
        await _own_fields(request)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(cookie_name("session", request.headers), path="/", httponly=True, samesite="strict")
        return answer

    @routes.get("/who")
    def who_page(request: Request, next: str = "/") -> Response:
        return _who(request, next=local(next))

    @routes.post("/who")
    async def change_name(request: Request) -> Response:
        fields = await _own_fields(request)
        where = local(fields.get("next", "/"))
        try:
            name = checked_name(fields.get("name", ""))
        except UsageError as error:
            if not wants_page(request):
                return JSONResponse({"error": str(error)}, 400)
            return _who(request, status_code=400, next=where, problem=f"{error}.".capitalize())
        answer: Response = RedirectResponse(where, 303) if wants_page(request) else JSONResponse({"reviewer": name})
        _give(request, answer, "reviewer", door.sealed_name(name), NAME_SECONDS)
        return answer

    @routes.get("/api/session")
    def session(request: Request) -> dict[str, object]:
        """What a page that stayed open needs after the board was started again; it gives nobody more than he has."""
        visitor = visitor_of(request)
        return {"inside": visitor.inside, "csrf": visitor.csrf, "reviewer": visitor.reviewer}

    return routes


def login(request: Request, *, status_code: int = 401, next: str = "/", problem: str = "") -> Response:
    """The page that asks for the token."""
    return render(request, "login.html.jinja", status_code=status_code, next=local(next), problem=problem)


def local(address: str) -> str:
    """The address if it lies on this board, else `/`: nobody is sent elsewhere after coming in."""
    plain = address.isprintable() and "\\" not in address and len(address) <= 2_000
    inner = address.startswith("/") and not address.startswith(("//", "/login", "/logout"))
    return address if plain and inner else "/"


def _who(request: Request, *, status_code: int = 200, next: str = "/", problem: str = "") -> Response:
    has_token = request.app.state.site.token is not None
    return render(request, "who.html.jinja", status_code=status_code, next=next, problem=problem, has_token=has_token)


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form or of a JSON object of strings."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        return await fields_of(request)
    try:
        sent: Any = await request.json()
        if not isinstance(sent, dict):
            raise ValueError("an object is expected")
    except (ValueError, RecursionError):
        raise HTTPException(400, "the form cannot be read") from None
    return {str(key): value for key, value in sent.items() if isinstance(value, str)}


async def _own_fields(request: Request) -> dict[str, str]:
    """The fields of a form that a page of this board made for this visitor."""
    fields = await _fields(request)
    visitor = visitor_of(request)
    proof = request.headers.get("x-regraft-csrf") or fields.get("csrf", "")
    if not visitor.bearer and not same(proof, visitor.csrf):
        raise HTTPException(403, "The page is out of date: load it again.")
    return fields


def _give(request: Request, answer: Response, what: str, value: str, seconds: int) -> None:
    secure = request.url.scheme == "https" or request.headers.get("origin", "").startswith("https://")
    answer.set_cookie(
        cookie_name(what, request.headers), value, max_age=seconds, path="/", httponly=True, samesite="strict",
        secure=secure,
    )  # fmt: skip
