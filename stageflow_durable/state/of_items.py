"""Writing what a change says of items: their numbers, the counts of their groups, and what a run does to many at once.

Called by ``apply`` alone. An item's row and its group's are written under the lock of the group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Integer, String, and_, bindparam, insert, literal_column, null, or_, select, update

from stageflow_durable.model.status import Phase, StrandState
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import item_groups, items, saga_steps, strands
from stageflow_durable.store.of_items import AGAIN, AT_REST, OWED, digest_after, groups, opened
from stageflow_durable.transitions.change import (
    Count,
    FenceUndos,
    OfItems,
    OpenItems,
    RestItems,
    ReviveItems,
    UndoItems,
)
from stageflow_durable.transitions.draft import NO_ITEM, undo_strand
from stageflow_durable.transitions.facts import Facts

_RUN = bindparam("run_id", type_=String)
_STRAND = bindparam("of_strand", type_=String)
_MOVE = Prepared(
    update(items).where(
        and_(items.c.run == _RUN, items.c.item == bindparam("of_item"), items.c.seq == bindparam("seen_seq"))
    )
)
_THIS_GROUP = and_(
    item_groups.c.run == _RUN, item_groups.c.strand == _STRAND, item_groups.c.grp == bindparam("of_grp", type_=Integer)
)
_COUNT = Prepared(
    update(item_groups)
    .where(_THIS_GROUP)
    .values(
        running=item_groups.c.running + bindparam("more_running", type_=Integer),
        done=item_groups.c.done + bindparam("more_done", type_=Integer),
        failed=item_groups.c.failed + bindparam("more_failed", type_=Integer),
        digest=bindparam("new_digest", type_=String),
    )
)


def _as_sql(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Values that stand in the statement's text where they are nothing."""
    return {name: null() if value is None else value for name, value in columns.items()}


_INSERT_ITEMS, _INSERT_STRANDS, _INSERT_GROUPS = (Prepared(insert(table)) for table in (items, strands, item_groups))
_REST = Prepared(
    update(strands)
    .where(
        and_(
            strands.c.run == _RUN,
            strands.c.item > NO_ITEM,
            or_(*(strands.c.state == constant(state) for state in (StrandState.READY, StrandState.WAITING))),
        )
    )
    .values(**_as_sql(AT_REST))
)
_REVIVE = Prepared(
    update(strands)
    .where(
        and_(
            strands.c.run == _RUN,
            strands.c.strand == _STRAND,
            strands.c.item > NO_ITEM,
            strands.c.state == constant(StrandState.REST),
        )
    )
    .values(gen=strands.c.gen + 1, **_as_sql(AGAIN))  # fenced against messages and owners from before
)
_FENCE_UNDOS = Prepared(
    update(strands)
    .where(and_(strands.c.run == _RUN, strands.c.item > NO_ITEM, strands.c.direction == constant(Phase.BACKWARD)))
    .values(gen=strands.c.gen + 1)
)
_OWED_OF_STAGE = and_(
    saga_steps.c.run == _RUN,
    saga_steps.c.stage == bindparam("of_stage", type_=String),
    saga_steps.c.item > NO_ITEM,
    saga_steps.c.state.in_([constant(state) for state in OWED]),
)
_COLUMNS = ("run", "strand", "item", "direction", "stage", "state", "queue")
_OPEN_UNDOS = Prepared(
    insert(strands).from_select(
        _COLUMNS,
        select(
            saga_steps.c.run,
            _STRAND,
            saga_steps.c.item,
            literal_column(f"'{Phase.BACKWARD.value}'", String),
            saga_steps.c.stage,
            literal_column(f"'{StrandState.READY.value}'", String),
            bindparam("of_queue", type_=String),
        ).where(_OWED_OF_STAGE),
    )
)
_REOPEN_UNDOS = Prepared(
    update(strands)
    .where(
        and_(
            strands.c.run == _RUN,
            strands.c.strand == _STRAND,
            strands.c.item.in_(select(saga_steps.c.item).where(_OWED_OF_STAGE)),
        )
    )
    .values(**_as_sql(AGAIN))
)
_FORGET_FAILURES = Prepared(
    update(item_groups).where(and_(item_groups.c.run == _RUN, item_groups.c.strand == _STRAND)).values(failed=0)
)


def move(connection: Connection, facts: Facts, seq: int, head: str) -> bool:
    """Raise an item's number; False if it is not the one on which the change was decided any more."""
    whose = {"run_id": facts.run.id, "of_item": facts.item, "seen_seq": facts.seq}
    return bool(_MOVE.run(connection, **whose, seq=seq, head=head, updated_at=facts.clock).rowcount)


def count(connection: Connection, facts: Facts, counts: Sequence[Count], code: str) -> str:
    """Count in the item's group. ``code``: of the change's last event. Returns the group's digest."""
    digest = digest_after(facts.group, counts, code)
    for one in counts:
        _COUNT.run(
            connection,
            run_id=facts.run.id,
            of_strand=one.strand,
            of_grp=one.grp,
            more_running=one.running,
            more_done=one.done,
            more_failed=one.failed,
            new_digest=digest,
        )
    return digest


def write(connection: Connection, run_id: str, what: OfItems, head: str, at: float) -> None:
    """What a run's change does to its items. ``head``: the code of the run's last event, ``at``: its time."""
    if isinstance(what, OpenItems):
        _open(connection, run_id, what, head, at)
    elif isinstance(what, RestItems):
        _REST.run(connection, run_id=run_id)
    elif isinstance(what, ReviveItems):
        _REVIVE.run(connection, run_id=run_id, of_strand=what.strand)
    elif isinstance(what, FenceUndos):
        _FENCE_UNDOS.run(connection, run_id=run_id)
    else:
        _undo(connection, run_id, what)


def _open(connection: Connection, run_id: str, what: OpenItems, head: str, at: float) -> None:
    new = opened(run_id, what, head, at)
    _INSERT_ITEMS.many(connection, new.items)
    _INSERT_STRANDS.many(connection, new.strands)
    _INSERT_GROUPS.many(connection, new.groups)


def _undo(connection: Connection, run_id: str, what: UndoItems) -> None:
    strand = undo_strand(what.stage)
    of = {"run_id": run_id, "of_strand": strand, "of_stage": what.stage}
    if what.again:
        _REOPEN_UNDOS.run(connection, **of)
        _FORGET_FAILURES.run(connection, run_id=run_id, of_strand=strand)
        return
    _OPEN_UNDOS.run(connection, **of, of_queue=what.queue)
    _INSERT_GROUPS.many(connection, groups(run_id, strand, what.totals, collects=True))
