"""One transaction in memory: the run's facts from rows, and a change written to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, TypeVar

from stageflow_durable.codec import decode
from stageflow_durable.idempotency.store import RunAnswer
from stageflow_durable.model.attributes import Attributes
from stageflow_durable.model.limits import PoolId, Wanted
from stageflow_durable.model.status import AttemptState, Phase, StepState, StrandState
from stageflow_durable.model.work import RunFacts, Work
from stageflow_durable.store.audit import EventRow
from stageflow_durable.store.memory import definitions, erasure, keys, of_items, owners, slots
from stageflow_durable.store.memory.rows import RECORDS, AttemptRecord, EventRecord, Tables
from stageflow_durable.store.of_items import parts_of_item, with_digest
from stageflow_durable.store.sealing import seal_events, with_head
from stageflow_durable.store.transaction import Holder
from stageflow_durable.store.values import BusinessKey, LimitWord
from stageflow_durable.transitions.accept import NewRun, requesters
from stageflow_durable.transitions.change import KEYS, Change, How, Row, Table
from stageflow_durable.transitions.draft import NO_ITEM
from stageflow_durable.transitions.facts import Facts, Part
from stageflow_durable.transitions.rows import (
    ApprovalRow,
    AttemptRow,
    CallRow,
    ItemRow,
    LinkRow,
    OwnerRow,
    SignalRow,
    SlotRow,
    StrandRow,
)

G = TypeVar("G")


class ConstraintBroken(Exception):
    """A write that a database would refuse by a constraint: a mistake in a transition, or in who calls."""


class MemoryTransaction:
    """What is done under the store's lock: see :class:`~stageflow_durable.store.transaction.Transaction`."""

    def __init__(
        self, tables: Tables, clock: Callable[[], float], audit_key: bytes, old_audit_keys: Sequence[bytes] = ()
    ) -> None:
        self.tables = tables
        self.clock = clock
        self._audit, self._old_audits = audit_key, old_audit_keys

    # --- facts --------------------------------------------------------------------------------------------------------

    def lock(self, run_id: str, needs: Iterable[Part], me: str) -> Facts | None:
        """Load these parts of a run's facts; the store's lock keeps others out."""
        run = self.tables.runs.get(run_id)
        if run is None:
            return None
        plan = definitions.plan_of(self.tables, run.definition)
        parts = {part: _LOADED[part](self, run, me) for part in needs}
        return Facts(run, plan, self.clock(), run.seq, run.head, parts)

    def load(self, facts: Facts, part: Part, me: str, wanted: tuple[Wanted, ...] = ()) -> Facts:
        """The facts, of a run or of an item, with one part more."""
        if part is Part.SLOTS:
            loaded = slots.load(self.tables, self.clock(), facts.run.id, wanted)
            return facts._replace(parts={**facts.parts, part: loaded})
        found = self._part_of_item(facts, part, me) if facts.item else _LOADED[part](self, facts.run, me)
        return facts._replace(parts={**facts.parts, part: found})

    def lock_item(self, run_id: str, strand: str, item: int) -> Facts | None:
        """Load an item's facts; the store's lock keeps others out. None if there is no such item."""
        run, row = self.tables.runs.get(run_id), self.tables.items.get((run_id, item))
        group = None if row is None else self.tables.item_groups.get((run_id, strand, row.grp))
        if run is None or row is None or group is None:
            return None
        saved = self.tables.checkpoints.get((run_id, row.stage, item))
        output = (None, None) if saved is None else (saved.delta, saved.saved_schema)
        its = ItemRow(item, row.stage, row.grp, row.input, *output)
        parts = parts_of_item(its, group.as_fact(), self.tables.strands.get((run_id, strand, item)))
        plan = definitions.plan_of(self.tables, run.definition)
        return Facts(run, plan, self.clock(), row.seq, row.head, parts, item=item)

    def _part_of_item(self, facts: Facts, part: Part, me: str) -> Any:
        run, its = facts.run.id, facts.item_row
        if part is Part.STEPS:
            return {row.stage: StepState(row.state) for row in self.tables.saga_steps.of(run, its.item)}
        if part is Part.ATTEMPTS:
            return self._as_facts(self.tables.attempts.of(run, its.item))
        if part is Part.CALLS:
            return calls_of(self.tables, run, its.item)
        if part is Part.OWNERS:
            row = self.tables.strands.get((run, facts.group.strand, its.item))
            return self._owners((row,) if row is not None else ())
        return _LOADED[part](self, facts.run, me)

    def strands(self, run: str) -> dict[str, StrandRow]:
        """Every strand of a run, by name."""
        return {row.strand: row for row in sorted(self.tables.strands.of(run), key=_by_name)}

    def saved(self, run: str) -> dict[str, bool]:
        """Stages that have a checkpoint, and whether they were skipped."""
        return {row.stage: row.skipped for row in self.tables.checkpoints.of(run)}

    def steps(self, run: str) -> dict[str, StepState]:
        """The run's saga steps."""
        return {row.stage: StepState(row.state) for row in self.tables.saga_steps.of(run)}

    def schemas(self, run: RunFacts) -> frozenset[int]:
        """Schema numbers under which the input, the outputs and the signals that are kept were saved."""
        saved = (row.saved_schema for row in self.tables.checkpoints.every(run.id) if not row.skipped)
        kept = (row.saved_schema for row in self.tables.signals.of(run.id) if row.consumed_at is None)
        return frozenset((run.input_schema, *saved, *kept))

    def signals(self, run: str) -> tuple[SignalRow, ...]:
        """What came for the waits of the run."""
        rows = sorted(self.tables.signals.of(run), key=_by_number)
        return tuple(SignalRow(**{name: getattr(row, name) for name in SignalRow._fields}) for row in rows)

    def attempts(self, run: str) -> tuple[AttemptRow, ...]:
        """Attempts of the run that are over, in the order of their numbers; then those of its items that were lost: an
        undo waits until none of them can act.
        """
        return self._as_facts(row for row in self.tables.attempts.every(run) if not row.item or _is_lost(row))

    def _as_facts(self, attempts: Iterable[AttemptRecord]) -> tuple[AttemptRow, ...]:
        rows = sorted(attempts, key=_by_item_and_number)
        return tuple(
            AttemptRow(
                row.stage,
                row.direction,
                row.n,
                row.state,
                row.doubt,
                row.kill_by,
                row.owner,
                self._may_act(row.owner),
                row.item,
                row.delay,
            )
            for row in rows
        )

    def _may_act(self, owner: str) -> bool:
        # An owner without a row was pruned, and owners that an undo waits for are never pruned.
        row = self.tables.owners.get(owner)
        return row is not None and not row.confirmed

    def owners_of(self, run: str) -> dict[str, OwnerRow]:
        """The owners of the run's strands, by id."""
        return self._owners(self.tables.strands.of(run))

    def _owners(self, strands: Iterable[StrandRow]) -> dict[str, OwnerRow]:
        rows = (self.tables.owners.get(row.owner) for row in strands if row.owner is not None)
        return {
            row.id: OwnerRow(row.id, row.host, row.pid, row.dead_at, row.confirmed) for row in rows if row is not None
        }

    # --- writes -------------------------------------------------------------------------------------------------------

    def apply(self, change: Change) -> Change:
        """Write a change of a locked run, or of an item; returns it with the new head. Raises ConstraintBroken."""
        if change.facts.item:
            return self._apply_of_item(change)
        run = self.tables.runs.get(change.facts.run.id)
        if run is None or run.seq != change.facts.seq:
            raise ConstraintBroken(f"run {change.facts.run.id} was changed since the facts were loaded")
        head = self._write(change, run)
        for what in change.of_items:
            of_items.write(self.tables, run.id, what, head, change.facts.clock)
        return with_head(change, head)

    def _apply_of_item(self, change: Change) -> Change:
        facts, sealed = change.facts, seal_events(change, self._audit)
        head = sealed[-1].mac if sealed else facts.head
        if sealed and not of_items.move(self.tables, facts, change.seq, head):
            raise ConstraintBroken(f"item {facts.item} of run {facts.run.id} was changed since the facts were loaded")
        digest = of_items.count(self.tables, facts, change.counts, head)
        self._write_rows(change, sealed)
        if change.run is not None:
            self.apply(with_digest(change.run, facts.group, digest))
        return with_head(change, head)

    def create(self, change: Change, *, hints: bool = False) -> Change | None:
        """Write a new run. None if a run or the tombstone of a pruned one has its key. Raises ConstraintBroken."""
        run = change.facts.run
        if run.id in self.tables.runs:
            raise ConstraintBroken(f"run {run.id} is there already")
        if run.key is not None:
            key = run.client_id, run.pipeline, run.key
            if key in self.tables.keys_of_runs or key in self.tables.keys_of_tombstones:
                return None
            self.tables.keys_of_runs.put(key, run.id)
        head = self._write(change, run)
        return with_head(change, head, hints=hints)

    def _write(self, change: Change, run: RunFacts) -> str:
        """Write the rows of a change; returns the run's new head."""
        sealed = seal_events(change, self._audit)
        head = sealed[-1].mac if sealed else change.facts.head
        if sealed or change.columns:
            columns = {**change.columns, "seq": change.seq, "head": head, "updated_at": change.facts.clock}
            self.tables.runs.put(run.id, run._replace(**columns))
        self._write_rows(change, sealed)
        return head

    def _write_rows(self, change: Change, sealed: Sequence[EventRow]) -> None:
        run, item = change.facts.run.id, change.facts.item
        for row in change.rows:
            self._write_row(run, row)
        for event in sealed:
            self.tables.add_event(EventRecord(*event, item))
        if change.slots is not None:
            slots.write(self.tables, change.slots)
        for ended in change.keys:
            keys.end(self.tables, self.clock(), run, ended)

    def _write_row(self, run: str, row: Row) -> None:
        rows, key = self.tables.written[row.table], (run, *row.key)
        before = rows.get(key)
        if row.how is How.UPDATE:
            if before is None:
                return
            made = before._replace(**row.columns)
        elif before is None:
            made = RECORDS[row.table](run=run, **dict(zip(KEYS[row.table], row.key, strict=True)), **row.columns)
        elif row.how is How.INTEND:
            if before.state not in (StepState.VOID, StepState.SKIPPED):
                return
            made = before._replace(**row.columns)
        else:
            raise ConstraintBroken(f"{row.table} {key} is there already")
        if row.table is Table.STRANDS:
            _sound(made)
        rows.put(key, made)

    def transact_all(self, given: Sequence[tuple[str, G]], decide: Callable[[Facts, G], Change | None]) -> list[Change]:
        """Let ``decide`` change several runs, each once."""
        changes: dict[str, Change] = {}
        for run, one in given:
            facts = self.lock(run, (Part.STRANDS,), "") if run not in changes else None
            change = None if facts is None else decide(facts, one)
            if change is not None:
                changes[run] = change
        for change in changes.values():
            self.apply(change)
        return list(changes.values())

    # --- the rest -----------------------------------------------------------------------------------------------------

    def holder(self, new: NewRun) -> Holder | None:
        """Who has its key."""
        key = new.client_id, new.plan.pipeline, new.key or ""
        run = self.tables.runs.get(self.tables.keys_of_runs.get(key) or "")
        if run is not None:
            return Holder(run.id, run.fingerprint, run.input)
        stone = self.tables.tombstones.get(self.tables.keys_of_tombstones.get(key) or "")
        return None if stone is None else Holder(stone.run, stone.fingerprint)

    def checkpoints(self, run_id: str) -> Iterable[Mapping[str, Any]]:
        """The rows of what its stages saved."""
        return [row._asdict() for row in self.tables.checkpoints.of(run_id)]

    def attributes(self, run_id: str) -> Attributes:
        """What the run is found by."""
        return tuple(sorted((row.name, row.value) for row in self.tables.attributes.of(run_id)))

    def approvals(self, run: str) -> tuple[ApprovalRow, ...]:
        """What was asked to be approved."""
        rows = sorted(self.tables.approvals.of(run), key=_by_number)
        return tuple(ApprovalRow(**{name: getattr(row, name) for name in ApprovalRow._fields}) for row in rows)

    def links(self, run: str) -> dict[str, LinkRow]:
        """Links by which people may decide, by the hash of the token."""
        return {row.token: LinkRow._make(row[1:]) for row in self.tables.links.of(run)}

    def requesters(self, run: str) -> frozenset[str]:
        """Who asked for the run, by its first event."""
        first = self.tables.events.get((run, 0, 1))
        return frozenset() if first is None else requesters(decode(first.data))

    def ended_at(self, work: Work) -> float | None:
        """When its owner ended the attempt; None if it did not: a sweep would have left it unknown."""
        row = self.tables.attempts.get((work.run.id, work.stage, work.item, work.direction.value, work.attempt))
        return None if row is None or row.state == AttemptState.UNKNOWN else row.ended_at

    def claim(self, key: BusinessKey, work: Work) -> RunAnswer:
        """Claim a business key for the stage; what is found is returned, not raised."""
        return keys.claim(self.tables, self.clock(), key, work.run.id, work.stage)

    def owner(self, owner: str) -> Any:
        """An owner's row, or None."""
        return self.tables.owners.get(owner)

    def confirm(self, owner: str, by: str, reason: str | None = None) -> bool:
        """Record that the process of a dead owner has ended; False if that was known, or it is not dead."""
        return owners.confirm(self.tables, self.clock(), owner, by, reason)

    def tend(self, pool: PoolId) -> tuple[SlotRow, ...]:
        """Free the slots of what cannot act any more, and offer what is free; returns who is to be woken."""
        return slots.tend(self.tables, self.clock(), pool)

    def say_of_limit(self, word: LimitWord) -> list[PoolId] | None:
        """Write what a person says of a limit; returns the pools that it is about, None where nothing has the name."""
        return slots.say(self.tables, word)

    def problems(self, run_id: str, *, unsealed: bool = False) -> list[str]:
        """What the audit finds wrong with a run."""
        keys = (self._audit, *self._old_audits, *([b""] if unsealed else ()))
        return erasure.problems(self.tables, keys, run_id)

    def erase(self, run_id: str, seq: int) -> None:
        """Erase the values in the rows and in the history of a run, whose row a change has erased already."""
        erasure.erase(self.tables, self._audit, run_id, seq)

    def await_end(self, owner: str) -> None:
        """Record that an undo may have to wait until the end of this owner is confirmed."""
        owners.await_end(self.tables, owner)


