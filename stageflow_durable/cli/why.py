"""Why a run stands where it stands, in words a person can act on."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from stageflow_durable.cli.words import age, clipped, clock, delay
from stageflow_durable.model.roster import MissingKind
from stageflow_durable.model.run import AttemptView, Event, Run, RunSummary, StageView
from stageflow_durable.model.status import AttemptState, Cause, ParkReason, RunStatus, StageState, StepState, WaitingFor
from stageflow_durable.model.verbs import unknown_stages

OPERATOR = "operator."
"""What the types of events begin with that record a person's verb."""

SHOWN_ORDERS = 3

MOST_OF_AN_ERROR = 160
"""What the head says of an undo's error; below, its attempts tell all of it."""

PARKED_WORDS: dict[ParkReason, str] = {
    ParkReason.UNKNOWN: "outcome unknown",
    ParkReason.POISON: "kills its worker each time",
    ParkReason.DEFINITION: "definition changed",
    ParkReason.BUG: "has a bug",
    ParkReason.OPERATOR: "waits for a decision",
}
"""What is said of a parked run, or of the stage that it is parked for."""

MISSING_WORDS: dict[MissingKind, str] = {
    "worker": "no worker is alive",
    "queue": "its queue is not served",
    "pipeline": "no worker knows it",
    "definition": "no worker knows its version",
}
"""What is said of runs that no live worker carries."""

WAITING_WORDS: dict[WaitingFor, str] = {
    WaitingFor.SIGNAL: "for a signal",
    WaitingFor.APPROVAL: "for an approval",
    WaitingFor.CHILD: "for a run that it started",
    WaitingFor.LIMIT: "for its turn",
    WaitingFor.WORKER: "for a worker",
    WaitingFor.ITEMS: "for its items",
}
"""What is said of a stage that waits for more than its time."""

CAUSE_WORDS: dict[Cause, str] = {
    Cause.FAILED: "failed",
    Cause.CANCELLED: "cancelled",
    Cause.DEADLINE: "its deadline passed",
    Cause.OPERATOR: "an operator asked for it",
    Cause.STAGE: "a stage cancelled it",
}


def why(run: RunSummary) -> str:
    """One phrase behind the status, from what a list knows: reason, stage, error; or empty."""
    error = error_of(run)
    if run.missing is not None:
        return run.missing.message
    if run.park_reason:
        what = f"{run.error_stage} " if run.error_stage else ""
        tail = f": {error}" if error and run.park_reason is not ParkReason.UNKNOWN else ""
        return f"{what}{PARKED_WORDS[run.park_reason]}{tail}"
    if error:
        first = "an undo failed, after " if run.status is RunStatus.COMPENSATION_FAILED else ""
        return f"{first}{run.error_stage}: {error}" if run.error_stage else f"{first}{error}"
    return CAUSE_WORDS[run.cause] if run.cause and str(run.cause) != str(run.status) else ""


def error_of(run: RunSummary) -> str:
    """The run's error, without the stage's name in front of it."""
    return (run.error or "").removeprefix(f"{run.error_stage}: ")


def why_in_full(run: Run) -> str:
    """The same with what only the whole run knows: unknown stages, failed undos, what it waits for or runs."""
    if run.park_reason is ParkReason.UNKNOWN:
        return f"{', '.join(unknown_stages(run)) or run.error_stage or 'a stage'} outcome unknown"
    if run.status is RunStatus.COMPENSATION_FAILED:
        return "; ".join(clipped(told, MOST_OF_AN_ERROR) for told in failed_undos(run)) or why(run)
    if run.missing is not None:
        return run.missing.message
    if run.awaits:
        return undo_waits(run)
    if run.status in (RunStatus.RUNNING, RunStatus.WAITING, RunStatus.PENDING):
        return ", ".join(stage.name for stage in run.stages if stage.state in (StageState.RUNNING, StageState.WAITING))
    return why(run)


