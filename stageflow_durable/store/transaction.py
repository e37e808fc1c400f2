"""One transaction of a store, as the verbs in ``carrying`` and ``base`` use it: lock a run and load its facts, let a
transition decide, write what it decided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from stageflow_durable.idempotency.store import RunAnswer
from stageflow_durable.model.attributes import Attributes
from stageflow_durable.model.limits import PoolId, Wanted
from stageflow_durable.model.work import Work
from stageflow_durable.store.values import BusinessKey, LimitWord
from stageflow_durable.transitions.accept import NewRun
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.facts import Facts, NotLoaded, Part
from stageflow_durable.transitions.rows import SlotRow

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

    def lock_item(self, run_id: str, strand: str, item: int) -> Facts | None:
        """Lock the group of an item's strand until the transaction ends, and load the item's facts; None if there is
        no such item.
        """

    def load(self, facts: Facts, part: Part, me: str, wanted: tuple[Wanted, ...] = ()) -> Facts:
        """The facts, of a run or of an item, with one part more. ``wanted``: slots that are asked for;
        to load slots is to lock their pools.
        """

    def apply(self, change: Change) -> Change:
        """Write a change of a locked run, or of an item whose group is locked; returns it with the new head."""

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

    def tend(self, pool: PoolId) -> tuple[SlotRow, ...]:
        """Lock a pool, free the slots of what cannot act any more, and offer what is free; returns whom to wake."""

    def say_of_limit(self, word: LimitWord) -> list[PoolId] | None:
        """Write what a person says of a limit; returns the pools that it is about, None where nothing has the name."""

    def problems(self, run_id: str, *, unsealed: bool = False) -> list[str]:
        """What the audit finds wrong with a locked run. ``unsealed``: codes that were made without a key count too."""

    def erase(self, run_id: str, seq: int) -> None:
        """Erase the values in the rows and in the history of a locked run, whose row a change has erased already.
        ``seq``: the number of the event that says so, which stays as it is.
        """

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
            facts = transaction.load(facts, missing.part, me, missing.wanted)
        else:
            return transaction.apply(decided) if isinstance(decided, Change) else decided  # type: ignore[return-value]  # a change for a change


def transact_item(
    transaction: Transaction,
    place: tuple[str, str, int],
    decide: Callable[[Facts, Facts | None], T],
    *,
    whole: bool,
    me: str = "",
) -> T | None:
    """Load the facts of an item under the lock of its group, let a transition decide, and apply the change. The run's
    lock is not taken: a transition that has to move the run is begun anew with that and those of all its groups.

    :param place: run, strand and item.
    :param whole: under the lock of its run and of all groups, with the facts of the run as the second argument of
        ``decide``, which is else None.
    :returns: what ``decide`` returned; None if there is no such item. Raises NotLoaded(Part.RUN) if ``decide`` needs
        the run's facts and has not got them: then nothing was written.
    """
    run = transaction.lock(place[0], (Part.STRANDS, Part.GROUPS), me) if whole else None
    if whole and run is None:
        return None
    facts = transaction.lock_item(*place)
    if facts is None:
        return None
    while True:
        try:
            decided = decide(facts, run)
        except NotLoaded as missing:
            if missing.part is Part.RUN and not whole:
                raise
            # Which of the two asked is not told: both get it.
            facts = _with(transaction, facts, missing.part, me)
            run = None if run is None else _with(transaction, run, missing.part, me)
        else:
            return transaction.apply(decided) if isinstance(decided, Change) else decided  # type: ignore[return-value]  # a change for a change


def _with(transaction: Transaction, facts: Facts, part: Part, me: str) -> Facts:
    return facts if part in facts.parts else transaction.load(facts, part, me)
