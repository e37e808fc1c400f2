"""What the history says about the rows beside it: which columns it covers, and how an event carries them.

Every event of the engine has a field ``audit``: what its transaction wrote to the run's row, its attempts, checkpoints
and saga steps, column by column. Short values stand there as they are. Free text and what users save stands as a code:
an HMAC under a key derived from the audit key, because a plain hash of a card number can be guessed. The code covers
the run, the row and the column too, so that a value cannot be moved to another place. ``testimony`` adds the entries up
and compares. Without an audit key nothing of this is written. See ADR 0035.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, StrEnum
from functools import lru_cache
from typing import Any

from stageflow_durable.codec.writing import write_json
from stageflow_durable.model.status import AttemptState, Phase, RunStatus, StepState
from stageflow_durable.store.audit import code

AUDIT = "audit"
"""The field of an event's data that says what was written to rows."""

ORIGIN, BODY = "origin", "body"
"""The field of an event's data that says who asked for it, where that was a stage's body."""

CODE_DIGITS = 32
"""Hexadecimal digits of a value's code: 128 bits of HMAC-SHA256."""

RUN = "run"
"""How the events name the run's own row."""


class How(StrEnum):
    """How the history covers a column."""

    SAID = "said"
    """Events hold the value."""
    SEALED = "sealed"
    """Events hold a code of the value."""
    GIVEN = "given"
    """The first event holds one code of all that the run was given."""
    CHAINED = "chained"
    """It is part of the chain of events itself, or follows from it."""
    FOLLOWS = "follows"
    """It follows from the definition, the checkpoints and what began; compared with that."""
    DIGEST = "digest"
    """The definition's digest, which the run's events hold, is computed from it."""


GIVEN = ("client_id", "pipeline", "key", "fingerprint", "input", "input_schema", "metadata", "queue", "priority")
"""Columns of a run that never change, and are sealed together."""

_EVENT = dict.fromkeys(("run", "item", "seq", "type", "at", "data", "previous", "mac"), How.CHAINED)
_TOMB = (
    "run",
    "client_id",
    "pipeline",
    "key",
    "fingerprint",
    "status",
    "seq",
    "head",
    "finished_at",
    "pruned_at",
    "mac",
)

