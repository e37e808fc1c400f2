"""A stage's business key: one effect across runs, replayed results, waits that hold no worker."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable import Pipeline, RunStatus, StageOutput, TransientError
from stageflow_durable.model.status import ParkReason, StepState
from tests.conformance.engine.acts import DIES, FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine

WHO: dict[str, Any] = {"reason": "because", "actor": "ops"}


def keyed(acts: Acts, names: str = "a", **options: Any) -> Pipeline[Any, Any]:
    """The first stage has a key: the input's ``order``."""
    return acts.line(names, a={"key": lambda ctx: str(ctx.input["order"]), **options})


@pytest.mark.parametrize("value", [{"paid": 1}, None, False, 0, "", []], ids=repr)
def test_a_result_is_replayed_exactly_without_the_body(make_engine: MakeEngine, acts: Acts, value: Any) -> None:
    acts.play("a", value)
    engine = make_engine(keyed(acts, "a b"))
    handles = [engine.enqueue("line", {"order": 1}) for _ in range(2)]
    engine.drain()
    assert acts.log == ["a", "b", "b"]
    assert [handle.outputs()["a"] for handle in handles] == [value, value]
    types = [event.type for event in handles[1].history()]
    assert "work.idempotency_hit" in types
    assert acts.contexts[-1].outputs == {"a": value}


