"""Approvals: asked with what is about to happen, bound to it, consumed once, whoever dies meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from stageflow_durable import Actor, Credential, Pipeline, RetryPolicy, RunStatus, Submission
from stageflow_durable.engine.handle import RunHandle
from stageflow_durable.errors import (
    ConfigurationError,
    DefinitionError,
    InvalidInput,
    InvalidKey,
    NotAllowed,
    OperatorConflict,
    TransientError,
)
from stageflow_durable.model.status import Cause, ParkReason, StageState, WaitingFor
from stageflow_durable.testing import Crash, InProcessEngine
from tests.conformance.engine.acts import FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine
from tests.services.rows import rows_of

WEEK = timedelta(days=7)
LONG = timedelta(days=30)
ANN, BOB, MAX = (Actor(name, authenticated=True) for name in ("ann", "bob", "max"))


def content(ctx: Any) -> Any:
    return {"order": ctx.input.get("order", "A-1"), "reserved": ctx.outputs.get("a")}


def around(acts: Acts, of: Any = content, *, name: str = "line", **options: Any) -> Pipeline[Any, Any]:
    """An approval between two stages that have undos."""
    line = acts.line("a", name=name).approve("release", of, **options)
    return line.stage("b", acts.stage, compensate=acts.undo)


@pytest.fixture(name="engine")
def _engine(make_engine: MakeEngine, acts: Acts) -> InProcessEngine:
    """An engine with that pipeline."""
    return make_engine(around(acts, timeout=WEEK))


def asking(engine: InProcessEngine, name: str = "line", given: Any = None, **options: Any) -> RunHandle:
    """A run that asks for its approval."""
    handle = engine.enqueue(name, given or {}, **options)
    engine.work()
    assert handle.describe().waiting_for is WaitingFor.APPROVAL
    return handle


def happened(handle: RunHandle, kind: str) -> list[dict[str, Any]]:
    """The data of its events of one kind."""
    return [dict(event.data) for event in handle.history() if event.type == kind]


def approve(engine: InProcessEngine, handle: RunHandle, actor: Any = ANN, **options: Any) -> None:
    engine.approve(handle.run_id, "release", reason="it is right", actor=actor, **options)


def deny(engine: InProcessEngine, handle: RunHandle, actor: Any = ANN) -> None:
    engine.deny(handle.run_id, "release", reason="too much", actor=actor)


# --- asking and approving ---------------------------------------------------------------------------------------------


def test_while_it_asks_there_is_a_row_with_the_content_and_nothing_else(engine: InProcessEngine) -> None:
    handle = asking(engine, given={"order": "A-7"})
    published = engine.messages.published
    for _day in range(3):
        engine.advance(86_400)
        engine.sweep()
    assert (len(engine.messages), engine.messages.published) == (0, published)
    run = handle.describe()
    stage = run.stage("release")
    assert (run.status, stage.state, stage.kind) == (RunStatus.WAITING, StageState.WAITING, "approval")
    assert stage.approval is not None
    assert stage.approval.content == {"order": "A-7", "reserved": "a"}
    assert (stage.approval.decision, len(stage.approval.digest)) == (None, 64)
    assert [(row["owner"], row["waiting_for"]) for row in rows_of(engine, "strands")] == [(None, "approval")]
    assert len([row for row in rows_of(engine, "attempts") if row["state"] != "void"]) == 1


def test_an_approval_lets_the_run_go_on_and_its_output_says_who_when_and_of_what(
    engine: InProcessEngine, acts: Acts
) -> None:
    handle = asking(engine)
    asked = handle.describe().stage("release").approval
    assert asked is not None
    began = engine.clock.time()
    approve(engine, handle)
    assert acts.log == ["a"]
    engine.drain()
    assert (acts.log, handle.status()) == (["a", "b"], RunStatus.SUCCEEDED)
    output = handle.outputs()["release"]
    assert {name: output[name] for name in ("by", "authenticated", "reason", "digest")} == {
        "by": "ann",
        "authenticated": True,
        "reason": "it is right",
        "digest": asked.digest,
    }
    assert output["at"].timestamp() == pytest.approx(began, abs=1)
    (verb,) = happened(handle, "operator.approve")
    assert {
        "actor": "ann",
        "authenticated": True,
        "digest": asked.digest,
        "reason": "it is right",
    }.items() <= verb.items()
    done = happened(handle, "stage.ok")[1]
    assert (done["stage"], done["actor"], done["then"]["stage"]) == ("release", "ann", "b"), (
        "it is consumed in the transaction that begins what comes next"
    )
    assert all(checked.problems == () for checked in engine.audit())


def test_whoever_awaits_approves_and_denies_too(engine: InProcessEngine) -> None:
    import asyncio

    first, second = asking(engine), asking(engine)
    asyncio.run(engine.aapprove(first.run_id, "release", reason="yes", actor=ANN))
    asyncio.run(engine.adeny(second.run_id, "release", reason="no", actor=ANN))
    engine.drain()
    assert (first.status(), second.status()) == (RunStatus.SUCCEEDED, RunStatus.COMPENSATED)


def test_what_needs_a_person_has_the_runs_that_ask_with_what(engine: InProcessEngine) -> None:
    handle = asking(engine, given={"order": "A-7"})
    (found,) = engine.runs(attention=True)
    assert (found.run_id, found.waiting_for) == (handle.run_id, WaitingFor.APPROVAL)
    assert found.approval is not None
    assert (found.approval.stage, found.approval.content["order"]) == ("release", "A-7")
    approve(engine, handle)
    assert engine.runs(attention=True) == []


@pytest.mark.parametrize("where", ["first", "last", "branches"])
def test_it_may_stand_anywhere(make_engine: MakeEngine, acts: Acts, where: str) -> None:
    start: Pipeline[Any, Any] = Pipeline("line")
    made = {
        "first": lambda: start.approve("release", content).stage("b", acts.stage),
        "last": lambda: start.stage("a", acts.stage).approve("release", content),
        "branches": lambda: (
            start.stage("a", acts.stage)
            .approve("release", content, after="a")
            .stage("b", acts.stage, after="release")
            .stage("c", acts.stage, after="release")
        ),
    }[where]()
    engine = make_engine(made)
    handle = asking(engine)
    approve(engine, handle)
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED
    assert len(acts.log) == len(set(acts.log)) == len(made.stages) - 1


def test_an_approval_covers_what_comes_next_with_all_its_attempts_recoveries_and_resumes(
    make_engine: MakeEngine, acts: Acts
) -> None:
    retry = RetryPolicy(max_attempts=2, base_delay=1.0, jitter="none")
    line = acts.line("a", options={"on_failure": "park"}).approve("release", content)
    engine = make_engine(line.stage("b", acts.stage, retry=retry))
    acts.play("b", TransientError("busy"), Crash("it died"), FAILS("no"))
    handle = asking(engine)
    approve(engine, handle)
    engine.drain()
    assert handle.status() is RunStatus.PARKED
    engine.resume(handle.run_id, reason="again", actor="bob")
    engine.drain()
    assert (acts.log, handle.status()) == (["a", "b", "b", "b", "b"], RunStatus.SUCCEEDED)
    assert len(happened(handle, "approval.asked")) == 1


# --- bound to what was shown ------------------------------------------------------------------------------------------


def test_where_something_else_is_about_to_happen_the_approval_does_not_count_and_is_asked_for_again(
    make_engine: MakeEngine, acts: Acts
) -> None:
    said: list[Any] = [{"amount": 1}, {"amount": 2}, {"amount": 2}]
    engine = make_engine(around(acts, lambda _ctx: said.pop(0)))
    handle = asking(engine)
    before = handle.describe().stage("release").approval
    approve(engine, handle)
    engine.work()
    run = handle.describe()
    assert (acts.log, run.waiting_for) == (["a"], WaitingFor.APPROVAL)
    asked = run.stage("release").approval
    assert before is not None
    assert asked is not None
    assert (asked.content, asked.number, asked.decision) == ({"amount": 2}, 2, None)
    with pytest.raises(NotAllowed, match=f"asks for digest {asked.digest[:12]} now, not {before.digest[:12]}"):
        approve(engine, handle, digest=before.digest[:12])
    for wrong in ("", "abc", 7, asked.digest[:-1] + "\x00"):
        with pytest.raises(InvalidInput, match="digest"):
            approve(engine, handle, digest=wrong)
    approve(engine, handle, digest=asked.digest[:12])
    engine.drain()
    assert (acts.log, handle.outputs()["release"]["digest"]) == (["a", "b"], asked.digest)
    assert [event["approval"] for event in happened(handle, "approval.void")] == [1]


def test_a_deploy_that_changes_what_is_shown_asks_again(engine: InProcessEngine, acts: Acts) -> None:
    handle = asking(engine)
    engine.deploy(around(acts, lambda ctx: {**content(ctx), "more": 1}, timeout=WEEK))
    approve(engine, handle)
    engine.work()
    assert handle.describe().waiting_for is WaitingFor.APPROVAL
    approve(engine, handle)
    engine.drain()
    assert acts.log == ["a", "b"]


def test_a_fork_asks_again_also_where_it_begins_behind_the_approval(engine: InProcessEngine, acts: Acts) -> None:
    handle = asking(engine)
    approve(engine, handle)
    engine.drain()
    for stage in ("b", "release"):
        forked = engine.fork(handle.run_id, from_stage=stage, reason="again", actor="bob")
        engine.work()
        assert forked.describe().waiting_for is WaitingFor.APPROVAL
        approve(engine, forked)
        engine.drain()
        assert forked.status() is RunStatus.SUCCEEDED
    assert acts.log == ["a", "b", "b", "b"]


def test_a_fork_of_some_of_what_was_approved_together_is_refused_with_where_it_can_begin(
    make_engine: MakeEngine, acts: Acts
) -> None:
    graph = Pipeline[Any, Any]("line").approve("release", content, after=())
    engine = make_engine(graph.stage("b", acts.stage, after="release").stage("c", acts.stage, after="release"))
    handle = asking(engine)
    approve(engine, handle)
    engine.drain()
    with pytest.raises(NotAllowed, match="release was approved for b as well, which is done; fork from release"):
        engine.fork(handle.run_id, from_stage="c", reason="again", actor="bob")


# --- who may ----------------------------------------------------------------------------------------------------------


def test_approvers_are_authenticated_actors_and_a_name_that_is_typed_is_none(
    make_engine: MakeEngine, acts: Acts
) -> None:
    engine = make_engine(around(acts, approvers=["ann", "max"]))
    handle = asking(engine)
    for actor, why in (
        ("ann", "ann is not authenticated"),
        (Actor("ann"), "ann is not authenticated"),
        (BOB, "bob is not among its approvers"),
    ):
        with pytest.raises(NotAllowed, match=why):
            approve(engine, handle, actor)
    assert handle.describe().waiting_for is WaitingFor.APPROVAL
    approve(engine, handle, MAX)
    engine.drain()
    assert acts.log == ["a", "b"]


@pytest.mark.parametrize("how", ["enqueue", "enqueue_many"])
def test_who_asked_for_the_run_may_not_approve_it_and_others_have_to_prove_who_they_are(
    make_engine: MakeEngine, acts: Acts, how: str
) -> None:
    engine = make_engine(around(acts))
    if how == "enqueue":
        handle: Any = engine.enqueue("line", {}, actor="ann")
    else:
        handle = engine.enqueue_many("line", [Submission({}, actor="ann")])[0]
    engine.work()
    assert happened(handle, "run.accepted")[0]["actor"] == "ann"
    for actor in (ANN, "ann"):
        with pytest.raises(NotAllowed, match="ann asked for this run, and may not approve it$"):
            approve(engine, handle, actor)
    with pytest.raises(NotAllowed, match="a name that is typed proves nothing"):
        approve(engine, handle, "bob")
    approve(engine, handle, BOB)
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED
    assert all(checked.problems == () for checked in engine.audit())


@pytest.mark.parametrize("by", [BOB, "ann"], ids=["another", "a typed name"])
def test_a_deploy_that_changes_who_may_approve_asks_again_where_it_was_not_theirs_to_give(
    make_engine: MakeEngine, acts: Acts, by: Any
) -> None:
    engine = make_engine(around(acts))
    handle = asking(engine)
    approve(engine, handle, by)
    engine.deploy(around(acts, approvers="ann"))
    engine.work()
    assert (acts.log, handle.describe().waiting_for) == (["a"], WaitingFor.APPROVAL)
    approve(engine, handle, ANN)
    engine.drain()
    assert (acts.log, handle.outputs()["release"]["by"]) == (["a", "b"], "ann")


def test_a_fork_is_approved_neither_by_who_asked_for_the_run_nor_by_who_forked_it(
    make_engine: MakeEngine, acts: Acts
) -> None:
    engine = make_engine(around(acts))
    asked = asking(engine, actor=ANN)
    forked = engine.fork(asked.run_id, from_stage="a", reason="again", actor="bob")
    again = engine.fork(forked.run_id, from_stage="a", reason="once more", actor="eve")
    engine.work()
    for run, refused in ((forked, (ANN, BOB)), (again, (ANN, BOB, Actor("eve", authenticated=True), "max"))):
        for actor in refused:
            with pytest.raises(NotAllowed, match="asked for this run, and may not approve it"):
                approve(engine, run, actor)
        approve(engine, run, MAX)
    engine.work()
    assert (forked.status(), again.status()) == (RunStatus.SUCCEEDED, RunStatus.SUCCEEDED)


def test_without_separation_whoever_asked_may_approve_by_a_typed_name(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(around(acts, separation=False))
    handle = asking(engine, actor="ann")
    approve(engine, handle, "ann")
    engine.drain()
    assert (handle.status(), handle.outputs()["release"]["authenticated"]) == (RunStatus.SUCCEEDED, False)


def test_a_credential_is_turned_into_a_name_and_one_that_is_not_accepted_is_refused(
    make_engine: MakeEngine, acts: Acts
) -> None:
    engine = make_engine(around(acts, approvers="ann"), authenticate={"token of ann": "ann", "empty": " "}.get)
    handle = asking(engine)
    assert "token" not in repr(Credential("token of ann"))
    for wrong in ("token of max", "empty"):
        with pytest.raises(NotAllowed, match="the credential is not accepted"):
            approve(engine, handle, Credential(wrong))
    approve(engine, handle, Credential("token of ann"))
    engine.drain()
    assert handle.outputs()["release"]["by"] == "ann"
    other = engine.enqueue("line", {}, actor=Credential("token of ann"))
    assert happened(other, "run.accepted")[0]["actor"] == "ann"


def test_a_credential_is_refused_where_nobody_can_say_whose_it_is(engine: InProcessEngine) -> None:
    with pytest.raises(ConfigurationError, match="authenticate="):
        approve(engine, asking(engine), Credential("token of ann"))


async def _later(_credential: Any) -> str:
    return "ann"


@pytest.mark.parametrize(
    ("option", "given", "why"),
    [
        ("authenticate", "ann", "is not a function"),
        ("authenticate", _later, "is async; give a plain function"),
        ("authenticate", lambda: "ann", "takes \\(\\); it is called with credential"),
        ("authorize", lambda _actor, _verb: True, "it is called with actor, verb, run"),
    ],
)
def test_who_says_who_may_is_looked_at_when_the_engine_is_made(
    make_engine: MakeEngine, acts: Acts, option: str, given: Any, why: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"{option}=.*{why}"):
        make_engine(around(acts), **{option: given})


VERBS: dict[str, Callable[[InProcessEngine, str], Any]] = {
    "approve": lambda engine, run: engine.approve(run, "release", reason="r", actor="eve"),
    "deny": lambda engine, run: engine.deny(run, "release", reason="r", actor="eve"),
    "signal": lambda engine, run: engine.signal(run, "release", 1, actor="eve"),
    "cancel": lambda engine, run: engine.cancel(run, reason="r", actor="eve"),
    "resume": lambda engine, run: engine.resume(run, reason="r", actor="eve"),
    "compensate": lambda engine, run: engine.compensate(run, reason="r", actor="eve"),
    "settle": lambda engine, run: engine.settle(run, "a", not_done=True, reason="r", actor="eve"),
    "fork": lambda engine, run: engine.fork(run, "a", reason="r", actor="eve"),
    "confirm-dead": lambda engine, _run: engine.confirm_dead("owner", reason="r", actor="eve"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_one_function_decides_who_may_do_which_verb(engine: InProcessEngine, verb: str) -> None:
    asked: list[tuple[Any, str, Any]] = []

    def authorize(actor: Actor, name: str, run: Any) -> bool:
        asked.append((actor, name, run and run.run_id))
        return False

    handle = asking(engine)
    before = len(handle.history())
    engine._authorize = authorize
    with pytest.raises(NotAllowed, match=f"eve may not {verb} .a name that was typed, not authenticated"):
        VERBS[verb](engine, handle.run_id)
    assert asked == [(Actor("eve"), verb, None if verb == "confirm-dead" else handle.run_id)]
    assert len(handle.history()) == before
    engine._authorize = lambda *_given: "yes"  # type: ignore[assignment]  # only True allows it
    with pytest.raises(NotAllowed, match="may not"):
        VERBS[verb](engine, handle.run_id)


def test_whoever_is_allowed_to_acts_as_before(engine: InProcessEngine, acts: Acts) -> None:
    engine._authorize = lambda actor, verb, run: actor.authenticated and verb == "approve" and run is not None
    handle = asking(engine)
    with pytest.raises(NotAllowed, match="may not deny"):
        deny(engine, handle)
    approve(engine, handle)
    engine.drain()
    assert acts.log == ["a", "b"]


# --- refused ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_decided_is_refused_by_name(engine: InProcessEngine) -> None:
    handle = engine.enqueue("line", {})
    with pytest.raises(NotAllowed, match="it does not ask for 'release' yet"):
        approve(engine, handle)
    with pytest.raises(NotAllowed, match="it has no approval 'a'; its approvals are: release"):
        engine.approve(handle.run_id, "a", reason="r", actor=ANN)
    engine.work()
    with pytest.raises(InvalidInput, match="reason"):
        engine.approve(handle.run_id, "release", reason=" ", actor=ANN)
    with pytest.raises(OperatorConflict):
        approve(engine, handle, op_version=7)
    approve(engine, handle)
    with pytest.raises(NotAllowed, match="'release' is approved already, by ann"):
        deny(engine, handle, BOB)
    engine.drain()
    with pytest.raises(NotAllowed, match="its approval 'release' is over"):
        approve(engine, handle)
    with pytest.raises(InvalidKey, match="actor"):
        engine.enqueue("line", {}, actor="")


def test_an_approval_for_a_run_that_turns_back_is_refused(engine: InProcessEngine) -> None:
    handle = asking(engine)
    engine.cancel(handle.run_id, reason="no", actor="bob")
    with pytest.raises(NotAllowed, match="it is compensating"):
        approve(engine, handle)


@pytest.mark.parametrize(
    ("said", "error"),
    [(lambda: 1 / 0, "ZeroDivisionError"), (object, "cannot be saved"), (lambda: "x" * 2_000_000, "max_payload_bytes")],
)
def test_a_function_that_does_not_say_what_is_to_be_approved_parks_the_run_and_is_asked_again_on_resume(
    make_engine: MakeEngine, acts: Acts, said: Callable[[], Any], error: str
) -> None:
    answers: list[Callable[[], Any]] = [said]
    engine = make_engine(around(acts, lambda _ctx: (answers.pop(0) if answers else dict)()))
    handle = engine.enqueue("line", {})
    engine.drain()
    run = handle.describe()
    assert (run.status, run.park_reason, run.error_stage) == (RunStatus.PARKED, ParkReason.BUG, "release")
    assert error in (run.error or "")
    engine.resume(handle.run_id, reason="fixed", actor="bob")
    engine.work()
    approve(engine, handle)
    engine.drain()
    assert acts.log == ["a", "b"]


# --- denied, or not decided in time -----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["denied", "timed out"])
@pytest.mark.parametrize("then", ["reject", "park", "skip"])
def test_a_denial_and_the_end_of_its_time_end_as_the_definition_says(
    make_engine: MakeEngine, acts: Acts, how: str, then: Any
) -> None:
    options = {"on_denied": then} if how == "denied" else {"timeout": 60, "on_timeout": then}
    line = around(acts, **options).stage("c", acts.stage)
    engine = make_engine(line)
    handle = asking(engine)
    if how == "denied":
        deny(engine, handle)
    engine.drain()
    run = handle.describe()
    error = "release was denied by ann: too much" if how == "denied" else "nobody approved release within 60 seconds"
    if then == "skip":
        assert (acts.log, run.status) == (["a", "c"], RunStatus.SUCCEEDED)
        assert [run.stage(name).state for name in ("release", "b")] == [StageState.SKIPPED] * 2
        return
    assert (run.error_stage, run.error, run.cause) == ("release", error, Cause.FAILED)
    assert run.stage("release").state is StageState.FAILED
    if then == "reject":
        assert (acts.log, run.status) == (["a", "undo a ok"], RunStatus.COMPENSATED)
        return
    assert (acts.log, run.status, run.park_reason) == (["a"], RunStatus.PARKED, ParkReason.OPERATOR)
    engine.resume(handle.run_id, reason="ask again", actor="bob")
    engine.work()
    asked = handle.describe().stage("release").approval
    assert asked is not None
    assert (asked.number, asked.decision) == (2, None)
    approve(engine, handle)
    engine.drain()
    assert (acts.log, handle.status()) == (["a", "b", "c"], RunStatus.SUCCEEDED)


@pytest.mark.parametrize("decided", ["approved", "denied"])
def test_what_is_decided_while_the_run_is_parked_counts_when_it_is_resumed(
    make_engine: MakeEngine, acts: Acts, decided: str
) -> None:
    graph = Pipeline[Any, Any]("line", on_failure="park").approve("release", content, after=())
    engine = make_engine(graph.stage("a", acts.stage, after=()).stage("z", acts.stage, after=("release", "a")))
    acts.play("a", FAILS("no"))
    handle = engine.enqueue("line", {})
    engine.work()
    assert handle.status() is RunStatus.PARKED
    if happened(handle, "approval.asked") == []:
        pytest.skip("the other branch failed first")
    (approve if decided == "approved" else deny)(engine, handle)
    engine.resume(handle.run_id, reason="go on", actor="bob")
    engine.drain()
    assert handle.status() is (RunStatus.SUCCEEDED if decided == "approved" else RunStatus.PARKED)


def test_a_run_that_was_cancelled_and_resumed_asks_for_the_same_and_for_the_rest_of_its_time(
    make_engine: MakeEngine, acts: Acts
) -> None:
    line = Pipeline[Any, Any]("line").stage("a", acts.stage).approve("release", content, timeout=WEEK)
    engine = make_engine(line.stage("b", acts.stage))
    handle = asking(engine)
    due = handle.describe().stage("release").wake_at
    engine.cancel(handle.run_id, reason="wait", actor="bob")
    engine.advance(3600)
    engine.resume(handle.run_id, reason="go on", actor="bob")
    engine.work()
    stage = handle.describe().stage("release")
    assert stage.approval is not None
    assert (stage.wake_at, stage.approval.number) == (due, 1)
    approve(engine, handle)
    engine.drain()
    assert acts.log == ["a", "b"]


@pytest.mark.parametrize("end", ["cancel", "deadline"])
def test_a_run_that_is_stopped_while_it_asks_undoes_what_it_did(engine: InProcessEngine, acts: Acts, end: str) -> None:
    handle = engine.enqueue("line", {}, deadline=WEEK / 2)
    engine.work()
    if end == "cancel":
        engine.cancel(handle.run_id, reason="no more", actor="bob")
    engine.drain(LONG)
    assert (acts.log, handle.status()) == (["a", "undo a ok"], RunStatus.COMPENSATED)


# --- whoever dies -----------------------------------------------------------------------------------------------------


def test_whatever_process_dies_at_whatever_step_the_approval_is_consumed_once(
    make_engine: MakeEngine, acts: Acts
) -> None:
    """Before and after each transaction and each publication, one after another."""
    step = 0
    while True:
        engine = make_engine(around(acts, name=f"line{step}"), lease_seconds=2.0)
        acts.log.clear()
        engine.faults.at_step(len(engine.faults.trace) + step)
        handle = _approved_whatever_dies(engine, f"line{step}")
        engine.drain()
        assert (handle.status(), set(acts.log)) == (RunStatus.SUCCEEDED, {"a", "b"})
        consumed = [event for event in happened(handle, "stage.ok") if event["stage"] == "release"]
        assert len(consumed) == 1
        rows = rows_of(engine, "approvals", handle.run_id)
        assert [(row["n"], row["decision"]) for row in rows] == [(1, "approved")]
        if not engine.faults._steps:
            step += 1
            continue
        engine.faults.clear()
        assert step > 20
        return


def _approved_whatever_dies(engine: InProcessEngine, name: str) -> RunHandle:
    """A caller that dies is followed by one that asks again; a worker by another."""
    handle: RunHandle | None = None
    while handle is None:
        try:
            handle = engine.enqueue(name, {}, idempotency_key="once")
        except Crash:
            continue
    for _round in range(50):
        engine.work()
        engine.sweep()
        if handle.describe().waiting_for is WaitingFor.APPROVAL:
            break
        engine.advance(3.0)
    try:
        approve(engine, handle)
    except Crash:
        if happened(handle, "operator.approve") == []:
            approve(engine, handle)
    return handle


# --- definitions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"of": None}, "runner None is not a function"),
        ({"of": lambda: None}, "it is called with one argument"),
        ({"timeout": 0}, "timeout .* has to be seconds or a timedelta"),
        ({"on_timeout": "park"}, "on_timeout= is given without timeout="),
        ({"timeout": 5, "on_timeout": "fail"}, "on_timeout='fail': 'reject', 'park' or 'skip'"),
        ({"on_denied": "fail"}, "on_denied='fail': 'reject', 'park' or 'skip'"),
        ({"approvers": []}, "approvers=.*at least one"),
        ({"approvers": [7]}, "approvers: each is the name of an authenticated actor"),
        ({"approvers": 7}, "approvers=7"),
        ({"separation": 1}, "separation=1 is not True or False"),
    ],
)
def test_what_cannot_hold_is_refused_where_it_is_defined(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(DefinitionError, match=problem) as refused:
        _ = Pipeline[Any, Any]("line").approve("release", **{"of": content, **given}).plan
    assert "stage 'release'" in str(refused.value)


def test_what_may_be_skipped_by_a_denial_waits_for_nothing_else() -> None:
    graph = Pipeline[Any, Any]("line").approve("release", content, on_denied="skip").stage("a", content, after=())
    with pytest.raises(DefinitionError, match="stage 'z' waits for 'release', which may skip it, and for others too"):
        _ = graph.stage("z", content, after=("release", "a")).plan


@pytest.mark.parametrize("how", [{"on_denied": "skip"}, {"timeout": 5, "on_timeout": "skip"}])
def test_a_denial_that_skips_has_work_right_behind_it(how: dict[str, Any]) -> None:
    asked = Pipeline[Any, Any]("line").approve("release", content, **how)
    for behind in (asked.sleep("z", 5), asked.wait_for("z"), asked.approve("z", content)):
        with pytest.raises(DefinitionError, match="stage 'z' comes right after 'release', which may skip it"):
            _ = behind.stage("pay", content).plan
    assert asked.stage("pay", content).sleep("z", 5).plan.stages


def test_a_deploy_that_makes_an_approval_of_a_wait_lets_nobodys_signal_stand_for_it(
    make_engine: MakeEngine, acts: Acts
) -> None:
    engine = make_engine(acts.line("a", name="line").wait_for("release").stage("b", acts.stage, compensate=acts.undo))
    handle = engine.enqueue("line", {})
    engine.work()
    engine.deploy(around(acts))
    engine.signal(handle.run_id, "release", {"ok": True})
    engine.work()
    run = handle.describe()
    assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.DEFINITION)
    assert acts.log == ["a"]


def test_a_name_is_authenticated_or_not() -> None:
    for wrong in ("no", 1, None):
        with pytest.raises(InvalidInput, match="authenticated"):
            Actor("ann", authenticated=wrong)  # type: ignore[arg-type]  # that is the mistake


def test_a_decision_about_no_stage_is_refused(engine: InProcessEngine) -> None:
    handle = asking(engine)
    for wrong in ("", "rel\x00", 7):
        with pytest.raises(InvalidKey, match="stage"):
            engine.approve(handle.run_id, wrong, reason="yes", actor=ANN)  # type: ignore[arg-type]  # that is the mistake


def test_the_digest_of_a_definition_changes_with_who_may_approve() -> None:
    start: Pipeline[Any, Any] = Pipeline("line")
    plans = [
        start.approve("release", content).plan,
        start.approve("release", content, approvers=["ann"]).plan,
        start.approve("release", content, separation=False).plan,
        start.approve("release", content, on_denied="park").plan,
    ]
    assert len({plan.digest for plan in plans}) == len(plans)
    assert [type(plan).decode(plan.encoded) for plan in plans] == plans
