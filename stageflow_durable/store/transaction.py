"""One transaction of a store, as the verbs in ``carrying`` and ``base`` use it: lock a run and load its facts, let a
transition decide, write what it decided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from stageflow_durable.idempotency.store import RunAnswer
from stageflow_durable.model.attributes import Attributes
from stageflow_durable.model.work import Work
from stageflow_durable.store.values import BusinessKey
from stageflow_durable.transitions.accept import NewRun
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.facts import Facts, NotLoaded, Part

T = TypeVar("T")
G = TypeVar("G")


class Holder(NamedTuple):
    """Who has the key of a new run: a run, or the tombstone of a pruned one (then without ``input``)."""

    run_id: str
    fingerprint: str
    input: str | None = None


class Transaction(Protocol):
    """What is done in one transaction: all of it, or nothing."""

    def clock(self) -> float:
        """The store's time, in seconds since the epoch."""

    def lock(self, run_id: str, needs: Iterable[Part], me: str) -> Facts | None:
        """Lock a run until the transaction ends, and load these parts of its facts; None if there is no such run.
        ``me``: the owner that asks.
        """

    def load(self, facts: Facts, part: Part, me: str) -> Facts:
        """The facts with one part more."""

    def apply(self, change: Change) -> Change:
        """Write a change of a locked run; returns it with the run's new head."""

    def transact_all(self, given: Sequence[tuple[str, G]], decide: Callable[[Facts, G], Change | None]) -> list[Change]:
        """Lock several runs, let ``decide`` change each, and write the changes. Runs that somebody else has locked are
        left out, and so is a second entry for the same run. ``decide`` gets the strands only, may return None, and only
        updates rows.
        """

    def create(self, change: Change, *, hints: bool = False) -> Change | None:
        """Write a new run. None, and nothing written, if its key is taken by a run or a tombstone. ``hints``: whether
        its messages carry hints.
        """

    def holder(self, new: NewRun) -> Holder | None:
        """Who has its key."""

    def checkpoints(self, run_id: str) -> Iterable[Mapping[str, Any]]:
        """The rows of what its stages saved."""

    def attributes(self, run_id: str) -> Attributes:
        """What the run is found by."""

    def ended_at(self, work: Work) -> float | None:
        """When its owner ended the attempt; None if it did not: a sweep would have left it unknown."""

    def claim(self, key: BusinessKey, work: Work) -> RunAnswer:
        """Claim a business key for the stage; what is found is returned, not raised."""

    def owner(self, owner: str) -> Any:
        """An owner's row, or None."""

    def confirm(self, owner: str, by: str, reason: str | None = None) -> bool:
        """Record that the process of a dead owner has ended; False if that was known, or it is not dead."""

    def await_end(self, owner: str) -> None:
        """Record that an undo may have to wait until the end of this owner is confirmed."""


def transact(
    transaction: Transaction,
    run_id: str,
    decide: Callable[[Facts], T],
    *,
    needs: tuple[Part, ...] = (Part.STRANDS,),
    me: str = "",
) -> T | None:
    """Lock a run, load its facts, let a transition decide, and apply the change that it returns.

    :param decide: the transition; it is called again with more facts if some were missing.
    :param needs: the parts of the facts that it always needs; others are loaded when it asks for them.
    :param me: the owner that asks.
    :returns: what ``decide`` returned, a change with the run's new head; None if there is no such run.
    """
    facts = transaction.lock(run_id, needs, me)
    if facts is None:
        return None
    while True:
        try:
            decided = decide(facts)
        except NotLoaded as missing:
            facts = transaction.load(facts, missing.part, me)
        else:
            return transaction.apply(decided) if isinstance(decided, Change) else decided  # type: ignore[return-value]  # a change for a change
