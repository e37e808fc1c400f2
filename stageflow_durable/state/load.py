"""Loading the facts on which transitions decide, under the run's lock.

With the lock, transactions of one run happen one after another: two branches cannot miss each other at a join, and a
cancel and a begin cannot both win.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import Connection, Integer, String, and_, bindparam, exists, func, or_, select, union

from stageflow_durable.codec import decode
from stageflow_durable.model.attributes import Attributes
from stageflow_durable.model.status import AttemptState, Cause, ParkReason, Phase, RunStatus, StepState
from stageflow_durable.model.work import RunFacts
from stageflow_durable.state import definitions, roster
from stageflow_durable.state.clock import now
from stageflow_durable.state.dialect import constant, skip_locked
from stageflow_durable.state.idempotency_keys import held_by_run
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import (
    approvals,
    attempts,
    attributes,
    calls,
    checkpoints,
    events,
    item_groups,
    items,
    links,
    owners,
    runs,
    saga_steps,
    signals,
    strands,
)
from stageflow_durable.state.tables import definitions as definition_table
from stageflow_durable.store.of_items import OWED, parts_of_item
from stageflow_durable.transitions.accept import requesters
from stageflow_durable.transitions.draft import NO_ITEM
from stageflow_durable.transitions.facts import Facts, Part
from stageflow_durable.transitions.rows import (
    ApprovalRow,
    AttemptRow,
    CallRow,
    GroupRow,
    HeldKey,
    ItemRow,
    LinkRow,
    OwnerRow,
    SignalRow,
    StrandRow,
)

_OF_RUN: Any = bindparam("run_id")
_OF_ITEM: Any = bindparam("of_item", type_=Integer)
_LOCK = Prepared(select(runs, now().label("clock")).where(runs.c.id == _OF_RUN).with_for_update())
_STRANDS = Prepared(
    select(*(strands.c[name] for name in StrandRow._fields))
    .where(and_(strands.c.run == _OF_RUN, strands.c.item == NO_ITEM))
    .order_by(strands.c.strand)
)
_SAVED = Prepared(
    select(checkpoints.c.stage, checkpoints.c.skipped).where(
        and_(checkpoints.c.run == _OF_RUN, checkpoints.c.item == NO_ITEM)
    )
)
_STEPS = Prepared(
    select(saga_steps.c.stage, saga_steps.c.state).where(
        and_(saga_steps.c.run == _OF_RUN, saga_steps.c.item == NO_ITEM)
    )
)
_ATTRIBUTES = Prepared(
    select(attributes.c.name, attributes.c.value)
    .where(attributes.c.run == bindparam("run_id"))
    .order_by(attributes.c.name)
)
# An owner without a row was pruned, and owners that an undo waits for are never pruned.
_MAY_ACT = exists(select(owners.c.id).where(and_(owners.c.id == attempts.c.owner, owners.c.confirmed.is_(False))))
_ATTEMPT_COLUMNS = (
    *(attempts.c[name] for name in AttemptRow._fields[:-3]),
    _MAY_ACT.label("may_act"),
    attempts.c.item,
    attempts.c.delay,
)
_ATTEMPTS = Prepared(
    select(*_ATTEMPT_COLUMNS)
    .where(
        and_(
            attempts.c.run == _OF_RUN,
            # The run is also told which attempts of its items were lost: an undo waits until none of them can act.
            or_(
                attempts.c.item == NO_ITEM,
                and_(
                    attempts.c.state == constant(AttemptState.UNKNOWN),
                    attempts.c.direction == constant(Phase.FORWARD),
                ),
            ),
        )
    )
    .order_by(attempts.c.item, attempts.c.n)
)
_ALIVE = Prepared(
    select(owners.c.id).where(
        and_(owners.c.id == bindparam("me"), owners.c.dead_at.is_(None), owners.c.expires_at > now())
    )
)
_OWNER_ROWS = select(*(owners.c[name] for name in OwnerRow._fields)).join(strands, strands.c.owner == owners.c.id)
# Locked, so that whoever confirms its end sees the row of the attempt that is about to be written.
_OWNERS = Prepared(
    _OWNER_ROWS.where(and_(strands.c.run == _OF_RUN, strands.c.item == NO_ITEM)).with_for_update(of=owners)
)
_DEFINITIONS = Prepared(
    select(definition_table.c.digest, definition_table.c.registered_at).where(
        definition_table.c.pipeline == bindparam("pipeline")
    )
)
_SCHEMAS = Prepared(
    union(
        select(runs.c.input_schema).where(runs.c.id == _OF_RUN),
        select(checkpoints.c.saved_schema).where(and_(checkpoints.c.run == _OF_RUN, checkpoints.c.skipped.is_(False))),
        select(signals.c.saved_schema).where(and_(signals.c.run == _OF_RUN, signals.c.consumed_at.is_(None))),
    )
)
_SIGNALS = Prepared(
    select(*(signals.c[name] for name in SignalRow._fields)).where(signals.c.run == _OF_RUN).order_by(signals.c.n)
)
_GROUP_COLUMNS = tuple(item_groups.c[name] for name in GroupRow._fields)
# In one order, so that two who lock all groups of a run cannot deadlock.
_GROUPS = Prepared(
    select(*_GROUP_COLUMNS)
    .where(item_groups.c.run == _OF_RUN)
    .order_by(item_groups.c.strand, item_groups.c.grp)
    .with_for_update()
)
_LOCK_GROUP = Prepared(
    select(*_GROUP_COLUMNS)
    .where(
        and_(
            item_groups.c.run == _OF_RUN,
            item_groups.c.strand == bindparam("of_strand", type_=String),
            item_groups.c.grp
            == select(items.c.grp).where(and_(items.c.run == _OF_RUN, items.c.item == _OF_ITEM)).scalar_subquery(),
        )
    )
    .with_for_update()
)
_OF_STAGE = and_(
    checkpoints.c.run == items.c.run, checkpoints.c.stage == items.c.stage, checkpoints.c.item == items.c.item
)
_ITEM = Prepared(
    select(
        *(runs.c[name] for name in RunFacts._fields),
        now().label("clock"),
        items.c.seq.label("item_seq"),
        items.c.head.label("item_head"),
        *(items.c[name] for name in ItemRow._fields[:-2]),
        checkpoints.c.delta,
        checkpoints.c.saved_schema,
    )
    .select_from(runs.join(items, items.c.run == runs.c.id).join(checkpoints, _OF_STAGE, isouter=True))
    .where(and_(runs.c.id == _OF_RUN, items.c.item == _OF_ITEM))
)
# Of one item, each by its whole key: a run may have ten thousand.
_OF_STRAND = bindparam("of_strand", type_=String)
_THIS_STRAND = and_(strands.c.run == _OF_RUN, strands.c.strand == _OF_STRAND, strands.c.item == _OF_ITEM)


def _of_this_item(table: Any) -> Any:
    return and_(table.c.run == _OF_RUN, table.c.stage == bindparam("of_stage"), table.c.item == _OF_ITEM)


_ITS_STRAND = Prepared(select(*(strands.c[name] for name in StrandRow._fields)).where(_THIS_STRAND))
_ITS_STEP = Prepared(select(saga_steps.c.stage, saga_steps.c.state).where(_of_this_item(saga_steps)))
_ITS_ATTEMPTS = Prepared(select(*_ATTEMPT_COLUMNS).where(_of_this_item(attempts)).order_by(attempts.c.n))
_ITS_OWNER = Prepared(_OWNER_ROWS.where(_THIS_STRAND).with_for_update(of=owners))
_OWED = Prepared(
    select(items.c.stage, items.c.grp, func.count())
    .join(
        saga_steps,
        and_(saga_steps.c.run == items.c.run, saga_steps.c.stage == items.c.stage, saga_steps.c.item == items.c.item),
    )
    .where(and_(items.c.run == _OF_RUN, saga_steps.c.state.in_([constant(state) for state in OWED])))
    .group_by(items.c.stage, items.c.grp)
)
_APPROVALS = Prepared(
    select(*(approvals.c[name] for name in ApprovalRow._fields))
    .where(approvals.c.run == _OF_RUN)
    .order_by(approvals.c.n)
)
_LINKS = Prepared(select(*(links.c[name] for name in LinkRow._fields)).where(links.c.run == _OF_RUN))
_CALLS = Prepared(
    select(*(calls.c[name] for name in CallRow._fields))
    .where(and_(calls.c.run == _OF_RUN, calls.c.item == _OF_ITEM))
    .order_by(calls.c.n)
)
_CALLS_OF_STAGE = Prepared(
    select(*(calls.c[name] for name in CallRow._fields)).where(_of_this_item(calls)).order_by(calls.c.n)
)
_FIRST_EVENT = Prepared(
    select(events.c.data).where(and_(events.c.run == _OF_RUN, events.c.item == NO_ITEM, events.c.seq == 1))
)


class Locked(NamedTuple):
    """A run that this transaction has locked, and the database's clock in seconds since the epoch."""

    run: RunFacts
    clock: float


