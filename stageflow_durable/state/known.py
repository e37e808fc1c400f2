"""Facts that are known without the run's lock: from a read, the attempt in hand, a message's hint, or a request.

The functions ``any_…`` make the same facts with slots, for a recipe.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter, itemgetter
from typing import Any

from sqlalchemy import Integer, String, Text, and_, bindparam, case, cast, func, literal_column, null, select

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import Cause, Phase, RunStatus, StrandState
from stageflow_durable.model.work import Hint, Nudge, RunFacts, Saved, Work
from stageflow_durable.state.clock import now
from stageflow_durable.state.driver import Statement
from stageflow_durable.state.recipes import SLOTS, Value
from stageflow_durable.state.tables import checkpoints, runs, strands
from stageflow_durable.transitions.accept import NewRun
from stageflow_durable.transitions.draft import NO_ITEM
from stageflow_durable.transitions.facts import Facts, NotLoaded, Part, SomeStrands
from stageflow_durable.transitions.rows import NEW_STRAND, StrandRow

# --- reads without the lock: a run, one of its strands, and what its stages have saved --------------------------------


MOST_OUTPUTS, LARGE = 64, 131_072
"""The most outputs that a look returns, and the most bytes of each. A text of PostgreSQL is at most a gigabyte; larger
results are read row by row.
"""

ITEM_OF_RUN: Any = literal_column(str(NO_ITEM), Integer)
"""The item of the run's own rows, in the statement's text."""

_RUN_ID: Any = bindparam("run_id", type_=String)
_RUN_COLUMNS = tuple(runs.c[name] for name in RunFacts._fields)
_STRAND_COLUMNS = tuple(strands.c[name] for name in StrandRow._fields)


@lru_cache(maxsize=2)
def outputs(is_sqlite: bool) -> Statement:
    """What the stages of a run saved: name, encoded text and schema, in the order of their commits."""
    saved = select(checkpoints.c.stage, checkpoints.c.delta, checkpoints.c.saved_schema)
    found = saved.where(and_(checkpoints.c.run == _RUN_ID, checkpoints.c.item == ITEM_OF_RUN)).order_by(
        checkpoints.c.at
    )
    return Statement(found, is_sqlite=is_sqlite)


@lru_cache(maxsize=2)
def look(is_sqlite: bool) -> Statement:
    """Select a run and one of its strands, with the columns of ``RunFacts`` and ``StrandRow``; the clock; and the
    ``saved`` outputs.
    """
    joined = runs.join(strands, and_(strands.c.run == runs.c.id, strands.c.item == ITEM_OF_RUN))
    found = (
        select(*_RUN_COLUMNS, *_STRAND_COLUMNS, now(), saved(is_sqlite=is_sqlite))
        .select_from(joined)
        .where(and_(runs.c.id == _RUN_ID, strands.c.strand == bindparam("strand_id", type_=String)))
    )
    return Statement(found, is_sqlite=is_sqlite)


def saved(*, is_sqlite: bool) -> Any:
    """The outputs as JSON, for :func:`read_saved`; NULL where there are none, and on SQLite, where a query is cheap."""
    return saved_of(_RUN_ID, is_sqlite=is_sqlite)


def saved_of(run: Any, *, is_sqlite: bool) -> Any:
    """The same of a run that another part of the statement names."""
    if is_sqlite:
        return null()
    columns = (checkpoints.c.stage, checkpoints.c.delta, checkpoints.c.saved_schema, checkpoints.c.at)
    # In any order; ``read_saved`` sorts them.
    own = and_(checkpoints.c.run == run, checkpoints.c.item == ITEM_OF_RUN)
    some = select(*columns).where(own).limit(MOST_OUTPUTS + 1).subquery("some")
    large = func.octet_length(some.c.delta) > literal_column(str(LARGE), Integer)
    kept = (case((large, null()), else_=column) for column in (some.c.delta, some.c.saved_schema))
    return select(cast(func.json_agg(func.json_build_array(some.c.at, some.c.stage, *kept)), Text)).scalar_subquery()


def read_saved(text: str | None) -> dict[str, Saved] | None:
    """The outputs by stage, from what ``saved`` returned; None if there were none or too many: query them instead."""
    rows = [] if text is None else json.loads(text)
    if not 0 < len(rows) <= MOST_OUTPUTS or any(schema is None for _at, _stage, _delta, schema in rows):
        return None
    rows.sort(key=itemgetter(0))
    return by_stage(row[1:] for row in rows)


def by_stage(rows: Iterable[Sequence[Any]]) -> dict[str, Saved]:
    """Rows of stage, encoded text and schema."""
    return {stage: Saved(delta, schema) for stage, delta, schema in rows}


# --- the facts of a transition ----------------------------------------------------------------------------------------


SHAPING = (
    *("pipeline", "version", "definition", "queue", "priority", "phase", "status", "cause", "park_reason"),
    *("error", "error_stage", "pivot_passed", "finished_at"),
)
"""Columns of a run on which a decision about its stages may depend; of the deadline, only whether there is one."""

shaping = attrgetter(*SHAPING)
"""Gives their values for a run."""


def facts_with(run: RunFacts, plan: Plan, clock: float, seq: int, head: str, row: StrandRow) -> Facts:
    """The facts, with one strand that goes forward. On a line that is the only one; strands of earlier undos are at
    rest. That the owner is alive and the attempt's number is free is assumed here, and checked by the statement that
    applies the change.
    """
    strands = {row.strand: row} if plan.is_line else SomeStrands(row)
    return Facts(run, plan, clock, seq, head, {Part.STRANDS: strands, Part.ALIVE: True}, number_free=True)


def strand_of(work: Work) -> StrandRow:
    """The strand of an attempt in hand, as far as the attempt knows it."""
    return StrandRow(
        run=work.run.id,
        strand=work.strand,
        direction=work.direction,
        stage=work.stage,
        state=StrandState.RUNNING,
        gen=work.gen,
        owner=work.owner,
        attempt=work.attempt,
        tries=work.tries,
        lost=work.lost,
        delay=work.delay,
        first_at=work.first_at,
        wake_at=None,
        published_at=None,
        nudges=0,
        queue=work.queue,
        progress=None,
        began_at=work.began_at,
        kill_by=None,
    )


class _Unknown:
    """Stands for a column that a hint does not contain."""

    def __bool__(self) -> bool:
        raise NotLoaded(Part.RUN)

    def __add__(self, _other: object) -> Any:
        raise NotLoaded(Part.RUN)

    __rsub__ = __add__


_UNKNOWN_RUN: RunFacts = RunFacts._make([_Unknown()] * len(RunFacts._fields))


def begun_as_hinted(run_id: str, plan: Plan, at: float, seq: int, head: str, told: Mapping[str, Any]) -> RunFacts:
    """The run of a hint that held, as its begin left it. ``told``: what the database answered."""
    return RunFacts(
        id=run_id,
        pipeline=plan.pipeline,
        version=plan.version,
        definition=plan.digest,
        phase=Phase.FORWARD,
        status=RunStatus.RUNNING,
        park_reason=None,
        seq=seq,
        head=head,
        updated_at=at,
        finished_at=None,
        **{**told, "cause": told["cause"] and Cause(told["cause"])},
    )


def is_untouched(row: StrandRow) -> bool:
    """Whether nobody has begun the strand's stage. Whatever clears ``first_at`` also clears the counters."""
    return row.state == StrandState.READY and not row.attempt and row.first_at is None


