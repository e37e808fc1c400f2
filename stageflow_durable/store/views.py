"""Rows as the frozen views of ``model.run``: a run in full, a line of a list, an event, a worker. Every store reads its
rows, and says them with these functions. A row has its columns as attributes, named as in the tables.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from stageflow_durable.clock import as_moment, as_optional_moment
from stageflow_durable.codec import decode
from stageflow_durable.errors import UnknownRun
from stageflow_durable.masking import HIDDEN, masked_value
from stageflow_durable.model.attributes import Attributes
from stageflow_durable.model.json_schema import without_sensitive
from stageflow_durable.model.keys import stage_key, undo_key
from stageflow_durable.model.plan import Plan, PlannedStage
from stageflow_durable.model.roster import Missing, Need, Profile, Roster
from stageflow_durable.model.run import (
    ApprovalView,
    AttemptView,
    AwaitedWorker,
    Erasure,
    Event,
    Run,
    RunSummary,
    StageView,
    StepView,
    UndoView,
    WorkerView,
)
from stageflow_durable.model.sinks import RunEvent, SinkView
from stageflow_durable.model.stage_state import stage_state
from stageflow_durable.model.status import (
    AttemptState,
    Phase,
    RunStatus,
    StageState,
    StepState,
    StrandState,
    WaitingFor,
)
from stageflow_durable.model.waits import About, Behind, Strand, waits_of
from stageflow_durable.model.work import RunFacts
from stageflow_durable.store.erasure import MARK, is_marked
from stageflow_durable.store.vouched import AUDIT
from stageflow_durable.transitions.draft import ACTIVE
from stageflow_durable.transitions.hand_back import is_handed_back
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED


def summary_of(run: RunFacts) -> RunSummary:
    """A row as a line of a list."""
    return RunSummary(
        run.id,
        run.pipeline,
        run.version,
        run.client_id,
        run.key,
        run.status,
        run.phase,
        run.cause,
        run.park_reason,
        run.error,
        run.error_stage,
        run.op_version,
        run.pivot_passed,
        as_moment(run.created_at),
        as_moment(run.updated_at),
        as_optional_moment(run.finished_at),
        as_optional_moment(run.deadline),
        parent=run.parent,
        erased_at=as_optional_moment(run.erased_at),
    )


SHORTEST_PREFIX = 6
"""Characters of an id that may stand for it. Runs of a quarter of an hour begin with the same six."""


def may_be_id(prefix: str) -> bool:
    """Whether a store may be asked for it: a database refuses a NUL in its own words, which quote the statement."""
    return prefix.isascii() and prefix.isprintable()


def full_id_of(prefix: str, found: Sequence[str], tombstone: Any) -> str:
    """The id of the one run that ``prefix`` fits. ``found``: some ids that begin so; ``tombstone``: of a pruned run
    with exactly that id, if nothing was found. Raises UnknownRun naming what is wrong with it.
    """
    if prefix in found:
        return prefix
    if tombstone is not None:
        at = as_moment(tombstone.finished_at)
        raise UnknownRun(
            f"run {prefix} {tombstone.status} at {at:%Y-%m-%d %H:%M} UTC and was pruned; its key stays taken"
        )
    if found and len(prefix) < SHORTEST_PREFIX:
        raise UnknownRun(f"{prefix!r} is too short for a run id; give at least {SHORTEST_PREFIX} characters")
    if len(found) != 1:
        fitting = ", ".join(map(str, found))
        raise UnknownRun(
            f"no run {prefix!r}" if not found else f"{prefix!r} fits more than one run, {fitting}; give more of the id"
        )
    return str(found[0])


@dataclass(frozen=True, slots=True)
class RunRows:
    """What is stored of one run besides its row: by stage, or by stage and direction."""

    checkpoints: Mapping[str, Any]
    attempts: Mapping[tuple[str, str], Sequence[AttemptView]]
    strands: Mapping[tuple[str, str], Any]
    steps: Mapping[str, Any]
    approvals: Mapping[str, Any]
    calls: Mapping[str, Sequence[Any]]

    @classmethod
    def of(
        cls,
        on_strands: Sequence[Any],
        attempts: Iterable[Any],
        checkpoints: Iterable[Any],
        steps: Iterable[Any],
        approvals: Iterable[Any],
        calls: Iterable[Any],
    ) -> RunRows:
        """``attempts``, ``approvals`` and ``calls`` in the order of their numbers; attempts and strands have the
        ``host`` and ``pid`` of their owner as well.
        """
        grouped: dict[tuple[str, str], list[AttemptView]] = {}
        for row in attempts:
            grouped.setdefault((row.stage, row.direction), []).append(_ended(row))
        for row in on_strands:
            tried = grouped.setdefault((row.stage, row.direction), [])
            if row.state == StrandState.RUNNING and not (tried and tried[-1].n >= row.attempt):
                tried.append(_running(row))
        return cls(
            {row.stage: row for row in checkpoints},
            grouped,
            {(row.stage, row.direction): row for row in on_strands},
            {row.stage: row for row in steps},
            {row.stage: row for row in approvals},
            _by_stage(calls),
        )

    @property
    def idle_queues(self) -> list[str]:
        """The queues of strands that wait for a worker."""
        idle = [row for row in self.strands.values() if row.state == StrandState.READY or is_handed_back(row)]
        return sorted({row.queue for row in idle})


class Beside(NamedTuple):
    """What a run's view shows that is not in its own rows. ``about``: None for one that neither goes forward nor
    backward.
    """

    attributes: Attributes
    missing: Missing | None
    awaits: tuple[AwaitedWorker, ...]
    about: About | None
    erased: Erasure | None = None


def erasure_of(event: Any) -> Erasure:
    """The event by which a run's values were erased, as what people are told of it."""
    told = decode(event.data)
    return Erasure(as_moment(event.at), told["actor"], told["reason"])


