"""The kind of a failure in a column of its own. Until now it was worked out from the reason whenever it was needed."""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

# How the reasons began that were stored until now. What none of them matches is "other".
KINDS = (
    ("degenerate", re.compile(r"degenerate: ")),
    ("worker_died", re.compile(r"\d+ workers died ")),
    ("out_of_memory", re.compile(r".*\bout of memory\b", re.IGNORECASE)),  # a scorer may have run out of it, too
    ("scorer", re.compile(r"scorer ")),
)

_trials = sa.table("mergetune_trials", *map(sa.column, ("id", "state", "reason", "failure")))


def upgrade() -> None:
    op.add_column("mergetune_trials", sa.Column("failure", sa.String(length=20), nullable=True))
    connection = op.get_bind()
    failed = sa.select(_trials.c.id, _trials.c.reason).where(_trials.c.state == "failed")
    for row in connection.execute(failed).all():
        kind = next((kind for kind, pattern in KINDS if pattern.match(row.reason or "")), "other")
        connection.execute(_trials.update().where(_trials.c.id == row.id).values(failure=kind))
