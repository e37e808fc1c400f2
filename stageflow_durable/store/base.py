"""The verbs of a store: those of ``carrying``, and what sweeps and people do. One text for every store, which adds how
a transaction reads and writes (:class:`~stageflow_durable.store.transaction.Transaction`), and how it looks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, TypeVar

from stageflow_durable.errors import (
    NotAllowed,
    StoreUnavailable,
    UnknownRun,
)
from stageflow_durable.model.attributes import Attributes
from stageflow_durable.model.limits import PoolId
from stageflow_durable.model.work import Fenced, Nudge, Work
from stageflow_durable.store.carrying import Carrying, created, held_by, run_or_raise
from stageflow_durable.store.chains import UNKNOWN_KEY
from stageflow_durable.store.transaction import Transaction, transact
from stageflow_durable.store.values import Created, Fork, LimitWord, Missed, Received, Stepped, StrandRef
from stageflow_durable.transitions import accept as accepting
from stageflow_durable.transitions import approval, callback, calls, items, operate
from stageflow_durable.transitions import fork as forking
from stageflow_durable.transitions import repair as repairing
from stageflow_durable.transitions import take as taking
from stageflow_durable.transitions import wake as waking
from stageflow_durable.transitions.accept import NewRun, Origin
from stageflow_durable.transitions.callback import Call
from stageflow_durable.transitions.change import Change, How, Table, woken_by
from stageflow_durable.transitions.draft import note
from stageflow_durable.transitions.facts import Facts, Part
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED, CallRow, EndedOwner, SignalRow, SlotRow
from stageflow_durable.transitions.signal import Sent, receive
from stageflow_durable.transitions.waiting import needs_no_worker

T = TypeVar("T")

STRANGERS = "strangers in "
"""Prefix of the names of ticks that record when a message of an unknown run was dropped; the queue's name follows."""

_VERBS = {"cancel": operate.cancel, "compensate": operate.compensate, "resume": operate.resume}
_COPIED = ("delta", "saved_schema", "at")


