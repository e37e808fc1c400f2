"""A new run from the checkpoints of another: outputs are copied, obligations are not.

The original keeps what is to be undone; the fork undoes only what it does itself. Semantics:
``docs/how-to/checkpointing.md``.
"""

from __future__ import annotations

from sqlalchemy import Connection, and_, bindparam, select

from stageflow_durable.errors import NotAllowed, UnknownRun
from stageflow_durable.model.attributes import Attributes
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import OPEN_STEPS, Phase, RunStatus, StepState
from stageflow_durable.model.work import RunFacts
from stageflow_durable.state.apply import apply, create
from stageflow_durable.state.definitions import plan_of
from stageflow_durable.state.load import attributes_of, facts, lock, saved_of, steps_of
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.runs import created, existing
from stageflow_durable.state.tables import checkpoints
from stageflow_durable.store.values import Created, Fork
from stageflow_durable.transitions import accept as forking
from stageflow_durable.transitions.accept import NewRun, Origin
from stageflow_durable.transitions.draft import NO_ITEM
from stageflow_durable.transitions.wake import note

# What the items of a stage saved stays with the original; what the stage itself saved is copied.
_CHECKPOINTS = Prepared(
    select(checkpoints).where(and_(checkpoints.c.run == bindparam("run_id"), checkpoints.c.item == NO_ITEM))
)
_COPIED = ("delta", "saved_schema", "at")
_TAKEN_BACK = frozenset({StepState.COMPENSATING, StepState.COMPENSATED, StepState.COMPENSATION_FAILED})


def fork(connection: Connection, wanted: Fork, audit_key: bytes) -> Created:
    """Record the new run, or find the one that has its key. Raises UnknownRun, NotAllowed, IdempotencyParamMismatch."""
    locked = lock(connection, wanted.original)
    if locked is None:
        raise UnknownRun(f"no run {wanted.original}")
    run, plan, clock = locked.run, plan_of(connection, locked.run.definition), locked.clock
    copied = _copied(connection, run, plan, wanted.from_stage)
    new = _new(run, plan, wanted, attributes_of(connection, run.id))
    rows = [row._asdict() for row in _CHECKPOINTS.rows(connection, run_id=run.id) if row.stage in copied]
    saved = {row["stage"]: {**{name: row[name] for name in _COPIED}, "skipped": bool(row["skipped"])} for row in rows}
    origin = Origin(run.id, wanted.from_stage, wanted.actor, wanted.reason, run.input_schema, saved)
    made = created(create(connection, forking.fork(new, clock, origin), audit_key))
    if made is None:
        return existing(connection, new)
    told = {"to": new.id, "stage": wanted.from_stage, "actor": wanted.actor, "reason": wanted.reason}
    apply(connection, note(facts(connection, locked, {}), "operator.fork", told), audit_key)
    return made


def _copied(connection: Connection, run: RunFacts, plan: Plan, from_stage: str) -> frozenset[str]:
    """The stages whose outputs the fork begins with."""
    if from_stage not in plan.by_name:
        raise NotAllowed(run.id, "fork", f"it has no stage {from_stage!r}; it has: {', '.join(plan.by_name)}")
    done = frozenset(saved_of(connection, run.id))
    missing = [stage.name for stage in plan.stages if stage.name in plan.ancestors[from_stage] - done]
    if missing:
        raise NotAllowed(
            run.id, "fork", f"{from_stage} waits for {', '.join(missing)}, not done; fork from {missing[0]}"
        )
    copied = done - {from_stage} - plan.descendants[from_stage]
    steps = steps_of(connection, run.id)
    turning = run.phase in (Phase.DRAINING, Phase.BACKWARD) or run.status is RunStatus.COMPENSATION_FAILED
    void = _TAKEN_BACK | OPEN_STEPS if turning else _TAKEN_BACK  # what is owed now is undone next
    undone = [stage.name for stage in plan.stages if stage.name in copied and steps.get(stage.name) in void]
    if undone:
        how = "is being undone" if turning else "was undone"
        why = f"what {', '.join(undone)} did {how}, its output is true no more; fork from {undone[0]} or before"
        raise NotAllowed(run.id, "fork", why)
    return copied


def _new(run: RunFacts, plan: Plan, wanted: Fork, attributes: Attributes) -> NewRun:
    return NewRun(
        wanted.new_id,
        run.client_id,
        plan,
        wanted.key,
        wanted.fingerprint,
        run.input,
        run.metadata,
        run.queue,
        run.priority,
        attributes=attributes,
    )
