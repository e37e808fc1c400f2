"""Transactions of single items: ``apply.transact`` for one of the items of a stage.

They take the lock of the item's group and not the run's. A transition that has to move the run is begun anew with the
run's lock and those of all its groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection

from stageflow_durable.errors import NotAllowed
from stageflow_durable.model.work import Work
from stageflow_durable.state import load
from stageflow_durable.state.apply import apply, transact
from stageflow_durable.state.database import Database
from stageflow_durable.state.endings import await_ends
from stageflow_durable.state.recovery import Missed, StrandRef
from stageflow_durable.transitions import items
from stageflow_durable.transitions import wake as waking
from stageflow_durable.transitions.attempt import Kept
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.facts import Facts, NotLoaded, Part

T = TypeVar("T")
Decide = Callable[[Any, Any], T]
"""Of the facts of an item, and those of its run or None."""


class Place(NamedTuple):
    """Which item of which strand."""

    run: str
    strand: str
    item: int


class Items:
    """Lets transitions of items decide, each in a transaction of its own."""

    def __init__(self, database: Database, audit_key: bytes) -> None:
        self._database = database
        self._audit = audit_key

    def decide(
        self,
        place: Place,
        decide: Decide[T],
        me: str = "",
        *,
        session: Any = None,
        then: Callable[[Connection, T | None], object] = lambda _connection, _decided: None,
    ) -> T | None:
        """Let a transition decide, and write what it decided; None if there is no such item. ``me``: the owner that
        asks; ``session``: the body's own transaction; ``then``: what else belongs to the transaction.
        """

        def act(connection: Connection, *, whole: bool) -> T | None:
            decided = _transact(connection, *place, decide, self._audit, whole=whole, me=me)
            then(connection, decided)
            return decided

        if session is not None:  # what the body wrote cannot be rolled back to begin anew
            found: T | None = session.commit_with(partial(act, whole=True))
            return found
        try:
            return self._do(partial(act, whole=False))
        except NotLoaded:
            return self._do(partial(act, whole=True))

    def open(self, work: Work, inputs: Sequence[str], *, collects: bool, events: Kept, needs: Any) -> Any:
        """Carry out the stage of an attempt once for each of ``inputs`` (encoded text) instead. ``collects``: whether
        the others go on if one of them fails for good.

        Nothing public leads here yet. Raises NotAllowed for a stage whose items nobody could decide about, if one was
        lost: settling is of stages alone.
        """
        planned = work.plan.by_name[work.stage]
        if planned.pivot or planned.on_unknown == "park":
            why = "a person would have to settle an item of it that was lost, which is not possible yet"
            raise NotAllowed(work.run.id, "open items", f"{work.stage} is a pivot, or parks: {why}")
        opens = partial(items.open_items, work=work, inputs=inputs, collects=collects, events=events)
        return self._do(lambda connection: transact(connection, work.run.id, opens, self._audit, needs=needs))

    def take(self, place: StrandRef, max_lost: int) -> Change | None:
        """Take an item from its dead owner; None if there was nothing to take."""

        def decide(facts: Facts, run: Facts | None) -> Change | None:
            return items.take(facts, place.strand, place.gen, max_lost=max_lost, run=run)

        return self.decide(Place(place.run, place.strand, place.item), decide, then=await_ends)

    def wake(self, places: Sequence[StrandRef]) -> list[Change]:
        """Make due items ready, each by itself; returns the changes."""
        woken = []
        for place in places:
            wake = partial(waking.wake, strand=place.strand, gen=place.gen)
            woken.append(self.decide(Place(place.run, place.strand, place.item), _of_item_alone(wake)))
        return [change for change in woken if change is not None]

    def nudged(self, sent: Sequence[Missed]) -> int:
        """Record that the broker took these messages again; returns how many were still as they were found."""
        noted = 0
        for nudge, published_at, nudges in sent:
            seen: dict[str, Any] = {"gen": nudge.gen, "published_at": published_at, "nudges": nudges}
            note = partial(waking.published_again, strand=nudge.strand, **seen)
            place = Place(nudge.run_id, nudge.strand, nudge.item)
            noted += self.decide(place, _of_item_alone(note)) is not None
        return noted

    def _do(self, action: Callable[[Connection], T]) -> T:
        with self._database.transaction() as connection:
            return action(connection)


def _of_item_alone(decide: Callable[[Facts], Change | None]) -> Decide[Change | None]:
    """A transition that needs nothing of the run."""
    return lambda facts, _run: decide(facts)


def _transact(
    connection: Connection,
    run_id: str,
    strand: str,
    item: int,
    decide: Callable[[Any, Any], T],
    audit_key: bytes,
    *,
    whole: bool,
    me: str = "",
) -> T | None:
    """Load the facts of an item under the lock of its group, let a transition decide, and apply the change.

    ``whole``: under the lock of its run and of all groups, with the facts of the run as the second argument of
    ``decide``, which is else None. Raises NotLoaded(Part.RUN) if ``decide`` needs them and has not got them: then
    nothing was written. None if there is no such item.
    """
    locked = load.lock(connection, run_id) if whole else None
    of_run: dict[Part, Any] = {}
    if whole:
        if locked is None:
            return None
        of_run = {part: load.part(connection, locked.run, part, me) for part in (Part.STRANDS, Part.GROUPS)}
    held = load.lock_item(connection, run_id, strand, item)
    if held is None:
        return None
    parts = dict(held.parts)
    while True:
        run = None if locked is None else load.facts(connection, locked, of_run)
        try:
            decided = decide(load.item_facts(connection, held, parts), run)
        except NotLoaded as missing:
            if missing.part is Part.RUN and not whole:
                raise
            # Which of the two asked is not told: both get it.
            parts.setdefault(missing.part, load.part_of_item(connection, held, missing.part, me))
            if locked is not None:
                of_run.setdefault(missing.part, load.part(connection, locked.run, missing.part, me))
        else:
            return apply(connection, decided, audit_key) if isinstance(decided, Change) else decided  # type: ignore[return-value]  # a change for a change
