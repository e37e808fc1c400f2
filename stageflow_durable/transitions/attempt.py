"""Who begins an attempt, and why one failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import AttemptState


@dataclass(frozen=True, slots=True)
class Claimant:
    """The owner that asks to begin work: its id, the plans that its process can run, by pipeline, and the time limits
    of bodies in seconds, by pipeline and stage.
    """

    owner: str
    plans: Mapping[str, Plan]
    timeouts: Mapping[tuple[str, str], float]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed.

    ``doubt``: it may have had an effect that we do not know of. ``vouched``: the body said that neither this attempt
    nor an earlier one had an effect. ``called``: whether the body was called.
    """

    error: str
    category: str
    doubt: bool
    state: AttemptState = AttemptState.FAILED
    vouched: bool = False
    called: bool = True


Kept = tuple[tuple[str, dict[str, object]], ...]
"""Events that the body asked for: type and data."""
