"""Sleeps: a strand that only waits for its time. Meanwhile no worker holds it, no message is under way, no body is
called, and no attempt counts.

``first_at`` says since when it sleeps and ``delay`` for how many seconds. Both survive a cancel, so that a resumed run
wakes when it would have woken.
"""

from __future__ import annotations

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import AttemptState, Phase, RunStatus, StrandState, WaitingFor
from stageflow_durable.model.work import Fenced, Kept, Work
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.draft import Draft
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.fence import drafted
from stageflow_durable.transitions.resolve import resolve_or_succeed, set_activity
from stageflow_durable.transitions.rows import StrandRow


def is_asleep(plan: Plan, row: StrandRow) -> bool:
    """Whether the strand sleeps, so that only its time wakes it. An attempt that waits for its retry does not sleep,
    even if its stage has become a sleep since.
    """
    waits = row.state == StrandState.WAITING and row.waiting_for == WaitingFor.TIME and not row.attempt
    return waits and row.direction == Phase.FORWARD and plan.by_name[row.stage].is_sleep


def fall_asleep(draft: Draft, strand: str) -> bool:
    """Put a strand to sleep if its stage is a sleep. False if it is none, or if a worker has to ask its function until
    when.
    """
    row = draft.strand(strand)
    planned = draft.plan.by_name[row.stage]
    if row.direction != Phase.FORWARD or not planned.is_sleep:
        return False
    # A root stage has waited since the run was accepted, and so has the first one of a run that has not begun.
    since = draft.run.created_at if not planned.after or draft.run.status is RunStatus.PENDING else draft.clock
    if planned.sleeps is not None:
        _sleep(draft, strand, since, since + planned.sleeps, planned.sleeps)
    elif planned.until is not None:
        _sleep(draft, strand, since, planned.until, planned.until - since)
    else:
        return False
    return True


def sleep_on(draft: Draft, row: StrandRow) -> bool:
    """Continue the sleep of a strand that was asleep when its run was stopped. False if it was not."""
    if not draft.plan.by_name[row.stage].is_sleep or row.first_at is None or row.delay is None:
        return False
    _sleep(draft, row.strand, row.first_at, row.first_at + row.delay, row.delay)
    return True


def sleep_to_its_moment(draft: Draft, row: StrandRow) -> bool:
    """Let a strand that sleeps until a moment sleep on where that lies ahead: a clock that was set back moves the times
    of waits along, which suits one that sleeps for so long. False: its sleep is over.
    """
    if draft.plan.by_name[row.stage].sleeps is not None or row.first_at is None or row.delay is None:
        return False
    until = row.first_at + row.delay
    if until <= draft.clock:
        return False
    draft.wait(row.strand, WaitingFor.TIME, until)
    return True


def sleep_until(facts: Facts, work: Work, until: float, events: Kept = ()) -> Change | Fenced:
    """Sleep until what the sleep's function said: ``until``, in seconds since the epoch."""
    draft = drafted(facts, work)
    if draft is None:
        return Fenced()
    draft.end_attempt(work, AttemptState.VOID)  # there was no body: nothing was tried
    draft.keep(work, events)
    if draft.run.phase is not Phase.FORWARD:
        draft.set_strand(work.strand, state=StrandState.REST, owner=None)
        draft.emit("stage.postponed", stage=work.stage, attempt=work.attempt, delay=until - draft.clock)
        resolve_or_succeed(draft)
    else:
        _sleep(draft, work.strand, draft.clock, until, until - draft.clock)
    return draft.done()


def _sleep(draft: Draft, strand: str, since: float, until: float, seconds: float) -> None:
    # ``nudges`` is reset: a waiting strand with nudges > 0 counts as handed back, and any worker that joins wakes it.
    draft.wait(strand, WaitingFor.TIME, until, owner=None, attempt=0, nudges=0, first_at=since, delay=seconds)
    draft.emit("stage.asleep", stage=draft.strand(strand).stage, strand=strand, until=until)
    set_activity(draft)
