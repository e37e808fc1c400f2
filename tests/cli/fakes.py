"""A small in-memory engine for the command: hand-written, satisfying the same protocols as the real one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from stageflow_durable.engine.accept import Submission
from stageflow_durable.errors import (
    IdempotencyParamMismatch,
    InvalidInput,
    NotAllowed,
    OperatorConflict,
    ResultTimeout,
    RunFailed,
    StageflowError,
    UnknownPipeline,
    UnknownRun,
)
from stageflow_durable.model.overview import Overview, QueueView, rates_of, waits_of
from stageflow_durable.model.roster import Profile, Roster
from stageflow_durable.model.run import (
    AttemptView,
    Event,
    Revealed,
    Run,
    RunSummary,
    SignalReceipt,
    StageView,
    SweepReport,
    UndoView,
    WorkerView,
)
from stageflow_durable.model.sinks import SinkView
from stageflow_durable.model.status import (
    AT_REST,
    AttemptState,
    Cause,
    ParkReason,
    Phase,
    RunStatus,
    StageState,
    StepState,
    WaitingFor,
)
from stageflow_durable.model.verbs import VerbName, refusal, standing
from stageflow_durable.store.values import Checked, Created, Seen

NOW = datetime(2026, 3, 1, 3, 16, 20, tzinfo=UTC)
RUN_ID = "01J9F2QZ7KXV3M5N8P0R2T4W6Y"


def ago(seconds: float) -> datetime:
    """So many seconds before the fakes' now."""
    return NOW - timedelta(seconds=seconds)


def attempt(
    n: int = 1,
    state: AttemptState = AttemptState.OK,
    *,
    took: float = 0.01,
    began: datetime | None = None,
    error: str | None = None,
    delay: float | None = None,
    host: str | None = "pay-7",
    pid: int | None = 812,
) -> AttemptView:
    began_at = began or ago(900)
    ended = None if state is AttemptState.RUNNING else began_at + timedelta(seconds=took)
    return AttemptView(n, state, "owner-1", host, pid, began_at, ended, error, "transient" if error else None, delay)


def stage(
    name: str,
    state: StageState = StageState.OK,
    *attempts: AttemptView,
    undo: UndoView | None = None,
    most: int | None = 1,
    after: tuple[str, ...] = (),
    **more: Any,
) -> StageView:
    tries = len([one for one in attempts if one.state not in (AttemptState.VOID, AttemptState.UNKNOWN)])
    given: dict[str, Any] = {
        "kind": "work",
        "pivot": False,
        "tries": tries,
        "lost": 0,
        "output": None,
        "error": None,
        "wake_at": None,
        "key": f"sf_{RUN_ID}_{name}",
        "waiting_for": WaitingFor.TIME if state is StageState.WAITING else None,
    }
    return StageView(
        name=name, state=state, attempts=tuple(attempts), undo=undo, max_attempts=most, after=after, **{**given, **more}
    )


def undo(
    name: str, state: StepState = StepState.RECORDED, *attempts: AttemptView, error: str | None = None
) -> UndoView:
    return UndoView(name, state, error, tuple(attempts), f"sf_{RUN_ID}_undo_{name}")


def run(status: RunStatus = RunStatus.RUNNING, *stages: StageView, run_id: str = RUN_ID, **more: Any) -> Run:
    linked = tuple(
        replace(one, after=(stages[n - 1].name,)) if n and not one.after else one for n, one in enumerate(stages)
    )
    phase = Phase.SETTLED if status in AT_REST else Phase.FORWARD
    given: dict[str, Any] = {
        "run_id": run_id,
        "pipeline": "checkout",
        "version": "1",
        "client_id": "web",
        "key": "order-A-1",
        "status": status,
        "phase": phase,
        "cause": None,
        "park_reason": None,
        "error": None,
        "error_stage": None,
        "op_version": 3,
        "pivot_passed": False,
        "created_at": ago(1000),
        "updated_at": ago(60),
        "finished_at": None,
        "deadline": None,
        "input": {"order_id": "A-1"},
        "metadata": {},
        "stages": linked,
    }
    return Run(**{**given, **more})


