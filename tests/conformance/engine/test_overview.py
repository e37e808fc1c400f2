"""What happens right now, at a glance."""

from __future__ import annotations

import pytest

from stageflow_durable import StageOutput
from stageflow_durable.model.run import WaitKind
from stageflow_durable.model.status import RunStatus
from stageflow_durable.testing import StillGoing
from tests.conformance.engine.acts import FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine


def test_runs_are_counted_by_status_pipeline_and_what_they_wait_for(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", FAILS("no"), TypeError("a bug"), StageOutput.retry("busy", after=6000))
    engine = make_engine(acts.line("b", b={"compensate": None}), acts.line("c", name="other"))
    for _number in range(2):
        engine.enqueue("line", {})
        engine.drain()
    engine.enqueue("other", {})
    engine.drain()
    engine.enqueue("line", {})
    with pytest.raises(StillGoing):
        engine.drain(1000)
    engine.advance(1000)
    engine.enqueue("other", {})  # nobody takes it
    engine.advance(10)
    seen = engine.overview()
    assert {status: number for status, number in seen.counts.items() if number} == {
        RunStatus.FAILED: 1, RunStatus.PARKED: 1, RunStatus.WAITING: 1, RunStatus.PENDING: 1,
    }  # fmt: skip
    assert [(rate.pipeline, rate.begun, rate.going) for rate in seen.rates] == [("other", 1, 1)], "within five minutes"
    assert {wait.kind: wait.runs for wait in seen.waits}[WaitKind.RETRY] == 1
    [queue] = [one for one in seen.queues if one.ready]
    assert (queue.ready, queue.oldest is not None, queue.oldest and queue.oldest < seen.at) == (1, True, True)
    assert seen.partial == ()