class BaseStore(Carrying):
    """What every store does alike: each method is one transaction."""

    @abstractmethod
    def my_tick(self, name: str, every: float) -> bool:
        """Whether it is this process's turn: at most one of all processes has it in ``every`` seconds."""

    # --- recovery -----------------------------------------------------------------------------------------------------

    def note_strangers(self, queue: str) -> None:
        """Record that messages of this queue named runs that are not in this store; ``doctor`` reports it."""
        self.my_tick(f"{STRANGERS}{queue}"[:255], 0.0)

    def take(self, place: StrandRef, max_lost: int) -> tuple[Nudge, ...] | None:
        """Take a strand from its dead owner; returns what to publish, or None if there was nothing to take."""

        def act(t: Transaction) -> Change | None:
            needs = (Part.STRANDS, Part.OWNERS, Part.ATTEMPTS)
            take = partial(taking.take, strand=place.strand, gen=place.gen, max_lost=max_lost)
            taken = transact(t, place.run, take, needs=needs)
            _await_ends(t, taken)
            return taken

        if place.item:
            taken = self._of_item(
                (place.run, place.strand, place.item),
                lambda facts, run: items.take(facts, place.strand, place.gen, max_lost=max_lost, run=run),
                then=_await_ends,
            )
        else:
            taken = self._follow_up(self._within(act))
        return None if taken is None else taken.nudges

    def wake(self, places: Sequence[StrandRef]) -> list[tuple[Nudge, ...]]:
        """Make due strands ready, and end sleeps and waits; returns what to publish for each."""
        ended_waits: list[StrandRef] = []
        of_runs = [place for place in places if not place.item]

        def decide(facts: Facts, place: StrandRef) -> Change | None:
            row = facts.strands.get(place.strand)
            if row is not None and needs_no_worker(facts.plan, row):
                ended_waits.append(place)  # its run moves on: that needs more facts than the strands
                return None
            return waking.wake(facts, place.strand, place.gen)

        def act(t: Transaction) -> list[Change]:
            ended_waits.clear()
            woken = t.transact_all([(place.run, place) for place in of_runs], decide)
            return woken + [change for place in ended_waits if (change := _end_wait(t, place)) is not None]

        woken = self._within(act) if of_runs else []
        for change in woken:
            self._notify_of(change)
        for place in places:
            if place.item:  # each under its group's lock, not under its run's
                one = self._of_item((place.run, place.strand, place.item), _waking(place))
                woken += [] if one is None else [one]
        return [change.nudges for change in woken]

    def _follow_up(self, decided: T) -> T:
        self._notify_of(decided)
        if isinstance(decided, Change) and (woken := woken_by(decided)):
            return decided._replace(nudges=(*decided.nudges, *self._wake_for_slots(woken)))
        return decided

    def _wake_for_slots(self, waiting: Sequence[SlotRow]) -> tuple[Nudge, ...]:
        """Let these ask again; returns what to publish. While the store is away nothing is lost: the sweep finds to
        whom a slot was offered.
        """
        places = [StrandRef(row.run, row.strand, row.gen, row.stage) for row in waiting]
        try:
            return tuple(nudge for nudges in self.wake(list(dict.fromkeys(places))) for nudge in nudges)
        except StoreUnavailable:
            return ()

    def tend(self, pool: PoolId) -> tuple[Nudge, ...]:
        """Free the slots of what cannot act any more, and offer what is free; returns what to publish."""
        woken = self._within(lambda t: t.tend(pool))
        return self._wake_for_slots(woken) if woken else ()

    def say_of_limit(self, word: LimitWord) -> tuple[Nudge, ...]:
        """Pause, resume or set a limit; returns what to publish. Raises NotAllowed where nothing has that name."""
        found = self._within(lambda t: t.say_of_limit(word))
        if found is None:
            why = "nothing has that name: a stage that has the limit has not run yet, or it is misspelt"
            raise NotAllowed(word.name, "change", why, of="limit")
        return tuple(nudge for pool in found for nudge in self.tend(pool))

    def nudged(self, sent: Sequence[Missed]) -> int:
        """Record that the broker took these messages again; returns how many were still as they were found."""

        def decide(facts: Facts, one: Missed) -> Change | None:
            return waking.published_again(facts, one.nudge.strand, one.nudge.gen, one.published_at, one.nudges)

        given = [(one.nudge.run_id, one) for one in sent if not one.nudge.item]
        changes = self._within(lambda t: t.transact_all(given, decide)) if given else []
        for change in changes:
            self._notify_of(change)
        noted = len(changes)
        for one in sent:
            if one.nudge.item:
                place = one.nudge.run_id, one.nudge.strand, one.nudge.item
                noted += self._of_item(place, lambda facts, _run, one=one: decide(facts, one)) is not None  # type: ignore[misc]  # bound now
        return noted

    def expire(self, run_id: str) -> tuple[Nudge, ...]:
        """Stop a run that is past its deadline."""
        stopped = self._transact(run_id, waking.expire, needs=())
        return () if stopped is None else stopped.nudges

    def release(self, run_id: str, owner: str) -> tuple[Nudge, ...]:
        """Let undos begin that waited for the end of an owner, if it is confirmed."""

        def act(t: Transaction) -> Change | None:
            row = t.owner(owner)
            if row is None or not row.confirmed:
                return None
            ended = EndedOwner(row.id, row.host, row.pid, row.confirmed_by, row.confirmed_reason)
            return transact(t, run_id, lambda facts: taking.release(facts, ended), needs=(Part.STRANDS, Part.ATTEMPTS))

        change = self._within(act)
        self._notify_of(change)
        return () if change is None else change.nudges

    def repair(self, run_id: str) -> tuple[Nudge, ...] | None:
        """Let a run move again that nothing would move; returns what to publish, or None if something will."""
        needs = (Part.STRANDS, Part.SAVED, Part.STEPS, Part.ATTEMPTS)
        repaired = self._transact(run_id, repairing.repair, needs=needs)
        return None if repaired is None else repaired.nudges

    # --- steps of a body ----------------------------------------------------------------------------------------------

    def save_call(self, work: Work, call: CallRow, told: dict[str, Any], *, doubt: bool = False) -> Stepped | Fenced:
        """Decided in ``transitions/calls``. First without the lock: an attempt that runs alone needs no more facts than
        it has in hand.
        """

        def decide(facts: Facts) -> Change | Fenced:
            return calls.save_call(facts, work, call, told, doubt=doubt)

        if work.item:
            decided = self._of_item((work.run.id, work.strand, work.item), lambda facts, _run: decide(facts))
        else:
            decided = self._end_at_once(work, decide) or self._transact(work.run.id, decide)
        if not isinstance(decided, Change):
            return Fenced()
        return Stepped(decided.seq, decided.head, decided.facts.run)

    # --- people -------------------------------------------------------------------------------------------------------

    def order(self, order: operate.Order) -> tuple[Nudge, ...]:
        """Cancel, compensate or resume. Raises UnknownRun, OperatorConflict, NotAllowed."""
        verb = _VERBS[order.verb]
        return self._ordered(order, lambda facts: verb(facts, order))

    def settle(self, order: operate.Order, stage: str, delta: str | None) -> tuple[Nudge, ...]:
        """Record what a person found out."""
        return self._ordered(order, lambda facts: operate.settle(facts, order, stage, delta))

    def _ordered(self, order: operate.Order, decide: Callable[[Facts], Change]) -> tuple[Nudge, ...]:
        def checked(facts: Facts) -> Change:
            operate.require_values(facts, order.verb)
            return decide(facts)

        needs = (Part.STRANDS, Part.SAVED, Part.STEPS, Part.ATTEMPTS)
        changed = self._transact(order.run_id, checked, needs=needs)
        if changed is None:
            raise UnknownRun(f"no run {order.run_id}")
        return changed.nudges

    def decide(
        self, order: operate.Order, stage: str, decision: str, digest: str | None, token: str | None = None
    ) -> tuple[Nudge, ...]:
        """Record what a person decided about an approval; ``token``: the hash of the link's that they used. Raises
        UnknownRun, NotAllowed, OperatorConflict, LinkRefused.
        """
        return self._ordered(order, lambda facts: approval.decide(facts, order, stage, decision, digest, token))

    def reveal(self, order: operate.Order) -> None:
        """Note that somebody is shown a run's values as they are. Raises UnknownRun."""
        self._ordered(order, lambda facts: operate.reveal(facts, order))

    def erase(self, order: operate.Order) -> None:
        """Erase a run's values; nothing happens where they are erased already. Raises UnknownRun, OperatorConflict,
        NotAllowed.
        """
        needs = (Part.STRANDS, Part.SAVED, Part.STEPS, Part.ATTEMPTS)

        def act(t: Transaction) -> Change | None:
            facts = t.lock(order.run_id, needs, "")
            if facts is None:
                raise UnknownRun(f"no run {order.run_id}")
            if facts.run.erased_at is not None:
                return None
            erased = t.apply(operate.erase(facts, order, lambda: _problems(t, order)))
            t.erase(order.run_id, erased.seq)
            return erased

        self._notify_of(self._within(act))

    def make_link(self, order: operate.Order, link: approval.NewLink) -> None:
        """Record a link by which somebody may decide about an approval. Raises UnknownRun, NotAllowed."""
        self._ordered(order, lambda facts: approval.make_link(facts, order, link))

    def signal(self, sent: Sent) -> Received:
        """Keep a signal, or end the wait that it is for. Raises UnknownRun, NotAllowed, IdempotencyParamMismatch,
        SchemaChanged.
        """
        decided = self._received(sent.run_id, lambda facts: receive(facts, sent))
        if not isinstance(decided, Change):
            return Received(decided.n, decided.received_at, True)
        number = next(row.key[-1] for row in decided.rows if row.table is Table.SIGNALS)
        return Received(number, decided.facts.clock, False, decided.nudges)

    def call_back(self, call: Call) -> Received:
        """End the wait of a stage that was called back, or keep the call for it. Raises UnknownRun, CallbackRefused,
        SchemaChanged.
        """
        decided = self._received(call.run_id, lambda facts: callback.receive(facts, call))
        if not isinstance(decided, Change):
            return Received(decided.n, decided.received_at, True)
        return Received(1, decided.facts.clock, False, decided.nudges)

    def _received(self, run_id: str, decide: Callable[[Facts], Change | SignalRow]) -> Change | SignalRow:
        decided = self._transact(run_id, decide, needs=(Part.STRANDS, Part.SAVED, Part.SIGNALS))
        if decided is None:
            raise UnknownRun(f"no run {run_id}")
        return decided

    def confirm(self, owner: str, by: str) -> bool:
        """The process of a dead owner was found to have ended; False if that was known, or it is not dead."""
        return self._within(lambda t: t.confirm(owner, by))

    def confirm_dead(self, owner: str, reason: str, actor: str) -> None:
        """The same, said by a person. Raises NotAllowed where its lease holds, or somebody said so before."""

        def act(t: Transaction) -> None:
            if not t.confirm(owner, actor, reason):
                raise _not_confirmed(owner, t.owner(owner))

        self._within(act)

    def fork(self, wanted: Fork) -> Created:
        """A new run from the checkpoints of another. Raises UnknownRun, NotAllowed, IdempotencyParamMismatch."""
        noted: list[Change] = []

        def act(t: Transaction) -> Created:
            facts = t.lock(wanted.original, (Part.SAVED, Part.STEPS, Part.REQUESTERS), "")
            if facts is None:
                raise UnknownRun(f"no run {wanted.original}")
            operate.require_values(facts, "fork")
            new, origin = _forked(facts, wanted, t.checkpoints(wanted.original), t.attributes(wanted.original))
            made = created(t.create(accepting.fork(new, facts.clock, origin)))
            if made is None:
                return run_or_raise(held_by(new, t.holder(new)))
            told = {"to": new.id, "stage": wanted.from_stage, "actor": wanted.actor, "reason": wanted.reason}
            noted[:] = [t.apply(note(facts, "operator.fork", told))]
            return made

        made = self._within(act)
        for change in noted:
            self._notify_of(change)
        return made


