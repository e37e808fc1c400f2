"""A run's values may be erased: its row says when (ADR 0050)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("stageflow_runs", sa.Column("erased_at", sa.Double(), nullable=True))
