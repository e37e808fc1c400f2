"""What follows from the answer to a stage's business key: pure decisions."""

from __future__ import annotations

from typing import Any

from stageflow_durable.codec import decode, encode
from stageflow_durable.engine.outcome import Over, refusal
from stageflow_durable.errors import IdempotencyConflict, IdempotencyParamMismatch
from stageflow_durable.idempotency.store import Done, HeldByRun, InProgress, Mismatch
from stageflow_durable.model.migrate import migrated_output
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.work import Work
from stageflow_durable.transitions.attempt import Kept

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


def holder_of(answer: Any) -> str | None:
    """The run that has the key; None where that is a lease of the store's."""
    return None if isinstance(answer, InProgress) else answer.run_id


def refused_key(key: str, answer: Any) -> tuple[Over, Kept]:
    """What follows where the key is not to be had, and the event that tells of it."""
    held_by = holder_of(answer)
    if isinstance(answer, Mismatch):
        differing: dict[str, object] = {"key": key, "fields": list(answer.fields)}
        mismatch = IdempotencyParamMismatch(key, answer.fields, run_id=held_by)
        return refusal(mismatch), (("work.idempotency_mismatch", differing),)
    why = "its work was undone; start over with a new key"
    if isinstance(answer, InProgress | HeldByRun):
        why = f"run {held_by} ended in doubt about it; settle that run, or wait until its key runs out"
    held: dict[str, object] = {"key": key, "run": held_by}
    return refusal(IdempotencyConflict(key, why, run_id=held_by)), (("work.idempotency_conflict", held),)