def calls_of(tables: Tables, run: str, item: int = NO_ITEM) -> tuple[CallRow, ...]:
    """Saved steps of a run's stages, or of an item, in their order."""
    rows = sorted(tables.calls.of(run, item), key=_by_number)
    return tuple(CallRow._make(row[1:]) for row in rows)


_by_name, _by_number, _by_item_and_number = attrgetter("strand"), attrgetter("n"), attrgetter("item", "n")


def _is_lost(row: AttemptRecord) -> bool:
    return (row.state, row.direction) == (AttemptState.UNKNOWN, Phase.FORWARD)


def _sound(row: StrandRow) -> None:
    """The conditions that tie a strand's columns together. Raises ConstraintBroken."""
    running, waiting = row.state == StrandState.RUNNING, row.state == StrandState.WAITING
    if running != (row.owner is not None) or waiting != (row.waiting_for is not None):
        raise ConstraintBroken(f"strand {row.strand} of run {row.run} is {row.state}, with owner {row.owner!r}")


def _newest(t: MemoryTransaction, run: RunFacts) -> Any:
    return definitions.plan_of(t.tables, definitions.newest(t.tables, run.pipeline) or run.definition)


_LOADED: dict[Part, Callable[[MemoryTransaction, RunFacts, str], Any]] = {
    Part.STRANDS: lambda t, run, _me: t.strands(run.id),
    Part.SAVED: lambda t, run, _me: t.saved(run.id),
    Part.STEPS: lambda t, run, _me: t.steps(run.id),
    Part.ATTEMPTS: lambda t, run, _me: t.attempts(run.id),
    Part.KEYS: lambda t, run, _me: keys.held_by(t.tables, run.id),
    Part.ALIVE: lambda t, _run, me: owners.is_alive(t.tables, t.clock(), me),
    Part.OWNERS: lambda t, run, _me: t.owners_of(run.id),
    Part.DEFINITIONS: lambda t, run, _me: definitions.of_pipeline(t.tables, run.pipeline),
    Part.SCHEMAS: lambda t, run, _me: t.schemas(run),
    Part.NEWEST: lambda t, run, _me: _newest(t, run),
    Part.SIGNALS: lambda t, run, _me: t.signals(run.id),
    Part.APPROVALS: lambda t, run, _me: t.approvals(run.id),
    Part.LINKS: lambda t, run, _me: t.links(run.id),
    Part.CALLS: lambda t, run, _me: calls_of(t.tables, run.id),
    Part.REQUESTERS: lambda t, run, _me: t.requesters(run.id),
    Part.GROUPS: lambda t, run, _me: of_items.groups_as_facts(t.tables, run.id),
    Part.OWED: lambda t, run, _me: of_items.owed(t.tables, run.id),
    Part.ROSTER: lambda t, _run, _me: definitions.roster(t.tables, t.clock()),
}
