"""What a sweep changes of runs that no owner holds: wake what is due, record what was published again, stop what is
late.
"""

from __future__ import annotations

from stageflow_durable.model.status import Cause, RunStatus, StrandState
from stageflow_durable.transitions import approval
from stageflow_durable.transitions.callback import expire as expire_callback
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.compatibility import follow_newest
from stageflow_durable.transitions.draft import AWAKE, Draft
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.finish import advance
from stageflow_durable.transitions.hand_back import is_handed_back, offer_mark
from stageflow_durable.transitions.limits import waits_for_slots
from stageflow_durable.transitions.resolve import DEADLINE_PASSED, stop
from stageflow_durable.transitions.rows import StrandRow
from stageflow_durable.transitions.signal import end_in_time
from stageflow_durable.transitions.sleep import is_asleep, sleep_to_its_moment
from stageflow_durable.transitions.waiting import awaits_approval, awaits_callback, awaits_signal


def _as_seen(facts: Facts, strand: str, gen: int, state: StrandState) -> StrandRow | None:
    """The strand if it is still as the scan saw it; None if somebody else changed it."""
    row = facts.strands.get(strand)
    return row if row is not None and row.gen == gen and row.state == state else None


def wake(facts: Facts, strand: str, gen: int) -> Change | None:
    """Make a due strand ready and publish it; end a sleep, or a wait whose time is over. None if it is not due any
    more.
    """
    row = _as_seen(facts, strand, gen, StrandState.WAITING)
    if row is None or row.wake_at is None or (row.wake_at > facts.clock and not waits_for_slots(row)):
        return None  # another sweep woke it since the scan, and it waits again
    draft = Draft(facts)
    if awaits_signal(facts.plan, row):
        return end_in_time(draft, row)
    if awaits_callback(row):
        return expire_callback(draft, row)
    if awaits_approval(facts.plan, row):
        return approval.end_in_time(draft, row)
    if is_asleep(facts.plan, row):
        return draft.done() if sleep_to_its_moment(draft, row) else _end_sleep(draft, row)
    draft.set_strand(strand, state=StrandState.READY, published_at=draft.clock, **AWAKE)
    if is_handed_back(row):  # no event: it may be offered again for days
        draft.publish(strand, offer_mark(draft.clock))
    else:
        draft.emit("stage.woken", stage=row.stage, strand=strand)
        draft.publish(strand)
    return draft.done()


def _end_sleep(draft: Draft, row: StrandRow) -> Change:
    """The sleep is over: the stage is done, and the run moves on."""
    if draft.is_late:
        stop(draft, Cause.DEADLINE, error=DEADLINE_PASSED)
        return draft.done()
    follow_newest(draft, row.stage)
    draft.save(row.stage, None, schema=draft.plan.schema)
    draft.set_strand(row.strand, **AWAKE)
    draft.emit("stage.woken", stage=row.stage, strand=row.strand)
    draft.change(status=RunStatus.RUNNING)
    advance(draft, row.strand, row.stage)
    return draft.done()


def published_again(facts: Facts, strand: str, gen: int, published_at: float | None, nudges: int) -> Change | None:
    """Record that a message was published again. None if somebody took the strand meanwhile, or published it too."""
    row = _as_seen(facts, strand, gen, StrandState.READY)
    if row is None or (row.published_at, row.nudges) != (published_at, nudges):
        return None
    draft = Draft(facts)
    draft.emit("stage.nudged", stage=row.stage, strand=strand)
    draft.set_strand(strand, published_at=draft.clock, nudges=nudges + 1)
    return draft.done()


def expire(facts: Facts) -> Change | None:
    """Stop a run that is past its deadline; None if it is not."""
    if not facts.run.is_late(facts.clock):
        return None
    draft = Draft(facts)
    stop(draft, Cause.DEADLINE, error=DEADLINE_PASSED)
    return draft.done()