COVERED: Mapping[str, Mapping[str, How]] = {
    "stageflow_runs": {
        **dict.fromkeys(("id", "seq", "head", "created_at", "updated_at"), How.CHAINED),
        **dict.fromkeys(GIVEN, How.GIVEN),
        **dict.fromkeys(("version", "definition", "phase", "status", "cause", "park_reason"), How.SAID),
        **dict.fromkeys(("error_stage", "op_version", "pivot_passed", "past_pivot", "deadline"), How.SAID),
        **dict.fromkeys(("parent", "parent_stage", "parent_item", "item_count"), How.SAID),
        "error": How.SEALED,
        **dict.fromkeys(("finished_at", "erased_at"), How.SAID),
    },
    "stageflow_attempts": {
        **dict.fromkeys(("run", "stage", "item", "direction", "n"), How.SAID),
        **dict.fromkeys(("owner", "state", "doubt", "began_at", "ended_at", "kill_by"), How.SAID),
        **dict.fromkeys(("category", "delay"), How.SAID),
        "error": How.SEALED,
    },
    "stageflow_checkpoints": {
        **dict.fromkeys(("run", "stage", "item", "skipped", "saved_schema", "at"), How.SAID),
        "delta": How.SEALED,
    },
    "stageflow_saga_steps": {
        **dict.fromkeys(("run", "stage", "item", "state", "outcome"), How.SAID),
        **dict.fromkeys(("error", "reason"), How.SEALED),
    },
    "stageflow_signals": {
        **dict.fromkeys(("run", "stage", "item", "n", "key", "fingerprint", "saved_schema"), How.SAID),
        **dict.fromkeys(("actor", "received_at", "consumed_at"), How.SAID),
        **dict.fromkeys(("payload", "reason"), How.SEALED),
    },
    "stageflow_approvals": {
        **dict.fromkeys(("run", "stage", "item", "n", "digest", "asked_at", "decision", "actor"), How.SAID),
        **dict.fromkeys(("authenticated", "decided_at", "consumed_at"), How.SAID),
        **dict.fromkeys(("content", "reason"), How.SEALED),
    },
    "stageflow_links": dict.fromkeys(
        ("run", "token", "stage", "actor", "made_by", "made_at", "expires_at", "used_at"), How.SAID
    ),
    "stageflow_calls": {
        **dict.fromkeys(("run", "stage", "item", "call", "n", "name", "key", "fingerprint", "action"), How.SAID),
        **dict.fromkeys(("attempt", "saved_at", "undoable", "undone_at"), How.SAID),
        **dict.fromkeys(("arguments", "result"), How.SEALED),
    },
    "stageflow_strands": dict.fromkeys(("run", "direction", "stage", "state", "owner", "attempt"), How.FOLLOWS),
    "stageflow_items": {
        **dict.fromkeys(("run", "item", "seq", "head", "updated_at"), How.CHAINED),
        **dict.fromkeys(("stage", "grp"), How.FOLLOWS),
        "input": How.SEALED,
    },
    "stageflow_item_groups": {
        **dict.fromkeys(("run", "strand", "grp", "total", "running", "done", "failed"), How.FOLLOWS),
        "digest": How.CHAINED,
    },
    "stageflow_events": _EVENT,
    "stageflow_tombstones": dict.fromkeys(_TOMB, How.CHAINED),
    "stageflow_definitions": dict.fromkeys(("digest", "pipeline", "version", "body"), How.DIGEST),
    "stageflow_idempotency_keys": dict.fromkeys(("result", "result_schema"), How.FOLLOWS),
}
"""By table and column, how the history covers it.

Of a strand that goes forward: where it stands while work is left on it, and whether that work may begin, runs, rests or
is done; of an undo: whether it runs. ``owner`` and ``attempt`` while it runs. Of a business key: while the run that
finished it is there.
"""

_WHEN = "says when work is offered next, or how often it was; each attempt is an event"
_OFFERED = "the name under which work is offered; where it stands and what runs is covered"
_PROCESS = "says which processes live; their leases change all the time, and nothing about a run follows from it"
_CONFIRMED = "who said that a process has ended; each run that waited for it says so in an event of its own"
_SLOT = "says when work may begin; which attempts run, and so hold a slot, is covered"
_KEYS = "a key belongs to many runs, or to a lease, and outlives them: there is no history to say what it must be"