def run_of(found: RunFacts, plan: Plan, rows: RunRows, max_attempts: Mapping[str, int] | None, beside: Beside) -> Run:
    """A run in full. ``max_attempts`` by stage, where the caller knows the retry policies."""
    stages = tuple(_stage(found, stage, rows, (max_attempts or {}).get(stage.name)) for stage in plan.stages)
    summary = replace(
        summary_of(found),
        missing=beside.missing,
        awaits=beside.awaits,
        waits_for=waits_for(rows.strands.values()),
    )
    summary = replace(summary, waits=waits_of(summary, _as_strands(rows.strands.values()), beside.about))
    return Run(
        **{name: getattr(summary, name) for name in RunSummary.__slots__},
        input=decode(found.input, shown=True),
        metadata=decode(found.metadata, shown=True),
        attributes=dict(beside.attributes),
        stages=stages,
        erased=beside.erased,
    )


MOVING = (Phase.FORWARD, Phase.BACKWARD)
"""Phases of runs of which something may wait."""


def about_of(
    plan: Plan,
    now: datetime,
    missing: Callable[[str], Missing | None],
    most: Mapping[str, int],
    behind: Callable[[str], Sequence[Behind]],
) -> About:
    """What has to be known of a run besides its rows, to say what it waits for."""
    sleeps = frozenset(stage.name for stage in plan.stages if stage.is_sleep)
    return About(now, sleeps, missing, most, UNTIL_CONFIRMED, behind)


def _as_strands(rows: Iterable[Any]) -> list[Strand]:
    return [Strand(*(getattr(row, name) for name in Strand._fields)) for row in rows]


def listed(run: RunFacts, summary: RunSummary, strands: Sequence[Any], about: Callable[[], About] | None) -> RunSummary:
    """A run of a list, with what it waits for. ``strands``: its rows."""
    if run.status is RunStatus.PARKED:
        return replace(summary, waits=waits_of(summary, (), None))
    if about is None or not strands or any(row.state == StrandState.RUNNING for row in strands):
        return summary
    waits = waits_of(summary, _as_strands(strands), about())
    return replace(summary, waits=waits, waits_for=waits_for(strands))


def waits_for(on_strands: Iterable[Any]) -> tuple[WaitingFor, ...]:
    """What keeps a run from moving, by its strands: what is soonest due first. Empty where one of them may go on."""
    rows = [row for row in on_strands if row.state in ACTIVE]
    if any(row.state != StrandState.WAITING for row in rows):
        return ()
    rows.sort(key=lambda row: (UNTIL_CONFIRMED if row.wake_at is None else row.wake_at, str(row.waiting_for)))
    return tuple(dict.fromkeys(WaitingFor(row.waiting_for) for row in rows))


