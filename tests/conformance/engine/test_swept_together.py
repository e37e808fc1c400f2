"""Several strands of one run that a sweep finds at once: branches whose messages were lost, or whose waits are over."""

from __future__ import annotations

from stageflow_durable import RunStatus, StageOutput
from tests.conformance.engine.acts import Acts
from tests.conformance.engine.conftest import MakeEngine

BRANCHES = ("a", "b", "c")


def test_given_branches_whose_messages_were_lost_when_a_sweep_publishes_them_then_the_next_one_does_not(
    make_engine: MakeEngine, acts: Acts
) -> None:
    engine = make_engine(acts.graph(**dict.fromkeys(BRANCHES, "")))
    handle = engine.enqueue("graph", {})
    engine.messages.lose_all()
    engine.advance(2)
    published = engine.messages.published
    assert engine.sweep().nudged == len(BRANCHES)
    assert engine.sweep().nudged == 0
    assert engine.messages.published - published == len(BRANCHES)
    engine.work()
    assert handle.status() is RunStatus.SUCCEEDED


def test_given_branches_that_wait_for_one_moment_when_it_has_come_then_one_sweep_wakes_all_of_them(
    make_engine: MakeEngine, acts: Acts
) -> None:
    for branch in BRANCHES:
        acts.play(branch, StageOutput.retry("not yet", after=60))
    engine = make_engine(acts.graph(**dict.fromkeys(BRANCHES, "")))
    handle = engine.enqueue("graph", {})
    engine.work()
    engine.advance(61)
    assert engine.sweep().woken == len(BRANCHES)
    engine.work()
    assert handle.status() is RunStatus.SUCCEEDED