# --- the same with slots, for recipes ---------------------------------------------------------------------------------

_RUN, _AT, _SEQ, _HEAD, _GEN = (SLOTS[value] for value in (Value.RUN, Value.AT, Value.SEQ, Value.HEAD, Value.GEN))
_OTHER = SLOTS[Value.OTHER]


def any_run_like(run: RunFacts) -> RunFacts:
    """A run with slots, for all runs in the same situation as this one."""
    columns = dict.fromkeys(RunFacts._fields, _OTHER) | dict(zip(SHAPING, shaping(run), strict=True))
    return RunFacts(**columns | {"id": _RUN, "deadline": None if run.deadline is None else _OTHER})


def any_facts(run: RunFacts, plan: Plan, row: StrandRow) -> Facts:
    """The facts of such a run, with one strand."""
    return facts_with(run, plan, _AT, _SEQ, _HEAD, row)


def any_work_like(work: Work) -> Work:
    """An attempt with slots, for all attempts at the same place."""
    return work._replace(
        run=any_run_like(work.run),
        gen=_GEN,
        tries=_OTHER,
        lost=_OTHER,
        delay=_OTHER,
        first_at=_OTHER,
        began_at=SLOTS[Value.BEGAN_AT],
        seq=_SEQ,
        head=_HEAD,
        sent_at=_OTHER,
        saved=None,
        log=None if work.log is None else SLOTS[Value.LOG],
    )


def any_untouched_like(row: StrandRow) -> StrandRow:
    """A strand with slots, for all strands at the same place that nobody has begun."""
    untouched = NEW_STRAND._replace(strand=row.strand, stage=row.stage, queue=row.queue)
    return untouched._replace(run=_RUN, gen=_GEN, published_at=SLOTS[Value.SENT_AT])


def any_hinted(nudge: Nudge, hint: Hint, plan: Plan) -> tuple[Facts, StrandRow]:
    """Every run whose hint says the same of its strand, assuming that the hint still holds and the run is not late; the
    statement checks both.
    """
    run = _UNKNOWN_RUN._replace(
        id=_RUN,
        pipeline=plan.pipeline,
        version=plan.version,
        definition=plan.digest,
        phase=Phase.FORWARD,
        park_reason=None,
        pivot_passed=False,
        deadline=None,
        updated_at=_AT,
        finished_at=None,
    )
    row = NEW_STRAND._replace(run=_RUN, strand=nudge.strand, stage=hint.stage, gen=_GEN, queue=nudge.queue)
    return facts_with(run, plan, _AT, _SEQ, _HEAD, row), row


def any_nudge_like(nudge: Nudge) -> Nudge:
    """A message with slots, for all messages for a strand of this name."""
    return nudge._replace(run_id=_RUN, gen=_GEN, hint=None)


def any_new_like(new: NewRun) -> tuple[NewRun, Any]:
    """A request with slots, for all requests of the same kind, and a slot for its time."""
    alike = new._replace(
        id=_RUN,
        client_id=SLOTS[Value.CLIENT],
        key=None if new.key is None else SLOTS[Value.KEY],
        fingerprint=SLOTS[Value.FINGERPRINT],
        input=SLOTS[Value.INPUT],
        metadata=SLOTS[Value.METADATA],
        deadline=None if new.deadline is None else SLOTS[Value.DEADLINE],
        repeats=False,
    )
    return alike, _AT
