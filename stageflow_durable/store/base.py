"""The verbs of a store: for each, which facts it needs and which transition decides. One text for every store, which
adds how a transaction reads and writes (:class:`~stageflow_durable.store.transaction.Transaction`), and how it looks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from stageflow_durable.codec import as_stored, differing_texts
from stageflow_durable.errors import (
    IdempotencyParamMismatch,
    InvalidInput,
    NotAllowed,
    RunBusy,
    StageflowError,
    UnknownRun,
)
from stageflow_durable.model.attributes import Attributes
from stageflow_durable.model.status import Cause, ParkReason
from stageflow_durable.model.work import Done, Fenced, Nudge, Refusal, Refused, Waiting, Work
from stageflow_durable.store.transaction import Holder, Transaction, transact
from stageflow_durable.store.values import Answer, BusinessKey, Created, Ending, Fork, Missed, Received, StrandRef
from stageflow_durable.transitions import accept as accepting
from stageflow_durable.transitions import callback, finish, items, operate, retry, start, undo
from stageflow_durable.transitions import fail as failing
from stageflow_durable.transitions import fork as forking
from stageflow_durable.transitions import release as releasing
from stageflow_durable.transitions import sleep as sleeping
from stageflow_durable.transitions import take as taking
from stageflow_durable.transitions import wake as waking
from stageflow_durable.transitions.accept import NewRun, Origin
from stageflow_durable.transitions.attempt import Claimant, Failure, Kept
from stageflow_durable.transitions.callback import Call
from stageflow_durable.transitions.change import Change, How, Table
from stageflow_durable.transitions.facts import Facts, Part
from stageflow_durable.transitions.fence import is_mine
from stageflow_durable.transitions.recall import recalled
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED, EndedOwner, HeldKey, SignalRow
from stageflow_durable.transitions.signal import Sent, receive
from stageflow_durable.transitions.waiting import needs_no_worker

T = TypeVar("T")

STRANGERS = "strangers in "
"""Prefix of the names of ticks that record when a message of an unknown run was dropped; the queue's name follows."""

_ENDING = (Part.STRANDS, Part.ATTEMPTS, Part.SAVED, Part.STEPS)
"""The facts that the end of an attempt needs."""

_VERBS = {"cancel": operate.cancel, "compensate": operate.compensate, "resume": operate.resume}
_COPIED = ("delta", "saved_schema", "at")


