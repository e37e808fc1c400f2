"""What the commands need of an engine; ``engine.operations.Operations``, ``Engine`` and a test's fake satisfy it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, Protocol

from stageflow_durable.engine.accept import Submission
from stageflow_durable.errors import StageflowError
from stageflow_durable.model.overview import Overview
from stageflow_durable.model.roster import Profile, Roster
from stageflow_durable.model.run import Event, Run, RunSummary, SweepReport, WorkerView
from stageflow_durable.model.sinks import SinkView
from stageflow_durable.model.status import ParkReason, RunStatus
from stageflow_durable.model.verbs import Standing

if TYPE_CHECKING:
    from stageflow_durable.engine.limits import Limits


class Operations(Protocol):
    """What works with a database alone. A run is named by its id or a prefix of at least six characters. The verbs that
    change runs are called as they are declared: :func:`cli.verb_options.perform`.
    """

    def run(self, run_id: str) -> Run:
        """One run in full. Raises UnknownRun, also where the prefix fits several."""

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
        """Runs, newest first. ``attention``: those that need a person; ``after``: those behind this run."""

    def matching(
        self,
        status: Sequence[RunStatus],
        *,
        pipeline: str | None = None,
        client_id: str | None = None,
        since: datetime | None = None,
        park_reason: ParkReason | None = None,
        limit: int = 100,
        attributes: Mapping[str, str] | None = None,
        until: datetime | None = None,
        error: str | None = None,
    ) -> Sequence[Named]:
        """Which runs a filter fits, the newest first."""

    def standings(self, run_ids: Sequence[str]) -> Iterable[Stands]:
        """How these runs stand, in their order; those that are gone are left out."""

    def history(self, run_id: str) -> Sequence[Event]:
        """Events, oldest first."""

    def handle(self, run_id: str) -> Handle:
        """A handle on a run, by its full id."""

    @property
    def limits(self) -> Limits:
        """Limits that all workers share."""

    def workers(self) -> Sequence[WorkerView]:
        """Processes that own, or owned, work."""

    def overview(self) -> Overview:
        """What happens right now, at a glance."""

    def roster(self) -> Roster:
        """What the live workers know and serve."""

    def strangers(self) -> Mapping[str, float]:
        """By queue: how many seconds ago messages came that named runs of another database."""

    def audit(
        self, run_ids: Sequence[str] | None = None, heads: Mapping[str, tuple[int, str]] | None = None
    ) -> Iterable[Any]:
        """Check histories: for each run its ``run_id``, ``events`` and ``problems``."""

    @property
    def has_audit_key(self) -> bool:
        """Whether histories are sealed with a key."""

    def audit_heads(self) -> Iterable[tuple[str, int, str]]:
        """The end of each history: run, number, code."""

    def sink_views(self) -> Sequence[SinkView]:
        """How every sink stands."""

    def forget_sink(self, name: str) -> None:
        """Forget how far a sink was told. Raises InvalidInput."""

    def sweep(self) -> SweepReport:
        """One recovery sweep."""

    def prune(self, older_than: timedelta, *, limit: int | None = None, dry_run: bool = False) -> int:
        """Delete runs that ended for good long ago."""


class Named(Protocol):
    """A run by its id, and its status when it was listed."""

    @property
    def run_id(self) -> str:
        """Its id."""

    @property
    def status(self) -> RunStatus:
        """Its status."""


class Stands(Named, Protocol):
    """A run, and what the verbs that are allowed for it depend on."""

    @property
    def op_version(self) -> int:
        """What an operator's verb has to name."""

    @property
    def standing(self) -> Standing:
        """The facts."""


class Handle(Protocol):
    """A run as its caller sees it."""

    @property
    def run_id(self) -> str:
        """Its id, 26 sortable characters."""

    @property
    def replayed(self) -> bool:
        """Whether its key was used before: this is the run of then."""

    def status(self) -> RunStatus:
        """Its status now."""

    def events(self, *, after: int = 0) -> Iterable[Event]:
        """Its events as they come, those after number ``after``, until it is at rest."""

    def result(self, timeout: float | None = None, *, for_people: bool = False) -> Any:
        """Its result, waited for at most ``timeout`` seconds; ``for_people``: masked. Raises
        RunError, ResultTimeout.
        """


class Application(Operations, Protocol):
    """An application's engine: operations, and what needs its pipelines."""

    @property
    def celery_app(self) -> Any:
        """The Celery application that delivers for it."""

    @property
    def settings(self) -> Any:
        """Its settings."""

    @property
    def pipelines(self) -> Mapping[str, Any]:
        """Its pipelines by name."""

    @property
    def profile(self) -> Profile:
        """What a worker of it knows and serves."""

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that its runs use."""

    def check(self) -> Sequence[tuple[RunSummary, str]]:
        """Unfinished runs that its definitions would park, and why."""

    def enqueue(
        self,
        pipeline: str,
        input: Any,
        *,
        client_id: str = ...,
        idempotency_key: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Handle:
        """Start a run. Raises InvalidInput, UnknownPipeline, IdempotencyParamMismatch."""

    def enqueue_many(
        self, pipeline: str, submissions: Iterable[Submission[Any]], *, on_error: Literal["collect"]
    ) -> Sequence[Handle | StageflowError]:
        """Start runs; a refusal stands in the place of what it refuses. Raises UnknownPipeline."""
