"""Signals: what a person or a program tells a run, once, at one of its waits.

A signal that comes before the run has come to its wait is kept, while the run goes forward or is parked. A wait ends
with one signal; of a signal, the end of the wait's time and a stop of the run, the one that locks the run first counts.
"""

from __future__ import annotations

from typing import NamedTuple

from stageflow_durable.codec import Fingerprint, as_stored
from stageflow_durable.errors import IdempotencyParamMismatch, NotAllowed
from stageflow_durable.model.status import Cause, ParkReason, Phase, RunStatus, StrandState
from stageflow_durable.model.verbs import ERASED_WHY
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.compatibility import follow_newest
from stageflow_durable.transitions.draft import AWAKE, Draft
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.finish import advance
from stageflow_durable.transitions.resolve import DEADLINE_PASSED, stop
from stageflow_durable.transitions.rows import SignalRow, StrandRow
from stageflow_durable.transitions.waiting import SchemaChanged, awaits_signal, fulfil, kept_for

VERB = "signal"


class Sent(NamedTuple):
    """A signal on its way to the wait ``name`` of a run. ``payload``: encoded text, which was validated by ``schema``;
    ``fingerprint``: of the payload as it was given.
    """

    run_id: str
    name: str
    payload: str
    fingerprint: Fingerprint
    schema: str | None
    key: str | None
    actor: str
    reason: str


def receive(facts: Facts, sent: Sent) -> Change | SignalRow:
    """Keep the signal, or end the wait with it; the signal that came under its key before, if there is one.

    Raises IdempotencyParamMismatch, NotAllowed, SchemaChanged.
    """
    there = [one for one in facts.signals if one.stage == sent.name]
    before = next((one for one in there if sent.key is not None and one.key == sent.key), None)
    if before is not None:
        if before.fingerprint != as_stored(sent.fingerprint, before.fingerprint):
            raise IdempotencyParamMismatch(before.key or "", ["payload"], run_id=sent.run_id)
        return before
    why = _refusal(facts, sent.name, there)
    if why is not None:
        raise NotAllowed(sent.run_id, VERB, why)
    if facts.plan.by_name[sent.name].schema != sent.schema:
        raise SchemaChanged
    draft = Draft(facts)
    number, schema = len(there) + 1, draft.plan.schema
    signal = SignalRow(
        sent.name,
        number,
        sent.key,
        sent.fingerprint,
        sent.payload,
        schema,
        sent.actor,
        sent.reason,
        draft.clock,
    )
    draft.add_signal(signal)
    row = _standing_there(draft, sent.name)
    draft.emit(
        "signal.received",
        stage=sent.name,
        signal=number,
        actor=sent.actor,
        reason=sent.reason,
        key=sent.key,
        kept=row is None,
    )
    if row is not None:
        follow_newest(draft, row.stage)
        _end_wait(draft, row, signal)
    return draft.done()


def _refusal(facts: Facts, name: str, there: list[SignalRow]) -> str | None:
    """Why the run takes no signal ``name``; None if it does."""
    run, waits = facts.run, [stage.name for stage in facts.plan.stages if stage.is_wait]
    if run.erased_at is not None:
        return ERASED_WHY
    if name not in waits:
        return f"it has no wait {name!r}; it waits for: {', '.join(waits) or 'no signal at all'}"
    if there:
        return f"its wait {name!r} has its signal already, from {there[-1].actor}; a wait takes one"
    if name in facts.saved:
        return f"its wait {name!r} is over: {'skipped' if facts.saved[name] else 'it ended without a signal'}"
    if run.phase is Phase.FORWARD or run.status is RunStatus.PARKED:
        return None
    way_out = f"; resume it first: stageflow resume {run.id} --reason …"
    at_rest = run.status in (RunStatus.FAILED, RunStatus.CANCELLED)
    return f"it is {run.status}, and does not come to its wait {name!r}{way_out if at_rest else ''}"


def _standing_there(draft: Draft, name: str) -> StrandRow | None:
    """The strand that waits for this signal, or would as soon as its message is delivered."""
    if draft.run.phase is not Phase.FORWARD:
        return None
    rows = [row for row in draft.strands.values() if row.stage == name and row.direction == Phase.FORWARD]
    return next((row for row in rows if awaits_signal(draft.plan, row) or row.state == StrandState.READY), None)


def _end_wait(draft: Draft, row: StrandRow, signal: SignalRow) -> None:
    draft.set_strand(row.strand, **AWAKE)
    draft.change(status=RunStatus.RUNNING)
    fulfil(draft, row, signal)
    advance(draft, row.strand, row.stage)


# --- the end of a wait's time -----------------------------------------------------------------------------------------


def end_in_time(draft: Draft, row: StrandRow) -> Change:
    """The wait is due: it ends with the signal that is kept for it, else as its definition says."""
    signal = kept_for(draft, row)
    if draft.is_late:
        stop(draft, Cause.DEADLINE, error=DEADLINE_PASSED)
    elif signal is not None:
        follow_newest(draft, row.stage)
        _end_wait(draft, row, signal)
    else:
        _time_out(draft, row)
    return draft.done()


def _time_out(draft: Draft, row: StrandRow) -> None:
    planned, schema = draft.plan.by_name[row.stage], draft.plan.schema
    draft.emit("signal.timed_out", stage=row.stage, seconds=row.delay, on_timeout=planned.on_timeout)
    if planned.on_timeout == "fail":
        _fail(draft, row)
        return
    follow_newest(draft, row.stage)
    draft.set_strand(row.strand, **AWAKE)
    draft.change(status=RunStatus.RUNNING)
    skipped = planned.on_timeout == "skip"
    draft.save(row.stage, planned.default, schema=schema, skipped=skipped)
    draft.emit("stage.skipped" if skipped else "stage.ok", stage=row.stage, attempt=0)
    advance(draft, row.strand, row.stage)


def _fail(draft: Draft, row: StrandRow) -> None:
    seconds = 0.0 if row.delay is None else row.delay
    error = f"no signal {row.stage!r} came within {seconds:g} seconds"
    draft.set_strand(row.strand, state=StrandState.REST, **AWAKE)
    draft.emit("stage.failed", stage=row.stage, attempt=0, error=error, category="permanent", doubt=False)
    park = ParkReason.OPERATOR if draft.plan.on_failure == "park" else None
    stop(draft, Cause.FAILED, error=error, stage=row.stage, park=park)
