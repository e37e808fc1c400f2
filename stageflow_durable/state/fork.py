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
from stageflow_durable.model.status import OPEN_STEPS, Phase, RunStatus, StepState, StrandState
from stageflow_durable.model.work import Nudge
from stageflow_durable.state import strands
from stageflow_durable.state.audit import EventRow, seal
from stageflow_durable.state.locked import LockedRun, lock
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.runs import Created, NewRun, accepted, existing, insert_run, queue_of
from stageflow_durable.state.tables import checkpoints, events
from stageflow_durable.state.vouched import AUDIT, RUN, checkpoint_row, said

_INSERT_EVENTS = Prepared(insert(events))
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
    run = lock(connection, wanted.original, audit_key)
    if run is None:
        raise UnknownRun(f"no run {wanted.original}")
    copied = _copied(run, wanted.from_stage)
    new = _new(run, wanted)
    heads = tuple(
        stage.name for stage in run.plan.stages if stage.name not in copied and copied.issuperset(stage.after)
    )
    passed = any(run.plan.by_name[name].pivot for name in copied)
    saved = [row._asdict() for row in _CHECKPOINTS.rows(connection, run_id=run.id) if row.stage in copied]
    sealed = _events(run, wanted, saved, audit_key, passed=passed)
    columns: dict[str, Any] = {
        "input_schema": run.facts.input_schema,
        "pivot_passed": passed,
        "seq": sealed[-1].seq,
        "head": sealed[-1].mac,
    }
    if not insert_run(connection, new, run.clock, sealed[0], **columns):
        return existing(connection, new)
    _copy(run, new.id, saved)
    for head in heads:
        strands.add(
            connection,
            run=new.id,
            strand=head,
            direction=Phase.FORWARD,
            stage=head,
            state=StrandState.READY,
            published_at=run.clock,
            queue=queue_of(new, head),
        )
    _INSERT_EVENTS.many(connection, [event._asdict() for event in sealed])
    run.emit("operator.fork", to=new.id, stage=wanted.from_stage, actor=wanted.actor, reason=wanted.reason)
    run.flush()
    return Created(new.id, False, tuple(_nudge(new, run.plan, head, sealed[-1].seq) for head in heads))


def _copied(run: LockedRun, from_stage: str) -> frozenset[str]:
    """The stages whose outputs the fork begins with."""
    if from_stage not in run.plan.by_name:
        raise NotAllowed(run.id, "fork", f"it has no stage {from_stage!r}; it has: {', '.join(run.plan.by_name)}")
    done = strands.finished(run.connection, run.id)
    missing = [stage.name for stage in run.plan.stages if stage.name in run.plan.ancestors[from_stage] - done]
    if missing:
        raise NotAllowed(
            run.id, "fork", f"{from_stage} waits for {', '.join(missing)}, not done; fork from {missing[0]}"
        )
    copied = done - {from_stage} - run.plan.descendants[from_stage]
    steps = strands.steps(run.connection, run.id)
    turning = run.facts.phase in (Phase.DRAINING, Phase.BACKWARD) or run.facts.status is RunStatus.COMPENSATION_FAILED
    void = _TAKEN_BACK | OPEN_STEPS if turning else _TAKEN_BACK  # what is owed now is undone next
    undone = [stage.name for stage in run.plan.stages if stage.name in copied and steps.get(stage.name) in void]
    if undone:
        how = "is being undone" if turning else "was undone"
        why = f"what {', '.join(undone)} did {how}, its output is true no more; fork from {undone[0]} or before"
        raise NotAllowed(run.id, "fork", why)
    return copied


def _new(run: LockedRun, wanted: Fork) -> NewRun:
    facts = run.facts
    return NewRun(
        wanted.new_id,
        facts.client_id,
        run.plan,
        wanted.key,
        wanted.fingerprint,
        facts.input,
        facts.metadata,
        facts.queue,
        facts.priority,
    )


def _events(
    run: LockedRun, wanted: Fork, saved: list[dict[str, Any]], audit_key: bytes, *, passed: bool
) -> tuple[EventRow, EventRow]:
    first = accepted(_new(run, wanted), run.clock, audit_key, input_schema=run.facts.input_schema)
    copied = sorted(row["stage"] for row in saved)
    told: dict[str, Any] = {"of": run.id, "stage": wanted.from_stage, "copied": copied}
    told |= {"actor": wanted.actor, "reason": wanted.reason}
    if audit_key:
        told[AUDIT] = {RUN: {"pivot_passed": passed}, **_copies(wanted.new_id, saved, audit_key)}
    forked = seal(audit_key, wanted.new_id, 2, "run.forked", run.clock, encode(told), first.mac)
    return first, forked


def _copies(new_id: str, saved: list[dict[str, Any]], audit_key: bytes) -> dict[str, dict[str, Any]]:
    """What the event says of the outputs that were copied, which keep their times."""
    rows = [(checkpoint_row(row["stage"]), row) for row in saved]
    columns = ("delta", "saved_schema", "at")
    return {
        name: {**said(audit_key, new_id, name, {of: row[of] for of in columns}), "skipped": bool(row["skipped"])}
        for name, row in rows
    }


def _copy(run: LockedRun, new_id: str, saved: list[dict[str, Any]]) -> None:
    _COPY.many(run.connection, [{**row, "run": new_id} for row in saved])


def _nudge(new: NewRun, plan: Plan, head: str, mark: int) -> Nudge:
    return Nudge(new.id, head, 0, queue_of(new, head), mark, plan.remaining_on_strand(head), new.priority)
