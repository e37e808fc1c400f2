"""What the engine asks of a store: each method is one transaction, or one look.

A store decides nothing about a run: it locks the run, loads facts, lets a transition decide, and writes the change
that comes back. Times are seconds since the epoch by the store's own clock. Every method raises StoreUnavailable, in
bounded time, if the store cannot be reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from stageflow_durable.model.attributes import Attributes
from stageflow_durable.model.awaited import Listener, Told
from stageflow_durable.model.limits import PoolId
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.roster import Profile, Roster
from stageflow_durable.model.run import Event, Run, RunSummary, WorkerView
from stageflow_durable.model.sinks import Horizon, SinkLease, SinkView
from stageflow_durable.model.status import Cause, ParkReason, Phase, RunStatus
from stageflow_durable.model.work import (
    Claimant,
    Done,
    Ending,
    Failure,
    Fenced,
    Kept,
    Nudge,
    Refused,
    RunFacts,
    Saved,
    Work,
)
from stageflow_durable.store.session import Session
from stageflow_durable.store.values import (
    BATCH,
    KEY_SECONDS,
    Answer,
    AtRest,
    Awaited,
    BusinessKey,
    Checked,
    Created,
    Filter,
    Fork,
    Found,
    Identity,
    Known,
    LimitState,
    LimitWord,
    Measured,
    Missed,
    News,
    Overdue,
    Pooled,
    Pruned,
    Queued,
    Received,
    Seen,
    Stand,
    Stepped,
    StrandRef,
    Tally,
    WaitingStrand,
    Wanted,
)
from stageflow_durable.transitions.accept import NewRun
from stageflow_durable.transitions.approval import Asked, NewLink
from stageflow_durable.transitions.callback import Call
from stageflow_durable.transitions.operate import Order
from stageflow_durable.transitions.rows import CallRow, LinkRow
from stageflow_durable.transitions.signal import Sent


class CallersSession(Protocol):
    """A session of SQLAlchemy: ``Session`` or ``scoped_session``, for the async twins ``AsyncSession``."""

    def connection(self) -> Any:
        """Its connection, in its transaction."""


class CallersConnection(Protocol):
    """A connection of SQLAlchemy: ``Connection``, for the async twins ``AsyncConnection``."""

    def begin_nested(self) -> Any:
        """A savepoint."""


class Accepting(Protocol):
    """Definitions and new runs."""

    def register(self, plans: Sequence[Plan], boot: str | None = None, profile: Profile | None = None) -> None:
        """Store definitions. ``boot`` and ``profile``: of a worker that starts with them; its first child makes them
        the newest.
        """

    def create(self, new: NewRun) -> Created:
        """Record a run, or find the one that has its key. Raises IdempotencyParamMismatch for other parameters."""

    def create_many(self, news: Sequence[NewRun], *, whole: bool = False) -> list[Answer]:
        """Record many runs, or find those that have their keys; returns an answer for each. ``whole``: record nothing
        if one of them is refused.

        Those that ``repeat`` and are there already, from a call whose answer was lost, are answered as if they were
        new. Raises InvalidInput where another run has the id.
        """

    def clock(self) -> float:
        """The store's time: deadlines are told by it."""

    def before_joining(self, ready: Callable[[], object]) -> None:
        """What :meth:`joined` does first where it can: it may ask the store for the first time."""

    def joined(
        self, session: CallersSession | None, connection: CallersConnection | None, ready: Callable[[], object]
    ) -> AbstractContextManager[Callable[[str], object]]:
        """Let the verbs that are called inside take part in a caller's own transaction: of one of ``session`` and
        ``connection``. ``ready``: makes the store ready for new runs. Gives what is to be called with the run's id:
        what is left to the commit is done if that run is there.

        Raises ConfigurationError where the transaction is none that the store can take part in.
        """


