"""What holds after every transaction, whatever happened: the protocol's invariants, checked on the tables.

The numbers are those of ``docs/explanation/protocol.md``. Some speak of one moment (:data:`OF_A_MOMENT`), some of
what changed since the moment before (:data:`OF_A_CHANGE`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Protocol

from sqlalchemy import Connection, Select, Table, literal, select, union

from stageflow_durable.codec import decode
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import (
    OPEN_STEPS,
    RUN_TRANSITIONS,
    STEP_TRANSITIONS,
    AttemptState,
    Phase,
    RunStatus,
    StepState,
    StrandState,
    WaitingFor,
)
from stageflow_durable.model.work import RunFacts
from stageflow_durable.state import tables, verified_items
from stageflow_durable.state.database import Database
from stageflow_durable.store.audit import seal
from stageflow_durable.store.erasure import mark_fits
from stageflow_durable.store.memory import audit as in_memory
from stageflow_durable.store.memory.of_items import groups_of
from stageflow_durable.store.memory.rows import Parts, Tables
from stageflow_durable.store.testimony import Rows, Testimony, problems
from stageflow_durable.store.vouched import inputs_text
from stageflow_durable.transitions.accept import GENESIS
from stageflow_durable.transitions.draft import NO_ITEM
from stageflow_durable.transitions.repair import BY_TIME, REPAIRED

Row = dict[str, Any]
ACTIVE = frozenset({StrandState.READY, StrandState.RUNNING, StrandState.WAITING})
ENDED = frozenset({AttemptState.OK, AttemptState.SKIPPED})


@dataclass(frozen=True, slots=True)
class ItemPicture:
    """Everything the tables say about one item."""

    row: Row
    strands: tuple[Row, ...]
    attempts: tuple[Row, ...]
    checkpoints: tuple[Row, ...]
    steps: tuple[Row, ...]
    events: tuple[Row, ...]


@dataclass(frozen=True)
class Picture:
    """Everything the tables say about one run. What follows from that is found out once."""

    run: Row
    plan: Plan
    owners: frozenset[str]
    strands: tuple[Row, ...]
    attempts: tuple[Row, ...]
    checkpoints: tuple[Row, ...]
    steps: tuple[Row, ...]
    events: tuple[Row, ...]
    signals: tuple[Row, ...]
    approvals: tuple[Row, ...]
    groups: tuple[Row, ...] = ()
    items: tuple[ItemPicture, ...] = ()
    links: tuple[Row, ...] = ()
    calls: tuple[Row, ...] = ()
    of_items: tuple[str, ...] = ()
    """What the audit finds wrong with the items: their chains, what vouches for their rows, what their groups count."""

    @cached_property
    def with_items(self) -> frozenset[str]:
        """Stages that have items, or had none to carry out."""
        opened = (event for event in self.events if event["type"] == "stage.opened")
        return frozenset(decode(event["data"])["stage"] for event in opened)

    @property
    def phase(self) -> Phase:
        return Phase(self.run["phase"])

    @cached_property
    def finished(self) -> frozenset[str]:
        return frozenset(row["stage"] for row in self.checkpoints)

    def heading(self, direction: Phase) -> list[Row]:
        """The strands of one direction."""
        return [row for row in self.strands if row["direction"] == direction]

    def step_states(self) -> Mapping[str, StepState]:
        return self._step_states

    @cached_property
    def _step_states(self) -> Mapping[str, StepState]:
        return {row["stage"]: StepState(row["state"]) for row in self.steps}


class Seen(Protocol):
    """What :class:`Watch` looks at: the rows of a store, past the engine."""

    def pictures(self, audit_key: bytes = b"") -> dict[str, Picture]:
        """A picture of each run, by id. ``audit_key``: with what the items' chains are checked."""

    def strays(self) -> list[str]:
        """What is there of runs that are not there."""

    def pruned(self) -> set[str]:
        """Runs of which a tombstone is left."""


