"""Items: a stage that is carried out for each of many things, each with rows, a fence and a chain of events of its own.

The stage's strand waits while its items are carried out, by any number of workers. A transition of an item is given the
facts of that item, loaded under the lock of its group. Where its end moves the run (it is the last of its group, it
stops the run, or the run is stopping), it needs the run's facts as well, and raises ``NotLoaded(Part.RUN)`` without
them: the store begins anew with the run's lock and those of all its groups. So whoever ends the last item joins, once.
"""

from __future__ import annotations

from collections.abc import Sequence

from stageflow_durable.duration import LONGEST
from stageflow_durable.model.status import (
    AttemptState,
    Cause,
    ParkReason,
    Phase,
    StepState,
    StrandState,
    WaitingFor,
)
from stageflow_durable.model.work import Claimant, Failure, Fenced, Given, Kept, Nudge, Refusal, Refused, Saved, Work
from stageflow_durable.transitions import fail as failing
from stageflow_durable.transitions import retry, undo
from stageflow_durable.transitions import take as taking
from stageflow_durable.transitions.change import Change, OpenItems
from stageflow_durable.transitions.compatibility import refuse_definition
from stageflow_durable.transitions.draft import AWAKE, Draft, undo_strand
from stageflow_durable.transitions.facts import Facts, NotLoaded, Part
from stageflow_durable.transitions.fence import drafted, void_step
from stageflow_durable.transitions.finish import advance, save
from stageflow_durable.transitions.groups import count_of_groups, groups_of, join_undos
from stageflow_durable.transitions.resolve import after_undo, resolve, resolve_or_succeed, set_activity, stop
from stageflow_durable.transitions.rows import GroupRow, StrandRow
from stageflow_durable.transitions.start import refusal, refuse_late, start

# --- of the run -------------------------------------------------------------------------------------------------------


def open_items(
    facts: Facts, work: Work, inputs: Sequence[str], *, collects: bool = False, events: Kept = ()
) -> Change | Fenced:
    """Open an item for each of ``inputs`` (encoded text), at the stage of an attempt that only said what they are.
    ``collects``: an item that fails for good leaves the others alone; else it stops the run.
    """
    draft = drafted(facts, work)
    if draft is None:
        return Fenced()
    stage, count = work.stage, len(inputs)
    draft.end_attempt(work, AttemptState.VOID)  # there was no body: nothing was tried
    draft.keep(work, events)
    if draft.run.phase is not Phase.FORWARD:
        void_step(draft, stage)
        draft.set_strand(work.strand, state=StrandState.REST, owner=None)
        draft.emit("stage.postponed", stage=stage, attempt=work.attempt, delay=0.0)
        resolve_or_succeed(draft)
        return draft.done()
    first, groups, queue = draft.run.item_count + 1, count_of_groups(count), draft.queue_of(stage)
    draft.emit("stage.opened", stage=stage, attempt=work.attempt, first=first, items=count, groups=groups)
    draft.set_strand(work.strand, attempt=0, owner=None, nudges=0)
    if not count:
        _join(draft, stage, done=0, failed=0)
        return draft.done()
    draft.wait(work.strand, WaitingFor.ITEMS, None)
    draft.change(item_count=draft.run.item_count + count)
    draft.do(OpenItems(stage, first, tuple(inputs), groups, collects, queue))
    set_activity(draft)
    change = draft.done()
    # Marked by the item's own number, as every later message of it.
    nudges = [Nudge(draft.id, stage, 0, queue, 0, 1, draft.run.priority, None, first + n) for n in range(count)]
    return change._replace(nudges=(*change.nudges, *nudges))


def _join(draft: Draft, stage: str, *, done: int, failed: int) -> None:
    """Every item has ended: so has the stage, and the run moves on. The store adds the digest of how they ended."""
    row = next(row for row in draft.strands.values() if (row.stage, row.direction) == (stage, Phase.FORWARD))
    draft.save(stage, f'{{"done":{done},"failed":{failed}}}', schema=draft.plan.schema)
    if draft.plan.by_name[stage].undo is not None:
        draft.record(stage)
    draft.set_strand(row.strand, **AWAKE)
    draft.emit("stage.joined", stage=stage, done=done, failed=failed)
    advance(draft, row.strand, stage)


# --- of an item -------------------------------------------------------------------------------------------------------