UNCOVERED: Mapping[str, Mapping[str, str]] = {
    "stageflow_runs": {"awaited_by": "whom to tell that something changed; what did is read from the other columns"},
    "stageflow_strands": {
        **dict.fromkeys(("tries", "lost", "delay", "first_at", "wake_at", "published_at", "nudges"), _WHEN),
        **dict.fromkeys(("strand", "item"), _OFFERED),
        "waiting_for": "why it waits follows from the run's last events; whether it does, from its state",
        "gen": "a fence against late writes; whoever raises it delays a run, and changes nothing that is recorded",
        "queue": "where work is offered; a stage's own queue is part of the definition, the run's is covered",
        "progress": "what a stage that runs shows of itself; nobody relies on it, and it goes with the attempt",
        "began_at": "covered once the attempt is over, by its row",
        "kill_by": "covered once the attempt is over, by its row",
    },
    "stageflow_events": {"position": "in which order sinks are told; an event is covered by its own code"},
    "stageflow_definitions": {"registered_at": "which definition is the newest; a rolling deploy changes it"},
    "stageflow_owners": {
        **dict.fromkeys(("id", "host", "pid", "boot", "started_at", "expires_at", "dead_at", "confirmed"), _PROCESS),
        **dict.fromkeys(("lease", "steady_since", "machine", "kernel", "born", "awaited", "profile"), _PROCESS),
        **dict.fromkeys(("confirmed_at", "confirmed_by", "confirmed_reason"), _CONFIRMED),
    },
    "stageflow_profiles": dict.fromkeys(("id", "body", "seen_at"), "says what workers serve; they say it anew"),
    "stageflow_item_groups": {"collects": "whether a failed item stops the run; each that stopped one says so"},
    "stageflow_attempts": {
        "trace": "where it raised; what it raised is covered, and this goes by an age of its own",
        "log": "what it logged, which decides nothing and goes by the same age",
    },
    "stageflow_limits": dict.fromkeys(
        ("name", "amount", "per_second", "set_amount", "paused_until", "said"), "belongs to many runs, and to none"
    ),
    "stageflow_pools": dict.fromkeys(
        ("name", "key", "tokens", "filled_at", "paused_until", "said"), "belongs to many runs, and to none"
    ),
    "stageflow_slots": {
        **dict.fromkeys(("name", "key", "run", "strand", "stage", "attempt", "gen", "owner", "until"), _SLOT),
        **dict.fromkeys(("rank", "since", "turn", "short", "behind", "offered_at", "passed_at"), _WHEN),
    },
    "stageflow_sinks": dict.fromkeys(
        (
            "name",
            "position",
            "fence",
            "owner",
            "expires_at",
            "tries",
            "error",
            "retry_at",
            "delivered_at",
            "created_at",
        ),
        "says how far a sink was told; what it is told is covered",
    ),
    "stageflow_attributes": dict.fromkeys(("run", "name", "value"), "what people find a run by; it decides nothing"),
    "stageflow_queues": dict.fromkeys(("name", "served_at", "free_at"), "says up to when messages were served"),
    "stageflow_ticks": dict.fromkeys(("name", "at"), "says whose turn it is to sweep"),
    "stageflow_idempotency_keys": dict.fromkeys(
        (
            *("client_id", "operation", "key", "fingerprint", "params", "owner", "owner_run", "owner_stage"),
            *("owner_item", "fence", "state", "lease_until", "expires_at", "keep_seconds"),
        ),
        _KEYS,
    ),
}
"""By table and column, why the history does not cover it. A column is here or in :data:`COVERED`, never in neither."""

OF_RUN = tuple(name for name, how in COVERED["stageflow_runs"].items() if how in (How.SAID, How.SEALED))
INPUTS = "inputs"
"""How the event that opened a stage's items names what was given to them."""

SEALED = frozenset({"error", "reason", "delta", "payload", "content", "arguments", "result", INPUTS})
"""Columns of which events hold a code."""

FRESH_RUN: Mapping[str, Any] = {
    **dict.fromkeys(OF_RUN),
    "phase": Phase.FORWARD.value,
    "status": RunStatus.PENDING.value,
    "op_version": 0,
    "pivot_passed": False,
    "past_pivot": False,
    "item_count": 0,
}
"""What the run's row holds where no event says otherwise; likewise the others, whose times are their event's."""

FRESH_ATTEMPT: Mapping[str, Any] = {
    "state": AttemptState.OK.value,
    "doubt": False,
    "kill_by": None,
    "error": None,
    "category": None,
    "delay": None,
}
FRESH_CHECKPOINT: Mapping[str, Any] = {"skipped": False, "saved_schema": 1, "delta": None}
FRESH_STEP: Mapping[str, Any] = {"state": StepState.INTENDED.value, "outcome": None, "error": None, "reason": None}


def attempt_row(direction: str, n: int, stage: str, item: int = 0) -> str:
    """How events name an attempt. The stage comes last: it may be any text."""
    return f"{_of_item('attempt', item)} {direction} {n} {stage}"


def checkpoint_row(stage: str, item: int = 0) -> str:
    """How events name a checkpoint."""
    return f"{_of_item('checkpoint', item)} {stage}"


def step_row(stage: str, item: int = 0) -> str:
    """How events name a saga step."""
    return f"{_of_item('step', item)} {stage}"