class Carrying(Protocol):
    """The path of a stage, and of an undo."""

    def begin(self, nudge: Nudge, claimant: Claimant) -> Work | Refused:
        """Begin what the message names, or say why not."""

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

    def retry_later(self, work: Work, failure: Failure, delay: float, drawn: float, events: Kept = ()) -> Ending:
        """Let an attempt be followed by another one, in ``delay`` seconds."""

    def sleep(self, work: Work, until: float, events: Kept = ()) -> Done | Fenced:
        """Let a stage sleep ``until`` what its function said, in seconds since the epoch."""

    def ask(
        self, work: Work, asked: Asked, claimant: Claimant, events: Kept = (), *, go_on: Callable[[], bool]
    ) -> Done | Fenced:
        """Ask for an approval, or consume the one that was given for exactly this."""

    def await_callback(
        self, work: Work, seconds: float, retry_after: float | None, events: Kept = (), session: Any = None
    ) -> Done | Fenced:
        """The body waits for its callback, for ``seconds`` at the most. ``retry_after``: in how many seconds it is
        tried again if none comes; None: it is not. ``session``: the body's own transaction, which commits with the wait
        or not at all.
        """

    def postpone(self, work: Work, delay: float) -> Ending:
        """Give back an attempt whose body was not called."""

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

    def save_call(self, work: Work, call: CallRow, told: dict[str, Any], *, doubt: bool = False) -> Stepped | Fenced:
        """Write what a step of the body brought, or that it is about to be made; in a transaction of its own. ``told``:
        what its event says; ``doubt``: an earlier try to write the same may have gone through.
        """

    def undo_done(self, work: Work, claimant: Claimant, *, go_on: bool, key: BusinessKey | None = None) -> Ending:
        """The undo is done."""

    def undo_failed(self, work: Work, claimant: Claimant, failure: Failure, *, go_on: bool) -> Ending:
        """The undo failed for good."""

    def recall(self, work: Work, owner: str) -> Work | bool:
        """Look up a commit whose answer was lost: the granted attempt if it went through and granted one, True if it
        went through, else False.
        """

    def claim_key(self, work: Work, key: BusinessKey) -> Any:
        """Claim a business key for the stage; returns what stands in the way if it is taken. Fenced if the owner no
        longer holds the stage: a paused worker must not claim a key for a run that is over.
        """

    def note(self, run_id: str, kind: str, data: Mapping[str, Any]) -> None:
        """Add an event to a run's history."""

    def report(self, work: Work, text: str) -> None:
        """Show a stage's progress (JSON text); refused, silently, once the attempt is over."""

    def open_session(self) -> Session:
        """A transaction of the body's own. Raises ConfigurationError where the store has none to give."""

    def after_commit(self, action: Callable[[], object]) -> bool:
        """Run ``action`` after the commit of the transaction in which verbs take part here: a caller's own, or that of
        the calling stage. Returns whether it will run.
        """


class Owning(Protocol):
    """Owners: leases, deaths, confirmed ends, and what waits for them."""

    def join(self, identity: Identity, lease_seconds: float, profile: Profile | None = None) -> str:
        """A new owner; returns its id. ``profile``: what it knows and serves. What others handed back, and it knows, is
        due now.
        """

    def renew(self, owner: str, lease_seconds: float) -> float | None:
        """Renew a lease; returns the store's time, or None: declared dead."""

    def served(self, queues: dict[str, float]) -> None:
        """Note up to when the messages of each queue were served; never backwards."""

    def freed(self, queues: Iterable[str]) -> None:
        """A worker of these queues has nothing to do."""

    def move_times(self, by: float, window: float, lease_seconds: float) -> bool:
        """The clock was found to have moved: stored times of what is under way move along, once."""

    def retire(self, owner: str) -> None:
        """Nothing of it acts any more."""

    def mark_killed(self, boot: str, pid: int) -> tuple[str, ...]:
        """A process was seen to end; returns its owners that nobody had confirmed."""

    def mark_expired(self, slack: float = 0.0) -> tuple[str, ...]:
        """Declare dead the owners whose leases ran out ``slack`` seconds ago."""

    def judge(self, by: str) -> tuple[str, ...]:
        """The same for leases that ran out, judged by an owner that has renewed for a lease without a gap."""

    def confirm(self, owner: str, by: str) -> bool:
        """The process of a dead owner was found to have ended; False if that was known, or it is not dead."""

    def confirm_dead(self, owner: str, reason: str, actor: str) -> None:
        """The same, said by a person. Raises NotAllowed."""

    def release(self, run_id: str, owner: str) -> tuple[Nudge, ...]:
        """Let undos begin that waited for the end of an owner."""

    def released(self, owner: str) -> None:
        """Nothing waits for it any more."""