class BaseStore(ABC):
    """What every store does alike: each method is one transaction."""

    _hints = False

    @abstractmethod
    def _within(self, action: Callable[[Transaction], T]) -> T:
        """Do it in one transaction."""

    @abstractmethod
    def my_tick(self, name: str, every: float) -> bool:
        """Whether it is this process's turn: at most one of all processes has it in ``every`` seconds."""

    def _transact(
        self, run_id: str, decide: Callable[[Facts], T], *, needs: tuple[Part, ...] = (Part.STRANDS,), me: str = ""
    ) -> T | None:
        return self._within(lambda t: transact(t, run_id, decide, needs=needs, me=me))

    # --- accepting runs -----------------------------------------------------------------------------------------------

    def create(self, new: NewRun) -> Created:
        """Record a run, or find the one that has its key. Raises IdempotencyParamMismatch for other parameters."""
        return self._within(lambda t: _raised(created_in(t, new, hints=self._hints)))

    def fork(self, wanted: Fork) -> Created:
        """A new run from the checkpoints of another. Raises UnknownRun, NotAllowed, IdempotencyParamMismatch."""

        def act(t: Transaction) -> Created:
            facts = t.lock(wanted.original, (Part.SAVED, Part.STEPS), "")
            if facts is None:
                raise UnknownRun(f"no run {wanted.original}")
            new, origin = _forked(facts, wanted, t.checkpoints(wanted.original), t.attributes(wanted.original))
            made = created(t.create(accepting.fork(new, facts.clock, origin)))
            if made is None:
                return _raised(held_by(new, t.holder(new)))
            told = {"to": new.id, "stage": wanted.from_stage, "actor": wanted.actor, "reason": wanted.reason}
            t.apply(waking.note(facts, "operator.fork", told))
            return made

        return self._within(act)

    # --- the path of a stage ------------------------------------------------------------------------------------------

    def begin(self, nudge: Nudge, claimant: Claimant) -> Work | Refused:
        """Begin what the message names, or say why not."""
        if nudge.item:
            place = nudge.run_id, nudge.strand, nudge.item
            decided = self._of_item(place, lambda facts, run: items.begin(facts, nudge, claimant, run), claimant.owner)
        else:
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
            given: dict[str, Any] = {"skipped": skipped, "doubt": doubt, "events": events}
            ended = self._end_item(
                work, lambda facts, run: items.succeed(facts, work, delta, **given, run=run), session
            )
            assert not isinstance(ended, Waiting)
            return ended

        def decide(facts: Facts) -> Change | Fenced:
            next_in = claimant if go_on else None
            how = {"skipped": skipped, "replayed": replayed, "doubt": doubt}
            return finish.succeed(facts, work, next_in, delta, **how, events=events, key=_held(key, work))

        special = skipped or replayed or doubt or events or work.undoing
        plain = delta if not special and key is None else None
        done: Ending | None = None
        if session is not None:
            done = self._commit_with(session, lambda t: _ending(_end(t, work, decide, claimant.owner)))
        elif plain is not None:
            done = self._succeed_at_once(work, claimant, plain, go_on=go_on)
        done = done or self._end(work, decide, me=claimant.owner)
        assert not isinstance(done, Waiting)
        return done

    def _commit_with(self, session: Any, save: Callable[[Transaction], Ending]) -> Ending:
        """Save an outcome within the body's own transaction, and commit both."""
        raise NotImplementedError  # a store whose open_session() gives one

    def _succeed_at_once(self, work: Work, claimant: Claimant, delta: str, *, go_on: bool) -> Done | None:
        """Save a plain success without the lock, if the store can; None: nothing was written."""
        return None

    def wait(
        self, work: Work, failure: Failure, delay: float, drawn: float, events: Kept = ()
    ) -> Waiting | Done | Fenced:
        """Try again later."""
        if work.item:
            return self._end_item(
                work, lambda facts, run: items.wait(facts, work, failure, delay, drawn, events, run=run)
            )
        return self._end(work, lambda facts: retry.wait(facts, work, failure, delay, drawn, events))

    def sleep(self, work: Work, until: float, events: Kept = ()) -> Done | Fenced:
        """Let a stage sleep ``until`` what its function said, in seconds since the epoch."""
        done = self._end(work, lambda facts: sleeping.sleep_until(facts, work, until, events))
        assert not isinstance(done, Waiting)
        return done

    def await_callback(
        self, work: Work, seconds: float, retry_after: float | None, events: Kept = (), session: Any = None
    ) -> Done | Fenced:
        """The body waits for its callback, for ``seconds`` at the most; see :func:`callback.await_callback`.
        ``session``: the body's own transaction, which commits with the wait or not at all.
        """

        def decide(facts: Facts) -> Change | Fenced:
            return callback.await_callback(facts, work, seconds, retry_after, events)

        if session is None:
            done = self._end(work, decide)
        else:
            done = self._commit_with(session, lambda t: _ending(_end(t, work, decide, "")))
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
        held = _held(key, work)
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
        held = _held(key, work)
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

    def _end(self, work: Work, decide: Callable[[Facts], Change | Fenced], me: str = "") -> Ending:
        return _ending(self._end_at_once(work, decide) or self._within(lambda t: _end(t, work, decide, me)))

    def _end_at_once(self, work: Work, decide: Callable[[Facts], Change | Fenced]) -> Change | None:
        """Let a transition end an attempt without the lock, if the store can; None: nothing was written."""
        return None

    # --- items --------------------------------------------------------------------------------------------------------

    def open_items(
        self, work: Work, inputs: Sequence[str], *, collects: bool = False, events: Kept = ()
    ) -> Done | Fenced:
        """Carry out the stage of an attempt once for each of ``inputs`` (encoded text) instead. ``collects``: whether
        the others go on if one of them fails for good.

        Nothing public leads here yet. Raises NotAllowed for a stage whose items nobody could decide about, if one was
        lost: settling is of stages alone.
        """
        planned = work.plan.by_name[work.stage]
        if planned.pivot or planned.on_unknown == "park":
            why = "a person would have to settle an item of it that was lost, which is not possible yet"
            raise NotAllowed(work.run.id, "open items", f"{work.stage} is a pivot, or parks: {why}")
        how: dict[str, Any] = {"collects": collects, "events": events}
        done = _ending(
            self._transact(work.run.id, lambda facts: items.open_items(facts, work, inputs, **how), needs=_ENDING)
        )
        assert not isinstance(done, Waiting)
        return done

    def _of_item(
        self,
        place: tuple[str, str, int],
        decide: Callable[[Any, Any], T],
        me: str = "",
        session: Any = None,
        then: Callable[[Transaction, T], None] | None = None,
    ) -> T | None:
        """Let a transition of an item decide under the lock of its group, and anew under that of its run where it needs
        more. ``place``: run, strand and item. ``then``: what else is done in the transaction.
        """
        raise NotImplementedError  # a store that opens items

    def _end_item(
        self, work: Work, decide: Callable[[Facts, Facts | None], Change | Fenced], session: Any = None
    ) -> Ending:
        return _ending(self._of_item((work.run.id, work.strand, work.item), decide, session=session))

    # --- doubts -------------------------------------------------------------------------------------------------------

    def recall(self, work: Work, owner: str) -> Work | bool:
        """Look up a commit whose answer was lost: the granted attempt if it went through and granted one, True if it
        went through, else False. The end of an item grants nothing.
        """
        if work.item:
            return self._item_has_ended(work)

        def act(t: Transaction) -> Work | bool:
            facts = t.lock(work.run.id, (Part.STRANDS,), owner)
            return facts is not None and recalled(facts, work, owner, t.ended_at(work))

        return self._within(act)

    def _item_has_ended(self, work: Work) -> bool:
        """Whether the owner has ended its attempt of an item."""
        raise NotImplementedError  # a store that opens items

    def claim_key(self, work: Work, key: BusinessKey) -> Any:
        """Claim a business key for the stage; returns what stands in the way if it is taken. Fenced if the owner no
        longer holds the stage: a paused worker must not claim a key for a run that is over.
        """

        def claim(t: Transaction) -> Any:
            mine = transact(t, work.run.id, lambda facts: is_mine(facts, work))
            return t.claim(key, work) if mine else Fenced()

        return self._within(claim)

    def note(self, run_id: str, kind: str, data: Mapping[str, Any]) -> None:
        """Add an event to a run's history."""
        self._transact(run_id, lambda facts: waking.note(facts, kind, dict(data)), needs=())

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
            taken = self._within(act)
        return None if taken is None else taken.nudges

    def wake(self, places: Sequence[StrandRef]) -> list[tuple[Nudge, ...]]:
        """Make due strands ready, and end sleeps and waits; returns what to publish for each."""
        sleeps: list[StrandRef] = []
        of_runs = [place for place in places if not place.item]

        def decide(facts: Facts, place: StrandRef) -> Change | None:
            row = facts.strands.get(place.strand)
            if row is not None and needs_no_worker(facts.plan, row):
                sleeps.append(place)  # its run moves on: that needs more facts than the strands
                return None
            return waking.wake(facts, place.strand, place.gen)

        def act(t: Transaction) -> list[Change]:
            sleeps.clear()
            woken = t.transact_all([(place.run, place) for place in of_runs], decide)
            return woken + [change for place in sleeps if (change := _end_sleep(t, place)) is not None]

        woken = self._within(act) if of_runs else []
        for place in places:
            if place.item:  # each under its group's lock, not under its run's
                one = self._of_item((place.run, place.strand, place.item), _waking(place))
                woken += [] if one is None else [one]
        return [change.nudges for change in woken]

    def nudged(self, sent: Sequence[Missed]) -> int:
        """Record that the broker took these messages again; returns how many were still as they were found."""

        def decide(facts: Facts, one: Missed) -> Change | None:
            return waking.published_again(facts, one.nudge.strand, one.nudge.gen, one.published_at, one.nudges)

        given = [(one.nudge.run_id, one) for one in sent if not one.nudge.item]
        noted = len(self._within(lambda t: t.transact_all(given, decide))) if given else 0
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
            return transact(
                t, run_id, lambda facts: releasing.release(facts, ended), needs=(Part.STRANDS, Part.ATTEMPTS)
            )

        change = self._within(act)
        return () if change is None else change.nudges

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


