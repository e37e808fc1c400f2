"""Collects a change. What is read from a draft is the run as drafted so far; each row is written once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stageflow_durable.model.status import AttemptState, Phase, StepState, StrandState
from stageflow_durable.model.work import UNDO_PREFIX, Nudge, Refused, RunFacts, Work
from stageflow_durable.transitions.attempt import Kept
from stageflow_durable.transitions.change import Change, Event, KeyChange, KeyEnd, Row, Table
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.rows import NEW_STRAND, UNTIL_CONFIRMED, AttemptRow, HeldKey, StrandRow

IDLE = (StrandState.READY, StrandState.WAITING)
"""A strand that nobody runs, and that would begin by itself."""

ACTIVE = (*IDLE, StrandState.RUNNING)


class Draft:
    """A change in the making, on one run."""

    def __init__(self, facts: Facts) -> None:
        self.facts, self.plan, self.clock = facts, facts.plan, facts.clock
        self._columns: dict[str, Any] = {}
        self._rows: dict[tuple[Table, tuple[Any, ...]], Row] = {}
        self._events: list[Event] = []
        self._keys: dict[tuple[str, str, str], KeyChange] = {}
        self._to_publish: dict[str, int | None] = {}
        self._strands: dict[str, StrandRow] | None = None
        self._saved: dict[str, bool] | None = None
        self._steps: dict[str, StepState] | None = None
        self._attempts: tuple[AttemptRow, ...] | None = None
        self.granted: Work | None = None
        self.refused: Refused | None = None
        self.due_in: float | None = None
        self.ended = False

    # --- the run ------------------------------------------------------------------------------------------------------

    @property
    def run(self) -> RunFacts:
        """The run's row as drafted, its number and code as they were."""
        return self.facts.run._replace(**self._columns) if self._columns else self.facts.run

    @property
    def id(self) -> str:
        """The run's id."""
        return self.facts.run.id

    @property
    def is_late(self) -> bool:
        """Whether the run's deadline has passed and nothing may begin any more."""
        return self.run.is_late(self.clock)

    def change(self, **columns: Any) -> None:
        """Set columns of the run's row."""
        was = self.run
        self._columns.update({name: value for name, value in columns.items() if getattr(was, name) != value})

    def emit(self, kind: str, /, **data: Any) -> None:
        """Append an event to the run's history."""
        self._events.append(Event(kind, data))

    def add_to_last(self, kind: str, /, **data: Any) -> bool:
        """Say more in the last event, where it is of that kind; returns whether it was."""
        if not self._events or self._events[-1].type != kind:
            return False
        self._events[-1].data.update(data)
        return True

    def keep(self, work: Work, events: Kept) -> None:
        """Append the events that the body asked for."""
        for kind, data in events:
            self.emit(kind, **{**data, "stage": work.stage})

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _write(self, table: Table, key: tuple[Any, ...], columns: dict[str, Any], *, new: bool = False) -> None:
        there = self._rows.get((table, key))
        if there is not None:
            new, columns = there.new, {**there.columns, **columns}
        self._rows[table, key] = Row(table, key, new, columns)

    @property
    def strands(self) -> Mapping[str, StrandRow]:
        """The strands as drafted."""
        return self.facts.strands if self._strands is None else self._strands

    def set_strand(self, name: str, **columns: Any) -> StrandRow:
        """Set columns of a strand; returns it as it is then."""
        if self._strands is None:
            self._strands = dict(self.facts.strands)
        row = self._strands[name] = self._strands[name]._replace(**columns)
        self._write(Table.STRANDS, (name,), columns)
        return row

    def open_strand(self, name: str, **columns: Any) -> StrandRow:
        """A new strand; one that is there already begins anew, behind the fence and with the numbers it has."""
        if name in self.strands:
            fresh = {"owner": None, "tries": 0, "lost": 0, "delay": None, "first_at": None, "nudges": 0, **columns}
            fresh.pop("direction", None)
            return self.set_strand(name, **fresh)
        if self._strands is None:
            self._strands = dict(self.facts.strands)
        row = self._strands[name] = NEW_STRAND._replace(run=self.id, strand=name, **columns)
        self._write(Table.STRANDS, (name,), {k: v for k, v in row._asdict().items() if k not in _NAMED}, new=True)
        return row

    def rest_idle(self) -> None:
        """Bring every strand that waits for work to rest."""
        for row in tuple(self.strands.values()):
            if row.state in IDLE:
                self.set_strand(row.strand, state=StrandState.REST, wake_at=None, published_at=None)

    @property
    def saved(self) -> Mapping[str, bool]:
        """Stages that have a checkpoint as drafted, and whether they were skipped."""
        return self.facts.saved if self._saved is None else self._saved

    def save(self, stage: str, delta: str | None, *, schema: int, skipped: bool = False) -> None:
        """Save what a stage added: encoded text. A second checkpoint of a stage is refused by the table's key."""
        self._saved = {**self.saved, stage: skipped}
        columns = {"delta": delta, "saved_schema": schema, "skipped": skipped, "at": self.clock}
        self._write(Table.CHECKPOINTS, (stage,), columns, new=True)

    @property
    def steps(self) -> Mapping[str, StepState]:
        """The saga steps as drafted."""
        return self.facts.steps if self._steps is None else self._steps

    def set_step(self, stage: str, state: StepState, **columns: Any) -> None:
        """Move a saga step; a stage without one is left alone."""
        if stage not in self.steps:
            return
        self._steps = {**self.steps, stage: state}
        self._write(Table.SAGA_STEPS, (stage,), {"state": state, **columns})

    def intend(self, stage: str) -> None:
        """Write the intent before the action. A step that is void or was given up is owed again."""
        there = self.steps.get(stage)
        if there is None or there in (StepState.VOID, StepState.SKIPPED):
            self._steps = {**self.steps, stage: StepState.INTENDED}
            self._write(Table.SAGA_STEPS, (stage,), {"state": StepState.INTENDED}, new=there is None)

    @property
    def attempts(self) -> tuple[AttemptRow, ...]:
        """Attempts that are over, as drafted."""
        return self.facts.attempts if self._attempts is None else self._attempts

    def end_attempt(
        self,
        of: Work | StrandRow,
        state: AttemptState,
        *,
        doubt: bool = False,
        kill_by: float | None = None,
        **how: Any,
    ) -> None:
        """Write down an attempt that is over, from whoever has it in hand. ``doubt``: it may have acted."""
        ended = AttemptRow(of.stage, of.direction, of.attempt, state, doubt, kill_by, of.owner or "")
        self._attempts = (*self.attempts, ended)
        columns = {"owner": of.owner, "began_at": of.began_at, "ended_at": self.clock, "state": state, "doubt": doubt}
        self._write(Table.ATTEMPTS, ended[:3], {**columns, "kill_by": kill_by, **how}, new=True)

    def end_lost(self, owner: str) -> bool:
        """Nothing of that owner can act any more: whether a lost attempt waited for that."""
        kept, found = [], False
        for row in self.attempts:
            if row.owner == owner and may_act_for_ever(row):
                row, found = row._replace(kill_by=self.clock, may_act=False), True  # noqa: PLW2901  # the row as it is now
                self._write(Table.ATTEMPTS, row[:3], {"kill_by": self.clock})
            kept.append(row)
        self._attempts = tuple(kept)
        return found

    def clear_doubt(self, stage: str) -> None:
        """A person found out how the attempts in doubt ended."""
        kept = []
        for row in self.attempts:
            if row.stage == stage and row.direction == Phase.FORWARD and row.doubt:
                row = row._replace(doubt=False, state=AttemptState.SETTLED)  # noqa: PLW2901  # the row as it is now
                self._write(Table.ATTEMPTS, row[:3], {"doubt": False, "state": AttemptState.SETTLED})
            kept.append(row)
        self._attempts = tuple(kept)

    def end_key(self, key: HeldKey, end: KeyEnd, delta: str | None = None, schema: int = 1) -> None:
        """Say what becomes of a business key; the first word holds."""
        self._keys.setdefault(key[:3], KeyChange(key, end, delta, schema))

    # --- questions ----------------------------------------------------------------------------------------------------

    def next_number(self, stage: str, direction: str) -> int:
        """The number of a stage's next attempt; earlier strands of it (before a resume) count on."""
        return 1 + max((row.n for row in self.attempts if (row.stage, row.direction) == (stage, direction)), default=0)

    def in_doubt(self, stage: str) -> bool:
        """Whether some attempt of the action may have acted without our knowing."""
        return any(row.doubt for row in self.attempts if row.stage == stage and row.direction == Phase.FORWARD)

    def called_before(self, work: Work) -> bool:
        """Whether an attempt of the stage before this one came as far as its body."""
        not_called = (AttemptState.VOID, AttemptState.SETTLED)
        return any(
            row.n < work.attempt and row.state not in not_called
            for row in self.attempts
            if (row.stage, row.direction) == (work.stage, work.direction)
        )

    def acts_until(self, stage: str) -> float:
        """Until when a lost attempt of the action may still act; 0.0 when none can, UNTIL_CONFIRMED when one may until
        somebody confirms that its owner has ended.
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
        """Publish the strand once the change is applied. ``mark``: tells this publication from others of it; None: the
        run's number does.
        """
        self._to_publish[strand] = mark

    def next_to_publish(self) -> str | None:
        """The strand that would be published first, or None."""
        return next(iter(self._to_publish), None)

    def withhold(self, strand: str) -> None:
        """Do not publish it after all: it begins at once."""
        del self._to_publish[strand]

    def publish_nothing(self) -> None:
        """Withdraw what was to be published: it rests."""
        self._to_publish.clear()

    def done(self) -> Change:
        """The change. A granted attempt gets the run as the change leaves it, but for its code: that is the store's."""
        seq = self.facts.run.seq + len(self._events)
        granted = self.granted
        if granted is not None:
            granted = replace(granted, run=self.run._replace(seq=seq), seq=seq)
        return Change(
            self.facts,
            self._columns,
            tuple(self._rows.values()),
            tuple(self._events),
            tuple(self._keys.values()),
            tuple(self._nudge(name, seq if mark is None else mark) for name, mark in self._to_publish.items()),
            granted,
            self.refused,
            self.due_in,
            self.ended,
        )

    def _nudge(self, strand: str, mark: int) -> Nudge:
        row = self.strands[strand]
        links = 1 if row.direction == Phase.BACKWARD else self.plan.remaining_on_strand(row.stage)
        return Nudge(self.id, strand, row.gen, row.queue, mark, links, self.facts.run.priority)


_NAMED = ("run", "strand")


def is_lost(row: AttemptRow) -> bool:
    """Whether nobody knows how an attempt of an action ended."""
    return row.direction == Phase.FORWARD and row.state == AttemptState.UNKNOWN


def may_act_for_ever(row: AttemptRow) -> bool:
    """Whether a lost attempt has no bound in time."""
    return is_lost(row) and (row.kill_by or 0.0) >= UNTIL_CONFIRMED


def undo_strand(stage: str) -> str:
    """The name of the strand that undoes ``stage``."""
    return UNDO_PREFIX + stage
