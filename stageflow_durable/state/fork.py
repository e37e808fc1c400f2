"""A new run from the checkpoints of another: outputs are copied, obligations are not.

The original keeps what is to be undone; the fork undoes only what it does itself. Semantics:
``docs/how-to/checkpointing.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select

from stageflow_durable.codec import encode
from stageflow_durable.errors import NotAllowed, UnknownRun
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import OPEN_STEPS, Phase, RunStatus, StepState
from stageflow_durable.model.work import Nudge, RunFacts
from stageflow_durable.state.apply import apply
from stageflow_durable.state.audit import EventRow, seal
from stageflow_durable.state.definitions import plan_of
from stageflow_durable.state.load import Locked, facts, lock, saved_of, steps_of
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.runs import Created, NewRun, accepted, existing, insert_run, queue_of, strands_of
from stageflow_durable.state.tables import checkpoints, events, strands
from stageflow_durable.state.vouched import AUDIT, RUN, checkpoint_row, said
from stageflow_durable.transitions.wake import note

_INSERT_EVENTS, _INSERT_STRANDS = Prepared(insert(events)), Prepared(insert(strands))
_CHECKPOINTS = Prepared(select(checkpoints).where(checkpoints.c.run == bindparam("run_id")))
_COPY = Prepared(insert(checkpoints))
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
    heads = tuple(stage.name for stage in plan.stages if stage.name not in copied and copied.issuperset(stage.after))
    passed = any(plan.by_name[name].pivot for name in copied)
    saved = [row._asdict() for row in _CHECKPOINTS.rows(connection, run_id=run.id) if row.stage in copied]
    sealed = _events(new, locked, wanted, saved, audit_key, passed=passed)
    columns: dict[str, Any] = {
        "input_schema": run.input_schema,
        "pivot_passed": passed,
        "seq": sealed[-1].seq,
        "head": sealed[-1].mac,
    }
    if not insert_run(connection, new, clock, sealed[0], **columns):
        return existing(connection, new)
    _copy(connection, new.id, saved)
    _INSERT_STRANDS.many(connection, strands_of(new, clock, heads))
    _INSERT_EVENTS.many(connection, [event._asdict() for event in sealed])
    told = {"to": new.id, "stage": wanted.from_stage, "actor": wanted.actor, "reason": wanted.reason}
    apply(connection, note(facts(connection, locked, {}), "operator.fork", told), audit_key)
    return Created(new.id, False, tuple(_nudge(new, plan, head, sealed[-1].seq) for head in heads))


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


def _events(
    new: NewRun, locked: Locked, wanted: Fork, saved: list[dict[str, Any]], audit_key: bytes, *, passed: bool
) -> tuple[EventRow, EventRow]:
    first = accepted(new, locked.clock, audit_key, input_schema=locked.run.input_schema)
    copied = sorted(row["stage"] for row in saved)
    told: dict[str, Any] = {"of": wanted.original, "stage": wanted.from_stage, "copied": copied}
    told |= {"actor": wanted.actor, "reason": wanted.reason}
    if audit_key:
        told[AUDIT] = {RUN: {"pivot_passed": passed}, **_copies(new.id, saved, audit_key)}
    return first, seal(audit_key, new.id, 2, "run.forked", locked.clock, encode(told), first.mac)


def _copies(new_id: str, saved: list[dict[str, Any]], audit_key: bytes) -> dict[str, dict[str, Any]]:
    """What the event says of the outputs that were copied, which keep their times."""
    rows = [(checkpoint_row(row["stage"]), row) for row in saved]
    columns = ("delta", "saved_schema", "at")
    return {
        name: {**said(audit_key, new_id, name, {of: row[of] for of in columns}), "skipped": bool(row["skipped"])}
        for name, row in rows
    }


def _copy(connection: Connection, new_id: str, saved: list[dict[str, Any]]) -> None:
    _COPY.many(connection, [{**row, "run": new_id} for row in saved])


def _nudge(new: NewRun, plan: Plan, head: str, mark: int) -> Nudge:
    return Nudge(new.id, head, 0, queue_of(new, head), mark, plan.remaining_on_strand(head), new.priority)
