"""Reading the items of a run, some at a time, for ``store.verified_items``, which checks them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, and_, func, select

from stageflow_durable.state.tables import attempts, calls, checkpoints, events, item_groups, items, saga_steps, strands
from stageflow_durable.store import verified_items
from stageflow_durable.store.testimony import Keys, Row, Rows
from stageflow_durable.store.verification import OfItems

BATCH = 500
"""Items that are read at once, with all their rows."""

_PARTS = (events, attempts, checkpoints, saga_steps, strands, calls)


def inputs(connection: Connection, run_id: str) -> dict[str, str]:
    """What was given to the items of each stage, as the text of which their opening has a code."""
    rows = select(items.c.stage, items.c.input).where(items.c.run == run_id).order_by(items.c.item)
    return verified_items.inputs((stage, given) for stage, given in connection.execute(rows))


def check(connection: Connection, seen: Rows, keys: Keys) -> OfItems:
    """Check every item of a run. ``seen``: the run's own rows."""
    checker, run = verified_items.checker_of(seen, keys), seen.run
    if checker is None:
        return OfItems()
    for first in range(1, run["item_count"] + 1, BATCH):
        numbers = range(first, min(first + BATCH, run["item_count"] + 1))
        rows = {table: _by_item(connection, table, run["id"], numbers) for table in (items, *_PARTS)}
        for number in numbers:
            of_item = verified_items.Parts(*(rows[table].get(number, []) for table in _PARTS))
            checker.check(number, next(iter(rows[items].get(number, ())), None), of_item)
    groups = connection.execute(select(item_groups).where(item_groups.c.run == run["id"])).mappings()
    return checker.finish(groups, _beyond_last(connection, run["id"], run["item_count"]))


def _by_item(connection: Connection, table: Any, run_id: str, numbers: range) -> dict[int, list[Row]]:
    grouped: dict[int, list[Row]] = {}
    these = and_(table.c.run == run_id, table.c.item >= numbers[0], table.c.item <= numbers[-1])
    for row in connection.execute(select(table).where(these).order_by(*table.primary_key.columns)).mappings():
        grouped.setdefault(row["item"], []).append(row)
    return grouped


def _beyond_last(connection: Connection, run_id: str, last: int) -> dict[str, int]:
    """How many rows there are of items that the run has not got, by table."""
    return {
        table.name: connection.execute(
            select(func.count()).where(and_(table.c.run == run_id, table.c.item > last))
        ).scalar_one()
        for table in (items, *_PARTS)
    }
