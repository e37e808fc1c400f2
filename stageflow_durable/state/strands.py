"""Rows of strands, attempts, checkpoints and saga steps: the small statements that the transactions are made of.

All of them run under the run's lock; those that take the run have its next event say what they wrote. A write by an
owner carries ``MINE``: it is refused, by touching no row, once a sweep or an operator took the strand (``gen``), or
when it comes from an attempt that is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, Connection, and_, bindparam, false, func, insert, select, update

from stageflow_durable.model.status import AttemptState, Phase, StepState, StrandState
from stageflow_durable.model.work import UNDO_PREFIX, Work
from stageflow_durable.state.clock import now
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.locked import LockedRun
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import attempts, checkpoints, owners, saga_steps, strands
from stageflow_durable.state.vouched import FRESH_ATTEMPT, attempt_row, checkpoint_row, step_row


class StrandRow(NamedTuple):
    """A strand as stored, in the order of the table's columns."""

    run: str
    strand: str
    direction: str
    stage: str
    state: str
    gen: int
    owner: str | None
    attempt: int
    tries: int
    lost: int
    delay: float | None
    first_at: float | None
    wake_at: float | None
    published_at: float | None
    nudges: int
    queue: str
    progress: str | None
    began_at: float | None
    kill_by: float | None


_RUN: BindParameter[str] = bindparam("run_id")
_THIS = and_(strands.c.run == _RUN, strands.c.strand == bindparam("strand_id"))
_STRANDS = Prepared(select(strands).where(strands.c.run == _RUN).order_by(strands.c.strand))
_STRAND = Prepared(select(strands).where(_THIS))
# Against whom: a zombie whose strand was taken (gen, owner), and a late answer of an attempt that is over (stage,
# attempt).
MINE = and_(
    _THIS,
    strands.c.gen == bindparam("my_gen"),
    strands.c.owner == bindparam("me"),
    strands.c.stage == bindparam("my_stage"),
    strands.c.attempt == bindparam("my_attempt"),
    strands.c.state == StrandState.RUNNING.value,
)
_MINE = Prepared(select(strands.c.run).where(MINE))
_ALIVE = Prepared(
    select(owners.c.id).where(
        and_(owners.c.id == bindparam("me"), owners.c.dead_at.is_(None), owners.c.expires_at > now())
    )
)
_FINISHED = Prepared(select(checkpoints.c.stage).where(checkpoints.c.run == _RUN))
_STEPS = Prepared(select(saga_steps.c.stage, saga_steps.c.state).where(saga_steps.c.run == _RUN))
_SET_STEP = Prepared(
    update(saga_steps).where(and_(saga_steps.c.run == _RUN, saga_steps.c.stage == bindparam("of_stage")))
)
_CHANGE = Prepared(update(strands).where(_THIS))
_IDLE = strands.c.state.in_([constant(StrandState.READY), constant(StrandState.WAITING)])
_REST_IDLE = Prepared(
    update(strands)
    .where(and_(strands.c.run == _RUN, _IDLE))
    .values(state=constant(StrandState.REST), wake_at=None, published_at=None)
)


def _anew(dialect: Any) -> Any:
    inserting = dialect.insert(strands)
    renewed = {name: inserting.excluded[name] for name in ("stage", "state", "wake_at", "published_at", "queue")}
    fresh = {"owner": None, "tries": 0, "lost": 0, "delay": None, "first_at": None, "nudges": 0}
    return inserting.on_conflict_do_update(index_elements=["run", "strand"], set_={**renewed, **fresh})


