"""What users import in their tests does what it says: time, work, crashes and messages are the test's."""

from __future__ import annotations

import doctest
from datetime import timedelta
from typing import Any

import pytest

import stageflow_durable.testing.engine as room
from stageflow_durable import PermanentError, Pipeline, ResultTimeout, RetryPolicy, RunFailed, RunStatus, StageOutput
from stageflow_durable.errors import ConfigurationError, StoreUnavailable
from stageflow_durable.model.status import ParkReason
from stageflow_durable.testing import Crash, FakeClock, Point, StillGoing, engine_for_tests
from stageflow_durable.testing.plugin import MakeEngine
from tests.services.rows import database_of


def _two_stages(ran: list[str]) -> Pipeline[Any, Any]:
    def stage(ctx: Any) -> str:
        ran.append(ctx.stage)
        return str(ctx.stage)

    return Pipeline[Any, Any]("two").stage("first", stage).stage("second", stage)


def test_the_example_in_the_documentation_runs() -> None:
    assert doctest.testmod(room).failed == 0


class TestTime:
    def test_a_clock_stands_still_until_it_is_moved(self) -> None:
        clock = FakeClock(100.0)
        assert (clock.time(), clock.monotonic()) == (100.0, 100.0)
        clock.sleep(1.5)
        clock.advance_to(102.0)
        clock.advance_to(50.0)
        assert clock.time() == 102.0

    def test_a_clock_does_not_go_back(self) -> None:
        with pytest.raises(ValueError, match="does not go back"):
            FakeClock().advance(-1)

    def test_whoever_keeps_another_clock_is_told(self) -> None:
        told: list[float] = []
        clock = FakeClock(0.0)
        clock.moved = told.append
        clock.advance(2)
        assert told == [2.0]

    def test_given_a_wait_when_drained_then_the_clock_has_jumped_over_it(self, stageflow_engine: MakeEngine) -> None:
        def flaky(ctx: Any) -> StageOutput:
            return StageOutput.retry("busy", after=900) if ctx.attempt == 1 else StageOutput.ok("done")

        engine = stageflow_engine(Pipeline[Any, Any]("wait").stage("flaky", flaky))
        started, handle = engine.clock.time(), engine.enqueue("wait", {})
        engine.drain()
        assert handle.result() == {"flaky": "done"}
        assert 900 <= engine.clock.time() - started < 901

    def test_given_a_wait_beyond_the_limit_when_drained_then_it_says_which_run_still_goes(
        self, stageflow_engine: MakeEngine
    ) -> None:
        def later(_ctx: Any) -> StageOutput:
            return StageOutput.retry("busy", after=7200)

        engine = stageflow_engine(Pipeline[Any, Any]("wait").stage("later", later))
        handle = engine.enqueue("wait", {})
        with pytest.raises(StillGoing, match=rf"3600 s.*{handle.run_id} \(wait\) is waiting"):
            engine.drain()

    def test_advance_keeps_living_workers_alive(self, stageflow_engine: MakeEngine) -> None:
        engine = stageflow_engine(_two_stages([]), in_place_stages=1)
        engine.enqueue("two", {})
        engine.step()
        engine.advance(10_000)
        assert engine.sweep().owners_dead == 0


