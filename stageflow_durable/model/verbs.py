"""What a person may do to a run now, and what to type for it.

One set of rules for both sides: ``stageflow show`` ends with :func:`allowed_verbs`, and the engine's operators refuse
by :func:`refusal` inside the transaction that would act. Semantics: ``docs/explanation/guarantees.md``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from stageflow_durable.model.run import ApprovalView, Run
from stageflow_durable.model.status import (
    OPEN_STEPS,
    AttemptState,
    ParkReason,
    RunStatus,
    StageState,
    StepState,
    WaitingFor,
)

GOING_FORWARD = frozenset({RunStatus.PENDING, RunStatus.RUNNING, RunStatus.WAITING})
"""Active and not yet stopping: what a person can still cancel."""

TURNING_BACK = frozenset({RunStatus.STOPPING, RunStatus.COMPENSATING})
"""Already on the way to its end; nobody has to do anything."""

RESUMABLE = frozenset({RunStatus.PARKED, RunStatus.FAILED, RunStatus.CANCELLED})
"""At rest, with a way forward left."""

SETTLEABLE = frozenset({RunStatus.PARKED, RunStatus.FAILED})
"""At rest, and somebody may have found out what became of a stage."""

FINAL = frozenset({RunStatus.SUCCEEDED, RunStatus.COMPENSATED})
"""Nothing leaves these."""


ERASED_WHY = "its values were erased: there is nothing left to go on with, to undo with or to show; start a new run"
"""Why hardly any verb is allowed for a run whose values are gone."""

SHOWN_DIGEST = 12
"""How much of a digest people see and type."""


class VerbName(StrEnum):
    """The verbs that change a run."""

    CANCEL = "cancel"
    RESUME = "resume"
    COMPENSATE = "compensate"
    SETTLE = "settle"
    ERASE = "erase"


APPLICABLE: dict[VerbName, frozenset[RunStatus]] = {
    VerbName.CANCEL: GOING_FORWARD | {RunStatus.PARKED},
    VerbName.RESUME: RESUMABLE,
    VerbName.COMPENSATE: GOING_FORWARD | RESUMABLE | {RunStatus.COMPENSATION_FAILED},
    VerbName.ERASE: frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.COMPENSATED}),
}
"""Statuses in which a verb may be allowed; a filter leaves the others out."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The facts that decide which verbs are allowed.

    ``owed``: names of the undos that are still open, in the order in which they would run. ``failed_undos``: names of
    those that failed for good. ``unknown``: stages whose outcome nobody knows. ``failed``: stages that failed: with an
    error that says nothing about what happened, they may have acted all the same. ``undecided``: of the unknown ones
    those that must not be tried again before somebody found out. ``complete``: whether every stage is done. ``erased``:
    whether its values are gone.
    """

    run_id: str
    status: RunStatus
    park_reason: ParkReason | None = None
    pivot_passed: bool = False
    owed: tuple[str, ...] = ()
    failed_undos: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()
    complete: bool = False
    erased: bool = False


@dataclass(frozen=True, slots=True)
class Verb:
    """One allowed command.

    ``name``: a :class:`VerbName`; ``fork``, which changes nothing of its run; ``signal``, ``approve`` or ``deny``.
    ``arguments`` is what follows ``stageflow``, with ``…`` where a person fills in; ``effect`` says what it does.
    """

    name: str
    arguments: tuple[str, ...]
    effect: str
    stage: str | None = None

    @property
    def command(self) -> str:
        """The line to type."""
        return " ".join(("stageflow", *self.arguments))


class StageStanding(NamedTuple):
    """What the rules look at of one stage. ``undo``: the name of its undo, and how its saga step stands; None where it
    has none. ``waits``: for its callback, when the run was stopped.
    """

    name: str
    state: StageState
    on_unknown: str
    undo: str | None
    step: StepState | None
    waits: bool = False


def standing(run: Run) -> Standing:
    """The facts about ``run`` that the rules look at."""
    stages = [
        StageStanding(
            stage.name,
            stage.state,
            stage.on_unknown,
            stage.undo.name if stage.undo else None,
            stage.undo.state if stage.undo else None,
            bool(stage.attempts) and stage.attempts[-1].state is AttemptState.WAITING,
        )
        for stage in run.stages
    ]
    flags = {"pivot_passed": run.pivot_passed, "erased": run.erased_at is not None}
    return standing_of(run.run_id, run.status, run.park_reason, run.error_stage, stages, **flags)


def standing_of(
    run_id: str,
    status: RunStatus,
    park_reason: ParkReason | None,
    error_stage: str | None,
    stages: Sequence[StageStanding],
    *,
    pivot_passed: bool,
    erased: bool = False,
) -> Standing:
    """The same from rows. ``stages`` in the order of the plan; ``error_stage``: the one the run was stopped for."""
    parked_for = error_stage if park_reason is ParkReason.UNKNOWN else None
    unknown = [
        stage
        for stage in stages
        # Lost with their process, or a pivot that raised and parked the run.
        if stage.state is StageState.UNKNOWN or (stage.name, stage.state) == (parked_for, StageState.FAILED)
    ]
    return Standing(
        run_id,
        status,
        park_reason,
        pivot_passed,
        _undos(stages, OPEN_STEPS),
        _undos(stages, frozenset({StepState.COMPENSATION_FAILED})),
        tuple(stage.name for stage in unknown),
        tuple(stage.name for stage in stages if stage.state is StageState.FAILED),
        # Those that must not be tried again as they are: that say so, and the one the run is parked for.
        # One that waits for its callback goes on waiting, and is not tried again.
        tuple(
            stage.name
            for stage in unknown
            if (stage.on_unknown != "retry" and not stage.waits) or stage.name == parked_for
        ),
        all(stage.state in (StageState.OK, StageState.SKIPPED) for stage in stages),
        erased,
    )


def unknown_stages(run: Run) -> tuple[str, ...]:
    """Stages whose outcome nobody knows."""
    return standing(run).unknown


def _undos(stages: Sequence[StageStanding], states: frozenset[StepState]) -> tuple[str, ...]:
    return tuple(stage.undo for stage in reversed(stages) if stage.undo is not None and stage.step in states)


# --- the rules ------------------------------------------------------------------------------------------------------


def refusal(verb: VerbName, facts: Standing, *, stage: str | None = None, past_pivot: bool = False) -> str | None:
    """Why ``verb`` is not allowed now, with the way out; None when it is.

    ``stage``: the one to settle. ``past_pivot``: the person said that undoing past the pivot is meant.
    """
    if verb is VerbName.ERASE:
        return _erase_refusal(facts)
    if facts.status in FINAL or facts.erased:
        return ERASED_WHY if facts.erased else f"it has {facts.status}, and nothing leaves that"
    if verb is VerbName.CANCEL:
        return _cancel_refusal(facts, past_pivot)
    if verb is VerbName.RESUME:
        return _resume_refusal(facts)
    return _settle_refusal(facts, stage) if verb is VerbName.SETTLE else _compensate_refusal(facts, past_pivot)


def _erase_refusal(facts: Standing) -> str | None:
    """As ``prune`` does, it leaves alone what a person has to look at, and what goes."""
    way_out = f"stageflow cancel {facts.run_id} --reason …"
    if facts.status is RunStatus.PARKED:
        return f"it is parked: whoever decides about it needs its values, and so do its undos. End it first: {way_out}"
    if facts.status is RunStatus.COMPENSATION_FAILED:
        again = f"stageflow compensate {facts.run_id} [--skip STAGE] --reason …"
        return f"undos of it failed, and need its values. Try them again first, or give them up: {again}"
    if facts.status in GOING_FORWARD:
        return f"it is {facts.status}, and its stages need its values. Wait until it has ended, or: {way_out}"
    if facts.status in TURNING_BACK:
        return f"it is {facts.status}, and its undos need its values. Wait until it has ended"
    return None


def _cancel_refusal(facts: Standing, past_pivot: bool = False) -> str | None:
    if facts.status in TURNING_BACK:
        return f"it is {facts.status} already"
    if facts.status not in GOING_FORWARD | {RunStatus.PARKED}:
        return f"it has ended: {facts.status}"
    if facts.pivot_passed and not past_pivot:
        return "its pivot has begun, it only goes forward; to stop and undo it all the same, say --past-pivot"
    return None


def _resume_refusal(facts: Standing) -> str | None:
    if facts.status in GOING_FORWARD:
        return f"it is {facts.status}, there is nothing to resume"
    if facts.status not in RESUMABLE:
        return f"it is {facts.status}: its work is being undone, or was; start over with a new run"
    if facts.complete:
        return "all its stages are done, there is nothing left to go forward to"
    undecided = facts.undecided or (facts.unknown if facts.park_reason is ParkReason.UNKNOWN else ())
    if not undecided:
        return None
    way_out = f"find out, then: stageflow settle {facts.run_id} {undecided[0]} --done … | --not-done"
    if facts.status not in SETTLEABLE:
        way_out = "find out, and start over with a new run"
    return f"the outcome of {', '.join(undecided)} is unknown; {way_out}"


def _settle_refusal(facts: Standing, stage: str | None) -> str | None:
    if facts.status not in SETTLEABLE:
        return f"it is {facts.status}; only a parked or failed run waits for somebody to find out"
    if stage is not None and stage not in facts.unknown + facts.failed:
        return f"the outcome of {stage} is not unknown; unknown are: {', '.join(facts.unknown) or 'none'}"
    return None if facts.unknown + facts.failed else "no stage of it has an unknown outcome"


def _compensate_refusal(facts: Standing, past_pivot: bool) -> str | None:
    if facts.status in TURNING_BACK:
        return f"it is {facts.status} already"
    if facts.pivot_passed and not past_pivot:
        return "its pivot has begun; to undo it all the same, say --past-pivot"
    if facts.status is RunStatus.COMPENSATION_FAILED:
        return None if facts.failed_undos or facts.owed else "none of its undos is left to try again"
    return None if facts.owed else _nothing_owed(facts)


def _nothing_owed(facts: Standing) -> str:
    way_out = f"; to end it: stageflow cancel {facts.run_id} --reason …" if _cancel_refusal(facts) is None else ""
    return f"it has done nothing that has an undo{way_out}"


# --- the lines to type ----------------------------------------------------------------------------------------------


def allowed_verbs(run: Run, *, shown_id: str | None = None) -> tuple[Verb, ...]:
    """The commands worth typing for ``run`` now, the most careful first; of two that come to the same, the plainer one.

    ``shown_id``: the prefix to print instead of the whole id.
    """
    facts, ref = standing(run), shown_id or run.run_id
    found = [
        verb
        for name in facts.unknown
        if refusal(VerbName.SETTLE, facts, stage=name) is None
        for verb in _settle(ref, name)
    ]
    found += [_signal(ref, stage.name) for stage in run.stages if stage.waiting_for is WaitingFor.SIGNAL]
    for stage in run.stages:
        if stage.waiting_for is WaitingFor.APPROVAL and stage.approval is not None:
            found += _decide(ref, stage.approval)
    if refusal(VerbName.RESUME, facts) is None:
        found.append(Verb(VerbName.RESUME, ("resume", ref, *_REASON), _resume_effect(run)))
    if refusal(VerbName.CANCEL, facts) is None and not (facts.status is RunStatus.PARKED and facts.owed):
        found.append(Verb(VerbName.CANCEL, ("cancel", ref, *_REASON), _cancel_effect(facts)))
    if facts.status not in GOING_FORWARD and refusal(VerbName.COMPENSATE, facts, past_pivot=True) is None:
        found.append(_compensate(ref, facts))
        found += [_skip(ref, stage, facts) for stage in failed_undo_stages(run)]
    if not facts.erased and (fork_from := _forked_from(run)) is not None:
        found.append(_fork(ref, fork_from))
    return tuple(found)


_REASON = ("--reason", "…")


def _settle(ref: str, stage: str) -> tuple[Verb, Verb]:
    line = ("settle", ref, stage)
    return (
        Verb(VerbName.SETTLE, (*line, "--done", "'{…}'", *_REASON), "it happened: its output", stage),
        Verb(VerbName.SETTLE, (*line, "--not-done", *_REASON), "it did not: it is tried again", stage),
    )


def _signal(ref: str, stage: str) -> Verb:
    return Verb("signal", ("signal", ref, stage, "--payload", "'{…}'", *_REASON), "what it waits for", stage)


def _decide(ref: str, asked: ApprovalView) -> Iterator[Verb]:
    for name, effect in (("approve", "it goes on"), ("deny", "it does not")):
        line = (name, ref, asked.stage, "--digest", asked.digest[:SHOWN_DIGEST], *_REASON)
        yield Verb(name, line, effect, asked.stage)


def _compensate(ref: str, facts: Standing) -> Verb:
    undone = ", ".join((*facts.failed_undos, *facts.owed))
    again = "tries again: " if facts.status is RunStatus.COMPENSATION_FAILED else ""
    past = ("--past-pivot",) if facts.pivot_passed else ()
    return Verb(VerbName.COMPENSATE, ("compensate", ref, *past, *_REASON), again + undone)


def failed_undo_stages(run: Run) -> tuple[str, ...]:
    """Stages whose undo failed for good."""
    return tuple(stage.name for stage in run.stages if stage.undo and stage.undo.state is StepState.COMPENSATION_FAILED)


def _skip(ref: str, stage: str, facts: Standing) -> Verb:
    past = ("--past-pivot",) if facts.pivot_passed else ()
    line = ("compensate", ref, "--skip", stage, *past, *_REASON)
    return Verb(VerbName.COMPENSATE, line, f"gives the undo of {stage} up, with your reason", stage)


def _forked_from(run: Run) -> str | None:
    """Where a fork of a run that has ended would begin: at its last stage, or at the first that is not done; None where
    that is refused (``transitions.fork``), or where the run itself is to be decided about first.
    """
    if run.status is RunStatus.SUCCEEDED and run.stages:
        return run.stages[-1].name
    if run.status not in (RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.COMPENSATED):
        return None
    behind: set[str] = set()
    for stage in run.stages:  # in the order of the graph
        if behind.intersection(stage.after) or (not behind and stage.state not in (StageState.OK, StageState.SKIPPED)):
            behind.add(stage.name)
    kept = [stage for stage in run.stages if stage.name not in behind]
    if not behind or any(stage.state not in (StageState.OK, StageState.SKIPPED, StageState.PENDING) for stage in kept):
        return None  # a branch beside it was undone, or is in doubt
    return next(stage.name for stage in run.stages if stage.name in behind)


def _fork(ref: str, stage: str) -> Verb:
    line = ("fork", ref, "--from", stage, *_REASON)
    return Verb("fork", line, f"a new run from {stage} on", stage)


def _cancel_effect(facts: Standing) -> str:
    return f"stops it, then undoes: {', '.join(facts.owed)}" if facts.owed else "stops it; nothing to undo"


def _resume_effect(run: Run) -> str:
    here = next((stage.name for stage in run.stages if stage.state not in (StageState.OK, StageState.SKIPPED)), None)
    return f"carries on at {here}" if here else "carries on"
