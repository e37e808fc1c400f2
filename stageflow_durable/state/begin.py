"""Taking work: ``begin`` a strand that is ready, or grant the next stage to an owner that just committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import Cause, ParkReason, Phase, RunStatus, StepState, StrandState
from stageflow_durable.model.work import UNDO_PREFIX, Nudge, Refusal, Refused, Work
from stageflow_durable.state import definitions, strands
from stageflow_durable.state.fitting import unreadable, why_not
from stageflow_durable.state.locked import LockedRun, lock
from stageflow_durable.state.settlement import DEADLINE_PASSED, drain
from stageflow_durable.state.strands import StrandRow

HAND_BACK_SECONDS = 5.0
"""How long a strand waits for a worker that knows its definition, before it is offered again; twice as long each
time that none did.
"""

LONGEST_HAND_BACK_SECONDS = 60.0

EARLY_SECONDS = 0.05
"""How much too early a nudge with a countdown may come: timers of two machines differ by some milliseconds."""


@dataclass(frozen=True, slots=True)
class Taker:
    """Who takes work: the owner's id, the plans that this process can run by pipeline, and how long a body may act
    (seconds).
    """

    owner: str
    plans: Mapping[str, Plan]
    timeouts: Mapping[tuple[str, str], float]


def begin(connection: Connection, nudge: Nudge, taker: Taker, audit_key: bytes) -> Work | Refused:
    """Take the strand that the nudge names, if there is something to take; a nudge that comes twice finds nothing."""
    run = lock(connection, nudge.run_id, audit_key)
    if run is None:
        return Refused(Refusal.GONE)
    row = strands.one(connection, run.id, nudge.strand)
    refused = _refusal(run, row, nudge, taker)
    if refused is not None or row is None:
        return Refused(refused or Refusal.GONE)
    misfit = _late(run) or _fit(run, row, taker)
    if misfit is not None:
        run.flush()
        return misfit
    work = start(run, row, row.stage, taker)
    run.flush()
    return _sealed(work, run)


def _refusal(run: LockedRun, row: StrandRow | None, nudge: Nudge, taker: Taker) -> Refusal | None:
    if row is None:
        return Refusal.GONE
    if row.gen != nudge.gen:
        return Refusal.FENCED
    if run.facts.phase.value != row.direction:
        return Refusal.STOPPED
    if row.state == StrandState.WAITING and (row.wake_at or 0.0) > run.clock + EARLY_SECONDS:
        return Refusal.NOT_DUE
    if row.state not in (StrandState.READY, StrandState.WAITING):
        return Refusal.NOT_READY
    return None if strands.is_alive(run.connection, taker.owner) else Refusal.DEAD_OWNER


def _late(run: LockedRun) -> Refused | None:
    """Nothing begins past the deadline: a message that comes before the next sweep stops the run itself."""
    return Refused(Refusal.STOPPED, drain(run, Cause.DEADLINE, error=DEADLINE_PASSED)) if run.is_late else None


def _fit(run: LockedRun, row: StrandRow, taker: Taker) -> Refused | None:
    """Check that this process can run the run's definition; move the run to a newer one where its past allows."""
    plan = taker.plans.get(run.facts.pipeline)
    if plan is not None and plan.digest == run.facts.definition:
        return None
    if plan is not None and row.direction == Phase.BACKWARD:
        return _fit_to_undo(run, row, plan)
    if plan is None or definitions.is_older(run.connection, plan.digest, than=run.facts.definition):
        return _hand_back(run, row)  # against an old worker that would drop stages which the run was accepted with
    why = why_not(run.connection, run.id, run.plan, plan)
    if why is None:
        run.change(definition=plan.digest, version=plan.version)
        run.emit("run.migrated", definition=plan.digest, version=plan.version)
        return None
    # In a rolling deploy an old worker meets new runs and the other way round: only the newest definition may judge.
    if definitions.newest(run.connection, run.facts.pipeline) != plan.digest:
        return _hand_back(run, row)
    drain(run, Cause.FAILED, error=f"definition changed: {why}", stage=row.stage, park=ParkReason.DEFINITION)
    return Refused(Refusal.PARKED)


def _fit_to_undo(run: LockedRun, row: StrandRow, plan: Plan) -> Refused | None:
    """An undo needs its stage's undo, and what the run saved; where the newest definition has not got them either, it
    fails for a person.
    """
    known = plan.by_name.get(row.stage)
    can = known is not None and known.undo is not None and unreadable(run.connection, run.id, plan) is None
    newest = definitions.newest(run.connection, run.facts.pipeline) == plan.digest
    return None if can or newest else _hand_back(run, row)


