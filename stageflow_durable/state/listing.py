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
from stageflow_durable.state.dialect import among, constant, not_along
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

FEW = 1000
"""So many runs with an attribute are looked up one by one; where there are more, they are met among the newest."""


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
        yield see(partial(summaries_of, rows=rows))


def summaries_of(connection: Connection, rows: Iterable[Any]) -> list[RunSummary]:
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
    return summaries_of(connection, _page(connection, wanted, SUMMARY))


def _page(connection: Connection, wanted: Filter, columns: Sequence[Any]) -> Sequence[Any]:
    few = _few(connection, wanted.attributes)
    # Each status apart, along its index: together they would be sorted, or looked for among all the others.
    each = [
        _newest(columns, runs.c, wanted.limit, *_where(connection, wanted, status, few))
        for status in dict.fromkeys([None] if wanted.status is None else wanted.status)
    ]
    if len(each) < 2:
        return connection.execute(each[0]).all() if each else []
    both = union_all(*(select(one.subquery()) for one in each)).subquery()
    return connection.execute(_newest([both], both.c, wanted.limit)).all()


def _where(
    connection: Connection, wanted: Filter, status: RunStatus | None, few: Sequence[str] | None
) -> Iterator[ColumnElement[bool]]:
    """What a run of that status has to be. SQLite keeps no statistics: it is told which index to follow."""
    along = "id" if few is not None else _along(wanted, status)
    for name in ("pipeline", "client_id", "park_reason"):
        if (value := getattr(wanted, name)) is not None:
            yield (runs.c[name] if name == along else not_along(runs.c[name])) == value
    if status is not None:
        yield (runs.c.status if along == "status" else not_along(runs.c.status)) == constant(status)
    if few is not None:
        yield among(connection, runs.c.id, few)
    if wanted.since is not None:
        yield runs.c.created_at >= wanted.since
    if wanted.until is not None:
        yield runs.c.created_at < wanted.until
    if wanted.error is not None:
        # The first is what the partial index has: runs without an error, nearly all, are not looked at.
        yield from (runs.c.error.is_not(None), runs.c.error.icontains(wanted.error, autoescape=True))
    yield from _has_all(wanted.attributes)
    if wanted.before is not None:
        at, last = wanted.before
        yield tuple_(runs.c.created_at, runs.c.id) < tuple_(literal(at), literal(last))


def _along(wanted: Filter, status: RunStatus | None) -> str | None:
    """The column whose index has the fewest runs to look at, as far as one can tell: most runs have succeeded."""
    if wanted.error is not None:
        return None  # what has an error has an index of its own
    named = next((name for name in ("client_id", "pipeline") if getattr(wanted, name) is not None), None)
    return "status" if status not in (None, RunStatus.SUCCEEDED) else named or "status"


def _few(connection: Connection, wanted: Attributes) -> Sequence[str] | None:
    """All runs that have the rarest of these attributes, if they are few; None: they are many, or none is asked for."""
    # In order, so that the index is followed, and no further than that.
    some = select(attributes.c.run).order_by(desc(attributes.c.run)).limit(FEW + 1)
    found = [connection.execute(some.where(_is(attributes.c, *one))).scalars().all() for one in wanted]
    rarest = min(found, key=len, default=None)
    return None if rarest is None or len(rarest) > FEW else rarest


def _has_all(wanted: Attributes) -> Iterator[ColumnElement[bool]]:
    for one in wanted:
        has = attributes.alias()
        yield select(has.c.run).where(and_(has.c.run == runs.c.id, _is(has.c, *one))).exists()


def _is(of: Any, name: str, value: str) -> ColumnElement[bool]:
    return and_(of.name == name, of.value == value)


def described(connection: Connection, run_ids: Sequence[str], wanted: Attributes) -> frozenset[str]:
    """Those of the runs that have all of these attributes."""
    return frozenset(connection.execute(select(runs.c.id).where(runs.c.id.in_(run_ids), *_has_all(wanted))).scalars())


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
    return summaries_of(connection, connection.execute(found).all())


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
