"""Creating runs: the run's row is the record of the request, its strands are the outbox."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Table, and_, bindparam, delete, insert, select

from stageflow_durable.codec import as_stored, differing_texts, encode
from stageflow_durable.errors import IdempotencyParamMismatch, RunBusy
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import Phase, RunStatus, StrandState
from stageflow_durable.model.work import Hint, Nudge
from stageflow_durable.state.audit import GENESIS, EventRow, seal
from stageflow_durable.state.clock import now
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import events, runs, strands, tombstones
from stageflow_durable.state.vouched import AUDIT, RUN, given_code


class NewRun(NamedTuple):  # a tuple: there may be a thousand of each in one call
    """A run to be. ``input`` and ``metadata`` are encoded text; ``deadline`` in seconds since the epoch; ``repeats``:
    its id is the caller's, and may be there from a call before.
    """

    id: str
    client_id: str
    plan: Plan
    key: str | None
    fingerprint: str
    input: str
    metadata: str
    queue: str
    priority: int | None = None
    deadline: float | None = None
    repeats: bool = False


class Created(NamedTuple):
    """The run of a request: a new one with its nudges, or the one that has the key already."""

    run_id: str
    replayed: bool
    nudges: tuple[Nudge, ...] = ()


def _with_key(table: Table) -> ColumnElement[bool]:
    return and_(
        table.c.client_id == bindparam("client"),
        table.c.pipeline == bindparam("of"),
        table.c.key == bindparam("by_key"),
    )


_BY_KEY = Prepared(select(runs.c.id, runs.c.fingerprint, runs.c.input).where(_with_key(runs)))
_BURIED = Prepared(select(tombstones.c.run, tombstones.c.fingerprint).where(_with_key(tombstones)))
_INSERT_RUN = Prepared(
    lambda dialect: (
        dialect.insert(runs)
        .on_conflict_do_nothing(index_elements=["client_id", "pipeline", "key"])
        .returning(runs.c.id)
    )
)
_DELETE_RUN = Prepared(delete(runs).where(runs.c.id == bindparam("run_id")))
_INSERT_STRANDS, _INSERT_EVENT, _CLOCK = Prepared(insert(strands)), Prepared(insert(events)), Prepared(select(now()))


def create(connection: Connection, new: NewRun, audit_key: bytes) -> Created:
    """Record a run, or find the one that has its key. Raises IdempotencyParamMismatch for other parameters."""
    clock = float(_CLOCK.value(connection))
    event = accepted(new, clock, audit_key)
    if not insert_run(connection, new, clock, event):
        return existing(connection, new)
    _INSERT_STRANDS.many(connection, strands_of(new, clock))
    _INSERT_EVENT.run(connection, **event._asdict())
    return Created(new.id, False, first_nudges(new))


def insert_run(connection: Connection, new: NewRun, clock: float, event: EventRow, **columns: Any) -> bool:
    """Insert the row, with ``columns`` other than a fresh run's. False: its key is taken, by a run or by what pruning
    left of one.
    """
    if _INSERT_RUN.value(connection, **{**columns_of(new, clock, event), **columns}) is None:
        return False
    if new.key is None or _tombstone(connection, new) is None:
        return True
    # Looked up afterwards: while the insertion waited for a deletion of the same key, the tombstone came.
    _DELETE_RUN.run(connection, run_id=new.id)
    return False


def _tombstone(connection: Connection, new: NewRun) -> Any:
    return next(iter(_BURIED.rows(connection, **_key_of(new))), None)


def _key_of(new: NewRun) -> dict[str, str | None]:
    return {"client": new.client_id, "of": new.plan.pipeline, "by_key": new.key}


def accepted(new: NewRun, clock: float, audit_key: bytes, *, input_schema: int | None = None) -> EventRow:
    """The first event of a run. ``input_schema``: of its input, where that is not its plan's."""
    data = _accepted(new.plan.pipeline, new.plan.version, new.client_id, new.key)
    if audit_key:
        data = f"{data[:-1]}{_given(new, audit_key, input_schema)}}}}}}}"
    return seal(audit_key, new.id, 1, "run.accepted", clock, data, GENESIS)


@lru_cache(maxsize=64)
def _accepted(pipeline: str, version: str, client_id: str, key: str | None) -> str:
    return encode({"pipeline": pipeline, "version": version, "client_id": client_id, "key": key})


def _given(new: NewRun, audit_key: bytes, input_schema: int | None) -> str:
    """What the event says of the run's row, as JSON that is still open; put together by hand, for there may be a
    thousand of them in one call.
    """
    deadline = "" if new.deadline is None else f',"deadline":{new.deadline!r}'
    plan, schema = new.plan, new.plan.schema if input_schema is None else input_schema
    # In the order of GIVEN.
    values = (new.client_id, plan.pipeline, new.key, new.fingerprint, new.input, schema, new.metadata, new.queue)
    given = given_code(audit_key, new.id, (*values, new.priority))
    return f',"{AUDIT}":{{"{RUN}":{{"given":"{given}","definition":"{plan.digest}"{deadline}'


def columns_of(new: NewRun, clock: float, event: EventRow) -> dict[str, Any]:
    """The row of a fresh run."""
    return {
        "id": new.id,
        "client_id": new.client_id,
        "pipeline": new.plan.pipeline,
        "version": new.plan.version,
        "key": new.key,
        "fingerprint": new.fingerprint,
        "definition": new.plan.digest,
        "input": new.input,
        "input_schema": new.plan.schema,
        "metadata": new.metadata,
        "queue": new.queue,
        "priority": new.priority,
        "phase": Phase.FORWARD,
        "status": RunStatus.PENDING,
        "deadline": new.deadline,
        "seq": event.seq,
        "head": event.mac,
        "created_at": clock,
        "updated_at": clock,
    }


def strands_of(new: NewRun, clock: float, heads: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
    """The strands that a fresh run starts with, each to be published at once. ``heads``: the stages at which they
    stand; None: those that wait for nothing.
    """
    return [
        {
            "run": new.id,
            "strand": root,
            "direction": Phase.FORWARD,
            "stage": root,
            "state": StrandState.READY,
            "published_at": clock,
            "queue": queue_of(new, root),
        }
        for root in (new.plan.roots if heads is None else heads)
    ]


def first_nudges(new: NewRun, head: str | None = None) -> tuple[Nudge, ...]:
    """The messages of a fresh run: one for each strand that starts at once. ``head``: of its first event, to be hinted
    at where there is one strand only: the others' hints would be out of date once it begins.
    """
    plan, roots = new.plan, new.plan.roots
    hint = None if head is None or len(roots) > 1 else Hint(1, head, plan.digest, roots[0])
    return tuple(
        [
            Nudge(new.id, root, 0, queue_of(new, root), 1, plan.remaining_on_strand(root), new.priority, hint)
            for root in roots
        ]
    )


def queue_of(new: NewRun, stage: str) -> str:
    """The queue of a stage: its own, or the run's."""
    return new.plan.by_name[stage].queue or new.queue


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
    found = _tombstone(connection, new)
    if found is None:
        raise RunBusy(f"the run of key {new.key!r} is just being pruned; enqueue again")
    if found.fingerprint != as_stored(new.fingerprint, found.fingerprint):
        raise IdempotencyParamMismatch(str(new.key), (), run_id=found.run)
    return Created(found.run, True)