class SeenInSql:
    """The rows of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def pictures(self, audit_key: bytes = b"") -> dict[str, Picture]:
        with self._database.read() as connection:
            return pictures(connection, audit_key)

    def strays(self) -> list[str]:
        with self._database.read() as connection:
            return list(rows_of_no_run(connection))

    def pruned(self) -> set[str]:
        with self._database.read() as connection:
            return set(connection.execute(_PRUNED).scalars())


class SeenInMemory:
    """The rows of a store in memory."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def pictures(self, audit_key: bytes = b"") -> dict[str, Picture]:
        return {run.id: self._picture(run, audit_key) for run in self._tables.runs}

    def _picture(self, run: RunFacts, audit_key: bytes) -> Picture:
        seen = self._tables
        owners = frozenset(row.id for row in seen.owners)
        parts = seen.strands, seen.attempts, seen.checkpoints, seen.saga_steps, seen.events
        strands, attempts, checkpoints, steps, events = (_of_run(part, run.id) for part in parts)
        picture = Picture(
            run._asdict() | PARENT,
            seen.plans[run.definition],
            owners,
            strands,
            attempts,
            checkpoints,
            steps,
            events,
            _of_run(seen.signals, run.id),
            _of_run(seen.approvals, run.id),
            links=_of_run(seen.links, run.id),
            calls=_of_run(seen.calls, run.id),
        )
        if not run.item_count:
            return picture
        whole = Rows(picture.run, picture.plan, (), events, attempts, checkpoints, steps, strands)
        items = [
            ItemPicture(row._asdict(), *(_of_run(part, run.id, row.item) for part in parts))
            for row in in_memory.items_of(seen, run.id)
        ]
        found = in_memory.check_items(seen, whole, (audit_key,))
        groups = tuple(row._asdict() for row in groups_of(seen, run.id))
        return replace(picture, groups=groups, items=tuple(items), of_items=tuple(found.problems))

    def strays(self) -> list[str]:
        seen = self._tables
        parts: dict[str, Parts[Any]] = {"events": seen.events, "items": seen.items, "item_groups": seen.item_groups}
        parts |= {table.value: part for table, part in seen.written.items()}
        return [
            f"stageflow_{name} has rows of run {run}, which is not there"
            for name, part in parts.items()
            for run in part.runs()
            if run not in seen.runs and part.every(run)
        ]

    def pruned(self) -> set[str]:
        return {row.run for row in self._tables.tombstones}


PARENT = {"parent_stage": None, "parent_item": None}
"""Columns of a run's row that the engine does not read."""


_KEY = ("strand", "stage", "item", "direction", "n")


def _of_run(part: Parts[Any], run: str, item: int = NO_ITEM) -> tuple[Row, ...]:
    rows: list[Row] = [row._asdict() for row in part.of(run, item)]
    return tuple(sorted(rows, key=lambda row: [row.get(name, 0) for name in _KEY]))


def pictures(connection: Connection, audit_key: bytes = b"") -> dict[str, Picture]:
    """A picture of each run, by id."""
    plans = {row.digest: _plan(row.body) for row in connection.execute(_DEFINITIONS)}
    owners = frozenset(connection.execute(_OWNERS).scalars())
    parts = [_by_run(connection, table) for table in _PARTS]
    signals, approvals, links, calls = (_by_run(connection, table) for table in _BESIDE)
    seen = {
        run["id"]: Picture(
            run,
            plans[run["definition"]],
            owners,
            *_parts(parts, run["id"]),
            tuple(signals.get(run["id"], ())),
            tuple(approvals.get(run["id"], ())),
            links=tuple(links.get(run["id"], ())),
            calls=_own(calls.get(run["id"], ())),
        )
        for run in _rows(connection, _RUNS)
    }
    with_items = [run for run, picture in seen.items() if picture.run["item_count"]]
    return seen | {run: _with_items(connection, seen[run], parts, audit_key) for run in with_items}


def _parts(
    parts: list[dict[str, list[Row]]], run: str
) -> tuple[tuple[Row, ...], tuple[Row, ...], tuple[Row, ...], tuple[Row, ...], tuple[Row, ...]]:
    strands, attempts, checkpoints, steps, events = (_own(part.get(run, ())) for part in parts)
    return strands, attempts, checkpoints, steps, events


def _own(rows: Iterable[Row]) -> tuple[Row, ...]:
    return tuple(row for row in rows if not row["item"])


def _by_item(rows: Iterable[Row]) -> dict[int, list[Row]]:
    grouped: dict[int, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["item"], []).append(row)
    return grouped


def _with_items(connection: Connection, seen: Picture, parts: list[dict[str, list[Row]]], audit_key: bytes) -> Picture:
    run: str = seen.run["id"]
    rows = _rows(connection, select(tables.items).where(tables.items.c.run == run).order_by(tables.items.c.item))
    of_each = [_by_item(part.get(run, ())) for part in parts]
    items = [ItemPicture(row, *(tuple(part.get(row["item"], ())) for part in of_each)) for row in rows]
    groups = _rows(connection, select(tables.item_groups).where(tables.item_groups.c.run == run))
    whole = Rows(seen.run, seen.plan, (), seen.events, seen.attempts, seen.checkpoints, seen.steps, seen.strands)
    found = verified_items.check(connection, whole, (audit_key,))
    return replace(seen, groups=tuple(groups), items=tuple(items), of_items=tuple(found.problems))


_plan = lru_cache(Plan.decode)
_told: Any = lru_cache(65_536)(decode)  # each event is looked at several times; nobody changes what it says
_PARTS = (tables.strands, tables.attempts, tables.checkpoints, tables.saga_steps, tables.events)
"""Tables of what a run and each of its items have."""
# Made once: they are asked after every step.
_DEFINITIONS, _OWNERS, _RUNS = select(tables.definitions), select(tables.owners.c.id), select(tables.runs)
_BESIDE = (tables.signals, tables.approvals, tables.links, tables.calls)
_OF_RUNS = (*_PARTS, *_BESIDE)
_OF_PART = {table: select(table).order_by(*table.primary_key.columns) for table in _OF_RUNS}
_OF_NO_RUN = union(
    *(
        select(literal(table.name), table.c.run).where(table.c.run.not_in(select(tables.runs.c.id)))
        for table in (*_OF_RUNS, tables.items, tables.item_groups)
    )
)
_PRUNED = select(tables.tombstones.c.run)