def _forked(facts: Facts, wanted: Fork, rows: Any, attributes: Attributes) -> tuple[NewRun, Origin]:
    run, copied = facts.run, forking.copied(facts, wanted.from_stage)
    saved = {
        row["stage"]: {**{name: row[name] for name in _COPIED}, "skipped": bool(row["skipped"])}
        for row in sorted(rows, key=itemgetter("stage"))  # an event tells of them: the same text in every store
        if row["stage"] in copied
    }
    new = NewRun(
        wanted.new_id,
        run.client_id,
        facts.plan,
        wanted.key,
        wanted.fingerprint,
        run.input,
        run.metadata,
        run.queue,
        run.priority,
        attributes=attributes,
        # Neither who asked for the original nor who forked it may approve what it does.
        requesters=tuple(sorted(facts.requesters | {wanted.actor})) if facts.requesters else (),
    )
    return new, Origin(run.id, wanted.from_stage, wanted.actor, wanted.reason, run.input_schema, saved)


def _problems(t: Transaction, order: operate.Order) -> list[str]:
    """What is wrong with a run that is to be erased. Raises NotAllowed where its history has a key that is not known
    here: what was erased without it would never verify again.
    """
    found = t.problems(order.run_id)
    if UNKNOWN_KEY in found and UNKNOWN_KEY in t.problems(order.run_id, unsealed=True):
        why = "its history was written with an audit key that this process has not got: set STAGEFLOW_AUDIT_KEY"
        raise NotAllowed(order.run_id, order.verb, f"{why}, or STAGEFLOW_OLD_AUDIT_KEYS")
    return found


