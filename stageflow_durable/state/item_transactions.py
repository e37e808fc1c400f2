"""Transactions of single items: ``store.transaction.transact`` for one of the items of a stage.

They take the lock of the item's group and not the run's. A transition that has to move the run is begun anew with the
run's lock and those of all its groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection

from stageflow_durable.state import load
from stageflow_durable.state.apply import apply
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.facts import NotLoaded, Part

T = TypeVar("T")


def transact_item(
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