def begin(facts: Facts, nudge: Nudge, claimant: Claimant, run: Facts | None = None) -> Change | Refused:
    """Take the item that a message names: see ``start.begin``."""
    row = facts.strands.get(nudge.strand)
    why = refusal(facts, row, nudge)
    if why is not None or row is None:
        return Refused(why or Refusal.NOT_READY)
    draft, whole = Draft(facts), None if run is None else Draft(run)
    if draft.is_late:
        draft.refused = refuse_late(_needed(whole))
    draft.refused = draft.refused or refuse_definition(draft, row, claimant, whole)
    if draft.refused is None:
        start(draft, row, claimant)
        draft.count(running=1)
        of = facts.item_row
        output = None if of.saved_schema is None else Saved(of.delta, of.saved_schema)
        assert draft.granted is not None
        draft.granted = draft.granted._replace(item=draft.item, given=Given(of.input, output))
    return _together(draft, whole)


def succeed(
    facts: Facts,
    work: Work,
    delta: str | None,
    *,
    skipped: bool = False,
    replayed: bool = False,
    doubt: bool = False,
    events: Kept = (),
    run: Facts | None = None,
) -> Change | Fenced:
    """The item is done, was skipped, or somebody answered in its place: see ``finish.succeed``."""
    draft = drafted(facts, work)
    if draft is None:
        return Fenced()
    acted = not (skipped or replayed or doubt)
    save(draft, work, delta, skipped=skipped, doubt=doubt, acted=acted, events=events)
    draft.set_strand(work.strand, state=StrandState.DONE, owner=None, progress=None)
    draft.count(running=-1, done=1)
    return _moved(draft, work.strand, run)


def retry_later(
    facts: Facts,
    work: Work,
    failure: Failure,
    delay: float,
    drawn: float,
    events: Kept = (),
    *,
    run: Facts | None = None,
) -> Change | Fenced:
    """Try the item again in ``delay`` seconds: see ``retry.retry_later``."""
    draft, delay = drafted(facts, work), min(delay, LONGEST)
    if draft is None:
        return Fenced()
    retry.tried(draft, work, failure, delay, events)
    draft.count(running=-1)
    if facts.run.phase is work.direction:
        return retry.due(draft, work, WaitingFor.TIME, delay, tries=work.tries + 1, delay=drawn)
    draft.set_strand(work.strand, state=StrandState.REST, owner=None)
    return _moved(draft, work.strand, run)


def fail(
    facts: Facts,
    work: Work,
    failure: Failure,
    *,
    cause: Cause = Cause.FAILED,
    park: ParkReason | None = None,
    exhausted: bool = False,
    events: Kept = (),
    run: Facts | None = None,
) -> Change | Fenced:
    """The item failed for good. Its stage collects failures, or the run stops: see ``fail.fail``."""
    draft = drafted(facts, work)
    if draft is None:
        return Fenced()
    failing.failed(draft, work, failure, exhausted=exhausted, events=events)
    if facts.group.collects and cause is Cause.FAILED and park is None:
        draft.set_strand(work.strand, state=StrandState.DONE, owner=None, tries=work.tries + 1, progress=None)
        draft.count(running=-1, failed=1)
        return _moved(draft, work.strand, run)
    draft.set_strand(work.strand, state=StrandState.REST, owner=None, tries=work.tries + 1)
    draft.count(running=-1)
    whole = _counted(draft, run)
    reason = park or (ParkReason.OPERATOR if draft.plan.on_failure == "park" else None)
    _stop(draft, whole, cause, work.stage, failure.error, reason if facts.run.phase is Phase.FORWARD else None)
    return _together(draft, whole)


def undo_done(facts: Facts, work: Work, *, events: Kept = (), run: Facts | None = None) -> Change | Fenced:
    """The item is undone."""
    draft = drafted(facts, work)
    if draft is None:
        return Fenced()
    undo.done(draft, work, events)
    draft.set_strand(work.strand, state=StrandState.DONE, owner=None)
    draft.count(running=-1, done=1)
    return _moved(draft, work.strand, run)


def undo_failed(
    facts: Facts, work: Work, failure: Failure, *, events: Kept = (), run: Facts | None = None
) -> Change | Fenced:
    """The undo of the item failed for good."""
    draft = drafted(facts, work)
    if draft is None:
        return Fenced()
    undo.failed(draft, work, failure, events)
    draft.set_strand(work.strand, state=StrandState.DONE, owner=None)
    draft.count(running=-1, failed=1)
    return _moved(draft, work.strand, run)


