"""Annotations: what people say of runs: stars, tags, notes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """A star is a person's, a tag is everybody's, a note is its author's."""
    op.create_table(
        "run_stars",
        sa.Column("project", sa.Text, nullable=False),
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("person", sa.Text, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("project", "run", "person", name="run_stars_pkey"),
    )
    op.create_table(
        "run_tags",
        sa.Column("project", sa.Text, nullable=False),
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("tag", sa.Text, nullable=False),
        sa.Column("person", sa.Text, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("project", "run", "tag", name="run_tags_pkey"),
    )
    op.create_table(
        "run_notes",
        sa.Column("note_id", sa.Text, nullable=False),
        sa.Column("project", sa.Text, nullable=False),
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("person", sa.Text, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("note_id", name="run_notes_pkey"),
    )
