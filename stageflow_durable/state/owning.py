"""The store's transactions about owners: leases, deaths, confirmed ends, and what waits for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from sqlalchemy import Connection

from stageflow_durable.model.roster import Profile
from stageflow_durable.state import endings, handed_back, moved, owners
from stageflow_durable.state.owners import Identity
from stageflow_durable.state.reading import Reading

T = TypeVar("T")


class Owning(Reading):
    """Each method is one transaction."""

    def _do(self, action: Callable[[Connection], T]) -> T:
        with self.database.transaction() as connection:
            return action(connection)

    def join(self, identity: Identity, lease_seconds: float, profile: Profile | None = None) -> str:
        """A new owner; ``profile``: what it knows and serves. What others handed back, and it knows, is due now."""
        owner = self._do(lambda c: owners.register(c, identity, lease_seconds, profile))
        # After it has joined: what is handed back from now on finds it in the roster.
        while profile is not None and self._do(lambda c: handed_back.hasten(c, profile)):
            pass
        return owner

    def put_off(self, run_ids: Sequence[str]) -> None:
        """Let what was handed back in these runs rest: no live worker knows it."""
        self._do(lambda c: handed_back.put_off(c, run_ids))

    def renew(self, owner: str, lease_seconds: float) -> float | None:
        """Renew a lease; returns the database's time, or None: declared dead."""
        return self._do(lambda c: owners.renew(c, owner, lease_seconds))

    def served(self, queues: dict[str, float]) -> None:
        """Note up to when the nudges of each queue were served. Apart from the lease, which waits for no row that all
        processes write, and for no mistake in it.
        """
        self._do(lambda c: owners.served(c, queues))

    def freed(self, queues: Iterable[str]) -> None:
        """A worker of these queues has nothing to do."""
        self._do(lambda c: owners.freed(c, queues))

    def move_times(self, by: float, window: float, lease_seconds: float) -> bool:
        """The clock was found to have moved: stored times of what is under way move along, once."""
        return self._do(lambda c: moved.follow(c, by, window, lease_seconds))

    def retire(self, owner: str) -> None:
        """Nothing of it acts any more."""
        self._do(lambda c: owners.retire(c, owner))

    def mark_killed(self, boot: str, pid: int) -> tuple[str, ...]:
        """A process was seen to end."""
        return self._do(lambda c: owners.mark_killed(c, boot, pid))

    def mark_expired(self, slack: float = 0.0) -> tuple[str, ...]:
        """Leases that ran out ``slack`` seconds ago."""
        return self._do(lambda c: owners.mark_expired(c, slack))

    def judge(self, by: str) -> tuple[str, ...]:
        """Leases that ran out, judged by an owner that has renewed for a lease without a gap."""
        return self._do(lambda c: owners.judge(c, by))

    def confirm(self, owner: str, by: str) -> bool:
        """The process of a dead owner was found to have ended."""
        return self._do(lambda c: owners.confirm(c, owner, by))

    def confirm_dead(self, owner: str, reason: str, actor: str) -> None:
        """The same, said by a person. Raises NotAllowed."""
        self._do(lambda c: endings.confirm_by_person(c, owner, reason, actor))

    def released(self, owner: str) -> None:
        """Nothing waits for it any more."""
        self._do(lambda c: owners.released(c, owner))
