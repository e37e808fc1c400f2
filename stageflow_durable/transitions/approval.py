"""Approvals: somebody is asked whether the run may go on, with what it is about to do in front of them.

An approval is bound to the digest of what was shown. Before the run goes on, a worker says anew what it is about to do;
only if that has the same digest is the approval consumed, once, in the transaction that hands the run to the next stage
and, where it may begin in the same process, begins it. From then on the checkpoint says so: no retry, recovery or
resume of what comes next asks again. A denial is consumed at once.

A link lets one person decide at one stage, once: having it proves who they are. Only the hash of its token is stored.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

from stageflow_durable.clock import as_moment
from stageflow_durable.codec import Fingerprint, as_stored, encode
from stageflow_durable.errors import LinkRefused, NotAllowed, OperatorConflict
from stageflow_durable.legible import UNSEEN
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import AttemptState, Cause, ParkReason, Phase, RunStatus, StrandState, WaitingFor
from stageflow_durable.model.work import Claimant, Fenced, Kept, Work
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.compatibility import follow_newest
from stageflow_durable.transitions.draft import AWAKE, Draft
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.fence import drafted
from stageflow_durable.transitions.finish import advance
from stageflow_durable.transitions.operate import Order
from stageflow_durable.transitions.resolve import DEADLINE_PASSED, resolve_or_succeed, set_activity, stop
from stageflow_durable.transitions.rows import ApprovalRow, LinkRow, StrandRow
from stageflow_durable.transitions.waiting import awaits_approval

APPROVED, DENIED = "approved", "denied"

DECISIONS = {"approve": APPROVED, "deny": DENIED}
"""What a person does, and what stands in the row then."""

LINK_DIGITS = 12
"""Of the hash of a link's token, by which the history names the link."""


class Asked(NamedTuple):
    """What a worker says is to be approved: encoded text, and its fingerprint."""

    content: str
    digest: Fingerprint


# --- a worker says what is to be approved -----------------------------------------------------------------------------


def ask(facts: Facts, work: Work, asked: Asked, claimant: Claimant | None, events: Kept = ()) -> Change | Fenced:
    """Ask for the approval of this content; where exactly this was approved before, consume that and go on.

    ``claimant``: the owner, if it would run the next stage itself.
    """
    draft = drafted(facts, work)
    if draft is None:
        return Fenced()
    draft.end_attempt(work, AttemptState.VOID)  # there was no body: nothing was tried
    draft.keep(work, events)
    if draft.run.phase is not Phase.FORWARD:
        draft.set_strand(work.strand, state=StrandState.REST, owner=None)
        draft.emit("stage.postponed", stage=work.stage, attempt=work.attempt, delay=0.0)
        resolve_or_succeed(draft)
        return draft.done()
    there = draft.approval(work.stage)
    holds = there is not None and there.consumed_at is None and there.digest == as_stored(asked.digest, there.digest)
    if there is not None and there.decision == APPROVED:
        # A deploy may have changed who may approve since it was decided.
        holds = holds and _may_not(draft, work.stage, there.actor or "", bool(there.authenticated)) is None
    if there is None or not holds:
        _await(draft, work, _asked_anew(draft, work.stage, asked, there))
    elif there.decision == APPROVED:
        _consume(draft, work, there, claimant)
    elif there.decision == DENIED:  # while the run was at rest
        _deny(draft, draft.strand(work.strand), there)
    else:
        _await(draft, work, there)
    return draft.done()


def _asked_anew(draft: Draft, stage: str, asked: Asked, before: ApprovalRow | None) -> ApprovalRow:
    if before is not None and before.consumed_at is None:  # about something else, or not theirs to give any more
        draft.set_approval(before, consumed_at=draft.clock)
        draft.emit("approval.void", stage=stage, approval=before.n, digest=before.digest)
    row = ApprovalRow(stage, 1 if before is None else before.n + 1, asked.content, str(asked.digest), draft.clock)
    draft.ask(row)
    return row


