"""Facts that are known without the run's lock: from the attempt in hand, a read, a message's hint, or a request.

The functions ``any_…`` make the same facts with slots, for a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import Cause, Phase, RunStatus, StrandState
from stageflow_durable.model.work import Hint, Nudge, RunFacts, Work
from stageflow_durable.state.recipes import SLOTS, Value
from stageflow_durable.transitions.accept import NewRun
from stageflow_durable.transitions.facts import Facts, NotLoaded, Part, SomeStrands
from stageflow_durable.transitions.rows import NEW_STRAND, StrandRow

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
        work.run.id,
        work.strand,
        work.direction,
        work.stage,
        StrandState.RUNNING,
        work.gen,
        work.owner,
        work.attempt,
        work.tries,
        work.lost,
        work.delay,
        work.first_at,
        None,
        None,
        0,
        work.queue,
        None,
        work.began_at,
        None,
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
