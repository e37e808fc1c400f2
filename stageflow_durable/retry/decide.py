"""What follows from a failed attempt: try again in so many seconds, or give up, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.retry.backoff import Draw, delay
from stageflow_durable.retry.table import Category


class GiveUpReason(StrEnum):
    """Why there is no further attempt. ``bug`` parks the run for a person; else the stage has failed for good."""

    BUG = "bug"
    PERMANENT = "permanent"
    POLICY = "policy"
    UNKNOWN = "unknown"
    ATTEMPTS = "attempts"
    """``max_attempts`` are used up: exhausted."""
    TIME = "time"
    """The next attempt would not begin within ``retry_for``: exhausted."""


@dataclass(frozen=True, slots=True)
class RetryAt:
    """Try again ``delay`` seconds from now.

    ``drawn`` is what the policy alone chose, without a Retry-After: the next call's ``previous_delay``.
    """

    delay: float
    drawn: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not try again."""

    reason: GiveUpReason

    @property
    def exhausted(self) -> bool:
        """Whether the policy's patience ended it (the event ``work.retry_exhausted``), not the kind of the error."""
        return self.reason in (GiveUpReason.ATTEMPTS, GiveUpReason.TIME)


Decision: TypeAlias = RetryAt | GiveUp


def decide(
    policy: RetryPolicy,
    *,
    n: int,
    previous_delay: float | None,
    category: Category,
    retry_after: float | None,
    elapsed: float,
    draw: Draw,
) -> Decision:
    """Decide after the ``n``-th attempt (from 1) failed with an error of ``category``. Pure.

    previous_delay  the ``drawn`` of the decision before, None at first
    retry_after     seconds that the remote asked for (``parse_retry_after``), or None: a lower bound of the delay; it
                    may exceed ``max_delay``, as an earlier attempt would be refused anyway, but not ``retry_for``
    elapsed         seconds since the first attempt began
    """
    hopeless = _hopeless(policy, category)
    if hopeless is not None:
        return GiveUp(hopeless)
    if n >= policy.max_attempts:
        return GiveUp(GiveUpReason.ATTEMPTS)
    drawn = delay(policy, n, previous_delay, draw)
    wait = max(drawn, retry_after or 0.0)
    if policy.retry_for is not None and elapsed + wait >= policy.retry_for:
        return GiveUp(GiveUpReason.TIME)
    return RetryAt(wait, drawn)


def _hopeless(policy: RetryPolicy, category: Category) -> GiveUpReason | None:
    if category is Category.UNKNOWN and policy.retry_unknown:
        return None
    return _HOPELESS.get(category)


_HOPELESS = {
    Category.BUG: GiveUpReason.BUG,
    Category.PERMANENT: GiveUpReason.PERMANENT,
    Category.POLICY: GiveUpReason.POLICY,
    Category.UNKNOWN: GiveUpReason.UNKNOWN,
}
