"""The means that a study's constraints are on, of its trials and of its final. Studies had no constraints before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    for table in ("mergetune_trials", "mergetune_finals"):
        op.add_column(table, sa.Column("constrained", sa.JSON(), nullable=True))
