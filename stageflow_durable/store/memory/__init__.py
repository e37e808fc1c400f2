"""The store in memory: the same as the SQL store, in dictionaries."""

from __future__ import annotations

from stageflow_durable.store.memory.store import MemoryStore

__all__ = ["MemoryStore"]
