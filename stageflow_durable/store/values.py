"""The values that pass between the engine and a store. They are data; what they mean is decided elsewhere."""

from __future__ import annotations

import secrets
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

from stageflow_durable.errors import StageflowError
from stageflow_durable.idempotency.keys import Scope
from stageflow_durable.model.attributes import Attributes
from stageflow_durable.model.limits import PoolId
from stageflow_durable.model.roster import Need
from stageflow_durable.model.run import RunSummary
from stageflow_durable.model.sinks import RunEvent
from stageflow_durable.model.status import ParkReason, RunStatus
from stageflow_durable.model.verbs import GOING_FORWARD, Standing
from stageflow_durable.model.work import Nudge, RunFacts, Saved

BATCH = 500
"""The most strands or runs that one scan returns, or one transaction of a prune deletes."""

PRUNED = (RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.COMPENSATED)
"""What retention may delete. A person has to look first at what is parked, and at an undo that failed."""

TRACES = 1000
"""Tracebacks that are deleted at once."""

KEY_SECONDS = 400 * 86_400.0
"""How long the key of a run that was pruned stays taken."""


# --- sinks ------------------------------------------------------------------------------------------------------------

MOST_BEHIND = 10_000
"""Up to how many events a sink is behind is counted."""

UNTOLD_SECONDS = 7 * 86_400.0
"""For how long after its end a run is not pruned, because a sink was not told of it yet."""


FURTHEST_RETRY_SECONDS = 3600.0
"""A sink that is to be tried again later than this was refused before the clock went back."""


NEVER_CAME_BACK = "the process that told it was killed, or the sink did not answer within the lease"
"""The error of a sink whose process was told nothing by it any more."""


class News(NamedTuple):
    """Events that a sink is to be told of, each with its position; ``position``: how far it was told then."""

    events: tuple[tuple[int, RunEvent], ...]
    position: int


# --- who awaits runs --------------------------------------------------------------------------------------------------


class AtRest(NamedTuple):
    """A run that is at rest. ``saved``: the outputs of its stages by name, or None: read them."""

    run: RunFacts
    saved: dict[str, Saved] | None


class Stand(NamedTuple):
    """A run's number, and whether it is at rest."""

    seq: int
    at_rest: bool


# --- signals ----------------------------------------------------------------------------------------------------------


MOST_FOUND = 3
"""How many runs are looked for: two are too many already, and a few help whoever reads the refusal."""

TAKES_SIGNALS = (*GOING_FORWARD, RunStatus.PARKED)
"""Statuses of runs that take signals."""


class Wanted(NamedTuple):
    """The run that is meant: one that waits for the signal ``name`` and fits the others. ``correlation``: the
    idempotency key that the run was enqueued with; ``key``: that of the signal.
    """

    name: str
    client_id: str | None
    pipeline: str | None
    correlation: str | None
    key: str | None


class Received(NamedTuple):
    """What became of a signal: its number among those for its wait, when it came, whether it had come before under its
    key, and what to publish.
    """

    number: int
    at: float
    replayed: bool
    nudges: tuple[Nudge, ...] = ()


# --- accepting runs ---------------------------------------------------------------------------------------------------


class Created(NamedTuple):
    """The run of a request: a new one with its nudges, or the one that has the key already."""

    run_id: str
    replayed: bool
    nudges: tuple[Nudge, ...] = ()


Answer = Created | StageflowError
"""What became of one of many requests."""


class Stepped(NamedTuple):
    """A step of an attempt was written: number and head of the run (of the item, if it has one) afterwards, and the run
    as it stood then: it may have been stopped since the attempt began.
    """

    seq: int
    head: str
    run: RunFacts


@dataclass(frozen=True, slots=True)
class Fork:
    """Who forks which run where, as which new run. ``fingerprint`` and ``key`` are the new run's."""

    original: str
    from_stage: str
    new_id: str
    key: str | None
    fingerprint: str
    reason: str
    actor: str


# --- a stage's key ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BusinessKey:
    """A stage's key across runs, and the parameters that must be equal under it (``params``: encoded text)."""

    scope: Scope
    key: str
    fingerprint: str
    params: str
    ttl_seconds: float


# --- owners -----------------------------------------------------------------------------------------------------------


class Mark(NamedTuple):
    """What names a process on its machine: the machine, its boot with the PID namespace, and when the process
    started. None where that cannot be told.
    """

    machine: str | None = None
    kernel: str | None = None
    born: str | None = None


UNMARKED = Mark()
"""Of a process of which nothing is known."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A process: host name, process id, and the boot id that all children of one worker share."""

    host: str
    pid: int
    boot: str
    mark: Mark = UNMARKED


def new_owner_id(identity: Identity) -> str:
    """An id for a thread of that process: who was declared dead goes on under a new one."""
    return f"{identity.boot}-{identity.pid}-{secrets.token_hex(4)}"


LONGEST_LEASE = 3600.0
"""Seconds; of an owner of an earlier release, which did not say how long its lease is."""

ONE_CLOCK_SECONDS = 1.0
"""How far ahead a stored time may lie that one and the same clock gave."""

BY_PARENT, BY_ITSELF = "its parent", "itself"
"""Who confirmed an end, where no person did."""


class Awaited(NamedTuple):
    """A dead owner whose end nobody has confirmed, and for which undos may wait."""

    id: str
    host: str
    pid: int
    machine: str | None
    kernel: str | None
    born: str | None


# --- what a sweep finds -----------------------------------------------------------------------------------------------


class StrandRef(NamedTuple):
    """A strand that a scan found, with its fence at that time."""

    run: str
    strand: str
    gen: int
    stage: str | None = None
    """The strand's stage, for the log."""
    item: int = 0
    """Which of the stage's items; 0: it has none."""


