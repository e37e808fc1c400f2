"""Rows of strands, attempts, checkpoints and saga steps: the small statements that the transactions are made of.

All of them run under the run's lock. A write by an owner carries ``MINE``: it is refused, by touching no row, once a
sweep or an operator took the strand (``gen``), or when it comes from an attempt that is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, func, insert, select, update

from stageflow_durable.model.status import AttemptState, Phase, StepState, StrandState
from stageflow_durable.model.work import Work
from stageflow_durable.state.clock import now
from stageflow_durable.state.dialect import insert_for
from stageflow_durable.state.tables import attempts, checkpoints, owners, saga_steps, strands


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


_STRANDS = select(strands).where(strands.c.run == bindparam("run_id")).order_by(strands.c.strand)
_STRAND = select(strands).where(and_(strands.c.run == bindparam("run_id"), strands.c.strand == bindparam("strand_id")))
# Against whom: a zombie whose strand was taken (gen, owner), and a late answer of an attempt that is over (stage,
# attempt).
MINE = and_(
    strands.c.run == bindparam("run_id"),
    strands.c.strand == bindparam("strand_id"),
    strands.c.gen == bindparam("my_gen"),
    strands.c.owner == bindparam("me"),
    strands.c.stage == bindparam("my_stage"),
    strands.c.attempt == bindparam("my_attempt"),
    strands.c.state == StrandState.RUNNING.value,
)
_MINE = select(strands.c.run).where(MINE)
_ALIVE = select(owners.c.id).where(
    and_(owners.c.id == bindparam("me"), owners.c.dead_at.is_(None), owners.c.expires_at > now())
)
_FINISHED = select(checkpoints.c.stage).where(checkpoints.c.run == bindparam("run_id"))
_STEPS = select(saga_steps.c.stage, saga_steps.c.state).where(saga_steps.c.run == bindparam("run_id"))
_SET_STEP = update(saga_steps).where(
    and_(saga_steps.c.run == bindparam("run_id"), saga_steps.c.stage == bindparam("of_stage"))
)
_CHANGE = update(strands).where(and_(strands.c.run == bindparam("run_id"), strands.c.strand == bindparam("strand_id")))
_REST_IDLE = update(strands).where(
    and_(strands.c.run == bindparam("run_id"), strands.c.state.in_([StrandState.READY, StrandState.WAITING]))
)
_BEGIN_ATTEMPT = insert(attempts)
_CHECKPOINT = insert(checkpoints)
# Attempts of one stage in one direction, and one of them.
_OF = and_(
    attempts.c.run == bindparam("run_id"),
    attempts.c.stage == bindparam("of_stage"),
    attempts.c.direction == bindparam("heading"),
)
_ATTEMPT = and_(_OF, attempts.c.n == bindparam("number"))
_HIGHEST = select(func.max(attempts.c.n)).where(_OF)
_END_ATTEMPT = update(attempts).where(_ATTEMPT)
_KILL_BY = select(attempts.c.kill_by).where(_ATTEMPT)
_BEGAN_AT = select(attempts.c.began_at).where(_ATTEMPT)
_ENDED_AT = select(attempts.c.state, attempts.c.ended_at).where(_ATTEMPT)
_DOUBTFUL = and_(_OF, attempts.c.doubt.is_(True))
_IN_DOUBT = select(attempts.c.n).where(_DOUBTFUL).limit(1)
_CLEAR_DOUBT = update(attempts).where(_DOUBTFUL)
_CALLED_BEFORE = (
    select(attempts.c.n)
    .where(
        and_(
            _OF,
            attempts.c.n < bindparam("number"),
            attempts.c.state.not_in([AttemptState.VOID, AttemptState.SETTLED]),
        )
    )
    .limit(1)
)
_ACTS_UNTIL = select(func.max(attempts.c.kill_by)).where(and_(_OF, attempts.c.state == AttemptState.UNKNOWN))


def all_of(connection: Connection, run_id: str) -> list[StrandRow]:
    """Every strand of a run."""
    return [StrandRow(*row) for row in connection.execute(_STRANDS, {"run_id": run_id})]


def one(connection: Connection, run_id: str, strand: str) -> StrandRow | None:
    """One strand, or None."""
    row = connection.execute(_STRAND, {"run_id": run_id, "strand_id": strand}).one_or_none()
    return None if row is None else StrandRow(*row)


def is_mine(connection: Connection, work: Work) -> bool:
    """Whether the strand is still this attempt's."""
    return connection.execute(_MINE, fence_of(work)).first() is not None


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
    return connection.execute(_ALIVE, {"me": owner}).first() is not None


def change(connection: Connection, run_id: str, strand: str, **columns: Any) -> None:
    """Set columns of a strand."""
    connection.execute(_CHANGE, {"run_id": run_id, "strand_id": strand, **columns})


def add(connection: Connection, **columns: Any) -> None:
    """A new strand, or, where a recompensated run has it already, that one anew; a person has raised its fence."""
    statement = insert_for(connection, strands).values(**columns)
    renewed = {name: statement.excluded[name] for name in ("stage", "state", "wake_at", "published_at", "queue")}
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["run", "strand"],
            set_={
                **renewed,
                "owner": None,
                "tries": 0,
                "lost": 0,
                "delay": None,
                "first_at": None,
                "nudges": 0,
            },
        )
    )


def raise_fences(connection: Connection, run_id: str, prefix: str) -> None:
    """What was published or held before takes nothing of the strands named ``prefix…`` any more."""
    named = and_(strands.c.run == run_id, strands.c.strand.startswith(prefix, autoescape=True))
    connection.execute(update(strands).where(named).values(gen=strands.c.gen + 1))


