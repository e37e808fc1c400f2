"""An attempt that runs is its strand's; on PostgreSQL domains and functions say what a CHECK is (ADR 0022)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from stageflow_durable.state.migrations.standstill import refuse_while_workers_live

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

stops_workers = True
locks = ("runs", "strands", "attempts", "saga_steps")

_ENDED = ("ok", "skipped", "retry", "failed", "rejected", "unknown", "void", "settled")
_UNDER_WAY = ("pending", "running", "waiting", "stopping", "compensating")
_AT_REST = ("parked", "succeeded", "failed", "cancelled", "compensated", "compensation_failed")
_STEPS = ("intended", "recorded", "void", "compensating", "compensated", "skipped", "compensation_failed")
_STATES: dict[tuple[str, str], tuple[int, tuple[str, ...]]] = {
    ("runs", "phase"): (16, ("forward", "draining", "backward", "settled")),
    ("runs", "status"): (24, _UNDER_WAY + _AT_REST),
    ("runs", "cause"): (16, ("failed", "cancelled", "deadline", "operator", "stage")),
    ("runs", "park_reason"): (16, ("unknown", "poison", "definition", "bug", "operator")),
    ("strands", "direction"): (16, ("forward", "backward")),
    ("strands", "state"): (16, ("ready", "running", "waiting", "rest", "done")),
    ("attempts", "state"): (16, _ENDED),
    ("saga_steps", "state"): (24, _STEPS),
    ("saga_steps", "outcome"): (8, ("ok", "unknown")),
}
"""Columns that hold a state: how many characters, and which states."""

_SOUND: dict[str, tuple[str, tuple[str, ...], str]] = {
    "runs": (
        "phase text, status text, park_reason text",
        ("parked_has_reason", "settled_is_at_rest", "backward_compensates"),
        (
            "(status = 'parked') = (park_reason IS NOT NULL AND phase = 'settled') "
            f"AND (phase = 'settled') = (status = ANY ('{{{','.join(_AT_REST)}}}')) "
            "AND (phase = 'backward') = (status = 'compensating')"
        ),
    ),
    "strands": (
        "state text, owner text, wake_at double precision",
        ("running_has_owner", "waiting_has_due_time"),
        "(state = 'running') = (owner IS NOT NULL) AND (state = 'waiting') = (wake_at IS NOT NULL)",
    ),
}
"""What ties columns of a table together: their types, the CHECKs of before, and all of these as one condition."""

_WHERE = ("run", "stage", "direction")
_STRANDS = sa.table(
    "stageflow_strands", *map(sa.column, (*_WHERE, "state", "attempt", "first_at", "began_at", "kill_by"))
)
_ROW = (*_WHERE, "n", "owner", "state", "doubt", "began_at", "ended_at", "kill_by", "error", "category", "delay")
_ATTEMPTS, _BEFORE = (
    sa.table(name, *map(sa.column, _ROW)) for name in ("stageflow_attempts", "stageflow_attempts_before")
)


def upgrade() -> None:
    """Move what runs to its strand, then make it the rule."""
    # They write an attempt when it begins: their next commit would fail, with its stage carried out.
    refuse_while_workers_live()
    for name in ("began_at", "kill_by"):
        op.add_column("stageflow_strands", sa.Column(name, sa.Double(), nullable=True))
    _move()
    if op.get_bind().dialect.name == "postgresql":
        _with_domains()
    else:
        _anew()


def _move() -> None:
    mine = sa.and_(*(_ATTEMPTS.c[name] == _STRANDS.c[name] for name in _WHERE), _ATTEMPTS.c.n == _STRANDS.c.attempt)
    began_at, kill_by = (sa.select(_ATTEMPTS.c[name]).where(mine).scalar_subquery() for name in ("began_at", "kill_by"))
    # The row is always there; should it be missing all the same, no sweep is to stumble over that.
    known = sa.func.coalesce(began_at, _STRANDS.c.first_at, sa.literal_column("0.0"))
    op.execute(sa.update(_STRANDS).where(_STRANDS.c.state == "running").values(began_at=known, kill_by=kill_by))
    op.execute(sa.delete(_ATTEMPTS).where(_ATTEMPTS.c.state == "running"))


def _with_domains() -> None:
    here = op.get_bind().execute(sa.text("SELECT quote_ident(current_schema())")).scalar_one()
    for (table, column), (length, states) in _STATES.items():
        name = f"stageflow_{table}_{column}"
        op.execute(f"DROP DOMAIN IF EXISTS {here}.{name}")  # of tables that somebody dropped by hand
        op.execute(f"CREATE DOMAIN {name} AS varchar({length})")
        op.execute(f"ALTER TABLE stageflow_{table} DROP CONSTRAINT ck_stageflow_{table}_{column}_known")
        # Before it has a CHECK: so no row is written anew.
        op.execute(f"ALTER TABLE stageflow_{table} ALTER COLUMN {column} TYPE {name}")
        op.execute(
            f"ALTER DOMAIN {name} ADD CONSTRAINT ck_{name}_known "
            f"CHECK (VALUE = ANY ('{{{','.join(states)}}}'::varchar[]))"
        )
    for table, (columns, before, condition) in _SOUND.items():
        name = f"stageflow_{table}_sound"
        op.execute(
            f"CREATE OR REPLACE FUNCTION {name}({columns}) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS "
            f"$$ BEGIN RETURN {condition}; END $$"
        )
        for constraint in before:
            op.execute(f"ALTER TABLE stageflow_{table} DROP CONSTRAINT ck_stageflow_{table}_{constraint}")
        names = ", ".join(column.split()[0] for column in columns.split(", "))
        op.execute(f"ALTER TABLE stageflow_{table} ADD CONSTRAINT ck_{name} CHECK ({name}({names}))")
    op.execute("ALTER TABLE stageflow_attempts DROP CONSTRAINT ck_stageflow_attempts_ended_has_time")
    op.execute("ALTER TABLE stageflow_attempts ALTER COLUMN ended_at SET NOT NULL")


def _anew() -> None:
    """SQLite changes no constraint of a table that is there. The table is written out, as in 0001: what a migration makes
    is not to change with a later one.
    """
    op.execute("ALTER TABLE stageflow_attempts RENAME TO stageflow_attempts_before")
    op.create_table(
        "stageflow_attempts",
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("stage", sa.String(length=255), nullable=False),
        sa.Column("direction", sa.String(length=16), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("doubt", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("began_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=False),
        sa.Column("kill_by", sa.Double(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("category", sa.String(length=16), nullable=True),
        sa.Column("delay", sa.Double(), nullable=True),
        sa.CheckConstraint(
            f"({' OR '.join(f'state = {chr(39)}{state}{chr(39)}' for state in _ENDED)})",
            name=op.f("ck_stageflow_attempts_state_known"),
        ),
        sa.PrimaryKeyConstraint("run", "stage", "direction", "n", name=op.f("pk_stageflow_attempts")),
    )
    op.execute(sa.insert(_ATTEMPTS).from_select(list(_ROW), sa.select(*_BEFORE.c)))
    op.drop_table("stageflow_attempts_before")
