"""Which verbs are allowed for a run: one set of rules for the picture, the command and the engine's operators."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow_durable.model.run import Run
from stageflow_durable.model.status import AttemptState, ParkReason, RunStatus, StageState, StepState
from stageflow_durable.model.verbs import FINAL, GOING_FORWARD, Standing, VerbName, allowed_verbs, refusal, standing
from tests.cli.fakes import RUN_ID, attempt, parked_unknown, run, stage, undo


def commands(of: Run) -> list[str]:
    return [verb.command for verb in allowed_verbs(of, shown_id="01J9F2")]


def charged(status: RunStatus, step: StepState = StepState.RECORDED, **more: Any) -> Run:
    return run(
        status,
        stage("reserve", StageState.OK, attempt(), undo=undo("release", step)),
        stage("charge", StageState.FAILED, attempt(1, AttemptState.FAILED), undo=undo("refund", step)),
        **more,
    )


def test_parked_for_an_unknown_outcome_one_settles_or_compensates() -> None:
    assert commands(parked_unknown()) == [
        "stageflow settle 01J9F2 charge --done '{…}' --reason …",
        "stageflow settle 01J9F2 charge --not-done --reason …",
        "stageflow compensate 01J9F2 --reason …",
    ]


def test_a_pivot_that_raised_is_unknown_too_and_undoing_it_needs_the_word() -> None:
    raised = run(
        RunStatus.PARKED,
        stage("charge", StageState.OK, attempt(), undo=undo("refund")),
        stage("ship", StageState.FAILED, attempt(1, AttemptState.FAILED), pivot=True),
        park_reason=ParkReason.UNKNOWN,
        error_stage="ship",
        pivot_passed=True,
    )
    assert commands(raised) == [
        "stageflow settle 01J9F2 ship --done '{…}' --reason …",
        "stageflow settle 01J9F2 ship --not-done --reason …",
        "stageflow compensate 01J9F2 --past-pivot --reason …",
    ]


def test_going_forward_one_may_cancel_and_is_told_what_would_be_undone_in_order() -> None:
    [verb] = allowed_verbs(charged(RunStatus.RUNNING))
    assert (verb.command, verb.effect) == (
        f"stageflow cancel {RUN_ID} --reason …",
        "stops it, then undoes: refund, release",
    )


def test_past_the_pivot_a_run_that_goes_forward_has_no_verb() -> None:
    assert commands(charged(RunStatus.RUNNING, pivot_passed=True)) == []


def test_parked_for_a_bug_one_resumes_or_compensates() -> None:
    assert commands(charged(RunStatus.PARKED, park_reason=ParkReason.BUG)) == [
        "stageflow resume 01J9F2 --reason …",
        "stageflow compensate 01J9F2 --reason …",
    ]


def test_parked_with_nothing_to_undo_one_resumes_or_cancels() -> None:
    assert commands(charged(RunStatus.PARKED, StepState.VOID, park_reason=ParkReason.BUG)) == [
        "stageflow resume 01J9F2 --reason …",
        "stageflow cancel 01J9F2 --reason …",
    ]


def test_an_undo_that_failed_can_be_tried_again_or_given_up() -> None:
    again, *given_up = allowed_verbs(charged(RunStatus.COMPENSATION_FAILED, StepState.COMPENSATION_FAILED))
    assert (again.name, again.effect) == (VerbName.COMPENSATE, "tries again: refund, release")
    assert [verb.arguments[2:4] for verb in given_up] == [("--skip", "reserve"), ("--skip", "charge")]
    assert given_up[1].effect == "gives the undo of charge up, with your reason"


@pytest.mark.parametrize("status", sorted(FINAL | {RunStatus.STOPPING, RunStatus.COMPENSATING}))
def test_nothing_is_allowed_where_nothing_leaves_or_the_way_back_has_begun(status: RunStatus) -> None:
    forks = ["stageflow fork 01J9F2 --from charge --reason …"] if status in FINAL else []
    assert commands(charged(status)) == forks  # a fork changes nothing of its run


@pytest.mark.parametrize(
    ("verb", "facts", "says"),
    [
        (VerbName.RESUME, Standing("r", RunStatus.RUNNING), "nothing to resume"),
        (VerbName.RESUME, Standing("r", RunStatus.COMPENSATION_FAILED), "being undone"),
        (VerbName.RESUME, Standing("r", RunStatus.CANCELLED, complete=True), "all its stages are done"),
        (VerbName.RESUME, Standing("r", RunStatus.PARKED, ParkReason.UNKNOWN, unknown=("charge",)), "settle r charge"),
        (VerbName.CANCEL, Standing("r", RunStatus.FAILED), "it has ended: failed"),
        (VerbName.CANCEL, Standing("r", RunStatus.COMPENSATING), "it is compensating already"),
        (VerbName.CANCEL, Standing("r", RunStatus.RUNNING, pivot_passed=True), "only goes forward"),
        (VerbName.COMPENSATE, Standing("r", RunStatus.FAILED, pivot_passed=True, owed=("x",)), "--past-pivot"),
        (VerbName.COMPENSATE, Standing("r", RunStatus.PARKED), "stageflow cancel r"),
        (VerbName.COMPENSATE, Standing("r", RunStatus.FAILED), "done nothing that has an undo"),
        (VerbName.COMPENSATE, Standing("r", RunStatus.COMPENSATION_FAILED), "left to try again"),
        (VerbName.COMPENSATE, Standing("r", RunStatus.STOPPING), "stopping already"),
        (VerbName.SETTLE, Standing("r", RunStatus.RUNNING), "only a parked or failed run"),
        (VerbName.SETTLE, Standing("r", RunStatus.PARKED), "no stage of it has an unknown outcome"),
        (VerbName.SETTLE, Standing("r", RunStatus.SUCCEEDED), "nothing leaves that"),
    ],
)
def test_a_refusal_says_why_and_the_way_out(verb: VerbName, facts: Standing, says: str) -> None:
    assert says in (refusal(verb, facts) or "")


def test_a_stage_that_raised_may_be_settled_when_somebody_finds_out() -> None:
    assert refusal(VerbName.SETTLE, standing(charged(RunStatus.FAILED)), stage="charge") is None
    assert refusal(VerbName.SETTLE, standing(charged(RunStatus.FAILED)), stage="reserve") is not None


_names = st.lists(st.sampled_from("abc"), unique=True).map(tuple)
_standings = st.builds(
    Standing,
    st.just("r"),
    st.sampled_from(RunStatus),
    st.none() | st.sampled_from(ParkReason),
    st.booleans(),
    _names,
    _names,
    _names,
    _names,
)


@given(_standings, st.sampled_from(VerbName), st.booleans())
def test_past_pivot_only_ever_permits_more(facts: Standing, verb: VerbName, past: bool) -> None:
    if refusal(verb, facts, past_pivot=False) is None:
        assert refusal(verb, facts, past_pivot=past) is None


@given(_standings)
def test_resume_and_cancel_of_a_run_that_moves_are_never_both_allowed(facts: Standing) -> None:
    if facts.status in GOING_FORWARD:
        assert refusal(VerbName.RESUME, facts) is not None


@given(
    st.sampled_from(RunStatus),
    st.none() | st.sampled_from(ParkReason),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(StageState), st.sampled_from(StepState)), max_size=4),
)
def test_every_command_that_is_offered_is_allowed(
    status: RunStatus, reason: ParkReason | None, passed: bool, shape: list[tuple[StageState, StepState]]
) -> None:
    stages = [stage(f"s{n}", state, attempt(), undo=undo(f"u{n}", step)) for n, (state, step) in enumerate(shape)]
    of = run(status, *stages, park_reason=reason, pivot_passed=passed, error_stage="s0")
    for verb in allowed_verbs(of):
        if verb.name == "fork":
            assert status in FINAL | {RunStatus.FAILED, RunStatus.CANCELLED}
            continue
        name = VerbName(verb.name)
        assert refusal(name, standing(of), stage=verb.stage, past_pivot="--past-pivot" in verb.arguments) is None