def need_of(pipeline: str, version: str, definition: str, queue: str, newest: str | None) -> Need:
    """What a strand needs of a worker: the definition of its run, or the newest of the pipeline, which may judge any
    run.
    """
    return Need(pipeline, version, frozenset({definition} | ({newest} if newest else set())), queue)


def missing_of(run: RunFacts, queues: Iterable[str], newest: str | None, roster: Roster) -> Missing | None:
    """Why no live worker carries a strand that waits for one in these queues."""
    about = run.pipeline, run.version, run.definition
    found = (roster.missing(need_of(*about, queue, newest)) for queue in queues)
    return next((missing for missing in found if missing is not None), None)


def _stage(run: RunFacts, stage: PlannedStage, rows: RunRows, max_attempts: int | None) -> StageView:
    tried = rows.attempts.get((stage.name, Phase.FORWARD), ())
    strand = rows.strands.get((stage.name, Phase.FORWARD))
    saved = rows.checkpoints.get(stage.name)
    undo = _undo(run, stage, rows)
    return StageView(
        name=stage.name,
        kind=stage.kind,
        state=_state(run, stage, saved, strand, tried, undo),
        after=stage.after,
        pivot=stage.pivot,
        tries=sum(row.state not in (AttemptState.UNKNOWN, AttemptState.VOID) for row in tried),
        lost=sum(row.state is AttemptState.UNKNOWN for row in tried),
        max_attempts=max_attempts,
        key=stage_key(run.id, stage.name),
        output=shown_output(stage, saved.delta) if saved is not None and saved.delta is not None else None,
        error=next((row.error for row in reversed(tried) if row.error), None) if saved is None else None,
        wake_at=_wake_at(strand),
        attempts=tuple(tried),
        undo=undo,
        progress=decode(strand.progress, shown=True) if strand is not None and strand.progress else None,
        on_unknown=stage.on_unknown,
        waiting_for=_waiting_for(strand),
        approval=approval_view(stage, rows.approvals.get(stage.name)),
        steps=tuple(map(step_view, rows.calls.get(stage.name, ()))),
    )


def _wake_at(strand: Any) -> datetime | None:
    """Until when it waits; None too where no time ends that: it waits for a slot, or for a confirmed end."""
    if strand is None or strand.wake_at is None or strand.wake_at >= UNTIL_CONFIRMED:
        return None
    return as_moment(strand.wake_at)


def _by_stage(rows: Iterable[Any]) -> dict[str, list[Any]]:
    grouped: dict[str, list[Any]] = {}
    for row in rows:
        grouped.setdefault(row.stage, []).append(row)
    return grouped


def step_view(row: Any) -> StepView:
    """A row of what a body has saved, as people see it."""
    return StepView(
        row.n,
        row.name,
        row.key,
        row.action is not None,
        None if row.arguments is None else decode(row.arguments, shown=True),
        row.attempt,
        None if row.result is None else decode(row.result, shown=True),
        as_optional_moment(row.saved_at),
        bool(row.undoable),
        as_optional_moment(row.undone_at),
    )


def shown_output(stage: PlannedStage | None, delta: str) -> Any:
    """What a stage saved, as people see it: also without what the schema of its wait calls sensitive."""
    value = decode(delta, shown=True)
    return value if stage is None or stage.schema is None else without_sensitive(stage.schema, value, HIDDEN)


def approval_view(stage: PlannedStage, row: Any) -> ApprovalView | None:
    """A row of what was asked, as people see it."""
    if row is None:
        return None
    return ApprovalView(
        stage.name,
        row.n,
        decode(row.content, shown=True),
        row.digest,
        stage.approvers,
        as_moment(row.asked_at),
        row.decision,
        row.actor,
        bool(row.authenticated),
        row.reason,
        as_optional_moment(row.decided_at),
        row.consumed_at is None,
    )


def _waiting_for(strand: Any) -> WaitingFor | None:
    return None if strand is None or strand.waiting_for is None else WaitingFor(strand.waiting_for)


def _running(row: Any) -> AttemptView:
    """The attempt that a strand holds; its row is written when it is over."""
    began = as_moment(row.began_at)
    return AttemptView(row.attempt, AttemptState.RUNNING, row.owner, row.host, row.pid, began, None, None, None, None)


