"""The short way along a strand: begin, go on and finish in one statement each, where nothing but the expected can
happen.

These transactions do exactly what ``begin`` and ``commit`` do for the common case, and only that: their first
condition is that the run's ``seq`` is still the one the owner saw. Every transaction that decides something about a
run raises ``seq`` (what does not, ``hand_back``, ``report`` and ``unpublish``, changes only when a strand is published
and what it shows of its progress), so a match means that nobody (no operator, no sweep, no other branch) decided
anything in between, and all that was read before still holds. No match: nothing was written, and the long way under
the lock finds out why. PostgreSQL gets one statement with data-modifying CTEs; SQLite, which has none, the same parts
in one transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    Boolean,
    Double,
    Integer,
    String,
    and_,
    bindparam,
    cast,
    exists,
    false,
    insert,
    literal_column,
    null,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from stageflow_durable.model.status import AttemptState, Phase, RunStatus, StepState, StrandState
from stageflow_durable.state import looks
from stageflow_durable.state.clock import now
from stageflow_durable.state.driver import Statement
from stageflow_durable.state.tables import attempts, checkpoints, events, owners, runs, saga_steps, strands, tombstones

MAX_EVENTS = 6
"""Runs of more events in one transaction go the long way: each number is a statement of its own."""


class Move(StrEnum):
    """What becomes of the strand."""

    BEGIN = "begin"
    GRANT = "grant"
    HAND_ON = "hand_on"
    FINISH = "finish"


@dataclass(frozen=True, slots=True)
class Shape:
    """Which parts a transaction has; equal shapes share their compiled statements. ``hinted``: it begins what nobody
    looked at, and answers with what a look would have told.
    """

    move: Move
    events: int
    records: bool = False
    intends: bool = False
    hinted: bool = False


def _p(name: str, kind: Any = String) -> Any:
    return bindparam(name, type_=kind)


def _is(state: str) -> Any:
    """A state as a literal: the fewer parameters, the less there is to send."""
    return literal_column(f"'{state}'", String)


def _seq(further: int) -> Any:
    return _p("seen_seq", Integer) + literal_column(str(further), Integer)


_RUN, _AT, _ME = _p("run_id"), _p("at", Double), _p("me")
_ALIVE = exists(
    select(owners.c.id).where(and_(owners.c.id == _ME, owners.c.dead_at.is_(None), owners.c.expires_at > now()))
)
_STRAND = and_(strands.c.run == _RUN, strands.c.strand == _p("strand_id"))
# Against whom: see ``strands.MINE``.
_MINE = and_(
    _STRAND,
    strands.c.gen == _p("my_gen", Integer),
    strands.c.owner == _ME,
    strands.c.stage == _p("my_stage"),
    strands.c.attempt == _p("my_attempt", Integer),
    strands.c.state == _is(StrandState.RUNNING),
)
_READY = and_(
    _STRAND,
    strands.c.gen == _p("my_gen", Integer),
    strands.c.stage == _p("next_stage"),
    or_(strands.c.state == _is(StrandState.READY), strands.c.state == _is(StrandState.WAITING)),
)
# What a look would have found out: the strand is as it was published, the run is what the hint says of it, in time.
_UNTOUCHED = and_(
    strands.c.direction == _is(Phase.FORWARD),
    strands.c.state == _is(StrandState.READY),
    strands.c.attempt == literal_column("0", Integer),
    strands.c.first_at.is_(None),
)
# Its number is free: a stage that began before, on another strand, counts on. Its row would be refused only at its end.
_NUMBER_IS_FREE = ~exists(
    select(attempts.c.run).where(
        and_(
            attempts.c.run == _RUN,
            attempts.c.stage == _p("next_stage"),
            attempts.c.direction == _is(Phase.FORWARD),
            attempts.c.n == _p("next_attempt", Integer),
        )
    )
)
_AS_HINTED = and_(
    runs.c.head == _p("seen_head"),
    runs.c.definition == _p("seen_definition"),
    or_(runs.c.deadline.is_(None), runs.c.deadline > now(), runs.c.pivot_passed),
)


def _run_part(shape: Shape) -> Any:
    held = _READY if shape.move is Move.BEGIN else _MINE
    if shape.hinted:
        held = and_(held, _UNTOUCHED)
    unchanged = and_(runs.c.id == _RUN, runs.c.seq == _p("seen_seq", Integer), runs.c.phase == _is(Phase.FORWARD))
    conditions = [unchanged, exists(select(strands.c.run).where(held))]
    head = _p(f"e{shape.events - 1}_mac")
    values: dict[str, Any] = {"seq": _seq(shape.events), "head": head, "updated_at": _AT}
    if shape.hinted:
        conditions.append(_AS_HINTED)
    if shape.move in (Move.BEGIN, Move.GRANT):
        conditions += [_ALIVE, _NUMBER_IS_FREE]
        values |= {"status": _is(RunStatus.RUNNING), "pivot_passed": runs.c.pivot_passed | _p("pivot", Boolean)}
    if shape.move is Move.FINISH:
        values |= {"phase": _is(Phase.SETTLED), "status": _is(RunStatus.SUCCEEDED), "finished_at": _AT}
    return update(runs).where(and_(*conditions)).values(values)


_ZERO = literal_column("0", Integer)
_TIMES: dict[str, Any] = {"began_at": _AT, "kill_by": _p("kill_by", Double)}
_FRESH: dict[str, Any] = {"tries": _ZERO, "lost": _ZERO, "delay": null(), "nudges": _ZERO, "progress": null()}
_STRAND_VALUES: dict[Move, dict[str, Any]] = {
    Move.BEGIN: {
        "state": _is(StrandState.RUNNING),
        "owner": _ME,
        "attempt": _p("next_attempt", Integer),
        "wake_at": null(),
        "published_at": null(),
        "nudges": _ZERO,
        "progress": null(),
        "first_at": _p("first_at", Double),
        **_TIMES,
    },
    Move.GRANT: {
        "stage": _p("next_stage"),
        "attempt": _p("next_attempt", Integer),
        "first_at": _AT,
        **_FRESH,
        **_TIMES,
    },
    Move.HAND_ON: {
        "stage": _p("next_stage"),
        "state": _is(StrandState.READY),
        "owner": null(),
        "attempt": _ZERO,
        "published_at": _AT,
        "first_at": null(),
        **_FRESH,
    },
    Move.FINISH: {"state": _is(StrandState.DONE), "owner": null(), "progress": null()},
}


def _insert(table: Any, rows: dict[str, Any], source: Any) -> Any:
    picked = select(*rows.values())
    return insert(table).from_select(list(rows), picked if source is None else picked.select_from(source))


def _attempt(source: Any) -> Any:
    return _insert(
        attempts,
        {
            "run": _RUN,
            "stage": _p("my_stage"),
            "direction": _is(Phase.FORWARD),
            "n": _p("my_attempt", Integer),
            "owner": _ME,
            "state": _is(AttemptState.OK),
            "doubt": false(),
            "began_at": _p("began_at", Double),
            "ended_at": _AT,
        },
        source,
    )


def _intent(source: Any, dialect: Any) -> Any:
    rows = {"run": _RUN, "stage": _p("next_stage"), "state": _is(StepState.INTENDED)}
    picked = select(*rows.values())
    # WHERE true: without it SQLite reads the upsert's ON as a join's.
    picked = picked.where(true()) if source is None else picked.select_from(source)
    return (
        dialect.insert(saga_steps)
        .from_select(list(rows), picked)
        .on_conflict_do_update(
            index_elements=["run", "stage"],
            set_={"state": _is(StepState.INTENDED)},
            where=or_(saga_steps.c.state == _is(StepState.VOID), saga_steps.c.state == _is(StepState.SKIPPED)),
        )
    )


def _record() -> Any:
    return (
        update(saga_steps)
        .where(and_(saga_steps.c.run == _RUN, saga_steps.c.stage == _p("my_stage")))
        .values(state=_is(StepState.RECORDED))
    )


def _checkpoint(source: Any) -> Any:
    return _insert(
        checkpoints,
        {
            "run": _RUN,
            "stage": _p("my_stage"),
            "skipped": false(),
            "delta": _p("delta"),
            "saved_schema": cast(_p("saved_schema", Integer), Integer),
            "at": _AT,
        },
        source,
    )


def _events(count: int, source: Any) -> Any:
    """``e0_mac``, …: the code of each; an event's predecessor is the one before it, or the head that was seen."""
    selects = []
    for number in range(count):
        previous = _p("seen_head" if number == 0 else f"e{number - 1}_mac")
        event = [_p(f"e{number}_{name}") for name in ("type", "data", "mac")]
        picked = select(_RUN, _seq(number + 1), event[0], _AT, event[1], previous, event[2])
        selects.append(picked if source is None else picked.select_from(source))
    return insert(events).from_select(
        ["run", "seq", "type", "at", "data", "previous", "mac"], union_all(*selects) if count > 1 else selects[0]
    )


