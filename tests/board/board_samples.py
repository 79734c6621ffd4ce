"""Boards for tests: a site over temporary folders, a desk of drawn pictures, a client that is let in, a real server."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from PIL import Image
from starlette.testclient import TestClient

from regraft.board.security import reviewer_of
from regraft.board.site import Site
from regraft.store.db import open_database

PAGE = {"accept": "text/html"}
TOKEN = "a-token-of-the-tests-0123456789"

HOSTILE_NAMES = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }} {% raw %} & 'quotes'",
    "<svg onload=alert(1)>",
    "javascript:alert(1)",
    "'; DROP TABLE decisions; --",
    "../../etc/passwd",
    "قطة صغيرة",
    "고양이",
    "a\u202eb\x07c",
)


@dataclass
class FakeDesk:
    """Only what the shell asks of a desk: where an image lies by its hash."""

    root: Path
    images: dict[str, Path]
    project: str = "shapes"

    def path_of(self, hash: str) -> Path | None:
        return self.images.get(hash)


def hash_of(path: Path) -> str:
    """An image's name on the board."""
    return blake3(path.read_bytes()).hexdigest()


def drawn(path: Path, *, size: tuple[int, int] = (320, 200), seed: int = 0, **options: Any) -> Path:
    """A picture with a coloured left and a dark right half, as the file's ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2] = np.random.default_rng(seed).integers(90, 255, 3)
    Image.fromarray(pixels).save(path, **options)
    return path


def site_at(folder: Path, *, num_images: int = 3, **changes: Any) -> Site:
    """A site over `folder`: `data/` with drawn pictures, `runs/`, `cache/`; loopback, no token unless asked."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "data"
    images = [drawn(data / "cat" / f"{i}.png", seed=i) for i in range(num_images)]
    (folder / "runs").mkdir(exist_ok=True)
    made = Site(
        runs_dir=folder / "runs",
        database=open_database(runs_dir=folder / "runs"),
        cache_dir=folder / "cache",
        project="shapes",
        desk=FakeDesk(data, {hash_of(path): path for path in images}),  # type: ignore[arg-type]
    )
    return replace(made, **changes)


def client_of(
    site: Site, *, signed_in: bool = True, parts: tuple[str, ...] = ("runs", "journal"), **options: Any
) -> TestClient:
    """A client of the site's application, as a browser on its own page: let in, and with the proof on each request.

    `parts=("review",)` needs a site with a real desk.
    """
    from regraft.board.app import create_app

    client = TestClient(
        create_app(site, parts=parts), base_url=f"http://{site.host}:{site.port}", follow_redirects=False, **options
    )
    if signed_in:
        if site.token is not None:
            sent = client.post("/login", json={"token": site.token, "name": "Ada"})
            assert sent.status_code == 200, sent.text
        client.headers["x-regraft-csrf"] = client.get("/api/session").json()["csrf"]
    return client


@contextlib.contextmanager
def running(site: Site, *, parts: tuple[str, ...] = ("runs", "journal")) -> Iterator[str]:
    """The site on a real port, in a thread; gives the address without the token."""
    from regraft.board.app import create_app
    from regraft.board.server import bound, server

    with contextlib.closing(bound(site.host, 0)) as listening:
        port = listening.getsockname()[1]
        ready = threading.Event()
        made = server(create_app(replace(site, port=port), parts=parts), on_ready=ready.set)
        thread = threading.Thread(target=made.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        assert ready.wait(20)
        try:
            yield f"http://{site.host}:{port}"
        finally:
            made.should_exit = True
            thread.join(10)


def with_probe(site: Site) -> tuple[TestClient, FastAPI]:
    """A board with a route that takes a body, one that fails, and one that says who asks."""
    client = client_of(site)
    app: FastAPI = client.app  # type: ignore[assignment]

    @app.post("/api/probe")
    async def probe(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @app.post("/api/fields")
    def fields(sent: dict[str, str]) -> dict[str, int]:
        return {"bytes": sum(len(value.encode()) for value in sent.values())}

    @app.get("/fail")
    def fail() -> None:
        raise RuntimeError("the inside of the board")

    @app.get("/api/me")
    def me(request: Request) -> dict[str, str]:
        return {"reviewer": reviewer_of(request)}

    return client, app


def api_routes(routes: Any) -> Iterator[APIRoute]:
    """All routes, also those of included routers."""
    for route in routes:
        inner = getattr(getattr(route, "original_router", None), "routes", None) or getattr(route, "routes", None)
        if isinstance(route, APIRoute):
            yield route
        elif inner:
            yield from api_routes(inner)


class Elements(HTMLParser):
    """What a browser would make elements and attributes of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def harmless(text: str) -> None:
    """Fails where a page holds an element or attribute that is not the templates' own."""
    for tag, attributes in Elements(text).seen:
        assert tag not in ("svg", "img", "iframe", "object") or "onload" not in attributes
        assert tag != "script" or (attributes.get("src") or "").startswith("/static/")
        assert tag != "img" or (attributes.get("src") or "").startswith(("/static/", "/pictures/"))
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert not (attributes.get("href") or "").startswith("javascript:")
