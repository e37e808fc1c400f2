"""Alembic's entry: migrates the connection that ``schema.upgrade`` hands over."""

from __future__ import annotations

from alembic import context

from stageflow_durable.state import idempotency_keys, tables  # noqa: F401  # both register their tables
from stageflow_durable.state.metadata import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
