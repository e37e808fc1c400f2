"""The table of faults says what is true: every fault is in it, every test that it names exists, the page shows it."""

from __future__ import annotations

import ast

import pytest

from tests.chaos.faults import FAULTS, table
from tests.project.tree import ROOT

PAGE = ROOT / "docs" / "explanation" / "chaos.md"
NAMED = sorted({test for fault in FAULTS for test in fault.tests})


def test_every_fault_is_in_the_table_once() -> None:
    assert [fault.number for fault in FAULTS] == list(range(1, 63))


def test_each_fault_has_a_test_or_says_why_not() -> None:
    assert [fault.number for fault in FAULTS if not fault.tests and not fault.rest] == []


@pytest.mark.parametrize("named", NAMED)
def test_a_test_that_the_table_names_exists(named: str) -> None:
    file, _, test = named.partition("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert test in there if test else any(name.startswith("test_") for name in there)


def test_the_page_shows_the_table_as_it_is() -> None:
    assert table() in PAGE.read_text(encoding="utf-8"), "python -m tests.chaos.faults prints the table"
