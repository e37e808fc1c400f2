"""Ending an attempt: one transaction for outcome, checkpoint, saga step, events and joins, and for the beginning of
what follows.

The begin half has no statement that can refuse the outcome: whether the next stage is granted depends on the run, the
outcome is saved either way. Each function answers :class:`Fenced` when the strand is no longer this attempt's; then
nothing was written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sqlalchemy import Connection

from stageflow_durable.model.status import AttemptState, Cause, ParkReason, Phase, RunStatus, StepState, StrandState
from stageflow_durable.model.work import Done, Fenced, Nudge, Waiting, Work
from stageflow_durable.state import strands
from stageflow_durable.state.begin import Taker, start
from stageflow_durable.state.locked import LockedRun, lock
from stageflow_durable.state.settlement import activity, drain, end, nudge_of, settle, undo_ended, unpass


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt did not end well.

    ``doubt``: it may have acted without our knowing. ``vouched``: nothing happened, in this attempt and those before.
    ``called``: its body began at all.
    """

    error: str
    category: str
    doubt: bool
    state: AttemptState = AttemptState.FAILED
    vouched: bool = False
    called: bool = True


Kept = tuple[tuple[str, dict[str, object]], ...]
"""Events that the body asked for: type and data."""


def _mine(connection: Connection, work: Work, audit_key: bytes) -> LockedRun | None:
    run = lock(connection, work.run.id, audit_key)
    return run if run is not None and strands.is_mine(connection, work) else None


def is_mine(connection: Connection, work: Work, audit_key: bytes) -> bool:
    """Whether the attempt is still its owner's, under the run's lock."""
    return _mine(connection, work, audit_key) is not None


def _keep(run: LockedRun, work: Work, events: Kept) -> None:
    for kind, data in events:
        run.emit(kind, **{**data, "stage": work.stage})


def succeed(
    connection: Connection,
    work: Work,
    taker: Taker,
    audit_key: bytes,
    *,
    delta: str | None,
    skipped: bool = False,
    replayed: bool = False,
    events: Kept = (),
    go_on: bool = False,
) -> Done | Fenced:
    """The stage is done, was skipped, or another run's work answered for it (``replayed``). ``go_on``: the owner would
    run the next stage itself.
    """
    run = _mine(connection, work, audit_key)
    if run is None:
        return Fenced()
    state = AttemptState.SKIPPED if skipped else AttemptState.OK
    strands.end_attempt(run, work, state)
    strands.checkpoint(run, work.stage, delta, schema=run.plan.schema, skipped=skipped)
    _record(run, work.stage, acted=not (skipped or replayed))
    _keep(run, work, events)
    run.emit("stage.skipped" if skipped else "stage.ok", stage=work.stage, attempt=work.attempt)
    done = advance(run, work.strand, work.stage, taker if go_on else None, work.queue)
    run.flush()
    return _sealed(done, run)


def _record(run: LockedRun, stage: str, *, acted: bool) -> None:
    if run.plan.by_name[stage].undo is None:
        return
    if acted:
        strands.set_step(run, stage, StepState.RECORDED)
    elif not strands.in_doubt(run.connection, run.id, stage):
        strands.set_step(run, stage, StepState.VOID)


def advance(run: LockedRun, strand: str, stage: str, taker: Taker | None = None, here: str = "") -> Done:
    """Move on after ``stage``: the next on its strand, strands whose last dependency it was, the end of the run."""
    onward = run.plan.next_on_strand.get(stage)
    ready = _stay(run, strand, onward) if onward else _leave(run, strand)
    heads = run.plan.heads_after(stage, strands.finished(run.connection, run.id))
    ready += [_head(run, name) for name in heads]
    if run.facts.phase is Phase.DRAINING:
        strands.rest_idle(run.connection, run.id)
        return _settled(run)
    return _go_on(run, ready, taker, here) if ready else _complete(run)


def _stay(run: LockedRun, strand: str, onward: str) -> list[str]:
    queue = run.plan.by_name[onward].queue or run.facts.queue
    strands.change(
        run.connection,
        run.id,
        strand,
        stage=onward,
        state=StrandState.READY,
        owner=None,
        tries=0,
        lost=0,
        delay=None,
        first_at=None,
        published_at=run.clock,
        nudges=0,
        queue=queue,
        attempt=0,
        progress=None,
    )
    return [strand]


def _leave(run: LockedRun, strand: str) -> list[str]:
    strands.change(run.connection, run.id, strand, state=StrandState.DONE, owner=None, progress=None)
    return []


