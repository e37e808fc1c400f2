"""Checking histories in memory: see ``store.verification``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from stageflow_durable.idempotency.rules import KeyState
from stageflow_durable.model.plan import Plan
from stageflow_durable.store import verification, verified_items
from stageflow_durable.store.memory.rows import ItemRecord, Parts, Tables
from stageflow_durable.store.testimony import Keys, Row, Rows
from stageflow_durable.store.values import Checked
from stageflow_durable.store.verification import Heads, OfItems


def audit(tables: Tables, keys: Keys, run_ids: Sequence[str] | None, heads: Heads) -> list[Checked]:
    """Check the chains of runs (None: of all), and what is left of pruned ones."""
    if run_ids is not None:
        return [_check(tables, keys, run, heads) for run in dict.fromkeys(run_ids)]
    parts = [tables.events, *tables.written.values()]
    every = sorted({run.id for run in tables.runs} | {run for part in parts for run in part.runs() if part.every(run)})
    found = [_check(tables, keys, run, heads) for run in every]
    for stone in sorted(tables.tombstones, key=lambda stone: stone.run):
        wrong = tuple(verification.stone_problems(keys, stone._asdict()))
        found += [Checked(stone.run, 0, wrong)] if wrong else []
    for run in sorted(heads.keys() - set(every)):
        found.append(verification.gone(keys, run, _stone(tables, run), heads[run]))
    return found


def _check(tables: Tables, keys: Keys, run_id: str, heads: Heads) -> Checked:
    run = tables.runs.get(run_id)
    # Of a run that has opened none, rows of items are somebody else's, and strange among its own.
    own = run is not None and run.item_count > 0
    parts = [_rows(part.of(run_id) if own else part.every(run_id)) for part in (*_parts(tables), *_of_people(tables))]
    if run is None:
        left = {f"stageflow_{name}": rows for name, rows in zip(_NAMED, parts, strict=True)}
        return verification.without_row(keys, run_id, _stone(tables, run_id), left, len(parts[0]))
    facts = {"parent_stage": None, "parent_item": None, **run._asdict()}
    given = verified_items.inputs((row.stage, row.input) for row in items_of(tables, run_id))
    plan, done = _plan(tables, run.definition), list(_keys(tables, run_id))
    rows = Rows(facts, plan, done, *parts, given)  # type: ignore[call-arg, arg-type]  # in the order of _NAMED
    return verification.checked(keys, rows, heads, check_items(tables, rows, keys))


_NAMED = ("events", "attempts", "checkpoints", "saga_steps", "strands", "calls", "signals", "approvals", "links")


def _parts(tables: Tables) -> tuple[Parts[Any], ...]:
    """Tables of what a run and each of its items have, in the order of ``verified_items.Parts``."""
    return tables.events, tables.attempts, tables.checkpoints, tables.saga_steps, tables.strands, tables.calls


def _of_people(tables: Tables) -> tuple[Parts[Any], ...]:
    return tables.signals, tables.approvals, tables.links


def _rows(rows: Iterable[Any]) -> list[Row]:
    """Rows as they are compared; events in the order of their numbers."""
    return sorted((row._asdict() for row in rows), key=lambda row: (row.get("item", 0), row.get("seq", 0)))


def items_of(tables: Tables, run_id: str) -> list[ItemRecord]:
    """The items of a run, in the order of their numbers."""
    return sorted(tables.items.of(run_id), key=lambda row: row.item)


def check_items(tables: Tables, seen: Rows, keys: Keys) -> OfItems:
    """Check every item of a run. ``seen``: the run's own rows."""
    checker, run_id, last = verified_items.checker_of(seen, keys), seen.run["id"], seen.run["item_count"]
    if checker is None:
        return OfItems()
    there = {row.item: row._asdict() for row in tables.items.of(run_id)}
    for number in range(1, last + 1):
        of_item = verified_items.Parts(*(_rows(part.of(run_id, number)) for part in _parts(tables)))
        checker.check(number, there.get(number), of_item)
    beyond = {
        f"stageflow_{name}": _beyond(part.every(run_id), last)
        for name, part in zip(_NAMED, _parts(tables), strict=False)
    }
    beyond["stageflow_items"] = _beyond(tables.items.of(run_id), last)
    return checker.finish((row._asdict() for row in tables.item_groups.of(run_id)), beyond)


def _beyond(rows: Iterable[Any], last: int) -> int:
    return sum(row.item > last for row in rows)


def _stone(tables: Tables, run: str) -> Row | None:
    stone = tables.tombstones.get(run)
    return None if stone is None else stone._asdict()


def _plan(tables: Tables, digest: str) -> Plan | None:
    row = tables.definitions.get(digest)
    return None if row is None else verification.plan_stored(row.digest, row.pipeline, row.version, row.body)


def _keys(tables: Tables, run: str) -> Iterator[Mapping[str, Any]]:
    """Business keys that stages of the run finished."""
    for (_client, _operation, key), row in tables.keys.items():
        record = row.record
        if record.state is KeyState.DONE and record.holder is not None and record.holder.run_id == run:
            yield {
                "owner_stage": record.holder.stage,
                "key": key,
                "result": record.result,
                "result_schema": record.result_schema,
            }
