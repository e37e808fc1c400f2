"""A wait says for what; stages may have items; runs a parent and attributes (ADR 0038)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from stageflow_durable.state.migrations.standstill import refuse_while_workers_live

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

stops_workers = True
locks = ("strands", "attempts", "checkpoints", "saga_steps", "events")
"""Tables whose primary key is made anew."""

_KEYS: dict[str, str] = {
    "strands": "run, strand, item",
    "attempts": "run, stage, item, direction, n",
    "checkpoints": "run, stage, item",
    "saga_steps": "run, stage, item",
    "events": "run, item, seq",
}
_WHAT = ("time", "signal", "limit", "child", "approval", "worker")
_DUE = "CASE WHEN waiting_for = 'time' THEN wake_at IS NOT NULL WHEN waiting_for IS NULL THEN wake_at IS NULL ELSE true END"
_CHECKS = {
    "waiting_says_for_what": "(state = 'waiting') = (waiting_for IS NOT NULL)",
    "due_time_is_of_a_wait": _DUE,
}
_FOR_EVER = 253370764800.0
"""The time in the rows of undos that wait for the confirmed end of a worker: 9999-01-01."""

_STRANDS = sa.table("stageflow_strands", *map(sa.column, ("state", "direction", "wake_at", "nudges", "waiting_for")))


def upgrade() -> None:
    """Add the columns, say of each wait what it is, and make the keys anew."""
    # Workers of before let a strand wait without saying for what, and find rows by keys that have no item.
    refuse_while_workers_live()
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    for column in (
        sa.Column("parent", sa.String(32), nullable=True),
        sa.Column("parent_stage", sa.String(255), nullable=True),
        sa.Column("parent_item", sa.Integer(), nullable=True),
    ):
        op.add_column("stageflow_runs", column)
    op.add_column("stageflow_idempotency_keys", _item("owner_item"))
    for table in locks:
        op.add_column(f"stageflow_{table}", _item("item"))
    _attributes()
    (_on_postgresql if is_postgresql else _on_sqlite)()


def _item(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), server_default=sa.text("0"), nullable=False)


def _attributes() -> None:
    op.create_table(
        "stageflow_attributes",
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("value", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("run", "name", name=op.f("pk_stageflow_attributes")),
    )
    op.create_index("ix_stageflow_attributes_value", "stageflow_attributes", ["name", "value", "run"])


def _say_for_what() -> None:
    of = _STRANDS.c
    ends = sa.and_(of.direction == sa.literal_column("'backward'"), of.wake_at >= _FOR_EVER)
    # Only a strand that no worker knew was handed back, and waits with a count.
    what = sa.case((sa.or_(ends, of.nudges > 0), sa.literal_column("'worker'")), else_=sa.literal_column("'time'"))
    op.execute(sa.update(_STRANDS).where(of.state == sa.literal_column("'waiting'")).values(waiting_for=what))


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def _on_postgresql() -> None:
    name, sound = "stageflow_strands_waiting_for", "stageflow_strands_sound"
    here = op.get_bind().execute(sa.text("SELECT quote_ident(current_schema())")).scalar_one()
    op.execute(f"DROP DOMAIN IF EXISTS {here}.{name}")  # of tables that somebody dropped by hand
    op.execute(f"CREATE DOMAIN {name} AS varchar(16)")
    # Before the domain has a CHECK: so no row is written anew.
    op.execute(f"ALTER TABLE stageflow_strands ADD COLUMN waiting_for {name}")
    op.execute(
        f"ALTER DOMAIN {name} ADD CONSTRAINT ck_{name}_known CHECK (VALUE = ANY ('{{{','.join(_WHAT)}}}'::varchar[]))"
    )
    _say_for_what()
    condition = " AND ".join(f"({check})" for check in ("(state = 'running') = (owner IS NOT NULL)", *_CHECKS.values()))
    op.execute(f"ALTER TABLE stageflow_strands DROP CONSTRAINT ck_{sound}")
    op.execute(f"DROP FUNCTION {sound}")
    op.execute(
        f"CREATE FUNCTION {sound}(state text, owner text, wake_at double precision, waiting_for text) RETURNS boolean "
        f"LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN {condition}; END $$"
    )
    op.execute(
        f"ALTER TABLE stageflow_strands ADD CONSTRAINT ck_{sound} CHECK ({sound}(state, owner, wake_at, waiting_for))"
    )
    op.execute("SET LOCAL maintenance_work_mem = '256MB'")  # what an index of millions of rows is sorted in
    for table in locks:
        key = f"pk_stageflow_{table}"
        op.execute(
            f"ALTER TABLE stageflow_{table} DROP CONSTRAINT {key}, ADD CONSTRAINT {key} PRIMARY KEY ({_KEYS[table]})"
        )


# --- SQLite -----------------------------------------------------------------------------------------------------------


def _on_sqlite() -> None:
    """SQLite changes neither a key nor a CHECK of a table that is there: each is made anew from its own text."""
    op.add_column("stageflow_strands", sa.Column("waiting_for", sa.String(16), nullable=True))
    _say_for_what()
    known = " OR ".join(f"waiting_for = '{what}'" for what in _WHAT)
    checks = {"waiting_for_known": f"({known})", **_CHECKS}
    added = ", ".join(f"CONSTRAINT ck_stageflow_strands_{name} CHECK ({check})" for name, check in checks.items())
    before = "CONSTRAINT ck_stageflow_strands_waiting_has_due_time CHECK ((state = 'waiting') = (wake_at IS NOT NULL))"
    for table in locks:
        _anew(table, *([(before, added)] if table == "strands" else []))


def _anew(table: str, *edits: tuple[str, str]) -> None:
    name, read = f"stageflow_{table}", op.get_bind().exec_driver_sql
    text = str(read("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).scalar_one())
    indexes = read("SELECT sql FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql <> ''", (name,)).all()
    columns = ", ".join(row[1] for row in read(f"PRAGMA table_info({name})"))
    key = _KEYS[table]
    for old, new in ((f"PRIMARY KEY ({key.replace(', item', '')})", f"PRIMARY KEY ({key})"), *edits):
        assert text.count(old) == 1, f"{name} was not made by our migrations: {old} is not in it"
        text = text.replace(old, new)
    op.execute(f"ALTER TABLE {name} RENAME TO {name}_before")
    op.execute(text)
    op.execute(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {name}_before")  # noqa: S608  # names of ours
    op.drop_table(f"{name}_before")
    for index in indexes:
        op.execute(index[0])