class Recovering(Protocol):
    """What sweeps find, and do."""

    def my_tick(self, name: str, every: float) -> bool:
        """Whether it is this process's turn: at most one of all processes has it in ``every`` seconds."""

    def unmoved(self) -> list[str]:
        """Runs that are not at rest and that nothing will ever move. There should be none."""

    def repair(self, run_id: str) -> tuple[Nudge, ...] | None:
        """Let a run move again that nothing would move; returns what to publish, or None if something will."""

    def note_strangers(self, queue: str) -> None:
        """Record that messages of this queue named runs that are not in this store; ``doctor`` reports it."""

    def nudged(self, sent: Sequence[Missed]) -> int:
        """Record that the broker took these messages again; returns how many were still as they were found."""

    def unpublish(self, nudges: tuple[Nudge, ...]) -> None:
        """Record that the broker refused these messages: the sweep publishes them."""

    def take(self, place: StrandRef, max_lost: int) -> tuple[Nudge, ...] | None:
        """Take a strand from its dead owner; returns what to publish, or None if there was nothing to take."""

    def tend(self, pool: PoolId) -> tuple[Nudge, ...]:
        """Free the slots of what cannot act any more, and offer what is free; returns what to publish."""

    def limits(self) -> list[LimitState]:
        """How every limit stands, for each key that is in use, or paused."""

    def say_of_limit(self, word: LimitWord) -> tuple[Nudge, ...]:
        """Pause, resume or set a limit; returns what to publish. Raises NotAllowed where nothing has that name."""

    def untended(self) -> list[PoolId]:
        """Pools with a slot that no attempt holds, or with a free one that nobody was offered. There should be none."""

    def wake(self, places: Sequence[StrandRef]) -> list[tuple[Nudge, ...]]:
        """Make due strands ready, and end sleeps; returns what to publish for each."""

    def expire(self, run_id: str) -> tuple[Nudge, ...]:
        """Stop a run that is past its deadline."""

    def put_off(self, run_ids: Sequence[str]) -> None:
        """Let what was handed back in these runs rest: no live worker knows it."""

    def forget_traces(self, older_than_seconds: float) -> int:
        """Delete where attempts raised that ended before and what they logged, some at a time, also of runs that are
        not pruned; returns of how many.
        """

    def prune(
        self,
        older_than_seconds: float,
        *,
        batch: int = BATCH,
        key_seconds: float = KEY_SECONDS,
        sleep: Callable[[float], None],
    ) -> Pruned:
        """Delete at most ``batch`` runs that ended before, and expired business keys; the runs' own keys stay taken for
        ``key_seconds``. ``sleep``: waits for what is under way meanwhile.
        """


class Heard(Protocol):
    """A connection on which a store tells of changed runs. Used by one thread."""

    def heard(self, seconds: float) -> list[str]:
        """What was said, waited for that long. Raises StoreUnavailable: it is lost, and what was said since with it."""

    def close(self) -> None:
        """Close it."""


class Announcing(Protocol):
    """Who awaits runs, and is told of changes after their commits: see ``model/awaited``."""

    def announce_by(self, announce: Callable[[Sequence[Listener], Told], None]) -> None:
        """Call ``announce`` after each commit that changed a run which somebody awaits: with whom to tell, and what."""

    def note_awaiting(self, run_ids: Sequence[str], entry: str) -> dict[str, int]:
        """Note whom to tell of these runs; returns the number of each that was noted: of the end, of those that are not
        at rest.
        """

    def stand(self, run_ids: Sequence[str]) -> dict[str, Stand]:
        """How these runs stand; those that are not there are left out."""

    def at_rest(self, run_ids: Sequence[str]) -> list[AtRest]:
        """Those of the runs that are at rest, with the outputs of those that succeeded where those were read along."""

    def notify(self, token: str, text: str) -> None:
        """Tell a listener by way of the store."""

    def listen(self, token: str) -> Heard | None:
        """A connection on which the store tells; None where it cannot."""


class Telling(Protocol):
    """Sinks: how far each was told of events, and by which process (ADR 0053)."""

    def open_sink(self, name: str) -> None:
        """Make a sink known, unless it is: it begins with what happens from now on."""

    def horizon(self, before: Horizon | None = None) -> Horizon:
        """Up to which position all events are there, once its writers have ended; ``before``: one whose writers had
        not, asked for again.
        """

    def news(self, after: int, upto: int, kinds: Sequence[str], limit: int) -> News:
        """At most ``limit`` events whose types begin so, between two positions, in their order. Of one run they are in
        the order of their numbers.
        """

    def take_sink(self, name: str, owner: str, seconds: float) -> SinkLease | None:
        """The right to tell a sink, for so many seconds; None: another process has it, or it refused an event and is
        not yet tried again.
        """

    def advance_sink(
        self, lease: SinkLease, position: int, seconds: float, *, took: bool = False, well: bool = False
    ) -> bool:
        """It was told up to ``position``, and the lease goes on for ``seconds``; ``took``: it took an event meanwhile;
        ``well``: what it refused is behind it. False: another process has it by now.
        """

    def sink_refused(self, lease: SinkLease, position: int, error: str, seconds: float) -> bool:
        """It was told up to ``position`` and refused the next event; it is tried again in ``seconds``, by whoever takes
        it then. False: another process has it by now.
        """

    def leave_sink(self, lease: SinkLease) -> None:
        """Whoever had it does not tell it any more."""

    def free_sinks(self, owner: str) -> None:
        """A process was seen to end: others may tell at once what it told."""

    def forget_sink(self, name: str) -> bool:
        """Forget a sink; returns whether it was known."""

    def sinks(self) -> list[SinkView]:
        """How every sink stands, by name."""


