"""Applying a change at once: in one statement, without the run's lock, on facts that were known before.

Its condition is that the run's number is still the one on which the change was decided. Every change that decides
something about a run raises that number, so a match means that nobody (no operator, no sweep, no other branch) decided
anything in between. Without a match nothing is written, and the caller decides again under the lock, which always
works. On PostgreSQL it is one statement with data-modifying CTEs; SQLite has none, so there the same parts are
statements of one transaction.

A statement is compiled once for each form.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from sqlalchemy import (
    Double,
    Integer,
    String,
    Table,
    and_,
    bindparam,
    exists,
    insert,
    literal_column,
    null,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from stageflow_durable.model.status import Phase, StrandState
from stageflow_durable.model.work import RunFacts
from stageflow_durable.state import known, tables
from stageflow_durable.state.apply import RUN_KEY, intending
from stageflow_durable.state.clock import now
from stageflow_durable.state.driver import Driver, Statement
from stageflow_durable.state.forms import EVENTS, NAMES, Form, Marks, event_values, formed
from stageflow_durable.state.known import ITEM_OF_RUN
from stageflow_durable.state.tables import attempts, events, owners, runs, strands
from stageflow_durable.store.sealing import seal_events, with_head
from stageflow_durable.transitions.change import KEYS, Change, How
from stageflow_durable.transitions.rows import StrandRow


class AtOnce:
    """Applies changes at once on one database. ``hints``: whether published messages carry hints; ``notify``: called
    after the commit of a change, where somebody awaits the run.
    """

    def __init__(self, driver: Driver, audit_key: bytes, *, hints: bool, notify: Notify) -> None:
        self._driver = driver
        self._audit = audit_key
        self._hints = hints
        self._notify = notify

    def apply(self, change: Change, held: StrandRow) -> Change | None:
        """Write a change that was decided on ``held``, the strand as it was known. None if nothing was written.

        Fenced by the strand's fence against a zombie whose strand was taken, and by the run's number against every
        other change in between.
        """
        sealed = seal_events(change, self._audit)
        form, given = formed(change, held, hinted=False)
        written = self.write(form, given | event_values(sealed), ended=change.ended)
        return with_head(change, sealed[-1].mac, hints=self._hints) if written else None

    def write(self, form: Form, given: dict[str, Any], *, ended: bool = False) -> bool:
        """Write a change of that form; returns whether it was written. ``ended``: it brings the run to rest."""
        try:
            if self._driver.is_sqlite:
                first, rest = _for_sqlite(form)
                written = self._driver.run_if(first, rest, given)
            else:
                written = self._driver.row(_for_postgresql(form), given)
        except IntegrityError:
            return False  # nothing was written: for example, the stage was done before on another strand
        if written is None:
            return False
        if written[0] is not None:
            self._notify(given["run_id"], written[0], ended)
        return True

    def create(self, change: Change) -> Change | None:
        """Write a new run. None if its key is taken, by a run or by the tombstone of a pruned one."""
        sealed = seal_events(change, self._audit)
        form, given = formed(change, None, hinted=False)
        written = self.write(form, given | event_values(sealed))
        return with_head(change, sealed[-1].mac, hints=self._hints) if written else None

    def write_hinted(self, form: Form, given: dict[str, Any]) -> tuple[Any, ...] | None:
        """Write a change that was decided on a hint (PostgreSQL only). Returns the columns ``HINTED`` of the run, the
        queue of the strand and when it was published, and what the run's stages saved; None if nothing was written.
        """
        try:
            written = self._driver.row(_for_postgresql(form), given)
        except IntegrityError:
            return None
        if written is not None and (awaited_by := written[_AWAITED_BY]) is not None:
            self._notify(given["run_id"], awaited_by, False)
        return written


# --- from a form to statements ----------------------------------------------------------------------------------------


def _p(name: str, kind: Any = String) -> Any:
    return bindparam(name, type_=kind)


def _is(state: str) -> Any:
    return literal_column(f"'{state}'", String)


_RUN, _AT, _ME, _SEEN = _p("run_id"), _p("at", Double), _p("me"), _p("seen_seq", Integer)
_HELD = and_(
    strands.c.run == _RUN,
    strands.c.strand == _p("held_strand"),
    strands.c.item == ITEM_OF_RUN,
    strands.c.gen == _p("held_gen", Integer),
    strands.c.stage == _p("held_stage"),
    strands.c.attempt == _p("held_attempt", Integer),
)
_MINE = and_(_HELD, strands.c.owner == _ME, strands.c.state == _is(StrandState.RUNNING))
_IDLE = and_(_HELD, or_(strands.c.state == _is(StrandState.READY), strands.c.state == _is(StrandState.WAITING)))
_NEVER_BEGUN = and_(strands.c.state == _is(StrandState.READY), strands.c.first_at.is_(None))
_ALIVE = exists(
    select(owners.c.id).where(and_(owners.c.id == _ME, owners.c.dead_at.is_(None), owners.c.expires_at > now()))
)
# Attempts of the stage on an earlier strand count too. Without this check the number would be refused only at the end.
_NUMBER_IS_FREE = ~exists(
    select(attempts.c.run).where(
        and_(
            attempts.c.run == _RUN,
            attempts.c.stage == _p("next_stage"),
            attempts.c.item == ITEM_OF_RUN,
            attempts.c.direction == _is(Phase.FORWARD),
            attempts.c.n == _p("next_attempt", Integer),
        )
    )
)
_AS_HINTED = and_(
    runs.c.head == _p("seen_head"),
    runs.c.definition == _p("seen_definition"),
    or_(runs.c.deadline.is_(None), runs.c.deadline > now(), runs.c.pivot_passed),
)

_TOLD = {"id", "pipeline", "version", "definition", "phase", "status", "park_reason", "seq", "head", "erased_at"}
HINTED = tuple(name for name in RunFacts._fields if name not in _TOLD | {"updated_at", "finished_at"})
"""Columns of a run that neither the hint, nor the definition, nor the beginning tells: the statement returns them."""
_AWAITED_BY = HINTED.index("awaited_by")


Notify: TypeAlias = Callable[[str, str, bool], None]
"""Told after a commit: the run, who awaits it (see ``model/awaited``), and whether it is at rest."""


class _Names:
    """Hands out the parameters' names, in the order in which ``forms.formed`` gives their values."""

    def __init__(self) -> None:
        self._names = iter(NAMES)

    def next(self, kind: Any) -> Any:
        return _p(next(self._names), kind)

    def values(self, table: Table, marks: Marks) -> dict[str, Any]:
        return dict(self._value(table, *mark.partition(" ")) for mark in marks)

    def _value(self, table: Table, name: str, _space: str, mark: str) -> tuple[str, Any]:
        if not mark:
            return name, self.next(table.c[name].type)
        return name, null() if mark == "null" else _AT