def _await(draft: Draft, work: Work, asked: ApprovalRow) -> None:
    seconds = draft.plan.by_name[work.stage].timeout
    until = None if seconds is None else asked.asked_at + seconds
    if until is not None and until <= draft.clock:  # its run was at rest meanwhile
        asked, until = draft.set_approval(asked, asked_at=draft.clock), draft.clock + (seconds or 0.0)
    columns = {"owner": None, "attempt": 0, "nudges": 0, "first_at": asked.asked_at, "delay": seconds}
    draft.wait(work.strand, WaitingFor.APPROVAL, until, **columns)
    draft.emit("approval.asked", stage=work.stage, approval=asked.n, digest=asked.digest, until=until)
    set_activity(draft)


def _consume(draft: Draft, work: Work, approval: ApprovalRow, claimant: Claimant | None) -> None:
    """The run goes on with this approval, which covers what comes next."""
    draft.set_approval(approval, consumed_at=draft.clock)
    output = {
        "by": approval.actor,
        "authenticated": bool(approval.authenticated),
        "at": as_moment(approval.decided_at or 0.0),
        "reason": approval.reason,
        "digest": approval.digest,
    }
    draft.save(work.stage, encode(output), schema=draft.plan.schema)
    draft.set_strand(work.strand, owner=None)
    draft.emit(
        "stage.ok",
        stage=work.stage,
        attempt=work.attempt,
        approval=approval.n,
        digest=approval.digest,
        actor=approval.actor,
    )
    advance(draft, work.strand, work.stage, claimant, work.queue)


# --- a person decides -------------------------------------------------------------------------------------------------


def decide(
    facts: Facts, order: Order, stage: str, decision: str, digest: str | None = None, token: str | None = None
) -> Change:
    """Record a person's decision. An approval sends a worker to look whether it still holds; a denial ends it at once.
    ``digest``: of what the person looked at, or its beginning; ``token``: the hash of the link's that they used.

    Raises NotAllowed, OperatorConflict, LinkRefused.
    """
    draft = Draft(facts)
    link = None if token is None else usable(draft.id, draft.link(token), draft.clock)
    if link is not None:
        still_for(draft.id, link, draft.plan, facts.newest)
    approval = _undecided(draft, order, stage)
    if digest is not None and not _is_digest(digest, approval, whole=link is not None):
        why = f"{stage!r} asks for digest {approval.digest[:12]} now, not {digest[:12]}; look again at what it asks for"
        raise NotAllowed(draft.id, order.verb, why)
    if order.op_version not in (None, facts.run.op_version):
        raise OperatorConflict(order.run_id, order.verb)
    if draft.run.phase is Phase.FORWARD and draft.is_late:
        raise NotAllowed(draft.id, order.verb, "its deadline has passed")
    # By name anybody may deny. A link is for one person: it ends when they may not approve any more.
    if (decision == APPROVED or link is not None) and (
        refused := _may_not(draft, stage, order.actor, order.authenticated)
    ):
        raise NotAllowed(draft.id, order.verb, refused)
    approval = draft.set_approval(
        approval,
        decision=decision,
        actor=order.actor,
        authenticated=order.authenticated,
        reason=order.reason,
        decided_at=draft.clock,
    )
    draft.change(op_version=facts.run.op_version + 1)
    by_link = {}
    if link is not None:
        draft.use(link)
        by_link = {"link": link.token[:LINK_DIGITS]}
    draft.emit(
        f"operator.{order.verb}",
        actor=order.actor,
        authenticated=order.authenticated,
        reason=order.reason,
        stage=stage,
        approval=approval.n,
        digest=approval.digest,
        **by_link,
    )
    row = next((row for row in draft.strands.values() if row.stage == stage and awaits_approval(draft.plan, row)), None)
    if row is None or draft.run.phase is not Phase.FORWARD:
        return draft.done()  # it rests: what was decided counts when it goes on
    if decision == DENIED:
        _deny(draft, row, approval)
        return draft.done()
    draft.change(status=RunStatus.RUNNING)
    draft.set_strand(row.strand, state=StrandState.READY, published_at=draft.clock, **AWAKE)
    draft.publish(row.strand)
    return draft.done()


