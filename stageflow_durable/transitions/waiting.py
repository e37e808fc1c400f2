"""Waiting: which strands do, and beginning to wait at a stage without a body. Meanwhile no worker holds the strand, no
message is under way, no body is called, and no attempt counts.

What each kind of wait does, and where that is decided::

    waits for   begins                    resumed (``again``)      its time is over (``wake``)  a message begins it
    time        retry.due                 published                made ready                   yes
    limit       retry.due                 published                made ready                   yes
    worker      hand_back, resolve        published                made ready                   yes
    time, as a  sleep.fall_asleep, or     sleep_on                 _end_sleep                   no
    sleep       sleep_until once asked
    signal      await_signal              keep_awaiting_signal     signal.end_in_time           no
    approval    approval.ask              published: asked anew    approval.end_in_time         no
    callback    callback.await_callback   keep_awaiting_callback   callback.expire              no
    items       items.open_items          groups.wait_for_items    it has none                  no

Of a wait for a signal ``first_at`` says since when it waits and ``delay`` for how many seconds at the most (None: for
as long as it takes). Both survive a cancel. What a signal that comes does is decided in ``signal``.
"""

from __future__ import annotations

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import Phase, RunStatus, StrandState, WaitingFor
from stageflow_durable.transitions.draft import AWAKE, Draft
from stageflow_durable.transitions.resolve import set_activity
from stageflow_durable.transitions.rows import SignalRow, StrandRow
from stageflow_durable.transitions.sleep import fall_asleep, is_asleep


class SchemaChanged(Exception):
    """The run has moved to a definition that has another schema for the stage: the payload is to be validated again."""


def awaits_signal(plan: Plan, row: StrandRow) -> bool:
    """Whether the strand waits for its signal, so that only that or the end of its time moves it on."""
    return _stands_for(row, WaitingFor.SIGNAL) and plan.by_name[row.stage].is_wait


def needs_no_worker(plan: Plan, row: StrandRow) -> bool:
    """Whether the strand sleeps, or waits for an answer, a callback or its items: no message begins anything there."""
    if row.state != StrandState.WAITING:
        return False
    for_items = row.waiting_for == WaitingFor.ITEMS
    return for_items or is_asleep(plan, row) or awaits_answer(plan, row) or awaits_callback(row)


def awaits_callback(row: StrandRow) -> bool:
    """Whether the strand waits for its callback, so that only that or the end of its time moves it on."""
    return _stands_for(row, WaitingFor.CALLBACK)


def awaits_approval(plan: Plan, row: StrandRow) -> bool:
    """Whether the strand waits until somebody approves, so that only that or the end of its time moves it on."""
    return _stands_for(row, WaitingFor.APPROVAL) and plan.by_name[row.stage].is_approval


def awaits_answer(plan: Plan, row: StrandRow) -> bool:
    """Whether the strand waits for a person or a program."""
    return awaits_signal(plan, row) or awaits_approval(plan, row)


def _stands_for(row: StrandRow, what: WaitingFor) -> bool:
    """Whether the strand waits for that, on its way forward: no undo waits for anybody's word."""
    return row.state == StrandState.WAITING and row.waiting_for == what and row.direction == Phase.FORWARD


def kept_for(draft: Draft, row: StrandRow) -> SignalRow | None:
    """The signal that came before the strand had come to its wait; None: none has, or the stage is no wait."""
    if row.direction != Phase.FORWARD or not draft.plan.by_name[row.stage].is_wait:
        return None
    return next((one for one in draft.signals if one.stage == row.stage and one.consumed_at is None), None)


def arrive(draft: Draft, strand: str) -> bool:
    """Let a strand that has come to its next stage wait, if that stage has no body and asks no worker. False else."""
    return fall_asleep(draft, strand) or await_signal(draft, strand)


def await_signal(draft: Draft, strand: str) -> bool:
    """Let a strand wait if its stage is a wait. False if it is none. With a signal that is kept it is due at once."""
    row = draft.strand(strand)
    planned = draft.plan.by_name[row.stage]
    if row.direction != Phase.FORWARD or not planned.is_wait:
        return False
    # A root stage has waited since the run was accepted, and so has the first one of a run that has not begun.
    since = draft.run.created_at if not planned.after or draft.run.status is RunStatus.PENDING else draft.clock
    _await_signal(draft, strand, since, planned.timeout, due=kept_for(draft, row) is not None)
    return True


def keep_awaiting_signal(draft: Draft, row: StrandRow) -> bool:
    """Continue the wait of a strand whose run was stopped: for the rest of its time, or anew where that is over. False
    if its stage is no wait.
    """
    planned = draft.plan.by_name[row.stage]
    if row.direction != Phase.FORWARD or not planned.is_wait:
        return False
    if row.first_at is not None and row.delay is not None and row.first_at + row.delay > draft.clock:
        _await_signal(draft, row.strand, row.first_at, row.delay)
    else:
        _await_signal(draft, row.strand, draft.clock, planned.timeout)
    return True


def fulfil(draft: Draft, row: StrandRow, signal: SignalRow) -> None:
    """The wait ends with this signal, whose payload is the stage's output. The caller advances the strand."""
    draft.consume(signal)
    draft.save(row.stage, signal.payload, schema=signal.saved_schema)
    draft.emit("stage.ok", stage=row.stage, attempt=0, signal=signal.n, actor=signal.actor)


def release_those_that_wait_for_nothing(draft: Draft) -> None:
    """After the run has moved to another definition: what waits for an answer at a stage that takes none any more is
    ready for a worker, and the next sweep publishes it.
    """
    for row in tuple(draft.strands.values()):
        waits = row.state == StrandState.WAITING and row.waiting_for in (WaitingFor.SIGNAL, WaitingFor.APPROVAL)
        if waits and not awaits_answer(draft.plan, row):
            draft.set_strand(row.strand, state=StrandState.READY, published_at=None, first_at=None, delay=None, **AWAKE)


def _await_signal(draft: Draft, strand: str, since: float, seconds: float | None, *, due: bool = False) -> None:
    until = draft.clock if due else None if seconds is None else since + seconds
    # ``nudges`` is reset: a waiting strand with nudges > 0 counts as handed back, and any worker that joins wakes it.
    columns = {"owner": None, "attempt": 0, "nudges": 0, "first_at": since, "delay": seconds}
    draft.wait(strand, WaitingFor.SIGNAL, until, **columns)
    draft.emit(
        "stage.waiting", stage=draft.strand(strand).stage, strand=strand, waiting_for=WaitingFor.SIGNAL, until=until
    )
    set_activity(draft)