def _by_run(connection: Connection, table: Table) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = {}
    for row in _rows(connection, _OF_PART[table]):
        grouped.setdefault(row["run"], []).append(row)
    return grouped


def _rows(connection: Connection, statement: Select[Any]) -> list[Row]:
    return list(map(dict, connection.execute(statement).mappings()))


def rows_of_no_run(connection: Connection) -> Iterator[str]:
    """No foreign key says it: what belongs to a run has one."""
    for table, run in connection.execute(_OF_NO_RUN):
        yield f"{table} has rows of run {run}, which is not there"


# --- of a moment ------------------------------------------------------------------------------------------------------


def one_owner_a_strand(seen: Picture) -> Iterator[str]:
    """1: what runs has one owner and one attempt, which began and is not over; no stage runs on two strands."""
    over = {_place(row) for row in seen.attempts}
    running = [row for row in seen.strands if row["state"] == StrandState.RUNNING]
    for row in running:
        if row["owner"] is None or row["began_at"] is None or row["attempt"] < 1:
            yield f"1: strand {row['strand']} runs attempt {row['attempt']} of {row['owner']} since {row['began_at']}"
        if (row["stage"], row["direction"], row["attempt"]) in over:
            yield f"1: strand {row['strand']} runs attempt {row['attempt']} of {row['stage']}, which is over"
    twice = Counter((row["stage"], row["direction"]) for row in running)
    yield from (f"1: {stage} runs {times} times" for (stage, _), times in twice.items() if times > 1)
    known = {*seen.owners, None}
    yield from (f"1: owner {row['owner']} is nobody" for row in seen.strands if row["owner"] not in known)


def each_begin_has_its_attempt(seen: Picture) -> Iterator[str]:
    """1: of all that began, by its history, what runs is not written down, all else is, each number once."""
    began: Counter[tuple[object, ...]] = Counter(begun for event in seen.events if (begun := _begun(event)) is not None)
    running: Counter[tuple[object, ...]] = Counter(
        (row["stage"], row["direction"], row["attempt"]) for row in seen.strands if row["state"] == StrandState.RUNNING
    )
    over = Counter(_place(row) for row in seen.attempts)
    if began != running + over:
        yield f"1: began {dict(began - running - over)} without an end, and {dict((running + over) - began)} only ended"


def _begun(event: Row) -> tuple[str, Phase, int] | None:
    """Which attempt an event says that it begins: stage, direction and number."""
    kind = event["type"]
    if kind not in _BEGIN:
        return None
    data = _told(event["data"])
    if kind == "undo.begun":
        return str(data["stage"]), Phase.BACKWARD, int(data["attempt"])
    then = data if kind == "stage.begun" else data.get("then")
    return None if then is None else (str(then["stage"]), Phase.FORWARD, int(then["attempt"]))


_BEGIN = frozenset({"stage.begun", "stage.ok", "undo.begun"})


def one_checkpoint_a_stage(seen: Picture) -> Iterator[str]:
    """2: a stage's outcome is committed once, by one attempt or by a person."""
    forward = [row for row in seen.attempts if row["direction"] == Phase.FORWARD]
    ended = Counter(row["stage"] for row in forward if row["state"] in ENDED)
    settled = {row["stage"] for row in forward if row["state"] == AttemptState.SETTLED} | _copied(seen)
    settled |= {stage for stage, _at, _until in _woken(seen)} | _waited(seen) | seen.with_items
    yield from (f"2: {stage} ended {times} times" for stage, times in ended.items() if times > 1)
    yield from (f"2: {stage} ended without a checkpoint" for stage in set(ended) - seen.finished)
    yield from (f"2: {stage} has a checkpoint of nobody" for stage in seen.finished - set(ended) - settled)


def _copied(seen: Picture) -> set[str]:
    """Stages whose outcome came from the run that this one was forked from."""
    return {name for event in seen.events if event["type"] == "run.forked" for name in _told(event["data"])["copied"]}


def a_sleep_lasts_until_its_time(seen: Picture) -> Iterator[str]:
    """A sleep is not over before its time. Only of a clock that never went back: what is under way keeps its times."""
    yield from (f"{stage} woke at {at}, before {until}" for stage, at, until in _woken(seen) if at < until)


def nobody_tries_a_sleep(seen: Picture) -> Iterator[str]:
    """A sleep and a wait have no body, so that no attempt of them has an outcome."""
    sleeps = {stage.name for stage in seen.plan.stages if stage.is_sleep or stage.takes_answers}
    tried = [row for row in seen.attempts if row["stage"] in sleeps and row["state"] in ENDED]
    yield from (f"attempt {_place(row)} of a sleep is {row['state']}" for row in tried)