def lock_item(connection: Connection, run_id: str, strand: str, item: int) -> Facts | None:
    """Lock the group of an item's strand, then read the item and its run, as it is while that lock is held: who changes
    the way it goes locks every group. None if there is no such item.
    """
    group = _LOCK_GROUP.run(connection, run_id=run_id, of_strand=strand, of_item=item).fetchone()
    if group is None:
        return None
    # In a statement of its own: one that waited for the lock would see what was there before.
    row = _ITEM.run(connection, run_id=run_id, of_item=item).fetchone()
    if row is None:
        return None
    clock, seq, head, *about = row[len(RunFacts._fields) :]
    its = ItemRow._make(about)
    line = _ITS_STRAND.run(connection, run_id=run_id, of_strand=strand, of_item=item).fetchone()
    of_item = parts_of_item(its, group_of_values(group), None if line is None else StrandRow._make(line))
    run = facts_of(row)
    plan = definitions.plan_of(connection, run.definition)
    return Facts(run, plan, float(clock), seq, head, of_item, item=its.item)


def part_of_item(connection: Connection, facts: Facts, which: Part, me: str) -> Any:
    """Load one part of the facts of an item, by the keys of its rows."""
    its = facts.item_row
    of_stage = {"run_id": facts.run.id, "of_stage": its.stage, "of_item": its.item}
    if which is Part.STEPS:
        return {stage: StepState(state) for stage, state in _ITS_STEP.run(connection, **of_stage).fetchall()}
    if which is Part.ATTEMPTS:
        return _attempt_rows(_ITS_ATTEMPTS.run(connection, **of_stage).fetchall())
    if which is Part.CALLS:
        return calls_of(connection, facts.run.id, its.item)
    if which is Part.OWNERS:
        of_strand = {"run_id": facts.run.id, "of_strand": facts.group.strand, "of_item": its.item}
        return _owner_rows(_ITS_OWNER.run(connection, **of_strand).fetchall())
    return part(connection, facts.run, which, me)


