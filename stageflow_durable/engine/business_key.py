"""A stage's key across runs: what it is, and what follows where another run has it."""

from __future__ import annotations

from typing import Any

from stageflow_durable.codec import decode, encode, encode_and_fingerprint
from stageflow_durable.engine.outcome import Over, Succeeded, refusal
from stageflow_durable.engine.run_outputs import migrated_output
from stageflow_durable.engine.typed import typed
from stageflow_durable.errors import IdempotencyConflict, IdempotencyParamMismatch
from stageflow_durable.idempotency.keys import Scope, key_text
from stageflow_durable.idempotency.store import ERASED_WHY, Claimed, Done, Erased, HeldByRun, InProgress, Mismatch
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.stage import StageSpec
from stageflow_durable.model.work import Fenced, Kept, Work
from stageflow_durable.store.protocol import Store
from stageflow_durable.store.values import BusinessKey

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


def business_key(work: Work, pipeline: Pipeline[Any, Any], spec: StageSpec, ctx: Any) -> BusinessKey | None:
    """The stage's key, from the application's function, bound to the whole input. Raises what that raises,
    InvalidKey.
    """
    if spec.key is None:
        return None
    key = key_text(spec.key(ctx), what=f"what key= of stage {work.stage} gave")
    scope = Scope(work.run.client_id, f"{work.run.pipeline}.{work.stage}")
    classes = None if pipeline.input_type is None else typed(pipeline.input_type).classes
    text, fingerprint = encode_and_fingerprint(ctx.input, classes, "input")
    return BusinessKey(scope, key, fingerprint, text, spec.key_ttl)


def claim(
    store: Store, work: Work, pipeline: Pipeline[Any, Any], key: BusinessKey
) -> tuple[Succeeded | Over | Fenced | float | None, Kept]:
    """Take the key (None), or what takes the body's place: a replayed result, a refusal, or how many seconds to wait
    for whoever holds it; and what the history is told of it.
    """
    answer = store.claim_key(work, key)
    if isinstance(answer, Claimed | Fenced):
        return (None if isinstance(answer, Claimed) else answer), ()
    if isinstance(answer, Done):
        hit: dict[str, object] = {"key": key.key}
        return Succeeded(as_of_now(pipeline, work.stage, answer), replayed=True), (("work.idempotency_hit", hit),)
    return _refused(store, work, key.key, answer)


def _refused(store: Store, work: Work, key: str, answer: Any) -> tuple[Over | float, Kept]:
    held_by = None if isinstance(answer, InProgress) else answer.run_id
    if isinstance(answer, Mismatch):
        differing: dict[str, object] = {"key": key, "fields": list(answer.fields)}
        mismatch = IdempotencyParamMismatch(key, answer.fields, run_id=held_by)
        return refusal(mismatch), (("work.idempotency_mismatch", differing),)
    held = isinstance(answer, InProgress | HeldByRun)
    if held and not _settled(store, held_by):
        return patience(work), ()
    why = ERASED_WHY if isinstance(answer, Erased) else "its work was undone; start over with a new key"
    if held:
        why = f"run {held_by} ended in doubt about it; settle that run, or wait until its key runs out"
    conflict: dict[str, object] = {"key": key, "run": held_by}
    return refusal(IdempotencyConflict(key, why, run_id=held_by)), (("work.idempotency_conflict", conflict),)


def _settled(store: Store, run_id: str | None) -> bool:
    facts = None if run_id is None else store.facts(run_id)
    return facts is not None and facts.finished_at is not None and facts.park_reason is None
