"""The batch limits of a trial in a column of their own. Until now they were a text in its machine's description."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_trials = sa.table(
    "mergetune_trials", sa.column("id"), sa.column("machine", sa.JSON()), sa.column("batch_limits", sa.JSON())
)


def upgrade() -> None:
    op.add_column("mergetune_trials", sa.Column("batch_limits", sa.JSON(), nullable=True))
    connection = op.get_bind()
    for row in connection.execute(sa.select(_trials.c.id, _trials.c.machine)).all():
        machine = dict(row.machine or {})
        if text := machine.pop("batches", ""):
            values = {"machine": machine, "batch_limits": [_limit(part) for part in text.split(", ")]}
            connection.execute(_trials.update().where(_trials.c.id == row.id).values(**values))


def _limit(text: str) -> list[str | int]:
    """Read `512x512 4` or `vae 1024x1024 1`: what has no name is the U-Net's."""
    *named, size, images = text.split(" ")
    return [named[0] if named else "unet", *map(int, size.split("x")), int(images)]