def _hand_back(run: LockedRun, row: StrandRow) -> Refused:
    strands.change(
        run.connection,
        run.id,
        row.strand,
        state=StrandState.WAITING,
        wake_at=run.clock + min(LONGEST_HAND_BACK_SECONDS, HAND_BACK_SECONDS * 2.0 ** min(row.nudges, 10)),
        nudges=row.nudges + 1,
        published_at=None,
    )
    return Refused(Refusal.HANDED_BACK)


def start(run: LockedRun, row: StrandRow, stage: str, taker: Taker) -> Work:
    """Begin ``stage`` on a strand: the attempt, and the saga intent before the action."""
    connection, forward = run.connection, row.direction == Phase.FORWARD
    moved = stage != row.stage
    number = strands.next_attempt(connection, run.id, stage, row.direction)
    first_at = run.clock if moved or row.first_at is None else row.first_at
    tries, lost, delay = (0, 0, None) if moved else (row.tries, row.lost, row.delay)
    limit = taker.timeouts.get((run.facts.pipeline, stage)) if forward else None
    strands.change(
        connection,
        run.id,
        row.strand,
        stage=stage,
        state=StrandState.RUNNING,
        owner=taker.owner,
        attempt=number,
        tries=tries,
        lost=lost,
        delay=delay,
        first_at=first_at,
        wake_at=None,
        published_at=None,
        nudges=0,
        progress=None,
        began_at=run.clock,
        kill_by=None if limit is None else run.clock + limit,
    )
    (_intend if forward else _begin_undo)(run, stage)
    begun = {"stage": stage, "attempt": number, "owner": taker.owner}
    if not (forward and run.add_to("stage.ok", then=begun)):
        run.emit("stage.begun" if forward else "undo.begun", **begun)
    return Work(
        run.facts,
        run.plan,
        row.strand,
        Phase(row.direction),
        stage,
        row.gen,
        taker.owner,
        number,
        tries,
        lost,
        delay,
        first_at,
        run.clock,
        row.queue,
        run.facts.seq,
        run.facts.head,
        row.published_at,
    )


def _intend(run: LockedRun, stage: str) -> None:
    planned = run.plan.by_name[stage]
    if planned.undo is not None:
        strands.intend(run, stage)
    run.change(status=RunStatus.RUNNING, pivot_passed=run.facts.pivot_passed or planned.pivot)


def _begin_undo(run: LockedRun, stage: str) -> None:
    state = strands.steps(run.connection, run.id)[stage]
    if state is not StepState.COMPENSATING:  # a further attempt keeps what the first one found
        outcome = "ok" if state is StepState.RECORDED else "unknown"
        strands.set_step(run, stage, StepState.COMPENSATING, outcome=outcome)


def _sealed(work: Work, run: LockedRun) -> Work:
    return replace(work, run=run.facts, seq=run.facts.seq, head=run.facts.head)


def recall(connection: Connection, work: Work, owner: str) -> Work | bool:
    """Find out whether a commit went through whose answer was lost: by the attempt, which only its owner ends.

    True: it did, and nothing was granted. Work: it did, and this was granted, to ``owner`` (this process's id at the
    commit, which is another than the attempt's when it was declared dead in between). False: it did not.
    """
    run = lock(connection, work.run.id, b"")
    if run is None or strands.is_mine(connection, work):
        return False
    ended_at = strands.ended_at(connection, work)
    if ended_at is None:
        return False
    after = {
        work.strand,
        *run.plan.successors[work.stage],
        *(UNDO_PREFIX + name for name in run.plan.ancestors[work.stage]),
    }
    held = [
        row for row in strands.all_of(connection, run.id) if row.strand in after and row.owner in (work.owner, owner)
    ]
    # A grant begins in the transaction, and at the time, at which the attempt before it ended.
    row = next((row for row in held if row.began_at == ended_at), None)
    if row is None or row.owner is None:
        return True
    return Work(
        run.facts,
        run.plan,
        row.strand,
        Phase(row.direction),
        row.stage,
        row.gen,
        row.owner,
        row.attempt,
        row.tries,
        row.lost,
        row.delay,
        row.first_at or ended_at,
        ended_at,
        row.queue,
        run.facts.seq,
        run.facts.head,
    )