def signal_row(stage: str, item: int, n: int) -> str:
    """How events name a signal. The stage comes last, as for an attempt."""
    return f"{_of_item('signal', item)} {n} {stage}"


def approval_row(stage: str, item: int, n: int) -> str:
    """How events name what was to be approved. The stage comes last, as for an attempt."""
    return f"{_of_item('approval', item)} {n} {stage}"


def link_row(token: str) -> str:
    """How events name a link, by the hash of its token."""
    return f"link {token}"


def call_row(stage: str, item: int, call: str) -> str:
    """How events name a step of a stage. The stage comes last, as for an attempt."""
    return f"{_of_item('call', item)} {call} {stage}"


def items_row(stage: str) -> str:
    """How events name the items of a stage."""
    return f"items {stage}"


def inputs_text(inputs: Iterable[str]) -> str:
    """The inputs of a stage's items as one text, for its code. A separator cannot stand within one: each is JSON."""
    return "\x1e".join(inputs)


def given_by(text: str) -> list[str]:
    """The inputs of which :func:`inputs_text` made one text."""
    return text.split("\x1e")


def is_of_item(row: str) -> bool:
    """Whether events name a row of an item by this name."""
    return "#" in row.partition(" ")[0]


def _of_item(kind: str, item: int) -> str:
    """A kind of row, with the item that it is about; 0: none, as earlier releases name every row."""
    return f"{kind}#{item}" if item else kind


@lru_cache(maxsize=16)
def derived_key(key: bytes, purpose: str) -> bytes:
    """A key for one purpose: what is signed for one can never pass for another."""
    return bytes.fromhex(code(key, f"stageflow {purpose}".encode()))


def value_code(key: bytes, run: str, row: str, column: str, text: str) -> str:
    """The code of one value at its place."""
    message = f"{run}\x1f{row}\x1f{column}\x1f{text}".encode("utf-8", "surrogatepass")
    return code(derived_key(key, "values"), message)[:CODE_DIGITS]


def given_code(key: bytes, run: str, values: Sequence[Any]) -> str:
    """The code of all that a run was given: its columns in the order of :data:`GIVEN`."""
    client, pipeline, run_key, fingerprint, given, schema, metadata, queue, priority = values
    # Their lengths come first: no text of one can pass for a text of the next.
    own = -1 if run_key is None else len(run_key)
    lengths = f"{len(client)},{len(pipeline)},{own},{len(fingerprint)},{len(given)},{schema},{len(metadata)},{priority}"
    text = f"{lengths}:{client}{pipeline}{run_key or ''}{fingerprint}{given}{metadata}{queue}"
    return value_code(key, run, RUN, "given", text)


def given_anew(key: bytes, run: Any, columns: Mapping[str, Any]) -> dict[str, str]:
    """What an event says of a run's row whose given columns are erased: their code from now on. Empty while they stay.
    ``run``: its row before; ``columns``: what is written to it.
    """
    if columns.keys().isdisjoint(GIVEN):
        return {}
    now = run._replace(**columns)
    return {"given": given_code(key, run.id, [getattr(now, name) for name in GIVEN])}


def tombstone_code(key: bytes, row: Mapping[Any, Any]) -> str:
    """The code of what is left of a pruned run: nobody without the key can make one to cover a deletion."""
    message = write_json([row[name] for name in _TOMB if name != "mac"])
    return code(derived_key(key, "tombstones"), message.encode())


def shown(key: bytes, run: str, row: str, column: str, value: Any) -> Any:
    """A column's value as events hold it: itself, or its code."""
    if value is None:
        return None
    if column in SEALED:
        return value_code(key, run, row, column, value)
    if isinstance(value, Enum):
        return value.value
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def said(key: bytes, run: str, row: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of a row as events hold them."""
    return {name: shown(key, run, row, name, value) for name, value in columns.items()}


def is_by_body(data: Mapping[str, Any]) -> bool:
    """Whether a stage's body asked for the event of this data."""
    return data.get(ORIGIN) == BODY
