"""Runs as lists: each follows an index from its end, however many runs there are. No locks are taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, and_, desc, literal, or_, select, tuple_, union_all

from stageflow_durable.model.attributes import Attributes
from stageflow_durable.model.run import RunSummary
from stageflow_durable.model.status import AT_REST, RunStatus, StrandState, WaitingFor
from stageflow_durable.model.work import RunFacts
from stageflow_durable.state.clock import now
from stageflow_durable.state.definitions import plan_of
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.endings import WAITS
from stageflow_durable.state.handed_back import HANDED_BACK, need
from stageflow_durable.state.load import facts_of
from stageflow_durable.state.roster import live
from stageflow_durable.state.tables import approvals, attributes, runs, strands
from stageflow_durable.state.views import awaits, with_waits
from stageflow_durable.store.values import ONE_CLOCK_SECONDS, Filter, Found
from stageflow_durable.store.views import approval_view, summary_of
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED

T = TypeVar("T")
See = Callable[[Callable[[Connection], T]], T]

_LEFT_OUT = ("input", "metadata")
SUMMARY = tuple(literal("").label(column.name) if column.name in _LEFT_OUT else column for column in runs.c)
"""The columns of a run, in their order, without what may be large and no list shows."""

PAGE = 2000
"""Runs that one statement lists at the most."""


def found(see: See[Any], wanted: Filter) -> Iterator[Found]:
    """Runs, the newest first, as :func:`pages` has them, with no more than it takes to name them."""
    columns = (runs.c.id, runs.c.status, runs.c.created_at)
    for rows in _paged(see, wanted, columns):
        yield from (Found(row.id, RunStatus(row.status)) for row in rows)


def pages(see: See[Any], wanted: Filter) -> Iterator[list[RunSummary]]:
    """Runs, the newest first, page by page, each of one moment: what is created meanwhile is not among them, and none
    comes twice.
    """
    for rows in _paged(see, wanted, SUMMARY):
        yield see(partial(_listed, rows=rows))


def _listed(connection: Connection, rows: Iterable[Any]) -> list[RunSummary]:
    """Rows of runs as lines, each with what it waits for."""
    found = [facts_of(row) for row in rows]
    return with_waits(connection, [(run, summary_of(run)) for run in found])


def _paged(see: See[Any], wanted: Filter, columns: Sequence[Any]) -> Iterator[Sequence[Any]]:
    left, before = wanted.limit, wanted.before
    while left > 0:
        most = min(PAGE, left)
        page = see(partial(_page, wanted=replace(wanted, limit=most, before=before), columns=columns))
        yield page
        if len(page) < most:
            return
        left, before = left - most, (page[-1].created_at, page[-1].id)


def summaries(connection: Connection, wanted: Filter) -> list[RunSummary]:
    """Runs, the newest first."""
    return _listed(connection, _page(connection, wanted, SUMMARY))


def _page(connection: Connection, wanted: Filter, columns: Sequence[Any]) -> Sequence[Any]:
    equal = (
        (runs.c.pipeline, wanted.pipeline),
        (runs.c.client_id, wanted.client_id),
        (runs.c.park_reason, wanted.park_reason),
    )
    where = [column == value for column, value in equal if value is not None]
    where += [] if wanted.since is None else [runs.c.created_at >= wanted.since]
    where += _has_all(wanted.attributes)
    if wanted.before is not None:
        at, last = wanted.before
        where.append(tuple_(runs.c.created_at, runs.c.id) < tuple_(literal(at), literal(last)))
    return connection.execute(_found(wanted, where, columns)).all()


def _has_all(wanted: Attributes) -> Iterator[ColumnElement[bool]]:
    for name, value in wanted:
        has = attributes.alias()
        same = and_(has.c.run == runs.c.id, has.c.name == name, has.c.value == value)
        yield select(has.c.run).where(same).exists()


def described(connection: Connection, run_ids: Sequence[str], wanted: Attributes) -> frozenset[str]:
    """Those of the runs that have all of these attributes."""
    return frozenset(connection.execute(select(runs.c.id).where(runs.c.id.in_(run_ids), *_has_all(wanted))).scalars())


def _found(wanted: Filter, where: list[ColumnElement[bool]], columns: Sequence[Any]) -> Select[Any]:
    if wanted.status is None or len(wanted.status) < 2:
        among = [] if wanted.status is None else [runs.c.status.in_(map(constant, wanted.status))]
        return _newest(columns, runs.c, wanted.limit, *where, *among)
    # Each status apart, along its index: together they would be sorted, or looked for among all the others.
    statuses = dict.fromkeys(wanted.status)
    each = [
        _newest(columns, runs.c, wanted.limit, *where, runs.c.status == constant(status)).subquery()
        for status in statuses
    ]
    both = union_all(*map(select, each)).subquery()
    return _newest([both], both.c, wanted.limit)


def _newest(columns: Iterable[Any], by: Any, limit: int, *where: ColumnElement[bool]) -> Select[Any]:
    return select(*columns).where(and_(True, *where)).order_by(desc(by.created_at), desc(by.id)).limit(limit)


def _quiet(older_than: float) -> ColumnElement[bool]:
    """Nothing of the run has moved since then. A change ahead of the clock was made by one that has gone back since:
    when that was nobody knows, and to be silent about it for as long would be worse than to be early.
    """
    return or_(runs.c.updated_at < older_than, runs.c.updated_at > now() + ONE_CLOCK_SECONDS)


def stuck(connection: Connection, older_than: float) -> list[RunSummary]:
    """Runs that should move and have not for ``older_than`` seconds: nothing runs, nothing is due later."""
    # Apart: each has its partial index.
    busy = [
        select(strands.c.run).where(and_(strands.c.run == runs.c.id, strands.c.state == constant(state))).exists()
        for state in (StrandState.RUNNING, StrandState.WAITING)
    ]
    active = runs.c.status.in_([constant(status) for status in RunStatus if status not in AT_REST])
    found = (
        select(*SUMMARY)
        .where(and_(active, _quiet(older_than), *(~one for one in busy)))
        .order_by(runs.c.updated_at)
        .limit(100)
    )
    return _listed(connection, connection.execute(found).all())


def unserved(connection: Connection, older_than: float, limit: int = 100) -> list[RunSummary]:
    """Runs that no live worker can carry, each with the reason, and that have not moved for ``older_than`` seconds:
    handed back by workers that do not know them, or ready in a queue that nobody serves.
    """
    known = live(connection)
    if known.silent:  # a worker of an older release does not say what it knows
        return []
    ready = strands.c.state == constant(StrandState.READY)
    used = connection.execute(select(strands.c.queue).where(ready).distinct()).scalars()
    nobodys = [queue for queue in used if queue not in known.queues]
    waiting = [HANDED_BACK] + [and_(ready, strands.c.queue == queue) for queue in nobodys]
    found: dict[str, tuple[RunFacts, RunSummary]] = {}
    for where in waiting:
        of = select(*SUMMARY, strands.c.queue.label("of_strand")).join(strands, strands.c.run == runs.c.id)
        quiet = and_(where, _quiet(older_than))
        for row in connection.execute(of.where(quiet).order_by(runs.c.created_at).limit(limit)):
            facts = facts_of(row)
            missing = known.missing(need(connection, facts.pipeline, facts.version, facts.definition, row.of_strand))
            if missing is not None:
                found[facts.id] = facts, replace(summary_of(facts), missing=missing)
    return with_waits(connection, list(found.values()))


def unconfirmed(connection: Connection) -> list[RunSummary]:
    """Runs of which an undo waits until somebody confirms that a process has ended; the oldest first."""
    waits = select(strands.c.run).where(and_(strands.c.run == runs.c.id, WAITS)).exists()
    found = select(*SUMMARY).where(and_(runs.c.status == constant(RunStatus.COMPENSATING), waits))
    rows = connection.execute(found.order_by(runs.c.updated_at).limit(100), {"for_ever": UNTIL_CONFIRMED})
    facts = [facts_of(row) for row in rows.all()]
    summaries = [(run, replace(summary_of(run), awaits=awaits(connection, run.id))) for run in facts]
    return with_waits(connection, summaries)


def unapproved(connection: Connection, limit: int = 100) -> list[RunSummary]:
    """Runs that ask somebody to approve, each with what; the oldest first."""
    open_ = and_(approvals.c.decided_at.is_(None), approvals.c.consumed_at.is_(None))
    asks = and_(strands.c.run == approvals.c.run, strands.c.stage == approvals.c.stage, WAITS_FOR_APPROVAL)
    found = (
        select(*SUMMARY, *(approvals.c[name].label(f"of_{name}") for name in _OF_APPROVAL))
        .join(approvals, approvals.c.run == runs.c.id)
        .where(and_(open_, select(strands.c.run).where(asks).exists()))
        .order_by(approvals.c.asked_at)
        .limit(limit)
    )
    return [_asking(connection, row) for row in connection.execute(found)]


_OF_APPROVAL = tuple(approvals.c.keys())
WAITS_FOR_APPROVAL = and_(
    strands.c.state == constant(StrandState.WAITING), strands.c.waiting_for == constant(WaitingFor.APPROVAL)
)


def _asking(connection: Connection, row: Any) -> RunSummary:
    facts = facts_of(row)
    asked = SimpleNamespace(**{name: getattr(row, f"of_{name}") for name in _OF_APPROVAL})
    view = approval_view(plan_of(connection, facts.definition).by_name[asked.stage], asked)
    return replace(summary_of(facts), approval=view, waits_for=(WaitingFor.APPROVAL,))
