"""An attempt that runs is its strand's; on PostgreSQL domains and functions say what a CHECK is (ADR 0022)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from stageflow_durable.errors import SchemaInUse

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ENDED = ("ok", "skipped", "retry", "failed", "rejected", "unknown", "void", "settled")
_STATES: dict[tuple[str, str], tuple[str, ...]] = {
    ("runs", "phase"): ("forward", "draining", "backward", "settled"),
    ("runs", "status"): (
        "pending",
        "running",
        "waiting",
        "stopping",
        "compensating",
        "parked",
        "succeeded",
        "failed",
        "cancelled",
        "compensated",
        "compensation_failed",
    ),
    ("runs", "cause"): ("failed", "cancelled", "deadline", "operator", "stage"),
    ("runs", "park_reason"): ("unknown", "poison", "definition", "bug", "operator"),
    ("strands", "direction"): ("forward", "backward"),
    ("strands", "state"): ("ready", "running", "waiting", "rest", "done"),
    ("attempts", "state"): _ENDED,
    ("saga_steps", "state"): (
        "intended",
        "recorded",
        "void",
        "compensating",
        "compensated",
        "skipped",
        "compensation_failed",
    ),
    ("saga_steps", "outcome"): ("ok", "unknown"),
}
_SOUND: dict[str, tuple[str, tuple[str, ...], str]] = {
    "runs": (
        "phase text, status text, park_reason text",
        ("parked_has_reason", "settled_is_at_rest", "backward_compensates"),
        (
            "(status = 'parked') = (park_reason IS NOT NULL AND phase = 'settled') AND (phase = 'settled') = (status = ANY "
            "('{parked,succeeded,failed,cancelled,compensated,compensation_failed}')) AND (phase = 'backward') = (status = "
            "'compensating')"
        ),
    ),
    "strands": (
        "state text, owner text, wake_at double precision",
        ("running_has_owner", "waiting_has_due_time"),
        "(state = 'running') = (owner IS NOT NULL) AND (state = 'waiting') = (wake_at IS NOT NULL)",
    ),
}
"""What ties columns of a table together: their types, the CHECKs of before, and all of these as one condition."""

_COPIED = "run, stage, direction, n, owner, state, doubt, began_at, ended_at, kill_by, error, category, delay"


def upgrade() -> None:
    """Move what runs to its strand, then make it the rule."""
    _refuse_while_workers_live()
    # A row of what runs is always there; should it be missing all the same, no sweep is to stumble over that.
    for name, otherwise in (("began_at", "COALESCE(first_at, 0.0)"), ("kill_by", "NULL")):
        op.add_column("stageflow_strands", sa.Column(name, sa.Double(), nullable=True))
        op.execute(
            f"UPDATE stageflow_strands SET {name} = COALESCE((SELECT a.{name} FROM stageflow_attempts a "  # noqa: S608  # names of ours
            "WHERE a.run = stageflow_strands.run AND a.stage = stageflow_strands.stage "
            f"AND a.direction = stageflow_strands.direction AND a.n = stageflow_strands.attempt), {otherwise}) "
            "WHERE state = 'running'"
        )
    op.execute("DELETE FROM stageflow_attempts WHERE state = 'running'")
    if op.get_bind().dialect.name == "postgresql":
        _with_domains()
    else:
        _anew()


def _refuse_while_workers_live() -> None:
    """Workers of before write an attempt when it begins: their next commit would fail, with its stage carried out."""
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    clock = "extract(epoch FROM clock_timestamp())" if is_postgresql else "(julianday('now') - 2440587.5) * 86400.0"
    if is_postgresql:
        op.execute("LOCK TABLE stageflow_owners IN SHARE ROW EXCLUSIVE MODE")  # none joins or renews before we are done
    living = f"SELECT count(*) FROM stageflow_owners WHERE dead_at IS NULL AND expires_at > {clock}"  # noqa: S608  # names of ours
    found = op.get_bind().execute(sa.text(living)).scalar_one()
    if found:
        raise SchemaInUse(
            f"worker processes of an older release at work on this database: {found} (stageflow workers). Stop them, "
            "wait for a lease (10 s by default), and upgrade again; nothing was changed"
        )
    # Who lets its lease run out may only be paused: declared dead, it renews no more, and nothing is granted to it.
    op.execute(f"UPDATE stageflow_owners SET dead_at = {clock} WHERE dead_at IS NULL")  # noqa: S608  # names of ours


def _with_domains() -> None:
    here = op.get_bind().execute(sa.text("SELECT quote_ident(current_schema())")).scalar_one()
    for (table, column), states in _STATES.items():
        name, length = f"stageflow_{table}_{column}", _length(table, column)
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


def _length(table: str, column: str) -> int:
    return {("runs", "status"): 24, ("saga_steps", "state"): 24, ("saga_steps", "outcome"): 8}.get((table, column), 16)


def _anew() -> None:
    """SQLite changes no constraint of a table that is there."""
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
    op.execute(
        f"INSERT INTO stageflow_attempts ({_COPIED}) SELECT {_COPIED} FROM stageflow_attempts_before"  # noqa: S608  # names of ours
    )
    op.drop_table("stageflow_attempts_before")
