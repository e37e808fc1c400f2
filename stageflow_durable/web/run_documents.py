"""What pages and programs are told of runs, as JSON: lines of a list, a run in full, its history, workers. Pure.

Whoever signed in to nothing is shown no values: what a run was given, saved and was told is :data:`HIDDEN`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from stageflow_durable.clock import as_moment, as_optional_moment
from stageflow_durable.legible import harmless_json, jsonable
from stageflow_durable.masking import HIDDEN, masked_value
from stageflow_durable.model.attention import Group
from stageflow_durable.model.run import (
    ApprovalView,
    AttemptView,
    Event,
    Run,
    RunSummary,
    StageView,
    StepView,
    Wait,
    WaitKind,
    WorkerView,
)
from stageflow_durable.model.status import AT_REST, RunStatus
from stageflow_durable.model.verbs import APPLICABLE, Verb, VerbName, allowed_verbs
from stageflow_durable.model.why import why
from stageflow_durable.store.values import Checked, Pooled, Tally

MOST_OF_A_VALUE = 2_000
"""Characters of a value in a document of a run."""

MOST_IN_FULL = 1_048_576
"""Characters of one value by itself."""

MOST_OF_AN_ERROR = 400
"""Characters of an error in a list."""

MOST_OF_LOGS = 262_144
"""Characters of all log lines in a document of a run, which is read anew whenever the run moves."""

_MOST_IN_LINES = 16_384
_NAMED = frozenset({"stage", "attempt", "n", "status", "state", "name"})
"""What events say that is no value."""

BUCKETS = 24
"""Bars of a small chart."""

_BULK = (VerbName.RESUME, VerbName.CANCEL, VerbName.COMPENSATE)


# --- values -----------------------------------------------------------------------------------------------------------


def value_of(value: Any, *, shows: bool, most: int = MOST_OF_A_VALUE) -> dict[str, Any] | None:
    """A value as text: its JSON, cut after ``most`` characters, and how many it has. None: there is nothing to say."""
    if value in (None, {}):
        return None
    if not shows:
        return {"text": HIDDEN, "length": len(HIDDEN), "cut": False}
    text = _written(value)
    return {"text": text[:most], "length": len(text), "cut": len(text) > most}


def _written(content: Any) -> str:
    """As JSON, a line for each value unless that would make it much longer: each is indented by its depth."""
    value = jsonable(content)
    text = json.dumps(value, ensure_ascii=False)
    lines = json.dumps(value, indent=2, ensure_ascii=False) if len(text) <= _MOST_IN_LINES else text
    return harmless_json(lines if len(lines) <= max(_MOST_IN_LINES, 4 * len(text)) else text)


def _approval(asked: ApprovalView | None, *, shows: bool) -> dict[str, Any] | None:
    if asked is None:
        return None
    told: dict[str, Any] = jsonable(replace(asked, content=None))
    return {**told, "content": value_of(asked.content, shows=shows), "reason": asked.reason if shows else None}


# --- lists ------------------------------------------------------------------------------------------------------------


def line_of(run: RunSummary, *, shows: bool) -> dict[str, Any]:
    """A run of a list: its summary, ``why`` it stands where it stands, and for how many seconds it went."""
    if not shows:
        run = replace(run, waits=tuple(_without_keys(wait) for wait in run.waits))
    told: dict[str, Any] = jsonable(replace(_summary(run), approval=None))
    return {
        **told,
        "error": _cut(run.error),
        "approval": _approval(run.approval, shows=shows),
        "waiting_for": run.waiting_for,
        "why": _cut(why(run)),
        "seconds": None if run.finished_at is None else (run.finished_at - run.created_at).total_seconds(),
        "at_rest": run.status in AT_REST,
    }


def _without_keys(wait: Wait) -> Wait:
    """A wait that names no key of a limit: an application takes those from a run's input."""
    return replace(wait, text=f"{wait.stage} waits for a limit") if wait.kind is WaitKind.LIMIT else wait


def _summary(run: RunSummary) -> RunSummary:
    """A run without what only a run in full has."""
    return RunSummary(**{name: getattr(run, name) for name in RunSummary.__slots__})


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= MOST_OF_AN_ERROR else text[: MOST_OF_AN_ERROR - 1] + "…"


def group_of(group: Group, *, shows: bool) -> dict[str, Any]:
    """Runs that wait for the same decision: ``filter`` lists them, where one does; ``verbs``: what may be done to all
    of them by it.
    """
    told: dict[str, Any] = jsonable(replace(group, approval=None, run_ids=()))
    status = group.status
    wanted = {"status": status, "pipeline": group.pipeline, "park_reason": group.park_reason}
    return {
        **told,
        "last_error": _cut(group.last_error),
        "cause": _cut(group.cause),
        "approval": _approval(group.approval, shows=shows),
        "filter": None if status is None else {name: value for name, value in wanted.items() if value},
        "verbs": [] if status is None else [verb for verb in _BULK if status in APPLICABLE[verb]],
    }


# --- pipelines --------------------------------------------------------------------------------------------------------


