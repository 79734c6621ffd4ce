"""Pictures by the hash of their bytes."""

from __future__ import annotations

from fastapi import APIRouter

from regraft.board.site import Site


def router(site: Site) -> APIRouter:
    """Routes below /pictures."""
    return APIRouter()
