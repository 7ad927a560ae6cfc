"""A table of votes: which of two renders of an item a person prefers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "mergetune_votes",
        sa.Column("token", sa.String(length=32), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("person", sa.String(length=100), nullable=False),
        sa.Column("item", sa.Integer(), nullable=False),
        sa.Column("left_number", sa.Integer(), nullable=False),
        sa.Column("right_number", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(length=10), nullable=True),
        sa.Column("shown_at", sa.Float(), nullable=False),
        sa.Column("voted_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["study_id"], ["mergetune_studies.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("token"),
    )
    op.create_index("ix_mergetune_votes_study", "mergetune_votes", ["study_id"])
