"""What a person may do to a run. Each verb checks the ``op_version`` that the person saw, and raises the fences.

A verb that meets a changed run raises OperatorConflict; one that the run's state does not allow raises NotAllowed with
the reason, by the rules of :mod:`stageflow_durable.model.verbs`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stageflow_durable.codec import encode
from stageflow_durable.errors import NotAllowed, OperatorConflict
from stageflow_durable.model.stage_state import stage_state
from stageflow_durable.model.status import (
    OPEN_STEPS,
    AttemptState,
    Cause,
    ParkReason,
    Phase,
    RunStatus,
    StepState,
    StrandState,
)
from stageflow_durable.model.verbs import (
    ERASED_WHY,
    TURNING_BACK,
    StageStanding,
    Standing,
    VerbName,
    refusal,
    standing_of,
)
from stageflow_durable.saga.decide import undone
from stageflow_durable.transitions.again import stand_again
from stageflow_durable.transitions.change import Change, FenceUndos, KeyEnd
from stageflow_durable.transitions.draft import AWAKE, NO_ITEM, Draft
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.finish import advance
from stageflow_durable.transitions.resolve import end, go_backward, set_activity, stop, withdraw_pivot
from stageflow_durable.transitions.rows import OF_A_STAGE, StrandRow


@dataclass(frozen=True, slots=True)
class Order:
    """What a person asks for, who and why, and which version of the run they looked at (None: any). ``skip``: stages
    whose undo is given up. ``authenticated``: whether it is known that ``actor`` is who they say.
    """

    run_id: str
    verb: str
    reason: str
    actor: str
    op_version: int | None = None
    past_pivot: bool = False
    skip: tuple[str, ...] = ()
    authenticated: bool = False


def _ordered(facts: Facts, order: Order) -> Draft:
    if order.op_version is not None and facts.run.op_version != order.op_version:
        raise OperatorConflict(order.run_id, order.verb)
    draft = Draft(facts)
    draft.change(op_version=facts.run.op_version + 1)
    _note(draft, order, past_pivot=order.past_pivot)
    return draft


def _note(draft: Draft, order: Order, **more: Any) -> None:
    known = {"authenticated": True} if order.authenticated else {}
    draft.emit(f"operator.{order.verb}", actor=order.actor, **known, reason=order.reason, **more)


def _permit(draft: Draft, order: Order, stage: str | None = None) -> None:
    """Raise NotAllowed if the rules refuse the verb."""
    why = refusal(VerbName(order.verb), _standing(draft), stage=stage, past_pivot=order.past_pivot)
    if why is not None:
        raise NotAllowed(draft.id, order.verb, why)


def _standing(draft: Draft) -> Standing:
    run = draft.run
    stages = []
    for planned in draft.plan.stages:
        strand = next(
            (r for r in draft.strands.values() if (r.stage, r.direction) == (planned.name, Phase.FORWARD)), None
        )
        ended = [r for r in draft.attempts if r.key[:3] == (planned.name, NO_ITEM, Phase.FORWARD)]
        last = AttemptState(ended[-1].state) if ended else None
        if strand is not None and strand.state == StrandState.RUNNING and not (ended and ended[-1].n >= strand.attempt):
            last = AttemptState.RUNNING
        step = None if planned.undo is None else draft.steps.get(planned.name, StepState.VOID)
        state = stage_state(
            run.phase,
            run.status,
            skipped=draft.saved.get(planned.name),
            strand=None if strand is None else StrandState(strand.state),
            last_attempt=last,
            step=step,
            unanswered=planned.takes_answers and run.error_stage == planned.name,
        )
        stages.append(
            StageStanding(planned.name, state, planned.on_unknown, planned.undo, step, last is AttemptState.WAITING)
        )
    flags = {"pivot_passed": run.pivot_passed, "erased": run.erased_at is not None}
    return standing_of(run.id, run.status, run.park_reason, run.error_stage, stages, **flags)


# --- stop, undo -------------------------------------------------------------------------------------------------------


def cancel(facts: Facts, order: Order) -> Change:
    """Stop the run; completed work is undone. A run that is stopping already is left alone."""
    draft = _ordered(facts, order)
    run = draft.run
    if run.status not in TURNING_BACK:
        _permit(draft, order)
        _turn(draft, Cause.CANCELLED, order)
    elif run.phase is Phase.DRAINING and run.park_reason not in (None, ParkReason.UNKNOWN):
        draft.change(cause=Cause.CANCELLED, park_reason=None)  # instead of being parked: the person decided
    return draft.done()


def compensate(facts: Facts, order: Order) -> Change:
    """Undo what the run did, or try failed undos again; undos in ``order.skip`` are given up, recorded as skipped."""
    draft = _ordered(facts, order)
    _permit(draft, order)
    _skip(draft, order)
    if draft.run.status is RunStatus.COMPENSATION_FAILED:
        _try_undos_again(draft)
    else:
        _turn(draft, Cause.OPERATOR, order)
    return draft.done()


_SKIPPABLE = OPEN_STEPS | {StepState.COMPENSATION_FAILED}


def _skip(draft: Draft, order: Order) -> None:
    if not order.skip:
        return
    if draft.run.phase is not Phase.SETTLED:
        raise NotAllowed(draft.id, "skip", "it is not at rest; what is being done or undone cannot be given up")
    owed = sorted(name for name, state in draft.steps.items() if state in _SKIPPABLE)
    for stage in order.skip:
        if stage not in owed:
            listed = ", ".join(owed) or "none"
            raise NotAllowed(draft.id, "skip", f"no undo of a stage {stage!r} is owed; owed are those of: {listed}")
        draft.set_step(stage, StepState.SKIPPED, reason=order.reason)
        draft.emit("undo.skipped", stage=stage, actor=order.actor, reason=order.reason)


def _turn(draft: Draft, cause: Cause, order: Order) -> None:
    """Stop the run for ``cause``, in whatever phase it is."""
    run = draft.run
    draft.change(past_pivot=order.past_pivot or run.past_pivot)
    if run.phase is not Phase.SETTLED:
        stop(draft, cause, error=order.reason)
        return
    draft.change(phase=Phase.FORWARD, status=RunStatus.RUNNING, park_reason=None, finished_at=None)
    stop(draft, cause, error=run.error or order.reason, stage=run.error_stage)


def _try_undos_again(draft: Draft) -> None:
    for stage, state in sorted(draft.steps.items()):  # a store gives them in any order
        if state is StepState.COMPENSATION_FAILED:
            draft.set_step(stage, StepState.RECORDED if stage in draft.saved else StepState.INTENDED)
    # Fenced against owners and messages from before. All at once: later undos open without a person.
    for row in tuple(draft.strands.values()):
        if row.direction == Phase.BACKWARD:
            draft.set_strand(row.strand, gen=row.gen + 1)
    if draft.groups:
        draft.do(FenceUndos())
    go_backward(draft)
    over = undone(draft.steps)
    if over is not None:  # what was left was given up
        end(draft, over.status)
    for row in _halted(draft):
        _revive(draft, row)


def _halted(draft: Draft) -> list[StrandRow]:
    """Undos that had begun when the failure of another one halted them."""
    return [
        row
        for row in draft.strands.values()
        if row.state == StrandState.REST
        and row.direction == Phase.BACKWARD
        and draft.steps.get(row.stage) is StepState.COMPENSATING
    ]


# --- go on ------------------------------------------------------------------------------------------------------------


def resume(facts: Facts, order: Order) -> Change:
    """Let a run that is parked, failed or cancelled go forward again from its last checkpoints."""
    draft = _ordered(facts, order)
    _permit(draft, order)
    _go_forward(draft)
    set_activity(draft)
    return draft.done()


def _go_forward(draft: Draft, but: str | None = None) -> None:
    """Let the run go forward again, with every strand at rest except ``but``, which the caller advances."""
    run = draft.run
    if run.deadline is not None and run.deadline <= draft.clock:
        # Else the next sweep would stop the run again for the deadline that had passed when the person decided.
        draft.emit("run.deadline_lifted", deadline=run.deadline)
        draft.change(deadline=None)
    draft.change(
        phase=Phase.FORWARD,
        status=RunStatus.RUNNING,
        cause=None,
        error=None,
        error_stage=None,
        park_reason=None,
        finished_at=None,
    )
    for row in _at_rest(draft):
        if row.strand != but:
            _revive(draft, row)


def _at_rest(draft: Draft) -> list[StrandRow]:
    return [row for row in draft.strands.values() if row.state == StrandState.REST and row.direction == Phase.FORWARD]


def _revive(draft: Draft, row: StrandRow) -> None:
    draft.set_strand(
        row.strand,
        state=StrandState.READY,
        gen=row.gen + 1,  # fenced against messages and owners from before the person's decision
        published_at=draft.clock,
        **OF_A_STAGE,
        **AWAKE,
    )
    stand_again(draft, row)


# --- an unknown outcome that a person found out -----------------------------------------------------------------------


def settle(facts: Facts, order: Order, stage: str, delta: str | None) -> Change:
    """Record what a person found out about a stage in doubt: done, with its output as ``delta``, or not done (None).

    Then the run goes on, unless another stage is in doubt and has to be settled first.
    """
    draft = _ordered(facts, order)
    row = _doubtful(draft, order, stage)
    draft.clear_doubt(stage)
    draft.set_strand(row.strand, gen=row.gen + 1)
    row = draft.strand(row.strand)
    draft.emit("stage.settled", stage=stage, done=delta is not None, actor=order.actor)
    if delta is None:
        _not_done(draft, stage)
    else:
        _found_done(draft, stage, delta)
    left = _standing(draft).undecided
    if left:
        _stay(draft, row, stage, left[0], done=delta is not None)
    elif delta is None:
        _go_forward(draft)
    else:
        _go_forward(draft, but=row.strand)
        advance(draft, row.strand, stage)
    set_activity(draft)
    return draft.done()


def _doubtful(draft: Draft, order: Order, stage: str) -> StrandRow:
    if stage not in draft.plan.by_name:
        raise NotAllowed(draft.id, order.verb, f"it has no stage {stage!r}; it has: {', '.join(draft.plan.by_name)}")
    _permit(draft, order, stage)
    row = next((row for row in _at_rest(draft) if row.stage == stage), None)
    if row is None or not draft.in_doubt(stage):
        raise NotAllowed(draft.id, order.verb, f"the outcome of {stage!r} is not in doubt")
    return row


def _not_done(draft: Draft, stage: str) -> None:
    planned = draft.plan.by_name[stage]
    if planned.undo is not None and not draft.owes_calls(stage):
        draft.set_step(stage, StepState.VOID)
    if planned.pivot:
        withdraw_pivot(draft, stage)


def _found_done(draft: Draft, stage: str, delta: str) -> None:
    schema = draft.facts.newest.schema  # people give the output in the newest shape
    draft.save(stage, delta, schema=schema)
    for key in draft.facts.keys:
        if key.stage == stage:
            draft.end_key(key, KeyEnd.FINISHED, delta, schema)
    if draft.plan.by_name[stage].undo is not None:
        draft.set_step(stage, StepState.RECORDED)


def _stay(draft: Draft, row: StrandRow, stage: str, other: str, *, done: bool) -> None:
    """Stay at rest, because the ``other`` stage is still in doubt; stages after one that was done rest as well."""
    before = draft.run
    if done:
        draft.change(phase=Phase.FORWARD)
        advance(draft, row.strand, stage)
        draft.rest_idle()
        draft.publish_nothing()
    draft.change(phase=before.phase, status=before.status, error_stage=other)


# --- look -------------------------------------------------------------------------------------------------------------


def reveal(facts: Facts, order: Order) -> Change:
    """Note that somebody is shown a run's values as they are. The run itself stays as it is."""
    draft = Draft(facts)
    _note(draft, order)
    return draft.done()


