"""A new run from the checkpoints of another: outputs are copied, obligations are not.

The original keeps what is to be undone; the fork undoes only what it does itself. Semantics:
``docs/how-to/checkpointing.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, select

from stageflow_durable.errors import NotAllowed, UnknownRun
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import OPEN_STEPS, Phase, RunStatus, StepState
from stageflow_durable.model.work import RunFacts
from stageflow_durable.state.apply import apply, create
from stageflow_durable.state.definitions import plan_of
from stageflow_durable.state.load import facts, lock, saved_of, steps_of
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.runs import Created, created, existing
from stageflow_durable.state.tables import checkpoints
from stageflow_durable.transitions import accept as forking
from stageflow_durable.transitions.accept import NewRun, Origin
from stageflow_durable.transitions.wake import note

_CHECKPOINTS = Prepared(select(checkpoints).where(checkpoints.c.run == bindparam("run_id")))
_COPIED = ("delta", "saved_schema", "at")
_TAKEN_BACK = frozenset({StepState.COMPENSATING, StepState.COMPENSATED, StepState.COMPENSATION_FAILED})


@dataclass(frozen=True, slots=True)
class Fork:
    """Who forks which run where, as which new run. ``fingerprint`` and ``key`` are the new run's."""

    original: str
    from_stage: str
    new_id: str
    key: str | None
    fingerprint: str
    reason: str
    actor: str


def fork(connection: Connection, wanted: Fork, audit_key: bytes) -> Created:
    """Record the new run, or find the one that has its key. Raises UnknownRun, NotAllowed, IdempotencyParamMismatch."""
    locked = lock(connection, wanted.original)
    if locked is None:
        raise UnknownRun(f"no run {wanted.original}")
    run, plan, clock = locked.run, plan_of(connection, locked.run.definition), locked.clock
    copied = _copied(connection, run, plan, wanted.from_stage)
    new = _new(run, plan, wanted)
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
    copied = _still_approved(run, plan, done - {from_stage} - plan.descendants[from_stage])
    steps = steps_of(connection, run.id)
    turning = run.phase in (Phase.DRAINING, Phase.BACKWARD) or run.status is RunStatus.COMPENSATION_FAILED
    void = _TAKEN_BACK | OPEN_STEPS if turning else _TAKEN_BACK  # what is owed now is undone next
    undone = [stage.name for stage in plan.stages if stage.name in copied and steps.get(stage.name) in void]
    if undone:
        how = "is being undone" if turning else "was undone"
        why = f"what {', '.join(undone)} did {how}, its output is true no more; fork from {undone[0]} or before"
        raise NotAllowed(run.id, "fork", why)
    return copied


def _still_approved(run: RunFacts, plan: Plan, copied: frozenset[str]) -> frozenset[str]:
    """Without the approvals of what the fork does anew: it asks again."""
    anew = {name for name in copied if plan.by_name[name].is_approval and not copied.issuperset(plan.successors[name])}
    for name in anew:
        behind = copied & plan.descendants[name]
        if behind:
            why = f"{name} was approved for {', '.join(sorted(behind))} as well, which is done; fork from {name}"
            raise NotAllowed(run.id, "fork", why)
    return copied - anew


def _new(run: RunFacts, plan: Plan, wanted: Fork) -> NewRun:
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
    )
