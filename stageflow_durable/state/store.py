"""The store that the engine works with: each method is one transaction.

A method first tries without the run's lock where that may be enough (``unlocked``), and else takes the lock
(``apply.transact``). What it writes is decided by a function of ``transitions``. What concerns owners is inherited from
``owning``, what only reads from ``reading``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection

from stageflow_durable.errors import UnknownRun
from stageflow_durable.idempotency.keys import Scope
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.roster import Profile
from stageflow_durable.model.status import Cause, ParkReason
from stageflow_durable.model.work import Done, Fenced, Nudge, Refusal, Refused, Waiting, Work
from stageflow_durable.state import (
    batch,
    definitions,
    idempotency_keys,
    owners,
    progress,
    recovery,
    retention,
    runs,
)
from stageflow_durable.state import fork as forking
from stageflow_durable.state import recall as recalling
from stageflow_durable.state.address import usable
from stageflow_durable.state.apply import transact, transact_all
from stageflow_durable.state.batch import Answer
from stageflow_durable.state.database import Database
from stageflow_durable.state.driver import Driver
from stageflow_durable.state.endings import await_ends
from stageflow_durable.state.item_transactions import Decide, Items, Place
from stageflow_durable.state.nested import after_commit, session_on
from stageflow_durable.state.owning import Owning
from stageflow_durable.state.recovery import STRANGERS, Missed, StrandRef
from stageflow_durable.state.runs import Created
from stageflow_durable.state.unlocked import Unlocked
from stageflow_durable.transitions import fail as failing
from stageflow_durable.transitions import finish, items, operate, retry, start, undo
from stageflow_durable.transitions import sleep as sleeping
from stageflow_durable.transitions import take as taking
from stageflow_durable.transitions import wake as waking
from stageflow_durable.transitions.accept import NewRun
from stageflow_durable.transitions.attempt import Claimant, Failure, Kept
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.facts import Facts, Part
from stageflow_durable.transitions.fence import is_mine
from stageflow_durable.transitions.rows import HeldKey
from stageflow_durable.transitions.sleep import is_asleep

T = TypeVar("T")
Ending: TypeAlias = Done | Waiting | Fenced


@dataclass(frozen=True, slots=True)
class BusinessKey:
    """A stage's key across runs, and the parameters that must be equal under it (``params``: encoded text)."""

    scope: Scope
    key: str
    fingerprint: str
    params: str
    ttl_seconds: float


