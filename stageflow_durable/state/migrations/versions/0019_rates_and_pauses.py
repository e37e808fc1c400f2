"""Rate limits, and limits that are paused (ADR 0049)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_ADDED = {
    "stageflow_limits": {
        "per_second": sa.Double,
        "set_amount": sa.Integer,
        "paused_until": sa.Double,
        "said": sa.Text,
    },
    "stageflow_pools": {"tokens": sa.Double, "filled_at": sa.Double, "paused_until": sa.Double, "said": sa.Text},
}


def upgrade() -> None:
    """Add the columns."""
    for table, columns in _ADDED.items():
        for name, kind in columns.items():
            op.add_column(table, sa.Column(name, kind(), nullable=True))
