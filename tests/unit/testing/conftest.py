"""The fixture under test, as a user's conftest would have it."""

from __future__ import annotations

from stageflow_durable.testing.plugin import stageflow_engine

__all__ = ["stageflow_engine"]
