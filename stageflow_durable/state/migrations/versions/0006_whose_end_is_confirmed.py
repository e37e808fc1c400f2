"""Owners: what proves the end of their process, who confirmed it, and since when they renew without a gap."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns; workers go on meanwhile.

    Workers of before know none of them. What one of them takes over may be undone after half a lease, as it was; an
    undo that waits for a confirmation waits under them too, for the time in its row lies in the year 9999.
    """
    for column in (
        sa.Column("lease", sa.Double(), nullable=True),
        sa.Column("steady_since", sa.Double(), nullable=True),
        sa.Column("machine", sa.String(64), nullable=True),
        sa.Column("kernel", sa.String(100), nullable=True),
        sa.Column("born", sa.String(32), nullable=True),
        sa.Column("awaited", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("confirmed_at", sa.Double(), nullable=True),
        sa.Column("confirmed_by", sa.String(255), nullable=True),
        sa.Column("confirmed_reason", sa.Text(), nullable=True),
    ):
        op.add_column("stageflow_owners", column)
    op.add_column("stageflow_queues", sa.Column("free_at", sa.Double(), nullable=True))
    op.create_index(
        "ix_stageflow_owners_awaited",
        "stageflow_owners",
        ["id"],
        postgresql_where=sa.text("awaited"),
        sqlite_where=sa.text("awaited"),
    )