_ADD = Prepared(_anew)
_UNDOS = and_(strands.c.run == _RUN, strands.c.strand.startswith(UNDO_PREFIX, autoescape=True))
_RAISE_UNDO_FENCES = Prepared(update(strands).where(_UNDOS).values(gen=strands.c.gen + 1))
_ATTEMPT = Prepared(insert(attempts))
_CHECKPOINT = Prepared(insert(checkpoints))
# Attempts of one stage in one direction, and one of them.
_OF = and_(
    attempts.c.run == _RUN,
    attempts.c.stage == bindparam("of_stage"),
    attempts.c.direction == bindparam("heading"),
)
_HIGHEST = Prepared(select(func.max(attempts.c.n)).where(_OF))
_ENDED_AT = Prepared(
    select(attempts.c.state, attempts.c.ended_at).where(and_(_OF, attempts.c.n == bindparam("number")))
)
_DOUBTFUL = and_(_OF, attempts.c.doubt.is_(True))
_IN_DOUBT = Prepared(select(attempts.c.n).where(_DOUBTFUL).limit(1))
_CLEAR_DOUBT = Prepared(
    update(attempts)
    .where(_DOUBTFUL)
    .values(doubt=false(), state=constant(AttemptState.SETTLED))
    .returning(attempts.c.n)
)
_NOT_CALLED = [constant(AttemptState.VOID), constant(AttemptState.SETTLED)]
_CALLED_BEFORE = Prepared(
    select(attempts.c.n)
    .where(and_(_OF, attempts.c.n < bindparam("number"), attempts.c.state.not_in(_NOT_CALLED)))
    .limit(1)
)
_LOST = attempts.c.state == constant(AttemptState.UNKNOWN)
_ACTS_UNTIL = Prepared(select(func.max(attempts.c.kill_by)).where(and_(_OF, _LOST)))


def _owed(dialect: Any) -> Any:
    return (
        dialect.insert(saga_steps)
        .values(state=constant(StepState.INTENDED))
        .on_conflict_do_update(
            index_elements=["run", "stage"],
            set_={"state": constant(StepState.INTENDED)},
            where=saga_steps.c.state.in_([constant(StepState.VOID), constant(StepState.SKIPPED)]),
        )
    )


_INTEND = Prepared(_owed)


def all_of(connection: Connection, run_id: str) -> list[StrandRow]:
    """Every strand of a run."""
    return [StrandRow._make(row) for row in _STRANDS.run(connection, run_id=run_id).fetchall()]


def one(connection: Connection, run_id: str, strand: str) -> StrandRow | None:
    """One strand, or None."""
    row = _STRAND.run(connection, run_id=run_id, strand_id=strand).fetchone()
    return None if row is None else StrandRow._make(row)


def is_mine(connection: Connection, work: Work) -> bool:
    """Whether the strand is still this attempt's."""
    return _MINE.value(connection, **fence_of(work)) is not None


def fence_of(work: Work) -> dict[str, Any]:
    """The parameters of ``MINE``."""
    return {
        "run_id": work.run.id,
        "strand_id": work.strand,
        "my_gen": work.gen,
        "me": work.owner,
        "my_stage": work.stage,
        "my_attempt": work.attempt,
    }


def is_alive(connection: Connection, owner: str) -> bool:
    """Whether the owner's lease holds, by the database's clock."""
    return _ALIVE.value(connection, me=owner) is not None


def change(connection: Connection, run_id: str, strand: str, **columns: Any) -> None:
    """Set columns of a strand."""
    _CHANGE.run(connection, run_id=run_id, strand_id=strand, **columns)


def add(connection: Connection, **columns: Any) -> None:
    """A new strand, or, where a recompensated run has it already, that one anew; a person has raised its fence."""
    _ADD.run(connection, **columns)


def raise_undo_fences(connection: Connection, run_id: str) -> None:
    """What was published or held before takes nothing of the run's undos any more."""
    _RAISE_UNDO_FENCES.run(connection, run_id=run_id)


def rest_idle(connection: Connection, run_id: str) -> None:
    """Bring every strand that waits for work to rest."""
    _REST_IDLE.run(connection, run_id=run_id)


def next_attempt(connection: Connection, run_id: str, stage: str, direction: str) -> int:
    """The number of a stage's next attempt; earlier strands of it (before a resume) count on."""
    return int(_HIGHEST.value(connection, **_of(run_id, stage, direction)) or 0) + 1


def end_attempt(
    run: LockedRun,
    work: Work,
    state: AttemptState,
    *,
    doubt: bool = False,
    error: str | None = None,
    category: str | None = None,
    delay: float | None = None,
) -> None:
    """Write down the attempt in hand, which is over. ``doubt``: it may have acted."""
    how = {"state": state, "doubt": doubt, "error": error, "category": category, "delay": delay}
    _end(run, _begun(work), how)