class _Part(NamedTuple):
    """How one row is written."""

    table: Table
    how: How
    key: dict[str, Any]
    values: dict[str, Any]


def _parts(form: Form, dialect: Any) -> tuple[Any, list[_Part]]:
    """The statement for the run's row, whose condition decides, and the parts that depend on it."""
    names = _Names()
    columns = names.values(runs, form.columns)
    parts = []
    for name, how, marks in form.rows:
        table: Table = getattr(tables, name)
        key = {column: names.next(table.c[column].type) for column in KEYS[name]}  # type: ignore[index]  # a Table is its text
        parts.append(_Part(table, how, key, names.values(table, marks)))
    head = _p(EVENTS[form.events - 1][2])
    columns |= {"seq": _numbered(form.events), "head": head, "updated_at": _AT}
    return (_insertion(columns, dialect) if form.new else _update(form, columns)).returning(runs.c.awaited_by), parts


def _insertion(columns: dict[str, Any], dialect: Any) -> Any:
    """The insertion of a new run, unless its key is taken."""
    buried = tables.tombstones
    mine = [buried.c[name] == _p(name) for name in RUN_KEY]
    row = {"id": _RUN, **columns}
    new = select(*row.values()).where(~exists(select(buried.c.run).where(and_(*mine))))
    return dialect.insert(runs).from_select(list(row), new).on_conflict_do_nothing(index_elements=RUN_KEY)