def _end_wait(t: Transaction, place: StrandRef) -> Change | None:
    needs = (Part.STRANDS, Part.SAVED, Part.NEWEST)
    return transact(t, place.run, partial(waking.wake, strand=place.strand, gen=place.gen), needs=needs)


def _waking(place: StrandRef) -> Callable[[Facts, Facts | None], Change | None]:
    return lambda facts, _run: waking.wake(facts, place.strand, place.gen)


def _await_ends(t: Transaction, taken: Change | None) -> None:
    for owner in set() if taken is None else _awaited_after(taken):
        t.await_end(owner)


def _awaited_after(change: Change) -> set[str]:
    """Owners whose attempts a change wrote down as lost without a bound in time."""
    rows = [row for row in change.rows if row.table is Table.ATTEMPTS and row.how is How.INSERT]
    return {row.columns["owner"] for row in rows if row.columns.get("kill_by") == UNTIL_CONFIRMED}


def _not_confirmed(owner: str, row: Any) -> NotAllowed:
    """Why a person may not say that a process has ended. ``row``: the owner's, or None."""
    if row is None:
        why = "there is no such owner; stageflow workers --all --json lists them"
    elif row.confirmed:
        why = f"its end was confirmed before, by {row.confirmed_by or 'its parent, or itself'}"
    else:
        why = "its lease holds: it is alive. Stop its process; once its lease has run out this is possible"
    return NotAllowed(owner, "confirm-dead", why, of="worker")
