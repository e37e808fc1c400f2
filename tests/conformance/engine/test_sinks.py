"""Sinks are told of what happens to runs: at least once, in order within a run, by one process at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from stageflow_durable.engine import delivering
from stageflow_durable.engine.delivering import LEASE_SECONDS, POLL_SECONDS, WAIT_SECONDS, Delivery
from stageflow_durable.engine.sink_operations import process_name
from stageflow_durable.errors import InvalidInput
from stageflow_durable.model.sinks import RunEvent
from stageflow_durable.sinks import Function
from stageflow_durable.store import views
from stageflow_durable.testing import InProcessEngine, engine_for_tests
from stageflow_durable.testing.engine import middle
from tests.conformance.engine.acts import FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine


class Receiver:
    """Keeps what it is told, and does first what ``then`` says."""

    def __init__(self, name: str = "receiver", kinds: tuple[str, ...] = ("work.", "run.")) -> None:
        self.name, self.kinds = name, kinds
        self.told: list[RunEvent] = []
        self.then: Callable[[RunEvent], Any] = lambda _event: None

    def deliver(self, event: RunEvent) -> None:
        self.then(event)
        self.told.append(event)

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.told]


def refuse(event: RunEvent) -> None:
    raise RuntimeError(f"no {event.type} for me: password=hunter2")


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def engine(make_engine: MakeEngine, acts: Acts, receiver: Receiver) -> InProcessEngine:
    return make_engine(acts.line("a b"), sinks=[receiver])


def run(engine: InProcessEngine, key: str | None = None) -> str:
    run_id = engine.enqueue("line", {"n": 1}, idempotency_key=key, client_id="web").run_id
    engine.drain()
    return run_id


def delivery(engine: InProcessEngine, receiver: Receiver, owner: str) -> Delivery:
    """Another process that tells the sink."""
    return Delivery(engine.store, receiver, owner, engine.clock, middle)


def test_a_sink_is_told_of_each_event_once_and_in_order(
    engine: InProcessEngine, receiver: Receiver, acts: Acts
) -> None:
    acts.play("b", FAILS("card declined"))
    failed = run(engine, "A-1")
    told = [
        "run.accepted",
        "run.stopping",
        "work.compensation_started",
        *["work.compensation_executed"] * 2,
        "run.compensated",
    ]
    assert engine.deliver() == {"receiver": len(told)}
    assert receiver.types == told
    first, last = receiver.told[0], receiver.told[-1]
    assert (first.run_id, first.seq, first.pipeline, first.client_id, first.key) == (failed, 1, "line", "web", "A-1")
    assert [event.seq for event in receiver.told] == sorted(event.seq for event in receiver.told)
    assert last.id == f"{failed}.{last.seq}"
    assert last.data["error"] == "PermanentError: card declined"
    assert "audit" not in first.data
    assert engine.deliver() == {"receiver": 0}


def test_it_is_told_of_the_kinds_that_it_names_alone(make_engine: MakeEngine, acts: Acts) -> None:
    all_of_it, ends = Receiver("all", ("",)), Receiver("ends", ("run.succeeded",))
    engine = make_engine(acts.line("a b"), sinks=[all_of_it, ends])
    run(engine)
    engine.deliver()
    assert all_of_it.types == [event.type for event in engine.history(all_of_it.told[0].run_id)]
    assert ends.types == ["run.succeeded"]
    assert [view.behind for view in engine.sink_views()] == [0, 0]


def test_a_sink_begins_with_what_happens_once_it_is_there(
    engine: InProcessEngine, acts: Acts, make_engine: MakeEngine
) -> None:
    run(engine)
    late = Receiver("late")
    other = make_engine(acts.line("a b"), sinks=[late], name="other")
    other._open_sinks()
    second = run(engine)
    other.deliver()
    assert {event.run_id for event in late.told} == {second}


def test_given_it_refuses_then_the_same_is_told_again_later_and_later_and_nothing_after_it(
    engine: InProcessEngine, receiver: Receiver
) -> None:
    run(engine)
    receiver.then = refuse
    assert engine.deliver() == {"receiver": 0}
    (view,) = engine.sink_views()
    assert (view.tries, view.told_by, view.behind > 0) == (1, None, True)
    assert view.error == "no run.accepted for me: password=***"
    assert view.behind_since is not None
    engine.advance(0.5)
    engine.deliver()
    assert engine.sink_views()[0].tries == 1, "not before its time"
    engine.advance(0.5)
    engine.deliver()
    assert engine.sink_views()[0].tries == 2
    receiver.then = lambda _event: None
    engine.advance(1.0)
    assert engine.deliver() == {"receiver": 0}, "the second pause is longer"
    engine.advance(1.0)
    assert engine.deliver() == {"receiver": 2}
    (view,) = engine.sink_views()
    assert (view.tries, view.error, view.behind, view.retry_at) == (0, None, 0, None)
    assert receiver.types == ["run.accepted", "run.succeeded"]


def test_what_it_took_before_it_refused_is_not_told_again(engine: InProcessEngine, receiver: Receiver) -> None:
    run(engine)
    receiver.then = lambda event: refuse(event) if event.type == "run.succeeded" else None
    engine.deliver()
    receiver.then = lambda _event: None
    engine.advance(5)
    engine.deliver()
    assert receiver.types == ["run.accepted", "run.succeeded"]


def test_whatever_a_sink_raises_is_a_refusal(engine: InProcessEngine, receiver: Receiver) -> None:
    def exits(_event: RunEvent) -> None:
        raise SystemExit(1)

    receiver.then = exits
    run(engine)
    engine.deliver()
    assert engine.sink_views()[0].error == "1"


def test_one_process_tells_a_sink_at_a_time(engine: InProcessEngine, receiver: Receiver) -> None:
    run(engine)
    mine, others = delivery(engine, receiver, "mine"), delivery(engine, receiver, "other's")
    assert mine.turn() is not None
    assert others.turn() is None
    assert engine.sink_views()[0].told_by == "mine"
    mine.stop()
    assert others.turn() is not None
    assert receiver.types == ["run.accepted", "run.succeeded"]


def test_given_a_process_that_is_paused_in_a_delivery_when_another_took_over_then_what_it_says_is_refused(
    engine: InProcessEngine, receiver: Receiver
) -> None:
    run(engine)
    mine, others = delivery(engine, receiver, "mine"), delivery(engine, receiver, "other's")

    def pause(_event: RunEvent) -> None:
        receiver.then = lambda _event: None
        engine.clock.advance(LEASE_SECONDS + 1)
        assert others.turn() is not None

    receiver.then = pause
    assert mine.turn() is None
    assert receiver.types == ["run.accepted", "run.succeeded", "run.accepted"], "at least once"
    (view,) = engine.sink_views()
    assert (view.told_by, view.behind, view.tries) == ("other's", 0, 0)
    run(engine)
    assert mine.turn() is None, "it does not take it back"
    others.turn()
    assert receiver.types[3:] == ["run.accepted", "run.succeeded"]


def test_a_process_that_was_killed_is_seen_until_the_next_event_is_taken(
    engine: InProcessEngine, receiver: Receiver
) -> None:
    run(engine)
    delivery(engine, receiver, "killed").turn()
    run(engine)
    engine.advance(LEASE_SECONDS + 1)
    engine.deliver()
    assert receiver.types == ["run.accepted", "run.succeeded"] * 2
    assert engine.sink_views()[0].error is None


def test_given_its_parent_saw_a_process_end_then_another_tells_at_once(
    engine: InProcessEngine, receiver: Receiver
) -> None:
    run(engine)
    delivery(engine, receiver, process_name(7)).turn()
    run(engine)
    assert engine.deliver() == {"receiver": 0}
    engine._after_death(8)
    assert engine.deliver() == {"receiver": 0}
    engine._after_death(7)
    assert engine.deliver() == {"receiver": 2}
    assert engine.sink_views()[0].tries == 0


def test_pruning_waits_for_a_sink_a_week(engine: InProcessEngine, receiver: Receiver) -> None:
    run(engine)
    engine.advance(86_400)
    assert engine.prune(timedelta(hours=1), dry_run=True) == 0
    assert engine.prune(timedelta(hours=1)) == 0
    engine.deliver()
    assert engine.prune(timedelta(hours=1)) == 1
    run(engine)
    engine.advance(7 * 86_400 + 1)
    assert engine.prune(timedelta(hours=1)) == 1
    engine.deliver()
    assert receiver.types == ["run.accepted", "run.succeeded"]


def test_after_a_prune_no_event_is_taken_for_one_that_was_told(engine: InProcessEngine, receiver: Receiver) -> None:
    for _again in range(2):
        run(engine)
        engine.deliver()
        engine.advance(86_400)
        assert engine.prune(timedelta(hours=1)) == 1
    assert receiver.types == ["run.accepted", "run.succeeded"] * 2


def test_a_sink_that_is_forgotten_holds_up_no_prune_and_begins_anew(
    engine: InProcessEngine, receiver: Receiver
) -> None:
    run(engine)
    engine.forget_sink("receiver")
    engine.advance(86_400)
    assert engine.prune(timedelta(hours=1)) == 1
    with pytest.raises(InvalidInput, match="no sink is named 'receiver'; there are: none"):
        engine.forget_sink("receiver")
    engine.deliver()
    assert engine.sink_views()[0].behind == 0


def test_a_run_whose_events_nobody_can_read_does_not_hold_up_the_others(
    engine: InProcessEngine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = run(engine)
    healthy = run(engine)

    def cannot(_row: Any, _item: int) -> Any:
        raise ValueError("not JSON")

    monkeypatch.setattr(views, "event_of", cannot)
    engine.deliver()
    assert [event.run_id for event in receiver.told] == [broken, broken, healthy, healthy]
    assert "unreadable" in receiver.told[0].data


def test_one_that_is_stopped_leaves_the_sink_to_others_at_once(engine: InProcessEngine, receiver: Receiver) -> None:
    run(engine)
    mine = delivery(engine, receiver, "mine")
    receiver.then = lambda _event: mine.__setattr__("_stopping", True)
    assert mine.turn() is None
    mine.stop()
    receiver.then = lambda _event: None
    engine.deliver()
    assert receiver.types == ["run.accepted", "run.succeeded"]


def test_one_that_hangs_is_not_waited_for(engine: InProcessEngine, receiver: Receiver) -> None:
    run(engine)
    mine = delivery(engine, receiver, "mine")
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(_event: RunEvent) -> None:
        hangs.set()
        goes_on.wait(10)

    receiver.then = hang
    thread = threading.Thread(target=mine.turn)
    thread.start()
    assert hangs.wait(10)
    mine.stop(patience=0.01)
    goes_on.set()
    thread.join(10)
    assert not thread.is_alive()


def test_the_pauses_grow_up_to_five_minutes() -> None:
    pauses = [delivering.retry_in(tries, lambda _low, high: high) for tries in (1, 2, 3, 9, 10, 10_000)]
    assert pauses == [1.0, 2.0, 4.0, 256.0, 300.0, 300.0]


WRITTEN = """
INSERT INTO stageflow_events (run, seq, type, at, data, previous, mac) VALUES (%s, %s, 'run.late', 0, '{}', '', '')
"""


@pytest.mark.postgres
def test_an_event_whose_transaction_commits_late_is_told_all_the_same(acts: Acts, migrated_postgres_url: str) -> None:
    """The gap of every cursor over numbers: the higher number is committed while the lower one is still to come."""
    receiver = Receiver()
    plain = migrated_postgres_url.replace("postgresql+psycopg://", "postgresql://")
    with (
        engine_for_tests(acts.line("a"), database_url=migrated_postgres_url, sinks=[receiver]) as engine,
        psycopg.connect(plain) as slow,
    ):
        first = engine.enqueue("line", {}).run_id
        engine.deliver()
        slow.execute(WRITTEN, (first, 99))
        second = engine.enqueue("line", {}).run_id
        mine = Delivery(engine.store, receiver, "mine", engine.clock, middle)
        assert mine.turn() == WAIT_SECONDS
        third = engine.enqueue("line", {}).run_id
        assert mine.turn() == WAIT_SECONDS
        assert receiver.types == ["run.accepted"], "nothing beyond what is still to come"
        slow.commit()
        assert mine.turn() == POLL_SECONDS
        told = [(event.run_id, event.type) for event in receiver.told]
        assert told == [(first, "run.accepted"), (first, "run.late"), (second, "run.accepted")]
        mine.turn()
        assert receiver.told[-1].run_id == third
        slow.execute(WRITTEN, (first, 100))
        fourth = engine.enqueue("line", {}).run_id
        assert mine.turn() == WAIT_SECONDS
        slow.rollback()
        mine.turn()
        assert receiver.told[-1].run_id == fourth, "nor is it waited for what never comes"


def test_a_function_is_a_sink(make_engine: MakeEngine, acts: Acts) -> None:
    told: list[str] = []

    async def take(event: RunEvent) -> None:
        told.append(event.type)

    engine = make_engine(acts.line("a"), sinks=[Function(take, name="mine")])
    run(engine)
    assert engine.deliver() == {"mine": 2}
    assert told == ["run.accepted", "run.succeeded"]
