"""Deciding without the run's lock, on what a message, a look or the attempt in hand tells.

The transitions are those that decide under the lock: they have fewer facts here, and say so where those do not
suffice. Every function returns None where it could not decide, or nobody may believe it any more: the caller then
decides again under the lock.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import Cause, Phase, RunStatus, StrandState
from stageflow_durable.model.work import Done, Hint, Nudge, RunFacts, Saved, Work
from stageflow_durable.state import at_once, looks
from stageflow_durable.state.at_once import AtOnce
from stageflow_durable.state.driver import Driver
from stageflow_durable.state.forms import fits
from stageflow_durable.state.load import facts_of_values
from stageflow_durable.state.recipes import SLOTS, Decides, Recipe, Value
from stageflow_durable.state.runs import Created, created
from stageflow_durable.transitions import finish, start
from stageflow_durable.transitions.accept import NewRun, accept
from stageflow_durable.transitions.attempt import Taker
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.facts import Facts, NotLoaded, Part, SomeStrands
from stageflow_durable.transitions.rows import NEW_STRAND, StrandRow

_RUN_COLUMNS = len(RunFacts._fields)
_OF_PLACE = (
    *("pipeline", "version", "definition", "queue", "priority", "phase", "status", "cause", "park_reason"),
    *("error", "error_stage", "pivot_passed"),
)
"""Columns of a run that may shape what becomes of its stage."""

_of_place = attrgetter(*_OF_PLACE)

MOST_RECIPES = 4096
"""How many are kept; beyond, they are made anew."""


class Unlocked:
    """Decides and writes without a lock, on one database. ``hints``: whether messages carry some, and are believed."""

    def __init__(self, driver: Driver, audit_key: bytes, *, hints: bool) -> None:
        self._driver = driver
        self._audit = audit_key
        self._at_once = AtOnce(driver, audit_key, hints=hints)
        self._recipes: dict[tuple[Any, ...], Recipe | None] = {}
        self._hints = hints

    def create(self, new: NewRun) -> Created | None:
        """Record a run. None: it has many strands, or its key is taken."""
        change = accept(new, self._driver.clock())
        return created(self._at_once.create(change)) if fits(change) else None

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

    def succeed(self, work: Work, taker: Taker, delta: str, *, go_on: bool) -> Done | None:
        """Save what a stage of a line added, and move on: what is decided is the same for every run that stands there,
        so that it is decided once. None too where it is not the same.
        """
        known, onward, run = taker.plans.get(work.run.pipeline), work.plan.next_on_strand.get(work.stage), work.run
        place = (
            work.plan.digest,
            known and known.digest,
            work.strand,
            work.direction,
            work.stage,
            work.attempt,
            work.owner,
            work.queue,
            go_on,
            taker.owner,
            taker.timeouts.get((run.pipeline, onward or "")),
            run.deadline is None,
            *_of_place(run),
        )
        try:
            recipe = self._recipes[place]
        except KeyError:
            if len(self._recipes) >= MOST_RECIPES:
                self._recipes.clear()
            recipe = self._recipes[place] = _recipe(work, taker if go_on else None, self._audit)
        if recipe is None:
            return None
        values = (run.id, self._driver.clock(), work.seq, work.head, work.gen, work.began_at, delta)
        filled = recipe.fill(values)
        if not self._at_once.write(filled.form, filled.given):
            return None
        head = filled.head
        nudges = recipe.nudges(values, head if self._hints else None)
        return Done(recipe.granted(values, run, head), nudges, recipe.ended)

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
    return decided if isinstance(decided, Change) and fits(decided) else None


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


def _recipe(work: Work, taker: Taker | None, audit_key: bytes) -> Recipe | None:
    """What becomes of a stage that is done, for every run that stands where ``work`` does."""
    slot, other = SLOTS, SLOTS[Value.OTHER]
    columns = dict.fromkeys(RunFacts._fields, other) | {name: getattr(work.run, name) for name in _OF_PLACE}
    columns |= {"id": slot[Value.RUN], "deadline": None if work.run.deadline is None else other}
    run = RunFacts(**columns)
    alike = Work(
        run,
        work.plan,
        work.strand,
        work.direction,
        work.stage,
        slot[Value.GEN],
        work.owner,
        work.attempt,
        other,
        other,
        other,
        other,
        slot[Value.BEGAN_AT],
        work.queue,
        slot[Value.SEQ],
        slot[Value.HEAD],
    )
    row = _row_of(alike)
    facts = _facts(run, work.plan, slot[Value.AT], slot[Value.SEQ], slot[Value.HEAD], row)
    try:
        change = _decide(facts, lambda known: finish.succeed(known, alike, taker, slot[Value.DELTA]))
        return change and Recipe(change, row, audit_key)
    except Decides:
        return None


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
