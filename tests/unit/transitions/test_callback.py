"""A stage that waits for its callback: what its wait is, what ends it, what is kept, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable.codec import fingerprint
from stageflow_durable.errors import CallbackRefused
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.status import (
    AttemptState,
    Cause,
    ParkReason,
    Phase,
    RunStatus,
    StepState,
    StrandState,
    WaitingFor,
)
from stageflow_durable.model.work import Fenced, Refusal
from stageflow_durable.transitions import operate, wake
from stageflow_durable.transitions.callback import Call, await_callback, receive
from stageflow_durable.transitions.change import Change, KeyEnd
from stageflow_durable.transitions.rows import HeldKey
from stageflow_durable.transitions.waiting import SchemaChanged
from tests.unit.transitions.story import RUN, Story, body

HOUR = 3600.0
KEY = HeldKey("c", "operation", "key", "a", 60.0)


def line(**options: Any) -> Pipeline[Any, Any]:
    return Pipeline[Any, Any]("p").stage("a", body, compensate=body, **options).stage("b", body)


@pytest.fixture
def story() -> Story:
    """A run whose first stage waits for an hour, since 100."""
    return waiting(Story(line()))


def waits(story: Story, *, retry_after: float | None = None) -> Any:
    """The stage at which the strand stands returns its wait."""
    work = story.begin("a")
    return story.apply(await_callback(story.facts(), work, HOUR, retry_after))


def waiting(story: Story, **options: Any) -> Story:
    waits(story, **options)
    return story


def call(text: str = "1", *, stage: str = "a", schema: str | None = None) -> Call:
    return Call(RUN, stage, text, fingerprint(text), schema)


def called(story: Story, one: Call | None = None) -> Any:
    return story.apply(receive(story.facts(), one or call()))


def reason(story: Story, one: Call | None = None) -> str:
    with pytest.raises(CallbackRefused) as caught:
        called(story, one)
    return str(caught.value.reason)


def expires(story: Story) -> Any:
    story.clock += HOUR + 1
    return story.apply(wake.wake(story.facts(), "a", story.row("a").gen))


def ordered(story: Story, verb: Any) -> Any:
    return story.apply(verb(story.facts(), operate.Order(RUN, verb.__name__, "why", "ann")))


def attempt(story: Story) -> tuple[str, bool]:
    """How the last attempt stands, and whether it is in doubt."""
    row = max(story.attempts.values(), key=lambda one: one.n)
    return str(row.state), row.doubt


# --- it waits ---------------------------------------------------------------------------------------------------------


def test_while_it_waits_its_outcome_is_in_doubt_and_nobody_holds_it(story: Story) -> None:
    row = story.row("a")
    assert (row.state, row.waiting_for, row.wake_at) == (StrandState.WAITING, WaitingFor.CALLBACK, 100.0 + HOUR)
    assert (row.owner, row.published_at, row.nudges) == (None, None, 0)
    assert (attempt(story), story.steps["a"]) == ((AttemptState.WAITING, True), StepState.INTENDED)
    assert (story.run.status, story.events[-1]) == (RunStatus.WAITING, "stage.waiting")


def test_no_message_begins_it_also_when_it_is_due(story: Story) -> None:
    assert story.refusal("a") is Refusal.NOT_DUE
    story.clock += HOUR + 1
    assert story.refusal("a") is Refusal.NOT_DUE


def test_who_has_lost_the_strand_cannot_wait() -> None:
    story = Story(line())
    work = story.begin("a")
    assert isinstance(await_callback(story.facts(), work._replace(owner="other"), HOUR, None), Fenced)


# --- a call -----------------------------------------------------------------------------------------------------------


def test_a_call_is_the_output_and_the_run_goes_on(story: Story) -> None:
    change = called(story)
    assert [nudge.strand for nudge in change.nudges] == ["a"]
    assert (story.saved, attempt(story), story.steps["a"]) == (
        {"a": False},
        (AttemptState.OK, False),
        StepState.RECORDED,
    )
    assert (story.row("a").stage, story.state("a")) == ("b", StrandState.READY)


def test_a_call_that_comes_early_is_kept_and_ends_the_wait_at_once() -> None:
    story = Story(line())
    work = story.begin("a")
    change = called(story)
    assert (change.nudges, story.saved) == ((), {})
    story.apply(await_callback(story.facts(), work, HOUR, None))
    assert (story.saved, attempt(story)) == ({"a": False}, (AttemptState.OK, False))


def test_the_same_again_is_the_one_of_before_and_anything_else_a_conflict(story: Story) -> None:
    called(story)
    assert not isinstance(called(story), Change)
    assert reason(story, call("2")) == "conflict"


def test_a_call_that_was_validated_by_another_schema_is_validated_again() -> None:
    story = waiting(Story(line(callback={"type": "integer"})))
    with pytest.raises(SchemaChanged):
        called(story)
    called(story, call(schema=story.plan.by_name["a"].schema))
    assert story.saved == {"a": False}


def test_what_nothing_waits_for_is_late(story: Story) -> None:
    assert reason(story, call(stage="gone")) == "late"
    ordered(story, operate.cancel)
    assert reason(story) == "late"


def test_a_stage_that_is_done_takes_no_call() -> None:
    story = Story(line())
    story.run_through("a")
    assert reason(story) == "late"


def test_a_business_key_has_the_result(story: Story) -> None:
    story.keys = (KEY, KEY._replace(stage="b", key="other"))
    change = called(story)
    assert [(one.key, one.end, one.delta) for one in change.keys] == [(KEY, KeyEnd.FINISHED, "1")]


# --- it expires -------------------------------------------------------------------------------------------------------


def test_nothing_happens_before_its_time(story: Story) -> None:
    assert wake.wake(story.facts(), "a", 0) is None


def test_an_expired_wait_is_tried_again_after_the_delay_that_was_decided_when_it_began() -> None:
    story = waiting(Story(line()), retry_after=5.0)
    expires(story)
    row = story.row("a")
    assert (row.waiting_for, row.wake_at, row.tries) == (WaitingFor.TIME, story.clock + 5.0, 1)
    assert attempt(story) == (AttemptState.RETRY, True)


def test_an_expired_wait_without_another_attempt_is_undone_as_unknown(story: Story) -> None:
    expires(story)
    assert attempt(story) == (AttemptState.FAILED, True)
    assert (story.run.phase, story.run.cause, story.steps["a"]) == (Phase.BACKWARD, Cause.FAILED, StepState.INTENDED)
    assert "work.retry_exhausted" in story.events
    assert reason(story) == "late"


@pytest.mark.parametrize(
    ("options", "park"),
    [
        ({"on_unknown": "park"}, ParkReason.UNKNOWN),
        ({"pivot": True}, ParkReason.UNKNOWN),
        ({"on_unknown": "compensate"}, None),
    ],
)
def test_what_must_not_be_tried_again_is_not(options: dict[str, Any], park: ParkReason | None) -> None:
    story = waiting(Story(line(**options)), retry_after=None if "pivot" in options else 5.0)
    expires(story)
    assert story.run.park_reason is park
    assert story.run.status is (RunStatus.COMPENSATING if park is None else RunStatus.PARKED)


def test_an_expired_wait_leaves_its_business_key_taken(story: Story) -> None:
    story.keys = (KEY, KEY._replace(stage="b", key="other"))
    change = expires(story)
    assert (change.keys[0].key, change.keys[0].end) == (KEY, KeyEnd.ABANDONED)


def test_a_deadline_that_has_passed_comes_first(story: Story) -> None:
    story.run = story.run._replace(deadline=story.clock + 60)
    expires(story)
    assert story.run.cause is Cause.DEADLINE
    assert attempt(story) == (AttemptState.WAITING, True)


# --- a run that is stopped --------------------------------------------------------------------------------------------


def test_a_cancelled_wait_is_unknown(story: Story) -> None:
    ordered(story, operate.cancel)
    assert (attempt(story), story.steps["a"], story.run.phase) == (
        (AttemptState.WAITING, True),
        StepState.INTENDED,
        Phase.BACKWARD,
    )


def test_a_body_that_returns_its_wait_to_a_run_that_stops_is_unknown() -> None:
    story = Story(line())
    work = story.begin("a")
    ordered(story, operate.cancel)
    story.apply(await_callback(story.facts(), work, HOUR, None))
    assert (attempt(story), story.run.phase) == ((AttemptState.WAITING, True), Phase.BACKWARD)


def test_a_call_to_a_body_that_runs_in_a_run_that_stops_makes_its_outcome_known() -> None:
    story = Story(line())
    work = story.begin("a")
    ordered(story, operate.cancel)
    called(story)
    story.apply(await_callback(story.facts(), work, HOUR, None))
    assert (attempt(story), story.steps["a"]) == ((AttemptState.OK, False), StepState.RECORDED)


def _parked() -> Story:
    """A run that was parked by ``x`` while ``a`` waited."""
    pipeline = Pipeline[Any, Any]("p", on_failure="park")
    pipeline = pipeline.stage("a", body, after=()).stage("x", body, after=()).stage("z", body, after=("a", "x"))
    story = waiting(Story(pipeline), retry_after=5.0)
    story.fail(story.begin("x"))
    assert (story.run.status, story.state("a")) == (RunStatus.PARKED, StrandState.REST)
    return story


def test_a_run_that_is_resumed_waits_on_for_its_whole_time_and_is_not_tried_again() -> None:
    story = _parked()
    story.clock += 60
    ordered(story, operate.resume)
    row = story.row("a")
    assert (row.waiting_for, row.wake_at, row.attempt) == (WaitingFor.CALLBACK, story.clock + HOUR, 1)
    expires(story)
    assert (story.run.status, story.run.error) == (RunStatus.PARKED, "no callback came within 3600 seconds")


def test_a_call_to_a_parked_run_is_kept_until_it_is_resumed() -> None:
    story = _parked()
    assert called(story).nudges == ()
    assert story.saved == {}
    ordered(story, operate.resume)
    assert story.saved == {"a": False}
