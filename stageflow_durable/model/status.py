"""States of runs, stages and saga steps, and the moves between them.

The tables of transitions stand three times: here, as CHECK constraints and as diagrams in
``docs/explanation/state-machine.md``; a test makes them agree. Semantics: ``docs/explanation/guarantees.md``.
"""

from __future__ import annotations

from enum import StrEnum


class RunStatus(StrEnum):
    """What a person sees of a run."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    STOPPING = "stopping"
    COMPENSATING = "compensating"
    PARKED = "parked"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    COMPENSATED = "compensated"
    COMPENSATION_FAILED = "compensation_failed"


class Phase(StrEnum):
    """Which way a run goes: forward, draining (nothing begins, running work comes to rest), backward (undo),
    settled.
    """

    FORWARD = "forward"
    DRAINING = "draining"
    BACKWARD = "backward"
    SETTLED = "settled"


class Cause(StrEnum):
    """Why a run did not simply succeed."""

    FAILED = "failed"
    CANCELLED = "cancelled"
    DEADLINE = "deadline"
    OPERATOR = "operator"
    STAGE = "stage"


class ParkReason(StrEnum):
    """What a person has to decide about a parked run."""

    UNKNOWN = "unknown"
    POISON = "poison"
    DEFINITION = "definition"
    BUG = "bug"
    OPERATOR = "operator"


class StrandState(StrEnum):
    """Activity of a strand; ``ready`` rows are the outbox."""

    READY = "ready"
    RUNNING = "running"
    WAITING = "waiting"
    REST = "rest"
    DONE = "done"


class WaitingFor(StrEnum):
    """What a waiting strand waits for, on its row. ``time``: its due time (a retry, a sleep). ``signal``, ``approval``:
    a person or a program. ``callback``: what its body has started outside. ``limit``: its turn, where others hold what
    it needs, a business key among them. ``child``: a run that it started. ``worker``: one that knows it, or the
    confirmed end of one. ``items``: the items of its stage.
    """

    TIME = "time"
    SIGNAL = "signal"
    LIMIT = "limit"
    CHILD = "child"
    APPROVAL = "approval"
    WORKER = "worker"
    ITEMS = "items"
    CALLBACK = "callback"


class AttemptState(StrEnum):
    """How an attempt stands or ended. ``waiting``: the body has returned, and what it started outside has not called
    back. ``void``: the body was never called. ``settled``: a person found out.
    """

    RUNNING = "running"
    OK = "ok"
    SKIPPED = "skipped"
    RETRY = "retry"
    FAILED = "failed"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    VOID = "void"
    SETTLED = "settled"
    WAITING = "waiting"


class StageState(StrEnum):
    """What a person sees of a stage; derived from rows, stored nowhere."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    OK = "ok"
    SKIPPED = "skipped"
    FAILED = "failed"
    UNKNOWN = "unknown"
    CANCELLED = "cancelled"
    UNDONE = "undone"


class StepState(StrEnum):
    """A saga step: intended before the action, recorded after it, void when nothing can have happened."""

    INTENDED = "intended"
    RECORDED = "recorded"
    VOID = "void"
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
    SKIPPED = "skipped"
    COMPENSATION_FAILED = "compensation_failed"


OPEN_STEPS = frozenset({StepState.INTENDED, StepState.RECORDED, StepState.COMPENSATING})
"""Steps whose undo is still owed once a run goes backward."""

TERMINAL = frozenset(
    {RunStatus.SUCCEEDED, RunStatus.COMPENSATED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.COMPENSATION_FAILED}
)
"""Statuses that no automatic work leaves (``parked`` is at rest too, but waits for a decision)."""

AT_REST = TERMINAL | {RunStatus.PARKED}

_R = RunStatus
RUN_TRANSITIONS: dict[RunStatus, frozenset[RunStatus]] = {
    _R.PENDING: frozenset({_R.RUNNING, _R.WAITING, _R.PARKED, _R.SUCCEEDED, _R.CANCELLED}),
    _R.RUNNING: frozenset({_R.WAITING, _R.STOPPING, _R.COMPENSATING, _R.PARKED, _R.SUCCEEDED, _R.FAILED, _R.CANCELLED}),
    _R.WAITING: frozenset({_R.RUNNING, _R.STOPPING, _R.COMPENSATING, _R.PARKED, _R.SUCCEEDED, _R.FAILED, _R.CANCELLED}),
    _R.STOPPING: frozenset({_R.COMPENSATING, _R.PARKED, _R.SUCCEEDED, _R.FAILED, _R.CANCELLED}),
    _R.COMPENSATING: frozenset({_R.COMPENSATED, _R.COMPENSATION_FAILED}),
    # From here on only a person moves a run.
    _R.PARKED: frozenset({_R.PENDING, _R.RUNNING, _R.WAITING, _R.COMPENSATING, _R.CANCELLED, _R.SUCCEEDED}),
    _R.FAILED: frozenset({_R.RUNNING, _R.WAITING, _R.COMPENSATING, _R.SUCCEEDED}),
    _R.CANCELLED: frozenset({_R.RUNNING, _R.WAITING, _R.COMPENSATING, _R.SUCCEEDED}),
    _R.COMPENSATION_FAILED: frozenset({_R.COMPENSATING, _R.COMPENSATED}),
    _R.SUCCEEDED: frozenset(),
    _R.COMPENSATED: frozenset(),
}

_S = StepState
STEP_TRANSITIONS: dict[StepState, frozenset[StepState]] = {
    _S.INTENDED: frozenset({_S.RECORDED, _S.VOID, _S.COMPENSATING, _S.SKIPPED}),
    _S.RECORDED: frozenset({_S.COMPENSATING, _S.SKIPPED}),
    _S.VOID: frozenset({_S.INTENDED}),
    _S.COMPENSATING: frozenset({_S.COMPENSATED, _S.COMPENSATION_FAILED, _S.SKIPPED}),
    _S.COMPENSATION_FAILED: frozenset({_S.RECORDED, _S.INTENDED, _S.SKIPPED}),
    _S.COMPENSATED: frozenset(),
    _S.SKIPPED: frozenset({_S.INTENDED}),
}
