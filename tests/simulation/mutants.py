"""Mistakes planted in the engine, one at a time: the simulation has to find each, or it is worth nothing."""

from __future__ import annotations

import hmac
import itertools
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from sqlalchemy import Double, String, and_, bindparam, case, or_, select, union_all, update

from stageflow_durable.engine import accept, body
from stageflow_durable.engine import executor as _executor
from stageflow_durable.engine import outcome as _outcome
from stageflow_durable.engine import saving as _saving
from stageflow_durable.engine.outcome import Succeeded
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.roster import Roster
from stageflow_durable.model.status import AttemptState, Phase, RunStatus, WaitingFor
from stageflow_durable.saga.decide import Settlement
from stageflow_durable.state import moved, owners, queues, recovery
from stageflow_durable.state import of_items as _of_items
from stageflow_durable.state.clock import now
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.store import SqlStore
from stageflow_durable.state.tables import owners as owner_rows
from stageflow_durable.state.tables import strands, ticks
from stageflow_durable.state.unlocked import Unlocked
from stageflow_durable.store import base as _base
from stageflow_durable.store import carrying as _carrying
from stageflow_durable.store import memory as _memory
from stageflow_durable.store import sealing as _sealing
from stageflow_durable.store.base import BaseStore
from stageflow_durable.store.memory import MemoryStore
from stageflow_durable.store.memory import slots as memory_slots
from stageflow_durable.store.values import BATCH, ONE_CLOCK_SECONDS, Created, Received
from stageflow_durable.transitions import accept as accepting
from stageflow_durable.transitions import again as _again
from stageflow_durable.transitions import approval as _approval
from stageflow_durable.transitions import callback as _callback
from stageflow_durable.transitions import (
    calls,
    fence,
    hand_back,
    operate,
    retry,
    sleep,
    slots,
    start,
    take,
    waiting,
)
from stageflow_durable.transitions import finish as _finish
from stageflow_durable.transitions import fork as _fork
from stageflow_durable.transitions import items as _items
from stageflow_durable.transitions import resolve as _resolve
from stageflow_durable.transitions import signal as _signal
from stageflow_durable.transitions import wake as _wake
from stageflow_durable.transitions.change import Row, Table
from stageflow_durable.transitions.draft import Draft
from stageflow_durable.transitions.facts import Part
from tests.simulation.play import bench
from tests.simulation.process import Worker
from tests.simulation.scenario import WORD

