"""Rows in dictionaries. A row is a tuple that is replaced, never changed; whatever is written can be taken back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from stageflow_durable.idempotency.rules import KeyRecord
from stageflow_durable.model.limits import PoolId
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.roster import Profile
from stageflow_durable.model.status import RunStatus
from stageflow_durable.model.work import RunFacts
from stageflow_durable.transitions.change import Table
from stageflow_durable.transitions.draft import NO_ITEM
from stageflow_durable.transitions.rows import GroupRow, SlotKey, SlotRow, StrandRow

R = TypeVar("R")
K = TypeVar("K", bound=Hashable)
RunKey = tuple[str, str, str]


class AttemptRecord(NamedTuple):
    """An attempt that is over. The columns of these tuples are those of the tables of the same name."""

    run: str
    stage: str
    item: int
    direction: str
    n: int
    owner: str
    state: str
    began_at: float
    ended_at: float
    doubt: bool = False
    kill_by: float | None = None
    error: str | None = None
    category: str | None = None
    delay: float | None = None
    trace: str | None = None
    log: str | None = None


class CheckpointRecord(NamedTuple):
    """What a stage saved."""

    run: str
    stage: str
    item: int
    at: float
    skipped: bool = False
    delta: str | None = None
    saved_schema: int = 1


class StepRecord(NamedTuple):
    """A saga step."""

    run: str
    stage: str
    item: int
    state: str
    outcome: str | None = None
    error: str | None = None
    reason: str | None = None


class SignalRecord(NamedTuple):
    """What people and programs told a run."""

    run: str
    stage: str
    item: int
    n: int
    key: str | None
    fingerprint: str
    payload: str
    actor: str
    reason: str
    received_at: float
    saved_schema: int = 1
    consumed_at: float | None = None


class ApprovalRecord(NamedTuple):
    """What somebody was asked to approve, and what they said."""

    run: str
    stage: str
    item: int
    n: int
    content: str
    digest: str
    asked_at: float
    decision: str | None = None
    actor: str | None = None
    authenticated: bool = False
    reason: str | None = None
    decided_at: float | None = None
    consumed_at: float | None = None


class LinkRecord(NamedTuple):
    """A link by which one person may decide about an approval."""

    run: str
    token: str
    stage: str
    actor: str
    made_by: str
    made_at: float
    expires_at: float
    used_at: float | None = None


class CallRecord(NamedTuple):
    """A saved step of a stage."""

    run: str
    stage: str
    item: int
    call: str
    n: int
    name: str
    key: str | None
    fingerprint: str
    action: str | None
    arguments: str | None
    attempt: int
    result: str | None = None
    saved_at: float | None = None
    undoable: bool = False
    undone_at: float | None = None


class LimitRecord(NamedTuple):
    """A limit, as the newest definition and people say."""

    name: str
    amount: int
    per_second: float | None = None
    set_amount: int | None = None
    paused_until: float | None = None
    said: str | None = None


class PoolRecord(NamedTuple):
    """What is told of a limit and key, beside its slots."""

    tokens: float | None = None
    filled_at: float | None = None
    paused_until: float | None = None
    said: str | None = None


class EventRecord(NamedTuple):
    """An event of a run, or of one of its items."""

    run: str
    seq: int
    type: str
    at: float
    data: str
    previous: str
    mac: str
    item: int = 0
    position: int | None = None


class SinkRecord(NamedTuple):
    """Who is told of events, and how far."""

    name: str
    position: int
    created_at: float
    fence: int = 0
    owner: str | None = None
    expires_at: float | None = None
    tries: int = 0
    error: str | None = None
    retry_at: float | None = None
    delivered_at: float | None = None


class ItemRecord(NamedTuple):
    """One of the things for which a stage is carried out."""

    run: str
    item: int
    stage: str
    grp: int
    input: str
    seq: int
    head: str
    updated_at: float


class GroupRecord(NamedTuple):
    """Some of the items of a strand, counted."""

    run: str
    strand: str
    grp: int
    total: int
    running: int
    done: int
    failed: int
    collects: bool
    digest: str

    def as_fact(self) -> GroupRow:
        """As transitions see it."""
        return GroupRow._make(self[1:])


class AttributeRecord(NamedTuple):
    """What a run is found by."""

    run: str
    name: str
    value: str


class OwnerRecord(NamedTuple):
    """An owner."""

    id: str
    host: str
    pid: int
    boot: str
    started_at: float
    expires_at: float
    lease: float
    steady_since: float
    dead_at: float | None = None
    confirmed: bool = False
    profile: str | None = None
    machine: str | None = None
    kernel: str | None = None
    born: str | None = None
    awaited: bool = False
    confirmed_at: float | None = None
    confirmed_by: str | None = None
    confirmed_reason: str | None = None


class DefinitionRecord(NamedTuple):
    """A stored definition."""

    digest: str
    pipeline: str
    version: str
    body: str
    registered_at: float


class ProfileRecord(NamedTuple):
    """What a worker knows and serves."""

    id: str
    profile: Profile
    seen_at: float


class QueueRecord(NamedTuple):
    """Up to when the messages of a queue were served, and when a worker of it last became free."""

    served_at: float
    free_at: float | None = None


class TombstoneRecord(NamedTuple):
    """What is left of a pruned run."""

    run: str
    client_id: str
    pipeline: str
    key: str | None
    fingerprint: str
    status: RunStatus
    seq: int
    head: str
    finished_at: float
    pruned_at: float
    mac: str = ""


RECORDS: Mapping[Table, Callable[..., Any]] = {
    Table.STRANDS: StrandRow,
    Table.ATTEMPTS: AttemptRecord,
    Table.CHECKPOINTS: CheckpointRecord,
    Table.SAGA_STEPS: StepRecord,
    Table.SIGNALS: SignalRecord,
    Table.APPROVALS: ApprovalRecord,
    Table.LINKS: LinkRecord,
    Table.CALLS: CallRecord,
    Table.ATTRIBUTES: AttributeRecord,
}
"""The tuple of each table that transitions write."""


class KeyRow(NamedTuple):
    """A business key. ``keep_seconds``: how long its end is remembered, for whoever ends the run without the stage."""

    record: KeyRecord
    keep_seconds: float


class Journal:
    """What a transaction has written, so that it can be taken back. ``written``: table, key, and what stood there."""

    def __init__(self) -> None:
        self.written: list[tuple[Rows[Any, Any], Any, Any]] = []

    def commit(self) -> None:
        """What was written stays."""
        self.written.clear()

    def roll_back(self) -> None:
        """Take back what was written, the last first."""
        while self.written:
            rows, key, before = self.written.pop()
            rows.restore(key, before)


_NOTHING: Any = object()


class Rows(Generic[K, R]):
    """A table: rows by key, in the order in which they were inserted."""

    def __init__(self, journal: Journal) -> None:
        self._rows: dict[K, R] = {}
        self._journal = journal

    def __contains__(self, key: K) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[R]:
        return iter(self._rows.values())

    def get(self, key: K) -> R | None:
        """The row of this key, or None."""
        return self._rows.get(key)

    def items(self) -> Iterable[tuple[K, R]]:
        """Keys with their rows."""
        return self._rows.items()

    def put(self, key: K, row: R) -> None:
        """Insert a row, or replace it."""
        self._journal.written.append((self, key, self._rows.get(key, _NOTHING)))
        self._set(key, row)

    def remove(self, key: K) -> None:
        """Delete a row, if it is there."""
        if key in self._rows:
            self._journal.written.append((self, key, self._rows[key]))
            self._drop(key)

    def restore(self, key: K, before: R) -> None:
        """Take back what was written under a key; ``before``: as the journal noted it."""
        if before is not _NOTHING:
            self._set(key, before)
        elif key in self._rows:
            self._drop(key)

    def _set(self, key: K, row: R) -> None:
        self._rows[key] = row

    def _drop(self, key: K) -> None:
        del self._rows[key]


class Parts(Rows[tuple[Any, ...], R]):
    """A table of rows that belong to runs; the run is the first part of the key. ``item_at``: which part of it says of
    which item a row is; None: a run has them, and its items have not.
    """

    def __init__(self, journal: Journal, item_at: int | None = None) -> None:
        super().__init__(journal)
        self._item_at = item_at
        self._of: dict[str, dict[int, dict[tuple[Any, ...], R]]] = {}

    def of(self, run: str, item: int = NO_ITEM) -> Collection[R]:
        """The rows of a run itself, or of one of its items."""
        mine = self._of.get(run, _EMPTY).get(item)
        return () if mine is None else mine.values()

    def every(self, run: str) -> list[R]:
        """The rows of a run and of each of its items."""
        return [row for of_one in self._of.get(run, _EMPTY).values() for row in of_one.values()]

    def with_keys(self, run: str) -> list[tuple[tuple[Any, ...], R]]:
        """The same with their keys."""
        return [pair for of_one in self._of.get(run, _EMPTY).values() for pair in of_one.items()]

    def runs(self) -> Collection[str]:
        """Runs that may have rows."""
        return self._of.keys()

    def forget(self, run: str) -> None:
        """Delete the rows of a run."""
        for key in [key for of_one in self._of.get(run, _EMPTY).values() for key in of_one]:
            self.remove(key)

    def _item(self, key: tuple[Any, ...]) -> int:
        item: int = NO_ITEM if self._item_at is None else key[self._item_at]
        return item

    def _set(self, key: tuple[Any, ...], row: R) -> None:
        self._rows[key] = row
        item, of_run = self._item(key), self._of.get(key[0])
        if of_run is None:
            self._of[key[0]] = of_run = {}
        mine = of_run.get(item)
        if mine is None:
            of_run[item] = mine = {}
        mine[key] = row

    def _drop(self, key: tuple[Any, ...]) -> None:
        del self._rows[key], self._of[key[0]][self._item(key)][key]


_EMPTY: Mapping[int, Any] = {}


class Tables:
    """All rows of a store. ``keys_of_runs`` and ``keys_of_tombstones`` hold each key once: the run by client, pipeline
    and key. ``keys``: business keys, by client, operation and key. ``positions``: of events, in the order in
    which sinks are told of them. ``written``: where the rows of a change are written;
    ``of_runs``: every table whose rows go with their run, besides the events.
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self.journal = journal = journal or Journal()
        self.runs = Rows[str, RunFacts](journal)
        self.strands = Parts[StrandRow](journal, item_at=2)
        self.attempts = Parts[AttemptRecord](journal, item_at=2)
        self.checkpoints = Parts[CheckpointRecord](journal, item_at=2)
        self.saga_steps = Parts[StepRecord](journal, item_at=2)
        self.signals = Parts[SignalRecord](journal, item_at=2)
        self.approvals = Parts[ApprovalRecord](journal, item_at=2)
        self.links = Parts[LinkRecord](journal)
        self.calls = Parts[CallRecord](journal, item_at=2)
        self.attributes = Parts[AttributeRecord](journal)
        self.events = Parts[EventRecord](journal, item_at=1)
        self.positions = Rows[int, tuple[str, int, int]](journal)
        self.sinks = Rows[str, SinkRecord](journal)
        self.items = Parts[ItemRecord](journal)
        self.item_groups = Parts[GroupRecord](journal)
        self.limits = Rows[str, LimitRecord](journal)
        self.pools = Rows[PoolId, PoolRecord](journal)
        self.slots = Rows[SlotKey, SlotRow](journal)
        self.keys_of_runs = Rows[RunKey, str](journal)
        self.tombstones = Rows[str, TombstoneRecord](journal)
        self.keys_of_tombstones = Rows[RunKey, str](journal)
        self.keys = Rows[tuple[str, str, str], KeyRow](journal)
        self.definitions = Rows[str, DefinitionRecord](journal)
        self.owners = Rows[str, OwnerRecord](journal)
        self.profiles = Rows[str, ProfileRecord](journal)
        self.queues = Rows[str, QueueRecord](journal)
        self.ticks = Rows[str, float](journal)
        self.plans: dict[str, Plan] = {}  # decoded, for as long as the store lives: definitions never change
        self.written: dict[Table, Parts[Any]] = {
            Table.STRANDS: self.strands,
            Table.ATTEMPTS: self.attempts,
            Table.CHECKPOINTS: self.checkpoints,
            Table.SAGA_STEPS: self.saga_steps,
            Table.SIGNALS: self.signals,
            Table.APPROVALS: self.approvals,
            Table.LINKS: self.links,
            Table.CALLS: self.calls,
            Table.ATTRIBUTES: self.attributes,
        }
        self.of_runs = (*self.written.values(), self.items, self.item_groups)

    @property
    def last_position(self) -> int:
        """The highest position that an event has, or had: those of pruned ones are not given again."""
        highest = max((at for at, _key in self.positions.items()), default=0)
        return max(highest, *(row.position for row in self.sinks), 0)

    def add_event(self, event: EventRecord) -> None:
        """Insert an event. It has a position if there is a sink to be told of it."""
        key = event.run, event.item, event.seq
        if any(True for _sink in self.sinks):
            position = self.last_position + 1
            event = event._replace(position=position)
            self.positions.put(position, key)
        self.events.put(key, event)

    def forget_events(self, run: str) -> None:
        """Delete the events of a run."""
        for event in self.events.every(run):
            if event.position is not None:
                self.positions.remove(event.position)
        self.events.forget(run)
