"""The database behind an engine's store, for tests that look into it past the engine, or write to it."""

from __future__ import annotations

from typing import Any

from stageflow_durable.engine.operations import Operations
from stageflow_durable.state.database import Database


def database_of(engine: Operations) -> Database:
    """The database of an engine on SQL."""
    store: Any = engine.store  # maybe one with crash points around it
    found: Database = store.database
    return found
