"""The board's own style and scripts: in memory, addressed by their content, so that a browser keeps them for good.

One hash over all of them stands in every address, so that modules find each other by relative names.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response

FOLDER = Path(__file__).parent / "static"
SUFFIXES = (".css", ".js", ".mjs", ".png", ".webp", ".woff2", ".json")
"""What is served; licences and hashes beside them are not."""

FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file: its bytes, the same compressed (or None where that is no gain), and its type."""

    body: bytes
    packed: bytes | None
    media_type: str


@cache
def assets() -> dict[str, Asset]:
    """Name relative to `static/` to its content, read once a process."""
    found = {}
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix in SUFFIXES and path.is_file():
            body = path.read_bytes()
            packed = gzip.compress(body, 6, mtime=0)
            kind = "text/javascript" if path.suffix in (".js", ".mjs") else mimetypes.types_map[path.suffix]
            small = packed if len(packed) < 0.9 * len(body) else None
            found[path.relative_to(FOLDER).as_posix()] = Asset(body, small, kind)
    return found


@cache
def digest() -> str:
    """16 digits of one hash over all names and contents."""
    whole = hashlib.sha256()
    for name, asset in assets().items():
        whole.update(f"{name}\0{len(asset.body)}\0".encode() + asset.body)
    return whole.hexdigest()[:16]


def static(name: str) -> str:
    """The address of a file below `static/`: `/static/3f2a…/board.css`.

    Raises:
        KeyError: there is no such file.
    """
    if name not in assets():
        raise KeyError(name)
    return f"/static/{digest()}/{name}"


router = APIRouter()


@router.api_route("/static/{version}/{name:path}", methods=["GET", "HEAD"])
async def send_asset(version: str, name: str, request: Request) -> Response:
    """A file by its name; a name is looked up in what was read at the start and never put to the disk."""
    asset = assets().get(name)
    if asset is None:
        return Response("no such file", 404, media_type="text/plain")
    # A page from before an update asks for the old hash: it gets today's file, and must not keep it under that name.
    headers = {"cache-control": FOREVER if version == digest() else "no-store", "vary": "accept-encoding"}
    body = asset.body
    if asset.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        body, headers["content-encoding"] = asset.packed, "gzip"
    return Response(body, headers=headers, media_type=asset.media_type)
