"""When a service misbehaves, and how: a pure function of a seed, so that a bad minute can be had again."""

from __future__ import annotations

import random
from enum import StrEnum


class Fault(StrEnum):
    """How one request goes wrong."""

    NONE = "served"
    ERROR = "500 before the effect"
    BUSY = "429, Retry-After 1 s"
    SLOW = "slow answer"
    LOST = "answer lost after the effect"


# Cumulative shares: 8 % errors, 3 % busy, 4 % slow, 7 % lost answers, the rest is served.
SHARES = ((0.08, Fault.ERROR), (0.11, Fault.BUSY), (0.15, Fault.SLOW), (0.22, Fault.LOST))

# A retry policy must be able to win: no request for one order meets more faults in a row than this.
MAX_FAULTS = 3

SLOW_SECONDS = 0.4
RETRY_AFTER_SECONDS = 1


def fault_for(seed: int, path: str, order_id: str, visit: int) -> Fault:
    """The fate of the ``visit``-th (from 1) request to ``path`` for that order."""
    if visit > MAX_FAULTS:
        return Fault.NONE
    draw = random.Random(f"{seed}:{path}:{order_id}:{visit}").random()  # noqa: S311  # to be had again, not a secret
    return next((fault for share, fault in SHARES if draw < share), Fault.NONE)
