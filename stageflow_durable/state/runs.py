"""Creating runs, and finding those that have their keys already."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, and_, bindparam, select

from stageflow_durable.codec import as_stored, differing_texts
from stageflow_durable.errors import IdempotencyParamMismatch, RunBusy
from stageflow_durable.state import apply
from stageflow_durable.state.clock import now
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import runs, tombstones
from stageflow_durable.store.values import Created
from stageflow_durable.transitions.accept import NewRun, accept
from stageflow_durable.transitions.change import Change


def _with_key(table: Table) -> ColumnElement[bool]:
    return and_(*(table.c[name] == bindparam(name) for name in apply.KEY))


_BY_KEY = Prepared(select(runs.c.id, runs.c.fingerprint, runs.c.input).where(_with_key(runs)))
_BURIED = Prepared(select(tombstones.c.run, tombstones.c.fingerprint).where(_with_key(tombstones)))
_CLOCK = Prepared(select(now()))


def create(connection: Connection, new: NewRun, audit_key: bytes, *, hints: bool = False) -> Created:
    """Record a run, or find the one that has its key. Raises IdempotencyParamMismatch for other parameters."""
    change = accept(new, float(_CLOCK.value(connection)))
    return created(apply.create(connection, change, audit_key, hints=hints)) or existing(connection, new)


def created(change: Change | None) -> Created | None:
    """What became of a new run; None: its key is taken."""
    return None if change is None else Created(change.facts.run.id, False, change.nudges)


def existing(connection: Connection, new: NewRun) -> Created:
    """The run that has the key. Raises IdempotencyParamMismatch for other parameters."""
    found = next(iter(_BY_KEY.rows(connection, **_key_of(new))), None)
    if found is None:
        return _buried(connection, new)
    if found.fingerprint != as_stored(new.fingerprint, found.fingerprint):
        fields = differing_texts(found.input, new.input)
        raise IdempotencyParamMismatch(str(new.key), fields, run_id=found.id)
    return Created(found.id, True)


def _buried(connection: Connection, new: NewRun) -> Created:
    """The run that had the key and was pruned; what differs cannot be told any more."""
    found = next(iter(_BURIED.rows(connection, **_key_of(new))), None)
    if found is None:
        raise RunBusy(f"the run of key {new.key!r} is just being pruned; enqueue again")
    if found.fingerprint != as_stored(new.fingerprint, found.fingerprint):
        raise IdempotencyParamMismatch(str(new.key), (), run_id=found.run)
    return Created(found.run, True)


def _key_of(new: NewRun) -> dict[str, Any]:
    return dict(zip(apply.KEY, (new.client_id, new.plan.pipeline, new.key), strict=True))