def group_of_values(values: Sequence[Any]) -> GroupRow:
    """A row of a group, with its boolean as one."""
    group = GroupRow._make(values)
    return group._replace(collects=bool(group.collects))


def lock(connection: Connection, run_id: str) -> Locked | None:
    """Lock a run: the first statement of every transaction that changes one. None if there is no such run."""
    row = _LOCK.run(connection, run_id=run_id).fetchone()
    return None if row is None else Locked(facts_of(row), float(row[-1]))


def lock_all(connection: Connection, run_ids: Iterable[str]) -> dict[str, Locked]:
    """Lock runs in the order of their ids, so that two callers cannot deadlock. Runs that somebody else has locked are
    left out; a single run is waited for.
    """
    ids = sorted(set(run_ids))
    wanted = select(runs, now().label("clock")).where(runs.c.id.in_(ids)).order_by(runs.c.id)
    locked = skip_locked(wanted) if len(ids) > 1 else wanted.with_for_update()
    return {row[0]: Locked(facts_of(row), float(row[-1])) for row in map(tuple, connection.execute(locked))}


def strands_of_all(connection: Connection, run_ids: Iterable[str]) -> dict[str, dict[str, StrandRow]]:
    """Every strand of several runs, by run and name."""
    found: dict[str, dict[str, StrandRow]] = {run: {} for run in run_ids}
    columns = [strands.c[name] for name in StrandRow._fields]
    own = and_(strands.c.run.in_(sorted(found)), strands.c.item == NO_ITEM)
    for values in connection.execute(select(*columns).where(own)):
        row = StrandRow._make(values)
        found[row.run][row.strand] = row
    return found


