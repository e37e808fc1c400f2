"""The success of a stage: its output is saved, and the run moves on."""

from __future__ import annotations

from stageflow_durable.model.status import AttemptState, Phase, RunStatus, StepState, StrandState
from stageflow_durable.model.work import Claimant, Fenced, Kept, Work
from stageflow_durable.transitions.change import Change, KeyEnd
from stageflow_durable.transitions.draft import Draft
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.fence import drafted, end_keys, let_key_go
from stageflow_durable.transitions.limits import admitted, wanted
from stageflow_durable.transitions.resolve import end, resolve_or_succeed, set_activity
from stageflow_durable.transitions.rows import OF_A_STAGE, HeldKey
from stageflow_durable.transitions.start import may_go_on, start
from stageflow_durable.transitions.waiting import arrive, fulfil, kept_for


def succeed(
    facts: Facts,
    work: Work,
    claimant: Claimant | None,
    delta: str | None,
    *,
    skipped: bool = False,
    replayed: bool = False,
    doubt: bool = False,
    events: Kept = (),
    key: HeldKey | None = None,
) -> Change | Fenced:
    """The stage succeeded, was skipped, or took the result of another run (``replayed``). ``claimant``: the owner, if
    it would run the next stage itself. ``delta``: the stage's output, encoded. ``doubt``: the run goes on although the
    attempt may have had an effect that we do not know of. ``key``: the business key that the stage holds.
    """
    draft = drafted(facts, work)
    if draft is None:
        return Fenced()
    stage = work.stage
    save(draft, work, delta, skipped=skipped, doubt=doubt, acted=not (skipped or replayed or doubt), events=events)
    if key is not None and delta is None:  # skipped: there is no result for other runs
        let_key_go(draft, key, doubt=False)
    elif key is not None:
        draft.end_key(key, KeyEnd.FINISHED, delta, work.plan.schema)
        end_keys(draft, stage, but=key)  # an earlier attempt may have claimed another key, which nobody else would end
    advance(draft, work.strand, stage, claimant, work.queue)
    return draft.done()


def save(draft: Draft, work: Work, delta: str | None, *, skipped: bool, doubt: bool, acted: bool, events: Kept) -> None:
    """End the attempt with its output, and record that its undo is owed if it ``acted``."""
    draft.end_attempt(work, AttemptState.SKIPPED if skipped else AttemptState.OK, doubt=doubt)
    draft.save(work.stage, delta, schema=draft.plan.schema, skipped=skipped)
    _record(draft, work.stage, acted=acted)
    draft.keep(work, events)
    draft.emit("stage.skipped" if skipped else "stage.ok", stage=work.stage, attempt=work.attempt)


def _record(draft: Draft, stage: str, *, acted: bool) -> None:
    if draft.plan.by_name[stage].undo is None:
        return
    if acted:
        draft.record(stage)
    elif not (draft.in_doubt(stage) or draft.owes_calls(stage)):
        draft.set_step(stage, StepState.VOID)


def advance(
    draft: Draft,
    strand: str,
    stage: str,
    claimant: Claimant | None = None,
    here: str = "",
    *,
    passing: bool = False,
) -> None:
    """Move on after ``stage``: to the next stage on its strand, to strands that waited for it last, or to the run's
    end. A wait whose signal has come before is over at once. ``passing``: the stages right after it are skipped too.
    """
    comes = _next(draft, strand, stage)
    if passing:
        comes = [further for name in comes for further in _skip(draft, name)]
    if draft.run.phase is Phase.DRAINING:
        draft.rest_idle()
        resolve_or_succeed(draft)
        return
    ready, waits = [], False
    while comes:
        name = comes.pop(0)
        row = draft.strand(name)
        signal = kept_for(draft, row)
        if signal is not None:
            fulfil(draft, row, signal)
            comes = [*_next(draft, name, row.stage), *comes]
        elif arrive(draft, name):
            waits = True
        else:
            ready.append(name)
    if ready:
        hand_on(draft, ready, claimant, here)
    elif not waits and (draft.plan.is_line or draft.saved.keys() >= draft.plan.by_name.keys()):
        end(draft, RunStatus.SUCCEEDED)
    else:
        set_activity(draft)


def _skip(draft: Draft, strand: str) -> list[str]:
    """Skip the stage at which the strand stands; the strands that come to their next stage by that."""
    stage = draft.strand(strand).stage
    draft.save(stage, None, schema=draft.plan.schema, skipped=True)
    draft.emit("stage.skipped", stage=stage, attempt=0)
    return _next(draft, strand, stage)


def _next(draft: Draft, strand: str, stage: str) -> list[str]:
    """The strands that come to their next stage because ``stage`` is done, each ready."""
    onward = draft.plan.next_on_strand.get(stage)
    if onward is None:
        draft.set_strand(strand, state=StrandState.DONE, owner=None, progress=None)
    else:
        _ready_next(draft, strand, onward)
    heads = draft.plan.heads_after(stage, frozenset(draft.saved)) if draft.plan.branches_after(stage) else ()
    for head in heads:
        draft.open_strand(
            head,
            direction=Phase.FORWARD,
            stage=head,
            state=StrandState.READY,
            published_at=draft.clock,
            queue=draft.queue_of(head),
        )
    return [*([strand] if onward else []), *heads]


def _ready_next(draft: Draft, strand: str, onward: str) -> None:
    draft.set_strand(
        strand,
        stage=onward,
        state=StrandState.READY,
        owner=None,
        published_at=draft.clock,
        queue=draft.queue_of(onward),
        attempt=0,
        progress=None,
        **OF_A_STAGE,
    )


def hand_on(draft: Draft, ready: list[str], claimant: Claimant | None, here: str = "") -> None:
    """Grant the first strand to ``claimant`` if it may begin there at once; publish the others."""
    first = draft.strand(ready[0])
    if claimant is not None and may_go_on(draft, first, claimant, here):
        needs = wanted(draft, first, claimant) if draft.plan.has_limits else ()
        if needs is not None:  # else a worker asks for the keys, once a message has come
            if not needs or admitted(draft, first, needs, claimant):
                start(draft, first, claimant)
            ready = ready[1:]
    for name in ready:
        draft.publish(name)
