"""``python -m tests.benchmarks.raw_loop``: the physical limit, one process of it.

It commits what our stages commit, the same rows of the same tables with the same indexes and constraints, in one
prepared statement a stage; it decides nothing, checks nothing, encodes nothing and knows what every row will say.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.benchmarks.pipelines import PAD

_RUN = (
    "UPDATE stageflow_runs SET seq = %(seq)s, head = %(mac)s, updated_at = %(at)s{more} WHERE id = %(run)s RETURNING id"
)
_STRAND = "UPDATE stageflow_strands SET {set} FROM r WHERE run = %(run)s AND run = r.id"
_ENDED = (
    "INSERT INTO stageflow_attempts (run, stage, direction, n, owner, state, began_at, ended_at) "
    "SELECT id, %(stage)s, 'forward', 1, %(me)s, 'ok', %(at)s, %(at)s FROM r"
)
_SAVED = "INSERT INTO stageflow_checkpoints (run, stage, delta, at) SELECT id, %(stage)s, %(delta)s, %(at)s FROM r"
_EVENT = "SELECT id, %(seq)s - {before}, '{type}', %(at)s, %(data)s, %(mac)s, %(mac)s FROM r"
_EVENTS = "INSERT INTO stageflow_events (run, seq, type, at, data, previous, mac) "
_ALIVE = (
    "state = 'running', owner = %(me)s, stage = %(next)s, attempt = 1, published_at = NULL, began_at = %(at)s, "
    "kill_by = %(at)s + 60"
)


def _statement(run: str, strand: str, *parts: str, events: tuple[str, ...]) -> str:
    told = " UNION ALL ".join(_EVENT.format(before=len(events) - 1 - n, type=kind) for n, kind in enumerate(events))
    all_parts = (_STRAND.format(set=strand), *parts)
    named = ", ".join(f"p{number} AS ({part})" for number, part in enumerate(all_parts))
    return f"WITH r AS ({_RUN.format(more=run)}), {named} {_EVENTS} {told}"


BEGIN = _statement(", status = 'running'", _ALIVE, events=("stage.begun",))
GRANT = _statement(", status = 'running'", _ALIVE, _ENDED, _SAVED, events=("stage.ok",))
FINISH = _statement(
    ", phase = 'settled', status = 'succeeded', finished_at = %(at)s",
    "state = 'done', owner = NULL",
    _ENDED,
    _SAVED,
    events=("stage.ok", "run.succeeded"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction: its statement and the values that are its own."""

    sql: str
    values: dict[str, Any]


def steps(length: int) -> Iterator[Step]:
    """The transactions of a run of that many stages; its first event is already there."""
    yield Step(BEGIN, {"seq": 2, "next": "s0"})
    for number in range(1, length):
        yield Step(GRANT, {"seq": 2 + number, "stage": f"s{number - 1}", "next": f"s{number}"})
    yield Step(FINISH, {"seq": 3 + length, "stage": f"s{length - 1}", "next": None})


def main(url: str, length: int) -> None:
    """Say that we are ready, read the ids of runs from the input, carry them, end."""
    common = {
        "me": "raw",
        "at": 1.0,
        "mac": "0" * 64,
        "data": json.dumps({"attempt": 1, "owner": "raw", "stage": "s0"}),
        "delta": json.dumps({"pad": "x" * PAD}),
    }
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT 1")
        print("ready", flush=True)
        for run in json.loads(sys.stdin.readline()):
            for step in steps(length):
                connection.execute(step.sql, {**common, **step.values, "run": run}, prepare=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