class Missed(NamedTuple):
    """A message to publish again, and when and how often it was published before."""

    nudge: Nudge
    published_at: float | None
    nudges: int


class Overdue(NamedTuple):
    """What a sweep has to handle: strands of dead owners, runs past their deadline, waiting strands that are due,
    queues with ready strands, and owners for whose end undos wait and whose end is confirmed. ``due`` has those to whom
    a slot was offered as well; ``pools``: those with slots of what cannot act any more, or offers that nobody took.
    """

    orphans: list[StrandRef]
    late: list[str]
    due: list[StrandRef]
    queues: list[str]
    ended: list[str]
    pools: list[PoolId]


class LimitState(NamedTuple):
    """How a limit stands, for one of its keys (empty: it has none, or ``pool`` is the limit itself, which nobody has
    used yet). ``rate``: of a rate limit, how many begin in a second; ``limit`` is its burst then. ``declared``: what
    the newest definition says, where a person has set another number. ``paused_until`` in seconds since the epoch.
    ``said``: who paused or set it, and why.
    """

    pool: PoolId
    limit: int
    declared: int
    rate: float | None
    held: int
    waiting: int
    paused_until: float | None
    said: str | None


class LimitWord(NamedTuple):
    """What a person says of a limit, or of one of its keys (None: of all of them). ``paused_until``: in seconds since
    the epoch, 0.0 to resume; ``amount``: 0 for what the definition says; None: unchanged. ``longer``: a pause that
    lasts longer stays.
    """

    name: str
    key: str | None
    said: str
    paused_until: float | None = None
    amount: int | None = None
    longer: bool = False


class WaitingStrand(NamedTuple):
    """A strand that waits, and what it needs of a worker. ``handed_back``: it waits for one, not for its time."""

    run: str
    strand: str
    item: int
    need: Need
    handed_back: bool


class Pruned(NamedTuple):
    """How many runs one batch found, and how many of them it deleted: another prune, or a person, may meet the same."""

    found: int
    deleted: int


# --- what people ask --------------------------------------------------------------------------------------------------

ATTENTION = (RunStatus.PARKED, RunStatus.FAILED, RunStatus.COMPENSATION_FAILED)
"""Statuses that wait for a person."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which runs to list; None: any. ``since`` and ``until`` (not included) in seconds since the epoch; ``before``:
    created before the run of this time and id, the last of the page before. ``error``: what the run's error holds, with
    letters of ASCII in either case.
    """

    status: tuple[RunStatus, ...] | None = None
    pipeline: str | None = None
    client_id: str | None = None
    since: float | None = None
    limit: int = 100
    before: tuple[float, str] | None = None
    park_reason: ParkReason | None = None
    attributes: Attributes = ()
    until: float | None = None
    error: str | None = None

    def fits(self, run: RunSummary) -> bool:
        """Whether a run is one of these, as far as its summary says."""
        asked = ((self.pipeline, run.pipeline), (self.client_id, run.client_id), (self.park_reason, run.park_reason))
        among = self.status is None or run.status in self.status
        began = self.spans(run.created_at.timestamp())
        return began and among and self.tells(run.error) and all(wanted in (None, has) for wanted, has in asked)

    def spans(self, created_at: float) -> bool:
        """Whether a run that began then is meant."""
        return (self.since is None or created_at >= self.since) and (self.until is None or created_at < self.until)

    def tells(self, error: str | None) -> bool:
        """Whether a run with that error is meant."""
        return self.error is None or (error is not None and self.error.lower() in error.lower())


MOST_PIPELINES = 100
"""Pipelines that are looked at together."""


class Tally(NamedTuple):
    """What the newest runs of a pipeline came to: when each was created (seconds since the epoch) and its status, the
    newest first. ``more``: whether there are older ones.
    """

    pipeline: str
    newest: tuple[tuple[float, RunStatus], ...]
    more: bool


class Pooled(NamedTuple):
    """The slots of a limit that are counted together: how many there are (None: no definition says it any more), how
    many are held, and by which stages of which runs, some of them, each with whether its attempt was lost; how many
    wait for one, and since when the one that waits longest.
    """

    name: str
    key: str
    amount: int | None
    held: int
    holders: tuple[tuple[str, str, bool], ...]
    waiting: int
    oldest: float | None


class Queued(NamedTuple):
    """How many strands are ready in a queue, and when the message of the oldest was sent; None: of none it was."""

    queue: str
    ready: int
    oldest: float | None


class Measured(NamedTuple):
    """How the tables stand at ``now``. ``parked``: how many runs of each pipeline for each reason; ``sweep_age``:
    seconds since the last sweep, or None; ``lateness``: by how many seconds the longest overdue wait is late;
    ``workers``: owners whose leases hold.
    """

    now: float
    parked: tuple[tuple[str, str, int], ...]
    sweep_age: float | None
    lateness: float
    workers: int


class Found(NamedTuple):
    """A run that a filter found, and its status then."""

    run_id: str
    status: RunStatus


Known = dict[Hashable, tuple[Any, ...]]
"""How runs of a kind stand, apart from their ids; to be kept from one call to the next."""


class Seen(NamedTuple):
    """A run, and what its verbs depend on, of one moment."""

    run_id: str
    status: RunStatus
    op_version: int
    standing: Standing


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found of one run: how many events it has, and each thing that is wrong. ``rows``: whether its events
    vouch for its rows; those that an earlier release wrote, or that were written without an audit key, do not.
    """

    run_id: str
    events: int
    problems: tuple[str, ...] = ()
    rows: bool = True
