"""Each table is written in few modules, and it is known which: whoever changes what a table means looks there.

Found by the syntax tree: calls of ``insert``, ``update`` and ``delete`` (also as methods of a dialect), and statements
that stand as text. Migrations write everything, once.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from stageflow_durable.state import idempotency_keys, tables
from stageflow_durable.state.metadata import PREFIX
from stageflow_durable.transitions.change import Table
from tests.project.tree import PACKAGE, modules, parsed

METADATA = tables.runs.metadata
assert idempotency_keys.idempotency_keys.metadata is METADATA
STATE = PACKAGE / "state"
VERBS = frozenset({"insert", "update", "delete", "insert_for"})
OF_RUNS = frozenset(table.value for table in Table)

DYNAMIC = {
    "apply.py": OF_RUNS,
    "at_once.py": OF_RUNS,
    "batch.py": frozenset({"runs", "strands", "events", "attributes"}),
    "of_items.py": frozenset({"items", "item_groups", "strands"}),
    "retention.py": OF_RUNS | {"events", "attributes"},
    "erasure.py": frozenset({"strands", "attempts", "checkpoints", "saga_steps", "signals", "approvals", "items"})
    | {"attributes", "calls"},
    "dialect.py": frozenset[str](),  # makes an insertion for whoever asks
}
"""Modules that write tables which a variable names, and which those are."""

DECIDED = {"apply.py", "at_once.py"}
"""They write what a transition decided: under the run's lock, and without."""

TIMES = {"recovery.py", "handed_back.py", "moved.py", "progress.py"}
"""They write what nobody decides on: when a strand is offered again, and what a stage shows of its progress. A decision
would cost each an event; see ``docs/explanation/protocol.md``."""

APART = {"retention.py", "erasure.py"}
"""They take things away from runs that have ended."""

WRITTEN_IN: dict[str, set[str]] = {
    "runs": DECIDED | {"batch.py", "awaited.py"},  # a thousand new runs in one statement; whom to tell
    "strands": DECIDED | {"batch.py", "of_items.py"} | TIMES,
    "attempts": DECIDED,
    "checkpoints": DECIDED,
    "saga_steps": DECIDED,
    "events": DECIDED | {"batch.py"},
    "owners": {"owners.py"},
    "profiles": {"roster.py"},
    "definitions": {"definitions.py"},
    "queues": {"queues.py"},
    "sinks": {"sinks.py"},
    "ticks": {"recovery.py"},
    "tombstones": set(),
    "attributes": DECIDED | {"batch.py"},
    "signals": DECIDED,
    "links": DECIDED,
    "calls": DECIDED,
    "approvals": DECIDED,
    "limits": {"slots.py"},
    "pools": {"slots.py"},
    "slots": {"slots.py"},
    "items": {"of_items.py"},  # called by apply alone: many at once, as a change says
    "item_groups": {"of_items.py"},
    "idempotency_keys": {"idempotency_keys.py", "idempotency_leases.py"},  # one kind of holder each
}
"""By table; aside from retention, which deletes from all of them, and from erasure, which blanks what it lists."""


def test_each_table_is_written_where_it_is_said_and_nowhere_else() -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for module in modules("stageflow_durable"):
        if "migrations" not in module.parts and module.name not in APART:
            for table in _written(module):
                found[table].add(module.name if module.parent == STATE else str(module))
    assert {table: found[table] for table in WRITTEN_IN} == WRITTEN_IN
    assert {name.removeprefix(PREFIX) for name in METADATA.tables} == WRITTEN_IN.keys()


def test_a_write_that_names_no_table_is_of_a_module_that_is_known_for_it() -> None:
    dynamic = {module.name for module in modules("stageflow_durable") if None in _tables_of(module)}
    assert dynamic == DYNAMIC.keys()


def test_no_statement_that_writes_stands_as_text() -> None:
    writes = re.compile(rf"\b(INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+{PREFIX}", re.IGNORECASE)
    texts = [
        (module.name, node.value)
        for module in modules("stageflow_durable")
        if "migrations" not in module.parts
        for node in ast.walk(parsed(module))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and writes.search(node.value)
    ]
    assert texts == []


def _written(module: Path) -> set[str]:
    tables = _tables_of(module)
    return {table for table in tables if table is not None} | (DYNAMIC[module.name] if None in tables else set())


def _tables_of(module: Path) -> set[str | None]:
    """The tables that a module writes; None: one that a variable names."""
    if "migrations" in module.parts or "sqlalchemy" not in module.read_text(encoding="utf-8"):
        return set()
    known = dict(_imported(module))
    return {known.get(ast.unparse(written)) for written in _targets(module)}


def _targets(module: Path) -> Iterator[ast.expr]:
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Call) and node.args:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in VERBS and not (isinstance(node.func, ast.Attribute) and name in ("update", "delete")):
                yield node.args[-1] if name == "insert_for" else node.args[0]


def _imported(module: Path) -> Iterator[tuple[str, str]]:
    """How a module calls the tables: what it imports, and what it calls that."""
    names = {name.removeprefix(PREFIX): name for name in METADATA.tables}
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("stageflow_durable.state"):
            for one in node.names:
                if one.name in names:
                    yield one.asname or one.name, one.name
                if one.name == "tables":
                    yield from ((f"tables.{name}", name) for name in names)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            for name in names:
                if ast.unparse(node.value) == f"tables.{name}" or _is_table(node.value, name):
                    yield node.targets[0].id, name


def _is_table(value: ast.expr, name: str) -> bool:
    """Whether it makes the table: ``Table("stageflow_…", metadata, …)``."""
    made = isinstance(value, ast.Call) and ast.unparse(value.func) == "Table" and value.args
    return bool(made) and isinstance(value.args[0], ast.Constant) and value.args[0].value == PREFIX + name  # type: ignore[attr-defined]  # it is a call
