"""Another attempt later: after an error, or because another run holds the business key."""

from __future__ import annotations

from stageflow_durable.duration import LONGEST
from stageflow_durable.model.status import AttemptState, StrandState, WaitingFor
from stageflow_durable.model.work import Failure, Fenced, Kept, Work
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.draft import Draft
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.fence import drafted, void_step
from stageflow_durable.transitions.resolve import resolve_or_succeed, set_activity


def retry_later(
    facts: Facts, work: Work, failure: Failure, delay: float, drawn: float, events: Kept = ()
) -> Change | Fenced:
    """Try again in ``delay`` seconds, at most ten years. ``drawn``: the delay that the policy chose by itself, from
    which it computes the next one. If the run is stopping, the strand comes to rest instead.
    """
    draft, delay = drafted(facts, work), min(delay, LONGEST)
    if draft is None:
        return Fenced()
    tried(draft, work, failure, delay, events)
    if draft.run.phase is not work.direction:
        return _rest(draft, work)
    return due(draft, work, WaitingFor.TIME, delay, tries=work.tries + 1, delay=drawn)


def tried(draft: Draft, work: Work, failure: Failure, delay: float, events: Kept) -> None:
    """End an attempt that is to be followed by another one in ``delay`` seconds."""
    draft.end_attempt(
        work,
        AttemptState.RETRY if failure.called else AttemptState.VOID,
        doubt=failure.doubt,
        error=failure.error,
        category=failure.category,
        delay=delay,
        trace=failure.trace,
    )
    draft.keep(work, events)
    draft.emit(
        "work.retry_attempt",
        stage=work.stage,
        attempt=work.tries + 1,
        delay=delay,
        error=failure.error,
        category=failure.category,
        undo=work.undoing,
    )
    if not (failure.called or work.undoing or draft.called_before(work)):
        void_step(draft, work.stage)


def postpone(facts: Facts, work: Work, delay: float) -> Change | Fenced:
    """Give the strand back before the body was called, because another run holds its business key; try again in
    ``delay`` seconds. The attempt does not count.
    """
    draft = drafted(facts, work)
    if draft is None:
        return Fenced()
    draft.end_attempt(work, AttemptState.VOID)
    draft.emit("stage.postponed", stage=work.stage, attempt=work.attempt, delay=delay)
    if not work.undoing and not work.tries:
        void_step(draft, work.stage)
    if draft.run.phase is not work.direction:
        return _rest(draft, work)
    return due(draft, work, WaitingFor.LIMIT, delay)


def due(draft: Draft, work: Work, what: WaitingFor, seconds: float, **columns: float | None) -> Change:
    """Let the strand of an attempt that is over wait for ``what``, and publish it for then."""
    draft.wait(work.strand, what, draft.clock + seconds, owner=None, **columns)
    set_activity(draft)
    draft.publish(work.strand)
    draft.due_in = seconds
    return draft.done()


def _rest(draft: Draft, work: Work) -> Change:
    """The run has changed direction since the attempt began."""
    draft.set_strand(work.strand, state=StrandState.REST, owner=None)
    resolve_or_succeed(draft)
    return draft.done()