def _woken(seen: Picture) -> Iterator[tuple[str, float, float]]:
    """Sleeps that are over: stage, when it woke, and until when it was to sleep."""
    until: dict[str, float] = {}
    for event in seen.events:
        if event["type"] == "stage.asleep":
            data = _told(event["data"])
            until[data["stage"]] = data["until"]
        elif event["type"] == "stage.woken" and (stage := _told(event["data"])["stage"]) in until:
            yield stage, event["at"], until.pop(stage)


def _waited(seen: Picture) -> set[str]:
    """Stages that ended with a signal, or because their time was over."""
    over = ("signal.timed_out", "stage.skipped")
    timed_out = {decode(event["data"])["stage"] for event in seen.events if event["type"] in over}
    answered = (*seen.signals, *(row for row in seen.approvals if row["decision"] == "approved"))
    return timed_out | {row["stage"] for row in answered if row["consumed_at"] is not None}


def a_wait_ends_once(seen: Picture) -> Iterator[str]:
    """Of the signals for a wait one is consumed, by a stage that is done; while it waits, none is kept for it."""
    consumed = [row["stage"] for row in seen.signals if row["consumed_at"] is not None]
    kept = {row["stage"] for row in seen.signals} - set(consumed)
    yield from (f"{stage} consumed {times} signals" for stage, times in Counter(consumed).items() if times > 1)
    yield from (f"{stage} consumed a signal, and is not done" for stage in set(consumed) - seen.finished)
    waits = {stage.name for stage in seen.plan.stages if stage.is_wait}
    yield from (f"{stage} is over, and a signal is kept for it" for stage in kept & seen.finished & waits)
    deltas = {row["stage"]: row["delta"] for row in seen.checkpoints}
    for row in () if erased(seen) else seen.signals:
        if row["consumed_at"] is not None and deltas.get(row["stage"], row["payload"]) != row["payload"]:
            yield f"the output of {row['stage']} is {deltas[row['stage']]}, its signal said {row['payload']}"
    for row in seen.strands:
        due = row["wake_at"] is not None and row["wake_at"] <= seen.run["updated_at"]  # the next sweep takes it
        if row["waiting_for"] in (WaitingFor.SIGNAL, WaitingFor.CALLBACK) and row["stage"] in kept and not due:
            yield f"strand {row['strand']} waits for the signal {row['stage']}, which has come"


def a_signal_counts_before_the_end_of_its_wait(seen: Picture) -> Iterator[str]:
    """A wait whose signal has come takes it: the end of its time counts only where it was recorded before."""
    came: set[str] = set()
    for event in seen.events:
        if event["type"] == "signal.received":
            came.add(_told(event["data"])["stage"])
        elif event["type"] == "signal.timed_out" and (stage := _told(event["data"])["stage"]) in came:
            yield f"event {event['seq']}: the wait {stage} timed out, though its signal had come"


def a_wait_for_the_outside_is_in_doubt(seen: Picture) -> Iterator[str]:
    """A stage that waits for its callback has returned once, in doubt, and is not done; what is done waits no more."""
    last = {row["stage"]: row for row in seen.attempts if row["direction"] == Phase.FORWARD}
    for row in seen.strands:
        if row["waiting_for"] != WaitingFor.CALLBACK:
            continue
        attempt = last.get(row["stage"])
        if attempt is None or attempt["state"] != AttemptState.WAITING or attempt["n"] != row["attempt"]:
            yield f"strand {row['strand']} waits for its callback, and its last attempt does not"
        if row["wake_at"] is None:
            yield f"strand {row['strand']} waits for its callback for ever"
    for row in seen.attempts:
        if row["state"] == AttemptState.WAITING and (not row["doubt"] or row["stage"] in seen.finished):
            yield f"attempt {_place(row)} waits without doubt, or for a stage that is done"


def an_approval_is_consumed_once(seen: Picture) -> Iterator[str]:
    """Nothing behind an approval begins but by one that was given and consumed, once, with the digest that is saved."""
    said = [decode(event["data"]) for event in seen.events if event["type"] == "approval.void"]
    void = {(one["stage"], one["approval"]) for one in said}
    taken = [row for row in seen.approvals if row["consumed_at"] is not None and row["decision"] == "approved"]
    consumed = [row for row in taken if (row["stage"], row["n"]) not in void]  # those with which the run went on
    last = {row["stage"]: row for row in sorted(seen.approvals, key=lambda row: row["n"])}
    saved = {row["stage"]: row for row in seen.checkpoints}
    for stage in (stage.name for stage in seen.plan.stages if stage.is_approval):
        output = saved.get(stage)
        if output is None or output["skipped"] or erased(seen):
            continue
        told = decode(output["delta"])
        by = [row for row in consumed if (row["stage"], row["digest"]) == (stage, told["digest"])]
        if stage not in _copied(seen) and (len(by) != 1 or last[stage] is not by[0]):
            yield f"{stage} is done by {told}, which was consumed {len(by)} times"
    for stage, row in last.items():
        went_on = row["decision"] == "approved" and row["consumed_at"] is not None and (stage, row["n"]) not in void
        if went_on and stage not in saved:
            yield f"the approval of {stage} was consumed, and it is not done"


