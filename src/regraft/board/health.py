"""Whether a part answers, as itself; and whether the disks have room."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from regraft.board.processes import lives
from regraft.board.state import Asked, Part

PATIENCE = 5.0
"""Seconds for an answer: TensorBoard reads event files in the process that answers."""

FULL = 1 << 20
"""A disk with less than this free is called full: 1 MiB."""


def ailment(part: Part, asked: Asked) -> str:
    """What is wrong with a part, "" where it is well: it runs, and what answers at its address is that process."""
    if not lives(part.process):
        return part.reason or "it does not run"
    assert part.process is not None
    where = "/healthz" if part.name == "board" else "/data/environment"
    try:
        answer = _get(part.host, part.port, where)
    except (OSError, HTTPException, ValueError) as error:
        return f"no answer at {reachable(part.host)}:{part.port} ({error or type(error).__name__})"
    other = f"something else answers at {reachable(part.host)}:{part.port}"
    if part.name == "board":
        return "" if answer.get("pid") == part.process.pid else other
    return "" if answer.get("data_location") == asked.runs_dir else other


def full_disks(folder: Path, asked: Asked | None) -> list[str]:
    """A sentence for each disk on which nothing more can be written: of the state folder, runs folder and cache."""
    words = []
    try:
        probe = folder / f".room-{os.getpid()}"
        try:
            probe.write_bytes(bytes(65_536))
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
    except OSError as error:
        words.append(f"nothing can be written to {folder} ({error.strerror}): logs and state stay as they were")
    for name, place in (("runs", asked.runs_dir), ("cache", asked.cache_dir)) if asked is not None else ():
        with contextlib.suppress(OSError):
            room = shutil.disk_usage(place)
            if room.total and room.free < FULL:
                words.append(f"the disk of the {name} folder is full: {place} has {room.free:,} bytes left")
    return words


def is_taken(host: str, port: int) -> bool:
    """Whether nobody can listen there now; port 0 asks of the address alone."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError:
        return True
    return False


def reachable(host: str) -> str:
    """The address at which this machine reaches a server that listens on `host`, as it stands in a URL."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def address_of(part: Part) -> str:
    """What a browser opens; by the machine's name where the part listens on all of its addresses."""
    host = socket.gethostname() if part.host in ("0.0.0.0", "::") else reachable(part.host)
    return f"http://{host}:{part.port}/"


def _get(host: str, port: int, path: str) -> dict[str, Any]:
    connection = HTTPConnection(reachable(host).strip("[]"), port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(1 << 16)
        if response.status != 200:
            raise ValueError(f"HTTP {response.status}")
        answer = json.loads(body)
        if not isinstance(answer, dict):
            raise ValueError("not the answer expected")
        return answer
    finally:
        connection.close()