@lru_cache(maxsize=256)
def for_postgresql(shape: Shape) -> Statement:
    """The whole transaction as one statement: no row of the run, no row at all."""
    run = _run_part(shape).returning(runs.c.id, *(runs.c[name] for name in (HINTED if shape.hinted else ()))).cte("r")
    strand = (
        update(strands)
        .where(and_(_STRAND, strands.c.run == run.c.id))
        .values(_STRAND_VALUES[shape.move])
        .returning(strands.c.run)
        .cte("s")
    )
    source = select(strand.c.run).subquery("q")
    parts = [strand]
    if shape.move is not Move.BEGIN:
        parts += [_attempt(source).cte("a"), _checkpoint(source).cte("c")]
    if shape.records:
        parts.append(_record().where(saga_steps.c.run == strand.c.run).cte("d"))
    if shape.intends:
        parts.append(_intent(source, postgresql).cte("i"))
    told = _events(shape.events, source)
    if shape.hinted:
        return Statement(_found(run).add_cte(*parts, told.cte("e")), is_sqlite=False)
    return Statement(told.add_cte(*parts), is_sqlite=False)


_TOLD = {"id", "pipeline", "version", "definition", "phase", "status", "park_reason", "seq", "head"}
HINTED = tuple(column.name for column in runs.c if column.name not in _TOLD | {"updated_at", "finished_at"})
"""Of a run whose hint holds, what neither the hint, nor its definition, nor its begin tells."""