def require_values(facts: Facts, verb: str) -> None:
    """Raise NotAllowed for a run whose values were erased."""
    if facts.run.erased_at is not None:
        raise NotAllowed(facts.run.id, verb, ERASED_WHY)


# --- erase ------------------------------------------------------------------------------------------------------------

NOTHING, NO_METADATA = encode(None), encode({})
"""What stands in the place of an erased input, and of erased metadata."""

KEPT_DIGITS = 4
"""Hexadecimal digits of the fingerprint of erased parameters that stay: enough to tell other parameters apart, too few
to find out by them what they were.
"""


def erase(facts: Facts, order: Order, problems: Callable[[], Sequence[str]]) -> Change:
    """Take from the run's row what it was given and why it failed; the store does the same with its other rows and its
    history. Its key stays taken: of the fingerprint so much is kept that other parameters are still told apart.

    ``problems``: what the audit finds wrong now; it is noted, since nobody can find it out afterwards.
    """
    if order.op_version is not None and facts.run.op_version != order.op_version:
        raise OperatorConflict(order.run_id, order.verb)
    draft = Draft(facts)
    _permit(draft, order)
    run, found = draft.run, [*problems()]
    draft.change(
        input=NOTHING,
        metadata=NO_METADATA,
        fingerprint=_shortened(run.fingerprint),
        error=None,
        erased_at=draft.clock,
        op_version=run.op_version + 1,
    )
    _note(draft, order, **({"problems": found} if found else {}))
    return draft.done()


def _shortened(fingerprint: str) -> str:
    version, colon, digits = fingerprint.rpartition(":")
    return f"{version}{colon}{digits[:KEPT_DIGITS]}"
