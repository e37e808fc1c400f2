"""Collects a change. Reading a draft gives the run as drafted so far; a row that is written twice is merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import AttemptState, Phase, StepState, StrandState, WaitingFor
from stageflow_durable.model.work import UNDO_PREFIX, Hint, Kept, Nudge, Refused, RunFacts, Work
from stageflow_durable.transitions.change import (
    KEYS,
    Change,
    Count,
    Event,
    How,
    KeyChange,
    KeyEnd,
    OfItems,
    RestItems,
    Row,
    Table,
)
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.rows import (
    NEW_STRAND,
    OF_A_STAGE,
    UNTIL_CONFIRMED,
    ApprovalRow,
    AttemptRow,
    CallRow,
    GroupRow,
    HeldKey,
    LinkRow,
    SignalRow,
    StrandRow,
)
from stageflow_durable.transitions.slots import Slots
from stageflow_durable.transitions.slots import of as slots_of

IDLE = (StrandState.READY, StrandState.WAITING)
"""States of a strand that no owner holds and that is due now or later."""

ACTIVE = (*IDLE, StrandState.RUNNING)

AWAKE: dict[str, Any] = {"waiting_for": None, "wake_at": None}
"""The columns that say what a strand waits for, cleared."""

FIRST = LAST = 5
"""Attempts of an action or undo that keep where they raised and what they logged, from either end."""

NO_ITEM = 0


class Draft:
    """A change in the making, on one run, or on one of its items: then every row but the run's is the item's."""

    def __init__(self, facts: Facts, *, new: bool = False) -> None:
        """``new``: the run is not in the database yet; its row is inserted with the values of ``facts``."""
        self.facts, self.plan, self.clock = facts, facts.plan, facts.clock
        self.item = facts.item
        self._new = new
        self._columns: dict[str, Any] = facts.run._asdict() if new else {}
        for name in _BY_THE_STORE if new else ():
            del self._columns[name]
        self._rows: dict[tuple[Table, tuple[Any, ...]], Row] = {}
        self._events: list[Event] = []
        self._keys: dict[tuple[str, str, str], KeyChange] = {}
        self._to_publish: dict[str, int | None] = {}
        # Drafted values, kept beside the facts: those may not be loaded, and a decision along a line needs none.
        self._run: RunFacts | None = None
        self._strands: dict[str, StrandRow] = {}  # those that were asked for
        self._saved: dict[str, bool] = {}
        self._steps: dict[str, StepState] = {}
        self._ended: dict[tuple[Any, ...], AttemptRow] = {}
        self.counts: tuple[Count, ...] = ()
        self._of_items: list[OfItems] = []
        self._signals: dict[tuple[str, int], SignalRow] = {}
        self._approvals: dict[tuple[str, int], ApprovalRow] = {}
        self.slots: Slots | None = None
        self.granted: Work | None = None
        self.refused: Refused | None = None
        self.due_in: float | None = None
        self.ended = False

    # --- the run ------------------------------------------------------------------------------------------------------

    @property
    def run(self) -> RunFacts:
        """The run's row as drafted; ``seq`` and ``head`` are those of the facts."""
        if not self._columns:
            return self.facts.run
        if self._run is None:
            self._run = self.facts.run._replace(**self._columns)
        return self._run

    @property
    def id(self) -> str:
        """The run's id."""
        return self.facts.run.id

    @property
    def seq(self) -> int:
        """The run's number, as drafted."""
        return self.facts.seq + len(self._events)

    @property
    def is_late(self) -> bool:
        """Whether the run's deadline has passed and nothing may begin any more."""
        return self.run.is_late(self.clock)

    def change(self, **columns: Any) -> None:
        """Set columns of the run's row."""
        was = self.run
        changed = {name: value for name, value in columns.items() if getattr(was, name) != value}
        if changed:
            self._columns.update(changed)
            self._run = None

    def emit(self, kind: str, /, **data: Any) -> None:
        """Append an event to the run's history."""
        self._events.append(Event(kind, data))

    def add_to_last(self, kind: str, /, **data: Any) -> bool:
        """Add data to the last event if it is of that kind; returns whether it is."""
        if not self._events or self._events[-1].type != kind:
            return False
        self._events[-1].data.update(data)
        return True

    def keep(self, work: Work, events: Kept) -> None:
        """Append the events that the body asked for."""
        for kind, data in events:
            self.emit(kind, **{**data, "stage": work.stage})

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _write(self, table: Table, key: tuple[Any, ...], columns: dict[str, Any], how: How = How.UPDATE) -> None:
        there = self._rows.get((table, key))
        if there is not None:
            how, columns = there.how, {**there.columns, **columns}
        self._rows[table, key] = Row(table, key, how, columns)

    def strand(self, name: str) -> StrandRow:
        """One strand as drafted."""
        row = self._strands.get(name)
        if row is None:
            written = self._rows.get((Table.STRANDS, (name, self.item)))
            if written is None:
                row = self.facts.strands[name]
            elif written.how is How.INSERT:
                row = StrandRow(self.id, name, **written.columns, item=self.item)
            else:
                row = self.facts.strands[name]._replace(**written.columns)
            self._strands[name] = row
        return row

    @property
    def strands(self) -> Mapping[str, StrandRow]:
        """All strands as drafted."""
        written = [key[0] for table, key in self._rows if table is Table.STRANDS]
        return (
            {**self.facts.strands, **{name: self.strand(name) for name in written}} if written else self.facts.strands
        )

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The definition by which the run went, and the one by which it goes if it has moved to another."""
        return (self.plan,) if self.plan is self.facts.plan else (self.facts.plan, self.plan)

    def changed_strands(self) -> list[tuple[StrandRow, StrandRow]]:
        """The strands that are written, each as it was and as drafted; without new ones."""
        written = [(key[0], row.how) for (table, key), row in self._rows.items() if table is Table.STRANDS]
        return [(self.facts.strands[name], self.strand(name)) for name, how in written if how is How.UPDATE]

    def may_act_until(self, row: StrandRow) -> float | None:
        """Until when the attempt that ran on the strand may act although it is over; None: it cannot."""
        ended = self._ended.get((row.stage, row.item, row.direction, row.attempt))
        lost = ended is not None and is_lost(ended) and (ended.kill_by or 0.0) > self.clock
        return ended.kill_by if ended is not None and lost else None

    def set_strand(self, name: str, **columns: Any) -> None:
        """Set columns of a strand."""
        self._strands.pop(name, None)
        self._write(Table.STRANDS, (name, self.item), columns)

    def wait(self, name: str, what: WaitingFor, until: float | None, **columns: Any) -> None:
        """Let a strand wait for ``what`` until then (None: for as long as it takes), with no message under way;
        ``columns``: what else to set.
        """
        waits = {"state": StrandState.WAITING, "waiting_for": what, "wake_at": until, "published_at": None}
        self.set_strand(name, **waits, **columns)

    def open_strand(self, name: str, **columns: Any) -> None:
        """Insert a strand. One that exists is reset instead; it keeps its fence and its attempt numbers."""
        if name in self.strands:
            fresh = {"owner": None, **OF_A_STAGE, **AWAKE, **columns}
            fresh.pop("direction", None)
            self.set_strand(name, **fresh)
        else:
            self._write(Table.STRANDS, (name, self.item), {**_FRESH, **columns}, How.INSERT)

    def rest_idle(self) -> None:
        """Bring every strand that no owner holds to rest."""
        for row in tuple(self.strands.values()):
            if row.state in IDLE:
                self.set_strand(row.strand, state=StrandState.REST, published_at=None, **AWAKE)

    def count(self, **by: int) -> None:
        """Change the counts of the item's group."""
        self.counts = (*self.counts, Count(self.facts.group.strand, self.facts.group.grp, **by))

    @property
    def groups(self) -> Mapping[tuple[str, int], GroupRow]:
        """The groups of the run's items. Empty, and nothing is asked, if it has none."""
        return self.facts.groups if self.facts.run.item_count else {}

    @property
    def items_run(self) -> bool:
        """Whether an item of the run is being carried out or undone."""
        return any(group.running for group in self.groups.values())

    def do(self, what: OfItems) -> None:
        """Do something to many items of the run."""
        self._of_items.append(what)

    def rest_items(self) -> None:
        """Bring every item that no owner holds to rest."""
        if self.groups:
            self.do(RestItems())

    @property
    def saved(self) -> Mapping[str, bool]:
        """Stages that have a checkpoint as drafted, and whether they were skipped."""
        return {**self.facts.saved, **self._saved}

    def save(self, stage: str, delta: str | None, *, schema: int, skipped: bool = False) -> None:
        """Save a stage's output, as encoded text. The table's primary key refuses a second checkpoint of a stage."""
        self._saved[stage] = skipped
        columns = {"delta": delta, "saved_schema": schema, "skipped": skipped, "at": self.clock}
        self._write(Table.CHECKPOINTS, (stage, self.item), columns, How.INSERT)

    def describe(self, name: str, value: str) -> None:
        """Give a new run an attribute."""
        self._write(Table.ATTRIBUTES, (name,), {"value": value}, How.INSERT)

    def copy_checkpoint(self, stage: str, columns: Mapping[str, Any]) -> None:
        """Copy a checkpoint of another run, with its time."""
        self._saved[stage] = bool(columns["skipped"])
        self._write(Table.CHECKPOINTS, (stage, self.item), dict(columns), How.INSERT)

    @property
    def steps(self) -> Mapping[str, StepState]:
        """The saga steps as drafted."""
        return {**self.facts.steps, **self._steps}

    def set_step(self, stage: str, state: StepState, **columns: Any) -> None:
        """Set the state of a saga step; does nothing for a stage without one."""
        if stage in self.steps:
            self._steps[stage] = state
            self._write(Table.SAGA_STEPS, (stage, self.item), {"state": state, **columns})

    def intend(self, stage: str) -> None:
        """Record the intent to undo, before the action. A step that is void or was skipped is owed again."""
        self._steps[stage] = StepState.INTENDED
        self._write(Table.SAGA_STEPS, (stage, self.item), {"state": StepState.INTENDED}, How.INTEND)

    def record(self, stage: str) -> None:
        """Record that the action was done. The step exists: the attempt wrote it when it began."""
        self._steps[stage] = StepState.RECORDED
        self._write(Table.SAGA_STEPS, (stage, self.item), {"state": StepState.RECORDED})

    @property
    def signals(self) -> tuple[SignalRow, ...]:
        """Signals that came, as drafted."""
        if not self._signals:
            return self.facts.signals
        return tuple({**{row[:2]: row for row in self.facts.signals}, **self._signals}.values())

    def add_signal(self, signal: SignalRow) -> None:
        """Keep a signal that has come."""
        self._signals[signal[:2]] = signal
        columns = {name: value for name, value in signal._asdict().items() if name not in KEYS[Table.SIGNALS]}
        self._write(Table.SIGNALS, (signal.stage, signal.item, signal.n), columns, How.INSERT)

    def consume(self, signal: SignalRow) -> None:
        """The wait ends with this signal."""
        self._signals[signal[:2]] = signal._replace(consumed_at=self.clock)
        self._write(Table.SIGNALS, (signal.stage, signal.item, signal.n), {"consumed_at": self.clock})

    def approval(self, stage: str) -> ApprovalRow | None:
        """What was asked last at a stage, as drafted; None: nothing was."""
        rows = {row[:2]: row for row in self.facts.approvals} | self._approvals
        return max((row for row in rows.values() if row.stage == stage), key=lambda row: row.n, default=None)

    def ask(self, approval: ApprovalRow) -> None:
        """Ask somebody to approve."""
        self._approvals[approval[:2]] = approval
        columns = {name: value for name, value in approval._asdict().items() if name not in KEYS[Table.APPROVALS]}
        self._write(Table.APPROVALS, (approval.stage, approval.item, approval.n), columns, How.INSERT)

    def set_approval(self, approval: ApprovalRow, **columns: Any) -> ApprovalRow:
        """Set columns of what was asked."""
        self._approvals[approval[:2]] = changed = approval._replace(**columns)
        self._write(Table.APPROVALS, (approval.stage, approval.item, approval.n), columns)
        return changed

    def link(self, token: str) -> LinkRow | None:
        """The link with this token's hash; None: there is none."""
        return self.facts.links.get(token)

    def add_link(self, link: LinkRow) -> None:
        """Record that somebody was given a link."""
        columns = {name: value for name, value in link._asdict().items() if name not in KEYS[Table.LINKS]}
        self._write(Table.LINKS, (link.token,), columns, How.INSERT)

    def add_call(self, call: CallRow) -> None:
        """Write down a step of a stage."""
        columns = {name: value for name, value in call._asdict().items() if name not in KEYS[Table.CALLS]}
        self._write(Table.CALLS, (call.stage, call.item, call.call), columns, How.INSERT)

    def set_call(self, call: CallRow, **columns: Any) -> None:
        """Set columns of a step."""
        self._write(Table.CALLS, (call.stage, call.item, call.call), columns)

    def use(self, link: LinkRow) -> None:
        """Whoever has the link has decided by it."""
        self._write(Table.LINKS, (link.token,), {"used_at": self.clock})

    @property
    def attempts(self) -> tuple[AttemptRow, ...]:
        """Attempts that are over, as drafted; of a run's items those that were lost."""
        if not self._ended:
            return self.facts.attempts
        known = {row.key: row for row in self.facts.attempts}
        return tuple({**known, **self._ended}.values())

    def learn(self, of_item: Draft) -> None:
        """Know which attempts of an item end in the same transaction: one that is lost may still act."""
        self._ended.update(of_item._ended)

    def _attempts_of(self, stage: str, direction: str) -> list[AttemptRow]:
        """Those of one action or undo, none of an item's for the run itself."""
        key = (stage, self.item, direction)
        return [row for row in self.attempts if row.key[:3] == key]

    def end_attempt(
        self,
        of: Work | StrandRow,
        state: AttemptState,
        *,
        doubt: bool = False,
        kill_by: float | None = None,
        **how: Any,
    ) -> None:
        """Insert the row of an attempt that is over. ``doubt``: it may have acted."""
        owner = of.owner or ""
        ended = AttemptRow(
            of.stage, of.direction, of.attempt, state, doubt, kill_by, owner, item=self.item, delay=how.get("delay")
        )
        self._ended[ended.key] = ended
        if how.get("trace", "") is None:
            del how["trace"]  # most have none: no statement is written for it
        if isinstance(of, Work) and of.log is not None:
            how["log"] = of.log
        columns = {"owner": of.owner, "began_at": of.began_at, "ended_at": self.clock, "state": state, "doubt": doubt}
        self._write(Table.ATTEMPTS, ended.key, {**columns, "kill_by": kill_by, **how}, How.INSERT)
        if of.attempt > FIRST + LAST:
            middle = (of.stage, self.item, of.direction, of.attempt - LAST)
            self._write(Table.ATTEMPTS, middle, {"trace": None, "log": None})

    def answer_attempt(self, row: AttemptRow, state: AttemptState, *, doubt: bool, **how: Any) -> None:
        """Say how an attempt ended that had waited for the outside."""
        self._ended[row.key] = row._replace(state=state, doubt=doubt)
        self._write(Table.ATTEMPTS, row.key, {"state": state, "doubt": doubt, **how})

    def end_lost(self, owner: str) -> bool:
        """The owner's process has ended: its lost attempts cannot act any more. Returns whether there were any."""
        lost = [row for row in self.attempts if row.owner == owner and may_act_for_ever(row)]
        for row in lost:
            self._ended[row.key] = row._replace(kill_by=self.clock, may_act=False)
            self._write(Table.ATTEMPTS, row.key, {"kill_by": self.clock})
        return bool(lost)

    def clear_doubt(self, stage: str) -> None:
        """Clear the doubt of a stage's attempts: a person found out how they ended."""
        for row in self._attempts_of(stage, Phase.FORWARD):
            if row.doubt:
                self._ended[row.key] = row._replace(doubt=False, state=AttemptState.SETTLED)
                self._write(Table.ATTEMPTS, row.key, {"doubt": False, "state": AttemptState.SETTLED})

    def end_key(self, key: HeldKey, end: KeyEnd, delta: str | None = None, schema: int = 1) -> None:
        """Say what becomes of a business key; only the first call for a key counts."""
        self._keys.setdefault(key[:3], KeyChange(key, end, delta, schema))

    # --- questions ----------------------------------------------------------------------------------------------------

    def next_number(self, row: StrandRow) -> int:
        """The number of the next attempt of the strand's stage; attempts before a resume count too."""
        if self.facts.number_free:
            return row.attempt + 1
        return 1 + max((ended.n for ended in self._attempts_of(row.stage, row.direction)), default=0)

    def in_doubt(self, stage: str) -> bool:
        """Whether some attempt of the action may have had an effect that we do not know of."""
        return any(row.doubt for row in self._attempts_of(stage, Phase.FORWARD))

    def owes_calls(self, stage: str) -> bool:
        """Whether a tool's call of the stage was made, or may have been, and can still be undone."""
        owed = self.plan.by_name[stage].undoes_calls
        return owed and any(row.stage == stage and row.undoable and row.undone_at is None for row in self.facts.calls)

    def called_before(self, work: Work) -> bool:
        """Whether an earlier attempt of the stage called the body."""
        not_called = (AttemptState.VOID, AttemptState.SETTLED)
        return any(
            row.n < work.attempt and row.state not in not_called
            for row in self._attempts_of(work.stage, work.direction)
        )

    def acts_until(self, stage: str) -> float:
        """Until when a lost attempt of the action, or of one of its items, may still act. 0.0: none can.
        UNTIL_CONFIRMED: one may until its owner's end is confirmed.
        """
        return max(
            (row.kill_by or 0.0 for row in self.attempts if row.stage == stage and row.may_act and is_lost(row)),
            default=0.0,
        )

    def queue_of(self, stage: str) -> str:
        """The queue of a stage: its own, or the run's."""
        return self.plan.by_name[stage].queue or self.facts.run.queue

    # --- the result ---------------------------------------------------------------------------------------------------

    def publish(self, strand: str, mark: int | None = None) -> None:
        """Publish the strand once the change is applied. ``mark``: tells this publication from others of the strand;
        None: the run's number is used.
        """
        self._to_publish[strand] = mark

    def next_to_publish(self) -> str | None:
        """The strand that would be published first, or None."""
        return next(iter(self._to_publish), None)

    def withhold(self, strand: str) -> None:
        """Withdraw one publication: the strand begins in this transaction instead."""
        del self._to_publish[strand]

    def publish_nothing(self) -> None:
        """Withdraw all publications: the run stays at rest."""
        self._to_publish.clear()

    def done(self) -> Change:
        """The change. The store fills in the head that a granted attempt needs."""
        slots = None
        if any(plan.has_limits for plan in self.plans) and not self.item:
            slots = slots_of(self).settled()
        seq, granted = self.seq, self.granted
        assert granted is None or granted.seq == seq, "nothing is decided after a grant"
        assert not (self.item and self._columns), "a change of an item writes nothing of the run's row"
        return Change(
            self.facts,
            self._columns,
            tuple(self._rows.values()),
            tuple(self._events),
            tuple(self._keys.values()),
            tuple([self._nudge(name, seq if mark is None else mark) for name, mark in self._to_publish.items()]),
            granted=granted,
            refused=self.refused,
            due_in=self.due_in,
            ended=self.ended,
            new=self._new,
            counts=self.counts,
            of_items=tuple(self._of_items),
            slots=slots,
        )

    def _nudge(self, strand: str, mark: int) -> Nudge:
        row = self.strand(strand)
        links = 1 if self.item or row.direction == Phase.BACKWARD else self.plan.remaining_on_strand(row.stage)
        priority = self.facts.run.priority
        return Nudge(self.id, strand, row.gen, row.queue, mark, links, priority, self._hint(row), self.item)

    def _hint(self, row: StrandRow) -> Hint | None:
        """The hint for a strand that nobody has begun: with it a worker can begin without a prior read. Strands that
        are published together get none: each hint would be out of date once another strand begins.
        """
        fresh = row.state == StrandState.READY and row.direction == Phase.FORWARD
        if (
            not fresh
            or self.item
            or row.attempt
            or row.first_at is not None
            or len(self._to_publish) > 1
            or not self._events
        ):
            return None
        return Hint(self.seq, "", self.run.definition, row.stage)


_FRESH = {name: value for name, value in NEW_STRAND._asdict().items() if name not in ("run", "strand", "item")}
_BY_THE_STORE = ("id", "seq", "head", "updated_at", "item_count", "awaited_by")


def is_lost(row: AttemptRow) -> bool:
    """Whether the outcome of an attempt of an action is unknown."""
    return row.direction == Phase.FORWARD and row.state == AttemptState.UNKNOWN


def may_act_for_ever(row: AttemptRow) -> bool:
    """Whether a lost attempt has no time limit, so that it may act until its process ends."""
    return is_lost(row) and (row.kill_by or 0.0) >= UNTIL_CONFIRMED


def undo_strand(stage: str) -> str:
    """The name of the strand that undoes ``stage``."""
    return UNDO_PREFIX + stage


def note(facts: Facts, kind: str, data: dict[str, Any]) -> Change:
    """Add an event to the run's history, and do nothing else."""
    draft = Draft(facts)
    draft.emit(kind, **data)
    return draft.done()
