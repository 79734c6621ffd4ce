"""A file of records that a killed fit, or a full disk, leaves whole."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class Whole:
    """A file that is written a whole record at a time, or not at all; open only meanwhile, as a fit may be killed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, data: bytes) -> None:
        with self._path.open("ab", buffering=0) as file:
            at = file.seek(0, os.SEEK_END)
            try:
                if (written := file.write(data)) != len(data):  # what a nearly full disk does
                    raise OSError(f"no space left: {written} of {len(data)} bytes of a record were written")
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(at)
                raise
