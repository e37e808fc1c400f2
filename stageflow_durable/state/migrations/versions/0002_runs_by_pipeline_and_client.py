"""Runs of one pipeline or of one client, the newest first, without a look at the others'."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

locks = ("runs",)


def upgrade() -> None:
    """Create the indexes."""
    op.create_index("ix_stageflow_runs_pipeline", "stageflow_runs", ["pipeline", "created_at"], unique=False)
    op.create_index("ix_stageflow_runs_client", "stageflow_runs", ["client_id", "created_at"], unique=False)
