"""Facts that are known without the run's lock: from an attempt in hand, a look, a message's hint, a request."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import Phase, StrandState
from stageflow_durable.model.work import Hint, Nudge, RunFacts, Work
from stageflow_durable.state.recipes import SLOTS, Value
from stageflow_durable.transitions.accept import NewRun
from stageflow_durable.transitions.facts import Facts, NotLoaded, Part, SomeStrands
from stageflow_durable.transitions.rows import NEW_STRAND, StrandRow

SHAPING = (
    *("pipeline", "version", "definition", "queue", "priority", "phase", "status", "cause", "park_reason"),
    *("error", "error_stage", "pivot_passed", "finished_at"),
)
"""Columns of a run that may shape what becomes of its stages; a deadline does so by being there."""

shaping = attrgetter(*SHAPING)
"""Their values, of a run."""


def facts_with(run: RunFacts, plan: Plan, clock: float, seq: int, head: str, row: StrandRow) -> Facts:
    """What is known with one strand that goes forward. On a line it is the only one: what was undone before is at rest.
    The statement that applies the change makes sure that the owner lives, and that the attempt's number is free.
    """
    strands = {row.strand: row} if plan.is_line else SomeStrands(row)
    return Facts(run, plan, clock, seq, head, {Part.STRANDS: strands, Part.ALIVE: True}, number_free=True)


def strand_of(work: Work) -> StrandRow:
    """The strand of an attempt in hand, as far as the attempt tells."""
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
    """In the place of a column that a hint does not tell."""

    def __bool__(self) -> bool:
        raise NotLoaded(Part.RUN)

    def __add__(self, _other: object) -> Any:
        raise NotLoaded(Part.RUN)

    __rsub__ = __add__


_UNKNOWN_RUN: RunFacts = RunFacts._make([_Unknown()] * len(RunFacts._fields))


def hinted(nudge: Nudge, hint: Hint, plan: Plan, clock: float) -> tuple[Facts, StrandRow]:
    """A run and its strand as they are when the hint holds, and the run is not late: the statement makes sure."""
    run = _UNKNOWN_RUN._replace(
        id=nudge.run_id,
        pipeline=plan.pipeline,
        version=plan.version,
        definition=plan.digest,
        phase=Phase.FORWARD,
        park_reason=None,
        pivot_passed=False,
        deadline=None,
        updated_at=clock,
        finished_at=None,
    )
    row = NEW_STRAND._replace(run=nudge.run_id, strand=nudge.strand, stage=hint.stage, gen=nudge.gen, queue=nudge.queue)
    return facts_with(run, plan, clock, hint.seq, hint.head, row), row


def is_untouched(row: StrandRow) -> bool:
    """Whether nobody has begun the strand where it stands. Whatever clears ``first_at`` clears its counters."""
    return row.state == StrandState.READY and not row.attempt and row.first_at is None


# --- the same with slots, for a recipe --------------------------------------------------------------------------------

_RUN, _AT, _SEQ, _HEAD, _GEN = (SLOTS[value] for value in (Value.RUN, Value.AT, Value.SEQ, Value.HEAD, Value.GEN))
_OTHER = SLOTS[Value.OTHER]


def any_run_like(run: RunFacts) -> RunFacts:
    """Every run that stands as this one does."""
    columns = dict.fromkeys(RunFacts._fields, _OTHER) | dict(zip(SHAPING, shaping(run), strict=True))
    return RunFacts(**columns | {"id": _RUN, "deadline": None if run.deadline is None else _OTHER})


def any_facts(run: RunFacts, plan: Plan, row: StrandRow) -> Facts:
    """What is known of such a run with one strand."""
    return facts_with(run, plan, _AT, _SEQ, _HEAD, row)


def any_work_like(work: Work) -> Work:
    """Every attempt at the place of this one."""
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
    """Every strand at the place of this one, which nobody has begun."""
    untouched = NEW_STRAND._replace(strand=row.strand, stage=row.stage, queue=row.queue)
    return untouched._replace(run=_RUN, gen=_GEN, published_at=SLOTS[Value.SENT_AT])


def any_hinted(nudge: Nudge, hint: Hint, plan: Plan) -> tuple[Facts, StrandRow]:
    """Every run whose hint says the same of its strand."""
    return hinted(any_nudge_like(nudge), Hint(_SEQ, _HEAD, hint.definition, hint.stage), plan, _AT)


def any_nudge_like(nudge: Nudge) -> Nudge:
    """Every message for the strand of this name."""
    return nudge._replace(run_id=_RUN, gen=_GEN, hint=None)


def any_new_like(new: NewRun) -> tuple[NewRun, Any]:
    """Every request like this one, and its time."""
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
