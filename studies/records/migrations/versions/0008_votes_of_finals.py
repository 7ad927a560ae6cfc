"""Votes on renders of the final, and how many of them it counts. Votes were on renders of the search alone before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("mergetune_votes", sa.Column("held_out", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("mergetune_finals", sa.Column("votes", sa.Integer(), nullable=True))
    op.add_column("mergetune_finals", sa.Column("over_each", sa.JSON(), nullable=True))
