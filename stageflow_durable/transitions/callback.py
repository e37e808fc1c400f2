"""Callbacks: a stage whose body has started something outside waits until that calls back. Meanwhile no worker holds
it, and no message is under way.

What calls back is a signal for the stage, whose payload is the stage's output. One that comes before the stage waits
is kept. While a stage waits its outcome is in doubt, so that whatever stops the run finds it unknown; only a call takes
the doubt away.
"""

from __future__ import annotations

from typing import NamedTuple

from stageflow_durable.codec import Fingerprint, as_stored
from stageflow_durable.errors import CallbackRefused
from stageflow_durable.model.status import (
    AttemptState,
    Cause,
    ParkReason,
    Phase,
    RunStatus,
    StrandState,
    WaitingFor,
)
from stageflow_durable.model.work import Fenced, Kept, Work
from stageflow_durable.transitions.change import Change, KeyEnd
from stageflow_durable.transitions.compatibility import follow_newest
from stageflow_durable.transitions.draft import AWAKE, Draft
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.fence import drafted, let_key_go
from stageflow_durable.transitions.finish import advance
from stageflow_durable.transitions.resolve import DEADLINE_PASSED, resolve_or_succeed, set_activity, stop
from stageflow_durable.transitions.rows import AttemptRow, SignalRow, StrandRow
from stageflow_durable.transitions.waiting import SchemaChanged, awaits_callback

ACTOR = "callback"
"""Who sends what comes by a callback URL: whoever has the URL."""

_UNKNOWN = "transient"
"""The category of a wait that nothing has ended: what it waits for may be slow, or may have lost its way."""


class Call(NamedTuple):
    """What was sent to a stage's callback URL. ``payload``: encoded text, which was validated by ``schema``;
    ``fingerprint``: of the payload as it was given.
    """

    run_id: str
    stage: str
    payload: str
    fingerprint: Fingerprint
    schema: str | None


# --- the wait ---------------------------------------------------------------------------------------------------------


def await_callback(
    facts: Facts, work: Work, seconds: float, retry_after: float | None, events: Kept = ()
) -> Change | Fenced:
    """The body has returned and waits for its callback, for ``seconds`` at the most. With a call that is kept the stage
    is done at once.

    ``retry_after``: in how many seconds the body is tried again once the wait has expired; None: then the stage has
    failed for good.
    """
    draft = drafted(facts, work)
    if draft is None:
        return Fenced()
    kept = _kept(draft, work.stage)
    draft.end_attempt(work, AttemptState.WAITING, doubt=True, delay=seconds)
    draft.keep(work, events)
    if kept is not None:
        _fulfil(draft, draft.strand(work.strand), kept)
    elif draft.run.phase is not Phase.FORWARD:
        draft.set_strand(work.strand, state=StrandState.REST, owner=None)
        _emit_waiting(draft, work.strand, work.attempt, None)
        resolve_or_succeed(draft)
    else:
        until = draft.clock + seconds
        draft.wait(work.strand, WaitingFor.CALLBACK, until, owner=None, nudges=0, delay=retry_after, progress=None)
        _emit_waiting(draft, work.strand, work.attempt, until)
        set_activity(draft)
    return draft.done()


def keep_awaiting_callback(draft: Draft, row: StrandRow) -> bool:
    """Continue the wait of a strand whose run was stopped meanwhile, anew for its whole time, or end it with the call
    that was kept. False if its stage did not wait. The body is not called again; an expired wait is not tried again.
    """
    attempt = _waiting_attempt(draft, row)
    if row.direction != Phase.FORWARD or attempt is None or attempt.delay is None:
        return False
    kept = _kept(draft, row.stage)
    if kept is not None:
        _fulfil(draft, draft.strand(row.strand), kept)
        return True
    until = draft.clock + attempt.delay
    draft.wait(row.strand, WaitingFor.CALLBACK, until, nudges=0)
    _emit_waiting(draft, row.strand, attempt.n, until)
    set_activity(draft)
    return True


def _emit_waiting(draft: Draft, strand: str, attempt: int, until: float | None) -> None:
    what, stage = WaitingFor.CALLBACK, draft.strand(strand).stage
    draft.emit("stage.waiting", stage=stage, strand=strand, attempt=attempt, waiting_for=what, until=until)


def _waiting_attempt(draft: Draft, row: StrandRow) -> AttemptRow | None:
    """The attempt that waits for the outside, if the stage's last one does."""
    about = (row.stage, Phase.FORWARD, row.item)
    tried = [one for one in draft.attempts if (one.stage, one.direction, one.item) == about]
    last = max(tried, key=lambda one: one.n, default=None)
    return last if last is not None and last.state == AttemptState.WAITING else None


def _kept(draft: Draft, stage: str) -> SignalRow | None:
    return next((one for one in draft.signals if one.stage == stage and one.consumed_at is None), None)


# --- a call -----------------------------------------------------------------------------------------------------------


