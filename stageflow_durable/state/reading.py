"""What can be asked of the store: each method looks, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from sqlalchemy import Connection

from stageflow_durable.errors import InvalidInput
from stageflow_durable.model.attributes import Attributes
from stageflow_durable.model.limits import PoolId
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.roster import Roster
from stageflow_durable.model.run import Event, Run, RunSummary, WorkerView
from stageflow_durable.model.status import Phase, RunStatus
from stageflow_durable.model.work import RunFacts, Saved
from stageflow_durable.state import (
    definition_compatibility,
    endings,
    handed_back,
    horizon,
    listing,
    load,
    owners,
    recovery,
    retention,
    signals,
    slots,
    verification,
    views,
)
from stageflow_durable.state import roster as rosters
from stageflow_durable.state import tallies as tally
from stageflow_durable.state.database import Database
from stageflow_durable.state.standings import standings
from stageflow_durable.state.unlocked import Unlocked
from stageflow_durable.store.values import (
    Awaited,
    Checked,
    Filter,
    Found,
    Known,
    LimitState,
    Measured,
    Missed,
    Overdue,
    Pooled,
    Queued,
    Seen,
    StrandRef,
    Tally,
    WaitingStrand,
    Wanted,
)
from stageflow_durable.transitions.rows import CallRow, LinkRow

T = TypeVar("T")


class Reading:
    """The store's questions."""

    database: Database
    _audit: bytes
    _old_audits: tuple[bytes, ...]
    _unlocked: Unlocked | None

    def _see(self, look: Callable[[Connection], T]) -> T:
        with self.database.transaction() if self.database.in_session else self.database.read() as connection:
            return look(connection)

    def outputs(self, run_id: str) -> dict[str, Saved]:
        """Encoded outputs by stage."""
        if self._unlocked is not None and not self.database.in_session:
            return self._unlocked.outputs(run_id)
        return self._see(lambda c: views.outputs(c, run_id))

    def phase(self, run_id: str) -> Phase | None:
        """Which way the run goes now."""
        facts = self.facts(run_id)
        return None if facts is None else facts.phase

    def link(self, run_id: str, token: str) -> LinkRow | None:
        """A link to an approval of the run, by the hash of its token."""
        return self._see(lambda c: load.links_of(c, run_id).get(token))

    def outcome_of(self, run_id: str, stage: str, item: int = 0) -> str:
        """How the action stood when its undo began."""
        return self._see(lambda c: views.outcome_of(c, run_id, stage, item))

    def calls(self, run_id: str, stage: str, item: int = 0) -> tuple[CallRow, ...]:
        """The steps that attempts of a stage have written, in their order."""
        return self._see(lambda c: load.calls_of_stage(c, run_id, stage, item))

    def next_wait(self, grace: float) -> float | None:
        """In how many seconds the next waiting strand is to be woken, or None; ``grace`` as of :meth:`overdue`."""
        return self._see(lambda c: recovery.next_wait(c, grace))

    def next_due(self, patience: float | None) -> float | None:
        """When a sweep would next find work, or None; ``patience``: seconds after which a message counts as lost."""
        return self._see(lambda c: horizon.next_due(c, patience=patience))

    def overdue(self, grace: float) -> Overdue:
        """What a sweep looks after; ``grace``: how many seconds ago a waiting strand should have been woken."""
        return self._see(lambda c: recovery.overdue(c, grace))

    def limits(self) -> list[LimitState]:
        """How every limit stands, for each key that is in use, or paused."""
        return self._see(slots.states)

    def untended(self) -> list[PoolId]:
        """Pools with a slot that no attempt holds, or with a free one that nobody was offered."""
        return self._see(slots.untended)

    def unmoved(self) -> list[str]:
        """Runs that are not at rest and that nothing will ever move."""
        return self._see(recovery.unmoved)

    def undelivered(
        self,
        queue: str,
        depth: int | None,
        patience: float,
        blind: float,
        elsewhere: frozenset[str] = frozenset(),
    ) -> list[StrandRef]:
        """Ready strands whose nudge was lost; ``elsewhere``: definitions that are carried by other brokers' workers."""
        return self._see(
            lambda c: recovery.undelivered(
                c, queue, depth=depth, patience=patience, blind_patience=blind, elsewhere=elsewhere
            )
        )

    def roster(self) -> Roster:
        """What the live workers know and serve."""
        return self._see(rosters.live)

    def strangers(self) -> dict[str, float]:
        """By queue: how many seconds ago messages of runs that are not here were last noted."""
        return self._see(recovery.strangers)

    def described(self, run_ids: Sequence[str], wanted: Attributes) -> frozenset[str]:
        """Those of the runs that have all of these attributes."""
        return self._see(lambda c: listing.described(c, run_ids, wanted))

    def waits(self, run_ids: Sequence[str]) -> list[WaitingStrand]:
        """The strands of these runs that wait, with what they need of a worker."""
        return self._see(lambda c: handed_back.waits(c, run_ids))

    def missed(self, places: Sequence[StrandRef]) -> list[Missed]:
        """The messages for ready strands that none reached."""
        return self._see(lambda c: recovery.missed(c, places))

    def may_judge(self, owner: str) -> bool:
        """Whether this owner may declare others dead."""
        return self._see(lambda c: owners.may_judge(c, owner))

    def awaited(self, host: str, kernel: str | None) -> list[Awaited]:
        """Dead owners of that host for which undos may wait, and whose end nobody has confirmed."""
        return self._see(lambda c: owners.awaited(c, host, kernel))

    def runs_waiting_for(self, owner: str) -> list[str]:
        """Runs of which an undo waits for the end of that owner, some at a time."""
        return self._see(lambda c: endings.runs_waiting_for(c, owner))

    def unconfirmed(self) -> list[RunSummary]:
        """Runs of which an undo waits until the end of an owner is confirmed."""
        return self._see(listing.unconfirmed)

    def unapproved(self) -> list[RunSummary]:
        """Runs that ask somebody to approve, each with what."""
        return self._see(listing.unapproved)

    def misfits(self, plans: Sequence[Plan]) -> list[tuple[RunSummary, str]]:
        """Unfinished runs that could not go on under these definitions, and why."""
        return self._see(lambda c: definition_compatibility.misfits(c, plans))

    def audit(self, run_ids: Sequence[str] | None, heads: Mapping[str, tuple[int, str]]) -> Iterator[Checked]:
        """Check the chains of runs (None: of all), one after another."""
        return verification.verify(self._see, (self._audit, *self._old_audits), run_ids, heads)

    @property
    def has_audit_key(self) -> bool:
        """Whether histories are sealed with a key that the database does not know."""
        return bool(self._audit)

    def heads(self) -> Iterator[tuple[str, int, str]]:
        """Of each run its id, the number of its last event, and that one's code."""
        return verification.heads(self._see)

    def facts(self, run_id: str) -> RunFacts | None:
        """A run's row."""
        return self._see(lambda c: views.facts(c, run_id))

    def plan(self, run_id: str) -> Plan:
        """The definition by which the run goes now. Raises UnknownRun."""
        return self._see(lambda c: signals.plan(c, run_id))

    def waiting_for_signal(self, wanted: Wanted) -> list[str]:
        """Runs that wait, or will wait, for a signal, or that it came to before under its key; some of them."""
        return self._see(lambda c: signals.runs_for(c, wanted))

    def full_id(self, prefix: str) -> str:
        """The run that a prefix names. Raises UnknownRun, InvalidInput for what is no text."""
        if not isinstance(prefix, str):
            raise InvalidInput("run", [f"run_id: {type(prefix).__name__} given; a run's id is text"])
        return self._see(lambda c: views.full_id(c, prefix))

    def run(self, run_id: str, max_attempts: Mapping[str, int] | None = None) -> Run:
        """A run in full."""
        return self._see(lambda c: views.run(c, run_id, max_attempts))

    def summaries(self, wanted: Filter) -> list[RunSummary]:
        """Runs as lines."""
        return self._see(lambda c: listing.summaries(c, wanted))

    def pages(self, wanted: Filter) -> Iterator[list[RunSummary]]:
        """Runs as lines, page by page."""
        return listing.pages(self._see, wanted)

    def found(self, wanted: Filter) -> Iterator[Found]:
        """Runs by no more than their names."""
        return listing.found(self._see, wanted)

    def pipelines(self) -> list[str]:
        """Names of pipelines that were ever registered."""
        return self._see(tally.pipelines)

    def measured(self, most: int) -> Measured:
        """Numbers for who watches."""
        return self._see(lambda c: tally.measured(c, most))

    def tallies(self, most: int) -> list[Tally]:
        """What the newest ``most`` runs of each pipeline came to."""
        return self._see(lambda c: tally.tallies(c, most))

    def counted(self, statuses: Sequence[RunStatus], most: int) -> dict[RunStatus, int]:
        """How many runs have each of these statuses, counted up to ``most``."""
        return self._see(lambda c: tally.counted(c, statuses, most))

    def keyed(self, key: str, client_ids: Sequence[str]) -> list[RunSummary]:
        """Runs that these clients enqueued under a key, the newest first."""
        return self._see(lambda c: tally.keyed(c, key, client_ids))

    def clients(self, newest: int) -> list[str]:
        """Clients of the newest so many runs."""
        return self._see(lambda c: tally.clients(c, newest))

    def pooled(self, most: int) -> list[Pooled]:
        """The slots of limits, of ``most`` that are held or waited for; those that most wait for first."""
        return self._see(lambda c: tally.pooled(c, most))

    def queued(self, most: int) -> list[Queued]:
        """What is ready in each queue and no worker has taken, counted up to ``most`` altogether."""
        return self._see(lambda c: tally.queued(c, most))

    def standings(self, ids: Sequence[str], known: Known) -> dict[str, Seen]:
        """How runs stand, by id."""
        return self._see(lambda c: standings(c, ids, known))

    def stuck(self, older_than: float) -> list[RunSummary]:
        """Runs that should move and do not."""
        return self._see(lambda c: listing.stuck(c, older_than))

    def unserved(self, older_than: float) -> list[RunSummary]:
        """Runs that no live worker can carry, with the reason."""
        return self._see(lambda c: listing.unserved(c, older_than))

    def history(self, run_id: str, after: int = 0) -> list[Event]:
        """A run's events, those with a higher number than ``after``."""
        return self._see(lambda c: views.history(c, run_id, after))

    def workers(self) -> list[WorkerView]:
        """Owners."""
        return self._see(views.workers)

    def prunable(self, older_than_seconds: float) -> int:
        """How many runs there are to prune."""
        return self._see(lambda c: retention.prunable(c, older_than_seconds))