def _head(run: LockedRun, stage: str) -> str:
    queue = run.plan.by_name[stage].queue or run.facts.queue
    strands.add(
        run.connection,
        run=run.id,
        strand=stage,
        direction=Phase.FORWARD,
        stage=stage,
        state=StrandState.READY,
        published_at=run.clock,
        queue=queue,
    )
    return stage


def _go_on(run: LockedRun, ready: list[str], taker: Taker | None, here: str) -> Done:
    """Grant the first strand to the owner that is here; publish the others."""
    rows = [row for row in (strands.one(run.connection, run.id, name) for name in ready) if row is not None]
    granted = None
    if taker is not None and rows[0].queue == here and _may_go_on(run, taker):
        granted = start(run, rows[0], rows[0].stage, taker)
        rows = rows[1:]
    return Done(granted, tuple(nudge_of(run, row) for row in rows))


def _may_go_on(run: LockedRun, taker: Taker) -> bool:
    plan = taker.plans.get(run.facts.pipeline)
    known = plan is not None and plan.digest == run.facts.definition
    return not run.is_late and known and strands.is_alive(run.connection, taker.owner)


def _complete(run: LockedRun) -> Done:
    if strands.finished(run.connection, run.id).issuperset(run.plan.by_name):
        end(run, RunStatus.SUCCEEDED)
        return Done(ended=True)
    activity(run)
    return Done()


def wait(
    connection: Connection,
    work: Work,
    audit_key: bytes,
    failure: Failure,
    delay: float,
    drawn: float,
    events: Kept = (),
) -> Waiting | Done | Fenced:
    """Try again in ``delay`` seconds (``drawn``: what the policy alone chose); a stopping run comes to rest instead."""
    run = _mine(connection, work, audit_key)
    if run is None:
        return Fenced()
    strands.end_attempt(
        run,
        work,
        AttemptState.RETRY if failure.called else AttemptState.VOID,
        doubt=failure.doubt,
        error=failure.error,
        category=failure.category,
        delay=delay,
    )
    _keep(run, work, events)
    run.emit(
        "work.retry_attempt",
        stage=work.stage,
        attempt=work.tries + 1,
        delay=delay,
        error=failure.error,
        category=failure.category,
        undo=work.undoing,
    )
    if not (failure.called or work.undoing or strands.called_before(connection, work)):
        _void_step(run, work.stage)
    if run.facts.phase is not work.direction:
        return _come_to_rest(run, work)
    strands.change(
        connection,
        run.id,
        work.strand,
        state=StrandState.WAITING,
        owner=None,
        wake_at=run.clock + delay,
        tries=work.tries + 1,
        delay=drawn,
        published_at=None,
    )
    activity(run)
    run.flush()
    nudge = Nudge(
        run.id,
        work.strand,
        work.gen,
        work.queue,
        run.facts.seq,
        1 if work.undoing else run.plan.remaining_on_strand(work.stage),
        run.facts.priority,
    )
    return Waiting(nudge, delay)


def postpone(connection: Connection, work: Work, audit_key: bytes, delay: float) -> Waiting | Done | Fenced:
    """Give the strand back before the body was called, due again in ``delay`` seconds: the attempt counts for
    nothing.
    """
    run = _mine(connection, work, audit_key)
    if run is None:
        return Fenced()
    strands.end_attempt(run, work, AttemptState.VOID)
    run.emit("stage.postponed", stage=work.stage, attempt=work.attempt, delay=delay)
    if not work.undoing and not work.tries:
        _void_step(run, work.stage)
    if run.facts.phase is not work.direction:
        return _come_to_rest(run, work)
    strands.change(
        connection,
        run.id,
        work.strand,
        state=StrandState.WAITING,
        owner=None,
        wake_at=run.clock + delay,
        published_at=None,
    )
    activity(run)
    run.flush()
    return Waiting(Nudge(run.id, work.strand, work.gen, work.queue, run.facts.seq, 1, run.facts.priority), delay)


def _come_to_rest(run: LockedRun, work: Work) -> Done:
    strands.change(run.connection, run.id, work.strand, state=StrandState.REST, owner=None)
    done = _settled(run)
    run.flush()
    return done


def _settled(run: LockedRun) -> Done:
    wanted_back = run.facts.cause is Cause.OPERATOR  # a person asked for the undo, not only for a stop
    if not wanted_back and len(strands.finished(run.connection, run.id)) == len(run.plan.stages):
        run.change(cause=None, error=None, error_stage=None)
        end(run, RunStatus.SUCCEEDED)  # everything was done before the stop could take hold
        return Done(ended=True)
    nudges = settle(run)
    return Done(nudges=nudges, ended=run.facts.phase is Phase.SETTLED)


