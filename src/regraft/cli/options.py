"""Options that several verbs share, and how they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON on stdout, and nothing else there.")]
RunsDir = Annotated[Path, Parameter(help="Folder in which runs are kept.")]
CacheDir = Annotated[Path | None, Parameter(help="Folder for features; by default the user's cache folder.")]


def print_json(value: Any) -> None:
    """Strict JSON on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))