def test_a_replayed_stage_has_done_nothing_that_this_run_would_undo(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(keyed(acts, "a b"))
    engine.enqueue("line", {"order": 1})
    engine.drain()
    acts.play("b", StageOutput.reject("no"))
    second = engine.enqueue("line", {"order": 1})
    engine.drain()
    assert acts.log == ["a", "b", "b"]
    undo = second.describe().stage("a").undo
    assert undo is not None
    assert undo.state is StepState.VOID
    assert second.status() is RunStatus.FAILED


def test_two_clients_with_one_key_never_meet(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(keyed(acts))
    for client in ("web", "shop"):
        engine.enqueue("line", {"order": 1}, client_id=client)
    engine.drain()
    assert acts.log == ["a", "a"]


def test_other_parameters_under_one_key_are_refused_by_name(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(keyed(acts, "b a"))
    engine.enqueue("line", {"order": 1, "cents": 5})
    engine.drain()
    second = engine.enqueue("line", {"order": 1, "cents": 6})
    engine.drain()
    run = second.describe()
    assert acts.log == ["b", "a", "b", "undo b ok"]
    assert "differing: cents" in str(run.error)
    assert "work.idempotency_mismatch" in [event.type for event in second.history()]


def test_a_duplicate_waits_as_a_row_while_the_first_runs_and_then_has_its_answer(
    make_engine: MakeEngine, acts: Acts
) -> None:
    acts.play("a", TransientError("busy", retry_after=60), {"paid": 1})
    engine = make_engine(keyed(acts))
    handles = [engine.enqueue("line", {"order": 1}) for _ in range(2)]
    engine.work()
    assert [handle.status() for handle in handles] == [RunStatus.WAITING] * 2
    engine.drain()
    assert acts.log == ["a", "a"]
    assert [handle.result() for handle in handles] == [{"a": {"paid": 1}}] * 2
    stage = handles[1].describe().stage("a")
    assert (stage.tries, stage.lost) == (1, 0)


def test_a_key_is_kept_over_the_death_of_its_process(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", DIES)
    engine = make_engine(keyed(acts))
    handles = [engine.enqueue("line", {"order": 1}) for _ in range(2)]
    engine.drain()
    assert acts.log == ["a", "a"]
    assert [handle.status() for handle in handles] == [RunStatus.SUCCEEDED] * 2


def test_a_stage_that_vouched_gives_its_key_back(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", StageOutput.reject("declined"), "fine")
    engine = make_engine(keyed(acts))
    first = engine.enqueue("line", {"order": 1})
    engine.drain()
    second = engine.enqueue("line", {"order": 1})
    engine.drain()
    assert (first.status(), second.status()) == (RunStatus.FAILED, RunStatus.SUCCEEDED)
    assert acts.log == ["a", "a"]


def test_work_that_was_undone_keeps_its_key_from_being_done_again(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", FAILS("no"))
    engine = make_engine(keyed(acts, "a b"))
    first = engine.enqueue("line", {"order": 1})
    engine.drain()
    assert first.status() is RunStatus.COMPENSATED
    second = engine.enqueue("line", {"order": 1})
    engine.drain()
    assert "new key" in str(second.describe().error)
    assert second.status() is RunStatus.FAILED
    assert acts.log == ["a", "b", "undo b unknown", "undo a ok"]


def test_a_failure_in_doubt_keeps_its_key_for_as_long_as_it_is_remembered(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", FAILS("who knows"))
    engine = make_engine(keyed(acts, compensate=None, key_ttl=100))
    engine.enqueue("line", {"order": 1})
    engine.drain()
    second = engine.enqueue("line", {"order": 1})
    engine.drain()
    assert "doubt" in str(second.describe().error)
    engine.advance(101)
    third = engine.enqueue("line", {"order": 1})
    engine.drain()
    assert third.status() is RunStatus.SUCCEEDED
    assert acts.log == ["a", "a"]


def test_a_result_is_remembered_for_its_time_and_no_longer(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(keyed(acts, key_ttl=100))
    for _ in range(3):
        engine.enqueue("line", {"order": 1})
        engine.drain()
        engine.advance(60)
    assert acts.log == ["a", "a"]


@pytest.mark.parametrize("bad", ["", 5.5, True, None, "x" * 256, "two\nlines"], ids=repr)
def test_a_key_that_is_none_is_the_stages_mistake_before_it_began(
    make_engine: MakeEngine, acts: Acts, bad: Any
) -> None:
    engine = make_engine(acts.line("b a", a={"key": lambda _ctx: bad}))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert "a" not in acts.log
    assert handle.status() in (RunStatus.COMPENSATED, RunStatus.PARKED)
    assert "key" in str(handle.describe().error).lower()


class TestTheEndOfARunEndsWhatItHolds:
    def test_settled_as_done_it_is_replayed(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("a", DIES)
        engine = make_engine(keyed(acts, on_unknown="park"))
        first = engine.enqueue("line", {"order": 1})
        engine.drain()
        assert first.describe().park_reason is ParkReason.UNKNOWN
        engine.settle(first.run_id, "a", done={"paid": 1}, **WHO)
        second = engine.enqueue("line", {"order": 1})
        engine.drain()
        assert acts.log == ["a"]
        assert second.outputs() == {"a": {"paid": 1}}

    def test_settled_as_not_done_the_run_itself_does_it(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("a", DIES)
        engine = make_engine(keyed(acts, on_unknown="park"))
        first = engine.enqueue("line", {"order": 1})
        engine.drain()
        engine.settle(first.run_id, "a", not_done=True, **WHO)
        second = engine.enqueue("line", {"order": 1})
        engine.drain()
        assert acts.log == ["a", "a"]
        assert [first.status(), second.status()] == [RunStatus.SUCCEEDED] * 2

    def test_while_its_run_is_parked_a_duplicate_waits(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("a", DIES)
        engine = make_engine(keyed(acts, on_unknown="park"))
        engine.enqueue("line", {"order": 1})
        engine.drain()
        second = engine.enqueue("line", {"order": 1})
        engine.work()
        assert second.status() is RunStatus.WAITING
        engine.cancel(second.run_id, **WHO)

    def test_cancelled_between_attempts_in_doubt_it_is_free_after_its_time(
        self, make_engine: MakeEngine, acts: Acts
    ) -> None:
        acts.play("a", TransientError("busy", retry_after=600))
        engine = make_engine(keyed(acts, compensate=None, key_ttl=100))
        first = engine.enqueue("line", {"order": 1})
        engine.work()
        engine.cancel(first.run_id, **WHO)
        assert first.status() is RunStatus.CANCELLED
        engine.advance(101)
        second = engine.enqueue("line", {"order": 1})
        engine.drain()
        assert second.status() is RunStatus.SUCCEEDED

    def test_lost_in_a_run_that_was_stopping_it_is_free_after_its_time(
        self, make_engine: MakeEngine, acts: Acts
    ) -> None:
        engine = make_engine(keyed(acts, compensate=None, key_ttl=100))

        def cancelled_and_dies(ctx: Any) -> None:
            engine.cancel(ctx.run_id, **WHO)
            raise DIES

        acts.play("a", cancelled_and_dies)
        first = engine.enqueue("line", {"order": 1})
        engine.drain()
        assert first.status() is RunStatus.CANCELLED
        engine.advance(101)
        second = engine.enqueue("line", {"order": 1})
        engine.drain()
        assert second.status() is RunStatus.SUCCEEDED


def test_a_result_that_was_saved_while_the_run_was_stopping_is_kept_under_its_key(
    make_engine: MakeEngine, acts: Acts
) -> None:
    engine = make_engine(keyed(acts, "a b", compensate=None))

    def cancelled_meanwhile(ctx: Any) -> dict[str, int]:
        engine.cancel(ctx.run_id, **WHO)
        return {"paid": 1}

    acts.play("a", cancelled_meanwhile)
    first = engine.enqueue("line", {"order": 1})
    engine.drain()
    second = engine.enqueue("line", {"order": 1})
    engine.drain()
    assert first.status() is RunStatus.CANCELLED
    assert acts.log == ["a", "b"], "paid once"
    assert second.outputs() == {"a": {"paid": 1}, "b": "b"}


def test_a_skipped_stage_leaves_its_key_to_the_next_run(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", StageOutput.skip("out of stock"))
    engine = make_engine(keyed(acts))
    engine.enqueue("line", {"order": 1})
    engine.drain()
    second = engine.enqueue("line", {"order": 1})
    engine.drain()
    assert acts.log == ["a", "a"]
    assert second.status() is RunStatus.SUCCEEDED
