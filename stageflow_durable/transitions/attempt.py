"""Who takes an attempt, and why one did not end well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import AttemptState


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who takes work: the owner's id, the plans that this process can run by pipeline, and how long a body may act
    (seconds).
    """

    owner: str
    plans: Mapping[str, Plan]
    timeouts: Mapping[tuple[str, str], float]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt did not end well.

    ``doubt``: it may have acted without our knowing. ``vouched``: nothing happened, in this attempt and those before.
    ``called``: its body began at all.
    """

    error: str
    category: str
    doubt: bool
    state: AttemptState = AttemptState.FAILED
    vouched: bool = False
    called: bool = True


Kept = tuple[tuple[str, dict[str, object]], ...]
"""Events that the body asked for: type and data."""
