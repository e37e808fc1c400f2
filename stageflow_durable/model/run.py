"""Read-only views: what ``describe()``, ``runs()`` and ``history()`` return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from stageflow_durable.model.roster import Missing
from stageflow_durable.model.status import (
    AttemptState,
    Cause,
    ParkReason,
    Phase,
    RunStatus,
    StageState,
    StepState,
    WaitingFor,
)


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One attempt of a stage or an undo. Times are aware datetimes; ``delay`` in seconds until the next attempt, or
    None. ``traceback``: where it raised, line by line, the application's frames first, masked, as long as it is kept;
    ``log``: what its code logged, in the same way.
    """

    n: int
    state: AttemptState
    owner: str | None
    owner_host: str | None
    owner_pid: int | None
    began_at: datetime
    ended_at: datetime | None
    error: str | None
    category: str | None
    delay: float | None
    traceback: tuple[str, ...] = ()
    log: tuple[str, ...] = ()

    @property
    def raised_at(self) -> str:
        """File and line where the application raised, as ``shop.py:12``; empty where nobody knows."""
        first = next((line for line in self.traceback if line.startswith("  ")), "")
        if not first.startswith("  at "):
            return ""
        return first.removeprefix("  at ").partition(" in ")[0].replace("\\", "/").rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class UndoView:
    """The saga step of a stage: what its undo is called and how it stands. ``waiting_for``: what the undo waits for, or
    None; ``wake_at``: until when, at the latest.
    """

    name: str
    state: StepState
    error: str | None
    attempts: tuple[AttemptView, ...]
    key: str
    waiting_for: WaitingFor | None = None
    wake_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ApprovalView:
    """What somebody is, or was, asked to approve. ``digest``: of ``content``, to which the approval is bound;
    ``approvers``: who may approve, empty where anybody may. ``decision``: ``approved``, ``denied``, or None.
    ``open``: the run has not gone on with it, nor past it.
    """

    stage: str
    number: int
    content: Any
    digest: str
    approvers: tuple[str, ...]
    asked_at: datetime
    decision: str | None = None
    actor: str | None = None
    authenticated: bool = False
    reason: str | None = None
    decided_at: datetime | None = None
    open: bool = True


@dataclass(frozen=True, slots=True)
class StepView:
    """A saved step of a stage, or a tool's call. ``number``: in the order in which they came; ``key``: by which it is
    found again, or None. ``tool``: whether it is a tool's; ``arguments``: its arguments then. ``attempt``: which wrote
    it last. ``saved_at``: when its result was saved, None: it is not known whether it was made. ``undoable``: it is
    undone when its stage is, or was at ``undone_at``.
    """

    number: int
    name: str
    key: str | None
    tool: bool
    arguments: Any
    attempt: int
    result: Any
    saved_at: datetime | None
    undoable: bool
    undone_at: datetime | None


