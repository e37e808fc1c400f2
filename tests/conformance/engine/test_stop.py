"""Stopping a run: by a person, by its deadline, by one of its stages; from whatever it is doing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stageflow_durable import RetryPolicy, RunStatus, StageOutput, TransientError
from stageflow_durable.errors import InvalidInput, NotAllowed
from stageflow_durable.model.status import Cause, ParkReason
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import DIAMOND, DIES, FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine

WHO: dict[str, Any] = {"reason": "because", "actor": "ops"}


def stop(engine: InProcessEngine, run_id: str, **options: Any) -> RunStatus:
    return engine.cancel(run_id, **WHO, **options).status


class TestCancel:
    def test_before_anything_began(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a b"))
        handle = engine.enqueue("line", {})
        assert stop(engine, handle.run_id) is RunStatus.CANCELLED
        engine.drain()
        assert acts.log == []

    def test_between_two_stages_undoes_what_was_done(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a b c"), in_place_stages=1)
        handle = engine.enqueue("line", {})
        engine.step()
        engine.step()
        assert stop(engine, handle.run_id) is RunStatus.COMPENSATING
        engine.drain()
        assert acts.log == ["a", "b", "undo b ok", "undo a ok"]
        run = handle.describe()
        assert (run.status, run.cause, run.error) == (RunStatus.COMPENSATED, Cause.CANCELLED, "because")

    def test_between_two_stages_with_nothing_to_undo(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a b", a={"compensate": None}), in_place_stages=1)
        handle = engine.enqueue("line", {})
        engine.step()
        assert stop(engine, handle.run_id) is RunStatus.CANCELLED
        engine.drain()
        assert acts.log == ["a"]

    def test_while_a_stage_runs_its_outcome_is_saved_and_then_undone(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a b c"))
        acts.play("b", lambda ctx: str(stop(engine, ctx.run_id)))
        handle = engine.enqueue("line", {})
        engine.drain()
        assert handle.outputs() == {"a": "a", "b": "stopping"}
        assert acts.log == ["a", "b", "undo b ok", "undo a ok"]
        assert handle.status() is RunStatus.COMPENSATED

    def test_while_a_stage_waits_to_be_tried_again(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("b", TransientError("busy", retry_after=600))
        engine = make_engine(acts.line("a b c"))
        handle = engine.enqueue("line", {})
        engine.work()
        assert stop(engine, handle.run_id) is RunStatus.COMPENSATING
        engine.drain()
        assert acts.log == ["a", "b", "undo b unknown", "undo a ok"]

    def test_while_the_last_stage_runs_is_too_late(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a b"))
        acts.play("b", lambda ctx: str(stop(engine, ctx.run_id)))
        handle = engine.enqueue("line", {})
        engine.drain()
        run = handle.describe()
        assert acts.log == ["a", "b"]
        assert (run.status, run.cause) == (RunStatus.SUCCEEDED, None)

    def test_while_a_stage_fails_nothing_is_tried_again(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a b"))

        def cancelled_then_fails(ctx: Any) -> None:
            stop(engine, ctx.run_id)
            raise TransientError("busy")

        acts.play("b", cancelled_then_fails)
        engine.enqueue("line", {})
        engine.drain()
        assert acts.log == ["a", "b", "undo b unknown", "undo a ok"]

    def test_while_branches_run_they_come_to_rest_first(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.graph(**DIAMOND), in_place_stages=1)
        seen: list[Any] = []

        def left(ctx: Any) -> str:
            seen.append(stop(engine, ctx.run_id))
            engine.work()
            seen.append(engine.run(ctx.run_id).status)
            return "left"

        acts.play("left", left)
        engine.enqueue("graph", {})
        engine.drain()
        assert seen == [RunStatus.STOPPING, RunStatus.STOPPING]
        assert acts.log == ["a", "left", "undo left ok", "undo a ok"]

    def test_a_stage_may_ask_and_stop_where_it_is_safe(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a b"))

        def asks(ctx: Any) -> None:
            ctx.raise_if_cancelled()
            stop(engine, ctx.run_id)
            ctx.raise_if_cancelled()

        acts.play("a", asks)
        handle = engine.enqueue("line", {})
        engine.drain()
        run = handle.describe()
        assert acts.log == ["a", "undo a unknown"]
        assert (run.status, run.cause) == (RunStatus.COMPENSATED, Cause.CANCELLED)

    def test_a_parked_run(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("b", TypeError("slip"))
        engine = make_engine(acts.line("a b"))
        handle = engine.enqueue("line", {})
        engine.drain()
        assert stop(engine, handle.run_id) is RunStatus.COMPENSATING
        engine.drain()
        assert acts.log == ["a", "b", "undo b unknown", "undo a ok"]

    def test_a_parked_run_with_nothing_to_undo(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("a", TypeError("slip"))
        engine = make_engine(acts.line("a", a={"compensate": None}))
        handle = engine.enqueue("line", {})
        engine.drain()
        assert stop(engine, handle.run_id) is RunStatus.CANCELLED

    def test_twice_is_once(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a b c"), in_place_stages=1)
        handle = engine.enqueue("line", {})
        engine.step()
        stop(engine, handle.run_id)
        assert stop(engine, handle.run_id) is RunStatus.COMPENSATING
        engine.drain()
        assert acts.log == ["a", "undo a ok"]

    @pytest.mark.parametrize("end", ["succeeded", "compensated", "failed", "cancelled"])
    def test_a_run_that_has_ended_is_refused(self, make_engine: MakeEngine, acts: Acts, end: str) -> None:
        engine = make_engine(acts.line("a b", a={"compensate": None} if end in ("failed", "cancelled") else {}))
        acts.play(
            "b",
            {"compensated": FAILS("no"), "failed": StageOutput.reject("no"), "cancelled": StageOutput.cancel("no")}.get(
                end, "fine"
            ),
        )
        if end == "cancelled":
            acts.script["b"] = []
            acts.play("a", StageOutput.cancel("no"))
        handle = engine.enqueue("line", {})
        engine.drain()
        assert handle.status() == end
        with pytest.raises(NotAllowed, match=end):
            stop(engine, handle.run_id)
        assert handle.status() == end

    def test_past_the_pivot_is_refused_unless_it_is_meant(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a b c", b={"pivot": True}), in_place_stages=1)
        handle = engine.enqueue("line", {})
        engine.step()
        engine.step()
        with pytest.raises(NotAllowed, match="pivot"):
            stop(engine, handle.run_id)
        assert stop(engine, handle.run_id, past_pivot=True) is RunStatus.COMPENSATING
        engine.drain()
        assert acts.log == ["a", "b", "undo b ok", "undo a ok"]

    @pytest.mark.parametrize("blank", ["reason", "actor"])
    def test_without_a_reason_and_an_actor_is_refused(self, make_engine: MakeEngine, acts: Acts, blank: str) -> None:
        engine = make_engine(acts.line("a"))
        handle = engine.enqueue("line", {})
        with pytest.raises(InvalidInput, match=blank):
            engine.cancel(handle.run_id, **{**WHO, blank: "  "})


class TestDeadline:
    def test_a_run_past_its_deadline_is_stopped_and_undone(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("b", TransientError("busy", retry_after=600))
        engine = make_engine(acts.line("a b"))
        started, handle = engine.clock.time(), engine.enqueue("line", {}, deadline=timedelta(seconds=60))
        engine.drain()
        run = handle.describe()
        assert acts.log == ["a", "b", "undo b unknown", "undo a ok"]
        assert (run.status, run.cause) == (RunStatus.COMPENSATED, Cause.DEADLINE)
        assert engine.clock.time() - started == pytest.approx(60, abs=0.1)

    def test_with_nothing_to_undo_it_is_cancelled(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a"))
        handle = engine.enqueue("line", {}, deadline=datetime.fromtimestamp(engine.clock.time() + 5, UTC))
        engine.messages.lose_all()
        engine.advance(6)
        engine.drain()
        assert acts.log == []
        assert (handle.status(), handle.describe().cause) == (RunStatus.CANCELLED, Cause.DEADLINE)

    def test_nothing_begins_in_place_when_it_has_passed(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a b"))
        acts.play("a", lambda _ctx: engine.advance(61))
        handle = engine.enqueue("line", {}, deadline=timedelta(seconds=60))
        engine.drain()
        assert acts.log == ["a", "undo a ok"]
        assert handle.describe().cause is Cause.DEADLINE

    def test_it_has_no_say_past_the_pivot(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a b c", b={"pivot": True}))
        acts.play("b", lambda _ctx: engine.advance(61))
        handle = engine.enqueue("line", {}, deadline=timedelta(seconds=60))
        engine.drain()
        assert acts.log == ["a", "b", "c"]
        assert handle.status() is RunStatus.SUCCEEDED

    def test_a_stage_is_told(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a"))
        engine.enqueue("line", {}, deadline=timedelta(seconds=60))
        engine.drain()
        assert acts.contexts[0].deadline.timestamp() == engine.clock.time() + 60

    def test_a_naive_one_is_refused(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a"))
        with pytest.raises(InvalidInput, match="naive"):
            engine.enqueue("line", {}, deadline=datetime(2026, 1, 1))  # a naive one is what it is about


class TestByAStage:
    def test_cancel_ends_the_run_and_undoes_what_was_done(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("b", StageOutput.cancel("the customer left"))
        engine = make_engine(acts.line("a b c"))
        handle = engine.enqueue("line", {})
        engine.drain()
        run = handle.describe()
        assert acts.log == ["a", "b", "undo b unknown", "undo a ok"]
        assert (run.status, run.cause, run.error) == (RunStatus.COMPENSATED, Cause.STAGE, "the customer left")

    def test_cancel_is_never_retried(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("a", StageOutput.cancel("x"))
        engine = make_engine(acts.line("a"), retry=RetryPolicy(9))
        engine.enqueue("line", {})
        engine.drain()
        assert acts.log == ["a", "undo a unknown"]

    def test_where_failures_park_a_person_decides_first(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("b", FAILS("no"))
        engine = make_engine(acts.line("a b", options={"on_failure": "park"}))
        handle = engine.enqueue("line", {})
        engine.drain()
        run = handle.describe()
        assert acts.log == ["a", "b"]
        assert (run.status, run.park_reason, run.error) == (RunStatus.PARKED, ParkReason.OPERATOR, "PermanentError: no")

    def test_where_failures_park_a_lost_stage_is_tried_again_all_the_same(
        self, make_engine: MakeEngine, acts: Acts
    ) -> None:
        acts.play("b", DIES)
        engine = make_engine(acts.line("a b", options={"on_failure": "park"}))
        handle = engine.enqueue("line", {})
        engine.drain()
        assert handle.status() is RunStatus.SUCCEEDED

    def test_the_first_reason_to_stop_wins(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.graph(**DIAMOND), in_place_stages=1)

        def left(_ctx: Any) -> None:
            acts.play("right", StageOutput.cancel("first"))
            engine.step(engine.hired())
            raise FAILS("second")

        acts.play("left", left)
        handle = engine.enqueue("graph", {})
        engine.drain()
        run = handle.describe()
        assert (run.cause, run.error, run.error_stage) == (Cause.STAGE, "first", "right")
