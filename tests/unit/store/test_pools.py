"""Slots of limits, counted for people."""

from __future__ import annotations

from stageflow_durable.store.pools import MOST_HOLDERS, pools_of
from stageflow_durable.store.values import Pooled
from stageflow_durable.transitions.rows import SlotRow


def slot(
    name: str, run: str, attempt: int, *, key: str = "", since: float = 0.0, until: float | None = None
) -> SlotRow:
    return SlotRow(name, key, run, "s", "charge", attempt, 1, None, 0, since, until=until)


def test_those_that_most_wait_for_come_first_with_who_holds_them() -> None:
    rows = [slot("bank", "A", 1), slot("bank", "B", 0, since=9.0), slot("bank", "C", 0, since=7.0)]
    rows += [slot("mail", "D", 2, key="web", until=99.0)]
    assert pools_of({"bank": 1, "idle": 3}, rows) == [
        Pooled("bank", "", 1, 1, (("A", "charge", False),), 2, 7.0),
        Pooled("mail", "web", None, 1, (("D", "charge", True),), 0, None),
        Pooled("idle", "", 3, 0, (), 0, None),
    ]


def test_some_of_many_holders_are_named() -> None:
    (pool,) = pools_of({"bank": 99}, [slot("bank", f"{number:03}", 1) for number in range(40)])
    assert (pool.held, len(pool.holders), pool.holders[0][0]) == (40, MOST_HOLDERS, "000")
