"""Decisions: the history of events, and the triggers that keep it append-only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TEXTS = (
    "event_id", "project", "reviewer", "session", "item", "path", "action", "other", "issue", "given", "suggested",
    "label", "scores", "supersedes", "batch", "note",
)  # fmt: skip
_WORDS = "decisions are only appended: undo is another event"


def upgrade() -> None:
    """One row an event; updating and deleting are refused by the database itself."""
    op.create_table(
        "decisions",
        *(sa.Column(name, sa.Text, nullable=False) for name in _TEXTS),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("duration", sa.Double, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("previous", sa.Text, nullable=False),
        sa.Column("chain", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("project", "seq", name="decisions_pkey"),
        sa.UniqueConstraint("project", "event_id", name="decisions_event_id_key"),
    )
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER decisions_no_{verb.lower()} BEFORE {verb} ON decisions "
                f"BEGIN SELECT RAISE(ABORT, '{_WORDS}'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION decisions_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_WORDS}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER decisions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON decisions "
        "FOR EACH STATEMENT EXECUTE FUNCTION decisions_refuse()"
    )