def lose_attempt(run: LockedRun, strand: StrandRow, acts_for: float | None, error: str) -> None:
    """Write down the attempt of a dead owner: nobody knows how it ended. ``acts_for``: how many seconds it may still
    act, where its process was not seen to end.
    """
    acts_until = strand.kill_by
    if acts_for is None or acts_until is None:
        acts_until = run.clock + (acts_for or 0.0)
    how = {"state": AttemptState.UNKNOWN, "doubt": True, "error": error, "kill_by": acts_until}
    _end(run, _begun(strand), how)


def _end(run: LockedRun, begun: Mapping[str, Any], how: Mapping[str, Any]) -> None:
    _ATTEMPT.run(run.connection, run=run.id, ended_at=run.clock, **begun, **how)
    unlike = {name: value for name, value in how.items() if value != FRESH_ATTEMPT[name]}
    run.vouch(attempt_row(begun["direction"], begun["n"], begun["stage"]), **unlike)


def _begun(attempt: Work | StrandRow) -> dict[str, Any]:
    """What an attempt's row says of its beginning, from whoever has it in hand."""
    return {
        "stage": attempt.stage,
        "direction": attempt.direction,
        "n": attempt.attempt,
        "owner": attempt.owner,
        "began_at": attempt.began_at,
    }


def ended_at(connection: Connection, work: Work) -> float | None:
    """When this attempt was ended by its owner; None when it was not: a sweep would have left it unknown."""
    found = _ENDED_AT.run(connection, **_in_hand(work)).fetchone()
    return None if found is None or found[0] == AttemptState.UNKNOWN else float(found[1])


def in_doubt(connection: Connection, run_id: str, stage: str) -> bool:
    """Whether some attempt of the action may have acted without our knowing."""
    return _IN_DOUBT.value(connection, **_of(run_id, stage, Phase.FORWARD)) is not None


def called_before(connection: Connection, work: Work) -> bool:
    """Whether an attempt of the stage before this one came as far as its body."""
    return _CALLED_BEFORE.value(connection, **_in_hand(work)) is not None


def acts_until(connection: Connection, run_id: str, stage: str) -> float:
    """Until when a lost attempt of the action may still act; 0.0 when none can."""
    return float(_ACTS_UNTIL.value(connection, **_of(run_id, stage, Phase.FORWARD)) or 0.0)


def clear_doubt(run: LockedRun, stage: str) -> None:
    """A person found out how the attempts in doubt ended."""
    for n in _CLEAR_DOUBT.column(run.connection, **_of(run.id, stage, Phase.FORWARD)):
        run.vouch(attempt_row(Phase.FORWARD, n, stage), doubt=False, state=AttemptState.SETTLED)


def _of(run_id: str, stage: str, direction: str) -> dict[str, Any]:
    return {"run_id": run_id, "of_stage": stage, "heading": direction}


def _in_hand(work: Work) -> dict[str, Any]:
    return {**_of(work.run.id, work.stage, work.direction), "number": work.attempt}


def checkpoint(run: LockedRun, stage: str, delta: str | None, *, schema: int, skipped: bool = False) -> None:
    """Save what a stage added. Unique by run and stage: a second one is refused by the key."""
    columns = {"delta": delta, "saved_schema": schema, "skipped": skipped}
    _CHECKPOINT.run(run.connection, run=run.id, stage=stage, at=run.clock, **columns)
    run.vouch(checkpoint_row(stage), **columns)


def finished(connection: Connection, run_id: str) -> frozenset[str]:
    """Stages that have a checkpoint."""
    return frozenset(_FINISHED.column(connection, run_id=run_id))


def steps(connection: Connection, run_id: str) -> Mapping[str, StepState]:
    """The run's saga steps."""
    return {stage: StepState(state) for stage, state in _STEPS.run(connection, run_id=run_id).fetchall()}


def intend(run: LockedRun, stage: str) -> None:
    """Write the intent before the action. What an earlier, vouched attempt left void, or a person gave up before the
    run was resumed, is owed again.
    """
    if _INTEND.run(run.connection, run=run.id, stage=stage).rowcount:
        run.vouch(step_row(stage), state=StepState.INTENDED)


def set_step(run: LockedRun, stage: str, state: StepState, **columns: Any) -> None:
    """Move a saga step."""
    if _SET_STEP.run(run.connection, run_id=run.id, of_stage=stage, state=state, **columns).rowcount:
        run.vouch(step_row(stage), state=state, **columns)