def receive(facts: Facts, call: Call) -> Change | SignalRow:
    """End the wait of the stage that was called back, or keep the call for it; the call that came before, where it said
    the same. Raises CallbackRefused, SchemaChanged.
    """
    before = next((one for one in facts.signals if one.stage == call.stage), None)
    if before is not None:
        if before.fingerprint != as_stored(call.fingerprint, before.fingerprint):
            raise CallbackRefused(call.run_id, call.stage, "conflict", "it was called back before, with something else")
        return before
    row = _strand_of(facts, call.stage)
    _refuse_late(facts, call, row)
    if facts.plan.by_name[call.stage].schema != call.schema:
        raise SchemaChanged
    draft = Draft(facts)
    signal = SignalRow(
        call.stage,
        1,
        None,
        call.fingerprint,
        call.payload,
        draft.plan.schema,
        ACTOR,
        "",
        draft.clock,
    )
    draft.add_signal(signal)
    waits = row is not None and draft.run.phase is Phase.FORWARD and awaits_callback(row)
    draft.emit("stage.called_back", stage=call.stage, kept=not waits)
    if waits and row is not None:
        follow_newest(draft, call.stage)
        draft.change(status=RunStatus.RUNNING)
        _fulfil(draft, row, signal)
    return draft.done()


def _strand_of(facts: Facts, stage: str) -> StrandRow | None:
    rows = facts.strands.values()
    return next((row for row in rows if (row.stage, row.direction) == (stage, Phase.FORWARD)), None)


def _refuse_late(facts: Facts, call: Call, row: StrandRow | None) -> None:
    """Refuse what nothing waits for any more: the stage is over, or its run does not go forward."""
    run, why = facts.run, None
    if call.stage not in facts.plan.by_name:
        why = "the run has no such stage any more"
    elif call.stage in facts.saved:
        why = "the stage is over"
    elif run.phase is not Phase.FORWARD and run.status is not RunStatus.PARKED:
        # A body that still runs while its run stops can be told: its outcome is known then.
        runs = run.phase is Phase.DRAINING and row is not None and row.state == StrandState.RUNNING
        why = None if runs else f"the run is {run.status}"
    if why is not None:
        raise CallbackRefused(call.run_id, call.stage, "late", why)


def _fulfil(draft: Draft, row: StrandRow, signal: SignalRow) -> None:
    """The stage is done: what was sent is its output, and its undo is owed as that of any stage that acted."""
    attempt, planned = _waiting_attempt(draft, row), draft.plan.by_name[row.stage]
    assert attempt is not None, "a stage that waits has an attempt that does"
    draft.consume(signal)
    draft.answer_attempt(attempt, AttemptState.OK, doubt=False, delay=None)
    draft.save(row.stage, signal.payload, schema=signal.saved_schema)
    if planned.undo is not None:
        draft.record(row.stage)
    for key in draft.facts.keys:
        if key.stage == row.stage:
            draft.end_key(key, KeyEnd.FINISHED, signal.payload, signal.saved_schema)
    draft.set_strand(row.strand, owner=None, **AWAKE)
    draft.emit("stage.ok", stage=row.stage, attempt=attempt.n, signal=signal.n, actor=signal.actor)
    advance(draft, row.strand, row.stage)


# --- the end of the wait's time ---------------------------------------------------------------------------------------


def expire(draft: Draft, row: StrandRow) -> Change:
    """Nothing has called back in time: the outcome is unknown. The stage's ``on_unknown`` and its retry policy say what
    follows.
    """
    if draft.is_late:
        stop(draft, Cause.DEADLINE, error=DEADLINE_PASSED)
        return draft.done()
    attempt, planned = _waiting_attempt(draft, row), draft.plan.by_name[row.stage]
    assert attempt is not None, "a stage that waits has an attempt that does"
    error = f"no callback came within {attempt.delay or 0.0:g} seconds"
    if row.delay is not None and planned.on_unknown == "retry":
        _try_again(draft, row, attempt, error, row.delay)
    else:
        _give_up(draft, row, attempt, error)
    return draft.done()


def _try_again(draft: Draft, row: StrandRow, attempt: AttemptRow, error: str, delay: float) -> None:
    draft.answer_attempt(attempt, AttemptState.RETRY, doubt=True, error=error, category=_UNKNOWN, delay=delay)
    draft.emit(
        "work.retry_attempt",
        stage=row.stage,
        attempt=row.tries + 1,
        delay=delay,
        error=error,
        category=_UNKNOWN,
        undo=False,
    )
    draft.wait(row.strand, WaitingFor.TIME, draft.clock + delay, tries=row.tries + 1)
    set_activity(draft)


def _give_up(draft: Draft, row: StrandRow, attempt: AttemptRow, error: str) -> None:
    planned = draft.plan.by_name[row.stage]
    draft.answer_attempt(attempt, AttemptState.FAILED, doubt=True, error=error, category=_UNKNOWN, delay=None)
    draft.set_strand(row.strand, state=StrandState.REST, tries=row.tries + 1, **AWAKE)
    if planned.on_unknown == "retry":
        draft.emit("work.retry_exhausted", stage=row.stage, attempt=row.tries + 1, error=error, undo=False)
    draft.emit("stage.failed", stage=row.stage, attempt=attempt.n, error=error, category=_UNKNOWN, doubt=True)
    for key in draft.facts.keys:
        if key.stage == row.stage:
            let_key_go(draft, key, doubt=True)
    park = ParkReason.OPERATOR if draft.plan.on_failure == "park" else None
    if planned.pivot or planned.on_unknown == "park":
        park = ParkReason.UNKNOWN  # only a person can find out
    stop(draft, Cause.FAILED, error=error, stage=row.stage, park=park)
