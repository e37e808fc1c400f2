"""The events of a change as rows: each has the code of the one before it. With an audit key, the engine's last event of
a change also says what the change writes to other rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from stageflow_durable.codec import encode
from stageflow_durable.model.work import Nudge
from stageflow_durable.store.audit import EventRow, seal
from stageflow_durable.store.vouched import (
    AUDIT,
    FRESH_ATTEMPT,
    FRESH_RUN,
    GIVEN,
    INPUTS,
    OF_RUN,
    RUN,
    approval_row,
    attempt_row,
    call_row,
    checkpoint_row,
    given_anew,
    given_code,
    inputs_text,
    is_by_body,
    items_row,
    link_row,
    said,
    signal_row,
    step_row,
)
from stageflow_durable.transitions.accept import GENESIS, NewRun, first_said
from stageflow_durable.transitions.change import Change, Event, How, OpenItems, Row, Table

Say: TypeAlias = Callable[[bytes, str, str, Mapping[str, Any]], dict[str, Any]]


def seal_events(change: Change, audit_key: bytes) -> list[EventRow]:
    """The events of ``change`` as rows, chained by their codes."""
    facts = change.facts
    run, at, seq, head = facts.run.id, facts.clock, facts.seq, facts.head
    rows = []
    for event, text in zip(change.events, event_texts(change, audit_key), strict=True):
        seq += 1
        row = seal(audit_key, run, seq, event.type, at, text, head, item=facts.item)
        head = row.mac
        rows.append(row)
    return rows


def with_head(change: Change, head: str, *, hints: bool = False) -> Change:
    """The change with the run's new head, also in the granted attempt and, with ``hints``, in the messages' hints."""
    granted = change.granted and change.granted._replace(head=head)
    nudges = tuple([hinting(nudge, head if hints else None) for nudge in change.nudges])
    return change._replace(granted=granted, nudges=nudges, head=head)


def hinting(nudge: Nudge, head: str | None) -> Nudge:
    """A nudge whose hint has this head; without a hint if ``head`` is None."""
    if nudge.hint is None:
        return nudge
    return nudge._replace(hint=None if head is None else nudge.hint._replace(head=head))


def event_texts(change: Change, audit_key: bytes, say: Say = said) -> list[str]:
    """The data of a change's events as stored. ``say``: turns columns of a row into what events hold of them."""
    return _with_rows(change, audit_key, say) if audit_key else [_text(event) for event in change.events]


def accepted(new: NewRun, at: float, audit_key: bytes) -> EventRow:
    """The first event of a new run, as :func:`seal_events` makes it."""
    plan = new.plan
    # Its text is the same for all runs of a client without a key, so it is encoded once; an actor's is not.
    known = new.actor is None
    text = _accepted(plan.pipeline, plan.version, new.client_id, new.key) if known else encode(first_said(new))
    if audit_key:
        named = (new.client_id, plan.pipeline, new.key, new.fingerprint)
        values = (*named, new.input, plan.schema, new.metadata, new.queue, new.priority)
        text = _with_given(text, audit_key, new.id, values, plan.digest, new.deadline)
    return seal(audit_key, new.id, 1, "run.accepted", at, text, GENESIS)


def _text(event: Event) -> str:
    data = event.data
    if event.type == "stage.begun" and len(data) == len(_BEGUN):
        return _begun(data["stage"], data["attempt"], data["owner"])
    if event.type == "stage.ok" and data.keys() <= _OK_FIELDS:
        then = data.get("then")
        return _ok(data["stage"], data["attempt"], None if then is None else tuple(then.values()))
    return encode(data)


# Their text is the same for every run of a stage and an owner, so it is encoded once.

_BEGUN, _OK_FIELDS = ("stage", "attempt", "owner"), frozenset({"stage", "attempt", "then"})


@lru_cache(maxsize=4096)
def _begun(*values: Any) -> str:
    return encode(dict(zip(_BEGUN, values, strict=True)))


