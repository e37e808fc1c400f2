"""What is decided once for a place is written for each run as if it had been decided for it alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any, cast

import pytest

from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import Phase, RunStatus
from stageflow_durable.model.work import Claimant, Done, Nudge, RunFacts, Work
from stageflow_durable.state import known
from stageflow_durable.state.at_once import AtOnce
from stageflow_durable.state.driver import Driver, Statement
from stageflow_durable.state.recipes import SLOTS, Decides, Value
from stageflow_durable.state.unlocked import Unlocked
from stageflow_durable.transitions import finish, start
from stageflow_durable.transitions.accept import NewRun, accept
from stageflow_durable.transitions.rows import NEW_STRAND

ME = "host-1-2"
KEYS = pytest.mark.parametrize("audit_key", [b"", b"key"], ids=["no key", "audit key"])
CASES = pytest.mark.parametrize("seed", range(60))


class Written:
    """In the place of a database: whatever is written is kept, and was written."""

    is_sqlite = False

    def __init__(self, clock: float, read: tuple[Any, ...] | None = None) -> None:
        self.sent: list[tuple[str, list[Any]]] = []
        self._clock, self._read = clock, read

    def clock(self) -> float:
        return self._clock

    def touched(self, statement: Statement, given: dict[str, Any]) -> bool:
        self.sent.append((statement.sql, statement.prepared.values(given)))
        return True

    def row(self, statement: Statement, given: dict[str, Any]) -> tuple[Any, ...] | None:
        if statement.sql.startswith("WITH"):
            self.sent.append((statement.sql, statement.prepared.values(given)))
            return ("whoever awaits it",)
        return self._read


def news(_run_id: str, awaited_by: str, _ended: bool) -> None:
    assert awaited_by == "whoever awaits it"


def body(_ctx: Any) -> None:
    return None


def line(chance: Random) -> Plan:
    """A line of stages, with whatever may shape what becomes of them."""
    made: Pipeline[Any, Any] = Pipeline("line")
    pivot = chance.randrange(8)
    for number in range(chance.randint(1, 4)):
        undo: dict[str, Any] = {"compensate": body} if number < pivot and chance.random() < 0.5 else {}
        queue: dict[str, Any] = {"queue": chance.choice(["q", "other"])} if chance.random() < 0.3 else {}
        made = made.stage(f"s{number}", body, pivot=number == pivot, **undo, **queue)
    return made.plan


def run_of(plan: Plan, chance: Random, **columns: Any) -> RunFacts:
    """A run that goes forward."""
    new = NewRun(_text(chance), "c", plan, None, "f", "{}", "{}", "q", chance.choice([None, 5]))
    made = accept(new, chance.random()).facts.run
    return made._replace(status=RunStatus.RUNNING, seq=chance.randint(1, 99), head=_text(chance) * 4, **columns)


def _text(chance: Random) -> str:
    return f"{chance.getrandbits(64):016x}"


def attempt(plan: Plan, chance: Random, run: RunFacts) -> Work:
    """An attempt at one of its stages."""
    stage = chance.choice(plan.stages)
    return Work(
        run,
        plan,
        plan.roots[0],
        Phase.FORWARD,
        stage.name,
        chance.randint(0, 5),
        ME,
        chance.randint(1, 3),
        chance.randint(0, 3),
        chance.randint(0, 3),
        chance.choice([None, 2.5]),
        chance.random(),
        chance.random(),
        stage.queue or "q",
        chance.randint(1, 99),
        _text(chance) * 4,
    )


def claimant(plan: Plan, chance: Random) -> Claimant:
    """Its owner."""
    timed = {(plan.pipeline, stage.name): 30.0 for stage in plan.stages if chance.random() < 0.3}
    return Claimant(ME, {plan.pipeline: plan}, timed)


def driver(written: Written) -> Driver:
    return cast("Driver", written)


@KEYS
@CASES
def test_the_end_of_a_stage_is_written_as_if_it_was_decided_for_its_run_alone(seed: int, audit_key: bytes) -> None:
    chance = Random(seed)
    plan = line(chance)
    owner, go_on = claimant(plan, chance), chance.random() < 0.7
    once, alone = Written(7.5), Written(7.5)
    unlocked = Unlocked(driver(once), audit_key, hints=True, notify=news)
    for _run in range(3):
        work = attempt(plan, chance, run_of(plan, chance, pivot_passed=chance.random() < 0.3))
        delta = f'"{_text(chance)}"'
        done = unlocked.succeed(work, owner, delta, go_on=go_on)
        next_in = owner if go_on else None
        row = known.strand_of(work)
        facts = known.facts_with(work.run, plan, 7.5, work.seq, work.head, row)
        change = finish.succeed(facts, work, next_in, delta)
        applied = AtOnce(driver(alone), audit_key, hints=True, notify=news).apply(cast("Any", change), row)
        assert once.sent == alone.sent
        assert applied is not None
        assert done == Done(applied.granted, applied.nudges, applied.ended)


@KEYS
@CASES
def test_a_begin_is_written_as_if_it_was_decided_for_its_run_alone(seed: int, audit_key: bytes) -> None:
    chance = Random(seed)
    plan = line(chance)
    owner, stage = claimant(plan, chance), chance.choice(plan.stages)
    once, alone = Written(0.0), Written(0.0)
    unlocked = Unlocked(driver(once), audit_key, hints=False, notify=news)
    for _run in range(3):
        run, clock = run_of(plan, chance), chance.random()
        row = NEW_STRAND._replace(
            run=run.id,
            strand=plan.roots[0],
            stage=stage.name,
            gen=chance.randint(0, 3),
            queue="q",
            published_at=chance.random(),
        )
        nudge = Nudge(run.id, row.strand, row.gen, row.queue)
        once._read = (*run, *row, clock, None)
        begun = unlocked.begin(nudge, owner)
        change = start.begin(known.facts_with(run, plan, clock, run.seq, run.head, row), nudge, owner)
        applied = AtOnce(driver(alone), audit_key, hints=False, notify=news).apply(cast("Any", change), row)
        assert once.sent == alone.sent
        assert applied is not None
        assert applied.granted is not None
        assert begun is not None
        assert begun._replace(run=run) == applied.granted._replace(run=run)
        assert begun.run == applied.granted.run._replace(seq=begun.seq, head=begun.head, updated_at=clock)


@KEYS
@CASES
def test_a_run_is_accepted_as_if_it_was_the_first(seed: int, audit_key: bytes) -> None:
    chance = Random(seed)
    plan = line(chance)
    once, alone = Written(3.5), Written(3.5)
    unlocked = Unlocked(driver(once), audit_key, hints=True, notify=news)
    keyed, late = chance.random() < 0.5, chance.random() < 0.3
    for _run in range(3):
        key, deadline = _text(chance) if keyed else None, chance.random() if late else None
        told = (_text(chance), _text(chance), _text(chance))
        new = NewRun(_text(chance), _text(chance), plan, key, *told, "q", deadline=deadline)
        made = unlocked.create(new)
        applied = AtOnce(driver(alone), audit_key, hints=True, notify=news).create(accept(new, 3.5))
        assert once.sent == alone.sent
        assert made is not None
        assert applied is not None
        assert made.nudges == applied.nudges


def test_given_a_run_with_a_deadline_then_each_end_is_decided_for_itself() -> None:
    chance = Random(1)
    plan = Pipeline("two").stage("a", body).stage("b", body).plan
    unlocked = Unlocked(driver(Written(0.0)), b"", hints=False, notify=news)
    work = attempt(plan, chance, run_of(plan, chance, deadline=5.0))._replace(stage="a")
    assert unlocked.succeed(work, claimant(plan, chance), "1", go_on=True) is None


@pytest.mark.parametrize(
    "ask",
    [
        lambda slot: slot == 1,
        lambda slot: slot != 1,
        lambda slot: slot < 1,
        lambda slot: slot >= 1,
        bool,
        lambda slot: slot in (1, 2),
        lambda slot: slot == SLOTS[Value.GEN],
        lambda slot: slot == slot + 1,
        lambda slot: max(slot, 1.0),
    ],
)
def test_a_decision_that_depends_on_a_value_is_refused(ask: Callable[[Any], object]) -> None:
    with pytest.raises(Decides):
        ask(SLOTS[Value.SEQ])


def test_a_value_of_which_nothing_may_depend_is_not_even_equal_to_its_like() -> None:
    with pytest.raises(Decides):
        _ = SLOTS[Value.OTHER] == SLOTS[Value.OTHER] + 0


def test_a_sleep_that_comes_next_is_decided_once_and_due_by_each_runs_own_clock() -> None:
    plan, chance = Pipeline[Any, Any]("line").stage("a", body).sleep("nap", 3600.0).stage("b", body).plan, Random(1)
    owner, once = claimant(plan, chance), Written(0.0)
    unlocked = Unlocked(driver(once), b"", hints=True, notify=news)
    run = run_of(plan, chance)
    for clock in (7.5, 8.25):
        once._clock, alone = clock, Written(clock)
        once.sent.clear()
        work = attempt(plan, chance, run)._replace(stage="a", attempt=1, queue="q")
        assert unlocked.succeed(work, owner, "1", go_on=True) == Done()
        row = known.strand_of(work)
        facts = known.facts_with(work.run, plan, clock, work.seq, work.head, row)
        AtOnce(driver(alone), b"", hints=True, notify=news).apply(
            cast("Any", finish.succeed(facts, work, owner, "1")), row
        )
        assert once.sent == alone.sent
        assert str(clock + 3600.0).encode() in once.sent[0][1]
    assert len(unlocked._recipes) == 1


def test_a_sleep_until_a_moment_is_decided_for_each_run_alone() -> None:
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    plan, chance = Pipeline[Any, Any]("line").stage("a", body).sleep("nap", until=moment).plan, Random(1)
    written = Written(7.5)
    work = attempt(plan, chance, run_of(plan, chance))._replace(stage="a", queue="q")
    unlocked = Unlocked(driver(written), b"", hints=True, notify=news)
    assert unlocked.succeed(work, claimant(plan, chance), "1", go_on=True) is None
    assert written.sent == [], "how long it sleeps depends on when it begins to, and is no slot's"
