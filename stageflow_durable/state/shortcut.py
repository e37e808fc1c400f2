"""Taking the short way where it is open: builds the parameters of ``fast``, and the work that comes of it.

Each function answers None where the short way is not open or did not match; the caller then goes the long way, which
is always right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import IntegrityError

from stageflow_durable.codec import encode
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import Cause, Phase, RunStatus, StrandState
from stageflow_durable.model.work import Done, Hint, Nudge, RunFacts, Saved, Work
from stageflow_durable.state import fast, looks
from stageflow_durable.state.audit import EventRow, seal
from stageflow_durable.state.driver import Driver
from stageflow_durable.state.fast import MAX_EVENTS, Move, Shape
from stageflow_durable.state.load import facts_of_values
from stageflow_durable.state.path_events import begun_event, ok_event, succeeded_event
from stageflow_durable.state.runs import Created, NewRun, accepted, columns_of, first_nudges, queue_of
from stageflow_durable.transitions.attempt import Kept, Taker
from stageflow_durable.transitions.rows import StrandRow
from stageflow_durable.transitions.start import EARLY_SECONDS

_RUN_COLUMNS = len(RunFacts._fields)

Encoded = tuple[tuple[str, str], ...]
"""Events: type and encoded data."""


@dataclass(frozen=True, slots=True)
class Saving:
    """A stage's outcome to be saved: its encoded output, the events its body asked for, whether its owner would go
    on.
    """

    work: Work
    delta: str
    events: Kept
    go_on: bool


class Shortcut:
    """The short way on one database. ``hints``: whether nudges carry some, and are believed."""

    def __init__(self, driver: Driver, audit_key: bytes, *, hints: bool) -> None:
        self._driver = driver
        self._audit = audit_key
        self._hints = hints

    # --- accept -------------------------------------------------------------------------------------------------------

    def create(self, new: NewRun) -> Created | None:
        """Record a run of one strand. None: more strands, or its key is taken."""
        if len(new.plan.roots) != 1:
            return None
        at, root = self._driver.clock(), new.plan.roots[0]
        event = accepted(new, at, self._audit)
        given = {
            **columns_of(new, at, event),
            "run_id": new.id,
            "at": at,
            "root": root,
            "root_queue": queue_of(new, root),
            **_event_values([event]),
        }
        if self._driver.is_sqlite:
            first, rest = fast.create_on_sqlite()
            made = self._driver.run_if(first, rest, given)
        else:
            made = self._driver.touched(fast.create_on_postgresql(), given)
        return Created(new.id, False, first_nudges(new, event.mac if self._hints else None)) if made else None

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
        at = self._driver.clock()
        begun = self._begun(plan, hint.stage, 1, taker)
        sealed = self._sealed(nudge.run_id, hint.seq, hint.head, at, (begun,))
        given = {
            "run_id": nudge.run_id,
            "strand_id": nudge.strand,
            "my_gen": nudge.gen,
            "me": taker.owner,
            "at": at,
            "first_at": at,
            "seen_definition": hint.definition,
            **_next(plan, hint.stage, 1, taker, at),
            **_event_values(sealed),
        }
        read = self._found(Shape(Move.BEGIN, 1, intends=plan.by_name[hint.stage].undo is not None, hinted=True), given)
        if read is None:
            return None
        *asked, queue, published_at, saved = read
        run = _as_hinted(plan, sealed[-1], dict(zip(fast.HINTED, asked, strict=True)))
        row = StrandRow(
            run=run.id,
            strand=nudge.strand,
            direction=Phase.FORWARD,
            stage=hint.stage,
            state=StrandState.READY,
            gen=nudge.gen,
            published_at=published_at,
            queue=queue,
            **fast.UNTOUCHED,
        )
        return _work(run, row, plan, taker.owner, 1, at, at, saved)

    def _look_and_begin(self, nudge: Nudge, taker: Taker) -> Work | None:
        looked = looks.look(self._driver.is_sqlite)
        read = self._driver.row(looked, {"run_id": nudge.run_id, "strand_id": nudge.strand})
        if read is None:
            return None
        run, row = facts_of_values(read[:_RUN_COLUMNS]), StrandRow(*read[_RUN_COLUMNS:-2])
        plan, clock = taker.plans.get(run.pipeline), float(read[-2])
        if plan is None or not _open(run, row, nudge, plan, clock):
            return None
        return self._begin(run, row, plan, taker, clock, read[-1])

    def _begin(
        self, run: RunFacts, row: StrandRow, plan: Plan, taker: Taker, clock: float, saved: str | None
    ) -> Work | None:
        number, first_at = row.attempt + 1, clock if row.first_at is None else row.first_at
        begun = self._begun(plan, row.stage, number, taker)
        sealed = self._sealed(run.id, run.seq, run.head, clock, (begun,))
        given = {
            "run_id": run.id,
            "strand_id": row.strand,
            "my_gen": row.gen,
            "me": taker.owner,
            "at": clock,
            "first_at": first_at,
            **_next(plan, row.stage, number, taker, clock),
            **_event_values(sealed),
        }
        if not self._apply(Shape(Move.BEGIN, 1, intends=plan.by_name[row.stage].undo is not None), given):
            return None
        moved = run._replace(seq=sealed[-1].seq, head=sealed[-1].mac, status=RunStatus.RUNNING)
        return _work(moved, row, plan, taker.owner, number, first_at, clock, saved)

    # --- commit -------------------------------------------------------------------------------------------------------

    def save(self, saving: Saving, taker: Taker) -> Done | None:
        """Save an outcome and move on: to the next stage here, to a ready strand, or to the end of a run of one
        strand.
        """
        work = saving.work
        move = _move(saving)
        if move is None or len(saving.events) + 2 > MAX_EVENTS:
            return None
        at = self._driver.clock()
        if move is Move.GRANT and work.run.is_late(at):
            move = Move.HAND_ON  # the deadline has passed: the sweep stops the run, nothing begins
        onward = work.plan.next_on_strand.get(work.stage)
        sealed = self._sealed(work.run.id, work.seq, work.head, at, self._saved(saving, move, onward, at))
        given = {
            "run_id": work.run.id,
            "strand_id": work.strand,
            "my_gen": work.gen,
            "me": work.owner,
            "my_stage": work.stage,
            "my_attempt": work.attempt,
            "began_at": work.began_at,
            "at": at,
            "delta": saving.delta,
            "saved_schema": work.plan.schema,
            **_event_values(sealed),
            **({} if onward is None else _next(work.plan, onward, 1, taker, at)),
        }
        if not self._apply(self._shape(work, move, onward, len(sealed)), given):
            return None
        return _done(work, move, onward, sealed[-1], at, hints=self._hints)

    def _shape(self, work: Work, move: Move, onward: str | None, events: int) -> Shape:
        planned = work.plan.by_name
        intends = move is Move.GRANT and onward is not None and planned[onward].undo is not None
        return Shape(move, events, records=planned[work.stage].undo is not None, intends=intends)

    def _saved(self, saving: Saving, move: Move, onward: str | None, at: float) -> Encoded:
        work = saving.work
        kept = tuple((kind, encode({**data, "stage": work.stage})) for kind, data in saving.events)
        ok = ok_event(self._audit, work, saving.delta, onward if move is Move.GRANT else None)
        return (*kept, ok, succeeded_event(at, vouched=bool(self._audit))) if move is Move.FINISH else (*kept, ok)

    def _begun(self, plan: Plan, stage: str, number: int, taker: Taker) -> tuple[str, str]:
        planned = plan.by_name[stage]
        return begun_event(stage, number, taker.owner, planned.pivot, planned.undo is not None, bool(self._audit))

    # --- both ---------------------------------------------------------------------------------------------------------

    def _found(self, shape: Shape, given: dict[str, Any]) -> tuple[Any, ...] | None:
        try:
            return self._driver.row(fast.for_postgresql(shape), given)
        except IntegrityError:
            return None  # as below

    def _sealed(self, run_id: str, seq: int, head: str, at: float, events: Encoded) -> list[EventRow]:
        sealed: list[EventRow] = []
        for kind, data in events:
            event = seal(self._audit, run_id, seq + 1, kind, at, data, head)
            sealed.append(event)
            seq, head = event.seq, event.mac
        return sealed

    def _apply(self, shape: Shape, given: dict[str, Any]) -> bool:
        try:
            if self._driver.is_sqlite:
                first, rest = fast.for_sqlite(shape)
                return self._driver.run_if(first, rest, given)
            return self._driver.touched(fast.for_postgresql(shape), given)
        except IntegrityError:
            return False  # e.g. a stage that was done before, on another strand: nothing was written


def _open(run: RunFacts, row: StrandRow, nudge: Nudge, plan: Plan, clock: float) -> bool:
    due = row.state == StrandState.READY or (
        row.state == StrandState.WAITING and (row.wake_at or 0.0) <= clock + EARLY_SECONDS
    )
    return (
        due
        and row.gen == nudge.gen
        and run.phase is Phase.FORWARD
        and row.direction == Phase.FORWARD
        and plan.digest == run.definition
        and not run.is_late(clock)
    )


def _move(saving: Saving) -> Move | None:
    """Which short way is open after this stage, if any: no join, no branch, no change of queue."""
    work, plan = saving.work, saving.work.plan
    onward = plan.next_on_strand.get(work.stage)
    if onward is None:
        alone = len(plan.roots) == 1 and plan.remaining_on_strand(plan.roots[0]) == len(plan.stages)
        return Move.FINISH if alone else None
    if (plan.by_name[onward].queue or work.run.queue) != work.queue:
        return None
    return Move.GRANT if saving.go_on else Move.HAND_ON


def _next(plan: Plan, stage: str, number: int, taker: Taker, at: float) -> dict[str, Any]:
    limit = taker.timeouts.get((plan.pipeline, stage))
    return {
        "next_stage": stage,
        "next_attempt": number,
        "pivot": plan.by_name[stage].pivot,
        "kill_by": None if limit is None else at + limit,
    }


def _event_values(sealed: list[EventRow]) -> dict[str, Any]:
    values: dict[str, Any] = {"seen_seq": sealed[0].seq - 1, "seen_head": sealed[0].previous}
    for number, event in enumerate(sealed):
        values[f"e{number}_type"] = event.type
        values[f"e{number}_data"] = event.data
        values[f"e{number}_mac"] = event.mac
    return values


def _work(
    run: RunFacts,
    row: StrandRow,
    plan: Plan,
    owner: str,
    number: int,
    first_at: float,
    at: float,
    saved: str | None,
) -> Work:
    """What was just begun; ``row``: the strand as it was before."""
    return Work(
        run,
        plan,
        row.strand,
        Phase.FORWARD,
        row.stage,
        row.gen,
        owner,
        number,
        row.tries,
        row.lost,
        row.delay,
        first_at,
        at,
        row.queue,
        run.seq,
        run.head,
        row.published_at,
        looks.read(saved),  # up to date: since it was read the sequence number has not risen
    )


def _as_hinted(plan: Plan, begun: EventRow, told: dict[str, Any]) -> RunFacts:
    """The run of a hint that held, as its begin left it; ``told``: the database's answer."""
    return RunFacts(
        id=begun.run,
        pipeline=plan.pipeline,
        version=plan.version,
        definition=plan.digest,
        phase=Phase.FORWARD,
        status=RunStatus.RUNNING,
        park_reason=None,
        seq=begun.seq,
        head=begun.mac,
        updated_at=begun.at,
        finished_at=None,
        **told | {"cause": told["cause"] and Cause(told["cause"])},
    )


def _done(work: Work, move: Move, onward: str | None, last: EventRow, at: float, *, hints: bool) -> Done:
    if move is Move.FINISH or onward is None:
        return Done(ended=True)
    if move is Move.HAND_ON:
        links, mark = work.plan.remaining_on_strand(onward), last.seq
        hint = Hint(mark, last.mac, work.plan.digest, onward) if hints else None
        nudge = Nudge(work.run.id, work.strand, work.gen, work.queue, mark, links, work.run.priority, hint)
        return Done(nudges=(nudge,))
    passed = work.run.pivot_passed or work.plan.by_name[onward].pivot
    run = work.run if passed == work.run.pivot_passed else work.run._replace(pivot_passed=passed)
    return Done(
        Work(
            run,
            work.plan,
            work.strand,
            work.direction,
            onward,
            work.gen,
            work.owner,
            1,
            0,
            0,
            None,
            at,
            at,
            work.queue,
            last.seq,
            last.mac,
        )
    )
