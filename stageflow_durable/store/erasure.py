"""What goes when a run's values are erased, and what its history keeps: one list for every store, and for the audit.

An event keeps its number, type, time, code and the code before it, so that the chain stays whole; of its data it keeps
what says where the run was, and loses what people wrote or values say. Its own code covers the data that are gone, so
whoever erases puts a *mark* beside what is left: a code over all of it, by the audit key. See ADR 0050.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stageflow_durable.codec.writing import write_json
from stageflow_durable.idempotency.rules import ERASED_RESULT
from stageflow_durable.store.audit import code
from stageflow_durable.store.vouched import AUDIT, BODY, ORIGIN, derived_key
from stageflow_durable.transitions.operate import NOTHING

Row = Mapping[Any, Any]

ERASE = "operator.erase"
"""The event that says that a run's values were erased."""

MARK = "audit.erased"
"""The field of an event's data that says that the rest of it was erased. It comes first."""

BLANK: Mapping[str, Mapping[str, Any]] = {
    "strands": {"progress": None},
    "attempts": {"error": None, "trace": None, "log": None},
    "checkpoints": {"delta": None},
    "saga_steps": {"error": None, "reason": None},
    "signals": {"fingerprint": "", "payload": NOTHING, "reason": ""},
    "approvals": {"content": NOTHING, "digest": "", "reason": None},
    "items": {"input": NOTHING},
}
"""By table, the columns of a run's rows that are erased, and what stands there afterwards."""

DELETED = ("attributes", "calls")
"""Tables of which a run's rows go whole: what it is found by, and saved steps, whose names are digests of arguments."""

_OF_KIND = {"run": "runs", "attempt": "attempts", "checkpoint": "checkpoints", "step": "saga_steps"}
_OF_KIND |= {"signal": "signals", "approval": "approvals", "items": "items"}
_ALSO = {"runs": frozenset({"given", "error"}), "items": frozenset({"inputs"})}

_STRUCTURE = frozenset(
    (
        *(
            "stage",
            "attempt",
            "item",
            "items",
            "first",
            "groups",
            "strand",
            "owner",
            "then",
            "undo",
            "of",
            "to",
            "copied",
        ),
        *("pipeline", "version", "definition", "client_id", "operation", "run", "parent"),
        *("cause", "park_reason", "category", "doubt", "state", "done", "failed", "kept", "on_timeout", "waiting_for"),
        *("delay", "until", "seconds", "deadline", "signal", "approval", "link", "host", "pid"),
        *("actor", "authenticated", "requesters", "confirmed_by", "past_pivot"),
    )
)
"""Fields of the engine's own events that stay: each is a word, a number or a name of the engine's, a key, or who acted.
What is not here goes: a field that is added later is erased until somebody has thought about it.
"""
_ALSO_OF = {"joined": "digest", "accepted": "key", "received": "key"}
_ALSO_OF |= dict.fromkeys(("idempotency_hit", "idempotency_mismatch", "idempotency_conflict"), "key")
"""By the last word of an event's type a field that stays there: elsewhere the same name may say a value."""
_OF_A_BODY = frozenset({ORIGIN, "stage", "attempt"})
_MARKED = re.compile(r'\{"' + re.escape(MARK) + r'":"([0-9a-f]{64})"(?:,(.*))?\}', re.DOTALL)


def without_values(key: bytes, event: Row) -> str:
    """The data of an event, as text, without what is erased, and marked."""
    data = json.loads(event["data"])
    structure, also = _STRUCTURE, _ALSO_OF.get(event["type"].rpartition(".")[2])
    if data.get(ORIGIN) == BODY:
        structure, also = _OF_A_BODY, None
    kept = {name: value for name, value in data.items() if name in structure or name == also}
    if AUDIT in data:
        kept[AUDIT] = {name: _said(name, row) for name, row in data[AUDIT].items() if _kind(name) != "call"}
    if kept == data:  # it says nothing but structure: its own code goes on to fit
        return str(event["data"])
    left = write_json(kept)[1:-1]
    return f'{{"{MARK}":"{_mark(key, event, left)}"{"," if left else ""}{left}}}'


def _said(name: str, columns: Row) -> dict[str, Any]:
    """What an event says of a row, without the codes of what is erased: who has the key could guess by them."""
    table = _OF_KIND.get(_kind(name), "")
    gone = BLANK.get(table, {}).keys() | _ALSO.get(table, frozenset())
    return {column: value for column, value in columns.items() if column not in gone}


def _kind(name: str) -> str:
    """Of which kind is the row that events call by this name."""
    return name.partition(" ")[0].partition("#")[0]


def is_marked(data: str) -> bool:
    """Whether an event's data says that it was erased: for people, since a body may note what looks so."""
    return _MARKED.fullmatch(data) is not None


def mark_fits(keys: Sequence[bytes], event: Row) -> bool:
    """Whether the engine erased the event's data: nobody without the key can make the mark."""
    found = _MARKED.fullmatch(event["data"])
    return found is not None and any(_mark(key, event, found[2] or "") == found[1] for key in keys)


def _mark(key: bytes, event: Row, left: str) -> str:
    whose = f"{event['run']}#{event['item']}"
    said = (whose, str(event["seq"]), event["type"], repr(event["at"]), event["previous"], event["mac"], left)
    return code(derived_key(key, "erasure"), "\x1f".join(said).encode())


def held_again(parts: Mapping[str, Sequence[Row]], keys: Sequence[Row]) -> Iterator[str]:
    """Values that stand in the rows of a run whose values were erased: somebody wrote them there. ``parts``: its rows
    by table; ``keys``: business keys that it finished.
    """
    for table, blank in BLANK.items():
        for row in parts.get(table, ()):
            for column, nothing in blank.items():
                if row[column] != nothing:
                    yield f"a row of {table} ({row.get('stage', '')}): {column} holds a value, its run was erased"
    for row in keys:
        if row["result"] != ERASED_RESULT:
            yield f"business key {row['key']!r}: its result holds a value, its run was erased"
