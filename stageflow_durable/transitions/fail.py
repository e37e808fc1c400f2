"""The failure of a stage for good."""

from __future__ import annotations

from stageflow_durable.model.status import Cause, ParkReason, Phase, StrandState
from stageflow_durable.model.work import Failure, Fenced, Kept, Work
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.draft import Draft
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.fence import drafted, let_key_go, void_step
from stageflow_durable.transitions.resolve import stop
from stageflow_durable.transitions.rows import HeldKey


def fail(
    facts: Facts,
    work: Work,
    failure: Failure,
    *,
    cause: Cause = Cause.FAILED,
    park: ParkReason | None = None,
    exhausted: bool = False,
    events: Kept = (),
    key: HeldKey | None = None,
) -> Change | Fenced:
    """The stage failed for good: the run stops, and is resolved in this transaction if nothing else of it runs.

    ``park``: park the run for this reason. ``exhausted``: no attempt is left.
    """
    draft = drafted(facts, work)
    if draft is None:
        return Fenced()
    stage = work.stage
    draft.set_strand(work.strand, state=StrandState.REST, owner=None, tries=work.tries + 1)
    clean = failed(draft, work, failure, exhausted=exhausted, events=events)
    reason = park or _park_reason(draft, work, clean)
    if draft.run.phase is not Phase.FORWARD and not draft.plan.by_name[stage].pivot:
        reason = None  # the run was stopped before: the first trigger decides what becomes of it
    if key is not None:
        let_key_go(draft, key, doubt=failure.doubt)
    stop(draft, cause, error=failure.error, stage=stage, park=reason)
    return draft.done()


def failed(draft: Draft, work: Work, failure: Failure, *, exhausted: bool, events: Kept) -> bool:
    """End an attempt that is not followed by another one. Returns whether no attempt of the stage can have acted."""
    stage, error = work.stage, failure.error
    draft.end_attempt(
        work, failure.state, doubt=failure.doubt, error=error, category=failure.category, trace=failure.trace
    )
    draft.keep(work, events)
    if exhausted:
        draft.emit("work.retry_exhausted", stage=stage, attempt=work.tries + 1, error=error, undo=work.undoing)
    draft.emit(
        "stage.failed",
        stage=stage,
        attempt=work.attempt,
        error=error,
        category=failure.category,
        doubt=failure.doubt,
    )
    clean = failure.vouched or not (failure.called or draft.called_before(work))
    if clean:
        void_step(draft, stage)
    return clean


def _park_reason(draft: Draft, work: Work, clean: bool) -> ParkReason | None:
    certain = clean and not draft.in_doubt(work.stage)
    if draft.plan.by_name[work.stage].pivot and not certain:
        return ParkReason.UNKNOWN  # only a person can find out whether the point of no return was passed
    return ParkReason.OPERATOR if draft.plan.on_failure == "park" else None