def tally_of(tally: Tally, now: float) -> dict[str, Any]:
    """What the newest runs of a pipeline came to: by status, and over time in :data:`BUCKETS` of the same length."""
    runs = tally.newest
    since = min((at for at, _status in runs), default=now)
    width = max(now - since, 1.0) / BUCKETS
    buckets: list[dict[str, int]] = [{"ok": 0, "bad": 0, "live": 0} for _ in range(BUCKETS)]
    statuses: dict[str, int] = {}
    for at, status in runs:
        statuses[status] = statuses.get(status, 0) + 1
        place = min(BUCKETS - 1, max(0, int((at - since) / width)))
        buckets[place][_kind(status)] += 1
    told = {"name": tally.pipeline, "runs": len(runs), "more": tally.more, "statuses": statuses, "buckets": buckets}
    return {**told, "since": jsonable(as_moment(since)), "bucket_seconds": width}


def _kind(status: RunStatus) -> str:
    if status not in AT_REST:
        return "live"
    return "ok" if status is RunStatus.SUCCEEDED else "bad"


# --- one run ----------------------------------------------------------------------------------------------------------


def run_document(run: Run, *, shows: bool, seq: int) -> dict[str, Any]:
    """A run in full, with what is allowed now. Values are cut: each by itself has an address of its own."""
    return {
        **line_of(run, shows=shows),
        "error": run.error,
        "seq": seq,
        "input": value_of(run.input, shows=shows),
        "metadata": value_of(run.metadata, shows=shows),
        "attributes": {name: value if shows else HIDDEN for name, value in run.attributes.items()},
        "stages": [_stage(stage, shows=shows) for stage in _with_logs(run, shows=shows)],
        "allowed": [_allowed(verb) for verb in allowed_verbs(run)],
    }


def _with_logs(run: Run, *, shows: bool) -> Iterator[StageView]:
    """The stages with the log lines of their attempts, as far as these may be shown and there is room."""
    left = MOST_OF_LOGS

    def lines(attempt: AttemptView) -> AttemptView:
        nonlocal left
        size = sum(map(len, attempt.log))
        if not size:
            return attempt
        if not shows:
            return replace(attempt, log=(HIDDEN,))
        if size > left:
            return replace(attempt, log=(f"... left out here: stageflow show {run.run_id} --full",))
        left -= size
        return attempt

    for stage in run.stages:
        undo = stage.undo and replace(stage.undo, attempts=tuple(map(lines, stage.undo.attempts)))
        yield replace(stage, attempts=tuple(map(lines, stage.attempts)), undo=undo)


def _stage(stage: StageView, *, shows: bool) -> dict[str, Any]:
    told: dict[str, Any] = jsonable(replace(stage, output=None, approval=None, progress=None, steps=()))
    output = None if stage.approval is not None else value_of(stage.output, shows=shows)
    progress = stage.progress if shows else None
    return {
        **told,
        "output": output,
        "progress": jsonable(progress),
        "approval": _approval(stage.approval, shows=shows),
        "steps": [_step(step, shows=shows) for step in stage.steps],
    }


def _step(step: StepView, *, shows: bool) -> dict[str, Any]:
    told: dict[str, Any] = jsonable(replace(step, arguments=None, result=None))
    values = {name: value_of(getattr(step, name), shows=shows) for name in ("arguments", "result")}
    return {**told, "key": step.key if shows or step.key is None else HIDDEN, **values}


def _allowed(verb: Verb) -> dict[str, Any]:
    """A verb with what its request has to say besides the reason."""
    words = verb.arguments
    return {
        "verb": verb.name,
        "stage": verb.stage,
        "effect": verb.effect,
        "command": verb.command,
        "past_pivot": "--past-pivot" in words,
        "skips": "--skip" in words,
        "outcome": "done" if "--done" in words else "not_done" if "--not-done" in words else None,
        "digest": words[words.index("--digest") + 1] if "--digest" in words else None,
    }


def event_document(event: Event, *, shows: bool) -> dict[str, Any]:
    """An event as people see it: one of before may hold what is masked today before it is stored."""
    data = masked_value(dict(event.data))
    if not shows:
        data = {name: value if name in _NAMED else HIDDEN for name, value in data.items()}
    told: dict[str, Any] = jsonable(replace(event, data=data))
    return told


def verdict_of(checked: Iterable[Checked], *, sealed: bool) -> dict[str, Any] | None:
    """What the audit says of a history. ``sealed``: by a key that the database does not know."""
    found = next(iter(checked), None)
    if found is None:
        return None
    return {"events": found.events, "problems": list(found.problems), "rows": found.rows, "sealed": sealed}


# --- workers ----------------------------------------------------------------------------------------------------------


def worker_document(worker: WorkerView) -> dict[str, Any]:
    """A process that owns, or owned, work."""
    told: dict[str, Any] = jsonable(worker)
    return told


def pool_document(pool: Pooled, *, shows: bool) -> dict[str, Any]:
    """The slots of a limit that are counted together."""
    key = pool.key if shows or not pool.key else HIDDEN
    holders = [{"run_id": run, "stage": stage, "lost": lost} for run, stage, lost in pool.holders]
    return {**pool._asdict(), "key": key, "oldest": jsonable(as_optional_moment(pool.oldest)), "holders": holders}
