"""A transaction of the SQL store: see :class:`~stageflow_durable.store.transaction.Transaction`; and one of an item."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Table, and_, bindparam, select

from stageflow_durable.idempotency.store import RunAnswer
from stageflow_durable.model.attributes import Attributes
from stageflow_durable.model.status import AttemptState
from stageflow_durable.model.work import Work
from stageflow_durable.state import apply, idempotency_keys, load, owners
from stageflow_durable.state.clock import now
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import attempts, checkpoints, runs, tombstones
from stageflow_durable.store.transaction import Holder
from stageflow_durable.store.values import BusinessKey
from stageflow_durable.transitions.accept import NewRun
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.draft import NO_ITEM
from stageflow_durable.transitions.facts import Facts, NotLoaded, Part

G = TypeVar("G")
T = TypeVar("T")

_CLOCK = Prepared(select(now()))
# What the items of a stage saved stays with the original of a fork; what the stage itself saved is copied.
_CHECKPOINTS = Prepared(
    select(checkpoints).where(and_(checkpoints.c.run == bindparam("run_id"), checkpoints.c.item == NO_ITEM))
)


def _with_key(table: Table) -> Any:
    return and_(*(table.c[name] == bindparam(name) for name in apply.RUN_KEY))


_BY_KEY = Prepared(select(runs.c.id, runs.c.fingerprint, runs.c.input).where(_with_key(runs)))
_BURIED = Prepared(select(tombstones.c.run, tombstones.c.fingerprint).where(_with_key(tombstones)))
_ENDED_AT = Prepared(
    select(attempts.c.state, attempts.c.ended_at).where(
        and_(
            attempts.c.run == bindparam("run_id"),
            attempts.c.stage == bindparam("of_stage"),
            attempts.c.item == bindparam("of_item"),
            attempts.c.direction == bindparam("heading"),
            attempts.c.n == bindparam("number"),
        )
    )
)


class SqlTransaction(NamedTuple):
    """What is done on one connection, committed together."""

    connection: Connection
    audit_key: bytes

    def clock(self) -> float:
        """The database's time, in seconds since the epoch."""
        return float(_CLOCK.value(self.connection))

    def lock(self, run_id: str, needs: Iterable[Part], me: str) -> Facts | None:
        """Lock a run until the transaction ends, and load these parts of its facts; None if there is no such run."""
        locked = load.lock(self.connection, run_id)
        if locked is None:
            return None
        return load.facts(
            self.connection, locked, {part: load.part(self.connection, locked.run, part, me) for part in needs}
        )

    def load(self, facts: Facts, part: Part, me: str) -> Facts:
        """The facts with one part more."""
        return facts._replace(parts={**facts.parts, part: load.part(self.connection, facts.run, part, me)})

    def apply(self, change: Change) -> Change:
        """Write a change of a locked run; returns it with the run's new head. Raises Stale."""
        return apply.apply(self.connection, change, self.audit_key)

    def transact_all(self, given: Sequence[tuple[str, G]], decide: Callable[[Facts, G], Change | None]) -> list[Change]:
        """Lock several runs, let ``decide`` change each, and write the changes, in few round trips."""
        return apply.transact_all(self.connection, given, decide, self.audit_key)

    def create(self, change: Change, *, hints: bool = False) -> Change | None:
        """Write a new run. None, and nothing written, if its key is taken by a run or a tombstone."""
        return apply.create(self.connection, change, self.audit_key, hints=hints)

    def holder(self, new: NewRun) -> Holder | None:
        """Who has its key."""
        key = dict(zip(apply.RUN_KEY, (new.client_id, new.plan.pipeline, new.key), strict=True))
        found = _BY_KEY.run(self.connection, **key).fetchone() or _BURIED.run(self.connection, **key).fetchone()
        return None if found is None else Holder(*found)

    def checkpoints(self, run_id: str) -> Iterable[Mapping[str, Any]]:
        """The rows of what its stages saved."""
        return [row._asdict() for row in _CHECKPOINTS.rows(self.connection, run_id=run_id)]

    def attributes(self, run_id: str) -> Attributes:
        """What the run is found by."""
        return load.attributes_of(self.connection, run_id)

    def ended_at(self, work: Work) -> float | None:
        """When its owner ended the attempt; None if it did not: a sweep would have left it unknown."""
        given = {"of_stage": work.stage, "of_item": work.item, "heading": work.direction, "number": work.attempt}
        found = _ENDED_AT.run(self.connection, run_id=work.run.id, **given).fetchone()
        return None if found is None or found[0] == AttemptState.UNKNOWN else float(found[1])

    def claim(self, key: BusinessKey, work: Work) -> RunAnswer:
        """Claim a business key for the stage; what is found is returned, not raised."""
        what = (key.scope, key.key, key.fingerprint, key.params, work.run.id, work.stage)
        return idempotency_keys.claim_for_run(self.connection, *what, ttl_seconds=key.ttl_seconds)

    def owner(self, owner: str) -> Any:
        """An owner's row, or None."""
        return owners.one(self.connection, owner)

    def confirm(self, owner: str, by: str, reason: str | None = None) -> bool:
        """Record that the process of a dead owner has ended; False if that was known, or it is not dead."""
        return owners.confirm(self.connection, owner, by, reason)

    def await_end(self, owner: str) -> None:
        """Record that an undo may have to wait until the end of this owner is confirmed."""
        owners.await_end(self.connection, owner)


# --- the same for one of the items of a stage -------------------------------------------------------------------------
# It takes the lock of the item's group and not the run's. A transition that has to move the run is begun anew with the
# run's lock and those of all its groups.


def transact_item(
    connection: Connection,
    run_id: str,
    strand: str,
    item: int,
    decide: Callable[[Any, Any], T],
    audit_key: bytes,
    *,
    whole: bool,
    me: str = "",
) -> T | None:
    """Load the facts of an item under the lock of its group, let a transition decide, and apply the change.

    ``whole``: under the lock of its run and of all groups, with the facts of the run as the second argument of
    ``decide``, which is else None. Raises NotLoaded(Part.RUN) if ``decide`` needs them and has not got them: then
    nothing was written. None if there is no such item.
    """
    locked = load.lock(connection, run_id) if whole else None
    of_run: dict[Part, Any] = {}
    if whole:
        if locked is None:
            return None
        of_run = {part: load.part(connection, locked.run, part, me) for part in (Part.STRANDS, Part.GROUPS)}
    held = load.lock_item(connection, run_id, strand, item)
    if held is None:
        return None
    parts = dict(held.parts)
    while True:
        run = None if locked is None else load.facts(connection, locked, of_run)
        try:
            decided = decide(load.item_facts(connection, held, parts), run)
        except NotLoaded as missing:
            if missing.part is Part.RUN and not whole:
                raise
            # Which of the two asked is not told: both get it.
            parts.setdefault(missing.part, load.part_of_item(connection, held, missing.part, me))
            if locked is not None:
                of_run.setdefault(missing.part, load.part(connection, locked.run, missing.part, me))
        else:
            return apply.apply(connection, decided, audit_key) if isinstance(decided, Change) else decided  # type: ignore[return-value]  # a change for a change