class TestWork:
    def test_nothing_runs_before_a_step(self, stageflow_engine: MakeEngine) -> None:
        ran: list[str] = []
        engine = stageflow_engine(_two_stages(ran), in_place_stages=1)
        engine.enqueue("two", {})
        assert ran == []
        assert engine.step()
        assert ran == ["first"]
        assert engine.work() == 1
        assert not engine.step()

    def test_result_does_the_work_that_it_waits_for(self, stageflow_engine: MakeEngine) -> None:
        engine = stageflow_engine(_two_stages([]))
        assert engine.enqueue("two", {}).result() == {"first": "first", "second": "second"}

    def test_result_raises_what_became_of_the_run(self, stageflow_engine: MakeEngine) -> None:
        def fails(_ctx: Any) -> None:
            raise PermanentError("no")

        engine = stageflow_engine(Pipeline[Any, Any]("bad").stage("fails", fails))
        with pytest.raises(RunFailed, match="no"):
            engine.enqueue("bad", {}).result()

    def test_result_with_a_timeout_gives_up_by_the_clock_of_the_test(self, stageflow_engine: MakeEngine) -> None:
        engine = stageflow_engine(Pipeline[Any, Any]("wait").stage("s", lambda _ctx: StageOutput.retry("x", after=60)))
        handle = engine.enqueue("wait", {})
        with pytest.raises(ResultTimeout, match="waiting"):
            handle.result(timeout=5)

    def test_given_a_run_that_nothing_can_move_when_drained_then_it_says_so(self, stageflow_engine: MakeEngine) -> None:
        engine = stageflow_engine(_two_stages([]))
        handle = engine.enqueue("two", {})
        engine.messages.lose_all()
        with database_of(engine).transaction() as connection:
            # A strand that is nowhere would be repaired; one that waits for somebody's word is not.
            connection.exec_driver_sql("UPDATE stageflow_strands SET state = 'waiting', waiting_for = 'signal'")
        with pytest.raises(StillGoing, match="nothing is left"):
            engine.drain()
        with pytest.raises(StillGoing, match="nothing is left"):
            handle.result()

    def test_several_workers_share_the_work_as_chance_decides(self) -> None:
        picks = iter([0.0, 1.0])
        with engine_for_tests(
            [_two_stages([])], workers=2, in_place_stages=1, draw=lambda _low, _high: next(picks)
        ) as engine:
            handle = engine.enqueue("two", {})
            engine.drain()
            stages = handle.describe().stages
        assert stages[0].attempts[0].owner != stages[1].attempts[0].owner

    def test_a_worker_can_be_chosen(self, stageflow_engine: MakeEngine) -> None:
        engine = stageflow_engine(_two_stages([]))
        other = engine.hired()
        handle = engine.enqueue("two", {})
        engine.step(other)
        assert {stage.attempts[0].owner for stage in handle.describe().stages} == {other.owner.id}

    def test_chance_is_the_middle(self, stageflow_engine: MakeEngine) -> None:
        def fails(_ctx: Any) -> None:
            raise ConnectionError

        policy = RetryPolicy(2, base_delay=10, jitter="full")
        engine = stageflow_engine(Pipeline[Any, Any]("p").stage("s", fails), retry=policy)
        handle = engine.enqueue("p", {})
        engine.drain()
        assert handle.describe().stage("s").attempts[0].delay == 5.0

    def test_after_a_deploy_workers_know_the_new_pipelines(self, stageflow_engine: MakeEngine) -> None:
        ran: list[str] = []
        old = _two_stages(ran)
        engine = stageflow_engine(old, in_place_stages=1)
        handle = engine.enqueue("two", {})
        engine.step()
        engine.deploy(old.stage("third", lambda _ctx: "new"))
        engine.drain()
        assert handle.outputs() == {"first": "first", "second": "second", "third": "new"}

    def test_after_a_roll_back_the_old_pipelines_are_the_newest_again(self, stageflow_engine: MakeEngine) -> None:
        old = _two_stages([])
        engine = stageflow_engine(old, in_place_stages=1)
        engine.enqueue("two", {})
        engine.drain()
        engine.deploy(Pipeline[Any, Any]("two").stage("other", lambda _ctx: None).stage("end", lambda _ctx: None))
        handle = engine.enqueue("two", {})
        engine.step()
        engine.deploy(old)
        engine.drain()
        assert handle.describe().park_reason is ParkReason.DEFINITION, "the newest definition may judge"

    def test_settings_are_checked_as_ever(self) -> None:
        with pytest.raises(ConfigurationError, match="lease_seconds"), engine_for_tests([], lease_seconds=1):
            pytest.fail("it was accepted")


