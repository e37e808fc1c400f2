"""Slots of limits: the only module that writes them. What it reads is read under the locks of the pools. Those are
taken in one order, and behind the run's lock, so that no two can deadlock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import (
    Connection,
    Double,
    Integer,
    String,
    and_,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
    union_all,
    update,
)

from stageflow_durable.model.limits import PoolId, Wanted
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import StrandState, WaitingFor
from stageflow_durable.model.waits import Behind
from stageflow_durable.state.clock import ago, now
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import limits, owners, pools, slots, strands
from stageflow_durable.store.values import BATCH, LimitState, LimitWord
from stageflow_durable.transitions import slots as decisions
from stageflow_durable.transitions.change import SlotChange
from stageflow_durable.transitions.draft import NO_ITEM
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED, Pool, SlotRow
from stageflow_durable.transitions.slots import ANSWER_SECONDS

HEADS, OLDEST = 8, 100
"""How many of those that wait are looked at: of each turn, and of those that were let past or need another limit."""

_COLUMNS = tuple(slots.c[name] for name in SlotRow._fields)
_KEY = ("name", "key", "run", "strand", "stage", "attempt")
_ZERO = literal_column("0", Integer)
_MINE = and_(slots.c.name == bindparam("of_name", type_=String), slots.c.key == bindparam("of_key", type_=String))
_RUN: Any = bindparam("run_id", type_=String)
_WAITS, _HELD = slots.c.attempt == _ZERO, slots.c.attempt > _ZERO

# An owner without a row was pruned; those that a slot waits for are not.
_UNCONFIRMED = exists(select(owners.c.id).where(and_(owners.c.id == slots.c.owner, owners.c.confirmed.is_(False))))
_MAY_ACT = and_(slots.c.until > now(), _UNCONFIRMED)
_STRAND = and_(
    strands.c.run == slots.c.run,
    strands.c.strand == slots.c.strand,
    strands.c.item == NO_ITEM,
    strands.c.stage == slots.c.stage,
    strands.c.gen == slots.c.gen,
)


def _strand(*conditions: Any) -> Any:
    """Whether the strand of a row still stands where it stood, and fulfils these."""
    return exists(select(strands.c.run).where(and_(_STRAND, *conditions)))


_WAITING = strands.c.state == constant(StrandState.WAITING)
_RUNS = _strand(strands.c.state == constant(StrandState.RUNNING), strands.c.attempt == slots.c.attempt)
_STANDS = _strand(or_(_WAITING, strands.c.state == constant(StrandState.READY)))
_LEAKED = or_(
    and_(_HELD, slots.c.until.is_(None), not_(_RUNS)),
    and_(_WAITS, not_(_STANDS)),
)
_OVER = and_(slots.c.until.is_not(None), not_(_MAY_ACT))
_UNANSWERED = slots.c.offered_at <= ago(ANSWER_SECONDS)

_POOLS_OF = Prepared(select(slots.c.name, slots.c.key).where(slots.c.run == _RUN).distinct())
_DECLARE = Prepared(lambda dialect: dialect.insert(limits).on_conflict_do_nothing())
_OPEN = Prepared(lambda dialect: dialect.insert(pools).on_conflict_do_nothing())
_LOCK = Prepared(
    select(
        func.coalesce(limits.c.set_amount, limits.c.amount),
        limits.c.per_second,
        func.coalesce(limits.c.paused_until, 0.0),
        func.coalesce(pools.c.paused_until, 0.0),
        pools.c.tokens,
        func.coalesce(pools.c.filled_at, 0.0),
    )
    .select_from(limits)
    .join(pools, pools.c.name == limits.c.name)
    .where(and_(pools.c.name == bindparam("of_name"), pools.c.key == bindparam("of_key")))
    .with_for_update(of=pools)
)
_COUNT = Prepared(
    select(slots.c.turn, func.count())
    .where(and_(_MINE, _HELD, or_(slots.c.until.is_(None), _MAY_ACT)))
    .group_by(slots.c.turn)
)
_NEXT = (
    select(
        *_COLUMNS,
        func.row_number().over(partition_by=slots.c.turn, order_by=(slots.c.rank, slots.c.since)).label("nth"),
    )
    .where(and_(_MINE, _WAITS, slots.c.short.is_(True), slots.c.offered_at.is_(None)))
    .subquery("next")
)
_LONGEST = (
    select(*_COLUMNS)
    .where(and_(_MINE, _WAITS, or_(slots.c.short.is_(False), slots.c.passed_at.is_not(None))))
    .order_by(slots.c.since)
    .limit(OLDEST)
    .subquery("longest")
)
_ROWS = Prepared(
    union_all(
        select(*_COLUMNS).where(and_(_MINE, or_(slots.c.run == _RUN, slots.c.offered_at.is_not(None)))),
        select(*(_NEXT.c[name] for name in SlotRow._fields)).where(_NEXT.c.nth <= HEADS),
        select(*(_LONGEST.c[name] for name in SlotRow._fields)),
    )
)


def _put(dialect: Any) -> Any:
    insertion = dialect.insert(slots)
    changed = {name: insertion.excluded[name] for name in SlotRow._fields if name not in _KEY}
    return insertion.on_conflict_do_update(index_elements=_KEY, set_=changed)


_PUT = Prepared(_put)
_DROP = Prepared(delete(slots).where(and_(*(slots.c[name] == bindparam(f"the_{name}") for name in _KEY))))
_CLEAN = Prepared(delete(slots).where(and_(_MINE, or_(_LEAKED, _OVER))))
# What was offered and not taken, or is for later: a strand that was not woken is offered to again, one that was asks by
# itself.
_TAKE_BACK = Prepared(
    update(slots)
    .where(and_(_MINE, _WAITS, or_(_UNANSWERED, slots.c.offered_at > ago(0.0))))
    .values(offered_at=None, short=_strand(_WAITING))
)
_CLOCK = Prepared(select(now()))
_FILL = Prepared(
    update(pools)
    .where(and_(pools.c.name == bindparam("of_name"), pools.c.key == bindparam("of_key")))
    .values(tokens=bindparam("left"), filled_at=bindparam("at"))
)


def _declared(dialect: Any) -> Any:
    insertion = dialect.insert(limits)
    newest = {name: insertion.excluded[name] for name in ("amount", "per_second")}
    return insertion.on_conflict_do_update(index_elements=["name"], set_=newest)


_DECLARED = Prepared(_declared)


def declare(connection: Connection, plans: Sequence[Plan]) -> None:
    """These are the newest definitions: their numbers count."""
    found = {limit.name: limit for plan in plans for stage in plan.stages for limit in stage.limits}
    rows = [{"name": name, "amount": found[name].limit, "per_second": found[name].rate} for name in sorted(found)]
    _DECLARED.many(connection, rows)


def load(connection: Connection, run_id: str, wanted: Iterable[Wanted]) -> dict[PoolId, Pool]:
    """Lock the pools that the run's rows name and those that are wanted, and read what decisions need of them."""
    asked = {one.pool: one for one in wanted}
    mine = {PoolId(*row) for row in _POOLS_OF.run(connection, run_id=run_id).fetchall()}
    ids = sorted(mine | asked.keys())
    locked = {pool: _lock(connection, pool, asked.get(pool)) for pool in ids}
    # Read once all are locked: what a statement sees was there when it began.
    return {pool: _read(connection, pool, found, run_id) for pool, found in locked.items()}


