"""Runs of one client, the newest first, without sorting all that it ever had."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the index."""
    op.create_index("ix_stageflow_runs_client", "stageflow_runs", ["client_id", "created_at"], unique=False)