class TestCrashes:
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_a_worker_that_dies_at_a_point_is_taken_over_when_its_lease_ran_out(
        self, stageflow_engine: MakeEngine, when: Any
    ) -> None:
        engine = stageflow_engine(_two_stages([]), lease_seconds=20)
        started, handle = engine.clock.time(), engine.enqueue("two", {})
        engine.faults.at(when, "succeed")
        engine.drain()
        assert handle.status() is RunStatus.SUCCEEDED
        assert engine.crashes == 1
        assert engine.clock.time() - started > 20

    def test_where_somebody_watches_it_is_taken_over_at_once(self, stageflow_engine: MakeEngine) -> None:
        engine = stageflow_engine(_two_stages([]))
        engine.watched = True
        started, handle = engine.clock.time(), engine.enqueue("two", {})
        engine.faults.at("before", "succeed")
        engine.drain()
        assert handle.status() is RunStatus.SUCCEEDED
        assert engine.clock.time() == started

    def test_a_body_that_raises_crash_dies_there(self, stageflow_engine: MakeEngine) -> None:
        deaths = iter([True, False])

        def dies(_ctx: Any) -> str:
            if next(deaths):
                raise Crash
            return "lived"

        engine = stageflow_engine(Pipeline[Any, Any]("p").stage("dies", dies))
        handle = engine.enqueue("p", {})
        engine.drain()
        assert handle.result() == {"dies": "lived"}
        assert handle.describe().stage("dies").lost == 1

    def test_a_client_that_dies_dies_in_the_test(self, stageflow_engine: MakeEngine) -> None:
        engine = stageflow_engine(_two_stages([]))
        engine.faults.at("after", "create")
        with pytest.raises(Crash):
            engine.enqueue("two", {})
        engine.drain()
        assert [run.status for run in engine.runs()] == [RunStatus.SUCCEEDED]

    def test_a_sweep_that_dies_is_followed_by_another(self, stageflow_engine: MakeEngine) -> None:
        engine = stageflow_engine(_two_stages([]))
        handle = engine.enqueue("two", {})
        engine.messages.lose_all()
        engine.faults.at("after", "nudged")
        engine.drain()
        assert engine.crashes == 1
        assert handle.status() is RunStatus.SUCCEEDED

    def test_the_number_of_a_point_counts_from_when_it_was_planned(self, stageflow_engine: MakeEngine) -> None:
        ran: list[str] = []
        engine = stageflow_engine(_two_stages(ran))
        engine.enqueue("two", {})
        engine.faults.at("before", "succeed", number=2)
        engine.drain()
        assert ran == ["first", "second", "second"]

    def test_every_point_of_a_run_is_traced_and_watched(self, stageflow_engine: MakeEngine) -> None:
        seen: list[Point] = []
        engine = stageflow_engine(_two_stages([]))
        engine.faults.watch = seen.append
        engine.enqueue("two", {}).result()
        assert engine.faults.trace == seen
        calls = [point.call for point in seen if point.when == "before"]
        assert calls[:6] == ["register", "create", "publish", "join", "begin", "succeed"]

    def test_any_error_can_be_raised_at_a_step(self, stageflow_engine: MakeEngine) -> None:
        engine = stageflow_engine(_two_stages([]))
        engine.faults.at_step(0, StoreUnavailable("away"))
        with pytest.raises(StoreUnavailable):
            engine.enqueue("two", {})
        engine.faults.at_step(3, StoreUnavailable("away"))
        engine.faults.clear()
        engine.enqueue("two", {}).result()

    def test_others_may_do_something_while_a_process_stands_still_between_two_steps(
        self, stageflow_engine: MakeEngine
    ) -> None:
        ran: list[str] = []
        engine = stageflow_engine(_two_stages(ran))
        handle = engine.enqueue("two", {})
        seen: list[tuple[RunStatus, list[str]]] = []
        engine.faults.meanwhile("after", "succeed", lambda: seen.append((handle.status(), [*ran])))
        engine.faults.meanwhile("before", "succeed", lambda: seen.append((handle.status(), [*ran])), number=2)
        engine.drain()
        assert seen == [(RunStatus.RUNNING, ["first"]), (RunStatus.RUNNING, ["first", "second"])]

    def test_a_read_may_fail_and_is_no_point_of_the_trace(self, stageflow_engine: MakeEngine) -> None:
        engine = stageflow_engine(_two_stages([]))
        handle = engine.enqueue("two", {})
        trace = [*engine.faults.trace]
        engine.faults.at("before", "facts", number=2, error=StoreUnavailable("away"))
        assert handle.status() is RunStatus.PENDING
        with pytest.raises(StoreUnavailable):
            handle.status()
        assert handle.status() is RunStatus.PENDING
        assert engine.faults.trace == trace

    def test_a_message_that_met_no_database_comes_again(self, stageflow_engine: MakeEngine) -> None:
        engine = stageflow_engine(_two_stages([]))
        engine.faults.at("before", "begin", error=StoreUnavailable("away"))
        assert engine.enqueue("two", {}).result() == {"first": "first", "second": "second"}


class TestMessages:
    @pytest.mark.parametrize("copies", [0, 2])
    def test_lost_and_doubled_messages_change_nothing(self, stageflow_engine: MakeEngine, copies: int) -> None:
        ran: list[str] = []
        engine = stageflow_engine(_two_stages(ran), in_place_stages=1)
        fate = iter([copies] * 3)
        engine.messages.copies = lambda _nudge: next(fate, 1)
        handle = engine.enqueue("two", {})
        engine.drain()
        assert handle.status() is RunStatus.SUCCEEDED
        assert ran == ["first", "second"]

    def test_a_broker_that_is_away_takes_nothing_and_cannot_say(self, stageflow_engine: MakeEngine) -> None:
        engine = stageflow_engine(_two_stages([]))
        engine.messages.away = True
        handle = engine.enqueue("two", {})
        assert (len(engine.messages), engine.messages.depth("stageflow")) == (0, None)
        engine.messages.away = False
        engine.drain()
        assert handle.status() is RunStatus.SUCCEEDED

    def test_depth_is_that_of_one_queue(self, stageflow_engine: MakeEngine) -> None:
        engine = stageflow_engine(_two_stages([]))
        engine.enqueue("two", {}, queue="elsewhere")
        assert (engine.messages.depth("elsewhere"), engine.messages.depth("stageflow")) == (1, 0)
        assert engine.messages.published == 1

    def test_a_delayed_message_comes_when_it_is_due(self, stageflow_engine: MakeEngine) -> None:
        def flaky(ctx: Any) -> StageOutput:
            return StageOutput.retry("busy", after=2) if ctx.attempt == 1 else StageOutput.ok()

        engine = stageflow_engine(Pipeline[Any, Any]("p").stage("flaky", flaky))
        handle = engine.enqueue("p", {}, deadline=timedelta(hours=1))
        engine.work()
        assert engine.messages.next_due() == engine.clock.time() + 2
        assert not engine.step()
        engine.advance(2)
        assert engine.step()
        assert handle.status() is RunStatus.SUCCEEDED