def _lock(connection: Connection, pool: PoolId, asked: Wanted | None = None) -> Pool:
    """Lock a pool; returns it without its rows. ``asked``: where nobody has declared it yet, what it is to be."""
    of = {"of_name": pool.name, "of_key": pool.key}
    found = _LOCK.run(connection, **of).fetchone()
    if found is None:
        limit, rate = (0, None) if asked is None else (asked.limit, asked.rate)
        _DECLARE.run(connection, name=pool.name, amount=limit, per_second=rate)
        _OPEN.run(connection, name=pool.name, key=pool.key)
        found = _LOCK.run(connection, **of).fetchone()
    amount, rate, *paused, tokens, filled_at = found
    left = float(amount) if tokens is None else float(tokens)
    return Pool(int(amount), {}, (), rate, left, float(filled_at), max(map(float, paused)))


def _read(connection: Connection, pool: PoolId, locked: Pool, run_id: str) -> Pool:
    of = {"of_name": pool.name, "of_key": pool.key}
    held = {turn: int(count) for turn, count in _COUNT.run(connection, **of).fetchall()}
    rows = dict.fromkeys(map(_row, _ROWS.run(connection, run_id=run_id, **of).fetchall()))
    return locked._replace(held=held, rows=tuple(rows))


def _row(values: Sequence[Any]) -> SlotRow:
    row = SlotRow._make(values)
    return row._replace(short=bool(row.short))