class Broken(Exception):
    """One of a batch was refused: nothing of it is recorded."""

    def __init__(self, answers: list[Answer]) -> None:
        super().__init__()
        self.answers = answers


def created(change: Change | None) -> Created | None:
    """What became of a new run; None: its key is taken."""
    return None if change is None else Created(change.facts.run.id, False, change.nudges)


def held_by(new: NewRun, holder: Holder | None) -> Answer:
    """What a request gets whose key is taken: the run that has it, or why not."""
    if holder is None:
        return RunBusy(f"the run of key {new.key!r} is just being pruned; enqueue again")
    if holder.fingerprint == as_stored(new.fingerprint, holder.fingerprint):
        return Created(holder.run_id, True)
    # What differs from a run that was pruned cannot be told any more.
    fields = () if holder.input is None else differing_texts(holder.input, new.input)
    return IdempotencyParamMismatch(str(new.key), fields, run_id=holder.run_id)


def is_same(new: NewRun, there: Any) -> bool:
    """Whether the run that has the id of ``new`` is the one of an earlier call whose answer was lost."""
    same = (there.client_id, there.pipeline) == (new.client_id, new.plan.pipeline)
    return same and there.fingerprint == as_stored(new.fingerprint, there.fingerprint)


def other_run(run_id: str) -> InvalidInput:
    """The error for an id that another run has."""
    return InvalidInput("enqueue", [f"run_id: {run_id} is another run; leave it out, or make a new one"])


