"""Compares a run's rows with what its events say about them: pure functions over rows that were read.

Only to be believed where the chain of the events is whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import Phase, StrandState
from stageflow_durable.store.erasure import held_again
from stageflow_durable.store.vouched import (
    AUDIT,
    FRESH_ATTEMPT,
    FRESH_CHECKPOINT,
    FRESH_RUN,
    FRESH_STEP,
    GIVEN,
    INPUTS,
    OF_RUN,
    RUN,
    approval_row,
    attempt_row,
    call_row,
    checkpoint_row,
    given_by,
    given_code,
    is_by_body,
    is_of_item,
    items_row,
    link_row,
    shown,
    signal_row,
    step_row,
)

Row = Mapping[Any, Any]
Keys = Sequence[bytes]
"""Audit keys: the one in force, and older ones that are accepted."""
Begun = tuple[str, int, str]
"""Direction, number and stage of an attempt."""

MOVING = (StrandState.READY, StrandState.RUNNING, StrandState.WAITING)
_STILL = frozenset({StrandState.REST, StrandState.DONE})
_MAY_STAND: Mapping[tuple[str, str], frozenset[str]] = {
    (Phase.FORWARD, Phase.FORWARD): frozenset({*MOVING, StrandState.DONE}),
    (Phase.DRAINING, Phase.FORWARD): _STILL | {StrandState.RUNNING},
    (Phase.BACKWARD, Phase.BACKWARD): _STILL | {*MOVING},
}
"""By phase of the run and direction of the strand, the states that a strand may have; elsewhere it stands still."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What the tables hold of one run. ``plan``: its definition, or None where that is not what its digest says;
    ``keys``: business keys whose result a stage of it found; ``events`` in their order.
    """

    run: Row
    plan: Plan | None
    keys: Sequence[Row]
    events: Sequence[Row]
    attempts: Sequence[Row]
    checkpoints: Sequence[Row]
    steps: Sequence[Row]
    strands: Sequence[Row]
    calls: Sequence[Row] = ()
    signals: Sequence[Row] = ()
    approvals: Sequence[Row] = ()
    links: Sequence[Row] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    """What was given to the items of each stage, as one text."""

    @property
    def by_table(self) -> Mapping[str, Sequence[Row]]:
        """Those of its rows that may hold values."""
        return {
            "attempts": self.attempts,
            "checkpoints": self.checkpoints,
            "saga_steps": self.steps,
            "strands": self.strands,
            "signals": self.signals,
            "approvals": self.approvals,
            "items": [
                {"stage": stage, "input": given} for stage, text in self.inputs.items() for given in given_by(text)
            ],
        }


@dataclass
class Testimony:
    """What the events say: of each row its columns, of each beginning its owner and its time."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    given: str | None = None
    begun: dict[Begun, tuple[str, float]] = field(default_factory=dict)
    of_items: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What a run's events say of the rows of its items."""
    complete: bool = True
    """Whether every event of the engine says what was written; those of earlier releases, and without a key, do not."""

    @classmethod
    def of(cls, events: Iterable[Row]) -> Testimony:
        """Add up what the events say, in their order."""
        found = cls()
        for event in events:
            data = json.loads(event["data"])
            if not is_by_body(data):
                found._hear(event, data)
        return found

    def _hear(self, event: Row, data: Mapping[str, Any]) -> None:
        self._begins(event, data)
        if AUDIT not in data:
            self.complete = False
            return
        for name, columns in data[AUDIT].items():
            if event["item"] == 0 and is_of_item(name):
                self.of_items.setdefault(name, {}).update(columns)
                continue
            if name not in self.rows:
                self.rows[name] = self._fresh(name, event, data)
            self.rows[name].update(columns)
        self.given = self.rows.get(RUN, {}).pop("given", self.given)

    def _begins(self, event: Row, data: Mapping[str, Any]) -> None:
        then = {"stage.begun": data, "undo.begun": data, "stage.ok": data.get("then")}.get(event["type"])
        if then is not None:
            heading = Phase.BACKWARD if event["type"] == "undo.begun" else Phase.FORWARD
            self.begun[heading.value, then["attempt"], then["stage"]] = (then["owner"], event["at"])

    def _fresh(self, name: str, event: Row, data: Mapping[str, Any]) -> dict[str, Any]:
        kind, _, rest = name.partition(" ")
        kind = kind.partition("#")[0]
        if kind == "attempt":
            direction, n, stage = rest.split(" ", 2)
            owner, began_at = self.begun.get((direction, int(n), stage), (None, None))
            return {**FRESH_ATTEMPT, "owner": owner, "began_at": began_at, "ended_at": event["at"]}
        if kind == "checkpoint":
            return {**FRESH_CHECKPOINT, "at": event["at"]}
        if kind in ("signal", "items", "approval", "link", "call"):
            return {}  # its event says all of it
        return {**FRESH_STEP} if kind == "step" else {**FRESH_RUN, "version": data.get("version")}