def rest_idle(connection: Connection, run_id: str) -> None:
    """Bring every strand that waits for work to rest."""
    resting = {"state": StrandState.REST, "wake_at": None, "published_at": None}
    connection.execute(_REST_IDLE, {"run_id": run_id, **resting})


def begin_attempt(connection: Connection, **columns: Any) -> None:
    """A new attempt, running."""
    connection.execute(_BEGIN_ATTEMPT, {"state": AttemptState.RUNNING, **columns})


def next_attempt(connection: Connection, run_id: str, stage: str, direction: str) -> int:
    """The number of a stage's next attempt; earlier strands of it (before a resume) count on."""
    highest = connection.execute(_HIGHEST, _of(run_id, stage, direction)).scalar_one_or_none()
    return int(highest or 0) + 1


def end_attempt(
    connection: Connection,
    work: Work,
    state: AttemptState,
    at: float,
    *,
    doubt: bool = False,
    error: str | None = None,
    category: str | None = None,
    delay: float | None = None,
) -> None:
    """Close the attempt in hand. ``doubt``: it may have acted."""
    ended = {"state": state, "ended_at": at, "doubt": doubt, "error": error, "category": category, "delay": delay}
    connection.execute(_END_ATTEMPT, {**_in_hand(work), **ended})


def lose_attempt(connection: Connection, strand: StrandRow, at: float, acts_for: float | None, error: str) -> None:
    """Close the attempt of a dead owner: nobody knows how it ended. ``acts_for``: how many seconds it may still act,
    where its process was not seen to end.
    """
    which = {**_of(strand.run, strand.stage, strand.direction), "number": strand.attempt}
    until = at if acts_for is None else connection.execute(_KILL_BY, which).scalar_one_or_none()
    lost = {
        "state": AttemptState.UNKNOWN,
        "ended_at": at,
        "doubt": True,
        "error": error,
        "kill_by": at + (acts_for or 0.0) if until is None else until,
    }
    connection.execute(_END_ATTEMPT, {**which, **lost})


def began_at(connection: Connection, row: StrandRow) -> float | None:
    """When the attempt that runs on a strand began."""
    which = {**_of(row.run, row.stage, row.direction), "number": row.attempt}
    found: float | None = connection.execute(_BEGAN_AT, which).scalar_one_or_none()
    return found


def ended_at(connection: Connection, work: Work) -> float | None:
    """When this attempt was ended by its owner; None when it was not: a sweep would have left it unknown."""
    found = connection.execute(_ENDED_AT, _in_hand(work)).one_or_none()
    return (
        None if found is None or found.state in (AttemptState.RUNNING, AttemptState.UNKNOWN) else float(found.ended_at)
    )


def in_doubt(connection: Connection, run_id: str, stage: str) -> bool:
    """Whether some attempt of the action may have acted without our knowing."""
    return connection.execute(_IN_DOUBT, _of(run_id, stage, Phase.FORWARD)).first() is not None


def called_before(connection: Connection, work: Work) -> bool:
    """Whether an attempt of the stage before this one came as far as its body."""
    return connection.execute(_CALLED_BEFORE, _in_hand(work)).first() is not None


def acts_until(connection: Connection, run_id: str, stage: str) -> float:
    """Until when a lost attempt of the action may still act; 0.0 when none can."""
    return float(connection.execute(_ACTS_UNTIL, _of(run_id, stage, Phase.FORWARD)).scalar_one_or_none() or 0.0)


def clear_doubt(connection: Connection, run_id: str, stage: str) -> None:
    """A person found out how the attempts in doubt ended."""
    settled = {"doubt": False, "state": AttemptState.SETTLED}
    connection.execute(_CLEAR_DOUBT, {**_of(run_id, stage, Phase.FORWARD), **settled})


def _of(run_id: str, stage: str, direction: str) -> dict[str, Any]:
    return {"run_id": run_id, "of_stage": stage, "heading": direction}


def _in_hand(work: Work) -> dict[str, Any]:
    return {**_of(work.run.id, work.stage, work.direction), "number": work.attempt}


def checkpoint(
    connection: Connection, run_id: str, stage: str, delta: str | None, at: float, *, schema: int, skipped: bool = False
) -> None:
    """Save what a stage added. Unique by run and stage: a second one is refused by the key."""
    connection.execute(
        _CHECKPOINT,
        {"run": run_id, "stage": stage, "delta": delta, "saved_schema": schema, "skipped": skipped, "at": at},
    )


def finished(connection: Connection, run_id: str) -> frozenset[str]:
    """Stages that have a checkpoint."""
    return frozenset(connection.execute(_FINISHED, {"run_id": run_id}).scalars())


def steps(connection: Connection, run_id: str) -> Mapping[str, StepState]:
    """The run's saga steps."""
    return {stage: StepState(state) for stage, state in connection.execute(_STEPS, {"run_id": run_id})}


def intend(connection: Connection, run_id: str, stage: str) -> None:
    """Write the intent before the action. What an earlier, vouched attempt left void, or a person gave up before the
    run was resumed, is owed again.
    """
    statement = insert_for(connection, saga_steps).values(run=run_id, stage=stage, state=StepState.INTENDED)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["run", "stage"],
            set_={"state": StepState.INTENDED},
            where=saga_steps.c.state.in_([StepState.VOID.value, StepState.SKIPPED.value]),
        )
    )


def set_step(connection: Connection, run_id: str, stage: str, state: StepState, **columns: Any) -> None:
    """Move a saga step."""
    connection.execute(_SET_STEP, {"run_id": run_id, "of_stage": stage, "state": state, **columns})
