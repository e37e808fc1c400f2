"""Why a run stands where it stands: the phrases that lists, trees and pages share. Pure."""

from __future__ import annotations

from stageflow_durable.model.roster import MissingKind
from stageflow_durable.model.run import Run, RunSummary
from stageflow_durable.model.status import AT_REST, Cause, ParkReason, RunStatus, StepState
from stageflow_durable.model.waits import PARKED_WORDS

MISSING_WORDS: dict[MissingKind, str] = {
    "worker": "no worker is alive",
    "queue": "its queue is not served",
    "pipeline": "no worker knows it",
    "definition": "no worker knows its version",
}
"""What is said of runs that no live worker carries."""

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
    if run.erased_at is not None:
        return "its values were erased"
    if run.waits and run.status not in AT_REST:
        more = f" (and {len(run.waits) - 1} more)" if len(run.waits) > 1 else ""
        return f"{run.waits[0].text}{more}"
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


def failed_undos(run: Run) -> list[str]:
    """Which undos failed for good, each with the stage that it was to undo and its error."""
    return [
        f"undo {stage.undo.name} of {stage.name} failed{_colon(stage.undo.error)}"
        for stage in run.stages
        if stage.undo and stage.undo.state is StepState.COMPENSATION_FAILED
    ]


def _colon(error: str | None) -> str:
    return f": {error}" if error else ""