def _update(form: Form, columns: dict[str, Any]) -> Any:
    held = _IDLE if form.idle else _MINE
    if form.hinted:
        held = and_(held, _NEVER_BEGUN)
    conditions = [runs.c.id == _RUN, runs.c.seq == _SEEN, exists(select(strands.c.run).where(held))]
    if form.grants:
        conditions += [_ALIVE, _NUMBER_IS_FREE]
    if form.hinted:
        conditions.append(_AS_HINTED)
    return update(runs).where(and_(*conditions)).values(columns)


def _numbered(place: int) -> Any:
    return _SEEN + literal_column(str(place), Integer)


def _written(part: _Part, source: Any, dialect: Any) -> Any:
    """The statement for one row. ``source``: the CTE that has a row if the run was updated; None in a transaction that
    goes on only then.
    """
    table = part.table
    if part.how is How.UPDATE:
        same = [table.c.run == _RUN, *(table.c[name] == value for name, value in part.key.items())]
        if source is not None:
            same.append(table.c.run == source.c.id)
        return update(table).where(and_(*same)).values(part.values)
    row = {"run": _RUN, **part.key, **part.values}
    picked = select(*row.values())
    # WHERE true: without it SQLite reads the upsert's ON as a join's.
    picked = picked.where(true()) if source is None else picked.select_from(source)
    insertion = (dialect.insert if part.how is How.INTEND else insert)(table).from_select(list(row), picked)
    return intending(insertion) if part.how is How.INTEND else insertion


def _events(count: int, source: Any) -> Any:
    """The insertion of the events: each names the one before it, the first one the head on which it was decided."""
    selects = []
    for number in range(count):
        previous = _p("seen_head" if number == 0 else EVENTS[number - 1][2])
        kind, data, mac = (_p(name) for name in EVENTS[number])
        picked = select(_RUN, _numbered(number + 1), kind, _AT, data, previous, mac)
        selects.append(picked if source is None else picked.select_from(source))
    names = ["run", "seq", "type", "at", "data", "previous", "mac"]
    return insert(events).from_select(names, union_all(*selects) if count > 1 else selects[0])


@lru_cache(maxsize=256)
def _for_postgresql(form: Form) -> Statement:
    """The whole change as one statement; it returns a row if the change was applied: who awaits the run, or what a
    hint did not tell.
    """
    decides, parts = _parts(form, postgresql)
    answered = [runs.c[name] for name in HINTED if name != "awaited_by"] if form.hinted else []
    run = decides.returning(runs.c.id, *answered).cte("r")
    written = [_written(part, run, postgresql).cte(f"w{number}") for number, part in enumerate(parts)]
    answer: Any = _answer(run) if form.hinted else select(run.c.awaited_by)
    return Statement(answer.add_cte(*written, _events(form.events, run).cte("e")), is_sqlite=False)


def _answer(run: Any) -> Any:
    """``HINTED`` after the change; the strand's queue and time of publication before it, since each part of a statement
    sees the rows as they were before; and what was saved. Few columns, because each costs the database time.
    """
    both = run.join(strands, strands.c.run == run.c.id)
    asked = [run.c[name] for name in HINTED]
    answer = select(*asked, strands.c.queue, strands.c.published_at, known.saved(is_sqlite=False))
    this = and_(strands.c.run == _RUN, strands.c.strand == _p("held_strand"), strands.c.item == ITEM_OF_RUN)
    return answer.select_from(both).where(this)


@lru_cache(maxsize=256)
def _for_sqlite(form: Form) -> tuple[Statement, tuple[Statement, ...]]:
    """The statement whose condition decides, and those that follow in the same transaction if it updated the run."""
    decides, parts = _parts(form, sqlite)
    rest = [*(_written(part, None, sqlite) for part in parts), _events(form.events, None)]
    return Statement(decides, is_sqlite=True), tuple(Statement(part, is_sqlite=True) for part in rest)