class Store(Owning):
    """Runs and everything about them, in one database."""

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
        self._unlocked = Unlocked(self._driver, audit_key, hints=self._hints) if optimistic else None
        self._batches = batches
        self._items = Items(database, audit_key)

    def require_usable(self) -> None:
        """Raise ConfigurationError where the database's driver is missing, or its URL has options that it does not
        know. Nothing is connected.
        """
        usable(self.database.url)

    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""
        self._driver.close()
        self.database.dispose()

    @property
    def _in_session(self) -> bool:
        """Whether the caller is a stage whose own session holds the only write lock of SQLite."""
        return self.database.is_sqlite and session_on(self.database.url) is not None

    def after_commit(self, action: Callable[[], object]) -> bool:
        """Run ``action`` after the commit of the calling stage, if what it wrote here commits with it. Returns whether
        it will run.
        """
        return self.database.is_sqlite and after_commit(self.database.url, action)

    # --- accepting runs -----------------------------------------------------------------------------------------------

    def register(self, plans: Sequence[Plan], boot: str | None = None, profile: Profile | None = None) -> None:
        """Store definitions. ``boot`` and ``profile``: of a worker that starts with them; its first child makes them
        the newest.
        """
        with self.database.transaction() as connection:
            for plan in plans:
                definitions.register(connection, plan)
            if boot is not None and not (profile is not None and owners.booted(connection, boot, profile)):
                definitions.deployed(connection, plans)

    def create(self, new: NewRun) -> Created:
        """Record a run, or find the one that has its key."""
        created = None if self._unlocked is None or self._in_session else self._unlocked.create(new)
        return created or self._do(lambda c: runs.create(c, new, self._audit, hints=self._hints))

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
        except batch.Broken as broken:
            return broken.answers

    # --- the path of a stage ------------------------------------------------------------------------------------------

    def begin(self, nudge: Nudge, claimant: Claimant) -> Work | Refused:
        """Begin what the message names, or say why not."""
        if nudge.item:
            begin = partial(items.begin, nudge=nudge, claimant=claimant)
            place = Place(nudge.run_id, nudge.strand, nudge.item)
            decided = self._items.decide(place, lambda facts, run: begin(facts, run=run), claimant.owner)
        else:
            begun = self._unlocked.begin(nudge, claimant) if self._unlocked is not None else None
            if begun is not None:
                return begun
            decided = self._transact(
                nudge.run_id,
                lambda facts: start.begin(facts, nudge, claimant),
                needs=(Part.STRANDS, Part.ALIVE, Part.ATTEMPTS),
                me=claimant.owner,
            )
        if not isinstance(decided, Change):
            return decided or Refused(Refusal.GONE)
        if decided.refused is not None:
            return replace(decided.refused, nudges=decided.nudges)
        assert decided.granted is not None
        return decided.granted

    def succeed(
        self,
        work: Work,
        claimant: Claimant,
        delta: str | None,
        *,
        skipped: bool = False,
        replayed: bool = False,
        doubt: bool = False,
        events: Kept = (),
        go_on: bool = False,
        key: BusinessKey | None = None,
        session: Any = None,
    ) -> Done | Fenced:
        """Save a stage's success, and begin the next stage if ``go_on`` and it is granted. ``session``: the body's own
        transaction, which commits with the outcome or not at all.
        """
        if work.item:
            given: dict[str, Any] = {"delta": delta, "skipped": skipped, "replayed": replayed, "doubt": doubt}
            given["events"] = events
            ended = self._end_item(work, lambda facts, run: items.succeed(facts, work, **given, run=run), session)
            assert not isinstance(ended, Waiting)
            return ended

        def decide(facts: Facts) -> Change | Fenced:
            next_in = claimant if go_on else None
            held = None if key is None else _held(key, work)
            how = {"skipped": skipped, "replayed": replayed, "doubt": doubt}
            return finish.succeed(facts, work, next_in, delta, **how, events=events, key=held)

        special = skipped or replayed or doubt or events or work.undoing
        plain = delta is not None and not special and key is None
        if session is None:
            done: Ending | None = None
            if self._unlocked is not None and plain and not self._in_session:
                done = self._unlocked.succeed(work, claimant, str(delta), go_on=go_on)
            done = done or self._end(work, decide, me=claimant.owner)
        else:
            done = session.commit_with(
                lambda c: _ending(transact(c, work.run.id, decide, self._audit, needs=_ENDING, me=claimant.owner))
            )
        assert not isinstance(done, Waiting)
        return done

    def wait(
        self, work: Work, failure: Failure, delay: float, drawn: float, events: Kept = ()
    ) -> Waiting | Done | Fenced:
        """Try again later."""
        if work.item:
            given = (work, failure, delay, drawn, events)
            return self._end_item(work, lambda facts, run: items.wait(facts, *given, run=run))
        return self._end(work, lambda facts: retry.wait(facts, work, failure, delay, drawn, events))

    def sleep(self, work: Work, until: float, events: Kept = ()) -> Done | Fenced:
        """Let a stage sleep ``until`` what its function said, in seconds since the epoch."""
        done = self._end(work, lambda facts: sleeping.sleep_until(facts, work, until, events))
        assert not isinstance(done, Waiting)
        return done

    def postpone(self, work: Work, delay: float) -> Waiting | Done | Fenced:
        """Give back an attempt whose body was not called."""
        return self._end(work, lambda facts: retry.postpone(facts, work, delay))

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
    ) -> Ending:
        """The stage failed for good."""
        if work.item:
            how: dict[str, Any] = {"cause": cause, "park": park, "exhausted": exhausted, "events": events}
            return self._end_item(work, lambda facts, run: items.fail(facts, work, failure, **how, run=run))
        held = None if key is None else _held(key, work)
        return self._end(
            work,
            lambda facts: failing.fail(
                facts, work, failure, cause=cause, park=park, exhausted=exhausted, events=events, key=held
            ),
        )

    def undo_done(self, work: Work, claimant: Claimant, *, go_on: bool, key: BusinessKey | None = None) -> Ending:
        """The undo is done."""
        if work.item:
            return self._end_item(work, lambda facts, run: items.undo_done(facts, work, run=run))
        held = None if key is None else _held(key, work)
        return self._end(
            work, lambda facts: undo.undo_done(facts, work, claimant if go_on else None, key=held), me=claimant.owner
        )

    def undo_failed(self, work: Work, claimant: Claimant, failure: Failure, *, go_on: bool) -> Ending:
        """The undo failed for good."""
        if work.item:
            return self._end_item(work, lambda facts, run: items.undo_failed(facts, work, failure, run=run))
        return self._end(
            work, lambda facts: undo.undo_failed(facts, work, claimant if go_on else None, failure), me=claimant.owner
        )

    def open_items(
        self, work: Work, inputs: Sequence[str], *, collects: bool = False, events: Kept = ()
    ) -> Done | Fenced:
        """Carry out the stage of an attempt once for each of ``inputs`` instead: see ``Items.open``."""
        done = _ending(self._items.open(work, inputs, collects=collects, events=events, needs=_ENDING))
        assert not isinstance(done, Waiting)
        return done

    def _end_item(self, work: Work, decide: Decide[Change | Fenced], session: Any = None) -> Ending:
        return _ending(self._items.decide(Place(work.run.id, work.strand, work.item), decide, session=session))

    def recall(self, work: Work, owner: str) -> Work | bool:
        """Look up a commit whose answer was lost: the granted attempt if it went through and granted one, True if it
        went through, else False.
        """
        return self._do(lambda c: recalling.recall(c, work, owner))

    def claim_key(self, work: Work, key: BusinessKey) -> Any:
        """Claim a business key for the stage; returns what stands in the way if it is taken. Fenced if the owner no
        longer holds the stage: a paused worker must not claim a key for a run that is over.
        """

        def claim(connection: Connection) -> Any:
            mine = transact(connection, work.run.id, lambda facts: is_mine(facts, work), self._audit)
            if not mine:
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
        self._transact(run_id, lambda facts: waking.note(facts, kind, dict(data)), needs=())

    def _transact(
        self, run_id: str, decide: Callable[[Facts], T], *, needs: tuple[Part, ...] = (Part.STRANDS,), me: str = ""
    ) -> T | None:
        return self._do(lambda c: transact(c, run_id, decide, self._audit, needs=needs, me=me))

    def _end(self, work: Work, decide: Callable[[Facts], Change | Fenced], me: str = "") -> Ending:
        change = None if self._unlocked is None or self._in_session else self._unlocked.end(work, decide)
        return _ending(change or self._transact(work.run.id, decide, needs=_ENDING, me=me))

    def report(self, work: Work, text: str) -> None:
        """Show a stage's progress."""
        self._do(lambda c: progress.report(c, work, text))

    # --- recovery -----------------------------------------------------------------------------------------------------

    def my_tick(self, name: str, every: float) -> bool:
        """Whether it is this process's turn: at most one of all processes has it in ``every`` seconds."""
        return self._do(lambda c: recovery.my_tick(c, name, every))

    def note_strangers(self, queue: str) -> None:
        """Record that messages of this queue named runs that are not in this database; ``doctor`` reports it."""
        self._do(lambda c: recovery.my_tick(c, f"{STRANGERS}{queue}"[:255], 0.0))

    def take(self, place: StrandRef, max_lost: int) -> tuple[Nudge, ...] | None:
        """Take a strand from its dead owner; returns what to publish, or None if there was nothing to take."""

        def decide(facts: Facts) -> Change | None:
            return taking.take(facts, place.strand, place.gen, max_lost=max_lost)

        def act(connection: Connection) -> Change | None:
            needs = (Part.STRANDS, Part.OWNERS, Part.ATTEMPTS)
            taken = transact(connection, place.run, decide, self._audit, needs=needs)
            await_ends(connection, taken)
            return taken

        taken = self._items.take(place, max_lost) if place.item else self._do(act)
        return None if taken is None else taken.nudges

    def wake(self, places: Sequence[StrandRef]) -> list[tuple[Nudge, ...]]:
        """Make due strands ready, and end sleeps; returns what to publish for each."""
        sleeps: list[StrandRef] = []
        of_runs = [place for place in places if not place.item]

        def decide(facts: Facts, place: StrandRef) -> Change | None:
            row = facts.strands.get(place.strand)
            if row is not None and is_asleep(facts.plan, row):
                sleeps.append(place)  # its run moves on: that needs more facts than the strands
                return None
            return waking.wake(facts, place.strand, place.gen)

        def act(connection: Connection) -> list[Change]:
            sleeps.clear()
            woken = transact_all(connection, [(place.run, place) for place in of_runs], decide, self._audit)
            return woken + [change for place in sleeps if (change := self._end_sleep(connection, place)) is not None]

        woken = self._do(act) if of_runs else []
        woken += self._items.wake([place for place in places if place.item])
        return [change.nudges for change in woken]

    def _end_sleep(self, connection: Connection, place: StrandRef) -> Change | None:
        needs = (Part.STRANDS, Part.SAVED, Part.NEWEST)
        wake = partial(waking.wake, strand=place.strand, gen=place.gen)
        return transact(connection, place.run, wake, self._audit, needs=needs)

    def nudged(self, sent: Sequence[Missed]) -> int:
        """Record that the broker took these messages again; returns how many were still as they were found."""

        def decide(facts: Facts, one: Missed) -> Change | None:
            return waking.published_again(facts, one.nudge.strand, one.nudge.gen, one.published_at, one.nudges)

        given = [(one.nudge.run_id, one) for one in sent if not one.nudge.item]
        noted = len(self._do(lambda c: transact_all(c, given, decide, self._audit))) if given else 0
        return noted + self._items.nudged([one for one in sent if one.nudge.item])

    def unpublish(self, nudges: tuple[Nudge, ...]) -> None:
        """Record that the broker refused these messages: the sweep publishes them."""
        self._do(lambda c: recovery.unpublish(c, nudges))

    def expire(self, run_id: str) -> tuple[Nudge, ...]:
        """Stop a run that is past its deadline."""
        stopped = self._transact(run_id, waking.expire, needs=())
        return () if stopped is None else stopped.nudges

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

    def order(self, order: operate.Order) -> tuple[Nudge, ...]:
        """Cancel, compensate or resume. Raises UnknownRun, OperatorConflict, NotAllowed."""
        verb = _VERBS[order.verb]
        return self._ordered(order, lambda facts: verb(facts, order))

    def settle(self, order: operate.Order, stage: str, delta: str | None) -> tuple[Nudge, ...]:
        """Record what a person found out."""
        return self._ordered(order, lambda facts: operate.settle(facts, order, stage, delta))

    def _ordered(self, order: operate.Order, decide: Callable[[Facts], Change]) -> tuple[Nudge, ...]:
        needs = (Part.STRANDS, Part.SAVED, Part.STEPS, Part.ATTEMPTS)
        changed = self._transact(order.run_id, decide, needs=needs)
        if changed is None:
            raise UnknownRun(f"no run {order.run_id}")
        return changed.nudges

    def fork(self, wanted: forking.Fork) -> Created:
        """A new run from the checkpoints of another."""
        return self._do(lambda c: forking.fork(c, wanted, self._audit))


_ENDING = (Part.STRANDS, Part.ATTEMPTS, Part.SAVED, Part.STEPS)
"""The facts that the end of an attempt needs."""

_VERBS = {"cancel": operate.cancel, "compensate": operate.compensate, "resume": operate.resume}


def _held(key: BusinessKey, work: Work) -> HeldKey:
    return HeldKey(key.scope.client_id, key.scope.operation, key.key, work.stage, key.ttl_seconds)


def _ending(decided: Change | Fenced | None) -> Ending:
    """What the owner of an attempt gets back for its end."""
    if not isinstance(decided, Change):
        return Fenced()
    if decided.due_in is not None:
        return Waiting(decided.nudges[0], decided.due_in)
    return Done(decided.granted, decided.nudges, decided.ended)
