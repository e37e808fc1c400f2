"""The facts of a run on which a transition decides, and the error that says which of them is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

from stageflow_durable.model.limits import PoolId, Wanted
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.roster import Roster
from stageflow_durable.model.status import StepState
from stageflow_durable.model.work import RunFacts
from stageflow_durable.transitions.rows import (
    ApprovalRow,
    AttemptRow,
    CallRow,
    GroupRow,
    HeldKey,
    ItemRow,
    LinkRow,
    OwnerRow,
    Pool,
    SignalRow,
    StrandRow,
)


class Part(StrEnum):
    """A part of the facts, loaded separately."""

    RUN = "run"
    STRANDS = "strands"
    SAVED = "saved"
    STEPS = "steps"
    ATTEMPTS = "attempts"
    KEYS = "keys"
    ALIVE = "alive"
    OWNERS = "owners"
    DEFINITIONS = "definitions"
    SCHEMAS = "schemas"
    NEWEST = "newest"
    ROSTER = "roster"
    SIGNALS = "signals"
    ITEM = "item"
    GROUP = "group"
    GROUPS = "groups"
    OWED = "owed"
    APPROVALS = "approvals"
    LINKS = "links"
    REQUESTERS = "requesters"
    CALLS = "calls"
    SLOTS = "slots"


class NotLoaded(Exception):
    """A decision needs a part that was not loaded. The store loads it under the run's lock and decides again."""

    def __init__(self, part: Part, wanted: tuple[Wanted, ...] = ()) -> None:
        """``wanted``: the slots that are asked for; those of the run's own rows are loaded in any case."""
        super().__init__(part)
        self.part = part
        self.wanted = wanted


class SomeStrands(Mapping[str, StrandRow]):
    """Some strands of a run, while the others are not loaded: asking for another one, or for all, raises
    :class:`NotLoaded`.
    """

    def __init__(self, *known: StrandRow) -> None:
        self._known = {row.strand: row for row in known}

    def __getitem__(self, name: str) -> StrandRow:
        try:
            return self._known[name]
        except KeyError:
            raise NotLoaded(Part.STRANDS) from None

    def __iter__(self) -> Iterator[str]:
        raise NotLoaded(Part.STRANDS)

    def __len__(self) -> int:
        raise NotLoaded(Part.STRANDS)


class Facts(NamedTuple):  # a tuple, for speed: one is made for each stage
    """A run as it stood when its number was ``seq`` and the code of its last event was ``head``. ``clock``: the
    database's, in seconds since the epoch.

    ``number_free``: the attempts are not loaded; the next attempt's number is assumed to be one more than the strand
    says, and the statement that applies the change checks it. Reading a part that was not loaded raises
    :class:`NotLoaded`, so what is not loaded is never taken for absent.

    ``item``: the facts are those of one item, loaded under the lock of its group: number, code and every row but the
    run's own are the item's. 0: of the run.
    """

    run: RunFacts
    plan: Plan
    clock: float
    seq: int
    head: str
    parts: Mapping[Part, Any] = MappingProxyType({})
    number_free: bool = False
    item: int = 0

    def _part(self, part: Part) -> Any:
        try:
            return self.parts[part]
        except KeyError:
            raise NotLoaded(part) from None

    @property
    def strands(self) -> Mapping[str, StrandRow]:
        """Every strand of the run, by name."""
        found: Mapping[str, StrandRow] = self._part(Part.STRANDS)
        return found

    @property
    def saved(self) -> Mapping[str, bool]:
        """Stages that have a checkpoint, and whether they were skipped."""
        found: Mapping[str, bool] = self._part(Part.SAVED)
        return found

    @property
    def steps(self) -> Mapping[str, StepState]:
        """The saga steps, by stage."""
        found: Mapping[str, StepState] = self._part(Part.STEPS)
        return found

    @property
    def attempts(self) -> tuple[AttemptRow, ...]:
        """Attempts that are over, in the order of their numbers."""
        found: tuple[AttemptRow, ...] = self._part(Part.ATTEMPTS)
        return found

    @property
    def keys(self) -> tuple[HeldKey, ...]:
        """Business keys that stages of the run hold."""
        found: tuple[HeldKey, ...] = self._part(Part.KEYS)
        return found

    @property
    def alive(self) -> bool:
        """Whether the lease of the owner that asks is valid, by the database's clock."""
        return bool(self._part(Part.ALIVE))

    @property
    def owners(self) -> Mapping[str, OwnerRow]:
        """The owners of the run's strands, by id."""
        found: Mapping[str, OwnerRow] = self._part(Part.OWNERS)
        return found

    @property
    def definitions(self) -> Mapping[str, float]:
        """When each definition of the pipeline was registered, by digest."""
        found: Mapping[str, float] = self._part(Part.DEFINITIONS)
        return found

    @property
    def schemas(self) -> frozenset[int]:
        """Schema numbers under which the input and the outputs were saved."""
        found: frozenset[int] = self._part(Part.SCHEMAS)
        return found

    @property
    def item_row(self) -> ItemRow:
        """The item's own row."""
        found: ItemRow = self._part(Part.ITEM)
        return found

    @property
    def group(self) -> GroupRow:
        """The group of the item's strand."""
        found: GroupRow = self._part(Part.GROUP)
        return found

    @property
    def groups(self) -> Mapping[tuple[str, int], GroupRow]:
        """Every group of the run, by strand and number. To load them is to lock all items of the run."""
        found: Mapping[tuple[str, int], GroupRow] = self._part(Part.GROUPS)
        return found

    @property
    def owed(self) -> Mapping[tuple[str, int], int]:
        """How many items of a stage and group have something to undo."""
        found: Mapping[tuple[str, int], int] = self._part(Part.OWED)
        return found

    @property
    def roster(self) -> Roster:
        """What the live workers know and serve."""
        found: Roster = self._part(Part.ROSTER)
        return found

    @property
    def signals(self) -> tuple[SignalRow, ...]:
        """Signals that came for the run's waits, in the order of their numbers."""
        found: tuple[SignalRow, ...] = self._part(Part.SIGNALS)
        return found

    @property
    def approvals(self) -> tuple[ApprovalRow, ...]:
        """What people were asked to approve, in the order of their numbers."""
        found: tuple[ApprovalRow, ...] = self._part(Part.APPROVALS)
        return found

    @property
    def links(self) -> Mapping[str, LinkRow]:
        """Links by which people may decide, by the hash of the token."""
        found: Mapping[str, LinkRow] = self._part(Part.LINKS)
        return found

    @property
    def requesters(self) -> frozenset[str]:
        """Who asked for the run, and for the one that it is a fork of. Empty: nobody was named."""
        found: frozenset[str] = self._part(Part.REQUESTERS)
        return found

    def slots(self, wanted: tuple[Wanted, ...] = ()) -> Mapping[PoolId, Pool]:
        """The slots that the run's strands hold, wait for, or want, each with the others that do. To load them is to
        lock them, all at once and in one order.
        """
        found: Mapping[PoolId, Pool] | None = self.parts.get(Part.SLOTS)
        if found is None or any(one.pool not in found for one in wanted):
            raise NotLoaded(Part.SLOTS, wanted)
        return found

    @property
    def calls(self) -> tuple[CallRow, ...]:
        """Saved steps of the run's stages, or of the item, in their order."""
        found: tuple[CallRow, ...] = self._part(Part.CALLS)
        return found

    @property
    def newest(self) -> Plan:
        """The newest definition of the pipeline."""
        found: Plan = self._part(Part.NEWEST)
        return found
