"""Checking histories in memory: see ``store.verification``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stageflow_durable.idempotency.rules import KeyState
from stageflow_durable.model.plan import Plan
from stageflow_durable.store import verification
from stageflow_durable.store.memory.rows import Tables
from stageflow_durable.store.testimony import Keys, Row, Rows
from stageflow_durable.store.values import Checked
from stageflow_durable.store.verification import Heads


def audit(tables: Tables, keys: Keys, run_ids: Sequence[str] | None, heads: Heads) -> list[Checked]:
    """Check the chains of runs (None: of all), and what is left of pruned ones."""
    if run_ids is not None:
        return [_check(tables, keys, run, heads) for run in dict.fromkeys(run_ids)]
    parts = [tables.events, *tables.written.values()]
    every = sorted({run.id for run in tables.runs} | {run for part in parts for run in part.runs() if part.of(run)})
    found = [_check(tables, keys, run, heads) for run in every]
    for stone in sorted(tables.tombstones, key=lambda stone: stone.run):
        wrong = tuple(verification.stone_problems(keys, stone._asdict()))
        found += [Checked(stone.run, 0, wrong)] if wrong else []
    for run in sorted(heads.keys() - set(every)):
        found.append(verification.gone(keys, run, _stone(tables, run), heads[run]))
    return found


def _check(tables: Tables, keys: Keys, run_id: str, heads: Heads) -> Checked:
    run = tables.runs.get(run_id)
    events = [{**row._asdict(), "item": 0} for row in sorted(tables.events.of(run_id), key=lambda row: row.seq)]
    tables_of = (tables.attempts, tables.checkpoints, tables.saga_steps, tables.strands)
    of_people = (tables.signals, tables.approvals, tables.links)
    parts = [[row._asdict() for row in part.of(run_id)] for part in (*tables_of, *of_people)]
    if run is None:
        named = ("attempts", "checkpoints", "saga_steps", "strands", "signals", "approvals", "links")
        left = {f"stageflow_{name}": rows for name, rows in zip(("events", *named), (events, *parts), strict=True)}
        return verification.without_row(keys, run_id, _stone(tables, run_id), left, len(events))
    facts = {"parent_stage": None, "parent_item": None, **run._asdict()}
    done = list(_keys(tables, run_id))
    tried, saved, steps, strands, sent, asked, given = parts
    rows = Rows(facts, _plan(tables, run.definition), done, events, tried, saved, steps, strands, sent, asked, given)
    return verification.checked(keys, rows, heads)


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
