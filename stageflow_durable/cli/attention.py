"""What needs a person, by reason: how many, since when, the last error, and what to type next. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from stageflow_durable.cli.why import PARKED_WORDS
from stageflow_durable.model.run import RunSummary
from stageflow_durable.model.status import AT_REST, ParkReason, RunStatus

_URGENCY = (RunStatus.COMPENSATION_FAILED, RunStatus.PARKED, RunStatus.FAILED)


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that wait for the same decision.

    ``next``: the line to type. ``oldest_at``: when the one that waits longest got there.
    """

    reason: str
    pipeline: str
    stage: str | None
    count: int
    oldest_at: datetime
    last_error: str | None
    next: str
    run_ids: tuple[str, ...]


def grouped(runs: Iterable[RunSummary]) -> list[Group]:
    """The runs by reason, pipeline and stage; the most urgent first, then the largest."""
    found: dict[tuple[RunStatus | None, ParkReason | None, str, str | None], list[RunSummary]] = {}
    for run in runs:
        found.setdefault((_trouble(run), run.park_reason, run.pipeline, run.error_stage), []).append(run)
    ranked = sorted(found.items(), key=lambda item: (_rank(item[0][0]), -len(item[1])))
    return [_group(members) for _key, members in ranked]


def _trouble(run: RunSummary) -> RunStatus | None:
    return run.status if run.status in AT_REST else None


def _rank(trouble: RunStatus | None) -> int:
    # Stuck first: at rest a run can wait, stuck it holds up what it promised.
    return _URGENCY.index(trouble) + 1 if trouble in _URGENCY else 0


def _group(runs: list[RunSummary]) -> Group:
    latest = max(runs, key=lambda run: run.updated_at)
    return Group(
        _reason(latest),
        latest.pipeline,
        latest.error_stage,
        len(runs),
        min(run.updated_at for run in runs),
        latest.error,
        _next(latest, len(runs)),
        tuple(run.run_id for run in runs),
    )


def _reason(run: RunSummary) -> str:
    if run.park_reason:
        return f"parked: {PARKED_WORDS[run.park_reason]}"
    if run.status in AT_REST:
        return run.status.replace("_", " ")
    return f"stuck: {run.status}"


def _next(run: RunSummary, count: int) -> str:
    if run.status not in AT_REST:
        return "stageflow doctor"
    if count == 1 or run.park_reason in (ParkReason.UNKNOWN, ParkReason.OPERATOR):
        return f"stageflow show {run.run_id}"
    verb = "compensate" if run.status is RunStatus.COMPENSATION_FAILED else "resume"
    parked_for = f" --park-reason {run.park_reason}" if run.park_reason else ""
    return f"stageflow {verb} --status {run.status}{parked_for} --pipeline {run.pipeline} --reason …"