def a_link_is_used_once(seen: Picture) -> Iterator[str]:
    """Each decision by link used a link up, at its stage, for the person whom it was made for, in its time."""
    told = [(event, _told(event["data"])) for event in seen.events]
    by_link = [(event, data) for event, data in told if event["type"].startswith("operator.") and data.get("link")]
    used = [row for row in seen.links if row["used_at"] is not None]
    if len(by_link) != len(used):
        yield f"{len(by_link)} decisions were made by link, {len(used)} links are used"
    for event, data in by_link:
        here = [row for row in used if row["token"].startswith(data["link"])]
        fits = [
            row
            for row in here
            if (row["stage"], row["actor"], row["used_at"]) == (data["stage"], data["actor"], event["at"])
        ]
        if len(here) != 1 or not fits or not data["authenticated"]:
            yield f"{event['type']} of {data['stage']} by {data['actor']} used the link {data['link']}: {here}"
    yield from (f"a link of {row['stage']} was used late" for row in used if row["used_at"] >= row["expires_at"])


def a_wait_has_a_wake_up(seen: Picture) -> Iterator[str]:
    """11: what waits is due some time, or at a wait that a signal ends, or for items of which one has not ended."""
    going_on = {row["strand"] for row in seen.groups if row["done"] + row["failed"] < row["total"]}
    for row in seen.strands:
        if row["state"] != StrandState.WAITING or row["wake_at"] is not None:
            continue
        group = row["stage"] if row["direction"] == Phase.FORWARD else row["strand"]
        if row["waiting_for"] == WaitingFor.ITEMS and group in going_on:
            continue
        planned = seen.plan.by_name.get(row["stage"])
        answers = {WaitingFor.SIGNAL: "wait", WaitingFor.APPROVAL: "approval"}
        if planned is None or answers.get(row["waiting_for"]) != planned.kind:
            yield f"11: strand {row['strand']} waits for {row['waiting_for']}, and nothing will ever wake it"
        elif planned.timeout is not None:
            yield f"11: strand {row['strand']} waits without the time of {row['stage']}"


def items_are_whole(seen: Picture) -> Iterator[str]:
    """6, 10: their groups count what there is, and each chain begins at the run's event and is unbroken."""
    yield from (f"10: {problem}" for problem in seen.of_items)


def items_stand_as_their_run_goes(seen: Picture) -> Iterator[str]:
    """1, 4: an item that is not at rest is one of a run that goes its way; what runs of it has one attempt."""
    for item in seen.items:
        number = item.row["item"]
        for row in item.strands:
            if row["state"] in ACTIVE and row["state"] not in _MAY_STAND.get((seen.phase, row["direction"]), ()):
                yield f"4: {row['strand']} of item {number} is {row['state']} in a run that goes {seen.phase}"
        began = Counter(begun for event in item.events if (begun := _begun(event)) is not None)
        running = Counter(_held(row) for row in item.strands if row["state"] == StrandState.RUNNING)
        over = Counter(_place(row) for row in item.attempts)
        if began != running + over:
            yield f"1: item {number} began {dict(began)}, of which run {dict(running)} and are over {dict(over)}"
        yield from (
            f"1: owner {row['owner']} of item {number} is nobody"
            for row in item.strands
            if row["owner"] is not None and row["owner"] not in seen.owners
        )


def _held(row: Row) -> tuple[object, ...]:
    return row["stage"], row["direction"], row["attempt"]


def a_stage_joins_when_its_items_have_ended(seen: Picture) -> Iterator[str]:
    """6: exactly when each of its items has ended, and once."""
    joined = Counter(decode(event["data"])["stage"] for event in seen.events if event["type"] == "stage.joined")
    yield from (f"6: {stage} joined {times} times" for stage, times in joined.items() if times > 1)
    for stage in seen.with_items:
        groups = [row for row in seen.groups if row["strand"] == stage]
        over = all(row["done"] + row["failed"] == row["total"] for row in groups)
        if not over and (stage in joined or stage in seen.finished):
            yield f"6: {stage} joined before each of its items had ended"
        if over and stage not in joined:
            yield f"6: each item of {stage} has ended, and it did not join"


def items_begin_only_forward(seen: Picture) -> Iterator[str]:
    """3: no item begins between the stop of its run and a person's word. Only of a clock that never went back."""
    modes = [(event["at"], _MODES[event["type"]]) for event in seen.events if event["type"] in _MODES]
    for item in seen.items:
        for event in item.events:
            before = [mode for at, mode in modes if at < event["at"]]
            same = [mode for at, mode in modes if at == event["at"]]
            if begun_by(event) is not None and not same and before and before[-1] != "forward":
                yield f"3: item {item.row['item']} began in a run that was {before[-1]}"