def write(connection: Connection, change: SlotChange) -> None:
    """Write what was decided under the pools' locks."""
    _DROP.many(connection, [{f"the_{name}": part for name, part in zip(_KEY, key, strict=True)} for key in change.gone])
    _PUT.many(connection, [row._asdict() for row in change.put])
    for pool, left, at in change.tokens:
        _FILL.run(connection, of_name=pool.name, of_key=pool.key, left=left, at=at)


def tend(connection: Connection, pool: PoolId) -> tuple[SlotRow, ...]:
    """Free the slots of what cannot act any more and of what is gone, and offer what is free; returns to whom."""
    of = {"of_name": pool.name, "of_key": pool.key}
    locked = _lock(connection, pool)
    _CLEAN.run(connection, **of)
    _TAKE_BACK.run(connection, **of)
    change = decisions.offers({pool: _read(connection, pool, locked, "")}, float(_CLOCK.value(connection)))
    if change is None:
        return ()
    write(connection, change)
    return change.woken


_WAITED_FOR = Prepared(
    select(
        *(slots.c.name, slots.c.key, func.coalesce(limits.c.set_amount, limits.c.amount), slots.c.rank, slots.c.since),
        *(limits.c.per_second, slots.c.offered_at, func.coalesce(limits.c.paused_until, 0.0)),
        func.coalesce(pools.c.paused_until, 0.0),
    )
    .select_from(slots)
    .join(limits, limits.c.name == slots.c.name)
    .join(pools, and_(pools.c.name == slots.c.name, pools.c.key == slots.c.key))
    .where(and_(slots.c.run == _RUN, slots.c.stage == bindparam("of_stage"), _WAITS, slots.c.short.is_(True)))
    .order_by(slots.c.name, slots.c.key)
)
_RANK: Any = bindparam("than_rank", type_=Integer)
_SINCE: Any = bindparam("than_since", type_=Double)
_OLDER = or_(slots.c.rank < _RANK, and_(slots.c.rank == _RANK, slots.c.since < _SINCE))
_BEFORE = Prepared(select(func.count()).where(and_(_MINE, _WAITS, slots.c.short.is_(True), _OLDER)))
_LOST_IN = Prepared(
    select(slots.c.owner)
    .where(and_(_MINE, slots.c.until >= bindparam("for_ever", type_=Double), _MAY_ACT))
    .distinct()
    .order_by(slots.c.owner)
)


def behind(connection: Connection, run_id: str, stage: str) -> list[Behind]:
    """Of which limits a stage waits for slots."""
    found = []
    for name, key, amount, rank, since, rate, due, *paused in _WAITED_FOR.run(
        connection, run_id=run_id, of_stage=stage
    ).fetchall():
        of = {"of_name": name, "of_key": key}
        held = sum(int(count) for _turn, count in _COUNT.run(connection, **of).fetchall())
        before = int(_BEFORE.value(connection, than_rank=rank, than_since=since, **of))
        lost = tuple(_LOST_IN.column(connection, for_ever=UNTIL_CONFIRMED, **of))
        found.append(Behind(PoolId(name, key), amount, held, before, lost, rate, due, max(map(float, paused))))
    return found


# --- what people say and see ------------------------------------------------------------------------------------------

_POOLS_NAMED = select(pools.c.name, pools.c.key)
_USED = (
    select(slots.c.name, slots.c.key)
    .union(select(pools.c.name, pools.c.key).where(pools.c.paused_until > now()))
    .subquery("used")
)
_LIVE = or_(slots.c.until.is_(None), _MAY_ACT)
_OF_POOL = and_(slots.c.name == _USED.c.name, slots.c.key == _USED.c.key)
_STATES = select(
    limits.c.name,
    func.coalesce(_USED.c.key, ""),
    func.coalesce(limits.c.set_amount, limits.c.amount),
    limits.c.amount,
    limits.c.per_second,
    select(func.count()).select_from(slots).where(and_(_OF_POOL, _HELD, _LIVE)).scalar_subquery(),
    select(func.count()).select_from(slots).where(and_(_OF_POOL, _WAITS, slots.c.short.is_(True))).scalar_subquery(),
    limits.c.paused_until,
    pools.c.paused_until,
    func.coalesce(pools.c.said, limits.c.said),
    now(),
).select_from(
    limits.outerjoin(_USED, _USED.c.name == limits.c.name).outerjoin(
        pools, and_(pools.c.name == limits.c.name, pools.c.key == func.coalesce(_USED.c.key, ""))
    )
)


