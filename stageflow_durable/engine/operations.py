"""What a person or a program may ask about runs, beside the verbs that change them: an engine is one of these; with a
database alone :class:`DatabaseOperations` is another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from stageflow_durable.clock import Clock, as_moment
from stageflow_durable.duration import is_duration, seconds_of, shown
from stageflow_durable.engine.actors import Actor, Credential
from stageflow_durable.engine.awaiting import Awaiting
from stageflow_durable.engine.handle import RunHandle
from stageflow_durable.engine.operator_verbs import OperatorVerbs
from stageflow_durable.engine.overview import overview
from stageflow_durable.engine.payload import PAYLOAD_BYTES
from stageflow_durable.engine.ports import Publisher
from stageflow_durable.engine.recover import Sweeper
from stageflow_durable.engine.sink_operations import SinkOperations
from stageflow_durable.engine.twins import in_thread
from stageflow_durable.errors import InvalidInput, NotAllowed, UnknownRun
from stageflow_durable.idempotency.keys import valid_key
from stageflow_durable.model.attributes import checked
from stageflow_durable.model.overview import Overview
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.model.roster import Roster
from stageflow_durable.model.run import Event, Run, RunSummary, SignalReceipt, SweepReport, WorkerView
from stageflow_durable.model.status import ParkReason, RunStatus
from stageflow_durable.model.waits import waits_long, with_depths
from stageflow_durable.store.protocol import Store
from stageflow_durable.store.values import ATTENTION, Checked, Filter, Found, Known, Seen, Wanted
from stageflow_durable.store.values import BATCH as PRUNE_BATCH
from stageflow_durable.transitions.signal import VERB as SIGNAL

if TYPE_CHECKING:
    from stageflow_durable.engine.limits import Limits

STANDINGS = 200
"""Runs that are looked at together. What is seen of the last may be older by as long as the others take."""

STUCK_SECONDS = 60.0
"""How long a run may stand still before ``attention`` lists it."""


DEPTH_SECONDS = 2.0
"""How long the depth of a queue is believed."""

UNSERVED_SECONDS = 15.0
"""How long a run may lack a worker before ``attention`` lists it: workers are restarted."""

ANY: Any = object()
"""Left out of ``signal_where``. None is refused there: whoever passes what was not filled in means no other run."""


class Operations(SinkOperations, OperatorVerbs):
    """Runs, as people see and steer them: :class:`stageflow_durable.Engine` is one. ``pipelines``: those that it knows,
    by name.
    """

    pipelines: Mapping[str, Pipeline[Any, Any]] = {}
    _retry: RetryPolicy | None = None
    _awaiting: Awaiting | None = None

    @cached_property
    def _depths(self) -> dict[str, tuple[float, int | None]]:
        return {}

    def handle(self, run_id: str) -> RunHandle[Any]:
        """A handle on an existing run, by its id or a prefix. Raises UnknownRun."""
        full = self.store.full_id(run_id)
        facts = self.store.facts(full)
        pipeline = None if facts is None else self.pipelines.get(facts.pipeline)
        return RunHandle(full, self.store, self.run, self._clock, pipeline=pipeline, awaiting=self._awaiting)

    ahandle = in_thread(handle)

    def run(self, run_id: str) -> Run:
        """A run in full, by its id or a prefix that fits only one. Raises UnknownRun."""
        full = self.store.full_id(run_id)
        facts = self.store.facts(full)
        found = self.store.run(full, {} if facts is None else self._max_attempts(facts.pipeline))
        queues = set(waits_long(found.waits, as_moment(self._clock.time())))
        depths = {queue: depth for queue in queues if (depth := self.depth(queue)) is not None}
        return replace(found, waits=with_depths(found.waits, depths)) if depths else found

    def depth(self, queue: str) -> int | None:
        """How many messages wait in a queue; None: the broker does not say. Asked now and then only: one that is away
        answers after seconds.
        """
        asked_at, depth = self._depths.get(queue, (float("-inf"), None))
        if self._clock.monotonic() - asked_at > DEPTH_SECONDS:
            depth = self.publisher.depth(queue)
            self._depths[queue] = self._clock.monotonic(), depth
        return depth

    adepth = in_thread(depth)
    arun = in_thread(run)

    def _max_attempts(self, pipeline: str) -> dict[str, int]:
        """By stage, where the pipeline is known."""
        if pipeline not in self.pipelines:
            return {}
        known = self.pipelines[pipeline]
        default = known.retry or self._retry or RetryPolicy()
        return {spec.name: (spec.retry or default).max_attempts for spec in known.stages}

    def runs(
        self,
        status: str | Sequence[str] | None = None,
        pipeline: str | None = None,
        client_id: str | None = None,
        since: datetime | timedelta | None = None,
        attention: bool = False,
        limit: int = 100,
        attributes: Mapping[str, Any] | None = None,
        *,
        until: datetime | timedelta | None = None,
        error: str | None = None,
        after: str | None = None,
    ) -> list[RunSummary]:
        """Runs, the newest first. ``since``, ``until``: begun then or later, and before then; an aware datetime or how
        long ago. ``attention``: only what needs a person: stuck runs too, and those of which an undo waits until a
        process is confirmed to have ended. ``attributes``: only runs that have all of these. ``error``: only runs whose
        error holds this text, letters of ASCII in either case; it takes ``since`` too. ``after``: the next page, what
        stands behind the run of this id; a run is on one page only, and none that began meanwhile.

        Raises InvalidInput, UnknownRun where ``after`` is no run (any more).
        """
        self._name(pipeline, client_id)
        wanted = tuple(ATTENTION) if attention and status is None else _statuses(status)
        if attention and after is not None:
            raise InvalidInput("runs", ["after: what needs a person is listed whole, without pages"])
        asked = Filter(
            _statuses(status),
            pipeline,
            client_id,
            self._seconds(since, "since"),
            limit,
            before=None if after is None else self._place(after),
            attributes=checked(attributes, "runs"),
            until=self._seconds(until, "until"),
            error=_searched(error, since),
        )
        pages = self.store.pages(replace(asked, status=wanted))
        found = [run for page in pages for run in page]
        return [*found, *self._beside(asked)] if attention else found

    aruns = in_thread(runs)

    def unapproved(self) -> list[RunSummary]:
        """Runs that ask somebody to approve, each with what (``approval``), the oldest first; a hundred at the most."""
        return self.store.unapproved()

    aunapproved = in_thread(unapproved)

    def matching(
        self,
        status: Sequence[str],
        pipeline: str | None = None,
        client_id: str | None = None,
        since: datetime | timedelta | None = None,
        park_reason: ParkReason | None = None,
        limit: int = 100,
        attributes: Mapping[str, Any] | None = None,
        *,
        until: datetime | timedelta | None = None,
        error: str | None = None,
    ) -> list[Found]:
        """Which runs a filter fits, the newest first: their ids and statuses. Parameters as of :meth:`runs`."""
        self._name(pipeline, client_id)
        wanted = Filter(
            _statuses(status),
            pipeline,
            client_id,
            self._seconds(since, "since"),
            limit,
            park_reason=park_reason,
            attributes=checked(attributes, "runs"),
            until=self._seconds(until, "until"),
            error=_searched(error, since),
        )
        return list(self.store.found(wanted))

    amatching = in_thread(matching)

    def standings(self, run_ids: Sequence[str]) -> Iterator[Seen]:
        """How these runs (full ids) stand, in their order, read in batches while they are asked for; those that are
        gone are left out.
        """
        known: Known = {}
        for start in range(0, len(run_ids), STANDINGS):
            some = run_ids[start : start + STANDINGS]
            seen = self.store.standings(some, known)
            yield from (seen[run_id] for run_id in some if run_id in seen)

    @staticmethod
    def _name(pipeline: str | None, client_id: str | None) -> None:
        for what, text in (("pipeline", pipeline), ("client_id", client_id)):
            if text is not None:
                valid_key(text, what)

    def _beside(self, asked: Filter) -> list[RunSummary]:
        """What needs a person whatever its status: stuck, without a worker, waiting for a confirmed end."""
        beside = (*self.store.unapproved(), *self.store.unconfirmed(), *self._standing())
        found = [run for run in beside if asked.fits(run)]
        if not found or not asked.attributes:
            return found
        described = self.store.described([run.run_id for run in found], asked.attributes)
        return [run for run in found if run.run_id in described]

    def _standing(self) -> list[RunSummary]:
        """Runs that stand still: no live worker can carry them, or nobody knows why."""
        now = self._clock.time()
        unserved = self.store.unserved(now - UNSERVED_SECONDS)
        told = {run.run_id for run in unserved}
        return [*unserved, *(run for run in self.store.stuck(now - STUCK_SECONDS) if run.run_id not in told)]

    def _place(self, after: str) -> tuple[float, str]:
        """Where a run stands in a list. Raises UnknownRun."""
        full = self.store.full_id(after)
        facts = self.store.facts(full)
        if facts is None:
            raise UnknownRun(f"no run {full}: it was pruned just now; begin again with the first page")
        return facts.created_at, full

    def _seconds(self, at: datetime | timedelta | None, what: str) -> float | None:
        if isinstance(at, timedelta):
            if not is_duration(at):
                raise InvalidInput("runs", [f"{what}: {shown(at)}; a timedelta of at most ten years back"])
            return self._clock.time() - seconds_of(at)
        if at is not None and at.tzinfo is None:
            raise InvalidInput("runs", [f"{what}: a naive datetime; use an aware one or a timedelta"])
        return None if at is None else at.timestamp()

    def signal_where(
        self,
        name: str,
        payload: Any = None,
        *,
        client_id: str = ANY,
        pipeline: str = ANY,
        correlation: str = ANY,
        idempotency_key: str | None = None,
        reason: str = "sent by the application",
        actor: str | Credential | Actor = "application",
    ) -> SignalReceipt:
        """:meth:`signal` to the one run that waits for ``name``, or will wait: of ``client_id`` and ``pipeline``, where
        they are given, and with ``correlation`` as the idempotency key that it was enqueued with.

        Raises NotAllowed where no run, or more than one, fits; InvalidKey where one of them is given and is None, which
        would fit any run; and as :meth:`signal`.
        """
        fits = {"client_id": client_id, "pipeline": pipeline, "correlation": correlation}
        given = {"name": name, **{what: text for what, text in fits.items() if text is not ANY}}
        if idempotency_key is not None:
            given["idempotency key"] = idempotency_key
        for what, text in given.items():
            valid_key(text, what)
        found = self.store.waiting_for_signal(
            Wanted(name, given.get("client_id"), given.get("pipeline"), given.get("correlation"), idempotency_key)
        )
        if len(found) != 1:
            listed = ", ".join(f"{what}={text!r}" for what, text in given.items())
            why = f"more than one run fits, {', '.join(found)} among them" if found else "no run waits for it"
            raise NotAllowed(name, SIGNAL, f"{why} ({listed})", of="signal")
        return self.signal(found[0], name, payload, idempotency_key=idempotency_key, reason=reason, actor=actor)

    asignal_where = in_thread(signal_where)

    def history(self, run_id: str) -> list[Event]:
        """A run's events, oldest first."""
        return self.store.history(self.store.full_id(run_id))

    ahistory = in_thread(history)

    @cached_property
    def limits(self) -> Limits:
        """Limits that all workers share: how they stand; to pause, resume and set them."""
        from stageflow_durable.engine.limits import Limits

        return Limits(self.store, self._publish)

    def workers(self) -> list[WorkerView]:
        """Processes that own, or owned, work."""
        return self.store.workers()

    aworkers = in_thread(workers)

    def roster(self) -> Roster:
        """What the live workers know and serve."""
        return self.store.roster()

    aroster = in_thread(roster)

    def overview(self) -> Overview:
        """What happens right now, at a glance: workers, queues, rates, waits. It asks a few questions, each of a
        bounded number of rows, and the broker for the depths of queues.
        """
        return overview(self.store, self.depth, self._clock.time())

    aoverview = in_thread(overview)

    def strangers(self) -> dict[str, float]:
        """By queue: how many seconds ago messages came that named runs of another database."""
        return self.store.strangers()

    astrangers = in_thread(strangers)

    def sweep(self) -> SweepReport:
        """One recovery sweep; what the beat task calls."""
        return self._sweeper.sweep()

    asweep = in_thread(sweep)

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
            return int(min(self.store.prunable(seconds), most))
        count = 0
        while count < most:
            here = int(min(batch, most - count))
            pruned = self.store.prune(seconds, batch=here, sleep=self._clock.sleep)
            count += pruned.deleted
            if pruned.found < here:  # not what was deleted: another prune may have met the same runs
                break
        return count

    aprune = in_thread(prune)

    def audit(
        self, run_ids: Sequence[str] | None = None, heads: Mapping[str, tuple[int, str]] | None = None
    ) -> Iterator[Checked]:
        """Check the chains of events, of all runs or of these, against ``heads`` from before as well."""
        if isinstance(run_ids, str):
            raise InvalidInput("audit", [f'run_ids: a list of ids, as in ["{run_ids}"], not text'])
        full = None if run_ids is None else [self.store.full_id(run_id) for run_id in run_ids]
        return self.store.audit(full, heads or {})

    @property
    def has_audit_key(self) -> bool:
        """Whether histories are sealed with a key that the database does not know."""
        return self.store.has_audit_key

    def audit_heads(self) -> Iterator[tuple[str, int, str]]:
        """Of each run its id, the number of its last event and that one's code: to be kept elsewhere."""
        return self.store.heads()


class DatabaseOperations(Operations):
    """The same without an application: no pipelines are known."""

    def __init__(
        self,
        store: Store,
        publisher: Publisher,
        sweeper: Sweeper,
        clock: Clock,
        payload_bytes: int = PAYLOAD_BYTES,
        awaiting: Awaiting | None = None,
    ) -> None:
        self.store = store
        self._awaiting = awaiting
        self.publisher = publisher
        self._sweeper = sweeper
        self._clock = clock
        self._payload_bytes = payload_bytes


def _searched(error: str | None, since: datetime | timedelta | None) -> str | None:
    """A text that errors are searched for: each of them is read, so it is said how far back."""
    if error is not None and since is None:
        raise InvalidInput("runs", ["error: every run with an error is looked at; say since when, since=timedelta(1)"])
    return None if error is None else valid_key(error, "error")


def _statuses(status: str | Sequence[str] | None) -> tuple[RunStatus, ...] | None:
    if status is None:
        return None
    try:
        return tuple(RunStatus(one) for one in ([status] if isinstance(status, str) else status))
    except ValueError as error:
        raise InvalidInput("runs", [f"status: {error}; one of {', '.join(RunStatus)}"]) from None