def parked_unknown(**more: Any) -> Run:
    """The run of the picture: charge's worker died, nobody knows whether the card was charged."""
    stages = (
        stage("validate", StageState.OK, attempt(took=0.004)),
        stage(
            "reserve",
            StageState.OK,
            attempt(1, AttemptState.RETRY, took=0.2, error="503", delay=1.2),
            attempt(2, took=0.11),
            undo=undo("release"),
            most=5,
        ),
        stage(
            "charge",
            StageState.UNKNOWN,
            attempt(1, AttemptState.UNKNOWN, began=ago(858.8), took=9.8),
            undo=undo("refund", StepState.INTENDED),
            most=5,
            lost=1,
        ),
        stage("ship", StageState.PENDING, pivot=True),
    )
    given: dict[str, Any] = {"park_reason": ParkReason.UNKNOWN, "error_stage": "charge", "updated_at": ago(849)}
    return run(RunStatus.PARKED, *stages, **{**given, **more})


@dataclass
class Call:
    """One operator verb as the engine got it."""

    verb: str
    run_id: str
    given: dict[str, Any]


@dataclass
class FakeOperations:
    """Runs in a dict, by the same rules as the real operators."""

    held: list[Run] = field(default_factory=list)
    known_sinks: list[SinkView] = field(default_factory=list)
    limits: Any = None
    known_workers: list[WorkerView] = field(default_factory=list)
    report: SweepReport = field(default_factory=SweepReport)
    calls: list[Call] = field(default_factory=list)
    fails: StageflowError | None = None
    asked: dict[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    checked: list[Checked] = field(default_factory=list)
    replays: bool = False
    known_roster: Roster = field(default_factory=Roster)
    seen_strangers: dict[str, float] = field(default_factory=dict)
    awaited: dict[str, list[str]] = field(default_factory=dict)
    has_audit_key: bool = True
    known_queues: list[QueueView] = field(default_factory=list)

    def run(self, run_id: str) -> Run:
        if self.fails:
            raise self.fails
        fitting = [one for one in self.held if one.run_id.startswith(run_id)]
        if len(fitting) != 1:
            raise UnknownRun(f"{run_id} fits {len(fitting)} runs" if fitting else f"no run {run_id}")
        return fitting[0]

    def runs(
        self,
        *,
        status: RunStatus | Sequence[RunStatus] | None = None,
        pipeline: str | None = None,
        client_id: str | None = None,
        since: datetime | None = None,
        attention: bool = False,
        limit: int = 100,
        attributes: Mapping[str, str] | None = None,
        until: datetime | None = None,
        error: str | None = None,
        after: str | None = None,
    ) -> Sequence[RunSummary]:
        if self.fails:
            raise self.fails
        self.asked = {
            "status": status,
            "pipeline": pipeline,
            "client_id": client_id,
            "since": since,
            "attention": attention,
            "limit": limit,
            "attributes": attributes,
            "until": until,
            "error": error,
            "after": after,
        }
        found = [
            one
            for one in self.held
            if (status is None or one.status in ((status,) if isinstance(status, RunStatus) else status))
            and pipeline in (None, one.pipeline)
            and client_id in (None, one.client_id)
            and (since is None or one.created_at >= since)
            and (after is None or one.run_id < after)
        ]
        return [summary(one) for one in found][:limit]

    def standings(self, run_ids: Sequence[str]) -> Iterable[Seen]:
        if self.fails:
            raise self.fails
        held = {one.run_id: one for one in self.held}
        there = [held[one] for one in run_ids if one in held]
        return [Seen(one.run_id, one.status, one.op_version, standing(one)) for one in there]

    def matching(
        self, status: Sequence[RunStatus], *, park_reason: ParkReason | None = None, limit: int = 100, **filters: Any
    ) -> Sequence[RunSummary]:
        found = [one for one in self.runs(limit=100_000, **filters) if one.status in status]
        self.asked |= {"status": status, "park_reason": park_reason, "limit": limit}
        return [one for one in found if park_reason in (None, one.park_reason)][:limit]

    def history(self, run_id: str) -> Sequence[Event]:
        return self.events

    def handle(self, run_id: str) -> FakeHandle:
        return FakeHandle(run_id, happened=self.events)

    def workers(self) -> Sequence[WorkerView]:
        return self.known_workers

    def overview(self) -> Overview:
        if self.fails:
            raise self.fails
        counts: Counter[RunStatus] = Counter(one.status for one in self.held)
        del counts[RunStatus.SUCCEEDED]
        return Overview(
            at=NOW,
            workers=tuple(one for one in self.known_workers if one.ended_at is None),
            counts=counts,
            most=10_000,
            queues=tuple(self.known_queues),
            rates=rates_of(self.held),
            lately=300.0,
            waits=waits_of(self.held),
            looked_at=len(self.held),
            partial=(),
        )

    def roster(self) -> Roster:
        return self.known_roster

    def strangers(self) -> Mapping[str, float]:
        return self.seen_strangers

    def prune(self, older_than: timedelta, *, limit: int | None = None, dry_run: bool = False) -> int:
        self.calls.append(Call("prune", "", {"older_than": older_than, "limit": limit, "dry_run": dry_run}))
        return 3

    def sink_views(self) -> Sequence[SinkView]:
        return self.known_sinks

    def forget_sink(self, name: str) -> None:
        self.calls.append(Call("forget", "", {"name": name}))

    def sweep(self) -> SweepReport:
        return self.report

    def confirm_dead(self, owner: str, *, reason: str, actor: str) -> Sequence[str]:
        self.calls.append(Call("confirm-dead", owner, {"reason": reason, "actor": actor}))
        return self.awaited.pop(owner, [])

    def cancel(
        self, run_id: str, *, reason: str, actor: str, op_version: int | None = None, past_pivot: bool = False
    ) -> RunSummary:
        return self._act(
            VerbName.CANCEL,
            run_id,
            RunStatus.CANCELLED,
            reason=reason,
            actor=actor,
            op_version=op_version,
            **({"past_pivot": True} if past_pivot else {}),
        )

    def resume(self, run_id: str, *, reason: str, actor: str, op_version: int | None = None) -> RunSummary:
        return self._act(VerbName.RESUME, run_id, RunStatus.RUNNING, reason=reason, actor=actor, op_version=op_version)

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
        return self._act(
            VerbName.COMPENSATE,
            run_id,
            RunStatus.COMPENSATING,
            reason=reason,
            actor=actor,
            op_version=op_version,
            past_pivot=past_pivot,
            **({"skip": tuple(skip)} if skip else {}),
        )

    def fork(
        self, run_id: str, from_stage: str, *, reason: str, actor: str, idempotency_key: str | None = None
    ) -> Created:
        given = {"from_stage": from_stage, "reason": reason, "actor": actor, "idempotency_key": idempotency_key}
        self.calls.append(Call("fork", run_id, given))
        if self.fails:
            raise self.fails
        return Created(f"{RUN_ID[:-1]}F", self.replays)

    def signal(
        self,
        run_id: str,
        name: str,
        payload: Any = None,
        *,
        idempotency_key: str | None = None,
        reason: str,
        actor: str,
    ) -> SignalReceipt:
        given = {"name": name, "payload": payload, "idempotency_key": idempotency_key}
        self.calls.append(Call("signal", run_id, {**given, "reason": reason, "actor": actor}))
        if self.fails:
            raise self.fails
        return SignalReceipt(run_id, name, 1, NOW, self.replays)

    def erase(self, run_id: str, *, reason: str, actor: str, op_version: int | None = None) -> RunSummary:
        return self._act(VerbName.ERASE, run_id, RunStatus.SUCCEEDED, reason=reason, actor=actor, op_version=op_version)

    def reveal(self, run_id: str, *, reason: str, actor: str) -> Revealed:
        self.calls.append(Call("reveal", run_id, {"reason": reason, "actor": actor}))
        if self.fails:
            raise self.fails
        return Revealed(run_id, {"password": "hunter2"}, {}, {"charge": {"token": "t-1"}})

    def approve(
        self,
        run_id: str,
        stage: str,
        *,
        digest: str | None = None,
        reason: str,
        actor: str,
        op_version: int | None = None,
    ) -> RunSummary:
        return self._decide("approve", run_id, stage, digest, reason, actor, op_version)

    def deny(
        self,
        run_id: str,
        stage: str,
        *,
        digest: str | None = None,
        reason: str,
        actor: str,
        op_version: int | None = None,
    ) -> RunSummary:
        return self._decide("deny", run_id, stage, digest, reason, actor, op_version)

    def _decide(
        self,
        verb: str,
        run_id: str,
        stage: str,
        digest: str | None,
        reason: str,
        actor: str,
        op_version: int | None,
    ) -> RunSummary:
        given = {"stage": stage, "digest": digest, "reason": reason, "actor": actor, "op_version": op_version}
        self.calls.append(Call(verb, run_id, given))
        if self.fails:
            raise self.fails
        return summary(replace(self.run(run_id), status=RunStatus.RUNNING))

    def audit(
        self, run_ids: Sequence[str] | None = None, heads: Mapping[str, tuple[int, str]] | None = None
    ) -> Iterable[Checked]:
        self.calls.append(Call("audit", "", {"run_ids": run_ids, "heads": heads}))
        return self.checked

    def audit_heads(self) -> Iterable[tuple[str, int, str]]:
        return [(RUN_ID, 7, "ab" * 32)]

    def settle(
        self,
        run_id: str,
        stage: str,
        *,
        done: Any = None,
        not_done: bool = False,
        reason: str,
        actor: str,
        op_version: int | None = None,
    ) -> RunSummary:
        return self._act(
            VerbName.SETTLE,
            run_id,
            RunStatus.RUNNING,
            stage=stage,
            done=done,
            not_done=not_done,
            reason=reason,
            actor=actor,
            op_version=op_version,
        )

    def _act(self, verb: VerbName, run_id: str, to: RunStatus, **given: Any) -> RunSummary:
        seen = self.run(run_id)
        if given["op_version"] not in (None, seen.op_version):
            raise OperatorConflict(run_id, verb)
        if why := refusal(verb, standing(seen), stage=given.get("stage"), past_pivot=given.get("past_pivot", False)):
            raise NotAllowed(run_id, verb, why)
        self.calls.append(Call(verb, run_id, given))
        after = replace(seen, status=to, park_reason=None, op_version=seen.op_version + 1)
        self.held[self.held.index(seen)] = after
        return summary(after)


def summary(of: Run) -> RunSummary:
    return RunSummary(**{name: getattr(of, name) for name in RunSummary.__slots__})


@dataclass
class FakeHandle:
    run_id: str
    replayed: bool = False
    outcome: Any = None
    happened: Sequence[Event] = ()

    def events(self, *, after: int = 0) -> Iterable[Event]:
        return (event for event in self.happened if event.seq > after)

    def status(self) -> RunStatus:
        return RunStatus.FAILED if isinstance(self.outcome, RunFailed) else RunStatus.SUCCEEDED

    def result(self, timeout: float | None = None, *, for_people: bool = False) -> Any:
        if timeout == 0:
            raise ResultTimeout(f"run {self.run_id} did not end within 0 s")
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@dataclass
class FakeApplication(FakeOperations):
    """An engine with one pipeline, checkout, whose input needs ``amount_cents``."""

    started: list[tuple[Any, str | None, str]] = field(default_factory=list)
    described: list[Mapping[str, Any] | None] = field(default_factory=list)
    outages: list[StageflowError] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    celery_app: Any = None
    settings: Any = None
    pipelines: dict[str, Any] = field(default_factory=dict)
    misfits: list[tuple[RunSummary, str]] = field(default_factory=list)
    queues: tuple[str, ...] = ("stageflow-shop",)
    profile: Profile = field(default_factory=lambda: Profile("shop", "redis://localhost:6379/0", (), {}))

    def check(self) -> Sequence[tuple[RunSummary, str]]:
        return self.misfits

    def enqueue(
        self,
        pipeline: str,
        input: Any,
        *,
        client_id: str = "default",
        idempotency_key: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> FakeHandle:
        if self.outages:
            raise self.outages.pop(0)
        if pipeline != "checkout":
            raise UnknownPipeline(pipeline, ["checkout"])
        if not isinstance(input, dict) or not isinstance(input.get("amount_cents"), int):
            raise InvalidInput("input of checkout", ["amount_cents: input should be a valid integer"])
        for number, (value, key, _client) in enumerate(self.started):
            if key is not None and key == idempotency_key:
                if value != input:
                    raise IdempotencyParamMismatch(key, ["amount_cents"])
                return FakeHandle(self._id(number), replayed=True, outcome=value)
        self.started.append((input, idempotency_key, client_id))
        self.described.append(attributes)
        run_id = self._id(len(self.started) - 1)
        failed = RunFailed(run_id, "failed", "failed", "charge", "card declined")
        return FakeHandle(run_id, outcome=failed if input["amount_cents"] < 0 else {"amount": input["amount_cents"]})

    def enqueue_many(
        self, pipeline: str, submissions: Iterable[Submission], *, on_error: Literal["collect"]
    ) -> Sequence[FakeHandle | StageflowError]:
        """Without keys all or none, as one transaction would."""
        if pipeline != "checkout":
            raise UnknownPipeline(pipeline, ["checkout"])
        if self.outages:
            raise self.outages.pop(0)
        self.batches.append(0)
        return [self._answered(one) for one in submissions]

    def _answered(self, one: Submission) -> FakeHandle | StageflowError:
        self.batches[-1] += 1
        try:
            return self.enqueue(
                "checkout",
                one.input,
                client_id=one.client_id,
                idempotency_key=one.idempotency_key,
                attributes=one.attributes,
            )
        except StageflowError as error:
            return error

    @staticmethod
    def _id(number: int) -> str:
        return f"01J9F2QZ7KXV{number:014d}"


FAILED_CAUSE = Cause.FAILED
