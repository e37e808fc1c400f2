"""What each transaction of the protocol changes, in each situation: recorded, so that a redesign shows where it
differs.

``python -m tests.protocol.golden`` prints the record; ``make golden`` saves it.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import select

from stageflow_durable.errors import StageflowError
from stageflow_durable.state.clock import now
from stageflow_durable.state.metadata import metadata
from stageflow_durable.state.schema import upgrade
from stageflow_durable.state.store import SqlStore
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED
from tests.protocol.moves import RUN, TRANSACTIONS, World
from tests.protocol.scenes import told
from tests.protocol.situations import SITUATIONS

FILE = Path(__file__).with_name("golden_changes.json")

Changed = dict[str, Any]
Rows = dict[tuple[str, str], dict[str, Any]]

_UNTOLD = {"definitions", "digests", "ticks"}
_UNSHOWN = {"head", "previous", "mac", "digest", "position"}  # seals of times; a number of the database's sequence
_MARK = re.compile(r'("audit\.erased":")[0-9a-f]{64}')  # it covers codes, which seal times
_A_TIME = 1e9  # seconds since the epoch; durations are smaller


def record(url: str, situation: str, act: str, *, optimistic: bool) -> Changed:
    """What ``act`` changes in an emptied database where ``situation`` was brought about: its answer, and each row that
    is new, gone or different, with the columns that differ.
    """
    world = World(url)
    try:
        SITUATIONS[situation].make(world)
        facts = world.store.facts(RUN)
        assert facts is not None
        world.op_version = facts.op_version
        verb, *about = act.split()
        transaction = TRANSACTIONS[verb](world, *about)
        before = _look(world)
        store = SqlStore(world.database, optimistic=optimistic, hints=False)
        try:
            answer = transaction(store)
        except StageflowError as refused:
            answer = refused
        finally:
            store.close()
        return {"answer": _named(told(answer), world), "rows": _difference(before, _look(world))}
    finally:
        world.close()


def _look(world: World) -> Rows:
    """Every row by table and key."""
    found: Rows = {}
    with world.database.transaction() as connection:
        clock = connection.execute(select(now())).scalar_one()
        for table in metadata.sorted_tables:
            name = table.name.removeprefix("stageflow_")
            if name in _UNTOLD:
                continue
            keys = [column.name for column in table.primary_key]
            for row in connection.execute(select(table)).mappings():
                shown = {column: _shown(value, clock, world) for column, value in row.items() if column not in _UNSHOWN}
                found[name, "/".join(str(shown[key]) for key in keys)] = shown
    return found


def _shown(value: Any, clock: float, world: World) -> Any:
    """A value without what differs from one recording to the next: times are told from now, in tens of seconds."""
    if value == UNTIL_CONFIRMED:
        return "until confirmed"
    if isinstance(value, float) and value >= _A_TIME:
        return f"now{round((value - clock) / 10) * 10:+}s" if abs(value - clock) >= 5 else "now"
    return _named(value, world) if isinstance(value, str) else value


def _named(text: str, world: World) -> str:
    for name, owner in world.owners.items():
        text = text.replace(owner, f"<{name}>")
    return _MARK.sub(r"\1<mark>", text)


def _difference(before: Rows, after: Rows) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key in sorted(before.keys() | after.keys()):
        was, became = before.get(key), after.get(key)
        if was == became:
            continue
        label = " ".join(key)
        if was is None or became is None:
            changed[f"{'+' if was is None else '-'} {label}"] = became or was
        else:
            changed[f"= {label}"] = {name: value for name, value in became.items() if value != was[name]}
    return changed


def record_all(template: Path) -> Iterator[tuple[str, str, Changed]]:
    """Every act of every situation, each in a copy of a migrated, empty file."""
    with tempfile.TemporaryDirectory() as home:
        for name, situation in SITUATIONS.items():
            for act in situation.acts:
                file = Path(home) / "golden.db"
                for old in Path(home).iterdir():
                    old.unlink()
                shutil.copy(template, file)
                yield name, act, record(f"sqlite:///{file}", name, act, optimistic=False)


def main() -> None:
    """Print the record."""
    with tempfile.TemporaryDirectory() as home:
        template = Path(home) / "empty.db"
        upgrade(f"sqlite:///{template}")
        recorded: dict[str, dict[str, Changed]] = {}
        for situation, act, changed in record_all(template):
            recorded.setdefault(situation, {})[act] = changed
    json.dump(recorded, sys.stdout, indent=1, sort_keys=True)
    print()


if __name__ == "__main__":
    main()
