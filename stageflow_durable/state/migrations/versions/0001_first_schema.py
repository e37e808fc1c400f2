"""The first schema: runs, their strands, attempts, checkpoints, saga steps and events; owners and keys."""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_IN = re.compile(r"(\w+) IN \(([^)]*)\)")


def condition(sql: str) -> str:
    """What a CHECK demands, as it was written when this was the head: a list is an array on PostgreSQL, and written
    out on SQLite.
    """
    is_array = op.get_bind().dialect.name == "postgresql"
    return _IN.sub(_array if is_array else _written_out, sql)


def _array(found: re.Match[str]) -> str:
    return f"{found[1]} = ANY ('{{{found[2].replace(chr(39), '')}}}')"


def _written_out(found: re.Match[str]) -> str:
    return f"({' OR '.join(f'{found[1]} = {state}' for state in found[2].split(', '))})"


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "stageflow_definitions",
        sa.Column("digest", sa.String(length=32), nullable=False),
        sa.Column("pipeline", sa.String(length=255), nullable=False),
        sa.Column("version", sa.String(length=255), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("registered_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_stageflow_definitions")),
    )
    op.create_index(
        "ix_stageflow_definitions_pipeline", "stageflow_definitions", ["pipeline", "registered_at"], unique=False
    )
    op.create_table(
        "stageflow_idempotency_keys",
        sa.Column("client_id", sa.String(length=255), nullable=False),
        sa.Column("operation", sa.String(length=255), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("params", sa.Text(), nullable=True),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("owner_run", sa.String(length=32), nullable=True),
        sa.Column("owner_stage", sa.String(length=255), nullable=True),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("keep_seconds", sa.Double(), nullable=True),
        sa.Column("result_schema", sa.Integer(), nullable=True),
        sa.CheckConstraint(
            "(owner_run IS NULL) = (keep_seconds IS NULL)", name=op.f("ck_stageflow_idempotency_keys_run_keeps")
        ),
        sa.CheckConstraint(
            "(state = 'done') = (result IS NOT NULL)", name=op.f("ck_stageflow_idempotency_keys_done_has_result")
        ),
        sa.CheckConstraint(
            "expires_at IS NOT NULL OR (state = 'held' AND owner_run IS NOT NULL)",
            name=op.f("ck_stageflow_idempotency_keys_only_a_run_holds_on"),
        ),
        sa.CheckConstraint(
            "state <> 'held' OR (owner_run IS NULL) = (lease_until IS NOT NULL)",
            name=op.f("ck_stageflow_idempotency_keys_held_by_lease_or_run"),
        ),
        sa.CheckConstraint(
            condition("state IN ('free', 'held', 'done', 'undone')"),
            name=op.f("ck_stageflow_idempotency_keys_state_known"),
        ),
        sa.CheckConstraint(
            "(owner_run IS NULL) = (owner_stage IS NULL)", name=op.f("ck_stageflow_idempotency_keys_run_with_stage")
        ),
        sa.PrimaryKeyConstraint("client_id", "operation", "key", name=op.f("pk_stageflow_idempotency_keys")),
    )
    op.create_index(
        "ix_stageflow_idempotency_keys_expires_at", "stageflow_idempotency_keys", ["expires_at"], unique=False
    )
    op.create_index(
        "ix_stageflow_idempotency_keys_holder",
        "stageflow_idempotency_keys",
        ["owner_run"],
        unique=False,
        sqlite_where=sa.text("owner_run IS NOT NULL"),
        postgresql_where=sa.text("owner_run IS NOT NULL"),
    )
    op.create_table(
        "stageflow_owners",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("boot", sa.String(length=32), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("dead_at", sa.Double(), nullable=True),
        sa.Column("confirmed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stageflow_owners")),
    )
    op.create_index(
        "ix_stageflow_owners_alive",
        "stageflow_owners",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("dead_at IS NULL"),
        sqlite_where=sa.text("dead_at IS NULL"),
    )
    op.create_index("ix_stageflow_owners_boot", "stageflow_owners", ["boot", "pid"], unique=False)
    op.create_table(
        "stageflow_queues",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("served_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_stageflow_queues")),
    )
    op.create_table(
        "stageflow_ticks",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_stageflow_ticks")),
    )
    op.create_table(
        "stageflow_tombstones",
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("client_id", sa.String(length=255), nullable=False),
        sa.Column("pipeline", sa.String(length=255), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("status", sa.String(length=24), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("head", sa.String(length=64), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=False),
        sa.Column("pruned_at", sa.Double(), nullable=False),
        sa.Column("mac", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("run", name=op.f("pk_stageflow_tombstones")),
        sa.UniqueConstraint(
            "client_id", "pipeline", "key", name=op.f("uq_stageflow_tombstones_client_id_pipeline_key")
        ),
    )
    op.create_index("ix_stageflow_tombstones_pruned", "stageflow_tombstones", ["pruned_at"], unique=False)
    op.create_table(
        "stageflow_runs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("client_id", sa.String(length=255), nullable=False),
        sa.Column("pipeline", sa.String(length=255), nullable=False),
        sa.Column("version", sa.String(length=255), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("definition", sa.String(length=32), nullable=False),
        sa.Column("input", sa.Text(), nullable=False),
        sa.Column("input_schema", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("queue", sa.String(length=255), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=True),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("status", sa.String(length=24), nullable=False),
        sa.Column("cause", sa.String(length=16), nullable=True),
        sa.Column("park_reason", sa.String(length=16), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("error_stage", sa.String(length=255), nullable=True),
        sa.Column("op_version", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("pivot_passed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("past_pivot", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("deadline", sa.Double(), nullable=True),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("head", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.CheckConstraint(
            "(phase = 'backward') = (status = 'compensating')", name=op.f("ck_stageflow_runs_backward_compensates")
        ),
        sa.CheckConstraint(
            condition(
                "(phase = 'settled') = (status IN ('parked', 'succeeded', 'failed', 'cancelled', 'compensated', 'compensation_failed'))"
            ),
            name=op.f("ck_stageflow_runs_settled_is_at_rest"),
        ),
        sa.CheckConstraint(
            "(status = 'parked') = (park_reason IS NOT NULL AND phase = 'settled')",
            name=op.f("ck_stageflow_runs_parked_has_reason"),
        ),
        sa.CheckConstraint(
            condition("cause IN ('failed', 'cancelled', 'deadline', 'operator', 'stage')"),
            name=op.f("ck_stageflow_runs_cause_known"),
        ),
        sa.CheckConstraint(
            condition("park_reason IN ('unknown', 'poison', 'definition', 'bug', 'operator')"),
            name=op.f("ck_stageflow_runs_park_reason_known"),
        ),
        sa.CheckConstraint(
            condition("phase IN ('forward', 'draining', 'backward', 'settled')"),
            name=op.f("ck_stageflow_runs_phase_known"),
        ),
        sa.CheckConstraint(
            condition(
                "status IN ('pending', 'running', 'waiting', 'stopping', 'compensating', 'parked', 'succeeded', 'failed', 'cancelled', 'compensated', 'compensation_failed')"
            ),
            name=op.f("ck_stageflow_runs_status_known"),
        ),
        sa.ForeignKeyConstraint(
            ["definition"],
            ["stageflow_definitions.digest"],
            name=op.f("fk_stageflow_runs_definition"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stageflow_runs")),
        sa.UniqueConstraint("client_id", "pipeline", "key", name=op.f("uq_stageflow_runs_client_id_pipeline_key")),
    )
    op.create_index(
        "ix_stageflow_runs_deadline",
        "stageflow_runs",
        ["deadline"],
        unique=False,
        postgresql_where=sa.text("deadline IS NOT NULL AND phase = 'forward'"),
        sqlite_where=sa.text("deadline IS NOT NULL AND phase = 'forward'"),
    )
    op.create_index("ix_stageflow_runs_created", "stageflow_runs", ["created_at", "id"], unique=False)
    op.create_index("ix_stageflow_runs_status", "stageflow_runs", ["status", "created_at"], unique=False)
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
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("kill_by", sa.Double(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("category", sa.String(length=16), nullable=True),
        sa.Column("delay", sa.Double(), nullable=True),
        sa.CheckConstraint(
            "(state = 'running') = (ended_at IS NULL)", name=op.f("ck_stageflow_attempts_ended_has_time")
        ),
        sa.CheckConstraint(
            condition(
                "state IN ('running', 'ok', 'skipped', 'retry', 'failed', 'rejected', 'unknown', 'void', 'settled')"
            ),
            name=op.f("ck_stageflow_attempts_state_known"),
        ),
        sa.PrimaryKeyConstraint("run", "stage", "direction", "n", name=op.f("pk_stageflow_attempts")),
    )
    op.create_table(
        "stageflow_checkpoints",
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("stage", sa.String(length=255), nullable=False),
        sa.Column("skipped", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("delta", sa.Text(), nullable=True),
        sa.Column("saved_schema", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("run", "stage", name=op.f("pk_stageflow_checkpoints")),
    )
    op.create_table(
        "stageflow_events",
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("type", sa.String(length=255), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("mac", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("run", "seq", name=op.f("pk_stageflow_events")),
    )
    op.create_table(
        "stageflow_saga_steps",
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("stage", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=24), nullable=False),
        sa.Column("outcome", sa.String(length=8), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            condition("outcome IN ('ok', 'unknown')"), name=op.f("ck_stageflow_saga_steps_outcome_known")
        ),
        sa.CheckConstraint(
            condition(
                "state IN ('intended', 'recorded', 'void', 'compensating', 'compensated', 'skipped', 'compensation_failed')"
            ),
            name=op.f("ck_stageflow_saga_steps_state_known"),
        ),
        sa.PrimaryKeyConstraint("run", "stage", name=op.f("pk_stageflow_saga_steps")),
    )
    op.create_table(
        "stageflow_strands",
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("strand", sa.String(length=255), nullable=False),
        sa.Column("direction", sa.String(length=16), nullable=False),
        sa.Column("stage", sa.String(length=255), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("gen", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=True),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("lost", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("delay", sa.Double(), nullable=True),
        sa.Column("first_at", sa.Double(), nullable=True),
        sa.Column("wake_at", sa.Double(), nullable=True),
        sa.Column("published_at", sa.Double(), nullable=True),
        sa.Column("nudges", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("queue", sa.String(length=255), nullable=False),
        sa.Column("progress", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(state = 'running') = (owner IS NOT NULL)", name=op.f("ck_stageflow_strands_running_has_owner")
        ),
        sa.CheckConstraint(
            "(state = 'waiting') = (wake_at IS NOT NULL)", name=op.f("ck_stageflow_strands_waiting_has_due_time")
        ),
        sa.CheckConstraint(
            condition("direction IN ('forward', 'backward')"), name=op.f("ck_stageflow_strands_direction_known")
        ),
        sa.CheckConstraint(
            condition("state IN ('ready', 'running', 'waiting', 'rest', 'done')"),
            name=op.f("ck_stageflow_strands_state_known"),
        ),
        sa.PrimaryKeyConstraint("run", "strand", name=op.f("pk_stageflow_strands")),
    )
    op.create_index(
        "ix_stageflow_strands_due",
        "stageflow_strands",
        ["wake_at"],
        unique=False,
        postgresql_where=sa.text("state = 'waiting'"),
        sqlite_where=sa.text("state = 'waiting'"),
    )
    op.create_index(
        "ix_stageflow_strands_outbox",
        "stageflow_strands",
        ["queue", "published_at"],
        unique=False,
        postgresql_where=sa.text("state = 'ready'"),
        sqlite_where=sa.text("state = 'ready'"),
    )
    op.create_index(
        "ix_stageflow_strands_owner",
        "stageflow_strands",
        ["owner"],
        unique=False,
        postgresql_where=sa.text("state = 'running'"),
        sqlite_where=sa.text("state = 'running'"),
    )