def begins_only_forward(seen: Picture) -> Iterator[str]:
    """3: between the stop of a run and a person's word no stage begins, and no undo before it goes backward."""
    mode = "forward"
    for event in seen.events:
        mode = _MODES.get(event["type"], mode)
        if begun_by(event) is not None and mode != "forward":
            yield f"3: event {event['seq']}: a stage began in a run that was {mode}"
        if event["type"] == "undo.begun" and mode != "back":
            yield f"3: event {event['seq']}: an undo began in a run that was {mode}"


def begun_by(event: Row) -> str | None:
    """The stage that began in the transaction which an event tells of; None: none did."""
    begun = _begun(event)
    return begun[0] if begun is not None and begun[1] is Phase.FORWARD else None


_MODES = {
    "run.stopping": "stopped",
    "operator.resume": "forward",
    "operator.settle": "forward",
    "work.compensation_started": "back",
}


def nothing_runs_forward_when_backward(seen: Picture) -> Iterator[str]:
    """4: an undo has the run for itself; a run that stops has nothing that could begin; one at rest is at rest."""
    phase = seen.phase
    for row in seen.strands:
        if row["state"] in ACTIVE and row["state"] not in _MAY_STAND.get((phase, row["direction"]), ()):
            yield f"4: strand {row['strand']} is {row['state']} in a run that goes {phase}"


_MAY_STAND: dict[tuple[str, str], frozenset[StrandState]] = {
    (Phase.FORWARD, Phase.FORWARD): ACTIVE,
    (Phase.DRAINING, Phase.FORWARD): frozenset({StrandState.RUNNING}),
    (Phase.BACKWARD, Phase.BACKWARD): ACTIVE,
}


def every_action_has_a_step(seen: Picture) -> Iterator[str]:
    """5: a begun stage with an undo has its step, and none is left open where the run has ended by undoing."""
    steps = seen.step_states()
    running = [row for row in seen.strands if row["state"] == StrandState.RUNNING]
    for row in (*seen.attempts, *running):
        planned = seen.plan.by_name.get(row["stage"])
        if row["direction"] == Phase.FORWARD and planned and planned.undo and row["stage"] not in steps:
            yield f"5: {row['stage']} began without a step"
    status = RunStatus(seen.run["status"])
    halted = seen.plan.on_compensation_failure == "halt" and status is RunStatus.COMPENSATION_FAILED
    undone = status in (RunStatus.COMPENSATED, RunStatus.COMPENSATION_FAILED) and not halted
    stopped = status in (RunStatus.FAILED, RunStatus.CANCELLED) and not seen.run["pivot_passed"]
    left = [stage for stage, state in steps.items() if state in OPEN_STEPS]
    if left and (undone or stopped):
        yield f"5: {status}, and the undo of {', '.join(left)} is still owed"


def joins_are_counted(seen: Picture) -> Iterator[str]:
    """6: exactly the stages whose every dependency is finished stand on a strand, each on one."""
    standing = Counter(row["stage"] for row in seen.heading(Phase.FORWARD) if row["state"] != StrandState.DONE)
    finished = seen.finished
    ready = Counter(
        stage.name for stage in seen.plan.stages if stage.name not in finished and finished.issuperset(stage.after)
    )
    if standing != ready:
        yield f"6: on strands stand {dict(standing)}, ready are {dict(ready)}"


def undo_follows_the_graph(seen: Picture) -> Iterator[str]:
    """9: while a stage is undone, nothing that came after it is still to be undone."""
    steps = seen.step_states()
    undoing = [stage for stage, state in steps.items() if state is StepState.COMPENSATING]
    for stage in undoing:
        behind = [name for name in seen.plan.descendants[stage] if steps.get(name) in OPEN_STEPS]
        if behind:
            yield f"9: {stage} is being undone before {', '.join(sorted(behind))}"


def the_chain_is_unbroken(seen: Picture, audit_key: bytes = b"") -> Iterator[str]:
    """10: events count from 1 without gaps, each seals the one before."""
    previous = GENESIS
    for number, event in enumerate(seen.events, 1):
        expected = seal(audit_key, event["run"], event["seq"], event["type"], event["at"], event["data"], previous)
        sealed = event["mac"] == expected.mac or (erased(seen) and mark_fits([audit_key], event))
        if (event["seq"], event["previous"]) != (number, previous) or not sealed:
            yield f"10: event {event['seq']} does not follow event {number - 1}"
        previous = event["mac"]
    if (seen.run["seq"], seen.run["head"]) != (len(seen.events), previous):
        yield f"10: the run says {seen.run['seq']} events, there are {len(seen.events)}"


def the_history_vouches_for_the_rows(seen: Picture, audit_key: bytes) -> Iterator[str]:
    """10: what the events say was written is what the rows hold."""
    if audit_key:
        heard = Testimony.of(seen.events)
        if not heard.complete:
            yield "10: an event does not say what its transaction wrote"
        inputs: dict[str, list[str]] = {}
        for item in seen.items:
            inputs.setdefault(item.row["stage"], []).append(item.row["input"])
        rows = Rows(
            seen.run,
            seen.plan,
            (),
            seen.events,
            seen.attempts,
            seen.checkpoints,
            seen.steps,
            seen.strands,
            seen.calls,
            seen.signals,
            seen.approvals,
            seen.links,
            {stage: inputs_text(texts) for stage, texts in inputs.items()},
        )
        yield from (f"10: {what}" for what in problems((audit_key,), rows, heard))