@dataclass(frozen=True, slots=True)
class StageView:
    """One stage of a run. ``key`` is the idempotency key that its action uses; ``tries`` counts what the retry policy
    counts; ``on_unknown`` is what the stage wants when its process was lost. ``waiting_for``: what it waits for, or
    None; ``wake_at``: until when, at the latest. ``item``: 0, or which of the stage's items this is. ``approval``: what
    was asked last, of a stage that asks. ``steps``: what its body has saved.
    """

    name: str
    kind: str
    state: StageState
    after: tuple[str, ...]
    pivot: bool
    tries: int
    lost: int
    max_attempts: int | None
    key: str
    output: Any
    error: str | None
    wake_at: datetime | None
    attempts: tuple[AttemptView, ...]
    undo: UndoView | None
    progress: Any = None
    on_unknown: str = "retry"
    waiting_for: WaitingFor | None = None
    item: int = 0
    approval: ApprovalView | None = None
    steps: tuple[StepView, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenedApproval:
    """What whoever opens an approval sees: the stage with what it asks for (``stage.approval``; None where the run has
    not come there), and who they are (``actor``). ``expires_at``: until when the link may be used by which they did;
    None: they signed in.
    """

    run_id: str
    pipeline: str
    stage: StageView
    actor: str
    expires_at: datetime | None
    status: RunStatus


@dataclass(frozen=True, slots=True)
class AwaitedWorker:
    """A process that was lost in ``stage`` and may act for it until somebody confirms that it has ended."""

    owner: str
    host: str
    pid: int
    stage: str


class WaitKind(StrEnum):
    """What a run waits for. ``retry`` and ``sleep``: a time. ``signal``, ``approval``, ``callback``: somebody's word.
    ``limit``: its turn. ``child``: a run that it started. ``items``: those of its stage. ``worker``: one that knows it
    and serves its queue; ``end``: the confirmed end of one, or the time from which it cannot act any more. ``message``:
    a worker that takes its message. ``person``: a decision.
    """

    RETRY = "retry"
    SLEEP = "sleep"
    SIGNAL = "signal"
    APPROVAL = "approval"
    CALLBACK = "callback"
    LIMIT = "limit"
    CHILD = "child"
    ITEMS = "items"
    WORKER = "worker"
    END = "end"
    MESSAGE = "message"
    PERSON = "person"


@dataclass(frozen=True, slots=True)
class Wait:
    """Why something of a run does not move. ``stage``: which; ``until``: when it goes on at the latest, or None: no
    time is set; ``since``: from when on. ``text``: all of it in a sentence; ``fix``: what to do, or None: nothing,
    it goes on by itself or somebody's word is awaited. ``queue``: where its message is, if a worker is to take it.
    """

    kind: WaitKind
    stage: str | None
    until: datetime | None
    since: datetime | None
    text: str
    fix: str | None = None
    queue: str | None = None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run as one line of a list. ``missing``: why no live worker can carry it now; None: one can, it waits for
    something else, or nobody has looked (only a run in full and ``runs(attention=True)`` do). ``awaits``: processes for
    whose confirmed end an undo of it waits; likewise. ``waits_for``: what its rows say, soonest first; empty where
    something of it may go on, or nobody has looked. ``waits``: the same in full, of each part that does not run, what
    is soonest due first. ``parent``: the run that started it, or None. ``approval``: what it asks for, in a list of
    what needs a person. ``erased_at``: when its values were erased, or None.
    """

    run_id: str
    pipeline: str
    version: str
    client_id: str
    key: str | None
    status: RunStatus
    phase: Phase
    cause: Cause | None
    park_reason: ParkReason | None
    error: str | None
    error_stage: str | None
    op_version: int
    pivot_passed: bool
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    deadline: datetime | None
    awaits: tuple[AwaitedWorker, ...] = field(default=(), kw_only=True)
    missing: Missing | None = field(default=None, kw_only=True)
    waits_for: tuple[WaitingFor, ...] = field(default=(), kw_only=True)
    parent: str | None = field(default=None, kw_only=True)
    waits: tuple[Wait, ...] = field(default=(), kw_only=True)
    approval: ApprovalView | None = field(default=None, kw_only=True)
    erased_at: datetime | None = field(default=None, kw_only=True)

    @property
    def waiting_for(self) -> WaitingFor | None:
        """Why it does not move: what it waits for first; None: it does, or is at rest. ``worker``: one that knows this
        run and serves its queue, or the confirmed end of one.
        """
        if self.missing is not None or self.awaits:
            return WaitingFor.WORKER
        return next(iter(self.waits_for), None)


@dataclass(frozen=True, slots=True)
class Erasure:
    """That a run's values were erased for good: when (an aware datetime), by whom, and why."""

    at: datetime
    actor: str
    reason: str

    def __str__(self) -> str:
        return f"its values were erased at {self.at:%Y-%m-%d %H:%M} UTC by {self.actor}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Run(RunSummary):
    """A run in full: summary, input, metadata, attributes, and stages in the order of the graph. ``erased``: that its
    values were; then there are no input, outputs, errors and attributes.
    """

    input: Any
    metadata: Mapping[str, Any]
    stages: tuple[StageView, ...]
    attributes: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    erased: Erasure | None = field(default=None, kw_only=True)

    def stage(self, name: str) -> StageView:
        """The stage of that name. Raises KeyError."""
        return next((stage for stage in self.stages if stage.name == name), None) or _no_stage(self, name)


def _no_stage(run: Run, name: str) -> StageView:
    raise KeyError(f"run {run.run_id} has no stage {name!r}; it has: {', '.join(stage.name for stage in run.stages)}")


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a run's history, oldest first; ``seq`` counts without gaps from 1. ``item``: 0, or the item whose
    history it is.
    """

    run_id: str
    seq: int
    type: str
    at: datetime
    data: Mapping[str, Any]
    item: int = 0


@dataclass(frozen=True, slots=True)
class Revealed:
    """A run's values as they are, secrets among them. ``outputs``: what each stage has saved, by name."""

    run_id: str
    input: Any = field(repr=False)
    metadata: Any = field(repr=False)
    outputs: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SignalReceipt:
    """A signal that a run has taken. ``number`` counts those for the wait ``name`` from 1; ``received_at``: an aware
    datetime; ``replayed``: it had come before, under its key.
    """

    run_id: str
    name: str
    number: int
    received_at: datetime
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class CallbackReceipt:
    """What a stage was told by its callback URL. ``received_at``: an aware datetime; ``replayed``: the same had come
    before.
    """

    run_id: str
    stage: str
    received_at: datetime
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A process that owns, or owned, work. ``alive`` by the database's clock: its lease, ``expires_at``, holds.

    ``ended_at``: when it was declared dead; None: it was not, though its lease may have run out. ``confirmed``: it
    ended by itself, or was seen to end; without it nobody knows more than that its lease ran out.
    """

    owner: str
    host: str
    pid: int
    alive: bool
    started_at: datetime
    expires_at: datetime
    running: tuple[str, ...]
    """``run_id/stage`` each."""
    ended_at: datetime | None = None
    confirmed: bool = False
    engine: str | None = None
    broker: str | None = None
    queues: tuple[str, ...] = ()
    pipelines: tuple[str, ...] = ()
    """``name v1`` each. All four are empty for a worker of an older release, which does not say."""
    confirmed_by: str | None = None
    """Its parent, itself, another process of its host, or the person who said so."""
    awaited: bool = False
    """Whether undos may wait until its end is confirmed."""


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What one recovery sweep did: counts, and the runs it could not handle (id: why). ``released``: runs of which an
    undo waited for the end of a process that is confirmed. ``repaired``: runs that nothing would ever have moved.
    """

    owners_dead: int = 0
    taken: int = 0
    woken: int = 0
    nudged: int = 0
    deadlines: int = 0
    problems: tuple[str, ...] = ()
    released: int = 0
    repaired: int = 0
