"""Sagas: which undo comes next (pure), and adapters that compile to stage options."""

from __future__ import annotations

from stageflow_durable.saga.adapters import CheckpointStage, CompensatingActionStage, SagaOrchestrator, SagaOutcome
from stageflow_durable.saga.decide import Settlement, ready_undos, settlement, undone

__all__ = [
    "CheckpointStage",
    "CompensatingActionStage",
    "SagaOrchestrator",
    "SagaOutcome",
    "Settlement",
    "ready_undos",
    "settlement",
    "undone",
]