def _is_digest(given: str, approval: ApprovalRow, *, whole: bool) -> bool:
    """Whether this is the digest of what is asked. People type its beginning; a page sends the ``whole``."""
    return given == approval.digest if whole else bool(given) and approval.digest.startswith(given)


def _undecided(draft: Draft, order: Order, stage: str) -> ApprovalRow:
    _require_ahead(draft, order, stage)
    asked = draft.approval(stage)
    if asked is None or asked.consumed_at is not None:
        raise NotAllowed(draft.id, order.verb, f"it does not ask for {stage!r} yet: there is nothing to decide on")
    if asked.decision is not None:
        raise NotAllowed(draft.id, order.verb, f"{stage!r} is {asked.decision} already, by {asked.actor}")
    return asked


def _require_ahead(draft: Draft, order: Order, stage: str) -> None:
    """Raise NotAllowed unless the run asks at this stage, or will."""
    run, named = draft.run, [one.name for one in draft.plan.stages if one.is_approval]
    if stage not in named:
        listed = ", ".join(named) or "none"
        raise NotAllowed(draft.id, order.verb, f"it has no approval {stage!r}; its approvals are: {listed}")
    if stage in draft.saved:
        raise NotAllowed(draft.id, order.verb, f"its approval {stage!r} is over")
    if run.phase is not Phase.FORWARD and run.status is not RunStatus.PARKED:
        raise NotAllowed(draft.id, order.verb, f"it is {run.status}")


def _may_not(draft: Draft, stage: str, actor: str, authenticated: bool) -> str | None:
    """Why somebody may not approve, or None when they may: a name that was only typed proves nothing."""
    planned = draft.plan.by_name[stage]
    proves = "say who you are by a credential that Engine(authenticate=) knows; a name that is typed proves nothing"
    if planned.approvers and not (authenticated and actor in planned.approvers):
        known = "is not among its approvers" if authenticated else f"is not authenticated: {proves}"
        return f"{actor} {known}"
    askers = draft.facts.requesters if planned.separation else frozenset()
    if asked_by(actor, askers):
        return f"{actor} asked for this run, and may not approve it"
    if askers and not authenticated:
        return f"{' and '.join(sorted(askers))} asked for this run, and may not approve it; {proves}"
    return None


def asked_by(name: str, askers: Iterable[str]) -> bool:
    """Whether somebody is among those who asked, also where the name is written in another way: in other case or width,
    with blanks around it or characters in it that nobody sees.
    """
    return _folded(name) in map(_folded, askers)


def _folded(name: str) -> str:
    plain = unicodedata.normalize("NFKC", name)
    return unicodedata.normalize("NFKC", UNSEEN.sub("", plain).casefold()).strip()


# --- links ------------------------------------------------------------------------------------------------------------


class NewLink(NamedTuple):
    """A link that is to be made. ``token``: the hash of its token; ``actor``: whom it is for; ``seconds``: how long it
    may be used.
    """

    token: str
    stage: str
    actor: str
    seconds: float