def _ended(row: Any) -> AttemptView:
    return AttemptView(
        row.n,
        AttemptState(row.state),
        row.owner,
        row.host,
        row.pid,
        as_moment(row.began_at),
        as_moment(row.ended_at),
        row.error,
        row.category,
        row.delay,
        tuple(row.trace.split("\n")) if row.trace else (),
        _lines(row.log),
    )


def _lines(log: str | None) -> tuple[str, ...]:
    try:
        return tuple(map(str, json.loads(log or "[]")))
    except (ValueError, TypeError):
        return ("(these lines cannot be read)",)  # one bad row fails no list


def _undo(run: RunFacts, stage: PlannedStage, rows: RunRows) -> UndoView | None:
    step = rows.steps.get(stage.name)
    if stage.undo is None:
        return None
    if step is None:
        return UndoView(stage.undo, StepState.VOID, None, (), undo_key(run.id, stage.name))
    tried = tuple(rows.attempts.get((stage.name, Phase.BACKWARD), ()))
    strand = rows.strands.get((stage.name, Phase.BACKWARD))
    return UndoView(
        stage.undo,
        StepState(step.state),
        step.error,
        tried,
        undo_key(run.id, stage.name),
        _waiting_for(strand),
        _wake_at(strand),
    )


def _state(
    run: RunFacts,
    stage: PlannedStage,
    saved: Any,
    strand: Any,
    tried: Sequence[AttemptView],
    undo: UndoView | None,
) -> StageState:
    return stage_state(
        run.phase,
        run.status,
        skipped=None if saved is None else bool(saved.skipped),
        strand=None if strand is None else StrandState(strand.state),
        last_attempt=tried[-1].state if tried else None,
        step=None if undo is None else undo.state,
        unanswered=stage.takes_answers and run.error_stage == stage.name,
    )


def event_of(row: Any, item: int) -> Event:
    """An event as people see it: without its entries about rows, which are for the audit. ``erased``: some of its data
    are gone.
    """
    told: dict[str, Any] = decode(row.data)
    data = {name: value for name, value in told.items() if name not in (AUDIT, MARK)}
    if MARK in told and is_marked(row.data):
        data["erased"] = True
    return Event(row.run, row.seq, row.type, as_moment(row.at), data, item)


def told_of(row: Any, run: Any) -> RunEvent:
    """An event as sinks are told of it. One that cannot be read is told of as well: else nothing after it ever was."""
    try:
        event = event_of(row, row.item)
        data = masked_value(dict(event.data))
    except Exception:  # noqa: BLE001  # whatever somebody else wrote there
        data = {"unreadable": "what it noted cannot be read; see `stageflow audit verify`"}
    at = as_moment(row.at)
    return RunEvent(row.run, row.seq, row.type, at, run.pipeline, run.client_id, run.key, data, row.item)


def sink_of(row: Any, behind: int, since: float | None, moment: float) -> SinkView:
    """A sink's row as people see it. ``behind``, ``since``: how many events are to be told, and the first one's time;
    ``moment``: the time by the store's clock.
    """
    told_by = row.owner if row.owner is not None and row.expires_at > moment else None
    return SinkView(
        row.name,
        behind,
        as_optional_moment(since),
        told_by,
        row.tries,
        row.error,
        as_optional_moment(row.retry_at),
        as_optional_moment(row.delivered_at),
        as_moment(row.created_at),
    )


def worker_of(row: Any, running: Iterable[str], *, alive: bool, profile: Profile | None) -> WorkerView:
    """An owner's row. ``running``: what it holds, as ``run_id/stage``; ``profile``: what it knows and serves."""
    return WorkerView(
        row.id,
        row.host,
        row.pid,
        alive,
        as_moment(row.started_at),
        as_moment(row.expires_at),
        tuple(running),
        as_optional_moment(row.dead_at),
        bool(row.confirmed),
        confirmed_by=row.confirmed_by,
        awaited=bool(row.awaited and not row.confirmed),
        **_known(profile),
    )


def _known(profile: Profile | None) -> dict[str, Any]:
    if profile is None:
        return {}
    pipelines = tuple(f"{name} v{known.version}" for name, known in profile.pipelines.items())
    return {"engine": profile.engine, "broker": profile.broker, "queues": profile.queues, "pipelines": pipelines}
