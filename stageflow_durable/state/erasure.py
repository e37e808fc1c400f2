"""Erasing the values of a run: of its rows what ``store.erasure`` lists, of its history what that does not keep. Called
under the run's lock, in the transaction that notes who asked for it. The run's own row is written by ``apply``.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, select, update

from stageflow_durable.state import idempotency_keys, verification
from stageflow_durable.state.tables import (
    approvals,
    attempts,
    attributes,
    calls,
    checkpoints,
    events,
    items,
    saga_steps,
    signals,
    strands,
)
from stageflow_durable.store.erasure import BLANK, DELETED, without_values
from stageflow_durable.store.testimony import Keys

_TABLES = {
    "strands": strands,
    "attempts": attempts,
    "checkpoints": checkpoints,
    "saga_steps": saga_steps,
    "signals": signals,
    "approvals": approvals,
    "items": items,
}
assert (_TABLES.keys(), {"attributes", "calls"}) == (BLANK.keys(), {*DELETED})

BATCH = 1000
"""Events that are held in memory at once: a run of ten thousand items has a hundred thousand."""

_SAID = update(events).where(
    and_(
        events.c.run == bindparam("of_run"), events.c.item == bindparam("of_item"), events.c.seq == bindparam("of_seq")
    )
)


def problems(connection: Connection, keys: Keys, run_id: str) -> list[str]:
    """What the audit finds wrong with the run now."""
    (checked,) = verification.Checker(keys, {}).of(connection, [run_id])
    return list(checked.problems)


def erase(connection: Connection, audit_key: bytes, run_id: str, seq: int) -> None:
    """Erase the values of a run. ``seq``: the number of the event that says so, which stays as it is."""
    for name, table in _TABLES.items():
        connection.execute(update(table).where(table.c.run == run_id).values(BLANK[name]))
    for table in (attributes, calls):
        connection.execute(delete(table).where(table.c.run == run_id))
    idempotency_keys.erase_for_run(connection, run_id)
    after = (-1, 0)
    while batch := _batch(connection, run_id, after):
        after = batch[-1]["item"], batch[-1]["seq"]
        # The run's chain goes on after its items': what its items did is erased whole.
        told = [event for event in batch if event["item"] or event["seq"] < seq]
        said = [
            {"of_run": run_id, "of_item": e["item"], "of_seq": e["seq"], "data": without_values(audit_key, e)}
            for e in told
        ]
        if said:
            connection.execute(_SAID, said)


def _batch(connection: Connection, run_id: str, after: tuple[int, int]) -> list[Any]:
    item, seq = after
    beyond = (events.c.item > item) | and_(events.c.item == item, events.c.seq > seq)
    found = select(events).where(and_(events.c.run == run_id, beyond)).order_by(events.c.item, events.c.seq)
    return list(connection.execute(found.limit(BATCH)).mappings())
