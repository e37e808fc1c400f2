"""What a caller is told of a run that ended without its result, or whose result is gone."""

from __future__ import annotations

from stageflow_durable.clock import as_moment
from stageflow_durable.errors import (
    CompensationFailed,
    RunCancelled,
    RunCompensated,
    RunError,
    RunFailed,
    RunParked,
    ValuesErased,
)
from stageflow_durable.model.status import RunStatus
from stageflow_durable.model.work import RunFacts

_ERRORS: dict[RunStatus, type[RunError]] = {
    RunStatus.FAILED: RunFailed,
    RunStatus.CANCELLED: RunCancelled,
    RunStatus.COMPENSATED: RunCompensated,
    RunStatus.COMPENSATION_FAILED: CompensationFailed,
    RunStatus.PARKED: RunParked,
}


def require_result(run: RunFacts) -> None:
    """Raise what the run ended with, unless it succeeded and its values are there."""
    if run.status is not RunStatus.SUCCEEDED:
        error = run.error or _why_erased(run)
        raise _ERRORS[run.status](run.id, run.status.value, run.cause, run.error_stage, error)
    require_values(run)


def require_values(run: RunFacts) -> None:
    """Raise ValuesErased for a run whose values are gone."""
    if run.erased_at is not None:
        raise ValuesErased(run.id, run.status.value, run.cause, run.error_stage, _why_erased(run))


def _why_erased(run: RunFacts) -> str | None:
    return None if run.erased_at is None else f"its values were erased at {as_moment(run.erased_at):%Y-%m-%d %H:%M} UTC"
