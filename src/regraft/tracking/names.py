"""What services take as a name."""

from __future__ import annotations

import re


def path_name(text: str) -> str:
    """Letters, digits and `_-. /` in the form of a relative path that stays where it is: `val/macro_f1` is itself."""
    plain = re.sub(r"[^\w\-./ ]", "_", text)[:250]
    return "/".join(part.strip(".") or "_" for part in plain.split("/"))


def word_name(text: str) -> str:
    """ASCII letters, digits and `_-.`, at least one."""
    return re.sub(r"[^A-Za-z0-9_.\-]", "_", text)[:120] or "_"