def make_link(facts: Facts, order: Order, new: NewLink) -> Change:
    """Record a link by which ``new.actor`` may decide at a stage that asks, or will. Raises NotAllowed."""
    draft = Draft(facts)
    _require_ahead(draft, order, new.stage)
    if refused := _may_not(draft, new.stage, new.actor, authenticated=True):
        raise NotAllowed(draft.id, order.verb, refused)
    if draft.plan.by_name[new.stage].separation and asked_by(order.actor, facts.requesters):
        # Whoever makes a link holds it, and could use it.
        refused = f"{order.actor} asked for this run, and may not make links to approve it"
        raise NotAllowed(draft.id, order.verb, refused)
    until = draft.clock + new.seconds
    draft.add_link(LinkRow(new.token, new.stage, new.actor, order.actor, draft.clock, until))
    link, known = new.token[:LINK_DIGITS], {"authenticated": True} if order.authenticated else {}
    said = {"actor": order.actor, **known, "reason": order.reason}
    draft.emit("approval.link", stage=new.stage, to=new.actor, link=link, until=until, **said)
    return draft.done()


def usable(run: str, link: LinkRow | None, clock: float) -> LinkRow:
    """The link, if it may be used now. Raises LinkRefused."""
    if link is None:
        raise LinkRefused(run, "", "gone", "nothing is known of it: its run was deleted, or is in another database")
    if link.used_at is not None:
        raise LinkRefused(run, link.stage, "used", f"{link.actor} has decided by it before")
    if link.expires_at <= clock:
        raise LinkRefused(run, link.stage, "expired", "its time is over")
    return link


def still_for(run: str, link: LinkRow, plan: Plan, newest: Plan | None = None) -> None:
    """Raise LinkRefused unless the run has that approval, and whom the link was made for may give it: by the definition
    that it goes by, and by the newest, which a run that waits does not follow yet.
    """
    planned = plan.by_name.get(link.stage)
    if planned is None or not planned.is_approval:
        raise LinkRefused(run, link.stage, "gone", "the run does not ask this any more")
    for one in (planned, None if newest is None else newest.by_name.get(link.stage)):
        if one is not None and one.approvers and link.actor not in one.approvers:
            raise LinkRefused(run, link.stage, "withdrawn", f"{link.actor} is not among its approvers any more")


# --- a denial, and the end of its time --------------------------------------------------------------------------------


def end_in_time(draft: Draft, row: StrandRow) -> Change:
    """Nobody has decided in time."""
    asked = draft.approval(row.stage)
    if draft.is_late:
        stop(draft, Cause.DEADLINE, error=DEADLINE_PASSED)
        return draft.done()
    assert asked is not None, "it waits for what was asked"
    planned, seconds = draft.plan.by_name[row.stage], row.delay or 0.0
    draft.emit("approval.timed_out", stage=row.stage, approval=asked.n, seconds=seconds, on_timeout=planned.on_timeout)
    _end(draft, row, asked, planned.on_timeout, f"nobody approved {row.stage} within {seconds:g} seconds")
    return draft.done()


def _deny(draft: Draft, row: StrandRow, approval: ApprovalRow) -> None:
    how = draft.plan.by_name[row.stage].on_denied
    _end(draft, row, approval, how, f"{row.stage} was denied by {approval.actor}: {approval.reason}")


def _end(draft: Draft, row: StrandRow, approval: ApprovalRow, how: str, error: str) -> None:
    draft.set_approval(approval, consumed_at=draft.clock)
    if how == "skip":
        _pass_over(draft, row)
        return
    draft.set_strand(row.strand, state=StrandState.REST, owner=None, **AWAKE)
    draft.emit("stage.failed", stage=row.stage, attempt=0, error=error, category="policy", doubt=False)
    park = ParkReason.OPERATOR if how == "park" or draft.plan.on_failure == "park" else None
    stop(draft, Cause.FAILED, error=error, stage=row.stage, park=park)


def _pass_over(draft: Draft, row: StrandRow) -> None:
    """Skip the stage, and those that come right after it: they were not approved."""
    follow_newest(draft, row.stage)
    draft.set_strand(row.strand, **AWAKE)
    draft.change(status=RunStatus.RUNNING)
    draft.save(row.stage, None, schema=draft.plan.schema, skipped=True)
    draft.emit("stage.skipped", stage=row.stage, attempt=0)
    advance(draft, row.strand, row.stage, passing=True)
