"""The SQL store: each method is one transaction.

The verbs are those of every store (``store.base``); a verb is first tried without the run's lock where that may be
enough (``unlocked``). What only reads is inherited from ``reading``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.roster import Profile
from stageflow_durable.model.status import RunStatus
from stageflow_durable.model.work import Claimant, Done, Fenced, Nudge, Refused, Work
from stageflow_durable.state import (
    awaited,
    batch,
    definitions,
    handed_back,
    joined,
    moved,
    owners,
    progress,
    recovery,
    retention,
)
from stageflow_durable.state import queues as by_queue
from stageflow_durable.state.address import usable
from stageflow_durable.state.database import Database
from stageflow_durable.state.driver import Driver
from stageflow_durable.state.listening import Listening, listening
from stageflow_durable.state.reading import Reading
from stageflow_durable.state.session import SessionHolder
from stageflow_durable.state.telling import Telling
from stageflow_durable.state.transaction import SqlTransaction
from stageflow_durable.state.unlocked import Unlocked
from stageflow_durable.store.base import BaseStore
from stageflow_durable.store.carrying import Broken
from stageflow_durable.store.protocol import CallersConnection, CallersSession
from stageflow_durable.store.session import after_commit
from stageflow_durable.store.transaction import Transaction
from stageflow_durable.store.values import BATCH, KEY_SECONDS, Answer, AtRest, Created, Identity, Pruned, Stand
from stageflow_durable.transitions.accept import NewRun
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.facts import Facts

T = TypeVar("T")


class SqlStore(Telling, Reading, BaseStore):
    """Runs and everything about them, in one database: a :class:`~stageflow_durable.store.protocol.Store`."""

    def __init__(
        self,
        database: Database,
        audit_key: bytes = b"",
        old_audit_keys: Sequence[bytes] = (),
        *,
        optimistic: bool = True,
        prepares: bool = True,
        hints: bool = True,
        batches: bool = True,
    ) -> None:
        self.database = database
        self._audit, self._old_audits = audit_key, tuple(old_audit_keys)
        self._driver = Driver(database, prepares=prepares)
        self._hints = hints and optimistic and not database.is_sqlite
        self._unlocked = (
            Unlocked(self._driver, audit_key, hints=self._hints, notify=self._notify_awaiters) if optimistic else None
        )
        self._batches = batches

    def require_usable(self) -> None:
        """Raise ConfigurationError where the database's driver is missing, or its URL has options that it does not
        know. Nothing is connected.
        """
        usable(self.database.url)

    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""
        self._driver.close()
        self.database.dispose()

    def after_commit(self, action: Callable[[], object]) -> bool:
        """Run ``action`` after the commit of the transaction in which verbs take part here. Returns whether it will
        run.
        """
        return after_commit(self.database.url, action)

    def before_joining(self, ready: Callable[[], object]) -> None:
        """What is better done before a caller's transaction: see :mod:`stageflow_durable.state.joined`."""
        if not self.database.is_sqlite:  # there the caller may hold the only write lock
            ready()
            joined.identity(self.database)

    @contextmanager
    def joined(
        self, session: CallersSession | None, connection: CallersConnection | None, ready: Callable[[], object]
    ) -> Iterator[Callable[[str], object]]:
        """Let what is called inside take part in a caller's own transaction."""
        self.before_joining(ready)
        with joined.joined(self.database, session, connection, lambda run_id: bool(self.stand([run_id]))) as about:
            if self.database.is_sqlite:
                ready()
            yield about

    def open_session(self) -> SessionHolder:
        """A transaction of a stage's own, on a connection of its own."""
        return SessionHolder(self.database)

    def _do(self, action: Callable[[Connection], T]) -> T:
        with self.database.transaction() as connection:
            return action(connection)

    def _within(self, action: Callable[[Transaction], T]) -> T:
        return self._do(lambda c: action(SqlTransaction(c, self._audit, self._old_audits)))

    # --- accepting runs -----------------------------------------------------------------------------------------------

    def register(self, plans: Sequence[Plan], boot: str | None = None, profile: Profile | None = None) -> None:
        """Store definitions. ``boot`` and ``profile``: of a worker that starts with them; its first child makes them
        the newest.
        """
        with self.database.transaction() if self.database.is_sqlite else self.database.own() as connection:
            for plan in plans:
                definitions.register(connection, plan)
            if boot is not None and not (profile is not None and owners.booted(connection, boot, profile)):
                definitions.deployed(connection, plans)

    def create(self, new: NewRun) -> Created:
        """First without the lock."""
        made = None if self._unlocked is None or self.database.in_session else self._unlocked.create(new)
        return made or super().create(new)

    def clock(self) -> float:
        """The database's time: deadlines are told by it."""
        return self._driver.clock()

    def create_many(self, news: Sequence[NewRun], *, whole: bool = False) -> list[Answer]:
        """Record many runs, or find those that have their keys; returns an answer for each. ``whole``: record nothing
        if one of them is refused.
        """
        part = batch.PART if self._batches else 1
        try:
            return self._do(
                lambda c: batch.create_many(c, news, self._audit, whole=whole, hints=self._hints, part=part)
            )
        except Broken as broken:
            return broken.answers

    # --- the path of a stage ------------------------------------------------------------------------------------------

    def begin(self, nudge: Nudge, claimant: Claimant) -> Work | Refused:
        """First without the lock."""
        begun = self._unlocked.begin(nudge, claimant) if self._unlocked is not None and not nudge.item else None
        return begun or super().begin(nudge, claimant)

    def _succeed_at_once(self, work: Work, claimant: Claimant, delta: str, *, go_on: bool) -> Done | None:
        if self._unlocked is None or self.database.in_session:
            return None
        return self._unlocked.succeed(work, claimant, delta, go_on=go_on)

    def _end_at_once(self, work: Work, decide: Callable[[Facts], Change | Fenced]) -> Change | None:
        return None if self._unlocked is None or self.database.in_session else self._unlocked.end(work, decide)

    def _commit_with(self, session: Any, save: Callable[[Transaction], T]) -> T:
        saved: T = session.commit_with(lambda c: save(SqlTransaction(c, self._audit)))
        return saved

    def report(self, work: Work, text: str) -> None:
        """Show a stage's progress."""
        self._do(lambda c: progress.report(c, work, text))

    # --- who awaits runs ----------------------------------------------------------------------------------------------

    def note_awaiting(self, run_ids: Sequence[str], entry: str) -> dict[str, int]:
        """Note whom to tell of these runs (see ``model/awaited``); returns the number of each that was noted: of the
        end, of those that are not at rest.
        """
        return awaited.note(self._driver, run_ids, entry)

    def stand(self, run_ids: Sequence[str]) -> dict[str, Stand]:
        """How these runs stand; those that are not there are left out."""
        return awaited.stand(self._driver, run_ids)

    def at_rest(self, run_ids: Sequence[str]) -> list[AtRest]:
        """Those of the runs that are at rest, with the outputs of those that succeeded where those were read along."""
        found = awaited.at_rest(self._driver, run_ids)
        # Of one alone, and on SQLite, where another question costs nothing; else each caller reads what is large.
        apart = len(found) == 1 or self._driver.is_sqlite
        return [self._with_outputs(one) for one in found] if apart else found

    def _with_outputs(self, one: AtRest) -> AtRest:
        has_result = one.saved is None and one.run.status is RunStatus.SUCCEEDED
        return one._replace(saved=self.outputs(one.run.id)) if has_result else one

    def notify(self, token: str, text: str) -> None:
        """Tell a listener by way of the database (PostgreSQL)."""
        awaited.notify(self._driver, token, text)

    def listen(self, token: str) -> Listening | None:
        """A connection on which PostgreSQL tells; None where it cannot: SQLite, and behind a pooler."""
        return listening(self.database, token)

    # --- who is alive -------------------------------------------------------------------------------------------------

    def join(self, identity: Identity, lease_seconds: float, profile: Profile | None = None) -> str:
        """A new owner; ``profile``: what it knows and serves. What others handed back, and it knows, is due now."""
        owner = self._do(lambda c: owners.register(c, identity, lease_seconds, profile))
        # After it has joined: what is handed back from now on finds it in the roster.
        while profile is not None and self._do(lambda c: handed_back.hasten(c, profile)):
            pass
        return owner

    def put_off(self, run_ids: Sequence[str]) -> None:
        """Let what was handed back in these runs rest: no live worker knows it."""
        self._do(lambda c: handed_back.put_off(c, run_ids))

    def renew(self, owner: str, lease_seconds: float) -> float | None:
        """Renew a lease; returns the database's time, or None: declared dead."""
        return self._do(lambda c: owners.renew(c, owner, lease_seconds))

    def served(self, queues: dict[str, float]) -> None:
        """Note up to when the nudges of each queue were served. Apart from the lease, which waits for no row that all
        processes write, and for no mistake in it.
        """
        self._do(lambda c: by_queue.served(c, queues))

    def freed(self, queues: Iterable[str]) -> None:
        """A worker of these queues has nothing to do."""
        self._do(lambda c: by_queue.freed(c, queues))

    def move_times(self, by: float, window: float, lease_seconds: float) -> bool:
        """The clock was found to have moved: stored times of what is under way move along, once."""
        return self._do(lambda c: moved.follow(c, by, window, lease_seconds))

    def retire(self, owner: str) -> None:
        """Nothing of it acts any more."""
        self._do(lambda c: owners.retire(c, owner))

    def mark_killed(self, boot: str, pid: int) -> tuple[str, ...]:
        """A process was seen to end."""
        return self._do(lambda c: owners.mark_killed(c, boot, pid))

    def mark_expired(self, slack: float = 0.0) -> tuple[str, ...]:
        """Leases that ran out ``slack`` seconds ago."""
        return self._do(lambda c: owners.mark_expired(c, slack))

    def judge(self, by: str) -> tuple[str, ...]:
        """Leases that ran out, judged by an owner that has renewed for a lease without a gap."""
        return self._do(lambda c: owners.judge(c, by))

    def released(self, owner: str) -> None:
        """Nothing waits for it any more."""
        self._do(lambda c: owners.released(c, owner))

    # --- recovery -----------------------------------------------------------------------------------------------------

    def my_tick(self, name: str, every: float) -> bool:
        """Whether it is this process's turn: at most one of all processes has it in ``every`` seconds."""
        return self._do(lambda c: recovery.my_tick(c, name, every))

    def unpublish(self, nudges: tuple[Nudge, ...]) -> None:
        """Record that the broker refused these messages: the sweep publishes them."""
        self._do(lambda c: recovery.unpublish(c, nudges))

    def forget_traces(self, older_than_seconds: float) -> int:
        """Delete where attempts raised that ended before and what they logged, some at a time; returns of how many."""
        return self._do(lambda c: retention.forget_traces(c, older_than_seconds))

    def prune(
        self,
        older_than_seconds: float,
        *,
        batch: int = BATCH,
        key_seconds: float = KEY_SECONDS,
        sleep: Callable[[float], None],
    ) -> Pruned:
        """Delete at most ``batch`` runs that ended before, and expired business keys; the runs' own keys stay taken for
        ``key_seconds``.
        """
        return retention.prune(
            self.database, self._audit, older_than_seconds, sleep, batch=batch, key_seconds=key_seconds
        )
