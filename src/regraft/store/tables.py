"""The database's tables, as the newest migration leaves them; a test holds the two together."""

from __future__ import annotations

from dataclasses import fields

from sqlalchemy import BigInteger, Column, Double, MetaData, PrimaryKeyConstraint, Table, Text, UniqueConstraint

from regraft.types import Decision

METADATA = MetaData()
"""Every table of the database; what shares the database declares its tables on it too."""

EVENT_FIELDS = tuple(field.name for field in fields(Decision))
"""The columns of `decisions` that hold what the reviewer did, in the order of `Decision`."""


def _event_column(name: str) -> Column[str] | Column[float]:
    return Column(name, Double if name in ("time", "duration") else Text, nullable=False)


DECISIONS = Table(
    "decisions",
    METADATA,
    *(_event_column(name) for name in EVENT_FIELDS),
    Column("seq", BigInteger, nullable=False, autoincrement=False),
    Column("previous", Text, nullable=False),
    Column("chain", Text, nullable=False),
    PrimaryKeyConstraint("project", "seq", name="decisions_pkey"),
    UniqueConstraint("project", "event_id", name="decisions_event_id_key"),
)
"""The history: one row an event, numbered from 1 within its project; `scores` is a JSON object as text. Triggers refuse
to change or delete a row."""
