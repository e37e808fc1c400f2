"""Links to approvals: one person decides by one, once, until it expires; whoever has none decides nothing."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from stageflow_durable import Actor, RunStatus
from stageflow_durable.engine.approval_links import LinkUrls
from stageflow_durable.engine.handle import RunHandle
from stageflow_durable.errors import InvalidInput, InvalidKey, LinkRefused, NotAllowed, UnknownRun
from stageflow_durable.model.status import WaitingFor
from stageflow_durable.testing import Crash, InProcessEngine
from tests.conformance.engine.acts import Acts
from tests.conformance.engine.conftest import MakeEngine
from tests.conformance.engine.test_approval import ANN, BOB, around, asking, happened
from tests.services.rows import rows_of

DAY = timedelta(days=1)


@pytest.fixture(name="engine")
def _engine(make_engine: MakeEngine, acts: Acts) -> InProcessEngine:
    return make_engine(around(acts, approvers=["ann", "bob"]))


def link(engine: InProcessEngine, run: str, to: str = "ann", **options: Any) -> str:
    """The token of a new link."""
    return engine.approval_link(run, "release", to=to, **options).rpartition("/")[2]


def digest(engine: InProcessEngine, token: str) -> str:
    """What a person who opens the link is asked about."""
    asked = engine.open_approval_link(token).stage.approval
    assert asked is not None
    return asked.digest


def decide(engine: InProcessEngine, token: str, decision: Any = "approve", shown: str | None = None) -> None:
    engine.decide_by_link(token, decision, digest=shown or digest(engine, token), reason="by mail")


def refused(engine: InProcessEngine, token: str) -> str:
    """Why it is refused, the same to whoever looks and to whoever decides."""
    with pytest.raises(LinkRefused) as looked:
        engine.open_approval_link(token)
    with pytest.raises(LinkRefused) as decided:
        decide(engine, token, shown="0" * 64)
    assert looked.value.reason == decided.value.reason
    return str(looked.value.reason)


# --- what it lets somebody do -----------------------------------------------------------------------------------------


def test_whoever_has_it_approves_as_the_person_whom_it_was_made_for(engine: InProcessEngine, acts: Acts) -> None:
    handle = asking(engine, actor="max")
    token = link(engine, handle.run_id, expires=DAY)
    seen = engine.open_approval_link(token)
    assert (seen.run_id, seen.pipeline, seen.stage.name, seen.actor) == (handle.run_id, "line", "release", "ann")
    assert seen.stage.approval is not None
    assert seen.stage.approval.content == {"order": "A-1", "reserved": "a"}
    assert seen.expires_at is not None
    assert (seen.expires_at.timestamp() - engine.clock.time()) == pytest.approx(86_400, abs=1)
    decide(engine, token)
    engine.drain()
    assert acts.log == ["a", "b"]
    output = handle.outputs()["release"]
    assert (output["by"], output["authenticated"], output["reason"]) == ("ann", True, "by mail")
    (made,), (decided,) = happened(handle, "approval.link"), happened(handle, "operator.approve")
    assert (made["to"], made["actor"]) == ("ann", "application")
    assert made["link"] == decided["link"]
    assert [checked.problems for checked in engine.audit()] == [()]


def test_or_denies(engine: InProcessEngine, acts: Acts) -> None:
    handle = asking(engine)
    decide(engine, link(engine, handle.run_id), "deny")
    engine.drain()
    assert (acts.log, handle.status()) == (["a", "undo a ok"], RunStatus.COMPENSATED)


def test_it_may_be_made_before_the_run_comes_there(engine: InProcessEngine) -> None:
    handle = engine.enqueue("line", {})
    token = link(engine, handle.run_id)
    assert engine.open_approval_link(token).stage.approval is None
    with pytest.raises(NotAllowed, match="does not ask for 'release' yet"):
        decide(engine, token, shown="0" * 64)
    engine.work()
    decide(engine, token)
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED


def test_looking_at_it_however_often_changes_nothing(engine: InProcessEngine) -> None:
    handle = asking(engine)
    token = link(engine, handle.run_id)
    before = handle.history()
    for _prefetched in range(5):
        engine.open_approval_link(token)
    assert handle.history() == before
    decide(engine, token)


# --- once, and not for ever -------------------------------------------------------------------------------------------


def test_it_is_used_once(engine: InProcessEngine) -> None:
    handle = asking(engine)
    token = link(engine, handle.run_id)
    decide(engine, token)
    assert refused(engine, token) == "used"
    engine.drain()
    assert refused(engine, token) == "used"
    assert len(happened(handle, "operator.approve")) == 1


def test_of_many_who_use_it_at_once_one_decides(engine: InProcessEngine) -> None:
    handle = asking(engine)
    token = link(engine, handle.run_id)
    shown = digest(engine, token)

    def one(number: int) -> str:
        try:
            decide(engine, token, "deny" if number % 2 else "approve", shown)
        except LinkRefused as error:
            return str(error.reason)
        return "decided"

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(one, range(8)))
    assert sorted(found) == ["decided", *["used"] * 7]
    assert len(happened(handle, "operator.approve") + happened(handle, "operator.deny")) == 1


def test_after_its_time_it_is_refused_to_the_second(engine: InProcessEngine) -> None:
    handle = asking(engine)
    token, longer = link(engine, handle.run_id, expires=60), link(engine, handle.run_id, expires=DAY)
    engine.clock.advance(59)
    digest(engine, token)
    engine.clock.advance(1)
    assert refused(engine, token) == "expired"
    decide(engine, longer)


@pytest.mark.parametrize("wrong", [0, -1, timedelta(0), float("nan"), True, "1d", timedelta(days=4000), None])
def test_a_time_that_is_none_is_refused(engine: InProcessEngine, wrong: Any) -> None:
    handle = asking(engine)
    with pytest.raises(InvalidInput, match="expires"):
        link(engine, handle.run_id, expires=wrong)
    assert rows_of(engine, "links", handle.run_id) == []


def test_where_somebody_else_has_decided_it_says_so_and_is_left(engine: InProcessEngine) -> None:
    handle = asking(engine)
    mine, theirs = link(engine, handle.run_id), link(engine, handle.run_id, "bob")
    shown = digest(engine, mine)
    decide(engine, theirs)
    with pytest.raises(NotAllowed, match="'release' is approved already, by bob"):
        decide(engine, mine, "deny", shown)
    engine.drain()
    with pytest.raises(NotAllowed, match="its approval 'release' is over"):
        decide(engine, mine, "deny", shown)
    assert handle.status() is RunStatus.SUCCEEDED


def test_what_was_decided_by_it_does_not_hold_for_what_is_asked_anew(make_engine: MakeEngine, acts: Acts) -> None:
    said = [{"amount": 1}, {"amount": 2}, {"amount": 2}]
    engine = make_engine(around(acts, lambda _ctx: said.pop(0), approvers="ann"))
    handle = asking(engine)
    token = link(engine, handle.run_id)
    decide(engine, token)
    engine.work()
    assert (acts.log, handle.describe().waiting_for) == (["a"], WaitingFor.APPROVAL)
    assert refused(engine, token) == "used"
    decide(engine, link(engine, handle.run_id))
    engine.drain()
    assert handle.outputs()["release"]["digest"] == happened(handle, "approval.asked")[-1]["digest"]


def test_it_decides_about_what_was_shown_and_nothing_else(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(around(acts))
    handle = asking(engine)
    token = link(engine, handle.run_id)
    with pytest.raises(NotAllowed, match="look again"):
        decide(engine, token, shown="1" * 64)
    for wrong in ("", "abc", None, 7):
        with pytest.raises(InvalidInput, match="digest"):
            engine.decide_by_link(token, "approve", digest=wrong, reason="x")  # type: ignore[arg-type]  # whatever a caller says
    decisions: tuple[Any, ...] = ("", "approved", "APPROVE", None, [])
    for decision in decisions:
        with pytest.raises(InvalidInput, match="decision"):
            engine.decide_by_link(token, decision, digest="1" * 64, reason="x")
    decide(engine, token)  # what was refused has not used it up
    assert handle.describe().stage("release").approval is not None


# --- not by anybody ---------------------------------------------------------------------------------------------------


def test_one_that_was_not_made_here_is_forged_and_tells_nothing(engine: InProcessEngine) -> None:
    handle = asking(engine)
    token = link(engine, handle.run_id)
    run, secret, signature = token.split(".")
    other = LinkUrls("https://x", "another key").make(handle.run_id)[0].rpartition("/")[2]
    unknown = [
        *(token[:-1], token + "0", token.upper(), " " + token, token + "\n", "", "x" * 10_000),
        *(f"{run}.{secret}.{signature[::-1]}", f"{run}.{secret[::-1]}.{signature}", f"{run}.{secret}", other),
        *(f"{run[:-1]}{'0' if run[-1] != '0' else '1'}.{secret}.{signature}", token.replace(".", "\uff0e")),
    ]
    for forged in unknown:
        with pytest.raises(LinkRefused) as caught:
            engine.open_approval_link(forged)
        assert (caught.value.reason, caught.value.run_id) == ("forged", "")
        assert handle.run_id not in str(caught.value)
    # Another kind of URL of the same run is signed by another key.
    callback = engine._callback_urls.url(handle.run_id, secret).rpartition("/")[2]
    assert refused(engine, callback) == "forged"
    decide(engine, token)


@pytest.mark.parametrize("given", [None, b"token", 7, ["x"]])
def test_a_token_that_is_no_text_is_refused(engine: InProcessEngine, given: Any) -> None:
    with pytest.raises(LinkRefused, match="was not made here"):
        engine.open_approval_link(given)


def test_what_is_stored_does_not_let_anybody_decide(engine: InProcessEngine) -> None:
    handle = asking(engine)
    token = link(engine, handle.run_id)
    (row,) = rows_of(engine, "links", handle.run_id)
    secret, signature = token.split(".")[1:]
    said = repr((row, handle.history()))
    assert secret not in said
    assert signature not in said
    assert refused(engine, f"{handle.run_id}.{row['token'][:32]}.{signature}") == "forged"


def test_it_is_made_for_nobody_who_may_not_approve(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(around(acts, approvers=["ann", "bob"]))
    handle = asking(engine, actor="bob")
    with pytest.raises(NotAllowed, match="bob asked for this run, and may not approve it"):
        link(engine, handle.run_id, "bob")
    with pytest.raises(NotAllowed, match="eve is not among its approvers"):
        link(engine, handle.run_id, "eve")
    for wrong in ("", None, "a\nb", "x" * 300, "  ", " ann", "ann "):
        with pytest.raises(InvalidKey, match="^to "):
            link(engine, handle.run_id, wrong)  # type: ignore[arg-type]  # whatever a caller says
    assert rows_of(engine, "links", handle.run_id) == []


@pytest.mark.parametrize(
    ("stage", "why"), [("b", "it has no approval 'b'; its approvals are: release"), ("nothing", "no approval")]
)
def test_it_is_made_for_approvals_of_the_run_alone(engine: InProcessEngine, stage: str, why: str) -> None:
    handle = asking(engine)
    with pytest.raises(NotAllowed, match=why):
        engine.approval_link(handle.run_id, stage, to="ann")
    with pytest.raises(UnknownRun):
        engine.approval_link("01KDVDNA00T1VRQ8AFTN5R3Y6C", "release", to="ann")


def test_it_is_not_made_where_nothing_will_be_asked_any_more(engine: InProcessEngine) -> None:
    handle = asking(engine)
    engine.cancel(handle.run_id, reason="no more", actor="bob")
    with pytest.raises(NotAllowed, match="approval-link of run"):
        link(engine, handle.run_id)


def test_where_a_deploy_took_their_right_away_the_link_shows_and_decides_nothing(
    make_engine: MakeEngine, acts: Acts
) -> None:
    """While the run waits it goes by its own definition: the newest is asked as well."""
    engine = make_engine(around(acts, approvers=["ann", "bob"]))
    handle = asking(engine)
    used, left = link(engine, handle.run_id, "bob"), link(engine, handle.run_id, "bob")
    shown = digest(engine, used)
    engine.deploy(around(acts, approvers=["ann"]))
    assert (refused(engine, left), refused(engine, used)) == ("withdrawn", "withdrawn")
    for decision in ("approve", "deny"):  # by name anybody may deny: a link is for one person
        with pytest.raises(LinkRefused, match="bob is not among its approvers any more"):
            decide(engine, used, decision, shown)
    decide(engine, link(engine, handle.run_id, "ann"), shown=shown)
    engine.drain()
    assert handle.outputs()["release"]["by"] == "ann"


def test_an_approval_does_not_count_that_was_given_before_their_right_was_taken_away(
    make_engine: MakeEngine, acts: Acts
) -> None:
    engine = make_engine(around(acts, approvers=["ann", "bob"]))
    handle = asking(engine)
    decide(engine, link(engine, handle.run_id, "bob"))
    engine.deploy(around(acts, approvers=["ann"]))
    engine.work()
    assert (acts.log, handle.describe().waiting_for) == (["a"], WaitingFor.APPROVAL)


@pytest.mark.parametrize("instead", ["nothing", "a stage of its name"])
def test_an_approval_that_a_deploy_removed_has_nothing_to_decide(
    make_engine: MakeEngine, acts: Acts, instead: str
) -> None:
    engine = make_engine(around(acts))
    handle = engine.enqueue("line", {})
    token = link(engine, handle.run_id)
    engine.deploy(acts.line("a b" if instead == "nothing" else "a release b"))
    engine.work()
    assert refused(engine, token) == "gone"
    assert handle.status() is RunStatus.SUCCEEDED


@pytest.mark.parametrize("decision", ["approve", "deny"])
def test_a_run_whose_deadline_has_passed_takes_no_decision(engine: InProcessEngine, decision: str) -> None:
    handle = asking(engine, deadline=60)
    token = link(engine, handle.run_id)
    shown = digest(engine, token)
    engine.clock.advance(60)
    with pytest.raises(NotAllowed, match="its deadline has passed"):
        decide(engine, token, decision, shown)


@pytest.mark.parametrize(
    "name",
    [
        "Max@x.org",
        "MAX@X.ORG",
        "max@x.org\u200b",
        "max\u034f@x.org",
        "max\u3164@x.org",
        "m\u2800ax@x.org",
        "m\xadax@x.org",
        "\uff4d\uff41\uff58@x.org",
        "max@\uff58.org",
    ],
)
def test_who_asked_may_not_approve_under_another_spelling(make_engine: MakeEngine, acts: Acts, name: str) -> None:
    engine = make_engine(around(acts))
    for asker in ("max@x.org", " Max@X.org "):
        handle = engine.enqueue("line", {}, actor=asker)
        engine.work()
        with pytest.raises(NotAllowed, match="asked for this run, and may not approve it"):
            link(engine, handle.run_id, name)
        with pytest.raises(NotAllowed, match="asked for this run, and may not approve it"):
            engine.approve(handle.run_id, "release", reason="r", actor=Actor(name, authenticated=True))


@pytest.mark.parametrize("maker", ["max", "MAX", Actor("max", authenticated=True)])
def test_who_asked_makes_no_link_for_a_friend_since_whoever_makes_it_holds_it(
    make_engine: MakeEngine, acts: Acts, maker: Any
) -> None:
    engine = make_engine(around(acts), around(acts, name="alone", separation=False))
    handle = asking(engine, actor="max")
    with pytest.raises(NotAllowed, match="asked for this run, and may not make links to approve it"):
        link(engine, handle.run_id, "ann", actor=maker)
    alone = asking(engine, "alone", actor="max")
    decide(engine, link(engine, alone.run_id, "ann", actor=maker))


def test_authorize_is_asked_about_whoever_makes_it_and_whoever_uses_it(make_engine: MakeEngine, acts: Acts) -> None:
    asked: list[tuple[str, bool, str]] = []
    may = {"ops", "ann"}

    def authorize(actor: Actor, verb: str, _run: Any) -> bool:
        asked.append((actor.name, actor.authenticated, verb))
        return actor.name in may

    engine = make_engine(around(acts), authorize=authorize)
    handle = asking(engine)
    with pytest.raises(NotAllowed, match="application may not approval-link"):
        link(engine, handle.run_id)
    token = link(engine, handle.run_id, actor="ops")
    shown = digest(engine, token)
    may.discard("ann")
    with pytest.raises(NotAllowed, match="ann may not approve"):
        decide(engine, token, shown=shown)
    may.add("ann")
    decide(engine, token)
    verbs = [("application", False, "approval-link"), ("ops", False, "approval-link")]
    assert asked == [*verbs, ("ann", True, "approve"), ("ann", True, "approve")]


def test_a_fork_takes_no_links_along(engine: InProcessEngine) -> None:
    handle = asking(engine)
    token = link(engine, handle.run_id)
    forked = engine.fork(handle.run_id, from_stage="release", reason="again", actor="eve")
    engine.work()
    decide(engine, token)
    engine.work()
    assert (handle.status(), forked.status()) == (RunStatus.SUCCEEDED, RunStatus.WAITING)
    assert rows_of(engine, "links", forked.run_id) == []


# --- bad days ---------------------------------------------------------------------------------------------------------


def test_a_run_that_was_deleted_has_no_links(engine: InProcessEngine) -> None:
    handle = asking(engine)
    token, other = link(engine, handle.run_id), link(engine, handle.run_id)
    decide(engine, token)
    engine.drain()
    engine.clock.advance(100 * 86_400)
    assert engine.prune(DAY) == 1
    assert (refused(engine, token), refused(engine, other)) == ("gone", "gone")
    assert rows_of(engine, "links", handle.run_id) == []


def test_after_its_time_a_parked_run_takes_no_decision_until_it_is_resumed_and_asks_anew(
    make_engine: MakeEngine, acts: Acts
) -> None:
    engine = make_engine(around(acts, on_denied="park", timeout=DAY, on_timeout="park"))
    handle = asking(engine)
    engine.drain(2 * DAY)
    assert handle.status() is RunStatus.PARKED
    token = link(engine, handle.run_id)
    with pytest.raises(NotAllowed, match="does not ask"):
        decide(engine, token, shown="0" * 64)  # its time was over, so it is asked anew once it is resumed
    engine.resume(handle.run_id, reason="again", actor="eve")
    engine.work()
    decide(engine, token)
    engine.drain()
    assert (acts.log, handle.status()) == (["a", "b"], RunStatus.SUCCEEDED)


def test_whoever_dies_while_they_decide_has_used_it_exactly_if_it_counted(make_engine: MakeEngine, acts: Acts) -> None:
    """Before and after each transaction and each publication, one after another."""
    step = 0
    while True:
        engine = make_engine(around(acts, name=f"line{step}"), lease_seconds=2.0)
        acts.log.clear()
        handle = asking(engine, f"line{step}")
        token = link(engine, handle.run_id)
        shown = digest(engine, token)
        engine.faults.at_step(len(engine.faults.trace) + step)
        _decided_whatever_dies(engine, handle, token, shown)
        engine.drain()
        assert (handle.status(), set(acts.log)) == (RunStatus.SUCCEEDED, {"a", "b"})
        assert len(happened(handle, "operator.approve")) == 1
        assert [row["used_at"] is not None for row in rows_of(engine, "links", handle.run_id)] == [True]
        if not engine.faults._steps:
            step += 1
            continue
        engine.faults.clear()
        assert step > 5
        return


def _decided_whatever_dies(engine: InProcessEngine, handle: RunHandle, token: str, shown: str) -> None:
    """Somebody who got no answer opens the link again, until they have one or it is used; then it is used up."""
    used = False
    while not used:
        try:
            engine.decide_by_link(token, "approve", digest=shown, reason="by mail")
        except Crash:
            continue
        except LinkRefused as error:
            used = error.reason == "used"


def test_it_is_made_opened_and_used_by_callers_who_await(engine: InProcessEngine) -> None:
    handle = asking(engine)

    async def used() -> RunStatus:
        url = await engine.aapproval_link(handle.run_id, "release", to="ann", expires=DAY)
        token = url.rpartition("/")[2]
        seen = await engine.aopen_approval_link(token)
        assert seen.stage.approval is not None
        return (await engine.adecide_by_link(token, "deny", digest=seen.stage.approval.digest, reason="no")).status

    assert asyncio.run(used()) is not RunStatus.WAITING


def test_by_a_link_the_whole_digest_is_said(engine: InProcessEngine) -> None:
    handle = asking(engine)
    token = link(engine, handle.run_id)
    shown = digest(engine, token)
    with pytest.raises(NotAllowed, match="look again"):
        decide(engine, token, shown=shown[:8])
    decide(engine, token, shown=shown)


def test_a_link_of_a_typed_name_does_not_satisfy_who_must_be_known(make_engine: MakeEngine, acts: Acts) -> None:
    """Whoever makes it answers for whom it is for: from a command line nobody can make one."""
    engine = make_engine(around(acts, approvers="ann"))
    handle = asking(engine)
    with pytest.raises(NotAllowed, match="ann is not authenticated"):
        engine.approve(handle.run_id, "release", reason="typed", actor="ann")
    decide(engine, link(engine, handle.run_id, actor=BOB))
    engine.drain()
    assert happened(handle, "approval.link")[0]["authenticated"] is True
    assert handle.outputs()["release"]["by"] == ANN.name
