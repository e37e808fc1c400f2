"""The store in memory: runs and everything about them in the dictionaries of one process.

It applies the very changes that the SQL store applies, and looks at rows by the same conditions, without SQL: for the
simulation, for tests, and as the example for whoever writes a store. It does not promise durability, and it serves one
process: the threads of that process take turns. A stage has no ``ctx.session``, since there is no database for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from threading import RLock
from typing import Concatenate, NoReturn, ParamSpec, TypeVar

from stageflow_durable.errors import ConfigurationError, StageflowError
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.roster import Profile, Roster
from stageflow_durable.model.run import RunSummary
from stageflow_durable.model.work import Work
from stageflow_durable.store.base import BaseStore
from stageflow_durable.store.carrying import Broken, created_in, is_same, other_run
from stageflow_durable.store.memory import audit, awaiting, definitions, owners, reading, retention, scans, sinks, slots
from stageflow_durable.store.memory.rows import Tables
from stageflow_durable.store.memory.transaction import MemoryTransaction
from stageflow_durable.store.transaction import Transaction
from stageflow_durable.store.values import BATCH, KEY_SECONDS, Answer, Checked, Created, Identity, Pruned
from stageflow_durable.store.verification import Heads
from stageflow_durable.transitions.accept import NewRun, first_nudges
from stageflow_durable.transitions.fence import holds

P = ParamSpec("P")
T = TypeVar("T")


def _at_once(
    action: Callable[Concatenate[Tables, float, P], T],
) -> Callable[Concatenate[MemoryStore, P], T]:
    """A method that calls ``action`` with the rows and the time, as one transaction."""

    @wraps(action)
    def method(self: MemoryStore, /, *given: P.args, **options: P.kwargs) -> T:
        return self._write(lambda: action(self._tables, self.clock(), *given, **options))

    return method


class MemoryStore(BaseStore):
    """A :class:`~stageflow_durable.store.protocol.Store` in memory.

    ``audit_key`` and ``old_audit_keys``: seal and check histories. ``clock``: seconds since the epoch.
    """

    def __init__(
        self,
        audit_key: bytes = b"",
        old_audit_keys: Sequence[bytes] = (),
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._audit, self._old_audits = audit_key, tuple(old_audit_keys)
        self._clock = clock
        self._lock = RLock()
        self._tables = self._new_tables()
        self._transaction = MemoryTransaction(self._tables, clock, audit_key, self._old_audits)

    def _new_tables(self) -> Tables:
        return Tables()

    def clock(self) -> float:
        """The store's time, in seconds since the epoch."""
        return self._clock()

    def require_usable(self) -> None:
        """Nothing: it works everywhere."""

    def close(self) -> None:
        """Nothing is open. What it holds stays, as long as the object does."""

    def open_session(self) -> NoReturn:
        """Refused: raises ConfigurationError."""
        raise ConfigurationError("ctx.session: the store is in memory and has no database; use one on SQLite")

    def after_commit(self, action: Callable[[], object]) -> bool:
        """Nothing commits with a stage of this store: returns False."""
        return False

    def before_joining(self, ready: Callable[[], object]) -> None:
        """Nothing: :meth:`joined` refuses."""

    def joined(self, session: object, connection: object, ready: Callable[[], object]) -> NoReturn:
        """Refused: raises ConfigurationError."""
        raise ConfigurationError("session=: the store is in memory and takes part in no transaction; use one on SQLite")

    def _write(self, action: Callable[[], T]) -> T:
        with self._lock:
            try:
                answer = action()
            except BaseException:
                self._tables.journal.roll_back()
                raise
            self._tables.journal.commit()
            return answer

    def _within(self, action: Callable[[Transaction], T]) -> T:
        return self._write(lambda: action(self._transaction))

    # --- definitions, owners ------------------------------------------------------------------------------------------

    register = _at_once(definitions.register)
    renew = _at_once(owners.renew)
    served = _at_once(owners.served)
    freed = _at_once(owners.freed)
    retire = _at_once(owners.retire)
    mark_killed = _at_once(owners.mark_killed)
    mark_expired = _at_once(owners.mark_expired)
    judge = _at_once(owners.judge)
    may_judge = _at_once(owners.may_judge)
    awaited = _at_once(owners.awaited)
    released = _at_once(owners.released)
    my_tick = _at_once(owners.my_tick)

    def join(self, identity: Identity, lease_seconds: float, profile: Profile | None = None) -> str:
        """A new owner; returns its id. What others handed back, and it knows, is due now."""

        def act() -> str:
            owner = owners.join(self._tables, self.clock(), identity, lease_seconds, profile)
            if profile is not None:
                scans.hasten(self._tables, self.clock(), profile)
            return owner

        return self._write(act)

    def roster(self) -> Roster:
        """What the live workers know and serve."""
        return self._write(lambda: definitions.roster(self._tables, self.clock()))

    # --- runs ---------------------------------------------------------------------------------------------------------

    def create_many(self, news: Sequence[NewRun], *, whole: bool = False) -> list[Answer]:
        """Record many runs, or find those that have their keys; returns an answer for each. ``whole``: record nothing
        if one of them is refused.
        """

        def act() -> list[Answer]:
            answers = [self._created(new) for new in news]
            if whole and any(isinstance(answer, StageflowError) for answer in answers):
                raise Broken(answers)
            return answers

        try:
            return self._write(act)
        except Broken as broken:
            return broken.answers

    def _created(self, new: NewRun) -> Answer:
        there = self._tables.runs.get(new.id)
        if there is None or new.key is not None:
            return created_in(self._transaction, new)
        if not is_same(new, there):
            raise other_run(new.id)
        # From a call whose answer was lost: nobody has published it.
        return Created(new.id, False, tuple(nudge._replace(hint=None) for nudge in first_nudges(new)))

    def report(self, work: Work, text: str) -> None:
        """Show a stage's progress (JSON text); refused, silently, once the attempt is over."""

        def act() -> None:
            row = self._tables.strands.get((work.run.id, work.strand, work.item))
            if row is not None and holds(work, row):
                self._tables.strands.put((row.run, row.strand, row.item), row._replace(progress=text))

        self._write(act)

    # --- who awaits runs ----------------------------------------------------------------------------------------------

    note_awaiting = _at_once(awaiting.note)
    stand = _at_once(awaiting.stand)
    at_rest = _at_once(awaiting.at_rest)

    def notify(self, token: str, text: str) -> None:
        """Nobody listens by way of this store."""

    def listen(self, token: str) -> None:
        """It tells nobody: whoever awaits a run looks by itself."""

    # --- sinks --------------------------------------------------------------------------------------------------------

    open_sink = _at_once(sinks.opened)
    horizon = _at_once(sinks.horizon)
    news = _at_once(sinks.news)
    take_sink = _at_once(sinks.taken)
    advance_sink = _at_once(sinks.advanced)
    sink_refused = _at_once(sinks.refused)
    leave_sink = _at_once(sinks.left)
    free_sinks = _at_once(sinks.freed)
    forget_sink = _at_once(sinks.forgotten)
    sinks = _at_once(sinks.seen)

    # --- sweeps -------------------------------------------------------------------------------------------------------

    overdue = _at_once(scans.overdue)
    unmoved = _at_once(scans.unmoved)
    untended = _at_once(slots.untended)
    limits = _at_once(slots.states)
    next_wait = _at_once(scans.next_wait)
    next_due = _at_once(scans.next_due)
    undelivered = _at_once(scans.undelivered)
    missed = _at_once(scans.missed)
    unpublish = _at_once(scans.unpublish)
    waits = _at_once(scans.waits)
    put_off = _at_once(scans.put_off)
    runs_waiting_for = _at_once(scans.runs_waiting_for)
    strangers = _at_once(scans.strangers)
    move_times = _at_once(scans.move_times)
    prunable = _at_once(retention.prunable)
    forget_traces = _at_once(retention.forget_traces)

    def prune(
        self,
        older_than_seconds: float,
        *,
        batch: int = BATCH,
        key_seconds: float = KEY_SECONDS,
        sleep: Callable[[float], None],
    ) -> Pruned:
        """Delete at most ``batch`` runs that ended before, and expired business keys; the runs' own keys stay taken for
        ``key_seconds``. Nothing is under way meanwhile, so ``sleep`` is not called.
        """
        return self._write(
            lambda: retention.prune(
                self._tables, self.clock(), self._audit, older_than_seconds, batch=batch, key_seconds=key_seconds
            )
        )

    # --- people -------------------------------------------------------------------------------------------------------

    full_id = _at_once(reading.full_id)
    facts = _at_once(reading.facts)
    plan = _at_once(reading.plan)
    described = _at_once(reading.described)
    pipelines = _at_once(reading.pipelines)
    tallies = _at_once(reading.tallies)
    measured = _at_once(reading.measured)
    counted = _at_once(reading.counted)
    keyed = _at_once(reading.keyed)
    clients = _at_once(reading.clients)
    queued = _at_once(reading.queued)
    pooled = _at_once(reading.pooled)
    waiting_for_signal = _at_once(reading.waiting_for_signal)
    phase = _at_once(reading.phase)
    outputs = _at_once(reading.outputs)
    link = _at_once(reading.link)
    outcome_of = _at_once(reading.outcome_of)
    calls = _at_once(reading.calls)
    run = _at_once(reading.run)
    history = _at_once(reading.history)
    summaries = _at_once(reading.summaries)
    pages = _at_once(reading.pages)
    found = _at_once(reading.found)
    standings = _at_once(reading.standings)
    stuck = _at_once(reading.stuck)
    unserved = _at_once(reading.unserved)
    unapproved = _at_once(reading.unapproved)
    unconfirmed = _at_once(reading.unconfirmed)
    workers = _at_once(reading.workers)
    heads = _at_once(reading.heads)

    def misfits(self, plans: Sequence[Plan]) -> list[tuple[RunSummary, str]]:
        """Unfinished runs that could not go on under these definitions, and why."""
        return self._write(lambda: reading.misfits(self._transaction, plans))

    @property
    def has_audit_key(self) -> bool:
        """Whether histories are sealed with a key."""
        return bool(self._audit)

    def audit(self, run_ids: Sequence[str] | None, heads: Heads) -> Iterator[Checked]:
        """Check the chains of runs (None: of all), one after another."""
        keys = (self._audit, *self._old_audits)
        return iter(self._write(lambda: audit.audit(self._tables, keys, run_ids, heads)))
