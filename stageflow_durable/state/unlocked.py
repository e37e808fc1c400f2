"""Deciding without the run's lock, on facts from a message's hint, a read, or the attempt in hand.

These are the transitions that also decide under the lock. Here they have fewer facts, and raise ``NotLoaded`` if those
are not enough. Every method returns None if it could not decide, or if the facts were out of date when it wrote; the
caller then decides again under the lock. A change that is the same for every run at its place is decided once: see
``recipes``. Read ``known`` for the facts, ``at_once`` for the write.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import Phase
from stageflow_durable.model.work import Claimant, Done, Hint, Nudge, RunFacts, Saved, Work
from stageflow_durable.state import at_once, known
from stageflow_durable.state.at_once import AtOnce, Notify
from stageflow_durable.state.driver import Driver
from stageflow_durable.state.forms import fits
from stageflow_durable.state.load import facts_of_values
from stageflow_durable.state.recipes import SLOTS, Decides, Recipe, Value
from stageflow_durable.store.carrying import created
from stageflow_durable.store.values import Created
from stageflow_durable.transitions import finish, start
from stageflow_durable.transitions.accept import GENESIS, NewRun, accept
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.facts import Facts, NotLoaded
from stageflow_durable.transitions.rows import StrandRow

_RUN_COLUMNS = len(RunFacts._fields)
_UNUSED = (None,) * (Value.LOG - Value.SENT_AT)
"""What only the recipe of a new run has values for."""

MOST_RECIPES = 4096
"""How many recipes are kept; beyond that all are dropped and made again."""

Decided: TypeAlias = tuple[Change | None, StrandRow | None]
"""A change, and the strand on which it was decided."""


class Unlocked:
    """Decides and writes without the run's lock. ``hints``: whether messages carry hints, and hints are used;
    ``notify``: as of :class:`AtOnce`.
    """

    def __init__(self, driver: Driver, audit_key: bytes, *, hints: bool, notify: Notify) -> None:
        self._driver = driver
        self._audit = audit_key
        self._at_once = AtOnce(driver, audit_key, hints=hints, notify=notify)
        self._hints = hints
        self._recipes: dict[tuple[Any, ...], Recipe | None] = {}

    def _recipe(self, place: tuple[Any, ...], decide: Callable[[], Decided], *, hinted: bool = False) -> Recipe | None:
        """The recipe for every run at this place; None if what is written depends on the run."""
        try:
            return self._recipes[place]
        except KeyError:
            pass
        if len(self._recipes) >= MOST_RECIPES:
            self._recipes.clear()
        try:
            change, held = decide()
            made = None if change is None else Recipe(change, held, self._audit, hinted=hinted)
        except Decides:
            made = None
        self._recipes[place] = made
        return made

    def create(self, new: NewRun) -> Created | None:
        """Record a run. None if it has too many strands for one statement, its key is taken, or somebody is named who
        asked for it: that is in its first event.
        """
        if new.actor is not None:
            return None

        def decide() -> Decided:
            return _fitting(accept(*known.any_new_like(new))), None

        place = ("accept", new.plan.digest, new.queue, new.priority, new.key is None, new.deadline is None)
        recipe = None if new.attributes else self._recipe(place, decide)
        if recipe is None:
            change = accept(new, self._driver.clock())
            return created(self._at_once.create(change)) if fits(change) else None
        given = (new.client_id, new.key, new.fingerprint, new.input, new.metadata, new.deadline)
        values = (new.id, self._driver.clock(), 0, GENESIS, None, None, None, None, *given)
        filled = recipe.fill(values)
        if not self._at_once.write(filled.form, filled.given):
            return None
        return Created(new.id, False, recipe.nudges(values, filled.head if self._hints else None))

    def outputs(self, run_id: str) -> dict[str, Saved]:
        """Encoded outputs by stage."""
        return known.by_stage(self._driver.rows(known.outputs(self._driver.is_sqlite), {"run_id": run_id}))

    # --- begin --------------------------------------------------------------------------------------------------------

    def begin(self, nudge: Nudge, claimant: Claimant) -> Work | None:
        """Begin a strand that is ready, if its run goes forward under this process's definition."""
        begun = None if nudge.hint is None or not self._hints else self._begin_as_hinted(nudge, nudge.hint, claimant)
        return begun or self._look_and_begin(nudge, claimant)

    def _begin_as_hinted(self, nudge: Nudge, hint: Hint, claimant: Claimant) -> Work | None:
        plan = next((plan for plan in claimant.plans.values() if plan.digest == hint.definition), None)
        if plan is None or hint.stage not in plan.by_name:
            return None

        def decide() -> Decided:
            facts, row = known.any_hinted(nudge, hint, plan)
            return _decide(facts, lambda facts: start.begin(facts, known.any_nudge_like(nudge), claimant)), row

        place = (
            "hint",
            plan.digest,
            nudge.strand,
            hint.stage,
            nudge.queue,
            claimant.owner,
            _limit(claimant, plan, hint.stage),
        )
        recipe = self._recipe(place, decide, hinted=True)
        if recipe is None:
            return None
        at = self._driver.clock()
        values = (nudge.run_id, at, hint.seq, hint.head, nudge.gen, None, None, None)
        filled = recipe.fill(values)
        answer = self._at_once.write_hinted(filled.form, filled.given)
        if answer is None:
            return None
        *asked, queue, sent_at, saved = answer
        told = dict(zip(at_once.HINTED, asked, strict=True))
        run = known.begun_as_hinted(nudge.run_id, plan, at, hint.seq + 1, filled.head, told)
        work = recipe.granted(values, run, filled.head)
        return work and work._replace(queue=queue, sent_at=sent_at, saved=known.read_saved(saved))

    def _look_and_begin(self, nudge: Nudge, claimant: Claimant) -> Work | None:
        looked = known.look(self._driver.is_sqlite)
        read = self._driver.row(looked, {"run_id": nudge.run_id, "strand_id": nudge.strand})
        if read is None:
            return None
        run, row = facts_of_values(read[:_RUN_COLUMNS]), StrandRow(*read[_RUN_COLUMNS:-2])
        plan, clock = claimant.plans.get(run.pipeline), float(read[-2])
        if plan is None or plan.digest != run.definition or row.direction != Phase.FORWARD:
            return None
        begun = self._begin_untouched(nudge, claimant, plan, run, row, clock) if known.is_untouched(row) else None
        if begun is None:
            facts = known.facts_with(run, plan, clock, run.seq, run.head, row)
            change = _decide(facts, lambda facts: start.begin(facts, nudge, claimant))
            applied = change and self._at_once.apply(change, row)
            begun = applied and applied.granted
        return begun and _with_saved(begun, clock, read[-1])

    def _begin_untouched(
        self, nudge: Nudge, claimant: Claimant, plan: Plan, run: RunFacts, row: StrandRow, clock: float
    ) -> Work | None:
        if row.gen != nudge.gen:
            return None

        def decide() -> Decided:
            alike = known.any_untouched_like(row)
            facts = known.any_facts(known.any_run_like(run), plan, alike)
            return _decide(facts, lambda facts: start.begin(facts, known.any_nudge_like(nudge), claimant)), alike

        limit, deadline = _limit(claimant, plan, row.stage), run.deadline is None
        place = ("begin", row.strand, row.stage, row.queue, claimant.owner, limit, deadline, *known.shaping(run))
        recipe = self._recipe(place, decide)
        if recipe is None:
            return None
        values = (run.id, clock, run.seq, run.head, row.gen, None, None, row.published_at)
        filled = recipe.fill(values)
        return recipe.granted(values, run, filled.head) if self._at_once.write(filled.form, filled.given) else None

    # --- the ends of an attempt ---------------------------------------------------------------------------------------

    def succeed(self, work: Work, claimant: Claimant, delta: str, *, go_on: bool) -> Done | None:
        """Save a stage's output and move on, by a recipe. None if there is none for this place."""
        run, plan, onward = work.run, work.plan, work.plan.next_on_strand.get(work.stage)

        def decide() -> Decided:
            alike = known.any_work_like(work)
            row, next_in = known.strand_of(alike), claimant if go_on else None
            facts = known.any_facts(alike.run, plan, row)
            return _decide(facts, lambda facts: finish.succeed(facts, alike, next_in, SLOTS[Value.DELTA])), row

        ours = claimant.plans.get(run.pipeline)
        place = (
            plan.digest,
            ours and ours.digest,
            work.strand,
            work.stage,
            work.attempt,
            work.owner,
            work.queue,
            go_on,
            claimant.owner,
            onward and _limit(claimant, plan, onward),
            run.deadline is None,
            work.log is None,
            *known.shaping(run),
        )
        recipe = self._recipe(place, decide)
        if recipe is None:
            return None
        values = (run.id, self._driver.clock(), work.seq, work.head, work.gen, work.began_at, delta, *_UNUSED, work.log)
        filled = recipe.fill(values)
        if not self._at_once.write(filled.form, filled.given, ended=recipe.ended):
            return None
        nudges = recipe.nudges(values, filled.head if self._hints else None)
        return Done(recipe.granted(values, run, filled.head), nudges, recipe.ended)

    def end(self, work: Work, decide: Callable[[Facts], Any]) -> Change | None:
        """Let a transition end an attempt of an action, if the attempt in hand has all the facts that it needs."""
        if work.undoing:
            return None
        row = known.strand_of(work)
        facts = known.facts_with(work.run, work.plan, self._driver.clock(), work.seq, work.head, row)
        change = _decide(facts, decide)
        return change and self._at_once.apply(change, row)


def _decide(facts: Facts, decide: Callable[[Facts], Any]) -> Change | None:
    try:
        decided = decide(facts)
    except NotLoaded:
        return None
    return _fitting(decided) if isinstance(decided, Change) else None


def _fitting(change: Change) -> Change | None:
    return change if fits(change) else None


def _limit(claimant: Claimant, plan: Plan, stage: str) -> float | None:
    return claimant.timeouts.get((plan.pipeline, stage))


def _with_saved(begun: Work, at: float, saved: str | None) -> Work:
    """The attempt that began, with the run as it is now and what its stages had saved. Both are current: nothing but
    this beginning has changed the run since they were read.
    """
    run = begun.run._replace(seq=begun.seq, head=begun.head, updated_at=at)
    return begun._replace(run=run, saved=known.read_saved(saved))