class Operating(Protocol):
    """What people do to runs."""

    def order(self, order: Order) -> tuple[Nudge, ...]:
        """Cancel, compensate or resume. Raises UnknownRun, OperatorConflict, NotAllowed."""

    def settle(self, order: Order, stage: str, delta: str | None) -> tuple[Nudge, ...]:
        """Record what a person found out."""

    def decide(
        self, order: Order, stage: str, decision: str, digest: str | None, token: str | None = None
    ) -> tuple[Nudge, ...]:
        """Record what a person decided about an approval; ``token``: the hash of the link's that they used. Raises
        UnknownRun, NotAllowed, OperatorConflict, LinkRefused.
        """

    def reveal(self, order: Order) -> None:
        """Note that somebody is shown a run's values as they are. Raises UnknownRun."""

    def erase(self, order: Order) -> None:
        """Erase a run's values for good; nothing happens where they are erased already. Raises UnknownRun,
        OperatorConflict, NotAllowed.
        """

    def make_link(self, order: Order, link: NewLink) -> None:
        """Record a link by which somebody may decide about an approval. Raises UnknownRun, NotAllowed."""

    def signal(self, sent: Sent) -> Received:
        """Keep a signal, or end the wait that it is for. Raises UnknownRun, NotAllowed, IdempotencyParamMismatch,
        SchemaChanged.
        """

    def call_back(self, call: Call) -> Received:
        """End the wait of a stage that was called back, or keep the call for it. Raises UnknownRun, CallbackRefused,
        SchemaChanged.
        """

    def fork(self, wanted: Fork) -> Created:
        """A new run from the checkpoints of another. Raises UnknownRun, NotAllowed, IdempotencyParamMismatch."""


