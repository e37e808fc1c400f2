"""What follows from the answer to a stage's business key: pure decisions."""

from __future__ import annotations

from typing import Any

from stageflow_durable.codec import decode, encode
from stageflow_durable.idempotency.store import Done
from stageflow_durable.model.migrate import migrated_output
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.work import Work

SHORTEST_WAIT, LONGEST_WAIT = 2.0, 60.0
"""Seconds that a stage waits, as a row, before it asks again for a key that another run holds."""


def patience(work: Work) -> float:
    """How long to wait: a quarter of what was waited already, so that a long wait leaves a short history."""
    return min(LONGEST_WAIT, max(SHORTEST_WAIT, (work.began_at - work.first_at) / 4))


def as_of_now(pipeline: Pipeline[Any, Any], stage: str, answer: Done) -> str:
    """Another run's output, encoded, as this definition has it. Raises DefinitionError where that cannot be."""
    if answer.schema == pipeline.schema:
        return answer.result_text
    return encode(migrated_output(pipeline, stage, decode(answer.result_text), answer.schema))