def facts(connection: Connection, locked: Locked, parts: Mapping[Part, Any]) -> Facts:
    """The facts of a locked run, with these parts."""
    run = locked.run
    return Facts(run, definitions.plan_of(connection, run.definition), locked.clock, run.seq, run.head, parts)


def part(connection: Connection, of: RunFacts, which: Part, me: str) -> Any:
    """Load one part of the facts. ``me``: the owner that asks."""
    return _LOADED[which](connection, of, me)


def strands_of(connection: Connection, run_id: str) -> dict[str, StrandRow]:
    """Every strand of a run itself, by name."""
    rows = [StrandRow._make(row) for row in _STRANDS.run(connection, run_id=run_id).fetchall()]
    return {row.strand: row for row in rows}


def saved_of(connection: Connection, run_id: str) -> dict[str, bool]:
    """Stages that have a checkpoint, and whether they were skipped."""
    return {stage: bool(skipped) for stage, skipped in _SAVED.run(connection, run_id=run_id).fetchall()}


def attributes_of(connection: Connection, run_id: str) -> Attributes:
    """What the run is found by."""
    return tuple((name, value) for name, value in _ATTRIBUTES.run(connection, run_id=run_id).fetchall())


def steps_of(connection: Connection, run_id: str) -> dict[str, StepState]:
    """The run's saga steps."""
    return {stage: StepState(state) for stage, state in _STEPS.run(connection, run_id=run_id).fetchall()}


def groups_of(connection: Connection, run_id: str) -> dict[tuple[str, int], GroupRow]:
    """Lock every group of a run's items: from then on none of them begins or ends."""
    rows = [group_of_values(row) for row in _GROUPS.run(connection, run_id=run_id).fetchall()]
    return {(row.strand, row.grp): row for row in rows}


def schemas_of(connection: Connection, run_id: str) -> frozenset[int]:
    """Schema numbers under which the input, the outputs and the signals that are kept were saved."""
    return frozenset(_SCHEMAS.column(connection, run_id=run_id))


def requesters_of(connection: Connection, run_id: str) -> frozenset[str]:
    """Who asked for the run, by its first event. Empty: nobody was named."""
    data = _FIRST_EVENT.value(connection, run_id=run_id)
    return frozenset() if data is None else requesters(decode(data))


def links_of(connection: Connection, run_id: str) -> dict[str, LinkRow]:
    """Links to the run's approvals, by the hash of the token."""
    return {row.token: row for row in map(LinkRow._make, _LINKS.run(connection, run_id=run_id).fetchall())}


def calls_of(connection: Connection, run_id: str, item: int = NO_ITEM) -> tuple[CallRow, ...]:
    """Saved steps of a run's stages, or of an item, in their order."""
    return _call_rows(_CALLS.run(connection, run_id=run_id, of_item=item).fetchall())


def calls_of_stage(connection: Connection, run_id: str, stage: str, item: int) -> tuple[CallRow, ...]:
    """Those of one stage."""
    return _call_rows(_CALLS_OF_STAGE.run(connection, run_id=run_id, of_stage=stage, of_item=item).fetchall())


def _call_rows(rows: Iterable[Any]) -> tuple[CallRow, ...]:
    return tuple(row._replace(undoable=bool(row.undoable)) for row in map(CallRow._make, rows))


_AUTHENTICATED = ApprovalRow._fields.index("authenticated")


def _attempts_of(connection: Connection, of: RunFacts, _me: str) -> tuple[AttemptRow, ...]:
    return _attempt_rows(_ATTEMPTS.run(connection, run_id=of.id).fetchall())


def _attempt_rows(rows: Iterable[Any]) -> tuple[AttemptRow, ...]:
    return tuple(
        AttemptRow(stage, way, n, state, bool(doubt), until, owner, bool(may_act), item, delay)
        for stage, way, n, state, doubt, until, owner, may_act, item, delay in rows
    )