class Reading(Protocol):
    """What can be asked: each method looks, and changes nothing."""

    # --- by stages ----------------------------------------------------------------------------------------------------

    def outputs(self, run_id: str) -> dict[str, Saved]:
        """Encoded outputs by stage, in the order of their commits."""

    def outcome_of(self, run_id: str, stage: str, item: int = 0) -> str:
        """How the action stood when its undo began: ``"ok"`` or ``"unknown"``."""

    def calls(self, run_id: str, stage: str, item: int = 0) -> tuple[CallRow, ...]:
        """The steps that attempts of a stage have written, in their order."""

    # --- by sweeps ----------------------------------------------------------------------------------------------------

    def overdue(self, grace: float) -> Overdue:
        """What a sweep looks after; ``grace``: how many seconds ago a waiting strand should have been woken."""

    def next_wait(self, grace: float) -> float | None:
        """In how many seconds the next waiting strand is to be woken, or None; ``grace`` as of :meth:`overdue`."""

    def next_due(self, patience: float | None) -> float | None:
        """When a sweep would next find work: seconds since the epoch of the next due strand, deadline, lease that may
        run out, or message that may count as lost; None: nothing is left to do. ``patience``: seconds after which an
        unanswered message counts as lost; None: none does.
        """

    def undelivered(
        self,
        queue: str,
        depth: int | None,
        patience: float,
        blind: float,
        elsewhere: frozenset[str] = frozenset(),
    ) -> list[StrandRef]:
        """Ready strands whose message was lost; ``elsewhere``: definitions that are carried by other brokers'
        workers. ``depth``, ``patience``, ``blind``: how many messages the broker says wait, and how old in seconds one
        must be to count as lost if that is 0, and if it is not.
        """

    def missed(self, places: Sequence[StrandRef]) -> list[Missed]:
        """The messages for ready strands that none reached."""

    def described(self, run_ids: Sequence[str], wanted: Attributes) -> frozenset[str]:
        """Those of the runs that have all of these attributes."""

    def waits(self, run_ids: Sequence[str]) -> list[WaitingStrand]:
        """The strands of these runs that wait, with what they need of a worker."""

    def roster(self) -> Roster:
        """What the live workers know and serve."""

    def strangers(self) -> dict[str, float]:
        """By queue: how many seconds ago messages of runs that are not here were last noted."""

    def may_judge(self, owner: str) -> bool:
        """Whether this owner may declare others dead."""

    def awaited(self, host: str, kernel: str | None) -> list[Awaited]:
        """Dead owners of that host for which undos may wait, and whose end nobody has confirmed."""

    def runs_waiting_for(self, owner: str) -> list[str]:
        """Runs of which an undo waits for the end of that owner, some at a time."""

    def prunable(self, older_than_seconds: float) -> int:
        """How many runs there are to prune."""

    # --- by people ----------------------------------------------------------------------------------------------------

    def full_id(self, prefix: str) -> str:
        """The run that a prefix names. Raises UnknownRun, InvalidInput for what is no text."""

    def facts(self, run_id: str) -> RunFacts | None:
        """A run's row."""

    def plan(self, run_id: str) -> Plan:
        """The definition by which the run goes now. Raises UnknownRun."""

    def waiting_for_signal(self, wanted: Wanted) -> list[str]:
        """Runs that wait, or will wait, for a signal, or that it came to before under its key; some of them."""

    def link(self, run_id: str, token: str) -> LinkRow | None:
        """A link to an approval of the run, by the hash of its token; None: there is none."""

    def phase(self, run_id: str) -> Phase | None:
        """Which way the run goes now."""

    def run(self, run_id: str, max_attempts: Mapping[str, int] | None = None) -> Run:
        """A run in full. ``max_attempts`` by stage, where the caller knows the retry policies. Raises UnknownRun."""

    def history(self, run_id: str, after: int = 0) -> list[Event]:
        """A run's events with a higher number than ``after``, oldest first."""

    def summaries(self, wanted: Filter) -> list[RunSummary]:
        """Runs as lines, the newest first."""

    def pages(self, wanted: Filter) -> Iterator[list[RunSummary]]:
        """Runs as lines, page by page."""

    def found(self, wanted: Filter) -> Iterator[Found]:
        """Runs by no more than their names."""

    def pipelines(self) -> list[str]:
        """Names of pipelines that were ever registered, some of them."""

    def tallies(self, most: int) -> list[Tally]:
        """What the newest ``most`` runs of each pipeline came to."""

    def counted(self, statuses: Sequence[RunStatus], most: int) -> dict[RunStatus, int]:
        """How many runs have each of these statuses, counted up to ``most``."""

    def measured(self, most: int) -> Measured:
        """Numbers for who watches: parked runs (counted up to ``most``), the last sweep, overdue waits, workers."""

    def keyed(self, key: str, client_ids: Sequence[str]) -> list[RunSummary]:
        """Runs that these clients enqueued under a key, the newest first."""

    def clients(self, newest: int) -> list[str]:
        """Clients of the newest so many runs."""

    def pooled(self, most: int) -> list[Pooled]:
        """The slots of limits, of ``most`` that are held or waited for; those that most wait for first. A limit of
        which nobody wants any is one without a key.
        """

    def queued(self, most: int) -> list[Queued]:
        """What is ready in each queue and no worker has taken, counted up to ``most`` altogether."""

    def standings(self, ids: Sequence[str], known: Known) -> dict[str, Seen]:
        """How runs stand, by id."""

    def stuck(self, older_than: float) -> list[RunSummary]:
        """Runs that should move and do not."""

    def unserved(self, older_than: float) -> list[RunSummary]:
        """Runs that no live worker can carry, with the reason."""

    def unapproved(self) -> list[RunSummary]:
        """Runs that ask somebody to approve, each with what; the oldest first."""

    def unconfirmed(self) -> list[RunSummary]:
        """Runs of which an undo waits until the end of an owner is confirmed."""

    def misfits(self, plans: Sequence[Plan]) -> list[tuple[RunSummary, str]]:
        """Unfinished runs that could not go on under these definitions, and why."""

    def workers(self) -> list[WorkerView]:
        """Owners with what they run, the living first."""

    def audit(self, run_ids: Sequence[str] | None, heads: Mapping[str, tuple[int, str]]) -> Iterator[Checked]:
        """Check the chains of runs (None: of all), one after another."""

    @property
    def has_audit_key(self) -> bool:
        """Whether histories are sealed with a key that the store does not keep."""

    def heads(self) -> Iterator[tuple[str, int, str]]:
        """Of each run its id, the number of its last event, and that one's code."""


class Store(Accepting, Carrying, Owning, Recovering, Operating, Announcing, Telling, Reading, Protocol):
    """Runs and everything about them, in one place."""

    def require_usable(self) -> None:
        """Raise ConfigurationError where the store could not work here. Nothing is connected."""

    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""
