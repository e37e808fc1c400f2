"""Signals that people and programs send to runs, and what they are asked to approve (ADR 0041)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "stageflow_signals",
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("stage", sa.String(length=255), nullable=False),
        sa.Column("item", sa.Integer(), server_default=sa.text("0"), autoincrement=False, nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("saved_schema", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("consumed_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("run", "stage", "item", "n", name=op.f("pk_stageflow_signals")),
    )
    op.create_index(
        "ix_stageflow_signals_key",
        "stageflow_signals",
        ["stage", "key"],
        postgresql_where=sa.text("key IS NOT NULL"),
        sqlite_where=sa.text("key IS NOT NULL"),
    )
    _approvals()


def _approvals() -> None:
    name = "stageflow_approvals_decision"
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    if is_postgresql:
        here = op.get_bind().execute(sa.text("SELECT quote_ident(current_schema())")).scalar_one()
        op.execute(f"DROP DOMAIN IF EXISTS {here}.{name}")  # of a table that somebody dropped by hand
        op.execute(
            f"CREATE DOMAIN {name} AS varchar(16) CONSTRAINT ck_{name}_known "
            "CHECK (VALUE = ANY ('{approved,denied}'::varchar[]))"
        )
    of_decision = postgresql.DOMAIN(name, sa.String(16), create_type=False) if is_postgresql else sa.String(16)
    known = sa.CheckConstraint("(decision = 'approved' OR decision = 'denied')", name="decision_known")
    open_ones = sa.text("decided_at IS NULL AND consumed_at IS NULL")
    op.create_table(
        "stageflow_approvals",
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("stage", sa.String(length=255), nullable=False),
        sa.Column("item", sa.Integer(), server_default=sa.text("0"), autoincrement=False, nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("asked_at", sa.Double(), nullable=False),
        sa.Column("decision", of_decision, nullable=True),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.Column("authenticated", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.Double(), nullable=True),
        sa.Column("consumed_at", sa.Double(), nullable=True),
        *(() if is_postgresql else (known,)),
        sa.PrimaryKeyConstraint("run", "stage", "item", "n", name=op.f("pk_stageflow_approvals")),
    )
    op.create_index(
        "ix_stageflow_approvals_open",
        "stageflow_approvals",
        ["asked_at"],
        postgresql_where=open_ones,
        sqlite_where=open_ones,
    )