@lru_cache(maxsize=4096)
def _ok(stage: str, attempt: int, then: tuple[Any, ...] | None) -> str:
    data: dict[str, Any] = {"stage": stage, "attempt": attempt}
    return encode(data if then is None else {**data, "then": dict(zip(_BEGUN, then, strict=True))})


@lru_cache(maxsize=64)
def _accepted(pipeline: str, version: str, client_id: str, key: str | None) -> str:
    return encode({"pipeline": pipeline, "version": version, "client_id": client_id, "key": key})


# --- what events say of other rows ------------------------------------------------------------------------------------


def _with_rows(change: Change, audit_key: bytes, say: Say) -> list[str]:
    ours = [place for place, event in enumerate(change.events) if not is_by_body(event.data)]
    told = [event.data for event in change.events]
    for place in ours:
        told[place] = {**told[place], AUDIT: _written(change, audit_key, say) if place == ours[-1] else {}}
    texts = [encode(data) for data in told]
    if change.new:
        run = change.facts.run
        given = [getattr(run, name) for name in GIVEN]
        first = encode(change.events[0].data)
        texts[0] = _with_given(first, audit_key, run.id, given, run.definition, run.deadline)
    return texts


def _with_given(
    text: str, audit_key: bytes, run_id: str, given: Sequence[Any], definition: str, deadline: float | None
) -> str:
    """The first event's text with what it says of the run's row. Built by hand for speed: one call may have a thousand.
    ``given``: in the order of ``GIVEN``.
    """
    late = "" if deadline is None else f',"deadline":{deadline!r}'
    code = given_code(audit_key, run_id, given)
    return f'{text[:-1]},"{AUDIT}":{{"{RUN}":{{"given":"{code}","definition":"{definition}"{late}}}}}}}'


def _written(change: Change, audit_key: bytes, say: Say) -> dict[str, dict[str, Any]]:
    """What the change writes to covered columns, in the form that events hold: see ``vouched``."""
    run = change.facts.run.id
    written: dict[str, dict[str, Any]] = {}
    columns = _beyond_fresh(change) if change.new else change.columns
    of_run = {name: value for name, value in columns.items() if name in OF_RUN}
    of_run |= {} if change.new else given_anew(audit_key, change.facts.run, columns)
    if of_run:
        written[RUN] = of_run
    for row in change.rows:
        if row.table in _NAMED:  # a strand's row says where the run is now, an attribute how it is found
            written[_NAMED[row.table](*row.key)] = _told(row, change.facts.clock)
    for what in change.of_items:
        if isinstance(what, OpenItems):
            written[items_row(what.stage)] = {INPUTS: inputs_text(what.inputs)}
    return {name: say(audit_key, run, name, columns) for name, columns in written.items()}


def _beyond_fresh(change: Change) -> dict[str, Any]:
    """Columns of a new run that differ from a usual new run and that its first event does not already say."""
    said_first = {**FRESH_RUN, "version": change.facts.run.version, "definition": change.facts.run.definition}
    said_first["deadline"] = change.facts.run.deadline
    return {name: value for name, value in change.columns.items() if value != said_first.get(name, value)}


_NAMED: dict[Table, Callable[..., str]] = {
    Table.ATTEMPTS: lambda stage, item, direction, n: attempt_row(direction, n, stage, item),
    Table.CHECKPOINTS: checkpoint_row,
    Table.SAGA_STEPS: step_row,
    Table.SIGNALS: signal_row,
    Table.APPROVALS: approval_row,
    Table.LINKS: link_row,
    Table.CALLS: call_row,
}


def _told(row: Row, at: float) -> dict[str, Any]:
    """The columns of a row that its event has to name; of a new row only those that differ from the usual."""
    if row.table is Table.ATTEMPTS and row.how is How.INSERT:
        return {name: row.columns.get(name) for name, usual in FRESH_ATTEMPT.items() if row.columns.get(name) != usual}
    if row.table is Table.CHECKPOINTS:
        return {name: value for name, value in row.columns.items() if name != "at" or value != at}
    return row.columns