# Names that these modules import are patched there, where no type checker expects them.
outcomes: Any = _outcome
executor: Any = _executor
saving: Any = _saving
again: Any = _again
sealing: Any = _sealing
forking: Any = _fork
carrying: Any = _carrying
in_memory: Any = _memory
items: Any = _items
of_items: Any = _of_items
resolve: Any = _resolve
wake: Any = _wake
finish: Any = _finish
callback: Any = _callback
signal: Any = _signal
approval: Any = _approval
_store: Any = _base
Plant = Callable[[ExitStack], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One planted mistake. ``quick``: it shows within the first seeds."""

    name: str
    plant: Plant
    quick: bool = False

    @contextmanager
    def planted(self, store: str = "sqlite") -> Iterator[None]:
        """While the mistake is there: what was decided before, or with it, is not remembered beyond that."""
        with ExitStack() as stack:
            stack.callback(bench(store).forget_decisions)
            self.plant(stack)
            bench(store).forget_decisions()
            yield


def _put(*places: tuple[Any, str, Any]) -> Plant:
    """Put something else in these places."""

    def plant(stack: ExitStack) -> None:
        for where, name, what in places:
            stack.enter_context(patch.object(where, name, what))

    return plant


def _of_each_store(name: str, what: Any) -> tuple[tuple[Any, str, Any], ...]:
    """A method of every store, replaced."""
    return (SqlStore, name, what), (MemoryStore, name, what)


def _on_memory(function: Callable[..., Any]) -> Callable[..., Any]:
    """A method of the store in memory that calls ``function`` with its tables, the time and what it is given."""

    def method(self: MemoryStore, *given: Any, **options: Any) -> Any:
        return self._write(lambda: function(self._tables, self.clock(), *given, **options))

    return method


def _under_the_lock(*places: tuple[Any, str, Any]) -> Plant:
    """The same, with everything decided under the lock: without it the statement itself holds the fence."""
    return _put((Unlocked, "begin", _always(None)), (Unlocked, "end", _always(None)), *places)


# --- the mistakes -----------------------------------------------------------------------------------------------------


def _taken_uncounted(self: slots.Pools, row: Any) -> None:
    """A slot of which no row tells."""


def _no_offers(_self: slots.Pools, _pool: Any) -> Iterator[Any]:
    return iter(())


def _unheard_offers() -> Plant:
    """Neither by whoever commits nor by a sweep."""
    return _put(
        (_store, "woken_by", _always([])),
        (memory_slots, "offered", _always([])),
        (
            recovery,
            "_OVERDUE",
            Prepared(union_all(*(recovery._rows(*scan) for scan in recovery._SCANS.items() if scan[0] != "offered"))),
        ),
        (memory_slots, "_is_unanswered", _always(False)),
    )


def _always(answer: Any) -> Callable[..., Any]:
    return lambda *_given, **_options: answer


def _effect_after_commit() -> Plant:
    save, run_stage = saving.Saving._save_once, body.run_stage

    def early(*given: Any) -> Any:
        return body.Called(lambda: run_stage(*given))

    def late(self: Any, work: Any, memory: Any, outcome: Any, *given: Any) -> Any:
        if not isinstance(outcome, Promise):
            return save(self, work, memory, outcome, *given)
        ending = save(self, work, memory, Succeeded("null"), *given)
        outcome.call()
        return ending

    def promised(value: Any, *_given: Any) -> Any:
        return Promise(value) if callable(value) else returned(value, *_given)

    returned = executor.outcome_of_value
    return _put(
        (body, "run_stage", early), (executor, "outcome_of_value", promised), (saving.Saving, "_save_once", late)
    )


class Promise(Succeeded):
    """An outcome whose body has yet to run."""

    __slots__ = ("call",)
    call: Any

    def __init__(self, call: Any) -> None:
        super().__init__("null")
        object.__setattr__(self, "call", call)


def _any_dependency(self: Plan, stage: str, finished: frozenset[str]) -> tuple[str, ...]:
    onward = self.next_on_strand.get(stage)
    return tuple(
        name for name in self.successors[stage] if name != onward and not finished.isdisjoint(self.by_name[name].after)
    )


def _a_join_too_few(self: Plan, stage: str, finished: frozenset[str]) -> tuple[str, ...]:
    onward = self.next_on_strand.get(stage)
    return tuple(
        name
        for name in self.successors[stage]
        if name != onward and finished.issuperset(self.by_name[name].after) and len(self.by_name[name].after) < 2
    )


def _in_order(plan: Plan, steps: Any) -> tuple[str, ...]:
    owed = [stage.name for stage in plan.stages if str(steps.get(stage.name)) in ("intended", "recorded")]
    going = any(str(state) == "compensating" for state in steps.values())
    return () if going else tuple(owed[:1])


def _all_at_once(plan: Plan, steps: Any) -> tuple[str, ...]:
    return tuple(stage.name for stage in plan.stages if str(steps.get(stage.name)) in ("intended", "recorded"))


def _no_intent() -> Plant:
    return _put((Draft, "intend", _always(None)))


def _retried_all_the_same(draft: Draft, row: Any, _why: str, _most: int) -> None:
    take.ready_again(draft, row)


def _never_undone(cause: Any, park: Any, *_given: Any, **_options: Any) -> Settlement:
    if park is not None:
        return Settlement(Phase.SETTLED, RunStatus.PARKED)
    return Settlement(Phase.SETTLED, RunStatus.FAILED if str(cause) == "failed" else RunStatus.CANCELLED)


def _past_every_pivot() -> Plant:
    decide = resolve.settlement

    def blind(*given: Any, **options: Any) -> Settlement:
        decided: Settlement = decide(*given, **{**options, "pivot_passed": False})
        return decided

    return _put((resolve, "settlement", blind))


def _other_keys() -> Plant:
    numbers = itertools.count()
    return _put((body, "stage_key", lambda run, stage, item=0: f"sf_{run}_{stage}_{item}_{next(numbers)}"))


def _no_wait() -> Plant:
    due = retry.due

    def at_once(draft: Draft, work: Any, what: Any, seconds: float, **columns: Any) -> Any:
        draft.set_strand(work.strand, wake_at=0.0)
        change = due(draft, work, what, seconds, **columns)
        rows = [row._replace(columns={**row.columns, "wake_at": 0.0}) if _waits(row) else row for row in change.rows]
        return change._replace(rows=tuple(rows))

    return _put((retry, "due", at_once))


def _waits_for_its_turn_for_ever() -> Plant:
    wait = Draft.wait

    def without_end(draft: Draft, name: str, what: Any, until: Any, **columns: Any) -> None:
        wait(draft, name, what, None if what is WaitingFor.LIMIT else until, **columns)

    return _put((Draft, "wait", without_end))


def _sleeps_through_a_stop() -> Plant:
    rest = Draft.rest_idle

    def others(draft: Draft) -> None:
        slept = [row for row in draft.strands.values() if sleep.is_asleep(draft.plan, row)]
        rest(draft)
        for row in slept:
            draft.set_strand(row.strand, state=row.state, waiting_for=row.waiting_for, wake_at=row.wake_at)

    return _put((Draft, "rest_idle", others))


def _waits(row: Row) -> bool:
    return row.table is Table.STRANDS and row.columns.get("wake_at") is not None


def _one_attempt_more() -> Plant:
    decide = outcomes.decide
    return _put((outcomes, "decide", lambda policy, *, n, **rest: decide(policy, n=n - 1, **rest)))


def _any_version() -> Plant:
    ordered = operate._ordered
    return _put((operate, "_ordered", lambda facts, order: ordered(facts, replace(order, op_version=None))))


def _any_parameters(_new: Any, holder: Any) -> Any:
    return Created(holder.run_id, True)


def _from_the_living() -> Plant:
    return _judged(-9.0)


def _half_a_lease() -> Plant:
    until = take._acts_until

    def soon(draft: Any, row: Any, confirmed: bool) -> float:
        return draft.clock + 5.0 if row.kill_by is None else until(draft, row, confirmed)

    return _put((take, "_acts_until", soon))


def _confirmed_by_anybody() -> Plant:
    def confirm(self: Any) -> None:
        for owner in self.store.awaited(socket.gethostname(), None):
            self.store.confirm(owner.id, "somebody")

    return _put((Worker, "_confirm_ended", confirm))


def _judged_by_anybody() -> Plant:
    return _judged(0.0)


def _judged(slack: float) -> Plant:
    """Leases that ran out, or do so in a moment, judged by whoever asks."""
    return _put(*_of_each_store("judge", lambda self, _by: self.mark_expired(slack)))


def _undo_from_the_living() -> Plant:
    """What stops takes all strands out of their owners' hands."""
    rest = Draft.rest_idle

    def all_rest(self: Draft) -> None:
        rest(self)
        for row in tuple(self.strands.values()):
            if row.state == "running":
                self.set_strand(row.strand, state="rest", owner=None)

    return _put((Draft, "rest_idle", all_rest))


def _unsealed() -> Plant:
    seal = sealing.seal

    def first(*given: Any, item: int = 0) -> Any:
        *told, _previous = given
        return seal(*told, "", item=item)

    return _put((sealing, "seal", first))


def _no_outbox() -> Plant:
    return _put(*_of_each_store("undelivered", _always([])))


def _swapped() -> Plant:
    """The message goes out before the row that it speaks of is there, and nobody looks for what was lost."""

    def accepted(self: Any, pipeline: Any, submission: Any) -> Any:
        new = self._new(pipeline, submission)
        accept.publish(self._store, self._publisher, accepting.first_nudges(new))
        return self._store.create(new)

    return _put((accept.Acceptor, "accept", accepted), *_of_each_store("undelivered", _always([])))


def _fence_dropped() -> Plant:
    return _under_the_lock((fence, "is_mine", _always(True)))


def _steps_without_fence() -> Plant:
    def drafted(facts: Any, _work: Any) -> Draft:
        return Draft(facts)

    return _under_the_lock((calls, "drafted", drafted))


def _fence_of_gen_only() -> Plant:
    """The strand's fence without the attempt's: a zombie of the same generation passes."""

    def mine(facts: Any, work: Any) -> bool:
        row = facts.strands.get(work.strand)
        return row is not None and row.state == "running"

    return _under_the_lock((fence, "is_mine", mine))


def _told_too_early() -> Plant:
    """Observers are told of what the body returned, before it is saved."""
    judged, call = executor.Executor._judged, executor.Executor._call_observers

    def early(self: Any, called: Any, services: Any, *given: Any) -> Any:
        outcome, work = judged(self, called, services, *given), services.work
        memory = executor.RunOutputs(self._store, self._pipelines[work.run.pipeline])
        ctx = body.stage_context(work, memory, services)
        call(self, ctx, body.Called(), outcome, None, services.context)
        return outcome

    return _put((executor.Executor, "_judged", early), (executor.Executor, "_call_observers", _always(None)))


def _told_loudly() -> Plant:
    """An observer's error is the engine's."""

    def loud(end: Any, asked: Any, observers: Any, _context: Any, _store: Any) -> None:
        for one in (*asked, *observers):
            one(end)

    return _put((executor, "call_observers", loud))


def _answers_are_work() -> Plant:
    decide = executor.Executor._outcome

    def as_done(*given: Any) -> Any:
        outcome = decide(*given)
        return replace(outcome, replayed=False) if isinstance(outcome, Succeeded) else outcome

    return _put((executor.Executor, "_outcome", as_done))


def _obligations_copied() -> Plant:
    copy = Draft.copy_checkpoint

    def both(self: Any, stage: str, columns: Any) -> None:
        copy(self, stage, columns)
        self.intend(stage)

    return _put((Draft, "copy_checkpoint", both))


def _forked_from_what_was_undone() -> Plant:
    return _put((forking, "_TAKEN_BACK", frozenset()), (forking, "OPEN_STEPS", frozenset()))


def _young_for_ever() -> Plant:
    """Who joins has renewed since then, whatever its worker has."""
    register = owners.register

    def forgetful(connection: Any, *given: Any) -> str:
        owner = register(connection, *given)
        anew = update(owner_rows).where(owner_rows.c.id == owner)
        connection.execute(anew.values(steady_since=now()))
        return owner

    join = in_memory.owners.join

    def as_forgetful(tables: Any, now_: float, *given: Any) -> str:
        owner: str = join(tables, now_, *given)
        tables.owners.put(owner, tables.owners.get(owner)._replace(steady_since=now_))
        return owner

    return _put((owners, "register", forgetful), (in_memory.owners, "join", as_forgetful))


def _any_lease_holds() -> Plant:
    """A lease that ends in an hour holds for an hour, whichever clock gave it."""
    table = owner_rows
    over = and_(table.c.dead_at.is_(None), owners._JUDGED_FOR.is_not(None), table.c.expires_at < now())
    judge = Prepared(update(table).where(over).values(dead_at=now()).returning(table.c.id))
    return _put((owners, "_JUDGE", judge), (in_memory.owners, "_is_of_another_clock", _always(False)))


def _turns_to_come() -> Plant:
    """Whoever swept last did so in an hour, by a clock that has gone back since."""

    def turn(dialect: Any) -> Any:
        made = dialect.insert(ticks).values(at=now())
        due = ticks.c.at < now() - bindparam("every", type_=Double)
        return made.on_conflict_do_update(index_elements=["name"], set_={"at": now()}, where=due).returning(
            ticks.c.name
        )

    def in_order(tables: Any, now_: float, name: str, every: float) -> bool:
        at = tables.ticks.get(name)
        if at is not None and at >= now_ - every:
            return False
        tables.ticks.put(name, now_)
        return True

    return _put((recovery, "_TICK", Prepared(turn)), (MemoryStore, "my_tick", _on_memory(in_order)))


def _sent_in_an_hour() -> Plant:
    """What was published in an hour, by a clock that has gone back since, is on its way."""
    ahead = case((strands.c.published_at > recovery._OWN_CLOCK, False), else_=recovery._LOST)
    ready = and_(strands.c.state == "ready", strands.c.queue == recovery._OF_QUEUE, ahead)
    found = select(*recovery._PLACE).where(ready).order_by(strands.c.published_at).limit(BATCH)
    is_lost = in_memory.scans._is_lost

    def trusting(tables: Any, now_: float, row: Any, *given: float) -> bool:
        ahead = row.published_at is not None and row.published_at > now_ + ONE_CLOCK_SECONDS
        return not ahead and is_lost(tables, now_, row, *given)

    return _put(
        (recovery, "_UNDELIVERED", Prepared(found)),
        (moved, "_READY", queues._SERVED_BACK),
        (in_memory.scans, "_is_lost", trusting),
        (in_memory.scans, "_move_message", _always(None)),
    )


def _confirmed_alive() -> Plant:
    """A person is believed whatever the lease says."""
    table = owner_rows
    any_owner = and_(table.c.id == bindparam("ended", type_=String), owners._UNCONFIRMED)
    told = owners._confirmed(bindparam("by", type_=String), bindparam("reason", type_=String))
    confirm = Prepared(update(table).where(any_owner).values(**told).returning(table.c.id))

    def believed(tables: Any, now_: float, owner: str, *told: Any) -> bool:
        row = tables.owners.get(owner)
        if row is None or row.confirmed:
            return False
        in_memory.owners._confirmed(tables, now_, row, *told)
        return True

    return _put((owners, "_CONFIRM", confirm), (in_memory.owners, "confirm", believed))


def _offered_for_ever() -> Plant:
    return _put((Roster, "missing", _always(None)), (hand_back, "AT_ONCE", 10**9))


def _impatient() -> Plant:
    """What was published anew is missed as soon as before."""
    ready = and_(strands.c.state == "ready", strands.c.queue == recovery._OF_QUEUE)
    missed = or_(recovery._SENT.is_(None), now() - recovery._SENT > recovery._ALONE)
    found = select(*recovery._PLACE).where(and_(ready, missed)).order_by(recovery._SENT).limit(BATCH)

    def as_impatient(_tables: Any, now_: float, row: Any, _patience: float, alone: float) -> bool:
        return row.published_at is None or now_ - row.published_at > alone

    return _put((recovery, "_UNDELIVERED", Prepared(found)), (in_memory.scans, "_is_lost", as_impatient))


def _exceptions_alone() -> Plant:
    """What is no Exception is nobody's."""
    call = body.call

    def careless(*given: Any) -> Any:
        called = call(*given)
        if called.error is not None and not isinstance(called.error, Exception):
            raise called.error
        return called

    return _put((body, "call", careless))


def _waits_through_a_stop() -> Plant:
    rest = Draft.rest_idle

    def others(draft: Draft) -> None:
        waited = [row for row in draft.strands.values() if waiting.awaits_signal(draft.plan, row)]
        rest(draft)
        for row in waited:
            draft.set_strand(row.strand, state=row.state, waiting_for=row.waiting_for, wake_at=row.wake_at)

    return _put((Draft, "rest_idle", others))


def _early_ones_are_lost() -> Plant:
    """A signal that comes before the run has come to its wait is answered, and not kept."""
    add, there = Draft.add_signal, signal._standing_there

    def only_there(draft: Draft, one: Any) -> None:
        if there(draft, one.stage) is not None:
            add(draft, one)

    def received(self: BaseStore, sent: Any) -> Any:
        with patch.object(Draft, "add_signal", only_there):
            decided: Any = self._transact(sent.run_id, lambda facts: signal.receive(facts, sent), needs=())
        return Received(1, decided.facts.clock if hasattr(decided, "facts") else decided.received_at, False)

    return _put((BaseStore, "signal", received))


def _keys_are_forgotten() -> Plant:
    receive = signal.receive

    def keyless(facts: Any, sent: Any) -> Any:
        return receive(facts, sent._replace(key=None))

    return _put((_store, "receive", keyless))


def _any_payload_under_a_key() -> Plant:
    return _put((signal, "as_stored", lambda _new, before: before))


def _second_ones_are_taken() -> Plant:
    """Whoever comes last is heard: a wait that has its signal takes another."""
    refusal = signal._refusal
    return _put((signal, "_refusal", lambda facts, name, _there: refusal(facts, name, [])))


def _late_ones_are_taken() -> Plant:
    """A run that turns back, or has ended, takes signals as if it went forward."""

    def refusal(facts: Any, name: str, there: Any) -> str | None:
        return "it has its signal" if there or name in facts.saved else None

    there = signal._standing_there

    def standing(draft: Draft, name: str) -> Any:
        rest = [row for row in draft.strands.values() if row.stage == name and row.state == "rest"]
        return there(draft, name) or next(iter(rest), None)

    return _put((signal, "_refusal", refusal), (signal, "_standing_there", standing))


def _times_out_all_the_same() -> Plant:
    """That its time is over was decided when a sweep found the wait due, whatever has come since."""
    end_wait = _store._end_wait

    def as_found(t: Any, place: Any) -> Any:
        def decide(facts: Any) -> Any:
            row = facts.strands[place.strand]
            went_on = row.stage != place.stage and row.state in ("ready", "waiting")
            if not went_on or facts.run.phase is not Phase.FORWARD:
                return _wake.wake(facts, place.strand, place.gen)
            draft = Draft(facts)
            signal._time_out(draft, row._replace(stage=place.stage))
            return draft.done()

        if place.stage != WORD:
            return end_wait(t, place)
        return _store.transact(t, place.run, decide, needs=(Part.STRANDS, Part.SAVED, Part.NEWEST))

    return _put((_store, "_end_wait", as_found), (_store, "needs_no_worker", _always(True)))


def _approved_unasked() -> Plant:
    """Whoever asks goes on at once."""

    def goes_on(draft: Any, work: Any, asked: Any) -> None:
        approval._consume(draft, work, asked, None)

    return _put((approval, "_await", goes_on))


def _denials_are_heard_wrong() -> Plant:
    decide = BaseStore.decide
    return _put(
        (
            BaseStore,
            "decide",
            lambda self, order, stage, _said, digest, token=None: decide(self, order, stage, "approved", digest, token),
        )
    )


def _about_whatever_is_asked() -> Plant:
    decide = BaseStore.decide
    return _put(
        (
            BaseStore,
            "decide",
            lambda self, order, stage, said, _digest, token=None: decide(self, order, stage, said, None, token),
        )
    )


def _links_are_used_again() -> Plant:
    usable = approval.usable
    return _put(
        (approval, "usable", lambda run, link, clock: usable(run, link and link._replace(used_at=None), clock)),
    )


def _links_are_used_late() -> Plant:
    usable = approval.usable
    return _put(
        (approval, "usable", lambda run, link, clock: usable(run, link and link._replace(expires_at=clock + 1), clock)),
    )


def _never_consumed() -> Plant:
    change = Draft.set_approval

    def without(draft: Draft, row: Any, **columns: Any) -> Any:
        return change(draft, row, **{name: None if name == "consumed_at" else value for name, value in columns.items()})

    return _put((Draft, "set_approval", without))


def _never_times_out() -> Plant:
    """A wait that is due is woken as a retry is, and waits anew."""
    return _put((wake, "awaits_signal", _always(False)), (waiting, "awaits_signal", _always(False)))


def _calls_wait_through_a_stop() -> Plant:
    rest = Draft.rest_idle

    def others(draft: Draft) -> None:
        waited = [row for row in draft.strands.values() if waiting.awaits_callback(row)]
        rest(draft)
        for row in waited:
            draft.set_strand(row.strand, state=row.state, waiting_for=row.waiting_for, wake_at=row.wake_at)

    return _put((Draft, "rest_idle", others))


def _early_calls_are_lost() -> Plant:
    """A call that comes before its stage waits is answered, and not kept."""
    add = Draft.add_signal

    def only_there(draft: Draft, one: Any) -> None:
        if any(row.stage == one.stage and waiting.awaits_callback(row) for row in draft.strands.values()):
            add(draft, one)

    receive = callback.receive

    def received(facts: Any, call: Any) -> Any:
        with patch.object(Draft, "add_signal", only_there):
            return receive(facts, call)

    return _put((callback, "receive", received))


def _calls_without_doubt() -> Plant:
    end = Draft.end_attempt

    def certain(draft: Draft, of: Any, state: Any, **how: Any) -> None:
        end(draft, of, state, **(how | ({"doubt": False} if state == AttemptState.WAITING else {})))

    return _put((Draft, "end_attempt", certain))


def _a_group_joins() -> Plant:
    """The end of a group is taken for that of all."""
    of = items.groups_of

    def its_own(draft: Draft, strand: str) -> Any:
        return [group for group in of(draft, strand) if group.is_over][:1] or of(draft, strand)

    return _put((items, "groups_of", its_own))


def _a_failure_does_not_count() -> Plant:
    count = Draft.count

    def forgetful(self: Draft, **by: int) -> None:
        count(self, **{name: number for name, number in by.items() if name != "failed"})

    return _put((Draft, "count", forgetful))


def _an_end_counts_twice() -> Plant:
    def twice(count: Any) -> Any:
        def counted(where: Any, facts: Any, counts: Any, code: str) -> str:
            again = [one for one in counts if one.done and facts.run.phase is Phase.DRAINING]
            digest: str = count(where, facts, [*counts, *again], code)
            return digest

        return counted

    return _put(*((store, "count", twice(store.count)) for store in (of_items, in_memory.of_items)))


def _a_chain_of_nobody() -> Plant:
    """What is opened does not begin at the run's event."""

    def loose(open_all: Any) -> Any:
        return lambda where, run, what, _head, at: open_all(where, run, what, accepting.GENESIS, at)

    return _put(*((store, "_open", loose(store._open)) for store in (of_items, in_memory.of_items)))


MUTANTS = (
    Mutant("drop the fence check", _fence_dropped()),
    Mutant("the fence names no owner and no attempt", _fence_of_gen_only()),
    Mutant("a step is saved without a fence", _steps_without_fence(), quick=True),
    Mutant("saved steps are not read", _put(*_of_each_store("calls", _always(()))), quick=True),
    Mutant("commit before the effect", _effect_after_commit(), quick=True),
    Mutant("publish before the commit, and no sweep of the outbox", _swapped()),
    Mutant(
        "never publish after enqueue, and no sweep of the outbox",
        _put((accept.Acceptor, "deliver", _always(None)), *_of_each_store("undelivered", _always([]))),
    ),
    Mutant("no sweep of the outbox", _no_outbox(), quick=True),
    Mutant(
        "forget the lease renewal",
        _put((owners, "renew", _always(True)), (MemoryStore, "renew", _always(True))),
        quick=True,
    ),
    Mutant("take from a live owner", _from_the_living(), quick=True),
    Mutant("undo while a branch still runs", _undo_from_the_living()),
    Mutant("undo in order", _put((resolve, "ready_undos", _in_order)), quick=True),
    Mutant("undo everything at once", _put((resolve, "ready_undos", _all_at_once)), quick=True),
    Mutant("undo before a lost stage is over", _put((Draft, "acts_until", _always(0.0)))),
    Mutant("half a lease in the place of a lost stage's end", _half_a_lease()),
    Mutant("a lost stage's end is confirmed by whoever looks", _confirmed_by_anybody()),
    Mutant("whoever sweeps may declare others dead", _judged_by_anybody(), quick=True),
    Mutant("a confirmed end lets no undo begin", _put(*_of_each_store("runs_waiting_for", _always([])))),
    Mutant(
        "nobody is asked to confirm an end",
        _put((owners, "await_end", _always(None)), (in_memory.owners, "await_end", _always(None))),
    ),
    Mutant("a person is believed though the lease holds", _confirmed_alive()),
    Mutant("a child that takes another's place begins to judge anew", _young_for_ever()),
    Mutant("a lease of a clock that went back holds", _any_lease_holds()),
    Mutant("a turn of a clock that went back is still to come", _turns_to_come()),
    Mutant("a message of a clock that went back is still on its way", _sent_in_an_hour()),
    Mutant("what nobody knows is offered again for ever", _offered_for_ever()),
    Mutant("who is told of what nobody knows: nobody", _put(*_of_each_store("unserved", _always([])))),
    Mutant("patience with a message does not grow", _impatient()),
    Mutant("what is no Exception ends the attempt", _exceptions_alone()),
    Mutant("drop the intent to undo", _no_intent(), quick=True),
    Mutant("finish without undoing", _put((resolve, "settlement", _never_undone)), quick=True),
    Mutant("undo past the pivot", _past_every_pivot()),
    Mutant(
        "begin without looking at the phase",
        _under_the_lock((start, "refusal", _always(None)), (Draft, "rest_idle", _always(None))),
    ),
    Mutant("a join begins after any of its branches", _put((Plan, "heads_after", _any_dependency)), quick=True),
    Mutant("a join never begins", _put((Plan, "heads_after", _a_join_too_few))),
    Mutant("ignore on_unknown, and poison", _put((take, "_redo", _retried_all_the_same)), quick=True),
    Mutant("a key of its own for each attempt", _other_keys(), quick=True),
    Mutant("retry at once", _no_wait(), quick=True),
    Mutant("one attempt too many", _one_attempt_more(), quick=True),
    Mutant("an operator's word counts for any version", _any_version()),
    Mutant("a key is enough, whatever the parameters", _put((carrying, "held_by", _any_parameters))),
    Mutant("do not look up a commit whose answer was lost", _put(*_of_each_store("recall", _always(False)))),
    Mutant("an event does not seal the one before", _unsealed()),
    Mutant("outputs of before are not read", _put(*_of_each_store("outputs", _always({})))),
    Mutant("observers are told before the outcome is saved", _told_too_early(), quick=True),
    Mutant("an observer's error ends the attempt", _told_loudly(), quick=True),
    Mutant("what an observer answers counts as the stage's work", _answers_are_work()),
    Mutant("a fork takes over what is to be undone", _obligations_copied()),
    Mutant("a fork begins with what was undone", _forked_from_what_was_undone()),
    Mutant("a stop leaves what sleeps asleep", _sleeps_through_a_stop()),
    Mutant("a stop leaves what waits waiting", _waits_through_a_stop()),
    Mutant("a signal that comes early is lost", _early_ones_are_lost(), quick=True),
    Mutant("a signal that comes in time is only kept", _put((signal, "_standing_there", _always(None))), quick=True),
    Mutant(
        "a signal that is kept is not looked for",
        _put(*((where, "kept_for", _always(None)) for where in (finish, signal, waiting, again))),
        quick=True,
    ),
    Mutant("a signal that is sent again is another one", _keys_are_forgotten(), quick=True),
    Mutant("under its key a signal may say anything", _any_payload_under_a_key()),
    Mutant("a wait takes a second signal", _second_ones_are_taken()),
    Mutant("a signal that comes too late is taken", _late_ones_are_taken()),
    Mutant("a wait ends with nothing", _put((waiting, "fulfil", _always(None)), (signal, "fulfil", _always(None)))),
    Mutant("a wait whose time is over begins anew", _never_times_out()),
    Mutant("an approval counts before anybody has decided", _approved_unasked(), quick=True),
    Mutant(
        "an approval counts whatever is about to happen", _put((approval, "as_stored", lambda _new, before: before))
    ),
    Mutant("an approval is not consumed", _never_consumed(), quick=True),
    Mutant("a decision counts for whatever is asked by then", _about_whatever_is_asked()),
    Mutant("a denial is taken for an approval", _denials_are_heard_wrong()),
    Mutant("a link may be used again", _links_are_used_again()),
    Mutant("a link may be used when its time is over", _links_are_used_late()),
    Mutant("a decision uses no link up", _put((Draft, "use", _always(None)))),
    Mutant("a wait whose signal has come times out all the same", _times_out_all_the_same(), quick=True),
    Mutant("a stop leaves what waits for its callback waiting", _calls_wait_through_a_stop()),
    Mutant("a callback that comes early is lost", _early_calls_are_lost()),
    Mutant("a callback that is kept is not looked for", _put((callback, "_kept", _always(None)))),
    Mutant("a callback URL takes whatever comes second", _put((callback, "as_stored", lambda _new, before: before))),
    Mutant("a callback that comes too late is taken", _put((callback, "_refuse_late", _always(None)))),
    Mutant("a callback that comes in time is only kept", _put((callback, "awaits_callback", _always(False)))),
    Mutant("what waits for its callback is certain", _calls_without_doubt()),
    Mutant(
        "a wait for the outside that expires begins its body again", _put((wake, "awaits_callback", _always(False)))
    ),
    Mutant("a message begins what waits for its callback", _put((waiting, "awaits_callback", _always(False)))),
    Mutant("any token is one of ours", _put((hmac, "compare_digest", _always(True)))),
    Mutant("what waits for its turn has no time at which it looks again", _waits_for_its_turn_for_ever()),
    Mutant("a sleep that is over is the end of its run", _put((wake, "advance", _always(None))), quick=True),
    Mutant("a stage joins when one group of its items has ended", _a_group_joins(), quick=True),
    Mutant("the last of a stage's items does not join", _put((items, "_moves_the_run", _always(False))), quick=True),
    Mutant("an item that failed is not counted", _a_failure_does_not_count(), quick=True),
    Mutant("an end of a run that stops is counted twice", _an_end_counts_twice()),
    Mutant("a stop leaves items behind", _put((Draft, "rest_items", _always(None))), quick=True),
    Mutant(
        "an item begins after a cancel", _put((items, "refusal", _always(None)), (Draft, "rest_items", _always(None)))
    ),
    Mutant("a run that stops looks at its strands alone", _put((Draft, "items_run", False))),
    Mutant("an undo does not wait for an item that was just lost", _put((Draft, "learn", _always(None)))),
    Mutant("the undo of a stage passes over its items", _put((start, "groups_of", _always([])))),
    Mutant("a slot is not given up", _put((slots.Pools, "free", _always(None))), quick=True),
    Mutant("a lost body gives up its slot", _put((Draft, "may_act_until", _always(None)))),
    Mutant("a slot is taken twice", _put((slots.Pools, "has_room", _always(True))), quick=True),
    Mutant("a slot is taken and not counted", _put((slots.Pools, "take", _taken_uncounted))),
    Mutant(
        "who waits for a slot is forgotten",
        _put((_store, "woken_by", _always([])), (slots.Pools, "_offers", _no_offers)),
    ),
    Mutant("who was offered a slot is not woken", _unheard_offers()),
    Mutant("a stop leaves those that wait for slots in the queue", _put((slots, "_still_waits", _always(True)))),
    Mutant("a limit is asked by messages alone", _put((finish, "admitted", _always(True)))),
    Mutant("an item's chain begins at no event of its run", _a_chain_of_nobody(), quick=True),
)