def _void_step(run: LockedRun, stage: str) -> None:
    """Nothing can have happened: no undo is owed, and a pivot was not passed."""
    if strands.in_doubt(run.connection, run.id, stage):
        return
    planned = run.plan.by_name[stage]
    if planned.undo is not None:
        strands.set_step(run, stage, StepState.VOID)
    if planned.pivot:
        unpass(run, stage)


def fail(
    connection: Connection,
    work: Work,
    audit_key: bytes,
    failure: Failure,
    *,
    cause: Cause = Cause.FAILED,
    park: ParkReason | None = None,
    exhausted: bool = False,
    events: Kept = (),
) -> Done | Fenced:
    """The stage has failed for good: the run stops, and settles in this transaction when nothing else runs."""
    run = _mine(connection, work, audit_key)
    if run is None:
        return Fenced()
    strands.end_attempt(run, work, failure.state, doubt=failure.doubt, error=failure.error, category=failure.category)
    strands.change(connection, run.id, work.strand, state=StrandState.REST, owner=None, tries=work.tries + 1)
    _keep(run, work, events)
    if exhausted:
        run.emit(
            "work.retry_exhausted", stage=work.stage, attempt=work.tries + 1, error=failure.error, undo=work.undoing
        )
    run.emit(
        "stage.failed",
        stage=work.stage,
        attempt=work.attempt,
        error=failure.error,
        category=failure.category,
        doubt=failure.doubt,
    )
    clean = failure.vouched or not (failure.called or strands.called_before(connection, work))
    if clean:
        _void_step(run, work.stage)
    reason = park or _park_reason(run, work, clean)
    if run.facts.phase is not Phase.FORWARD and not run.plan.by_name[work.stage].pivot:
        reason = None  # it was stopped before: what else was asked for stands, as for a stage that is lost
    nudges = drain(run, cause, error=failure.error, stage=work.stage, park=reason)
    run.flush()
    return Done(nudges=nudges, ended=run.facts.phase is Phase.SETTLED)


def _park_reason(run: LockedRun, work: Work, clean: bool) -> ParkReason | None:
    certain = clean and not strands.in_doubt(run.connection, run.id, work.stage)
    if run.plan.by_name[work.stage].pivot and not certain:
        return ParkReason.UNKNOWN  # nobody but a person can say whether the point of no return was passed
    return ParkReason.OPERATOR if run.plan.on_failure == "park" else None


def undo_done(
    connection: Connection, work: Work, taker: Taker, audit_key: bytes, *, events: Kept = (), go_on: bool = False
) -> Done | Fenced:
    """The undo is done; the last one settles the run."""
    run = _mine(connection, work, audit_key)
    if run is None:
        return Fenced()
    strands.end_attempt(run, work, AttemptState.OK)
    strands.set_step(run, work.stage, StepState.COMPENSATED, error=None)
    _keep(run, work, events)
    run.emit("work.compensation_executed", stage=work.stage, attempt=work.attempt)
    return _after_undo(run, work, taker if go_on else None)


def undo_failed(
    connection: Connection,
    work: Work,
    taker: Taker,
    audit_key: bytes,
    failure: Failure,
    *,
    events: Kept = (),
    go_on: bool = False,
) -> Done | Fenced:
    """The undo failed for good; older steps are still undone."""
    run = _mine(connection, work, audit_key)
    if run is None:
        return Fenced()
    strands.end_attempt(run, work, AttemptState.FAILED, doubt=True, error=failure.error, category=failure.category)
    strands.set_step(run, work.stage, StepState.COMPENSATION_FAILED, error=failure.error)
    _keep(run, work, events)
    run.emit("work.compensation_failed", stage=work.stage, attempt=work.attempt, error=failure.error)
    return _after_undo(run, work, taker if go_on else None)


def _after_undo(run: LockedRun, work: Work, taker: Taker | None) -> Done:
    strands.change(run.connection, run.id, work.strand, state=StrandState.DONE, owner=None)
    nudges, over = undo_ended(run)
    done = Done(nudges=nudges, ended=over)
    if nudges and taker is not None and nudges[0].queue == work.queue and _may_go_on(run, taker):
        row = strands.one(run.connection, run.id, nudges[0].strand)
        assert row is not None
        done = Done(start(run, row, row.stage, taker), nudges[1:])
    run.flush()
    return _sealed(done, run)


def _sealed(done: Done, run: LockedRun) -> Done:
    """Give the granted work the run as this transaction leaves it."""
    if done.granted is None:
        return done
    granted = replace(done.granted, run=run.facts, seq=run.facts.seq, head=run.facts.head)
    return replace(done, granted=granted)
