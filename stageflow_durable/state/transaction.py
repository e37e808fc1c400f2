"""A transaction of the SQL store: see :class:`~stageflow_durable.store.transaction.Transaction`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Table, and_, bindparam, select

from stageflow_durable.idempotency.store import RunAnswer
from stageflow_durable.model.attributes import Attributes
from stageflow_durable.model.limits import PoolId, Wanted
from stageflow_durable.model.status import AttemptState
from stageflow_durable.model.work import Work
from stageflow_durable.state import apply, idempotency_keys, load, owners, slots
from stageflow_durable.state.clock import now
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import attempts, checkpoints, runs, tombstones
from stageflow_durable.store.transaction import Holder
from stageflow_durable.store.values import BusinessKey, LimitWord
from stageflow_durable.transitions.accept import NewRun
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.draft import NO_ITEM
from stageflow_durable.transitions.facts import Facts, Part
from stageflow_durable.transitions.rows import SlotRow

G = TypeVar("G")

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
    old_audit_keys: Sequence[bytes] = ()

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

    def lock_item(self, run_id: str, strand: str, item: int) -> Facts | None:
        """Lock the group of an item's strand, and load the item's facts; None if there is no such item."""
        return load.lock_item(self.connection, run_id, strand, item)

    def load(self, facts: Facts, part: Part, me: str, wanted: tuple[Wanted, ...] = ()) -> Facts:
        """The facts, of a run or of an item, with one part more."""
        if part is Part.SLOTS:
            found = slots.load(self.connection, facts.run.id, wanted)
        elif facts.item:
            found = load.part_of_item(self.connection, facts, part, me)
        else:
            found = load.part(self.connection, facts.run, part, me)
        return facts._replace(parts={**facts.parts, part: found})

    def apply(self, change: Change) -> Change:
        """Write a change of a locked run, or of an item; returns it with the new head. Raises Stale."""
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

    def tend(self, pool: PoolId) -> tuple[SlotRow, ...]:
        """Lock a pool, free the slots of what cannot act any more, and offer what is free; returns whom to wake."""
        return slots.tend(self.connection, pool)

    def say_of_limit(self, word: LimitWord) -> list[PoolId] | None:
        """Write what a person says of a limit; returns the pools that it is about, None where nothing has the name."""
        return slots.say(self.connection, word)

    def problems(self, run_id: str, *, unsealed: bool = False) -> list[str]:
        """What the audit finds wrong with a locked run."""
        from stageflow_durable.state import erasure

        keys = (self.audit_key, *self.old_audit_keys, *([b""] if unsealed else ()))
        return erasure.problems(self.connection, keys, run_id)

    def erase(self, run_id: str, seq: int) -> None:
        """Erase the values in the rows and in the history of a locked run."""
        from stageflow_durable.state import erasure

        erasure.erase(self.connection, self.audit_key, run_id, seq)

    def await_end(self, owner: str) -> None:
        """Record that an undo may have to wait until the end of this owner is confirmed."""
        owners.await_end(self.connection, owner)
