"""Runs of one pipeline, the newest first, without a look at the others'."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the index."""
    op.create_index("ix_stageflow_runs_pipeline", "stageflow_runs", ["pipeline", "created_at"], unique=False)
