"""What a person sees of a stage: derived from rows, stored nowhere."""

from __future__ import annotations

from stageflow_durable.model.status import AttemptState, Phase, RunStatus, StageState, StepState, StrandState

_BY_STRAND = {StrandState.RUNNING: StageState.RUNNING, StrandState.WAITING: StageState.WAITING}
_BY_ATTEMPT = {
    AttemptState.UNKNOWN: StageState.UNKNOWN,
    AttemptState.WAITING: StageState.UNKNOWN,
    AttemptState.FAILED: StageState.FAILED,
    AttemptState.REJECTED: StageState.FAILED,
    AttemptState.RETRY: StageState.CANCELLED,
}


def stage_state(
    phase: Phase,
    status: RunStatus,
    *,
    skipped: bool | None,
    strand: StrandState | None,
    last_attempt: AttemptState | None,
    step: StepState | None,
    unanswered: bool = False,
) -> StageState:
    """The state of a stage of a run in ``phase`` with ``status``.

    :param skipped: of its checkpoint; None where it has none.
    :param strand: of the strand that stands at the stage; None where none does.
    :param last_attempt: how its latest attempt ended, or ``RUNNING``; None where it never began.
    :param step: its saga step; None where the stage has no undo.
    :param unanswered: it waits for an answer, and the run was stopped because none came in time, or for what it said.
    """
    if step is StepState.COMPENSATED:
        return StageState.UNDONE
    if skipped is not None:
        return StageState.SKIPPED if skipped else StageState.OK
    if strand in _BY_STRAND:
        return _BY_STRAND[strand]
    if unanswered and phase is not Phase.FORWARD:
        return StageState.FAILED
    if last_attempt is not None and phase is not Phase.FORWARD:
        return _BY_ATTEMPT.get(last_attempt, StageState.CANCELLED)
    over = phase is not Phase.FORWARD and status is not RunStatus.PARKED
    return StageState.CANCELLED if over else StageState.PENDING
