"""Situations of one run, and the transactions that may meet in each: what the stepped suite plays in pairs and triples.

A transaction is written as its name and what it is about: ``"begin a me"``, ``"succeed l on"``, ``"settle b done"``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import Double

from stageflow_durable.model.work import Done, Fenced, Nudge, Refused, Work
from stageflow_durable.state.metadata import metadata
from stageflow_durable.state.tables import definitions
from stageflow_durable.store.values import Created
from tests.protocol.invariants import SeenInSql, Watch, the_chain_is_unbroken
from tests.protocol.moves import TRANSACTIONS, World
from tests.protocol.situations import Situation
from tests.protocol.stepping import Act

RUN, KEY = "R", "key"
_TABLES = [table for table in metadata.sorted_tables if table.name != definitions.name]
_EMPTY = ";".join(f"DELETE FROM {table.name}" for table in reversed(_TABLES))
_SEALS = {"head", "previous", "mac", "digest"}
_DRAWN = {"position"}
"""Numbers of a sequence: what is rolled back has drawn its own."""


def _look() -> str:
    """Everything but the times and what is computed from them, as one text."""
    parts = []
    for table in _TABLES:
        columns = ",".join(
            f"{column.name} IS NULL AS {column.name}" if isinstance(column.type, Double) else column.name
            for column in table.columns
            if column.name not in _SEALS | _DRAWN
        )
        keys = ",".join(column.name for column in table.primary_key)
        parts.append(
            f"coalesce((SELECT string_agg('{table.name} ' || row_to_json(t), E'\\n' ORDER BY {keys})"
            f" FROM (SELECT {columns} FROM {table.name}) t), '')"
        )
    return f"SELECT concat_ws(E'\\n', {','.join(parts)})"


_LOOK = _look()


@dataclass
class Scene:
    """A situation that was brought about once and is set up anew before each play."""

    situation: Situation
    world: World
    url: str
    serial: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    _checked: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        with self._connection.transaction():
            self._connection.execute(f'CREATE SCHEMA "{self._room}"')
            for table in _TABLES:
                self._connection.execute(f'CREATE TABLE "{self._room}".{table.name} AS TABLE public.{table.name}')
        self.world.watch.check()
        copies = (f'INSERT INTO {table.name} SELECT * FROM "{self._room}".{table.name}' for table in _TABLES)
        self._again = f"BEGIN;{_EMPTY};{';'.join(copies)};COMMIT"

    @property
    def _room(self) -> str:
        return f"scene_{self.situation.name}"

    @cached_property
    def _connection(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True)

    def act(self, name: str) -> Act:
        """The transaction of that name."""
        verb, *about = name.split()
        return TRANSACTIONS[verb](self.world, *about)

    def set_up(self) -> None:
        """As it was."""
        self._connection.execute(self._again)

    def check(self) -> str:
        """Every invariant holds, now; how it stands. What looks the same was looked at before."""
        seen = self.look()
        if seen not in self._checked:
            Watch(SeenInSql(self.world.database)).check()
            self._checked.add(seen)
        assert self.broken_chain() == []
        return seen

    def watch(self) -> Watch:
        """Has seen the situation, and nothing since."""
        return copy(self.world.watch)

    def broken_chain(self) -> list[str]:
        """What is wrong with the seals: the one thing that is not seen in :meth:`look`."""
        rows = self._connection.cursor(row_factory=dict_row)
        # Those of items are looked at with the rest.
        events = rows.execute("SELECT * FROM stageflow_events WHERE item = 0 ORDER BY run, seq").fetchall()
        found = rows.execute("SELECT id, seq, head, erased_at FROM stageflow_runs").fetchall()
        return [
            what
            for run in found
            for what in the_chain_is_unbroken(
                SimpleNamespace(run=run, events=[event for event in events if event["run"] == run["id"]])  # type: ignore[arg-type]  # it looks at no more
            )
        ]

    def look(self) -> str:
        """How it stands."""
        found = self._connection.execute(_LOOK).fetchone()
        assert found is not None
        return re.sub("[0-9a-f]{64}", "", str(found[0]))  # what an event says of codes

    def close(self) -> None:
        """Close its connections."""
        self._connection.close()
        self.world.close()


def brought_about(situation: Situation, url: str) -> Scene:
    """The situation, in an emptied database."""
    with psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True) as connection:
        connection.execute(_EMPTY)
    world = World(url)
    situation.make(world)
    facts = world.store.facts(RUN)
    assert facts is not None
    world.op_version = facts.op_version
    return Scene(situation, world, url)


def told(answer: Any) -> str:
    """An answer without times."""
    if isinstance(answer, Exception):
        return type(answer).__name__
    if type(answer) is tuple:  # nudges, or ids
        return f"({', '.join(sorted(map(_without_code, answer)))})"
    tell = _TELL.get(type(answer), str)
    return tell(answer)


def _without_code(one: Any) -> str:
    """A nudge without the code that its hint names, which seals times, too; whatever else it is, as it is."""
    if isinstance(one, Nudge) and one.hint is not None:
        return str(one._replace(hint=one.hint._replace(head="")))
    return str(one)


_TELL: dict[type, Callable[[Any], str]] = {
    Work: lambda work: f"{work.stage} {work.direction} #{work.attempt} on {work.strand} {work.gen}, seq {work.seq}",
    Done: lambda done: f"done, granted {told(done.granted)}, {told(done.nudges)}, ended {done.ended}",
    Refused: lambda refused: f"{refused.why} {told(refused.nudges)}",
    Created: lambda created: f"{created.run_id} {'replayed' if created.replayed else 'new'}",
}


def won(answer: Any) -> bool:
    """Whether it did what it was for."""
    return not isinstance(answer, Exception | Refused | Fenced) and answer is not None and answer is not False
