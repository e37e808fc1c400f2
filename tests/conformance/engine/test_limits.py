"""Limits that all workers share: never more bodies than slots, nobody is forgotten, and nothing is held for nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from stageflow_durable import ConcurrencyLimit, Pipeline, RunStatus, StageOutput
from stageflow_durable.errors import DefinitionError
from stageflow_durable.model.status import ParkReason, WaitingFor
from stageflow_durable.model.work import Claimant, Work
from stageflow_durable.store.values import Identity
from stageflow_durable.testing import Crash, InProcessEngine
from tests.conformance.engine.acts import FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine

BANK = ConcurrencyLimit("bank", 2)


class Crowd:
    """Bodies that run side by side: each lets the other workers take messages before it ends."""

    def __init__(self) -> None:
        self.engine: InProcessEngine | None = None
        self.busy = 0
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.order: list[Any] = []

    def body(self, ctx: Any) -> Any:
        key = str(ctx.input.get("key", ""))
        self.order.append(ctx.input.get("n"))
        self.now[key] += 1
        self.busy += 1
        self.most[key] = max(self.most[key], self.now[key])
        self.most["all"] = max(self.most["all"], self.busy)
        assert self.engine is not None
        while self.busy < len(self.engine.crew) and self.engine.step(self.engine.crew[self.busy]):
            pass
        self.now[key] -= 1
        self.busy -= 1
        return StageOutput.ok(n=ctx.input.get("n"))


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


def crowded(crowd: Crowd, make_engine: MakeEngine, *pipelines: Pipeline[Any, Any], workers: int = 4) -> InProcessEngine:
    crowd.engine = engine = make_engine(*pipelines, workers=workers)
    return engine


def slots_of(engine: InProcessEngine) -> int:
    """How many rows there are of slots, held and waited for."""
    store: Any = engine.store
    tables = getattr(store, "_tables", None)
    if tables is not None:
        return sum(1 for _row in tables.slots)
    with store.database.read() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM stageflow_slots").scalar_one())


def test_never_more_bodies_run_than_there_are_slots_and_all_come_through(crowd: Crowd, make_engine: MakeEngine) -> None:
    engine = crowded(crowd, make_engine, Pipeline("p").stage("pay", crowd.body, limits=[BANK]))
    handles = [engine.enqueue("p", {"n": n}) for n in range(7)]
    engine.drain()
    assert [handle.status() for handle in handles] == [RunStatus.SUCCEEDED] * 7
    assert crowd.most["all"] == 2
    assert sorted(crowd.order) == list(range(7))
    assert slots_of(engine) == 0


def test_without_the_limit_more_run(crowd: Crowd, make_engine: MakeEngine) -> None:
    engine = crowded(crowd, make_engine, Pipeline("p").stage("pay", crowd.body))
    for n in range(7):
        engine.enqueue("p", {"n": n})
    engine.drain()
    assert crowd.most["all"] == 4


def test_who_waits_holds_nothing_says_for_what_and_has_not_tried(crowd: Crowd, make_engine: MakeEngine) -> None:
    seen: list[Any] = []
    one = ConcurrencyLimit("bank", 1)

    def body(ctx: Any) -> None:
        if not ctx.input["first"]:
            return
        assert engine.step(engine.crew[1])
        seen.append(second.describe())

    engine = crowded(crowd, make_engine, Pipeline("p").stage("pay", body, limits=[one]), workers=2)
    engine.enqueue("p", {"first": True})
    second = engine.enqueue("p", {"first": False})
    engine.drain()
    (run,) = seen
    stage = run.stage("pay")
    assert (run.status, run.waiting_for, stage.tries, stage.attempts) == (RunStatus.WAITING, WaitingFor.LIMIT, 0, ())
    assert stage.wake_at is None  # no time ends it
    assert [wait.text for wait in run.waits] == ["pay waits for a slot of bank (1 of 1 taken)"]
    assert second.status() is RunStatus.SUCCEEDED
    assert [attempt.n for attempt in second.describe().stage("pay").attempts] == [1]


def test_each_key_has_slots_of_its_own(crowd: Crowd, make_engine: MakeEngine) -> None:
    by_key = ConcurrencyLimit("bank", 1, key=lambda ctx: ctx.input["key"])
    engine = crowded(crowd, make_engine, Pipeline("p").stage("pay", crowd.body, limits=[by_key]))
    for n in range(3):
        for key in "abc":
            engine.enqueue("p", {"n": n, "key": key})
    engine.drain()
    assert {key: crowd.most[key] for key in "abc"} == {"a": 1, "b": 1, "c": 1}
    assert crowd.most["all"] == 3
    assert slots_of(engine) == 0


def test_the_next_stage_asks_in_place_and_frees_what_the_one_before_held(crowd: Crowd, make_engine: MakeEngine) -> None:
    line = Pipeline("p").stage("a", crowd.body, limits=[BANK]).stage("b", crowd.body, limits=[BANK])
    engine = crowded(crowd, make_engine, line)
    handles = [engine.enqueue("p", {"n": n}) for n in range(5)]
    engine.drain()
    assert [handle.status() for handle in handles] == [RunStatus.SUCCEEDED] * 5
    assert crowd.most["all"] == 2
    assert slots_of(engine) == 0


def test_several_limits_are_taken_together_or_not_at_all(crowd: Crowd, make_engine: MakeEngine) -> None:
    desk, phone = ConcurrencyLimit("desk", 2), ConcurrencyLimit("phone", 1)
    engine = crowded(
        crowd,
        make_engine,
        Pipeline("p").stage("both", crowd.body, limits=[desk, phone]),
        Pipeline("q").stage("both", crowd.body, limits=[phone, desk]),
        Pipeline("r").stage("one", crowd.body, limits=[desk]),
    )
    for n in range(4):
        for name in "pqr":
            engine.enqueue(name, {"n": n, "key": "phone" if name != "r" else "desk"})
    engine.drain()
    assert crowd.most["phone"] == 1
    assert crowd.most["all"] == 2
    assert len(crowd.order) == 12
    assert slots_of(engine) == 0


ENDS: dict[str, Callable[[], Any]] = {
    "fails": lambda: FAILS("no"),
    "is tried again": lambda: StageOutput.retry("busy", after=5),
    "is skipped": lambda: StageOutput.skip("no need"),
    "cancels": lambda: StageOutput.cancel("no"),
    "cannot be saved": object,
}


def test_however_an_attempt_ends_its_slot_is_free(acts: Acts, make_engine: MakeEngine) -> None:
    line = Pipeline("p").stage("a", acts.stage, compensate=acts.undo, limits=[ConcurrencyLimit("bank", 1)])
    engine = make_engine(line)
    for end, answer in ENDS.items():
        acts.play("a", answer())
        engine.enqueue("p", {})
        engine.step()
        assert slots_of(engine) == 0, end
    other = engine.enqueue("p", {})
    engine.drain()
    assert other.status() is RunStatus.SUCCEEDED


def test_a_lost_body_keeps_its_slot_until_its_end_is_confirmed(acts: Acts, make_engine: MakeEngine) -> None:
    """Its lease alone says nothing: it may be paused, and call the bank when it wakes."""
    engine = make_engine(Pipeline("p").stage("a", acts.stage, limits=[ConcurrencyLimit("bank", 1)]))
    acts.play("a", Crash())
    first = engine.enqueue("p", {})
    engine.step()
    engine._dead.clear()  # nobody sees that its process has ended
    engine.advance(60)
    engine.sweep()
    engine.work()
    second = engine.enqueue("p", {})
    engine.work()
    assert [first.describe().waiting_for, second.describe().waiting_for] == [WaitingFor.LIMIT] * 2
    assert acts.log == ["a"]
    (owner,) = {attempt.owner for attempt in first.describe().stage("a").attempts}
    assert owner is not None
    engine.store.confirm_dead(owner, "it was switched off", "ann")
    engine.drain()
    assert [first.status(), second.status()] == [RunStatus.SUCCEEDED] * 2
    assert slots_of(engine) == 0


def test_a_body_whose_process_was_seen_to_end_gives_up_its_slot_at_once(acts: Acts, make_engine: MakeEngine) -> None:
    engine = make_engine(Pipeline("p").stage("a", acts.stage, limits=[ConcurrencyLimit("bank", 1)]))
    engine.watched = True
    acts.play("a", Crash())
    first = engine.enqueue("p", {})
    engine.work()
    assert first.status() is RunStatus.SUCCEEDED
    assert slots_of(engine) == 0


def test_a_lost_body_with_a_timeout_gives_up_its_slot_once_that_has_passed(acts: Acts, make_engine: MakeEngine) -> None:
    one = ConcurrencyLimit("bank", 1)
    engine = make_engine(Pipeline("p").stage("a", acts.stage, limits=[one], on_unknown="park"))
    plans, limits = {"p": engine.pipelines["p"].plan}, {("p", "a"): 120.0}
    first = engine.enqueue("p", {})
    nudge = engine.messages.take()
    assert nudge is not None
    owner = engine.store.join(Identity("elsewhere", 1, "gone"), 10.0)
    assert isinstance(engine.store.begin(nudge, Claimant(owner, plans, limits)), Work)
    second = engine.enqueue("p", {})
    engine.advance(60)
    engine.sweep()
    engine.work()
    assert [first.status(), second.status()] == [RunStatus.PARKED, RunStatus.WAITING]
    (wait,) = second.describe().waits
    assert (wait.text, wait.fix) == ("a waits for a slot of bank (1 of 1 taken)", None)
    engine.store.prune(0.0, sleep=lambda _seconds: None)
    engine.advance(61)
    engine.drain()
    assert second.status() is RunStatus.SUCCEEDED
    assert slots_of(engine) == 0


@pytest.mark.parametrize("woken", [False, True], ids=["it waits", "it was offered the slot"])
def test_a_run_that_is_cancelled_while_it_waits_leaves_the_slot_to_others(
    woken: bool, crowd: Crowd, make_engine: MakeEngine
) -> None:
    one = ConcurrencyLimit("bank", 1)
    cancelled: list[bool] = []

    def body(ctx: Any) -> None:
        if ctx.input["n"] == 0:
            for worker in engine.crew[1:]:
                engine.step(worker)
            if not woken and not cancelled:
                cancelled.append(True)
                engine.cancel(handles[1].run_id, reason="no", actor="ann")

    engine = crowded(crowd, make_engine, Pipeline("p").stage("pay", body, limits=[one]))
    handles = [engine.enqueue("p", {"n": n}) for n in range(3)]
    engine.step(engine.crew[0])
    if woken:
        engine.cancel(handles[1].run_id, reason="no", actor="ann")
    engine.drain()
    assert [handle.status() for handle in handles] == [RunStatus.SUCCEEDED, RunStatus.CANCELLED, RunStatus.SUCCEEDED]
    assert slots_of(engine) == 0
    fork = engine.fork(handles[0].run_id, from_stage="pay", reason="again", actor="ann")
    engine.resume(handles[1].run_id, reason="after all", actor="ann")
    engine.drain()
    assert [fork.status(), handles[1].status()] == [RunStatus.SUCCEEDED] * 2


def test_the_more_urgent_go_first_and_of_these_the_older(crowd: Crowd, make_engine: MakeEngine) -> None:
    one = ConcurrencyLimit("bank", 1)
    order: list[str] = []

    def body(ctx: Any) -> None:
        order.append(ctx.input["n"])
        if ctx.input["n"] == "first":
            while engine.step(engine.crew[1]):
                engine.advance(0.1)

    engine = crowded(crowd, make_engine, Pipeline("p").stage("pay", body, limits=[one]))
    for name, priority in (("first", 0), ("late", 6), ("later", 6), ("soon", 3), ("soonest", 0)):
        engine.enqueue("p", {"n": name}, priority=priority)
        engine.advance(1)
    engine.drain()
    assert order == ["first", "soonest", "soon", "late", "later"]


def test_a_key_function_that_fails_parks_the_run_as_a_bug(acts: Acts, make_engine: MakeEngine) -> None:
    wrong = ConcurrencyLimit("bank", 1, key=lambda ctx: ctx.input["nothing"])
    engine = make_engine(Pipeline("p").stage("a", acts.stage, limits=[wrong]))
    handle = engine.enqueue("p", {})
    engine.drain()
    run = handle.describe()
    assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.BUG)
    assert acts.log == []
    assert slots_of(engine) == 0


HOSTILE = ["x'; DROP TABLE stageflow_slots; --", "\u202etxt", "<b>", "a" * 255, "\u00e9" * 255]
NO_KEYS = ["", None, 1.5, "a" * 256, "\x00"]


def test_a_key_is_data_and_what_is_none_parks_the_run(acts: Acts, make_engine: MakeEngine) -> None:
    by_key = ConcurrencyLimit("bank", 1, key=lambda ctx: given[ctx.input["n"]])
    engine = make_engine(Pipeline("p").stage("a", acts.stage, limits=[by_key]))
    given = [*HOSTILE, *NO_KEYS]
    handles = [engine.enqueue("p", {"n": n}) for n, _key in enumerate(given)]
    engine.drain()
    assert [handle.status() for handle in handles] == [RunStatus.SUCCEEDED] * 5 + [RunStatus.PARKED] * 5
    assert {handle.describe().park_reason for handle in handles[5:]} == {ParkReason.BUG}
    assert slots_of(engine) == 0


def test_the_number_of_the_newest_definition_counts(crowd: Crowd, make_engine: MakeEngine) -> None:
    engine = crowded(crowd, make_engine, Pipeline("p").stage("pay", crowd.body, limits=[ConcurrencyLimit("bank", 1)]))
    engine.enqueue("p", {"n": 0})
    engine.drain()
    engine.deploy(Pipeline("p").stage("pay", crowd.body, limits=[ConcurrencyLimit("bank", 3)]))
    for n in range(5):
        engine.enqueue("p", {"n": n})
    engine.drain()
    assert crowd.most["all"] == 3


def test_where_a_person_set_a_lower_number_nothing_passes_for_free(make_engine: MakeEngine) -> None:
    seen: list[Any] = []

    def body(ctx: Any) -> None:
        if ctx.input["n"] == 1:
            while engine.step(engine.crew[1]):
                pass
            seen.extend([handles[1].status(), engine.store.untended()])

    engine = make_engine(Pipeline("p").stage("pay", body, limits=[BANK]), workers=2)
    engine.enqueue("p", {"n": 0})
    engine.drain()
    engine.limits.set("bank", 1, reason="careful", actor="ann")
    handles = [engine.enqueue("p", {"n": n}) for n in (1, 2)]
    assert engine.step(engine.crew[0])
    assert seen == [RunStatus.WAITING, []]
    engine.drain()
    assert [handle.status() for handle in handles] == [RunStatus.SUCCEEDED] * 2


def test_a_run_moves_to_a_definition_without_the_limit(acts: Acts, make_engine: MakeEngine) -> None:
    engine = make_engine(Pipeline("p").stage("a", acts.stage, limits=[ConcurrencyLimit("bank", 1)]))
    acts.play("a", StageOutput.retry("busy", after=30))
    handle = engine.enqueue("p", {})
    engine.work()
    engine.deploy(Pipeline("p").stage("a", acts.stage))
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED
    assert slots_of(engine) == 0


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ("bank", "limits='bank': a list of ConcurrencyLimit"),
        (["bank"], "is neither a ConcurrencyLimit nor a RateLimit"),
        ([ConcurrencyLimit("", 1)], "name '' has to be text"),
        ([ConcurrencyLimit("a", 0)], "limit 0 has to be a whole number from 1"),
        ([ConcurrencyLimit("a", True)], "limit True has to be a whole number"),
        ([ConcurrencyLimit("a", 1, key="client")], "key: 'client' is not a function"),  # type: ignore[arg-type]  # a mistake
        ([ConcurrencyLimit("a", 1), ConcurrencyLimit("a", 2)], "'a' is given twice"),
    ],
)
def test_a_mistaken_limit_is_told_at_the_definition(limits: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match="stage 'a'") as told:
        print(Pipeline("p").stage("a", lambda _ctx: None, limits=limits).plan)
    assert said in str(told.value)


def test_one_name_is_one_limit() -> None:
    line = Pipeline("p").stage("a", print, limits=[ConcurrencyLimit("bank", 1)])
    with pytest.raises(DefinitionError, match="'bank' is 1 at one stage and 2 at another"):
        print(line.stage("b", print, limits=[ConcurrencyLimit("bank", 2)]).plan)