UNTOUCHED: dict[str, Any] = {
    **dict.fromkeys(("owner", "delay", "first_at", "wake_at", "progress", "began_at", "kill_by")),
    **dict.fromkeys(("attempt", "tries", "lost", "nudges"), 0),
}
"""Of a strand that nobody has begun: see ``_UNTOUCHED``. Whatever clears ``first_at`` clears these."""


def _found(run: Any) -> Any:
    """``HINTED`` as it is now, the queue of the strand and when it was published as they were before (each part of a
    statement sees that), and what was saved. The fewer columns, the less the database makes ready to answer.
    """
    both = run.join(strands, strands.c.run == run.c.id)
    asked = [run.c[name] for name in HINTED]
    answer = select(*asked, strands.c.queue, strands.c.published_at, looks.saved(is_sqlite=False))
    return answer.select_from(both).where(_STRAND)


@lru_cache(maxsize=256)
def for_sqlite(shape: Shape) -> tuple[Statement, tuple[Statement, ...]]:
    """The statement that decides, and those that follow in the same transaction when it touched the run."""
    parts = [update(strands).where(_STRAND).values(_STRAND_VALUES[shape.move])]
    if shape.move is not Move.BEGIN:
        parts += [_attempt(None), _checkpoint(None)]
    if shape.records:
        parts.append(_record())
    if shape.intends:
        parts.append(_intent(None, sqlite))
    parts.append(_events(shape.events, None))
    return Statement(_run_part(shape), is_sqlite=True), tuple(Statement(part, is_sqlite=True) for part in parts)


# --- accepting a run --------------------------------------------------------------------------------------------------

_NEW_STRAND = {
    "run": _RUN,
    "strand": _p("root"),
    "direction": _is(Phase.FORWARD),
    "stage": _p("root"),
    "state": _is(StrandState.READY),
    "gen": _ZERO,
    "attempt": _ZERO,
    "tries": _ZERO,
    "lost": _ZERO,
    "nudges": _ZERO,
    "published_at": _AT,
    "queue": _p("root_queue"),
}
GIVEN = (
    "client_id",
    "pipeline",
    "version",
    "key",
    "fingerprint",
    "definition",
    "input",
    "input_schema",
    "metadata",
    "queue",
    "priority",
    "deadline",
)


def _new_run(dialect: Any) -> Any:
    values = {name: _given(name) for name in GIVEN}
    fixed = {
        "id": _RUN,
        "phase": _is(Phase.FORWARD),
        "status": _is(RunStatus.PENDING),
        "op_version": _ZERO,
        "pivot_passed": false(),
        "past_pivot": false(),
        "seq": _seq(1),
        "head": _p("e0_mac"),
        "created_at": _AT,
        "updated_at": _AT,
    }
    rows = {**values, **fixed}
    mine = [tombstones.c[name] == _p(name, String) for name in ("client_id", "pipeline", "key")]
    new = select(*rows.values()).where(~exists(select(tombstones.c.run).where(and_(*mine))))
    return (
        dialect.insert(runs)
        .from_select(list(rows), new)
        .on_conflict_do_nothing(index_elements=["client_id", "pipeline", "key"])
    )


def _given(name: str) -> Any:
    kind = runs.c[name].type
    if isinstance(kind, String):
        return _p(name)
    return cast(_p(name, kind), kind)  # it may be NULL, whose type PostgreSQL has to be told in a SELECT


@lru_cache(maxsize=1)
def create_on_postgresql() -> Statement:
    """A run of one strand with its first event, unless its key is taken: then no row."""
    run = _new_run(postgresql).returning(runs.c.id).cte("r")
    source = select(run.c.id).subquery("q")
    strand = _insert(strands, _NEW_STRAND, source).cte("s")
    return Statement(_events(1, source).add_cte(run, strand), is_sqlite=False)


@lru_cache(maxsize=1)
def create_on_sqlite() -> tuple[Statement, tuple[Statement, ...]]:
    """The same; the first statement decides."""
    rest = (_insert(strands, _NEW_STRAND, None), _events(1, None))
    return Statement(_new_run(sqlite), is_sqlite=True), tuple(Statement(part, is_sqlite=True) for part in rest)