def created_in(t: Transaction, new: NewRun, *, hints: bool = False) -> Answer:
    """Write a new run, or find the one that has its key."""
    return created(t.create(accepting.accept(new, t.clock()), hints=hints)) or held_by(new, t.holder(new))


def _raised(answer: Answer) -> Created:
    if isinstance(answer, StageflowError):
        raise answer
    return answer


def _forked(facts: Facts, wanted: Fork, rows: Any, attributes: Attributes) -> tuple[NewRun, Origin]:
    run, copied = facts.run, forking.copied(facts, wanted.from_stage)
    saved = {
        row["stage"]: {**{name: row[name] for name in _COPIED}, "skipped": bool(row["skipped"])}
        for row in rows
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
    )
    return new, Origin(run.id, wanted.from_stage, wanted.actor, wanted.reason, run.input_schema, saved)


def _held(key: BusinessKey | None, work: Work) -> HeldKey | None:
    return (
        None if key is None else HeldKey(key.scope.client_id, key.scope.operation, key.key, work.stage, key.ttl_seconds)
    )


def _end(t: Transaction, work: Work, decide: Callable[[Facts], Change | Fenced], me: str) -> Change | Fenced | None:
    return transact(t, work.run.id, decide, needs=_ENDING, me=me)


def _ending(decided: Change | Fenced | None) -> Ending:
    """What the owner of an attempt gets back for its end."""
    if not isinstance(decided, Change):
        return Fenced()
    if decided.due_in is not None:
        return Waiting(decided.nudges[0], decided.due_in)
    return Done(decided.granted, decided.nudges, decided.ended)


def _end_sleep(t: Transaction, place: StrandRef) -> Change | None:
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