def say(connection: Connection, word: LimitWord) -> list[PoolId] | None:
    """Write what a person says of a limit; returns the pools that it is about, None where nothing has the name."""
    there = connection.execute(select(limits.c.name).where(limits.c.name == word.name)).one_or_none()
    if there is None:
        return None
    if word.key is not None:
        _OPEN.run(connection, name=word.name, key=word.key)
        of_key = update(pools).where(and_(pools.c.name == word.name, pools.c.key == word.key, _shorter(pools, word)))
        connection.execute(of_key.values(paused_until=word.paused_until or None, said=word.said))
        return [PoolId(word.name, word.key)]
    changed: dict[str, Any] = {"said": word.said}
    changed |= {} if word.amount is None else {"set_amount": word.amount or None}
    changed |= {} if word.paused_until is None else {"paused_until": word.paused_until or None}
    connection.execute(update(limits).where(and_(limits.c.name == word.name, _shorter(limits, word))).values(**changed))
    found = connection.execute(_POOLS_NAMED.where(pools.c.name == word.name).order_by(pools.c.key))
    return [PoolId(name, key) for name, key in found]


def _shorter(table: Any, word: LimitWord) -> Any:
    """Whether the pause that there is may be replaced."""
    return or_(table.c.paused_until.is_(None), table.c.paused_until < word.paused_until) if word.longer else true()


def states(connection: Connection) -> list[LimitState]:
    """How every limit stands, for each key that is in use, or paused."""
    found = []
    for name, key, limit, declared, rate, held, waiting, *paused, said, clock in connection.execute(_STATES):
        until = max((at for at in paused if at is not None and at > clock), default=None)
        found.append(LimitState(PoolId(name, key), limit, declared, rate, held, waiting, until, said))
    return sorted(found, key=lambda one: one.pool)


# --- what sweeps find -------------------------------------------------------------------------------------------------

OFFERED = (
    select(*(strands.c[name] for name in ("run", "strand", "gen", "stage", "item")))
    .select_from(strands)
    .join(slots, and_(_STRAND, _WAITS))
    .where(and_(_WAITING, strands.c.waiting_for == constant(WaitingFor.LIMIT), slots.c.offered_at <= ago(0.0)))
    .distinct()
    .limit(BATCH)
)
"""Strands to which a slot was offered, and that were not woken yet."""

TO_TEND = (
    select(slots.c.name, slots.c.key)
    .where(or_(_OVER, and_(slots.c.offered_at.is_not(None), _UNANSWERED)))
    .distinct()
    .limit(BATCH)
)
"""Pools with slots of what cannot act any more, or with offers that nobody took."""

_OTHERS = slots.alias("others")
_TAKEN = (
    select(func.count())
    .select_from(_OTHERS)
    .where(
        and_(
            _OTHERS.c.name == slots.c.name,
            _OTHERS.c.key == slots.c.key,
            or_(_OTHERS.c.attempt > _ZERO, _OTHERS.c.offered_at.is_not(None)),
        )
    )
    .scalar_subquery()
)
_NEXT_OFFER = Prepared(select(func.min(slots.c.offered_at) - now()).where(and_(_WAITS, slots.c.offered_at > ago(0.0))))


def next_offer(connection: Connection) -> float | None:
    """In how many seconds the next slot, or token, is there for somebody who waits for it; None: nobody does."""
    found = _NEXT_OFFER.value(connection)
    return None if found is None else float(found)


_FREE = and_(
    limits.c.per_second.is_(None),
    _WAITS,
    slots.c.short.is_(True),
    slots.c.offered_at.is_(None),
    func.coalesce(limits.c.set_amount, limits.c.amount) > _TAKEN,
)
_UNTENDED = Prepared(
    select(slots.c.name, slots.c.key)
    .select_from(slots)
    .join(limits, limits.c.name == slots.c.name)
    .where(or_(_LEAKED, _FREE))
    .distinct()
    .limit(BATCH)
)


def untended(connection: Connection) -> list[PoolId]:
    """Pools with a slot that no attempt holds, or with a free one that nobody was offered."""
    return [PoolId(*row) for row in _UNTENDED.run(connection).fetchall()]


def forget(connection: Connection, older_than: float) -> None:
    """Delete pools that nobody has used for so many seconds: keys may be many, and may name people."""
    used = exists(select(slots.c.run).where(and_(slots.c.name == pools.c.name, slots.c.key == pools.c.key)))
    paused = func.coalesce(pools.c.paused_until, 0.0) > now()
    connection.execute(delete(pools).where(~used, ~paused, func.coalesce(pools.c.filled_at, 0.0) < ago(older_than)))


HOLDS = and_(slots.c.owner == owners.c.id, slots.c.until > now())
"""Whether a slot waits for the end of an owner, which therefore is not pruned."""
