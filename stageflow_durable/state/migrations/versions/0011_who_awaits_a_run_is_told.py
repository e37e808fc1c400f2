"""Who awaits a run is told of its end (ADR 0042)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; older workers leave it alone, and those that await look by themselves."""
    op.add_column("stageflow_runs", sa.Column("awaited_by", sa.String(255), nullable=True))
