"""An undo waits until the action cannot act any more: what confirms that, and what a person sees until then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stageflow_durable import Pipeline, RunStatus
from stageflow_durable.errors import InvalidInput, NotAllowed
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.conftest import MakeEngine

LEASE = 10.0
Log = list[str]


class CutOff:
    """A worker that is cut off from the database while its stage runs, and comes back."""

    def __init__(self, make_engine: MakeEngine, **options: Any) -> None:
        self.log: Log = []
        self.meanwhile: Callable[[], None] = lambda: None
        pipeline = Pipeline[Any, Any]("line").stage("pay", self._pay, compensate=self._undo, **options)
        self.engine: InProcessEngine = make_engine(pipeline, lease_seconds=LEASE, workers=2)
        self.handle = self.engine.enqueue("line", {})

    def _pay(self, ctx: Any) -> None:
        if not self.log:
            self.log.append("began")
            self.engine.clock.advance(LEASE + 0.1)
            self.engine.sweep()
            self.meanwhile()
        self.log.append("paid")

    def _undo(self, ctx: Any) -> None:
        self.log.append(f"undone, {ctx.outcome}")

    def sweep_for(self, seconds: float) -> None:
        """Other workers go on."""
        for _second in range(int(seconds)):
            self.engine.clock.advance(1.0)
            self.engine.crew[1].beat()
            self.engine.sweep()
            self.work()

    def work(self) -> None:
        """The other worker takes what there is."""
        while self.engine.step(self.engine.crew[1]):
            pass

    def run(self) -> None:
        """To the end."""
        self.engine.crew[1].owner.join()
        self.engine.step(self.engine.crew[0])
        self.engine.drain()


COMPENSATE: dict[str, Any] = {"on_unknown": "compensate"}


def test_given_a_stage_without_a_timeout_when_its_worker_only_lost_its_lease_then_its_undo_waits_for_it_to_return(
    make_engine: MakeEngine,
) -> None:
    cut = CutOff(make_engine, **COMPENSATE)

    def meanwhile() -> None:
        cut.sweep_for(300)
        assert cut.handle.status() is RunStatus.COMPENSATING
        assert cut.log == ["began"]

    cut.meanwhile = meanwhile
    cut.run()
    assert cut.log == ["began", "paid", "undone, unknown"], "it said so itself, once its body had returned"
    assert cut.handle.status() is RunStatus.COMPENSATED
    (told,) = [event for event in cut.handle.history() if event.type == "worker.ended"]
    assert told.data["confirmed_by"] == "itself"


def test_given_a_stage_with_a_timeout_then_its_undo_waits_until_its_process_was_ended_by_it(
    make_engine: MakeEngine,
) -> None:
    cut = CutOff(make_engine, timeout=60.0, **COMPENSATE)
    cut.meanwhile = lambda: cut.sweep_for(120)
    cut.run()
    assert cut.log[:2] == ["began", "undone, unknown"]


def test_given_an_undo_that_waits_then_a_person_sees_for_whom_and_can_say_that_it_has_ended(
    make_engine: MakeEngine,
) -> None:
    cut = CutOff(make_engine, **COMPENSATE)
    engine, handle = cut.engine, cut.handle

    def meanwhile() -> None:
        (awaited,) = handle.describe().awaits
        assert awaited.stage == "pay"
        (listed,) = engine.runs(attention=True)
        assert listed.awaits == (awaited,)
        (worker,) = [one for one in engine.workers() if one.owner == awaited.owner]
        assert (worker.awaited, worker.confirmed) == (True, False)
        with pytest.raises(InvalidInput, match="reason"):
            engine.confirm_dead(awaited.owner, reason=" ", actor="ada")
        before = handle.describe().op_version
        assert engine.confirm_dead(awaited.owner, reason="the host is off", actor="ada") == [handle.run_id]
        assert handle.describe().op_version == before + 1
        with pytest.raises(NotAllowed, match="was confirmed before, by ada"):
            engine.confirm_dead(awaited.owner, reason="again", actor="bob")
        cut.sweep_for(5)

    cut.meanwhile = meanwhile
    cut.run()
    assert cut.log[:2] == ["began", "undone, unknown"]
    (said,) = [event for event in handle.history() if event.type == "operator.confirm-dead"]
    assert (said.data["actor"], said.data["reason"]) == ("ada", "the host is off")
    assert handle.describe().awaits == ()
    assert engine.runs(attention=True) == []


def test_given_a_worker_whose_lease_holds_when_a_person_says_that_it_is_dead_then_it_is_refused(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine(Pipeline[Any, Any]("line").stage("a", lambda ctx: None))
    engine.crew[0].owner.join()
    with pytest.raises(NotAllowed, match=r"confirm-dead of worker .* refused: its lease holds"):
        engine.confirm_dead(engine.crew[0].owner.id, reason="r", actor="a")
    with pytest.raises(NotAllowed, match="there is no such owner"):
        engine.confirm_dead("nobody", reason="r", actor="a")


def test_given_a_stage_that_was_tried_again_elsewhere_when_a_later_one_fails_then_its_undo_waits_for_the_first_try(
    make_engine: MakeEngine,
) -> None:
    log: Log = []

    def pay(ctx: Any) -> None:
        log.append("began")
        if len(log) == 1:
            engine.clock.advance(LEASE + 0.1)
            engine.sweep()
            for _message in range(3):
                engine.step(engine.crew[1])  # the second try, and what comes after it
            assert handle.status() is RunStatus.COMPENSATING
            assert handle.describe().awaits[0].stage == "pay"
        log.append("paid")

    def fails(ctx: Any) -> None:
        raise ValueError("no")

    pipeline = Pipeline[Any, Any]("line").stage("pay", pay, compensate=lambda ctx: log.append("undone"))
    engine = make_engine(pipeline.stage("ship", fails), lease_seconds=LEASE, workers=2)
    handle = engine.enqueue("line", {})
    engine.step(engine.crew[0])
    engine.drain()
    assert log == ["began", "began", "paid", "paid", "undone"]
    assert handle.status() is RunStatus.COMPENSATED
