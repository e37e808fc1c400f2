"""What every idempotency store promises, and the answers it gives.

```
claim ──► Claimed(fence) ──► body ──► complete(fence, result)     later claims: Done(result)
   │            └─ lease lapses ──► Claimed(fence') for another; complete(fence) is refused: FenceLost
   ├───► InProgress(until)                                         somebody else's lease runs
   └───► Done(result)                                              the body is not run again
```
A claim is one atomic step: of any number of callers at once exactly one gets ``Claimed``. Fences of a key only rise,
over lapsed leases, releases and expired records alike. A lapsed lease means *unknown*: the key stays bound to its
parameters, and who claims it next runs the body again. Answers are envelopes, so that a remembered ``None`` is not an
absent result.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol, TypeAlias, runtime_checkable

from stageflow_durable.codec import decode
from stageflow_durable.errors import FenceLost
from stageflow_durable.idempotency.keys import Scope


@dataclass(frozen=True, slots=True)
class Claimed:
    """The key is yours: run the body, then complete it with this ``fence``."""

    fence: int


@dataclass(frozen=True, slots=True)
class InProgress:
    """Somebody else works under the key.

    ``until`` (UTC, the store's clock) and ``seconds_left`` say when the lease lapses unless it is renewed; both are
    None for a key that an unfinished stage of a run holds: such a key does not lapse. ``owner`` is for people.
    """

    until: datetime | None
    seconds_left: float | None
    fence: int
    owner: str


@dataclass(frozen=True, slots=True)
class Done:
    """The work was done; ``result_text`` is its result as encoded by :mod:`stageflow_durable.codec`. ``schema``: of the
    pipeline, where a stage of a run did it.
    """

    result_text: str
    schema: int = 1

    @property
    def result(self) -> object:
        """The result, decoded anew at each reading: what was given, falsy values included; of an object the dict of its
        fields (``codec.restore`` with its classes makes the object).
        """
        return decode(self.result_text)


@dataclass(frozen=True, slots=True)
class HeldByRun:
    """An unfinished stage of a run holds the key, for as long as it takes."""

    run_id: str
    stage: str
    fence: int


@dataclass(frozen=True, slots=True)
class Undone:
    """The work was done by a run and then compensated; starting over needs a new key."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Erased:
    """The work was done, by that run or by whoever had the lease (None), and its result was erased since."""

    run_id: str | None


ERASED_WHY = "its work was done, and what it gave was erased since; it is not done again: start over with a new key"
"""What is said to whoever comes with such a key."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The key came with other parameters; ``fields`` are the dotted paths that differ, as far as they are known."""

    fields: tuple[str, ...]
    run_id: str | None = None


class Loss(StrEnum):
    """What may be lost under a store. Its attribute ``survives`` says of which of these it remembers all the same."""

    PROCESS = "process"
    """The process that uses it ends."""
    REDIS = "redis"
    """Redis, if there is one, loses all its keys."""


Answer: TypeAlias = Claimed | InProgress | Done
"""What a store's ``claim`` returns."""

Standing: TypeAlias = InProgress | Done | HeldByRun | Undone | Erased | Mismatch
"""What stands in the way of a claim."""

RunAnswer: TypeAlias = Claimed | Standing
"""What a claim for a stage of a run returns; it never raises for what it finds."""


@runtime_checkable
class IdempotencyStore(Protocol):
    """Claims with leases and fences, and remembered results. Every method raises ``StoreUnavailable`` in bounded time
    when the store does not answer, and ``InvalidKey`` for a malformed key. Durations are seconds or timedelta.
    """

    def claim(
        self,
        scope: Scope,
        key: str,
        fingerprint: str,
        *,
        owner: str,
        lease_seconds: float | timedelta,
        ttl_seconds: float | timedelta,
        params_text: str | None = None,
    ) -> Answer:
        """Take the key, or say what became of it.

        :param fingerprint: of the parameters (``codec.fingerprint``); a key stays bound to it until it expires.
        :param owner: who claims, for people; two claims of one owner are still two.
        :param lease_seconds: how long a silent owner keeps the key; positive.
        :param ttl_seconds: how long the key is remembered at least, from now; positive.
        :param params_text: the parameters (``codec.encode``), kept only to name the fields that differ.
        :raises IdempotencyParamMismatch: the key was used with other parameters, finished or in flight.
        :raises IdempotencyConflict: its work was undone.
        :raises ConfigurationError: a duration is not positive.
        :raises RunBusy: in SQL: whoever is writing the key's row takes too long; ask again.
        """

    def renew(self, scope: Scope, key: str, fence: int, *, lease_seconds: float | timedelta) -> None:
        """Hold the key for ``lease_seconds`` more, from now.

        :raises FenceLost: it was taken over, finished, or is gone.
        """

    def complete(self, scope: Scope, key: str, fence: int, result: object, *, ttl_seconds: float | timedelta) -> None:
        """Remember ``result`` for ``ttl_seconds`` from now. Saying it twice with one fence is the same as once.

        :param result: anything that ``codec.encode`` can save.
        :raises FenceLost: the key was taken over or is gone; nothing was written.
        :raises UnsavableValue: the result cannot be saved; the key is still held.
        """

    def release(self, scope: Scope, key: str, fence: int, *, vouched: bool = False) -> None:
        """End the lease now, so that the next claim need not wait for it. Saying it twice is the same as once.

        :param vouched: nothing can have happened: the key is forgotten with its parameters. Otherwise it stays bound
            to them.
        :raises FenceLost: it was taken over, finished, or is gone.
        """

    def forget(self, scope: Scope, key: str) -> None:
        """Erase what is remembered under the key: the result and the parameters. The key stays taken until it expires:
        who comes with it is refused (IdempotencyConflict), and its work is not done again. Nothing happens where there
        is no such key.
        """


def kept(written: bool, key: str, fence: int) -> None:
    """Raise unless an owner's write was accepted.

    :raises FenceLost: naming the key and the fence.
    """
    if not written:
        raise FenceLost(f"idempotency key {key!r}: fence {fence} is no longer the owner's; nothing was written")
