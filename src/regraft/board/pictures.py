"""Pictures by the hash of their bytes: `/pictures/HASH/thumb?side=512` and `/pictures/HASH/original`.

Nothing but a hash that is under review leads to a file, so there is no path to tamper with; and what is sent has that
hash, so a file that was exchanged since then is never shown for the one that was judged. An address means the same
bytes for ever: browsers keep them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response

from regraft.board.security import PICTURE_POLICY
from regraft.board.site import Site
from regraft.board.thumbnails import (
    SIDES,
    GoneError,
    Stamp,
    is_whole,
    keep,
    locate,
    media_type,
    placeholder,
    read_checked,
    shrink,
)

NUM_THREADS = 2
"""That decode; people's machines have other things to do while somebody reviews."""

MAX_WAITING = 64
"""Pictures that may wait for a thread. A browser asks for six at a time."""

MAX_REMEMBERED = 20_000
"""Files whose hash was checked, of 200 bytes each."""

_HASH = re.compile(r"[0-9a-f]{64}")
_FOREVER = "private, max-age=31536000, immutable"


def router(site: Site) -> APIRouter:
    """The routes below /pictures."""
    routes, shelf = APIRouter(), Shelf(site)

    @routes.api_route("/pictures/{hash}/thumb", methods=["GET", "HEAD"])
    async def thumb(hash: str, request: Request, side: int = 256) -> Response:
        if side not in SIDES:
            raise HTTPException(400, f"side is one of {', '.join(map(str, SIDES))}")
        return await _answer(request, shelf.thumb(hash, side), f"{hash[:32]}-{side}")

    @routes.api_route("/pictures/{hash}/original", methods=["GET", "HEAD"])
    async def original(hash: str, request: Request) -> Response:
        return await _answer(request, shelf.original(hash), hash[:32])

    return routes


class Shelf:
    """The pictures of a site: finds them, checks them, keeps thumbnails in `cache_dir/thumbs/`.

    Args:
        site: whose desk says which hash lies where.
        num_threads: that read and decode.
        max_waiting: requests beyond those are told to come again.
    """

    def __init__(self, site: Site, *, num_threads: int = NUM_THREADS, max_waiting: int = MAX_WAITING) -> None:
        self.site, self.max_waiting = site, max_waiting
        self.kept = site.cache_dir / "thumbs"
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="regraft-pictures")
        self._making: dict[str, Future[bytes]] = {}
        self._checked: dict[str, Stamp] = {}

    async def thumb(self, hash: str, side: int) -> bytes:
        """A thumbnail, from the cache or made now; the same one is made once, whoever asks.

        Raises:
            GoneError: the picture cannot be shown.
            HTTPException: 503, where too many wait already.
        """
        path, root = self._where(hash)
        found = await asyncio.to_thread(self._cached, hash, side, path, root)
        return found or await self._soon(f"{hash}-{side}", lambda: self._make(hash, side, path, root))

    async def original(self, hash: str) -> bytes:
        """The file's own bytes; raises as `thumb`."""
        path, root = self._where(hash)
        return await self._soon(hash, lambda: self._read(hash, path, root))

    def _where(self, hash: str) -> tuple[Path, Path]:
        desk = self.site.desk
        path = desk.path_of(hash) if desk is not None and _HASH.fullmatch(hash) else None
        if desk is None or path is None:
            raise GoneError(404, "not under review")
        return path, desk.root

    def _cached(self, hash: str, side: int, path: Path, root: Path) -> bytes | None:
        """The kept thumbnail of a file that is known to be unchanged."""
        if self._checked.get(hash) != locate(path, root)[1]:
            return None
        return self._kept(hash, side)

    def _kept(self, hash: str, side: int) -> bytes | None:
        try:
            data = self._place(hash, side).read_bytes()
        except OSError:
            return None
        return data if is_whole(data) else None

    def _place(self, hash: str, side: int) -> Path:
        return self.kept / hash[:2] / f"{hash}-{side}"

    def _read(self, hash: str, path: Path, root: Path) -> bytes:
        data, stamp = read_checked(locate(path, root)[0], hash)
        if len(self._checked) >= MAX_REMEMBERED:
            self._checked.pop(next(iter(self._checked)))
        self._checked[hash] = stamp
        return data

    def _make(self, hash: str, side: int, path: Path, root: Path) -> bytes:
        data = self._read(hash, path, root)
        kept = self._kept(hash, side)
        if kept is not None:
            return kept
        made = shrink(data, side)
        with contextlib.suppress(OSError):  # a full disk costs time, not the picture
            keep(self._place(hash, side), made)
        return made

    async def _soon(self, key: str, work: Callable[[], bytes]) -> bytes:
        """What `work` gives, on a thread of the pool; who asks for the same waits for the same."""
        future = self._making.get(key)
        if future is None:
            if len(self._making) >= self.max_waiting:
                raise HTTPException(503, "too many pictures at once", headers={"retry-after": "1"})
            future = self._making[key] = self._pool.submit(work)
            future.add_done_callback(lambda _: self._making.pop(key, None))
        return await asyncio.shield(asyncio.wrap_future(future))


async def _answer(request: Request, coming: Awaitable[bytes], tag: str) -> Response:
    try:
        data = await coming
    except GoneError as gone:
        return _finished(Response(placeholder(gone.words), gone.status, {"cache-control": "no-store"}, "image/png"))
    etag = f'"{tag}"'
    headers = {"cache-control": _FOREVER, "etag": etag}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    kind, ending = media_type(data)
    how = "attachment" if kind == "application/octet-stream" else "inline"
    headers["content-disposition"] = f'{how}; filename="{tag[:12]}.{ending}"'
    return _finished(Response(data, 200, headers, kind))


def _finished(response: Response) -> Response:
    response.headers["content-security-policy"] = PICTURE_POLICY
    return response
