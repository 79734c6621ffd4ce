"""Optional packages, each confined to the one file that is named for it."""

from __future__ import annotations

import importlib
from types import ModuleType

from regraft.errors import MissingExtraError


def try_import(name: str, *, extra: str) -> ModuleType:
    """Import an optional package, or say how to get it.

    Args:
        name: the module to import.
        extra: the extra of regraft that brings it.

    Raises:
        MissingExtraError: it is not installed; the message names the exact `pip install`.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"this needs the package {name!r}, which is not installed: pip install 'regraft[{extra}]'"
        ) from error
