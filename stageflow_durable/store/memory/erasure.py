"""Erasing the values of a run: of its rows what ``store.erasure`` lists, of its history what that does not keep."""

from __future__ import annotations

from stageflow_durable.store.erasure import BLANK, DELETED, without_values
from stageflow_durable.store.memory import audit, keys
from stageflow_durable.store.memory.rows import Tables
from stageflow_durable.store.testimony import Keys


def problems(tables: Tables, audit_keys: Keys, run_id: str) -> list[str]:
    """What the audit finds wrong with the run now."""
    (checked,) = audit.audit(tables, audit_keys, [run_id], {})
    return list(checked.problems)


def erase(tables: Tables, audit_key: bytes, run_id: str, seq: int) -> None:
    """Erase the values of a run. ``seq``: the number of the event that says so, which stays as it is."""
    by_name = {"items": tables.items, **{table.value: rows for table, rows in tables.written.items()}}
    for name, blank in BLANK.items():
        rows = by_name[name]
        for key, row in rows.with_keys(run_id):
            rows.put(key, row._replace(**blank))
    for name in DELETED:
        by_name[name].forget(run_id)
    keys.erase(tables, run_id)
    for event in tables.events.every(run_id):
        if event.item or event.seq < seq:
            said = event._replace(data=without_values(audit_key, event._asdict()))
            tables.events.put((run_id, event.item, event.seq), said)
