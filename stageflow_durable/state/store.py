"""The store that the engine works with: each method is one transaction of the protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection

from stageflow_durable.idempotency.keys import Scope
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import Cause, ParkReason
from stageflow_durable.model.work import Done, Fenced, Nudge, Refused, Waiting, Work
from stageflow_durable.state import (
    batch,
    commit,
    definitions,
    idempotency_keys,
    operators,
    owners,
    progress,
    recovery,
    retention,
    runs,
    strands,
)
from stageflow_durable.state import begin as beginning
from stageflow_durable.state import fork as forking
from stageflow_durable.state.batch import Answer
from stageflow_durable.state.begin import Taker
from stageflow_durable.state.commit import Failure, Kept
from stageflow_durable.state.database import Database
from stageflow_durable.state.driver import Driver
from stageflow_durable.state.owners import Identity
from stageflow_durable.state.reading import Reading
from stageflow_durable.state.recovery import Missed, Place
from stageflow_durable.state.runs import Created, NewRun
from stageflow_durable.state.shortcut import Saving, Shortcut

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BusinessKey:
    """A stage's key across runs, with what has to stay equal under it (``params`` is encoded text)."""

    scope: Scope
    key: str
    fingerprint: str
    params: str
    ttl_seconds: float


class Store(Reading):
    """Runs and everything about them, in one database."""

    def __init__(
        self,
        database: Database,
        audit_key: bytes = b"",
        *,
        shortcut: bool = True,
        prepares: bool = True,
        hints: bool = True,
        batches: bool = True,
    ) -> None:
        self.database = database
        self._audit = audit_key
        self._driver = Driver(database, prepares=prepares)
        self._hints = hints and shortcut and not database.is_sqlite
        self._shortcut = Shortcut(self._driver, audit_key, hints=self._hints) if shortcut else None
        self._batches = batches

    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""
        self._driver.close()
        self.database.dispose()

    def _do(self, action: Callable[[Connection], T]) -> T:
        with self.database.transaction() as connection:
            return action(connection)

    # --- accepting runs -----------------------------------------------------------------------------------------------

    def register(self, plans: Sequence[Plan], boot: str | None = None) -> None:
        """Store definitions. ``boot``: of the worker that starts with them; its first child makes them the newest."""
        with self.database.transaction() as connection:
            for plan in plans:
                definitions.register(connection, plan)
            if boot is not None and not owners.booted(connection, boot):
                definitions.deployed(connection, plans)

    def create(self, new: NewRun) -> Created:
        """Record a run, or find the one that has its key."""
        created = self._shortcut.create(new) if self._shortcut is not None else None
        return created or self._do(lambda c: runs.create(c, new, self._audit))

    def clock(self) -> float:
        """The database's time: deadlines are told by it."""
        return self._driver.clock()

    def create_many(self, news: Sequence[NewRun], *, whole: bool = False) -> list[Answer]:
        """Record many runs, or find those that have their keys; each gets its answer. ``whole``: nothing is recorded
        where one of them is refused.
        """
        part = batch.PART if self._batches else 1
        try:
            return self._do(
                lambda c: batch.create_many(c, news, self._audit, whole=whole, hints=self._hints, part=part)
            )
        except batch.Broken as broken:
            return broken.answers

    # --- the path of a stage ------------------------------------------------------------------------------------------

    def begin(self, nudge: Nudge, taker: Taker) -> Work | Refused:
        """Take what the nudge names."""
        begun = self._shortcut.begin(nudge, taker) if self._shortcut is not None else None
        return begun or self._do(lambda c: beginning.begin(c, nudge, taker, self._audit))

    def succeed(
        self,
        work: Work,
        taker: Taker,
        delta: str | None,
        *,
        skipped: bool = False,
        replayed: bool = False,
        events: Kept = (),
        go_on: bool = False,
        key: BusinessKey | None = None,
        session: Any = None,
    ) -> Done | Fenced:
        """Save a stage's outcome; ``session`` is the body's own transaction, which then commits with it or not at
        all.
        """
        plain = delta is not None and not (skipped or replayed or work.undoing) and key is None and session is None
        if self._shortcut is not None and delta is not None and plain:
            saved = self._shortcut.save(Saving(work, delta, events, go_on), taker)
            if saved is not None:
                return saved

        def save(connection: Connection) -> Done | Fenced:
            done = commit.succeed(
                connection,
                work,
                taker,
                self._audit,
                delta=delta,
                skipped=skipped,
                replayed=replayed,
                events=events,
                go_on=go_on,
            )
            if key is not None and isinstance(done, Done):
                _end_key(connection, work, key, delta)
            return done

        return self._do(save) if session is None else session.commit_with(save)

    def wait(
        self, work: Work, failure: Failure, delay: float, drawn: float, events: Kept = ()
    ) -> Waiting | Done | Fenced:
        """Try again later."""
        return self._do(lambda c: commit.wait(c, work, self._audit, failure, delay, drawn, events))

    def postpone(self, work: Work, delay: float) -> Waiting | Done | Fenced:
        """Give back what was begun but not called."""
        return self._do(lambda c: commit.postpone(c, work, self._audit, delay))

    def fail(
        self,
        work: Work,
        failure: Failure,
        *,
        cause: Cause,
        park: ParkReason | None,
        exhausted: bool,
        events: Kept = (),
        key: BusinessKey | None = None,
    ) -> Done | Fenced:
        """The stage failed for good."""

        def save(connection: Connection) -> Done | Fenced:
            done = commit.fail(
                connection, work, self._audit, failure, cause=cause, park=park, exhausted=exhausted, events=events
            )
            if key is not None and isinstance(done, Done):
                _let_go(connection, work, key, failure.doubt)
            return done

        return self._do(save)

    def undo_done(self, work: Work, taker: Taker, *, go_on: bool, key: BusinessKey | None = None) -> Done | Fenced:
        """The undo is done."""

        def save(connection: Connection) -> Done | Fenced:
            done = commit.undo_done(connection, work, taker, self._audit, go_on=go_on)
            if key is not None and isinstance(done, Done):
                idempotency_keys.undone_for_run(
                    connection, key.scope, key.key, work.run.id, work.stage, ttl_seconds=key.ttl_seconds
                )
            return done

        return self._do(save)

    def undo_failed(self, work: Work, taker: Taker, failure: Failure, *, go_on: bool) -> Done | Fenced:
        """The undo failed for good."""
        return self._do(lambda c: commit.undo_failed(c, work, taker, self._audit, failure, go_on=go_on))

    def recall(self, work: Work, owner: str) -> Work | bool:
        """After a commit whose answer was lost: True when it went through, the granted work when one came of it, else
        False.
        """
        return self._do(lambda c: beginning.recall(c, work, owner))

    def claim_key(self, work: Work, key: BusinessKey) -> Any:
        """Take a business key for the stage, or what stands in the way; Fenced when the stage is no longer the owner's:
        against one that was paused, and would hold the key of a run that is over for ever.
        """

        def claim(connection: Connection) -> Any:
            if not commit.is_mine(connection, work, self._audit):
                return Fenced()
            return idempotency_keys.claim_for_run(
                connection,
                key.scope,
                key.key,
                key.fingerprint,
                key.params,
                work.run.id,
                work.stage,
                ttl_seconds=key.ttl_seconds,
            )

        return self._do(claim)

    def note(self, run_id: str, kind: str, data: Mapping[str, Any]) -> None:
        """Add an event to a run's history."""
        self._do(lambda c: progress.note(c, run_id, kind, data, self._audit))

    def report(self, work: Work, text: str) -> None:
        """Show a stage's progress."""
        self._do(lambda c: progress.report(c, work, text))

    # --- owners and recovery ------------------------------------------------------------------------------------------

    def join(self, identity: Identity, lease_seconds: float) -> str:
        """A new owner."""
        return self._do(lambda c: owners.register(c, identity, lease_seconds))

    def renew(self, owner: str, lease_seconds: float) -> bool:
        """Renew a lease; False: declared dead."""
        return self._do(lambda c: owners.renew(c, owner, lease_seconds))

    def served(self, queues: dict[str, float]) -> None:
        """Note up to when the nudges of each queue were served. Apart from the lease, which waits for no row that all
        processes write, and for no mistake in it.
        """
        self._do(lambda c: owners.served(c, queues))

    def retire(self, owner: str) -> None:
        """The process ends by itself."""
        self._do(lambda c: owners.retire(c, owner))

    def mark_killed(self, boot: str, pid: int) -> tuple[str, ...]:
        """A process was seen to end."""
        return self._do(lambda c: owners.mark_killed(c, boot, pid))

    def mark_expired(self, slack: float = 0.0) -> tuple[str, ...]:
        """Leases that ran out ``slack`` seconds ago."""
        return self._do(lambda c: owners.mark_expired(c, slack))

    def my_tick(self, name: str, every: float) -> bool:
        """Whether it is this process's turn."""
        return self._do(lambda c: recovery.my_tick(c, name, every))

    def take(self, place: Place, max_lost: int, grace: float) -> tuple[Nudge, ...] | None:
        """Take a strand from the dead."""
        return self._do(lambda c: recovery.take(c, place, self._audit, max_lost=max_lost, grace=grace))

    def wake(self, place: Place) -> Nudge | None:
        """Make a due strand ready."""
        return self._do(lambda c: recovery.wake(c, place, self._audit))

    def nudged(self, missed: Missed) -> bool:
        """Note that the broker took it."""
        return self._do(lambda c: recovery.nudged(c, missed, self._audit))

    def unpublish(self, nudges: tuple[Nudge, ...]) -> None:
        """The broker refused them."""
        self._do(lambda c: recovery.unpublish(c, nudges))

    def expire(self, run_id: str) -> tuple[Nudge, ...]:
        """Stop a late run."""
        return self._do(lambda c: recovery.expire(c, run_id, self._audit))

    def prune(
        self,
        older_than_seconds: float,
        *,
        batch: int = retention.BATCH,
        key_seconds: float = retention.KEY_SECONDS,
        sleep: Callable[[float], None],
    ) -> retention.Pruned:
        """Delete at most ``batch`` runs that ended before, and expired business keys; the runs' own keys stay taken for
        ``key_seconds``.
        """
        return retention.prune(
            self.database, self._audit, older_than_seconds, sleep, batch=batch, key_seconds=key_seconds
        )

    # --- people -------------------------------------------------------------------------------------------------------

    def order(self, order: operators.Order) -> tuple[Nudge, ...]:
        """Cancel, compensate or resume."""
        verbs = {"cancel": operators.cancel, "compensate": operators.compensate, "resume": operators.resume}
        return self._do(lambda c: verbs[order.verb](c, order, self._audit))

    def settle(self, order: operators.Order, stage: str, delta: str | None) -> tuple[Nudge, ...]:
        """Record what a person found out."""
        return self._do(lambda c: operators.settle_unknown(c, order, self._audit, stage, delta))

    def fork(self, wanted: forking.Fork) -> Created:
        """A new run from the checkpoints of another."""
        return self._do(lambda c: forking.fork(c, wanted, self._audit))


def _end_key(connection: Connection, work: Work, key: BusinessKey, delta: str | None) -> None:
    if delta is None:  # skipped: nothing that another run could be answered with
        _let_go(connection, work, key, doubt=False)
        return
    idempotency_keys.finish_for_run(
        connection,
        key.scope,
        key.key,
        work.run.id,
        work.stage,
        delta,
        ttl_seconds=key.ttl_seconds,
        schema=work.plan.schema,
    )
    for other in idempotency_keys.held_by_run(connection, work.run.id):
        if other.stage == work.stage:  # an earlier attempt named another key: nobody else would let it go
            _let_go(connection, work, BusinessKey(other.scope, other.key, "", "", other.ttl_seconds), doubt=False)


def _let_go(connection: Connection, work: Work, key: BusinessKey, doubt: bool) -> None:
    if doubt or strands.in_doubt(connection, work.run.id, work.stage):
        idempotency_keys.abandon_for_run(
            connection, key.scope, key.key, work.run.id, work.stage, ttl_seconds=key.ttl_seconds
        )
    else:
        idempotency_keys.release_for_run(connection, key.scope, key.key, work.run.id, work.stage)
