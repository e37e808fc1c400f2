"""What follows when an undo is done, or has failed for good."""

from __future__ import annotations

from stageflow_durable.model.status import AttemptState, StepState, StrandState
from stageflow_durable.model.work import Claimant, Failure, Fenced, Kept, Work
from stageflow_durable.transitions.change import Change, KeyEnd
from stageflow_durable.transitions.draft import Draft
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.fence import drafted
from stageflow_durable.transitions.resolve import after_undo
from stageflow_durable.transitions.rows import HeldKey
from stageflow_durable.transitions.start import may_go_on, start


def undo_done(
    facts: Facts, work: Work, claimant: Claimant | None, *, events: Kept = (), key: HeldKey | None = None
) -> Change | Fenced:
    """The undo is done; the last one ends the run. ``claimant``: the owner, if it would run the next undo itself.
    ``key``: the business key of the action.
    """
    draft = drafted(facts, work)
    if draft is None:
        return Fenced()
    done(draft, work, events)
    if key is not None:
        draft.end_key(key, KeyEnd.UNDONE)
    return _move_on(draft, work, claimant)


def done(draft: Draft, work: Work, events: Kept) -> None:
    """End the attempt of an undo that is done."""
    draft.end_attempt(work, AttemptState.OK)
    draft.set_step(work.stage, StepState.COMPENSATED, error=None)
    draft.keep(work, events)
    draft.emit("work.compensation_executed", stage=work.stage, attempt=work.attempt)


def undo_failed(
    facts: Facts, work: Work, claimant: Claimant | None, failure: Failure, *, events: Kept = ()
) -> Change | Fenced:
    """The undo failed for good; older steps are still undone, unless the pipeline says ``halt``."""
    draft = drafted(facts, work)
    if draft is None:
        return Fenced()
    failed(draft, work, failure, events)
    return _move_on(draft, work, claimant)


def failed(draft: Draft, work: Work, failure: Failure, events: Kept) -> None:
    """End the attempt of an undo that failed for good."""
    error, category, trace = failure.error, failure.category, failure.trace
    draft.end_attempt(work, AttemptState.FAILED, doubt=True, error=error, category=category, trace=trace)
    draft.set_step(work.stage, StepState.COMPENSATION_FAILED, error=failure.error)
    draft.keep(work, events)
    draft.emit("work.compensation_failed", stage=work.stage, attempt=work.attempt, error=failure.error)


def _move_on(draft: Draft, work: Work, claimant: Claimant | None) -> Change:
    draft.set_strand(work.strand, state=StrandState.DONE, owner=None)
    after_undo(draft)
    opened = draft.next_to_publish()
    if opened is None or claimant is None:
        return draft.done()
    if may_go_on(draft, draft.strand(opened), claimant, work.queue):
        draft.withhold(opened)
        start(draft, draft.strand(opened), claimant)
    return draft.done()
