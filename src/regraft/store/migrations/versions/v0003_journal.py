"""The journal: notes and questions of a day, and what people chose to share."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """A note is its author's; a choice is a person's own."""
    op.create_table(
        "journal_notes",
        sa.Column("note_id", sa.Text, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("person", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("project", sa.Text, nullable=False),
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("words", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("note_id", name="journal_notes_pkey"),
    )
    op.create_index("journal_notes_time", "journal_notes", ["time"])
    op.create_table(
        "journal_sharing",
        sa.Column("person", sa.Text, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("person", name="journal_sharing_pkey"),
    )
