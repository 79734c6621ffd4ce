"""What a fit came to, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
"""`{"step", "epoch", "train/loss", "val/macro_f1", …, "lr", "images_per_second", "seconds"}`: one evaluation."""


@dataclass
class History:
    """The rows of a fit.

    Attributes:
        rows: one per evaluation, in order. `epoch` counts finished epochs; it is a fraction where the fit ended within.
            Numbers that are not finite are None.
        best: the row whose weights were restored, or None where nothing was evaluated.
        stopped: why it ended, in words.
    """

    rows: list[Row] = field(default_factory=list)
    best: Row | None = None
    stopped: str = ""

    def column(self, name: str) -> list[Any]:
        """One measure over the epochs, None where it is missing."""
        return [row.get(name) for row in self.rows]
