"""Why a run stands where it stands, in words a person can act on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime

from stageflow_durable.cli.words import age, clipped, clock, delay
from stageflow_durable.model.run import ApprovalView, AttemptView, Event, Run, StageView
from stageflow_durable.model.status import AT_REST, AttemptState, Cause, ParkReason, RunStatus, StageState
from stageflow_durable.model.verbs import SHOWN_DIGEST, unknown_stages
from stageflow_durable.model.waits import confirmations
from stageflow_durable.model.why import CAUSE_WORDS, error_of, failed_undos, why

OPERATOR = "operator."
"""What the types of events begin with that record a person's verb."""

SHOWN_ORDERS = 3

MOST_OF_A_CONTENT = 2000
"""How much of what is to be approved is shown; all of it by ``--json``."""

MOST_OF_AN_ERROR = 160
"""What the head says of an undo's error; below, its attempts tell all of it."""


def why_in_full(run: Run) -> str:
    """The same with what only the whole run knows: unknown stages, failed undos, what it waits for or runs."""
    if run.erased is not None:  # it is said in full below
        return f"at {run.error_stage}" if run.error_stage else ""
    if run.park_reason is ParkReason.UNKNOWN:
        return f"{', '.join(unknown_stages(run)) or run.error_stage or 'a stage'} outcome unknown"
    if run.status is RunStatus.COMPENSATION_FAILED:
        return "; ".join(clipped(told, MOST_OF_AN_ERROR) for told in failed_undos(run)) or why(run)
    if run.waits and run.status not in AT_REST:
        running = [stage.name for stage in run.stages if stage.state is StageState.RUNNING]
        return "; ".join([*filter(None, [", ".join(running)]), *dict.fromkeys(wait.text for wait in run.waits)])
    if run.status in (RunStatus.RUNNING, RunStatus.WAITING, RunStatus.PENDING):
        return ", ".join(stage.name for stage in run.stages if stage.state in (StageState.RUNNING, StageState.WAITING))
    return why(run)


def awaiting(run: Run) -> list[str]:
    """What to do about processes that an undo waits for."""
    return [f"it may still act; once it cannot: {command}" for command in confirmations(run.awaits)]


def undone_for(run: Run) -> list[str]:
    """Why a run whose undo failed was to be undone at all."""
    error = error_of(run)
    if run.status is not RunStatus.COMPENSATION_FAILED or not (error or run.cause):
        return []
    at = f"{run.error_stage}: " if run.error_stage and error else ""
    return [f"it was to be undone because: {at}{error or CAUSE_WORDS[run.cause or Cause.FAILED]}"]


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
    if last.state is AttemptState.WAITING:
        return f"{stage.name} waits for its callback since {when}; resumed, it waits on"
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


def approval_lines(asked: ApprovalView | None) -> list[str]:
    """What is to be approved, and by whom; or what was decided."""
    if asked is None:
        return []
    if asked.decision is not None:
        known = "" if asked.authenticated else " (as typed)"
        return [f"{asked.decision} by {asked.actor}{known}: {asked.reason}"]
    by = f"by one of: {', '.join(asked.approvers)}" if asked.approvers else "by anybody"
    content = json.dumps(asked.content, default=str, ensure_ascii=False)
    return [f"asks for: {clipped(content, MOST_OF_A_CONTENT)}", f"digest {asked.digest[:SHOWN_DIGEST]}, {by}"]


def who(attempt: AttemptView) -> str:
    """``pay-7 (pid 812)``, as much of it as is known."""
    host = attempt.owner_host or attempt.owner or "?"
    return f"{host} (pid {attempt.owner_pid})" if attempt.owner_pid else host


def attempt_phrase(attempt: AttemptView, *, numbered: bool = True) -> str:
    """``#1 503 → +1.2s``: the attempt's error and the delay after it."""
    number = f"#{attempt.n} " if numbered else ""
    after = f" → {delay(attempt.delay)}" if attempt.delay is not None else ""
    place = f" ({attempt.raised_at})" if attempt.raised_at else ""
    return f"{number}{_what_happened(attempt)}{place}{after}"


def _what_happened(attempt: AttemptView) -> str:
    if attempt.state is AttemptState.UNKNOWN:
        return f"lost with {who(attempt)}"
    return " ".join((attempt.error or str(attempt.state)).split())
