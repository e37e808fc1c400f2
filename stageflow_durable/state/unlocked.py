"""Deciding without the run's lock, on what a message, a look or the attempt in hand tells.

The transitions are those that decide under the lock: they have fewer facts here, and say so where those do not
suffice. Every function returns None where it could not decide, or nobody may believe it any more: the caller then
decides again under the lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import Cause, Phase, RunStatus, StrandState
from stageflow_durable.model.work import Hint, Nudge, RunFacts, Saved, Work
from stageflow_durable.state import at_once, looks
from stageflow_durable.state.at_once import AtOnce
from stageflow_durable.state.driver import Driver
from stageflow_durable.state.load import facts_of_values
from stageflow_durable.state.runs import Created, created
from stageflow_durable.transitions import start
from stageflow_durable.transitions.accept import NewRun, accept
from stageflow_durable.transitions.attempt import Taker
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.facts import Facts, NotLoaded, Part, SomeStrands
from stageflow_durable.transitions.rows import NEW_STRAND, StrandRow

_RUN_COLUMNS = len(RunFacts._fields)


class Unlocked:
    """Decides and writes without a lock, on one database. ``hints``: whether messages carry some, and are believed."""

    def __init__(self, driver: Driver, audit_key: bytes, *, hints: bool) -> None:
        self._driver = driver
        self._at_once = AtOnce(driver, audit_key, hints=hints)
        self._hints = hints

    def create(self, new: NewRun) -> Created | None:
        """Record a run. None: it has many strands, or its key is taken."""
        change = accept(new, self._driver.clock())
        return created(self._at_once.create(change)) if at_once.fits(change) else None

    def outputs(self, run_id: str) -> dict[str, Saved]:
        """Encoded outputs by stage."""
        return looks.by_stage(self._driver.rows(looks.outputs(self._driver.is_sqlite), {"run_id": run_id}))

    # --- begin --------------------------------------------------------------------------------------------------------

    def begin(self, nudge: Nudge, taker: Taker) -> Work | None:
        """Take a strand that is ready, when its run goes forward under this process's definition."""
        at_once = None if nudge.hint is None or not self._hints else self._begin_as_hinted(nudge, nudge.hint, taker)
        return at_once or self._look_and_begin(nudge, taker)

    def _begin_as_hinted(self, nudge: Nudge, hint: Hint, taker: Taker) -> Work | None:
        plan = next((plan for plan in taker.plans.values() if plan.digest == hint.definition), None)
        if plan is None or hint.stage not in plan.by_name:
            return None
        facts, row = _hinted(nudge, hint, plan, self._driver.clock())
        change = _decide(facts, lambda known: start.begin(known, nudge, taker))
        begun = change and self._at_once.begin_hinted(change, row)
        if begun is None:
            return None
        change, (*asked, queue, published_at, saved) = begun
        assert change.granted is not None
        told = dict(zip(at_once.HINTED, asked, strict=True))
        run = facts.run._replace(**told | {"cause": told["cause"] and Cause(told["cause"])}, status=RunStatus.RUNNING)
        granted = change.granted._replace(run=run, queue=queue, sent_at=published_at)
        return _with_saved(granted, facts.clock, saved)

    def _look_and_begin(self, nudge: Nudge, taker: Taker) -> Work | None:
        looked = looks.look(self._driver.is_sqlite)
        read = self._driver.row(looked, {"run_id": nudge.run_id, "strand_id": nudge.strand})
        if read is None:
            return None
        run, row = facts_of_values(read[:_RUN_COLUMNS]), StrandRow(*read[_RUN_COLUMNS:-2])
        plan, clock = taker.plans.get(run.pipeline), float(read[-2])
        if plan is None or plan.digest != run.definition or row.direction != Phase.FORWARD:
            return None
        facts = _facts(run, plan, clock, run.seq, run.head, row)
        change = _decide(facts, lambda known: start.begin(known, nudge, taker))
        begun = change and self._at_once.apply(change, row)
        return begun and begun.granted and _with_saved(begun.granted, clock, read[-1])

    # --- the ends of an attempt ---------------------------------------------------------------------------------------

    def end(self, work: Work, decide: Callable[[Facts], Any]) -> Change | None:
        """Let a transition end an attempt of an action, when it needs no more than the attempt tells."""
        if work.undoing:
            return None
        row = _row_of(work)
        change = _decide(_facts(work.run, work.plan, self._driver.clock(), work.seq, work.head, row), decide)
        return change and self._at_once.apply(change, row)


def _with_saved(begun: Work, at: float, saved: str | None) -> Work:
    """What was begun, with the run as it is now and what its stages had saved: since that was read, the run's number
    has risen by this beginning alone.
    """
    run = begun.run._replace(seq=begun.seq, head=begun.head, updated_at=at)
    return begun._replace(run=run, saved=looks.read(saved))


def _decide(facts: Facts, decide: Callable[[Facts], Any]) -> Change | None:
    try:
        decided = decide(facts)
    except NotLoaded:
        return None
    return decided if isinstance(decided, Change) and at_once.fits(decided) else None


def _facts(run: RunFacts, plan: Plan, clock: float, seq: int, head: str, row: StrandRow) -> Facts:
    """What is known with one strand that goes forward. On a line it is the only one: what was undone before is at rest.
    The statement that applies the change makes sure that the owner lives, and that the attempt's number is free.
    """
    strands = {row.strand: row} if plan.is_line else SomeStrands(row)
    return Facts(run, plan, clock, seq, head, {Part.STRANDS: strands, Part.ALIVE: True}, number_free=True)


def _row_of(work: Work) -> StrandRow:
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


_UNKNOWN_RUN: RunFacts = RunFacts._make([_Unknown()] * _RUN_COLUMNS)


def _hinted(nudge: Nudge, hint: Hint, plan: Plan, clock: float) -> tuple[Facts, StrandRow]:
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
    return _facts(run, plan, clock, hint.seq, hint.head, row), row
