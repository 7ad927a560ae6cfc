"""Limits of batches by component: the autoencoder has its own, and what was known holds for the U-Net."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.rename_table("mergetune_batch_limits", "mergetune_unet_limits")
    op.create_table(
        "mergetune_batch_limits",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(length=200), nullable=False),
        sa.Column("component", sa.String(length=20), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["mergetune_studies.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("study_id", "device", "component", "width", "height"),
    )
    op.execute(
        "INSERT INTO mergetune_batch_limits (study_id, device, component, width, height, images) "
        "SELECT study_id, device, 'unet', width, height, images FROM mergetune_unet_limits"
    )
    op.drop_table("mergetune_unet_limits")
