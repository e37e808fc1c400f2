"""A stage that waits for a signal: when it begins to, what ends it, and what is kept."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable import Default
from stageflow_durable.codec import fingerprint
from stageflow_durable.errors import IdempotencyParamMismatch, NotAllowed
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.status import Cause, ParkReason, Phase, RunStatus, StrandState, WaitingFor
from stageflow_durable.model.work import Refusal
from stageflow_durable.transitions import operate, start, wake
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.facts import Part
from stageflow_durable.transitions.rows import SignalRow
from stageflow_durable.transitions.signal import Sent, receive
from stageflow_durable.transitions.waiting import SchemaChanged
from tests.unit.transitions.story import RUN, Story, body, needed

DAY = 86_400.0


def between(**options: Any) -> Pipeline[Any, Any]:
    """A wait between two stages."""
    return Pipeline[Any, Any]("p").stage("a", body, compensate=body).wait_for("word", **options).stage("b", body)


@pytest.fixture
def story() -> Story:
    """A run that waits for a day, since 100."""
    story = Story(between(timeout=DAY))
    story.run_through("a")
    return story


def sent(text: str = "1", *, name: str = "word", key: str | None = None, schema: str | None = None) -> Sent:
    return Sent(RUN, name, text, fingerprint(text), schema, key, "ann", "why")


def told(story: Story, signal: Sent | None = None) -> Any:
    """The run is sent a signal."""
    return story.apply(receive(story.facts(), signal or sent()))


def woken(story: Story, strand: str = "a") -> Any:
    return story.apply(wake.wake(story.facts(), strand, story.row(strand).gen))


def ordered(story: Story, verb: Any) -> Any:
    return story.apply(verb(story.facts(), operate.Order(RUN, verb.__name__, "why", "ann")))


def seen(story: Story, strand: str = "a") -> tuple[str, str | None, float | None]:
    row = story.row(strand)
    return str(row.state), row.waiting_for, row.wake_at


# --- it waits ---------------------------------------------------------------------------------------------------------


def test_given_a_wait_that_comes_next_when_a_stage_is_done_then_it_is_a_row_without_owner_message_and_attempt() -> None:
    story = Story(between(timeout=DAY))
    change = story.succeed(story.begin("a"), claimant=story.claimant)
    assert (change.granted, change.nudges) == (None, ())
    assert seen(story) == (StrandState.WAITING, WaitingFor.SIGNAL, 100.0 + DAY)
    row = story.row("a")
    assert (row.stage, row.owner, row.attempt, row.published_at) == ("word", None, 0, None)
    assert (story.run.status, story.events[-1]) == (RunStatus.WAITING, "stage.waiting")


def test_given_a_wait_without_a_time_then_nothing_is_due() -> None:
    story = Story(between())
    story.run_through("a")
    assert seen(story) == (StrandState.WAITING, WaitingFor.SIGNAL, None)
    story.clock += 1e9
    assert woken(story) is None


def test_given_a_wait_that_is_first_when_a_message_comes_then_its_time_counts_since_the_run_was_accepted() -> None:
    story = Story(Pipeline[Any, Any]("p").wait_for("word", timeout=50).stage("b", body))
    story.clock += 20.0
    assert story.refusal("word") is Refusal.NOT_DUE
    assert seen(story, "word") == (StrandState.WAITING, WaitingFor.SIGNAL, 150.0)


def test_given_a_wait_when_an_old_message_comes_then_nothing_begins(story: Story) -> None:
    assert story.refusal("a") is Refusal.NOT_DUE
    story.clock += 2 * DAY
    assert story.refusal("a") is Refusal.NOT_DUE


def test_given_a_stage_without_a_wait_behind_it_then_its_end_asks_for_no_signals(story: Story) -> None:
    plain = Story(Pipeline[Any, Any]("p").stage("a", body).stage("b", body))
    work = plain.begin("a")
    from stageflow_durable.transitions import finish

    assert Part.SIGNALS not in needed(plain.facts(), lambda facts: finish.succeed(facts, work, None, "1"))


# --- a signal comes ---------------------------------------------------------------------------------------------------


def test_given_a_wait_when_its_signal_comes_then_the_stage_is_done_and_the_next_is_published(story: Story) -> None:
    change = told(story)
    assert isinstance(change, Change)
    assert ([nudge.strand for nudge in change.nudges], seen(story)) == (["a"], (StrandState.READY, None, None))
    assert (story.row("a").stage, story.saved) == ("b", {"a": False, "word": False})
    assert [event.type for event in change.events] == ["signal.received", "stage.ok"]
    (signal,) = story.signals.values()
    assert (signal.payload, signal.actor, signal.consumed_at) == ("1", "ann", story.clock)
    assert story.begin("a").stage == "b"


def test_given_a_wait_that_is_last_when_its_signal_comes_then_the_run_has_succeeded() -> None:
    story = Story(Pipeline[Any, Any]("p").stage("a", body).wait_for("word"))
    story.run_through("a")
    assert told(story).ended
    assert (story.run.status, story.state("a")) == (RunStatus.SUCCEEDED, StrandState.DONE)


@pytest.mark.parametrize("begun", [False, True])
def test_given_a_wait_that_lies_ahead_when_its_signal_comes_then_it_is_kept_and_ends_the_wait_at_once(
    begun: bool,
) -> None:
    story = Story(between())
    work = story.begin("a") if begun else None
    change = told(story)
    assert (change.nudges, change.events[0].data["kept"]) == ((), True)
    done = story.succeed(work or story.begin("a"), claimant=story.claimant)
    assert done.granted.stage == "b"
    assert story.saved == {"a": False, "word": False}
    (signal,) = story.signals.values()
    assert signal.consumed_at is not None


def test_given_several_waits_whose_signals_are_kept_when_the_run_comes_there_then_it_passes_them_all() -> None:
    story = Story(
        Pipeline[Any, Any]("p")
        .stage("a", body)
        .wait_for("one", after="a")
        .wait_for("two", after="a")
        .wait_for("three", after=("one", "two"))
    )
    for name in ("one", "two", "three"):
        told(story, sent(name=name))
    assert story.succeed(story.begin("a")).ended
    assert story.run.status is RunStatus.SUCCEEDED


def test_given_a_run_whose_first_message_is_under_way_when_its_signal_comes_then_the_wait_is_over() -> None:
    story = Story(Pipeline[Any, Any]("p").wait_for("word").stage("b", body))
    change = told(story)
    assert ([nudge.strand for nudge in change.nudges], story.row("word").stage) == (["word"], "b")
    assert story.begin("word").stage == "b"


def test_given_a_signal_when_it_comes_again_under_its_key_then_nothing_is_written(story: Story) -> None:
    told(story, sent(key="k"))
    seq = story.run.seq
    again = told(story, sent(key="k"))
    assert isinstance(again, SignalRow)
    assert (again.n, story.run.seq) == (1, seq)
    with pytest.raises(IdempotencyParamMismatch):
        told(story, sent("2", key="k"))


@pytest.mark.parametrize(
    ("signal", "why"),
    [(sent(name="a"), "no wait 'a'"), (sent(), "has its signal already, from ann"), (sent(key="x"), "from ann")],
)
def test_given_a_signal_that_nothing_waits_for_then_it_is_refused_by_name(story: Story, signal: Sent, why: str) -> None:
    told(story)
    with pytest.raises(NotAllowed, match=why):
        told(story, signal)


def test_given_a_payload_that_was_validated_by_another_schema_then_it_is_to_be_validated_again() -> None:
    story = Story(between(schema={"type": "integer"}))
    with pytest.raises(SchemaChanged):
        told(story)
    told(story, sent(schema='{"type":"integer"}'))
    assert len(story.signals) == 1


@pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.BACKWARD])
def test_given_a_run_that_turns_back_when_a_signal_comes_then_it_is_refused(story: Story, phase: Phase) -> None:
    status = RunStatus.STOPPING if phase is Phase.DRAINING else RunStatus.COMPENSATING
    story.run = story.run._replace(phase=phase, status=status)
    with pytest.raises(NotAllowed, match=f"it is {status}"):
        told(story)


# --- its time is over -------------------------------------------------------------------------------------------------


def test_given_a_wait_when_its_time_is_over_then_the_stage_has_failed_and_what_was_done_is_undone(story: Story) -> None:
    assert woken(story) is None
    story.clock += DAY
    change = woken(story)
    assert [nudge.strand for nudge in change.nudges] == ["undo:a"]
    assert (story.run.phase, story.run.cause, story.run.error_stage) == (Phase.BACKWARD, Cause.FAILED, "word")
    assert [event.type for event in change.events[:3]] == ["signal.timed_out", "stage.failed", "run.stopping"]


@pytest.mark.parametrize(("on_timeout", "skipped"), [("skip", True), (Default(7), False)])
def test_given_a_wait_that_may_be_passed_when_its_time_is_over_then_the_run_goes_on(
    on_timeout: Any, skipped: bool
) -> None:
    story = Story(between(timeout=50, on_timeout=on_timeout))
    story.run_through("a")
    story.clock += 50
    assert [nudge.strand for nudge in woken(story).nudges] == ["a"]
    assert story.saved == {"a": False, "word": skipped}


def test_given_a_pipeline_that_parks_when_its_time_is_over_then_a_resume_waits_anew() -> None:
    line = Pipeline[Any, Any]("p", on_failure="park").stage("a", body).wait_for("word", timeout=50)
    story = Story(line)
    story.run_through("a")
    story.clock += 50
    woken(story)
    assert (story.run.status, story.run.park_reason) == (RunStatus.PARKED, ParkReason.OPERATOR)
    story.clock += 1000
    assert ordered(story, operate.resume).nudges == ()
    assert seen(story) == (StrandState.WAITING, WaitingFor.SIGNAL, story.clock + 50)


def test_given_a_deadline_that_has_passed_when_its_time_is_over_then_the_deadline_counts(story: Story) -> None:
    story.run = story.run._replace(deadline=100.0 + DAY)
    story.clock += DAY
    woken(story)
    assert (story.run.cause, "word" in story.saved) == (Cause.DEADLINE, False)


# --- stopping, resuming, deploying ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("passed", "until"), [(DAY / 2, 100.0 + DAY), (2 * DAY, 100.0 + 3 * DAY)])
def test_given_a_cancelled_wait_when_the_run_is_resumed_then_it_waits_for_the_rest_or_anew(
    passed: float, until: float
) -> None:
    story = Story(Pipeline[Any, Any]("p").stage("a", body).wait_for("word", timeout=DAY))
    story.run_through("a")
    ordered(story, operate.cancel)
    assert (story.run.status, seen(story)) == (RunStatus.CANCELLED, (StrandState.REST, None, None))
    story.clock += passed
    assert ordered(story, operate.resume).nudges == ()
    assert seen(story) == (StrandState.WAITING, WaitingFor.SIGNAL, until)


def test_given_a_parked_run_that_was_sent_a_signal_when_it_is_resumed_then_it_passes_its_wait() -> None:
    story = Story(Pipeline[Any, Any]("p", on_failure="park").wait_for("word", after=()).stage("a", body, after=()))
    assert story.refusal("word") is Refusal.NOT_DUE
    story.fail(story.begin("a"))
    assert story.run.status is RunStatus.PARKED
    assert told(story).nudges == ()
    ordered(story, operate.resume)
    assert ("word" in story.saved, story.state("word")) == (True, StrandState.DONE)


def test_given_a_definition_by_which_a_wait_is_a_stage_now_when_the_run_moves_then_a_sweep_publishes_it() -> None:
    def line(version: str, word: Any) -> Pipeline[Any, Any]:
        begun = Pipeline[Any, Any]("p", version=version).stage("a", body)
        return word(begun).stage("b", body, after="a")  # type: ignore[no-any-return]  # one of the two below

    story = Story(line("1", lambda begun: begun.wait_for("word", after="a")))
    story.run_through("a")
    new = line("2", lambda begun: begun.stage("word", body, after="a")).plan
    old, story.plan = story.plan, new
    claimant = story.claimant
    story.plan = old
    story.parts = {Part.DEFINITIONS: {old.digest: 1.0, new.digest: 2.0}}
    change = story.apply(start.begin(story.facts(), story.nudge("b"), claimant))
    assert change.granted.stage == "b"
    assert (seen(story, "word"), story.row("word").published_at) == ((StrandState.READY, None, None), None)


def test_given_a_signal_that_is_kept_and_a_strand_that_waits_all_the_same_then_the_next_sweep_ends_the_wait() -> None:
    story = Story(Pipeline[Any, Any]("p").wait_for("word").stage("b", body))
    row = SignalRow("word", 1, None, "f", "1", 1, "ann", "why", 100.0)
    story.signals["word", 0, 1] = row
    assert story.refusal("word") is Refusal.NOT_DUE
    assert seen(story, "word") == (StrandState.WAITING, WaitingFor.SIGNAL, story.clock)
    assert [nudge.strand for nudge in woken(story, "word").nudges] == ["word"]
    assert story.saved == {"word": False}
