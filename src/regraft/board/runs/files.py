"""A file of a run folder as an answer: opened without following a link, and sent in pieces."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from fastapi import HTTPException
from fastapi.responses import Response, StreamingResponse

from regraft.store.run_files import opened

_BLOCK = 1 << 18


def send_file(folder: Path, path: str, *, media_type: str, headers: Mapping[str, str]) -> Response:
    """The file as it is now.

    Raises:
        HTTPException: 404, where it is no file that a run has.
    """
    stack = ExitStack()
    try:
        stream = stack.enter_context(opened(folder, path))
        size = os.fstat(stream.fileno()).st_size
    except OSError:
        stack.close()
        raise HTTPException(404, "The run has no such file.") from None
    sent = dict(headers) | {"content-length": str(size), "cache-control": "private, no-cache"}
    return StreamingResponse(_pieces(stack, stream, size), media_type=media_type, headers=sent)


def _pieces(stack: ExitStack, stream: BinaryIO, size: int) -> Iterator[bytes]:
    """Exactly `size` bytes: a file that grows meanwhile must not break the answer."""
    with stack:
        while size > 0 and (block := stream.read(min(_BLOCK, size))):
            size -= len(block)
            yield block
