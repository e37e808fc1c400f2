"""What a person or a program may ask about runs, and do to them: needs the database, and a publisher to set runs
going.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from stageflow_durable.clock import Clock
from stageflow_durable.codec import encode, fingerprint
from stageflow_durable.duration import is_duration, seconds_of, shown
from stageflow_durable.engine.accept import publish
from stageflow_durable.engine.outcome import storable
from stageflow_durable.engine.payload import PAYLOAD_BYTES, within
from stageflow_durable.engine.ports import Publisher
from stageflow_durable.engine.recover import Sweeper
from stageflow_durable.errors import InvalidInput
from stageflow_durable.idempotency.keys import valid_key
from stageflow_durable.model.keys import new_run_id
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.roster import Roster
from stageflow_durable.model.run import Event, Run, RunSummary, SweepReport, WorkerView
from stageflow_durable.model.status import ParkReason, RunStatus
from stageflow_durable.state.fork import Fork
from stageflow_durable.state.listing import ATTENTION, Filter, Found
from stageflow_durable.state.retention import BATCH as PRUNE_BATCH
from stageflow_durable.state.runs import Created
from stageflow_durable.state.standings import Known, Seen
from stageflow_durable.state.store import Store
from stageflow_durable.state.verification import Checked
from stageflow_durable.state.views import summary_of
from stageflow_durable.transitions.operate import Order

UNSAID: Any = object()
"""The default of ``done=``: an output may be None, so that None cannot mean that nothing was said."""

STANDINGS = 200
"""Runs that are looked at together. What is seen of the last may be older by as long as the others take."""

STUCK_SECONDS = 60.0
"""How long a run may stand still before ``attention`` lists it."""


UNSERVED_SECONDS = 15.0
"""How long a run may lack a worker before ``attention`` lists it: workers are restarted."""


class Operations:
    """Runs, as people see and steer them."""

    def __init__(
        self,
        store: Store,
        publisher: Publisher,
        sweeper: Sweeper,
        clock: Clock,
        max_attempts: Mapping[str, Mapping[str, int]] | None = None,
        payload_bytes: int = PAYLOAD_BYTES,
    ) -> None:
        self._payload_bytes = payload_bytes
        self._store = store
        self._publisher = publisher
        self._sweeper = sweeper
        self._clock = clock
        self._max_attempts = max_attempts or {}

    def run(self, run_id: str) -> Run:
        """A run in full, by its id or a prefix that fits only one. Raises UnknownRun."""
        full = self._store.full_id(run_id)
        facts = self._store.facts(full)
        return self._store.run(full, self._max_attempts.get(facts.pipeline if facts else "", {}))

    def runs(
        self,
        status: str | Sequence[str] | None = None,
        pipeline: str | None = None,
        client_id: str | None = None,
        since: datetime | timedelta | None = None,
        attention: bool = False,
        limit: int = 100,
    ) -> list[RunSummary]:
        """Runs, the newest first. ``since``: an aware datetime or how long ago; ``attention``: only what needs a
        person: stuck runs too, and those of which an undo waits until a process is confirmed to have ended.
        """
        self._name(pipeline, client_id)
        wanted = tuple(ATTENTION) if attention and status is None else _statuses(status)
        pages = self._store.pages(Filter(wanted, pipeline, client_id, self._seconds(since), limit))
        found = [run for page in pages for run in page]
        return [*found, *self._store.unconfirmed(), *self._standing()] if attention else found

    def matching(
        self,
        status: Sequence[str],
        pipeline: str | None = None,
        client_id: str | None = None,
        since: datetime | timedelta | None = None,
        park_reason: ParkReason | None = None,
        limit: int = 100,
    ) -> list[Found]:
        """Which runs a filter fits, the newest first: their ids and statuses. Parameters as of :meth:`runs`."""
        self._name(pipeline, client_id)
        wanted = Filter(_statuses(status), pipeline, client_id, self._seconds(since), limit, park_reason=park_reason)
        return list(self._store.found(wanted))

    def standings(self, run_ids: Sequence[str]) -> Iterator[Seen]:
        """How these runs (full ids) stand, in their order, read in batches while they are asked for; those that are
        gone are left out.
        """
        known: Known = {}
        for start in range(0, len(run_ids), STANDINGS):
            some = run_ids[start : start + STANDINGS]
            seen = self._store.standings(some, known)
            yield from (seen[run_id] for run_id in some if run_id in seen)

    @staticmethod
    def _name(pipeline: str | None, client_id: str | None) -> None:
        for what, text in (("pipeline", pipeline), ("client_id", client_id)):
            if text is not None:
                valid_key(text, what)

    def _standing(self) -> list[RunSummary]:
        """Runs that stand still: no live worker can carry them, or nobody knows why."""
        now = self._clock.time()
        unserved = self._store.unserved(now - UNSERVED_SECONDS)
        told = {run.run_id for run in unserved}
        return [*unserved, *(run for run in self._store.stuck(now - STUCK_SECONDS) if run.run_id not in told)]

    def _seconds(self, since: datetime | timedelta | None) -> float | None:
        if isinstance(since, timedelta):
            if not is_duration(since):
                raise InvalidInput("runs", [f"since: {shown(since)}; a timedelta of at most ten years back"])
            return self._clock.time() - seconds_of(since)
        if since is not None and since.tzinfo is None:
            raise InvalidInput("runs", ["since: a naive datetime; use an aware one or a timedelta"])
        return None if since is None else since.timestamp()

    def history(self, run_id: str) -> list[Event]:
        """A run's events, oldest first."""
        return self._store.history(self._store.full_id(run_id))

    def workers(self) -> list[WorkerView]:
        """Processes that own, or owned, work."""
        return self._store.workers()

    def roster(self) -> Roster:
        """What the live workers know and serve."""
        return self._store.roster()

    def strangers(self) -> dict[str, float]:
        """By queue: how many seconds ago messages came that named runs of another database."""
        return self._store.strangers()

    def confirm_dead(self, owner: str, *, reason: str, actor: str) -> list[str]:
        """A person says that the process of an owner has ended, or can act no more: undos that waited for that begin.
        Returns the runs that go on. Raises NotAllowed where its lease holds, or where its end was confirmed before.
        """
        _said("confirm-dead", reason, actor)
        self._store.confirm_dead(owner, storable(reason), storable(actor))
        return self._sweeper.release(owner)

    def sweep(self) -> SweepReport:
        """One recovery sweep; what the beat task calls."""
        return self._sweeper.sweep()

    def prune(
        self, older_than: timedelta, *, limit: int | None = None, dry_run: bool = False, batch: int = PRUNE_BATCH
    ) -> int:
        """Delete runs that succeeded, failed, were cancelled or compensated more than ``older_than`` ago, ``batch``
        in a transaction, ``limit`` at the most; returns how many. Their idempotency keys stay taken.
        """
        if not is_duration(older_than, above=True) or batch < 1:
            wrong = "older_than: more than 0 and at most ten years, e.g. timedelta(days=30); batch: from 1"
            raise InvalidInput("prune", [wrong])
        seconds = seconds_of(older_than)
        most = float("inf") if limit is None else limit
        if dry_run:
            return int(min(self._store.prunable(seconds), most))
        count = 0
        while count < most:
            here = int(min(batch, most - count))
            pruned = self._store.prune(seconds, batch=here, sleep=self._clock.sleep)
            count += pruned.deleted
            if pruned.found < here:  # not what was deleted: another prune may have met the same runs
                break
        return count

    def cancel(
        self, run_id: str, *, reason: str, actor: str, op_version: int | None = None, past_pivot: bool = False
    ) -> RunSummary:
        """Stop a run; completed work is undone. Raises NotAllowed, OperatorConflict."""
        return self._order(run_id, "cancel", reason, actor, op_version, past_pivot)

    def compensate(
        self,
        run_id: str,
        *,
        reason: str,
        actor: str,
        op_version: int | None = None,
        past_pivot: bool = False,
        skip: Sequence[str] = (),
    ) -> RunSummary:
        """Undo what a run did, or try failed undos again. ``skip``: stages whose undo is given up instead, for the
        ``reason``. Raises NotAllowed, OperatorConflict.
        """
        if isinstance(skip, str):
            raise InvalidInput("compensate", [f'skip: a list of stages, as in skip=["{skip}"], not text'])
        return self._order(run_id, "compensate", reason, actor, op_version, past_pivot, tuple(skip))

    def resume(self, run_id: str, *, reason: str, actor: str, op_version: int | None = None) -> RunSummary:
        """Let a parked, failed or cancelled run go forward from its last checkpoints. Raises NotAllowed,
        OperatorConflict.
        """
        return self._order(run_id, "resume", reason, actor, op_version, False)

    def settle(
        self,
        run_id: str,
        stage: str,
        *,
        done: Any = UNSAID,
        not_done: bool = False,
        reason: str,
        actor: str,
        op_version: int | None = None,
    ) -> RunSummary:
        """Record what a person found out about a stage in doubt: ``done`` with its output, or ``not_done``; the run
        goes on.
        """
        if (done is UNSAID) != not_done:
            raise InvalidInput(
                "settle", ["done: give the output that the stage would have saved, or not_done=True; one of them"]
            )
        order = self._checked(run_id, "settle", reason, actor, op_version, False)
        delta = None if not_done else within(encode(done), done, self._payload_bytes, "settle", "done")
        publish(self._store, self._publisher, self._store.settle(order, stage, delta))
        return self._summary(order.run_id)

    def fork(
        self, run_id: str, from_stage: str, *, reason: str, actor: str, idempotency_key: str | None = None
    ) -> Created:
        """A new run that begins at ``from_stage`` with the outputs that run has by now: outputs are copied, what is to
        be undone stays with the original. Raises UnknownRun, NotAllowed, IdempotencyParamMismatch.
        """
        full = self._checked(run_id, "fork", reason, actor, None, False).run_id
        key = None if idempotency_key is None else valid_key(idempotency_key)
        wanted = Fork(
            full,
            from_stage,
            new_run_id(int(self._clock.time() * 1000)),
            key,
            fingerprint({"fork": full, "from": from_stage}),
            reason,
            actor,
        )
        created = self._store.fork(wanted)
        publish(self._store, self._publisher, created.nudges)
        return created

    def check(self, plans: Sequence[Plan]) -> list[tuple[RunSummary, str]]:
        """Unfinished runs that these definitions would park, and why; nothing is changed."""
        return self._store.misfits(plans)

    def audit(
        self, run_ids: Sequence[str] | None = None, heads: Mapping[str, tuple[int, str]] | None = None
    ) -> Iterator[Checked]:
        """Check the chains of events, of all runs or of these, against ``heads`` from before as well."""
        full = None if run_ids is None else [self._store.full_id(run_id) for run_id in run_ids]
        return self._store.audit(full, heads or {})

    @property
    def has_audit_key(self) -> bool:
        """Whether histories are sealed with a key that the database does not know."""
        return self._store.has_audit_key

    def audit_heads(self) -> Iterator[tuple[str, int, str]]:
        """Of each run its id, the number of its last event and that one's code: to be kept elsewhere."""
        return self._store.heads()

    def _order(
        self,
        run_id: str,
        verb: str,
        reason: str,
        actor: str,
        op_version: int | None,
        past_pivot: bool,
        skip: tuple[str, ...] = (),
    ) -> RunSummary:
        order = replace(self._checked(run_id, verb, reason, actor, op_version, past_pivot), skip=skip)
        publish(self._store, self._publisher, self._store.order(order))
        return self._summary(order.run_id)

    def _checked(
        self, run_id: str, verb: str, reason: str, actor: str, op_version: int | None, past_pivot: bool
    ) -> Order:
        _said(verb, reason, actor)
        return Order(self._store.full_id(run_id), verb, storable(reason), storable(actor), op_version, past_pivot)

    def _summary(self, run_id: str) -> RunSummary:
        facts = self._store.facts(run_id)
        assert facts is not None
        return summary_of(facts)


def _said(verb: str, reason: str, actor: str) -> None:
    missing = [
        f"{name}: say it; it goes into the audit"
        for name, value in (("reason", reason), ("actor", actor))
        if not value.strip()
    ]
    if missing:
        raise InvalidInput(verb, missing)


def _statuses(status: str | Sequence[str] | None) -> tuple[RunStatus, ...] | None:
    if status is None:
        return None
    try:
        return tuple(RunStatus(one) for one in ([status] if isinstance(status, str) else status))
    except ValueError as error:
        raise InvalidInput("runs", [f"status: {error}; one of {', '.join(RunStatus)}"]) from None
