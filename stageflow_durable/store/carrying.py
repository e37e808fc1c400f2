"""The verbs of a store on the path of a stage: accepting a run, beginning, and the ends of an attempt. What each does
is said in ``protocol``; here is which facts it needs and which transition decides, in one text for every store.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

from stageflow_durable.codec import as_stored, differing_texts
from stageflow_durable.errors import (
    IdempotencyParamMismatch,
    InvalidInput,
    NotAllowed,
    RunBusy,
    StageflowError,
)
from stageflow_durable.model.awaited import Listener, Told, listeners
from stageflow_durable.model.status import Cause, ParkReason
from stageflow_durable.model.work import (
    Claimant,
    Done,
    Ending,
    Failure,
    Fenced,
    Kept,
    Nudge,
    Refusal,
    Refused,
    RetryDue,
    Work,
)
from stageflow_durable.store.transaction import Holder, Transaction, transact, transact_item
from stageflow_durable.store.values import Answer, BusinessKey, Created
from stageflow_durable.transitions import accept as accepting
from stageflow_durable.transitions import approval, callback, finish, items, retry, start, undo
from stageflow_durable.transitions import fail as failing
from stageflow_durable.transitions import sleep as sleeping
from stageflow_durable.transitions.accept import NewRun
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.draft import note
from stageflow_durable.transitions.facts import Facts, NotLoaded, Part
from stageflow_durable.transitions.fence import is_mine, recalled
from stageflow_durable.transitions.rows import HeldKey

T = TypeVar("T")
Announce: TypeAlias = Callable[[Sequence[Listener], Told], None]

_NEEDS_OF_AN_END = (Part.STRANDS, Part.ATTEMPTS, Part.SAVED, Part.STEPS)
"""The facts that the end of an attempt needs."""


class Carrying(ABC):
    """What every store does alike with a run and its attempts: each method is one transaction."""

    _hints = False

    @abstractmethod
    def _within(self, action: Callable[[Transaction], T]) -> T:
        """Do it in one transaction."""

    def _transact(
        self, run_id: str, decide: Callable[[Facts], T], *, needs: tuple[Part, ...] = (Part.STRANDS,), me: str = ""
    ) -> T | None:
        return self._follow_up(self._within(lambda t: transact(t, run_id, decide, needs=needs, me=me)))

    # --- who awaits runs ----------------------------------------------------------------------------------------------

    _announce: Announce | None = None

    def announce_by(self, announce: Announce) -> None:
        """Call ``announce`` after each commit that changed a run which somebody awaits: with whom to tell, and what."""
        self._announce = announce

    @abstractmethod
    def after_commit(self, action: Callable[[], object]) -> bool:
        """Run ``action`` after the commit of the transaction in which verbs take part here. Returns whether it will
        run.
        """

    def _notify_awaiters(self, run_id: str, awaited_by: str | None, ended: bool) -> None:
        listening, announce = listeners(awaited_by, ended=ended), self._announce
        if announce is None or not listening:
            return
        if not self.after_commit(lambda: announce(listening, Told(run_id, ended))):
            announce(listening, Told(run_id, ended))

    def _notify_of(self, change: object) -> None:
        """Tell of a change that was made under the lock, and is committed."""
        if isinstance(change, Change) and (awaited_by := change.facts.run.awaited_by) is not None and change.events:
            self._notify_awaiters(change.facts.run.id, awaited_by, change.ended)

    @abstractmethod
    def _follow_up(self, decided: T) -> T:
        """After the commit: tell who awaits the run, and wake whom slots are offered to; with their messages."""

    # --- accepting runs -----------------------------------------------------------------------------------------------

    def create(self, new: NewRun) -> Created:
        """Decided in ``transitions/accept``."""
        return self._within(lambda t: run_or_raise(created_in(t, new, hints=self._hints)))

    # --- the path of a stage ------------------------------------------------------------------------------------------

    def begin(self, nudge: Nudge, claimant: Claimant) -> Work | Refused:
        """Decided in ``transitions/start``; of an item, in ``items``."""
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
        """Decided in ``transitions/finish``; of an item, in ``items``."""
        if work.item:
            given: dict[str, Any] = {"skipped": skipped, "replayed": replayed, "doubt": doubt, "events": events}
            ended = self._end_item(
                work, lambda facts, run: items.succeed(facts, work, delta, **given, run=run), session
            )
            assert not isinstance(ended, RetryDue)
            return ended

        def decide(facts: Facts) -> Change | Fenced:
            next_in = claimant if go_on else None
            how = {"skipped": skipped, "replayed": replayed, "doubt": doubt}
            return finish.succeed(facts, work, next_in, delta, **how, events=events, key=_held(key, work))

        special = skipped or replayed or doubt or events or work.undoing
        plain = delta if not special and key is None else None
        done: Ending | None = None
        if session is not None:
            done = self._end_with(session, work, decide, claimant.owner)
        elif plain is not None:
            done = self._succeed_at_once(work, claimant, plain, go_on=go_on)
        done = done or self._end(work, decide, me=claimant.owner)
        assert not isinstance(done, RetryDue)
        return done

    def _end_with(self, session: Any, work: Work, decide: Callable[[Facts], Change | Fenced], me: str = "") -> Ending:
        decided: list[Change | Fenced | None] = []

        def save(t: Transaction) -> Ending:
            decided[:] = [_transact_end(t, work, decide, me)]
            return _answer_for(decided[0])

        done = self._commit_with(session, save)
        return done if isinstance(done, Fenced) else _answer_for(self._follow_up(decided[0]))

    def _commit_with(self, session: Any, save: Callable[[Transaction], T]) -> T:
        """Save an outcome within the body's own transaction, and commit both."""
        raise NotImplementedError  # reached only in a store whose open_session() gives a session; it overrides this

    def _succeed_at_once(self, work: Work, claimant: Claimant, delta: str, *, go_on: bool) -> Done | None:
        """Save a plain success without the lock, if the store can; None: nothing was written."""
        return None

    def retry_later(self, work: Work, failure: Failure, delay: float, drawn: float, events: Kept = ()) -> Ending:
        """Decided in ``transitions/retry``; of an item, in ``items``."""
        if work.item:
            return self._end_item(
                work, lambda facts, run: items.retry_later(facts, work, failure, delay, drawn, events, run=run)
            )
        return self._end(work, lambda facts: retry.retry_later(facts, work, failure, delay, drawn, events))

    def sleep(self, work: Work, until: float, events: Kept = ()) -> Done | Fenced:
        """Decided in ``transitions/sleep``."""
        done = self._end(work, lambda facts: sleeping.sleep_until(facts, work, until, events))
        assert not isinstance(done, RetryDue)
        return done

    def ask(
        self, work: Work, asked: approval.Asked, claimant: Claimant, events: Kept = (), *, go_on: Callable[[], bool]
    ) -> Done | Fenced:
        """Decided in ``transitions/approval``."""

        def decide(facts: Facts) -> Change | Fenced:
            return approval.ask(facts, work, asked, claimant if go_on() else None, events)

        done = self._end(work, decide, me=claimant.owner)
        assert not isinstance(done, RetryDue)
        return done

    def await_callback(
        self, work: Work, seconds: float, retry_after: float | None, events: Kept = (), session: Any = None
    ) -> Done | Fenced:
        """Decided in ``transitions/callback``."""

        def decide(facts: Facts) -> Change | Fenced:
            return callback.await_callback(facts, work, seconds, retry_after, events)

        done = self._end(work, decide) if session is None else self._end_with(session, work, decide)
        assert not isinstance(done, RetryDue)
        return done

    def postpone(self, work: Work, delay: float) -> Ending:
        """Decided in ``transitions/retry``."""
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
        """Decided in ``transitions/fail``; of an item, in ``items``."""
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
        """Decided in ``transitions/undo``; of an item, in ``items``."""
        if work.item:
            return self._end_item(work, lambda facts, run: items.undo_done(facts, work, run=run))
        held = _held(key, work)
        return self._end(
            work, lambda facts: undo.undo_done(facts, work, claimant if go_on else None, key=held), me=claimant.owner
        )

    def undo_failed(self, work: Work, claimant: Claimant, failure: Failure, *, go_on: bool) -> Ending:
        """Decided in ``transitions/undo``; of an item, in ``items``."""
        if work.item:
            return self._end_item(work, lambda facts, run: items.undo_failed(facts, work, failure, run=run))
        return self._end(
            work, lambda facts: undo.undo_failed(facts, work, claimant if go_on else None, failure), me=claimant.owner
        )

    def _end(self, work: Work, decide: Callable[[Facts], Change | Fenced], me: str = "") -> Ending:
        decided: Change | Fenced | None = self._end_at_once(work, decide)
        if decided is None:
            decided = self._follow_up(self._within(lambda t: _transact_end(t, work, decide, me)))
        return _answer_for(decided)

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
        done = _answer_for(
            self._transact(
                work.run.id, lambda facts: items.open_items(facts, work, inputs, **how), needs=_NEEDS_OF_AN_END
            )
        )
        assert not isinstance(done, RetryDue)
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

        def act(t: Transaction, *, whole: bool) -> T | None:
            decided = transact_item(t, place, decide, whole=whole, me=me)
            if then is not None and decided is not None:
                then(t, decided)
            return decided

        if session is not None:  # what the body wrote cannot be rolled back to begin anew
            # An item that is gone is somebody else's: what the body of a zombie wrote is not committed.
            ended: Any = self._commit_with(session, lambda t: act(t, whole=True) or Fenced())
            found: T | None = ended
        else:
            try:
                found = self._within(partial(act, whole=False))
            except NotLoaded:
                found = self._within(partial(act, whole=True))
        return self._follow_up(found)

    def _end_item(
        self, work: Work, decide: Callable[[Facts, Facts | None], Change | Fenced], session: Any = None
    ) -> Ending:
        return _answer_for(self._of_item((work.run.id, work.strand, work.item), decide, session=session))

    # --- doubts -------------------------------------------------------------------------------------------------------

    def recall(self, work: Work, owner: str) -> Work | bool:
        """Found out in ``transitions/fence``. The end of an item grants nothing."""
        if work.item:
            return self._item_has_ended(work)

        def act(t: Transaction) -> Work | bool:
            facts = t.lock(work.run.id, (Part.STRANDS,), owner)
            return facts is not None and recalled(facts, work, owner, t.ended_at(work))

        return self._within(act)

    def _item_has_ended(self, work: Work) -> bool:
        """Whether the owner has ended its attempt of an item."""

        def look(t: Transaction) -> bool:
            there = t.lock_item(work.run.id, work.strand, work.item)
            return there is not None and t.ended_at(work) is not None

        return self._within(look)

    def claim_key(self, work: Work, key: BusinessKey) -> Any:
        """Fenced as the end of an attempt is."""

        def claim(t: Transaction) -> Any:
            mine = transact(t, work.run.id, lambda facts: is_mine(facts, work))
            return t.claim(key, work) if mine else Fenced()

        return self._within(claim)

    def note(self, run_id: str, kind: str, data: Mapping[str, Any]) -> None:
        """Add an event to a run's history."""
        self._transact(run_id, lambda facts: note(facts, kind, dict(data)), needs=())


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
    # What differs from a run that was pruned or erased cannot be told any more.
    gone = holder.input is None or len(holder.fingerprint) < len(new.fingerprint)
    fields = () if holder.input is None or gone else differing_texts(holder.input, new.input)
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


def run_or_raise(answer: Answer) -> Created:
    """The run of a request; raises what stands in the way."""
    if isinstance(answer, StageflowError):
        raise answer
    return answer


def _held(key: BusinessKey | None, work: Work) -> HeldKey | None:
    return (
        None if key is None else HeldKey(key.scope.client_id, key.scope.operation, key.key, work.stage, key.ttl_seconds)
    )


def _transact_end(
    t: Transaction, work: Work, decide: Callable[[Facts], Change | Fenced], me: str
) -> Change | Fenced | None:
    return transact(t, work.run.id, decide, needs=_NEEDS_OF_AN_END, me=me)


def _answer_for(decided: Change | Fenced | None) -> Ending:
    """What the owner of an attempt gets back for its end."""
    if not isinstance(decided, Change):
        return Fenced()
    if decided.due_in is not None:
        return RetryDue(decided.nudges[0], decided.due_in, decided.nudges[1:])
    return Done(decided.granted, decided.nudges, decided.ended)
