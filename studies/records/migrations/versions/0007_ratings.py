"""A table of ratings: how good a person finds a render, 0 to 10."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "mergetune_ratings",
        sa.Column("token", sa.String(length=32), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("person", sa.String(length=100), nullable=False),
        sa.Column("item", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("rating", sa.Integer(), nullable=True),
        sa.Column("shown_at", sa.Float(), nullable=False),
        sa.Column("rated_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["study_id"], ["mergetune_studies.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("token"),
    )
    op.create_index("ix_mergetune_ratings_study", "mergetune_ratings", ["study_id"])
