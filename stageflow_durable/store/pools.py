"""Rows of slots, counted for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stageflow_durable.store.values import Pooled

MOST_HOLDERS = 10
"""Holders that are named of one pool."""


def pools_of(amounts: Mapping[str, int], rows: Iterable[Any]) -> list[Pooled]:
    """Rows by limit and key, those that most wait for first. ``amounts``: how many slots each key of a limit has."""
    by_pool: dict[tuple[str, str], list[Any]] = {}
    for row in rows:
        by_pool.setdefault((row.name, row.key), []).append(row)
    for name in amounts.keys() - {name for name, _key in by_pool}:
        by_pool[name, ""] = []
    pools = [_pool(name, key, amounts.get(name), found) for (name, key), found in by_pool.items()]
    return sorted(pools, key=lambda pool: (-pool.waiting, -pool.held, pool.name, pool.key))


def _pool(name: str, key: str, amount: int | None, rows: list[Any]) -> Pooled:
    held = sorted((row for row in rows if row.attempt), key=lambda row: (row.run, row.stage))
    waiting = [row.since for row in rows if not row.attempt]
    holders = tuple((row.run, row.stage, row.until is not None) for row in held[:MOST_HOLDERS])
    return Pooled(name, key, amount, len(held), holders, len(waiting), min(waiting, default=None))
