"""Runs are found by their error, among those that have one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

locks = ("runs",)


def upgrade() -> None:
    """Add the index."""
    has_one = sa.text("error IS NOT NULL")
    op.create_index(
        "ix_stageflow_runs_error",
        "stageflow_runs",
        ["created_at", "id"],
        postgresql_where=has_one,
        sqlite_where=has_one,
    )
