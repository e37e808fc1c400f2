"""Stages have items: each a row with a chain of its own, in groups that count them (ADR 0040)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

locks = ("strands",)
"""On PostgreSQL a CHECK of it is validated anew, on SQLite it is copied."""

_DOMAIN = "stageflow_strands_waiting_for"
_WHAT = ("time", "signal", "limit", "child", "approval", "worker", "items")


def upgrade() -> None:
    """Add a run's count of items and the tables of items; let a strand wait for them."""
    op.add_column("stageflow_runs", sa.Column("item_count", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.create_table(
        "stageflow_items",
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("item", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("stage", sa.String(length=255), nullable=False),
        sa.Column("grp", sa.Integer(), nullable=False),
        sa.Column("input", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("head", sa.String(length=64), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("run", "item", name=op.f("pk_stageflow_items")),
    )
    counts = [sa.Column(name, sa.Integer(), nullable=False) for name in ("total", "running", "done", "failed")]
    op.create_table(
        "stageflow_item_groups",
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("strand", sa.String(length=255), nullable=False),
        sa.Column("grp", sa.Integer(), autoincrement=False, nullable=False),
        *counts,
        sa.Column("collects", sa.Boolean(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("run", "strand", "grp", name=op.f("pk_stageflow_item_groups")),
    )
    (_on_postgresql if op.get_bind().dialect.name == "postgresql" else _on_sqlite)()


def _on_postgresql() -> None:
    op.execute(f"ALTER DOMAIN {_DOMAIN} DROP CONSTRAINT ck_{_DOMAIN}_known")
    op.execute(
        f"ALTER DOMAIN {_DOMAIN} ADD CONSTRAINT ck_{_DOMAIN}_known "
        f"CHECK (VALUE = ANY ('{{{','.join(_WHAT)}}}'::varchar[]))"
    )


def _on_sqlite() -> None:
    """SQLite changes no CHECK of a table that is there: it is made anew from its own text."""
    name, read = "stageflow_strands", op.get_bind().exec_driver_sql
    text = str(read("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).scalar_one())
    indexes = read("SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql <> ''", (name,)).all()
    columns = ", ".join(row[1] for row in read(f"PRAGMA table_info({name})"))
    before, after = ("waiting_for = 'worker'", "waiting_for = 'worker' OR waiting_for = 'items'")
    assert text.count(before) == 1, f"{name} was not made by our migrations: {before} is not in it"
    op.execute(f"ALTER TABLE {name} RENAME TO {name}_before")
    op.execute(text.replace(before, after))
    op.execute(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {name}_before")  # noqa: S608  # names of ours
    op.drop_table(f"{name}_before")
    for index in indexes:
        op.execute(index[0])
