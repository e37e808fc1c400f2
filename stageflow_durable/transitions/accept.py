"""Accepting a run: its row is the record of the request, its strands are the outbox."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from stageflow_durable.model.attributes import Attributes
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import Phase, RunStatus, StrandState
from stageflow_durable.model.work import Hint, Nudge, RunFacts
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.draft import Draft
from stageflow_durable.transitions.facts import Facts, Part

GENESIS = "0" * 64
"""The head of a run that has no event yet: the first event names it as its predecessor."""


class NewRun(NamedTuple):  # a tuple: there may be a thousand of each in one call
    """A run that is to be created. ``input`` and ``metadata`` are encoded text; ``deadline`` in seconds since the
    epoch; ``repeats``: the caller chose its id, so an earlier call may have created the run already. ``actor``: who
    asked for the run, or None; ``requesters``: of a fork, who asked for its original and who forked it; its first event
    says so.
    """

    id: str
    client_id: str
    plan: Plan
    key: str | None
    fingerprint: str
    input: str
    metadata: str
    queue: str
    priority: int | None = None
    deadline: float | None = None
    repeats: bool = False
    attributes: Attributes = ()
    actor: str | None = None
    requesters: tuple[str, ...] = ()


class Origin(NamedTuple):
    """What a new run is forked from: the run and its stage, who wants it and why, the schema of its input, and the
    checkpoints that are copied, each as columns by name.
    """

    run_id: str
    stage: str
    actor: str
    reason: str
    input_schema: int
    saved: Mapping[str, Mapping[str, Any]]


def accept(new: NewRun, clock: float) -> Change:
    """A new run, each of its roots ready and published. ``clock``: in seconds since the epoch."""
    draft = _created(new, clock, new.plan.schema)
    _open(draft, new.plan.roots)
    return draft.done()._replace(nudges=first_nudges(new))


def fork(new: NewRun, clock: float, origin: Origin) -> Change:
    """A new run that begins with outputs of another. A stage is ready if its own output is not copied and those of all
    the stages it waits for are.
    """
    plan, saved = new.plan, origin.saved
    draft = _created(new, clock, origin.input_schema)
    for name, columns in saved.items():
        draft.copy_checkpoint(name, columns)
    if any(plan.by_name[name].pivot for name in saved):
        draft.change(pivot_passed=True)
    draft.emit(
        "run.forked",
        of=origin.run_id,
        stage=origin.stage,
        copied=sorted(saved),
        actor=origin.actor,
        reason=origin.reason,
    )
    heads = [stage.name for stage in plan.stages if stage.name not in saved and saved.keys() >= set(stage.after)]
    _open(draft, heads)
    for head in heads:
        draft.publish(head)
    return draft.done()


def first_nudges(new: NewRun, head: str = "") -> tuple[Nudge, ...]:
    """The messages of a new run: one for each strand that starts at once. ``head``: the code of its first event. With
    several strands no message has a hint: once one strand begins, the hints of the others would be out of date.
    """
    plan, roots = new.plan, new.plan.roots
    hint = None if len(roots) > 1 else Hint(1, head, plan.digest, roots[0])
    nudges = []
    for root in roots:
        queue, links = plan.by_name[root].queue or new.queue, plan.remaining_on_strand(root)
        nudges.append(Nudge(new.id, root, 0, queue, 1, links, new.priority, hint))
    return tuple(nudges)


def _created(new: NewRun, clock: float, input_schema: int) -> Draft:
    plan = new.plan
    run = RunFacts(
        id=new.id,
        client_id=new.client_id,
        pipeline=plan.pipeline,
        version=plan.version,
        key=new.key,
        fingerprint=new.fingerprint,
        definition=plan.digest,
        input=new.input,
        input_schema=input_schema,
        metadata=new.metadata,
        queue=new.queue,
        priority=new.priority,
        phase=Phase.FORWARD,
        status=RunStatus.PENDING,
        cause=None,
        park_reason=None,
        error=None,
        error_stage=None,
        op_version=0,
        pivot_passed=False,
        past_pivot=False,
        deadline=new.deadline,
        seq=0,
        head=GENESIS,
        created_at=clock,
        updated_at=clock,
        finished_at=None,
    )
    draft = Draft(Facts(run, plan, clock, 0, GENESIS, {Part.STRANDS: {}}), new=True)
    for name, value in new.attributes:
        draft.describe(name, value)
    draft.emit("run.accepted", **first_said(new))
    return draft


def first_said(new: NewRun) -> dict[str, Any]:
    """What the first event of a run says."""
    plan = new.plan
    said: dict[str, Any] = {
        "pipeline": plan.pipeline,
        "version": plan.version,
        "client_id": new.client_id,
        "key": new.key,
    }
    if new.actor is not None:
        said["actor"] = new.actor
    return {**said, "requesters": list(new.requesters)} if new.requesters else said


def requesters(first: Mapping[str, Any]) -> frozenset[str]:
    """Who asked for a run, by what its first event says."""
    named = [first.get("actor"), *first.get("requesters", ())]
    return frozenset(name for name in named if name is not None)


def _open(draft: Draft, stages: Iterable[str]) -> None:
    for stage in stages:
        draft.open_strand(
            stage,
            direction=Phase.FORWARD,
            stage=stage,
            state=StrandState.READY,
            published_at=draft.clock,
            queue=draft.queue_of(stage),
        )