def steps_are_counted(seen: Picture) -> Iterator[str]:
    """The steps of a stage are numbered from 1, and each that can be undone was announced before it was saved."""
    for stage in {row["stage"] for row in seen.calls}:
        numbers = sorted(row["n"] for row in seen.calls if row["stage"] == stage)
        if numbers != list(range(1, len(numbers) + 1)):
            yield f"the steps of {stage} are numbered {numbers}"
    yield from (f"step {row['n']} of {row['stage']} waits for nothing" for row in seen.calls if _is_lost_step(row))


def steps_are_written_by_who_holds_the_stage(seen: Picture) -> Iterator[str]:
    """7: a step is written by an attempt that has begun and is not over."""
    held: dict[str, int] = {}
    for event in seen.events if seen.calls else ():
        kind = event["type"]
        if kind in _STEPS:
            data = _told(event["data"])
            if held.get(data["stage"]) != data["attempt"]:
                yield f"7: attempt {data['attempt']} of {data['stage']} wrote a step, and does not hold it"
        elif kind in _ENDS and not _told(event["data"]).get("undo"):
            held.pop(_told(event["data"])["stage"], None)
        begun = _begun(event)
        if begun is not None and begun[1] is Phase.FORWARD:
            held[begun[0]] = begun[2]


_STEPS = frozenset({"stage.step_begun", "stage.step_saved"})
_ENDS = frozenset({"stage.ok", "stage.skipped", "stage.failed", "stage.lost", "stage.postponed", "work.retry_attempt"})


def _is_lost_step(row: Row) -> bool:
    return row["saved_at"] is None and not row["undoable"]


def something_will_move_it(seen: Picture) -> Iterator[str]:
    """11: a run that has not ended runs, is due, is published, or says why it is parked."""
    strands = [*seen.strands, *(row for item in seen.items for row in item.strands)]
    moving = any(row["state"] in ACTIVE for row in strands)
    if seen.phase is not Phase.SETTLED and not moving:
        yield f"11: the run goes {seen.phase}, and no strand of it will ever move"
    for row in seen.strands:
        if row["state"] == StrandState.WAITING and row["wake_at"] is None and row["waiting_for"] in BY_TIME:
            yield f"11: strand {row['strand']} waits ({row['waiting_for']}), and nothing will ever wake it"
    if (seen.run["status"] == RunStatus.PARKED) != (
        seen.phase is Phase.SETTLED and seen.run["park_reason"] is not None
    ):
        yield f"11: {seen.run['status']} with park reason {seen.run['park_reason']}"
    if (seen.phase is Phase.SETTLED) != (seen.run["finished_at"] is not None):
        yield f"11: {seen.run['status']}, finished at {seen.run['finished_at']}"


def a_success_is_complete(seen: Picture) -> Iterator[str]:
    """A run that succeeded has every outcome, and one that has every outcome and goes on has succeeded."""
    complete = seen.finished.issuperset(seen.plan.by_name)
    if seen.run["status"] == RunStatus.SUCCEEDED and not complete:
        yield "succeeded without every stage"


OF_A_MOMENT: tuple[Callable[[Picture], Iterator[str]], ...] = (
    one_owner_a_strand,
    each_begin_has_its_attempt,
    one_checkpoint_a_stage,
    nobody_tries_a_sleep,
    a_wait_ends_once,
    a_signal_counts_before_the_end_of_its_wait,
    a_wait_for_the_outside_is_in_doubt,
    a_wait_has_a_wake_up,
    an_approval_is_consumed_once,
    a_link_is_used_once,
    steps_are_counted,
    steps_are_written_by_who_holds_the_stage,
    begins_only_forward,
    nothing_runs_forward_when_backward,
    every_action_has_a_step,
    joins_are_counted,
    undo_follows_the_graph,
    something_will_move_it,
    a_success_is_complete,
    items_are_whole,
    items_stand_as_their_run_goes,
    a_stage_joins_when_its_items_have_ended,
)


# --- of a change ------------------------------------------------------------------------------------------------------


def fences_rise_only_by_take_or_operator(before: Picture, after: Picture) -> Iterator[str]:
    """7: nobody but a sweep that takes from the dead or repairs, or a person, raises a fence; it never falls."""
    news = [event["type"] for event in after.events[len(before.events) :]]
    allowed = any(kind in ("stage.lost", REPAIRED) or kind.startswith("operator.") for kind in news)
    was = {row["strand"]: row["gen"] for row in before.strands}
    for row in after.strands:
        rose = row["gen"] - was.get(row["strand"], row["gen"])
        if rose < 0 or (rose and not allowed):
            yield f"7: the fence of {row['strand']} changed by {rose} with {news}"