def problems(keys: Keys, seen: Rows, heard: Testimony) -> Iterator[str]:
    """Each row that is not what the events say: changed, missing, or more than there may be. Where some events do not
    say what they wrote, only what the run was given is compared.
    """
    given = [seen.run[name] for name in GIVEN]
    if heard.given is not None and all(given_code(key, seen.run["id"], given) != heard.given for key in keys):
        yield "the run's row: what it was given was changed (input, metadata, client, pipeline, key, queue or priority)"
    if not heard.complete:
        return
    yield from _of_run(keys, seen, heard)
    yield from of_parts(keys, seen, heard)
    yield from of_strands(seen, heard)
    if seen.plan is not None:
        yield from _of_places(seen, seen.plan)
    yield from _of_keys(seen)


def _of_run(keys: Keys, seen: Rows, heard: Testimony) -> Iterator[str]:
    run = seen.run
    told = heard.rows.get(RUN, {})
    yield from _differences(keys, run["id"], RUN, "the run's row", {name: run[name] for name in OF_RUN}, told)
    if (run["created_at"], run["updated_at"]) != (seen.events[0]["at"], seen.events[-1]["at"]):
        yield "the run's row: created_at or updated_at was changed"


def of_parts(keys: Keys, seen: Rows, heard: Testimony) -> Iterator[str]:
    """Attempts, checkpoints and steps that are not as the events say."""
    there: dict[str, Row] = {
        **{items_row(stage): {INPUTS: text} for stage, text in seen.inputs.items()},
        **{attempt_row(row["direction"], row["n"], row["stage"], row["item"]): row for row in seen.attempts},
        **{checkpoint_row(row["stage"], row["item"]): row for row in seen.checkpoints},
        **{step_row(row["stage"], row["item"]): row for row in seen.steps},
        **{signal_row(row["stage"], row["item"], row["n"]): row for row in seen.signals},
        **{approval_row(row["stage"], row["item"], row["n"]): row for row in seen.approvals},
        **{link_row(row["token"]): row for row in seen.links},
        **{call_row(row["stage"], row["item"], row["call"]): row for row in seen.calls},
    }
    if seen.run.get("erased_at") is not None:
        yield from held_again(seen.by_table, seen.keys)
    told = {name: columns for name, columns in heard.rows.items() if name != RUN}
    yield from (f"{name} is missing: the events tell of it" for name in told.keys() - there.keys())
    yield from (f"{name} was added: no event tells of it" for name in there.keys() - told.keys())
    for name in told.keys() & there.keys():
        row = {column: there[name][column] for column in told[name]}
        yield from _differences(keys, seen.run["id"], name, name, row, told[name])


def _differences(keys: Keys, run: str, row: str, called: str, columns: Row, told: Row) -> Iterator[str]:
    for name, value in columns.items():
        if all(shown(key, run, row, name, value) != told.get(name) for key in keys):
            yield f"{called}: {name} was changed"


def of_strands(seen: Rows, heard: Testimony) -> Iterator[str]:
    """Strands that do not do what the events say, or what the run's phase allows."""
    over = {(row["direction"], row["n"], row["stage"]) for row in seen.attempts}
    open_ = {begun: owner for begun, (owner, _at) in heard.begun.items() if begun not in over}
    running = {
        (row["direction"], row["attempt"], row["stage"]): row["owner"]
        for row in seen.strands
        if row["state"] == StrandState.RUNNING
    }
    if open_ != running:
        yield f"strands: {_listed(running)} run, by the events {_listed(open_)} do"
    for row in seen.strands:
        if row["state"] not in _MAY_STAND.get((seen.run["phase"], row["direction"]), _STILL):
            yield f"strand {row['strand']} is {row['state']} in a run that goes {seen.run['phase']}"


def _of_places(seen: Rows, plan: Plan) -> Iterator[str]:
    """Exactly the stages whose every dependency is done stand on a strand that goes forward."""
    finished = frozenset(row["stage"] for row in seen.checkpoints)
    standing = sorted(
        row["stage"] for row in seen.strands if row["direction"] == Phase.FORWARD and row["state"] != StrandState.DONE
    )
    ready = sorted(s.name for s in plan.stages if s.name not in finished and finished.issuperset(s.after))
    if standing != ready:
        at, next_ = (", ".join(stages) or "nothing" for stages in (standing, ready))
        yield f"strands stand at {at}, by the checkpoints {next_} is next"


def _of_keys(seen: Rows) -> Iterator[str]:
    """What another run would be answered with is what this one saved, while it is there."""
    if seen.run.get("erased_at") is not None:
        return
    saved = {row["stage"]: (row["delta"], row["saved_schema"]) for row in seen.checkpoints}
    for row in seen.keys:
        if saved.get(row["owner_stage"]) != (row["result"], row["result_schema"]):
            yield f"business key {row['key']!r}: its result is not what stage {row['owner_stage']} saved"


def _listed(attempts: Mapping[Begun, str]) -> str:
    return ", ".join(f"{direction} {stage} {n}" for direction, n, stage in sorted(attempts)) or "none"
