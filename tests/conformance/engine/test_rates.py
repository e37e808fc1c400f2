"""Rate limits that all workers share: at most so many begin in a second, and none is forgotten."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from stageflow_durable import ConcurrencyLimit, Pipeline, RateLimit, RunStatus, StageOutput
from stageflow_durable.errors import DefinitionError, InvalidInput, NotAllowed
from stageflow_durable.model.status import ParkReason, WaitingFor
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.conftest import MakeEngine
from tests.conformance.engine.test_limits import slots_of


class Times:
    """When bodies began, by key."""

    def __init__(self) -> None:
        self.engine: InProcessEngine | None = None
        self.at: list[tuple[float, str]] = []

    def body(self, ctx: Any) -> None:
        assert self.engine is not None
        self.at.append((self.engine.clock.time(), ctx.input.get("key", "")))

    def engine_of(self, make_engine: MakeEngine, *pipelines: Pipeline[Any, Any]) -> InProcessEngine:
        self.engine = make_engine(*pipelines)
        return self.engine

    def most_within(self, seconds: float, key: str = "") -> int:
        """How many began within so many seconds, at the most."""
        moments = [at for at, of in self.at if of == key]
        return max(sum(at <= other < at + seconds for other in moments) for at in moments)


def test_a_burst_begins_at_once_and_the_others_as_the_rate_allows(make_engine: MakeEngine) -> None:
    times = Times()
    bank = RateLimit("bank", 2, per=1.0, burst=5)
    engine = times.engine_of(make_engine, Pipeline("p").stage("a", times.body, limits=[bank]))
    handles = [engine.enqueue("p", {}) for _run in range(10)]
    engine.work()
    assert len(times.at) == 5
    (wait,) = handles[5].describe().waits
    assert handles[5].describe().waiting_for is WaitingFor.LIMIT
    assert wait.text.startswith("a waits for its turn by bank (2 a second)")
    engine.drain()
    began = times.at[0][0]
    assert [round(at - began, 1) for at, _key in times.at] == pytest.approx([0] * 5 + [0.5, 1, 1.5, 2, 2.5], abs=0.26)
    assert [handle.status() for handle in handles] == [RunStatus.SUCCEEDED] * 10
    assert slots_of(engine) == 0


def test_over_a_long_time_no_second_has_more_than_its_burst(make_engine: MakeEngine) -> None:
    times = Times()
    bank = RateLimit("bank", 60, per=timedelta(minutes=1), burst=3)
    engine = times.engine_of(make_engine, Pipeline("p").stage("a", times.body, limits=[bank]))
    for _run in range(12):
        engine.enqueue("p", {})
        engine.work()
        engine.advance(0.1)
    engine.drain()
    assert len(times.at) == 12
    assert times.most_within(0.9) <= 3
    assert times.most_within(5.0) <= 3 + 5


def test_each_key_has_a_rate_of_its_own(make_engine: MakeEngine) -> None:
    times = Times()
    by_key = RateLimit("bank", 1, per=10.0, burst=1, key=lambda ctx: ctx.input["key"])
    engine = times.engine_of(make_engine, Pipeline("p").stage("a", times.body, limits=[by_key]))
    for _run in range(3):
        for key in "ab":
            engine.enqueue("p", {"key": key})
    engine.drain()
    assert {key: times.most_within(9.5, key) for key in "ab"} == {"a": 1, "b": 1}
    assert times.at[-1][0] - times.at[0][0] == pytest.approx(20, abs=0.6)


def test_a_rate_and_slots_are_both_kept_and_neither_is_spent_for_nothing(make_engine: MakeEngine) -> None:
    times = Times()
    limits: list[Any] = [RateLimit("rate", 1, per=1.0), ConcurrencyLimit("slots", 1)]
    engine = times.engine_of(make_engine, Pipeline("p").stage("a", times.body, limits=limits))
    handles = [engine.enqueue("p", {}) for _run in range(5)]
    engine.drain()
    assert times.most_within(0.95) == 1
    assert times.at[-1][0] - times.at[0][0] < 6
    assert [handle.status() for handle in handles] == [RunStatus.SUCCEEDED] * 5


def test_who_is_cancelled_while_it_waits_leaves_the_queue(make_engine: MakeEngine) -> None:
    times = Times()
    engine = times.engine_of(make_engine, Pipeline("p").stage("a", times.body, limits=[RateLimit("bank", 1, per=10.0)]))
    first, second, third = (engine.enqueue("p", {}) for _run in range(3))
    engine.work()
    engine.cancel(second.run_id, reason="no", actor="ann")
    engine.drain()
    found = [one.status() for one in (first, second, third)]
    assert found == [RunStatus.SUCCEEDED, RunStatus.CANCELLED, RunStatus.SUCCEEDED]
    assert slots_of(engine) == 0


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (RateLimit("a", 0), "rate 0 has to be a number above 0"),
        (RateLimit("a", float("nan")), "rate nan has to be a number"),
        (RateLimit("a", 1, per=0.0), "per 0.0 has to be seconds"),
        (RateLimit("a", 1, burst=0), "burst 0 has to be a whole number"),
    ],
)
def test_a_mistaken_rate_is_told_at_the_definition(limit: RateLimit, said: str) -> None:
    with pytest.raises(DefinitionError) as told:
        print(Pipeline("p").stage("a", lambda _ctx: None, limits=[limit]).plan)
    assert said in str(told.value)


# --- people -----------------------------------------------------------------------------------------------------------


def test_a_paused_limit_gives_nothing_until_then_and_those_that_wait_keep_their_place(make_engine: MakeEngine) -> None:
    times = Times()
    one = ConcurrencyLimit("bank", 1)
    engine = times.engine_of(make_engine, Pipeline("p").stage("a", times.body, limits=[one]))
    engine.enqueue("p", {"key": "before"})
    engine.drain()
    began = engine.clock.time()
    engine.limits.pause("bank", until=60, reason="the bank is down", actor="ann")
    handles = []
    for key in "abc":
        handles.append(engine.enqueue("p", {"key": key}))
        engine.work()
        engine.advance(1)
    (wait,) = handles[0].describe().waits
    assert wait.text.startswith("a waits for a slot of bank (paused until ")
    (view,) = engine.limits.list()
    assert (view.name, view.held, view.waiting, view.said) == ("bank", 0, 3, "ann: the bank is down")
    assert view.paused_until is not None
    engine.drain()
    assert [key for _at, key in times.at] == ["before", *"abc"]
    assert times.at[1][0] - began == pytest.approx(60, abs=0.3)
    assert [view.paused_until for view in engine.limits.list()] == [None]


@pytest.mark.parametrize("by_key", [False, True])
def test_a_pause_that_is_ended_lets_those_that_wait_begin_at_once(by_key: bool, make_engine: MakeEngine) -> None:
    times = Times()
    limit = RateLimit("bank", 1, per=1.0, burst=2, key=lambda ctx: ctx.input["key"])
    engine = times.engine_of(make_engine, Pipeline("p").stage("a", times.body, limits=[limit]))
    engine.enqueue("p", {"key": "x"})
    engine.drain()
    key = "x" if by_key else None
    engine.limits.pause("bank", key, until=timedelta(hours=1), reason="down", actor="ann")
    mine, other = engine.enqueue("p", {"key": "x"}), engine.enqueue("p", {"key": "y"})
    engine.work()
    assert mine.status() is RunStatus.WAITING
    assert other.status() is (RunStatus.SUCCEEDED if by_key else RunStatus.WAITING)
    engine.limits.resume("bank", key, reason="up again", actor="ann")
    engine.work()
    assert [mine.status(), other.status()] == [RunStatus.SUCCEEDED] * 2
    assert slots_of(engine) == 0


def test_a_number_that_a_person_sets_counts_until_they_take_it_back(make_engine: MakeEngine) -> None:
    times = Times()

    def pipeline(burst: int) -> Pipeline[Any, Any]:
        return Pipeline("p").stage("a", times.body, limits=[RateLimit("bank", 1, per=3600.0, burst=burst)])

    engine = times.engine_of(make_engine, pipeline(3))
    engine.enqueue("p", {})
    engine.drain()
    engine.limits.set("bank", 1, reason="careful", actor="ann")
    engine.deploy(pipeline(5))
    (view,) = engine.limits.list()
    assert (view.limit, view.declared) == (1, 5)
    assert view.rate == pytest.approx(1 / 3600)
    engine.limits.set("bank", None, reason="as before", actor="ann")
    assert [view.limit for view in engine.limits.list()] == [5]


WORDS: list[tuple[dict[str, Any], str]] = [
    ({"until": 0}, "until: 0 is neither"),
    ({"until": float("nan")}, "until: nan"),
    ({"until": 60, "reason": " "}, "reason: ' '"),
    ({"until": 60, "key": ""}, "key: ''"),
]


def test_what_makes_no_sense_is_refused(make_engine: MakeEngine) -> None:
    engine = make_engine(Pipeline("p").stage("a", print))
    for given, said in WORDS:
        with pytest.raises(InvalidInput) as told:
            engine.limits.pause("bank", **{"reason": "down", "actor": "ann", **given})
        assert said in str(told.value)
    with pytest.raises(NotAllowed, match="nothing has that name"):
        engine.limits.pause("bnak", until=60, reason="down", actor="ann")


def test_a_stage_that_was_told_to_wait_pauses_the_limit_for_everybody(make_engine: MakeEngine) -> None:
    """A bank that answers 429 to one says it to all."""
    times = Times()
    answers = [StageOutput.retry("429", after="30", pause="bank")]

    def pay(ctx: Any) -> Any:
        times.body(ctx)
        return answers.pop() if answers else None

    limit = ConcurrencyLimit("bank", 5, key=lambda ctx: ctx.input["key"])
    engine = times.engine_of(make_engine, Pipeline("p").stage("a", pay, limits=[limit]))
    began = engine.clock.time()
    first = engine.enqueue("p", {"key": "x"})
    engine.work()
    second, other = engine.enqueue("p", {"key": "x"}), engine.enqueue("p", {"key": "y"})
    engine.work()
    assert [one.status() for one in (second, other)] == [RunStatus.WAITING, RunStatus.SUCCEEDED]
    engine.limits.pause("bank", "x", until=10, reason="shorter", actor="ann")
    engine.drain()
    assert [one.status() for one in (first, second)] == [RunStatus.SUCCEEDED] * 2
    assert min(at for at, key in times.at[1:] if key == "x") - began >= 10


def test_a_pause_of_a_limit_that_the_stage_has_not_is_a_bug(make_engine: MakeEngine) -> None:
    engine = make_engine(Pipeline("p").stage("a", lambda _ctx: StageOutput.retry("429", pause="bank")))
    handle = engine.enqueue("p", {})
    engine.drain()
    run = handle.describe()
    assert run.park_reason is ParkReason.BUG
    assert "stage a has no such limit; it has: none" in str(run.error)


def test_keys_that_nobody_has_used_for_long_are_forgotten(make_engine: MakeEngine) -> None:
    """They may be many, and name people."""
    times = Times()
    limit = RateLimit("bank", 1, per=1.0, burst=1, key=lambda ctx: ctx.input["key"])
    engine = times.engine_of(make_engine, Pipeline("p").stage("a", times.body, limits=[limit]))
    for key in "abc":
        engine.enqueue("p", {"key": key})
    engine.drain()
    engine.limits.pause("bank", "c", until=timedelta(days=50), reason="down", actor="ann")
    engine.advance(40 * 86400)
    engine.store.prune(30 * 86400, sleep=lambda _seconds: None)
    assert [(view.name, view.key) for view in engine.limits.list()] == [("bank", "c")]
    engine.enqueue("p", {"key": "a"})
    engine.drain()
    assert [key for _at, key in times.at] == ["a", "b", "c", "a"]