def states_move_as_the_tables_say(before: Picture, after: Picture) -> Iterator[str]:
    """The tables of transitions: ``model/status.py`` and the diagrams."""
    old, new = RunStatus(before.run["status"]), RunStatus(after.run["status"])
    if old is not new and new not in RUN_TRANSITIONS[old]:
        yield f"a run went from {old} to {new}"
    steps = before.step_states()
    for stage, state in after.step_states().items():
        if stage in steps and state is not steps[stage] and state not in STEP_TRANSITIONS[steps[stage]]:
            yield f"the step of {stage} went from {steps[stage]} to {state}"


def nothing_is_forgotten(before: Picture, after: Picture) -> Iterator[str]:
    """Outcomes and history are never changed or taken back, and an attempt that ended stays as it ended; values are
    erased, if ever, for good.
    """
    if erased(before) and (not erased(after) or before.run["status"] != after.run["status"]):
        yield "a run went on after its values were erased"
    values = {"delta", "data"} if erased(after) else set()
    if after.checkpoints != before.checkpoints and not {_frozen(row, values) for row in before.checkpoints} <= {
        _frozen(row, values) for row in after.checkpoints
    }:
        yield "a checkpoint changed"
    told = after.events[: len(before.events)]
    if told != before.events and [_frozen(row, values) for row in told] != [
        _frozen(row, values) for row in before.events
    ]:
        yield "the history changed"
    steps = {(row["stage"], row["call"]): row["result"] for row in after.calls}
    for row in before.calls:
        if (
            row["saved_at"] is not None
            and not erased(after)
            and steps.get((row["stage"], row["call"])) != row["result"]
        ):
            yield f"the saved step {row['n']} of {row['stage']} changed"
    now = {_place(row): AttemptState(row["state"]) for row in after.attempts}
    for row in before.attempts:
        was, is_ = AttemptState(row["state"]), now.get(_place(row))
        if is_ not in (was, AttemptState.SETTLED, *_ANSWERS.get(was, ())):
            yield f"attempt {_place(row)} ended as {was} and is now {is_}"


_ANSWERS = {AttemptState.WAITING: frozenset({AttemptState.OK, AttemptState.RETRY, AttemptState.FAILED})}
"""How an attempt ends that waited for its callback."""


def _place(row: Row) -> tuple[object, ...]:
    return row["stage"], row["direction"], row["n"]


def _frozen(row: Row, but: AbstractSet[str]) -> frozenset[tuple[str, Any]]:
    return frozenset((name, value) for name, value in row.items() if name not in but)


def erased(seen: Picture) -> bool:
    """Whether the values of the run are gone: by a person's word, and never back."""
    return seen.run["erased_at"] is not None


OF_A_CHANGE: tuple[Callable[[Picture, Picture], Iterator[str]], ...] = (
    fences_rise_only_by_take_or_operator,
    states_move_as_the_tables_say,
    nothing_is_forgotten,
)


class Watch:
    """Looks at a store's rows after each step, and remembers what it saw before.

    ``moves`` and ``step_moves`` collect the transitions that were observed. ``steady``: the clock never goes back.
    """

    def __init__(self, rows: Seen, audit_key: bytes = b"", *, steady: bool = True) -> None:
        self._rows = rows
        self._audit_key = audit_key
        self._steady = steady
        self._before: dict[str, Picture] = {}
        self.moves: set[tuple[RunStatus, RunStatus]] = set()
        self.step_moves: set[tuple[StepState, StepState]] = set()

    def check(self) -> None:
        """Raise AssertionError listing every invariant that does not hold."""
        now, orphaned, pruned = self._rows.pictures(self._audit_key), self._rows.strays(), self._rows.pruned()
        # A run of which nothing has changed was looked at, and all held.
        changed = {run: seen for run, seen in now.items() if seen != self._before.get(run)}
        broken = [f"run {run}: {what}" for run, seen in changed.items() for what in self._broken(seen)]
        broken += [f"run {run} is gone" for run in self._before.keys() - now.keys() - pruned]
        broken += orphaned
        assert broken == [], "\n".join(broken)
        self._before = now

    def _broken(self, seen: Picture) -> Iterator[str]:
        for holds in OF_A_MOMENT:
            yield from holds(seen)
        if self._steady:
            yield from a_sleep_lasts_until_its_time(seen)
        yield from the_chain_is_unbroken(seen, self._audit_key)
        yield from the_history_vouches_for_the_rows(seen, self._audit_key)
        before = self._before.get(seen.run["id"])
        if before is not None:
            self._note(before, seen)
            for holds_since in OF_A_CHANGE:
                yield from holds_since(before, seen)

    def _note(self, before: Picture, after: Picture) -> None:
        statuses = RunStatus(before.run["status"]), RunStatus(after.run["status"])
        self.moves |= {statuses} if statuses[0] is not statuses[1] else set()
        was, is_ = before.step_states(), after.step_states()
        self.step_moves |= {(was[stage], is_[stage]) for stage in was if was[stage] is not is_[stage]}
