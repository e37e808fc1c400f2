"""What needs a person, by reason: how many, since when, the last error, and what to do next. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from stageflow_durable.model.roster import Missing
from stageflow_durable.model.run import ApprovalView, Run, RunSummary, Wait
from stageflow_durable.model.status import AT_REST, ParkReason, RunStatus, WaitingFor
from stageflow_durable.model.verbs import SHOWN_DIGEST
from stageflow_durable.model.waits import PARKED_WORDS
from stageflow_durable.model.why import MISSING_WORDS, failed_undos

Look = Callable[[str], Run]
"""A run in full, by its id."""

_Kind = tuple[RunStatus | None, bool, ParkReason | Missing | None, str, str | None]
_URGENCY = (RunStatus.COMPENSATION_FAILED, RunStatus.PARKED, RunStatus.FAILED)


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that wait for the same decision.

    ``next``: the line to type. ``oldest_at``: when the one that waits longest got there. ``last_error``: of the run
    that got there last, ``last_run``; where its undo failed that undo's, and ``cause`` is why it was to be undone.
    ``missing``: why no live worker carries them, which then is the ``last_error`` too. ``waiting_for``: what the last
    one waits for, by its rows, or None; ``waits``: the same in full, whose first is the ``last_error`` of a run that is
    not at rest; ``approval``: what it asks for.
    ``status`` and ``park_reason``: of all of them, where they are at rest.
    """

    reason: str
    pipeline: str
    stage: str | None
    count: int
    oldest_at: datetime
    last_error: str | None
    cause: str | None
    last_run: str
    next: str
    run_ids: tuple[str, ...]
    missing: Missing | None = None
    waiting_for: WaitingFor | None = None
    waits: tuple[Wait, ...] = ()
    approval: ApprovalView | None = None
    status: RunStatus | None = None
    park_reason: ParkReason | None = None


def grouped(runs: Iterable[RunSummary], look: Look) -> list[Group]:
    """The runs by reason, pipeline and stage; the most urgent first, then the largest.

    ``look`` is asked for one run of each group whose undo failed: a list does not know of undos.
    """
    found: dict[_Kind, list[RunSummary]] = {}
    for run in runs:
        at = run.error_stage if run.approval is None else run.approval.stage
        kind = _trouble(run), bool(run.awaits), run.missing or run.park_reason, run.pipeline, at
        found.setdefault(kind, []).append(run)
    ranked = sorted(found.items(), key=lambda item: (_rank(item[0][0]), -len(item[1])))
    return [_group(members, look) for _key, members in ranked]


def _trouble(run: RunSummary) -> RunStatus | None:
    return run.status if run.status in AT_REST else None


def _rank(trouble: RunStatus | None) -> int:
    # Stuck first: at rest a run can wait, stuck it holds up what it promised.
    return _URGENCY.index(trouble) + 1 if trouble in _URGENCY else 0


def _group(runs: list[RunSummary], look: Look) -> Group:
    latest = max(runs, key=lambda run: run.updated_at)
    undo_failed = latest.status is RunStatus.COMPENSATION_FAILED
    undos = "; ".join(failed_undos(look(latest.run_id))) if undo_failed else ""
    return Group(
        _reason(latest),
        latest.pipeline,
        latest.error_stage if latest.approval is None else latest.approval.stage,
        len(runs),
        min(run.updated_at for run in runs),
        undos or _last_error(latest),
        latest.error if undos else None,
        latest.run_id,
        _next(latest, len(runs)),
        tuple(run.run_id for run in runs),
        latest.missing,
        latest.waiting_for,
        latest.waits,
        latest.approval,
        _trouble(latest),
        latest.park_reason,
    )


def _last_error(run: RunSummary) -> str | None:
    if run.missing is not None:
        return run.missing.message
    return run.waits[0].text if run.waits and run.status not in AT_REST else run.error


def _reason(run: RunSummary) -> str:
    if run.approval is not None:
        return "waits for an approval"
    if run.awaits:
        return "undo waits: worker not confirmed dead"
    if run.park_reason:
        return f"parked: {PARKED_WORDS[run.park_reason]}"
    if run.status in AT_REST:
        return run.status.replace("_", " ")
    return f"stuck: {run.status}" if run.missing is None else MISSING_WORDS[run.missing.kind]


def _next(run: RunSummary, count: int) -> str:
    if run.missing is not None:
        return run.missing.command
    if run.awaits or (run.approval is not None and count > 1):
        return f"stageflow show {run.run_id}"
    if run.approval is not None:
        asked = run.approval
        return f"stageflow approve {run.run_id} {asked.stage} --digest {asked.digest[:SHOWN_DIGEST]} --reason …"
    if run.status not in AT_REST:
        return "stageflow doctor"
    if count == 1 or run.park_reason in (ParkReason.UNKNOWN, ParkReason.OPERATOR):
        return f"stageflow show {run.run_id}"
    verb = "compensate" if run.status is RunStatus.COMPENSATION_FAILED else "resume"
    parked_for = f" --park-reason {run.park_reason}" if run.park_reason else ""
    return f"stageflow {verb} --status {run.status}{parked_for} --pipeline {run.pipeline} --reason …"