def _owners_of(connection: Connection, of: RunFacts, _me: str) -> dict[str, OwnerRow]:
    return _owner_rows(_OWNERS.run(connection, run_id=of.id).fetchall())


def _owner_rows(rows: Iterable[Any]) -> dict[str, OwnerRow]:
    return {
        owner: OwnerRow(owner, host, pid, dead_at, bool(confirmed)) for owner, host, pid, dead_at, confirmed in rows
    }


def _keys_of(connection: Connection, of: RunFacts, _me: str) -> tuple[HeldKey, ...]:
    held = held_by_run(connection, of.id)
    return tuple(HeldKey(scope.client_id, scope.operation, key, stage, ttl) for scope, key, stage, ttl in held)


def _definitions_of(connection: Connection, of: RunFacts, _me: str) -> dict[str, float]:
    return dict(_DEFINITIONS.run(connection, pipeline=of.pipeline).fetchall())


def _newest_of(connection: Connection, of: RunFacts, _me: str) -> Any:
    digest = definitions.newest(connection, of.pipeline)
    return definitions.plan_of(connection, of.definition if digest is None else digest)


def _owed_of(connection: Connection, of: RunFacts, _me: str) -> dict[tuple[str, int], int]:
    return {(stage, grp): int(count) for stage, grp, count in _OWED.run(connection, run_id=of.id).fetchall()}


_LOADED: dict[Part, Callable[[Connection, RunFacts, str], Any]] = {
    Part.STRANDS: lambda connection, of, _me: strands_of(connection, of.id),
    Part.SAVED: lambda connection, of, _me: saved_of(connection, of.id),
    Part.STEPS: lambda connection, of, _me: steps_of(connection, of.id),
    Part.ATTEMPTS: _attempts_of,
    Part.KEYS: _keys_of,
    Part.ALIVE: lambda connection, _of, me: _ALIVE.value(connection, me=me) is not None,
    Part.OWNERS: _owners_of,
    Part.DEFINITIONS: _definitions_of,
    Part.SCHEMAS: lambda connection, of, _me: schemas_of(connection, of.id),
    Part.NEWEST: _newest_of,
    Part.SIGNALS: lambda connection, of, _me: tuple(
        map(SignalRow._make, _SIGNALS.run(connection, run_id=of.id).fetchall())
    ),
    Part.GROUPS: lambda connection, of, _me: groups_of(connection, of.id),
    Part.OWED: _owed_of,
    Part.APPROVALS: lambda connection, of, _me: tuple(
        ApprovalRow._make(row)._replace(authenticated=bool(row[_AUTHENTICATED]))
        for row in map(tuple, _APPROVALS.run(connection, run_id=of.id).fetchall())
    ),
    Part.LINKS: lambda connection, of, _me: links_of(connection, of.id),
    Part.CALLS: lambda connection, of, _me: calls_of(connection, of.id),
    Part.REQUESTERS: lambda connection, of, _me: requesters_of(connection, of.id),
    Part.ROSTER: lambda connection, _of, _me: roster.live(connection),
}


# --- a run's row ------------------------------------------------------------------------------------------------------


def facts_of(row: Any) -> RunFacts:
    """A ``runs`` row as facts, with its states as enums; columns behind those of the run are ignored."""
    return facts_of_values(row[: len(RunFacts._fields)])


def facts_of_values(values: Sequence[Any]) -> RunFacts:
    """Values in the order of the table's columns as facts. Converts booleans and states, which drivers return
    differently.
    """
    given = list(values)
    for place, kind in _KIND_AT:
        if given[place] is not None:
            given[place] = kind(given[place])
    return RunFacts._make(given)


def _member(states: type[StrEnum]) -> Callable[[str], StrEnum]:
    return {state.value: state for state in states}.__getitem__  # calling the enum class takes ten times as long


_KINDS: dict[str, Callable[[Any], Any]] = {
    "phase": _member(Phase),
    "status": _member(RunStatus),
    "cause": _member(Cause),
    "park_reason": _member(ParkReason),
    "pivot_passed": bool,
    "past_pivot": bool,
}
_KIND_AT = [(RunFacts._fields.index(name), kind) for name, kind in _KINDS.items()]
