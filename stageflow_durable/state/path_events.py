"""The events of a stage's path, encoded: what they say apart from times and codes is the same for every run of a stage
and an owner, and made once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from stageflow_durable.codec import encode
from stageflow_durable.model.status import Phase, RunStatus, StepState
from stageflow_durable.model.work import Work
from stageflow_durable.state.vouched import AUDIT, RUN, attempt_row, checkpoint_row, step_row, value_code

Rows = dict[str, dict[str, Any]]


@lru_cache(maxsize=4096)
def begun_event(stage: str, number: int, owner: str, pivot: bool, undoable: bool, vouched: bool) -> tuple[str, str]:
    """A stage begins. ``vouched``: the event says what is written to rows (there is an audit key)."""
    data: dict[str, Any] = {"stage": stage, "attempt": number, "owner": owner}
    if vouched:
        rows = _beginning(stage, pivot, undoable)
        data[AUDIT] = {**rows, RUN: {"status": RunStatus.RUNNING.value, **rows.get(RUN, {})}}
    return "stage.begun", encode(data)


def _beginning(stage: str, pivot: bool, undoable: bool) -> Rows:
    rows: Rows = {RUN: {"pivot_passed": True}} if pivot else {}
    return rows | ({step_row(stage): {"state": StepState.INTENDED.value}} if undoable else {})


def ok_event(audit_key: bytes, work: Work, delta: str, onward: str | None) -> tuple[str, str]:
    """A stage is done, with the encoded output ``delta``; ``onward``: the stage that begins with it."""
    done, then = work.plan.by_name[work.stage], work.plan.by_name.get(onward or "")
    parts = _ok(
        work.stage,
        work.attempt,
        done.undo is not None,
        work.plan.schema,
        *((None, "", False, False) if then is None else (onward, work.owner, then.pivot, then.undo is not None)),
    )
    if not audit_key:
        return "stage.ok", parts.plain
    saved = value_code(audit_key, work.run.id, checkpoint_row(work.stage), "delta", delta)
    return "stage.ok", f"{parts.before}{saved}{parts.after}"


class _Ok(NamedTuple):
    """Its data without what it says of rows, and with it: what stands before and after the code of the output."""

    plain: str
    before: str
    after: str


@lru_cache(maxsize=4096)
def _ok(
    stage: str,
    number: int,
    undoable: bool,
    schema: int,
    onward: str | None,
    owner: str,
    pivot: bool,
    undoable_next: bool,
) -> _Ok:
    data: dict[str, Any] = {"stage": stage, "attempt": number}
    rows: Rows = {attempt_row(Phase.FORWARD, number, stage): {}}
    if undoable:
        rows[step_row(stage)] = {"state": StepState.RECORDED.value}
    if onward is not None:
        data["then"] = {"stage": onward, "attempt": 1, "owner": owner}
        rows |= _beginning(onward, pivot, undoable_next)
    rows[checkpoint_row(stage)] = {"saved_schema": schema, "delta": ""}
    before, quotes, after = encode({**data, AUDIT: rows}).rpartition('""')
    return _Ok(encode(data), before + quotes[0], quotes[1] + after)


def succeeded_event(at: float, *, vouched: bool) -> tuple[str, str]:
    """The run has succeeded, at ``at`` (seconds since the epoch)."""
    data: dict[str, Any] = {"cause": None, "stage": None, "error": None, "park_reason": None}
    end = {"phase": Phase.SETTLED.value, "status": RunStatus.SUCCEEDED.value, "finished_at": at}
    return "run.succeeded", encode({**data, AUDIT: {RUN: end}} if vouched else data)
