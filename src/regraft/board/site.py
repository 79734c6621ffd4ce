"""What one board serves: whose runs, which history of decisions, and which images are under review."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regraft.board.review.desk import Desk
    from regraft.store.db import Database


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Site:
    """What one board serves.

    Attributes:
        runs_dir: folder of the run folders.
        database: decisions, stars, notes, journal.
        project: the project that is shown first, or None.
        desk: the images under review, or None where the board has none.
        token: what a visitor must present; None only on a loopback address.
        host: address it listens on.
        port: its port.
        tensorboard: the address of the TensorBoard beside it, or None.
        cache_dir: where thumbnails are kept.
        reviewer: who a visitor on this machine is taken for; "" for the user of the operating system.
        blind: nobody is shown suggestions, or what others decided.
    """

    runs_dir: Path
    database: Database
    cache_dir: Path
    project: str | None = None
    desk: Desk | None = None
    token: str | None = None
    host: str = "127.0.0.1"
    port: int = 8765
    tensorboard: str | None = None
    reviewer: str = ""
    blind: bool = False


def is_loopback(host: str) -> bool:
    """True for `localhost` and for loopback addresses: no other machine reaches them."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