def take(facts: Facts, strand: str, gen: int, *, max_lost: int, run: Facts | None = None) -> Change | None:
    """Take an item from its dead owner: see ``take.take``."""
    row = taking.held_by_dead(facts, strand, gen)
    if row is None:
        return None
    draft = Draft(facts)
    why = taking.lost(draft, row, facts.owners[row.owner or ""])
    draft.count(running=-1)
    row = draft.strand(strand)
    if row.direction == Phase.BACKWARD:
        return _redo_undo(draft, row, why, max_lost, run)
    found = taking.verdict(draft, row, why, max_lost)
    if found is None:
        taking.ready_again(draft, row)
        return draft.done()
    if found.park is ParkReason.POISON and facts.group.collects:
        draft.set_strand(strand, state=StrandState.DONE)
        draft.emit("stage.failed", stage=row.stage, attempt=row.attempt, error=found.error, category=None, doubt=True)
        draft.counts = ()
        draft.count(running=-1, failed=1)
        return _moved(draft, strand, run)
    whole = _counted(draft, run)
    _stop(draft, whole, Cause.FAILED, row.stage, found.error, found.park)
    return _together(draft, whole)


def _redo_undo(draft: Draft, row: StrandRow, why: str, max_lost: int, run: Facts | None) -> Change:
    if row.lost < max_lost:
        taking.ready_again(draft, row)
        return draft.done()
    taking.give_up_undo(draft, row, why)
    draft.counts = ()
    draft.count(running=-1, failed=1)
    return _moved(draft, row.strand, run)


# --- what it means for the run ----------------------------------------------------------------------------------------


def _moved(draft: Draft, strand: str, run: Facts | None) -> Change:
    """The item's attempt is over. Move the run on, where that follows."""
    if not _moves_the_run(draft):
        return draft.done()
    whole = _counted(draft, run)
    groups = groups_of(whole, strand)
    done, failed = sum(group.done for group in groups), sum(group.failed for group in groups)
    stage = draft.facts.item_row.stage
    if all(group.is_over for group in groups):
        if strand == undo_strand(stage):
            join_undos(whole, stage, strand, failed=failed)
        else:
            _join(whole, stage, done=done, failed=failed)
    elif whole.run.phase is Phase.DRAINING:
        resolve(whole)
    elif failed and _halts(whole):
        if whole.steps[stage] is StepState.COMPENSATING:
            error = f"the undo of item {draft.item} failed"
            whole.set_step(stage, StepState.COMPENSATION_FAILED, error=error)
            whole.emit("work.compensation_failed", stage=stage, item=draft.item, error=error)
        after_undo(whole)
    return _together(draft, whole)


def _moves_the_run(draft: Draft) -> bool:
    """Whether the run may have to move on: the group is over, the run stops, or a failed undo halts the others."""
    draining = draft.facts.run.phase is Phase.DRAINING
    return _with(draft.facts.group, draft).is_over or draining or _halts(draft)


def _halts(draft: Draft) -> bool:
    return draft.facts.run.phase is Phase.BACKWARD and draft.plan.on_compensation_failure == "halt"


def _counted(draft: Draft, run: Facts | None) -> Draft:
    """A draft of the whole run, whose groups count what the item's draft does."""
    if run is None:
        raise NotLoaded(Part.RUN)
    group = _with(draft.facts.group, draft)
    groups = {**run.groups, (group.strand, group.grp): group}
    whole = Draft(run._replace(parts={**run.parts, Part.GROUPS: groups}))
    whole.learn(draft)
    return whole


def _with(group: GroupRow, draft: Draft) -> GroupRow:
    for count in draft.counts:
        group = group._replace(
            running=group.running + count.running, done=group.done + count.done, failed=group.failed + count.failed
        )
    return group


def _stop(draft: Draft, whole: Draft, cause: Cause, stage: str, error: str, park: ParkReason | None) -> None:
    stop(whole, cause, error=f"item {draft.item}: {error}", stage=stage, park=park)


def _needed(whole: Draft | None) -> Draft:
    if whole is None:
        raise NotLoaded(Part.RUN)
    return whole


def _together(draft: Draft, whole: Draft | None) -> Change:
    """The item's change, with that of the run if there is any."""
    change = draft.done()
    of_run = None if whole is None else whole.done()
    if of_run is None or not (of_run.events or of_run.columns or of_run.rows or of_run.of_items):
        return change
    return change._replace(run=of_run, nudges=(*change.nudges, *of_run.nudges), ended=of_run.ended)