def undo_waits(run: RunSummary) -> str:
    """For whose end its undo waits, and what was lost with it."""
    lost = ", ".join(f"{one.host} (pid {one.pid}), lost in {one.stage}" for one in run.awaits)
    return f"its undo waits until a worker is confirmed dead: {lost}"


def awaiting(run: Run) -> list[str]:
    """What to do about processes that an undo waits for."""
    owners = dict.fromkeys(one.owner for one in run.awaits)
    return [f"it may still act; once it cannot: stageflow workers confirm-dead {owner} --reason …" for owner in owners]


def failed_undos(run: Run) -> list[str]:
    """Which undos failed for good, each with the stage that it was to undo and its error."""
    return [
        f"undo {stage.undo.name} of {stage.name} failed{_colon(stage.undo.error)}"
        for stage in run.stages
        if stage.undo and stage.undo.state is StepState.COMPENSATION_FAILED
    ]


def undone_for(run: Run) -> list[str]:
    """Why a run whose undo failed was to be undone at all."""
    error = error_of(run)
    if run.status is not RunStatus.COMPENSATION_FAILED or not (error or run.cause):
        return []
    at = f"{run.error_stage}: " if run.error_stage and error else ""
    return [f"it was to be undone because: {at}{error or CAUSE_WORDS[run.cause or Cause.FAILED]}"]


def _colon(error: str | None) -> str:
    return f": {error}" if error else ""


def way_out(run: Run) -> list[str]:
    """What to do where no live worker carries it."""
    return [] if run.missing is None else [f"To let it go on, {run.missing.way_out}"]


def losses(run: Run, now: datetime) -> list[str]:
    """What died when, for the stages that are in doubt because of it."""
    if run.status is not RunStatus.PARKED:
        return []
    return [
        _loss(run, stage, stage.attempts[-1], now)
        for stage in run.stages
        if stage.name in unknown_stages(run) and stage.attempts
    ]


def _loss(run: Run, stage: StageView, last: AttemptView, now: datetime) -> str:
    when = clock(last.ended_at or last.began_at, now)
    if last.state is not AttemptState.UNKNOWN:
        return f"{stage.name} ended {when} with an error that does not say what happened{_rule(run, stage)}"
    return f"worker {who(last)} died {when} after {stage.name} began{_rule(run, stage)}"


def _rule(run: Run, stage: StageView) -> str:
    if run.park_reason is not ParkReason.UNKNOWN:
        return f"; {stage.lost} times so far" if stage.lost > 1 else ""
    return "; a pivot is never repeated unasked" if stage.pivot else '; on_unknown="park"'


def orders(history: Iterable[Event], now: datetime) -> list[str]:
    """What people did to the run: who, when, which verb and why; the last few."""
    given = [event for event in history if event.type.startswith(OPERATOR)]
    return [
        f"{event.data.get('actor', '?')} {age(event.at, now)} ago: {event.type.removeprefix(OPERATOR)}"
        f", {event.data.get('reason', '')}"
        for event in given[-SHOWN_ORDERS:]
    ]


def who(attempt: AttemptView) -> str:
    """``pay-7 (pid 812)``, as much of it as is known."""
    host = attempt.owner_host or attempt.owner or "?"
    return f"{host} (pid {attempt.owner_pid})" if attempt.owner_pid else host


def attempt_phrase(attempt: AttemptView, *, numbered: bool = True) -> str:
    """``#1 503 → +1.2s``: the attempt's error and the delay after it."""
    number = f"#{attempt.n} " if numbered else ""
    after = f" → {delay(attempt.delay)}" if attempt.delay is not None else ""
    return f"{number}{_what_happened(attempt)}{after}"


def _what_happened(attempt: AttemptView) -> str:
    if attempt.state is AttemptState.UNKNOWN:
        return f"lost with {who(attempt)}"
    return " ".join((attempt.error or str(attempt.state)).split())
