"""An owner names its profile: engine, broker, queues and definitions, in a row that equal processes share (ADR 0033)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

locks = ("strands",)

_HANDED_BACK = "state = 'waiting' AND nudges > 0"


def upgrade() -> None:
    """Add the table, the column (NULL: an older release, which does not say), and the index of what is handed back."""
    op.create_table(
        "stageflow_profiles",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stageflow_profiles")),
    )
    op.add_column("stageflow_owners", sa.Column("profile", sa.String(length=32), nullable=True))
    op.create_index(
        "ix_stageflow_strands_handed_back",
        "stageflow_strands",
        ["run"],
        postgresql_where=sa.text(_HANDED_BACK),
        sqlite_where=sa.text(_HANDED_BACK),
    )
