"""What is known of a run when a transition decides, and what happens when that is not enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.roster import Roster
from stageflow_durable.model.status import StepState
from stageflow_durable.model.work import RunFacts
from stageflow_durable.transitions.rows import AttemptRow, HeldKey, OwnerRow, StrandRow


class Part(StrEnum):
    """A part of the facts that is loaded by itself."""

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


class NotLoaded(Exception):
    """A decision needs a part that was not loaded. The store loads it, under the same lock, and lets decide again."""

    def __init__(self, part: Part) -> None:
        super().__init__(part)
        self.part = part


@dataclass(frozen=True, slots=True)
class Facts:
    """A run as it stood when its number was ``run.seq``. ``clock``: the database's, in seconds since the epoch.

    Reading a part that was not loaded raises :class:`NotLoaded`: absence is never taken for a fact.
    """

    run: RunFacts
    plan: Plan
    clock: float
    parts: Mapping[Part, Any] = field(default_factory=dict)

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
        """Whether the lease of the owner who asks holds, by the database's clock."""
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
        """Schemas under which the input and the outputs were saved."""
        found: frozenset[int] = self._part(Part.SCHEMAS)
        return found

    @property
    def roster(self) -> Roster:
        """What the live workers know and serve."""
        found: Roster = self._part(Part.ROSTER)
        return found

    @property
    def newest(self) -> Plan:
        """The newest definition of the pipeline."""
        found: Plan = self._part(Part.NEWEST)
        return found
